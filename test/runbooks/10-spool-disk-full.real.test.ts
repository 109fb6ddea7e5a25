import { randomBytes } from "node:crypto";
import { readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter, type Submitted } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";

const limit = 2_000_000;
/** Left free on the file system: less than the 1.5 times the largest message that Postfix wants. */
const left = 2_500_000;

/** An instance on a small file system that a log has filled. */
class FullDisk implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  readonly letters: readonly Submitted[];

  private constructor(site: Site, sink: Sink, postfix: PrivatePostfix, letters: readonly Submitted[]) {
    this.site = site;
    this.sink = sink;
    this.postfix = postfix;
    this.letters = letters;
  }

  /** @param large how many of the deferred messages are large; as many small ones are there, one of them held */
  static async make(large: number): Promise<FullDisk> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "good.test": { rcpt: "450 4.2.0 try later" } } });
    const main = { message_size_limit: String(limit) };
    const postfix = await PrivatePostfix.start({ sink, tmpfs: "32m", main });
    const sizes = Array.from({ length: 2 * large }, (_, n) => (n < large ? 1_500_000 : 500));
    const letters = await postfix.submit(
      sizes.map((size, n) => plainLetter({ recipients: [`a${n}@good.test`], size })),
      1,
    );
    await postfix.settled();
    await postfix.hold(letters.slice(-1).map(({ queueId }) => queueId));
    const disk = new FullDisk(site, sink, postfix, letters);
    disk.fill();
    return disk;
  }

  fill(): void {
    writeFileSync(this.filler, randomBytes(this.free - left));
  }

  get filler(): string {
    return join(this.postfix.directory, "log", "debug.log");
  }

  get free(): number {
    const { bavail, bsize } = statfsSync(this.postfix.directory);
    return bavail * bsize;
  }

  get scene(): SceneOptions {
    const set = {
      ...{ MAIL_LOG: this.postfix.logFile, SMTP: `127.0.0.1/${this.postfix.port}` },
      SPOOLSAFE_IDENTITY_FILE: join(this.site.directory, "identity.txt"),
    };
    return { postfix: this.postfix, config: this.site.configure([this.postfix]), set };
  }

  get main(): string {
    return readFileSync(join(this.postfix.configDirectory, "main.cf"), "utf8");
  }

  /** Whether mail is accepted: 452 with too little room. */
  async accepts(): Promise<Submitted[]> {
    return await this.postfix.submit([plainLetter({ recipients: ["new@good.test"] })]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

describeRunbook("10-spool-disk-full", (scenes) => {
  test("where a log has filled the disk, no mail is touched", { timeout: 120_000 }, async () => {
    await using disk = await FullDisk.make(1);
    const { postfix, sink, main } = disk;
    await expect(disk.accepts()).rejects.toThrow("452");
    const start = await StartState.of(postfix, { letters: disk.letters, sink });
    const run = await scenes.run({
      ...disk.scene,
      answers: {
        ...{ "free-room": "removed the debug log", backup: "skip: there is room", hold: "skip: there is room" },
        ...{ delete: "skip: there is room", grow: "skip: nothing was moved", "bring-back": "skip: nothing was moved" },
      },
      beforeAction: async (step) => {
        if (step === "free-room") rmSync(disk.filler);
      },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 4, skipped: 5 });
    start.expectRestored();
    await start.expectKept(run);
    expect(disk.main).toBe(main);
    expect(await disk.accepts()).toHaveLength(1);
  });

  test("where nothing else can be freed, large mail waits in a snapshot", { timeout: 240_000 }, async () => {
    await using disk = await FullDisk.make(4);
    const { postfix, sink, main, letters } = disk;
    await expect(disk.accepts()).rejects.toThrow("452");
    const start = await StartState.of(postfix, { letters, sink });
    const scene = { ...disk.scene, answers: { "free-room": "skip: nothing to remove", grow: "removed the debug log" } };

    const half = await scenes.run({ ...scene, until: "open" });
    expect(half.error).toBeUndefined();
    expect(postfix.counts()).toMatchObject({ deferred: 3, hold: 1 });
    // What was moved out needs its room again.
    rmSync(disk.filler);
    await scenes.undo(half);
    expect({ lost: start.lost(), doubled: start.doubled(), main: disk.main }).toEqual({ lost: [], doubled: [], main });

    disk.fill();
    const run = await scenes.run({
      ...scene,
      beforeAction: async (step) => {
        if (step === "grow") expect((await disk.accepts()).length).toBe(1);
        if (step === "grow") rmSync(disk.filler);
      },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 8, skipped: 1 });
    expect(disk.main).toBe(main);
    sink.set("good.test", {});
    await allTried(postfix);
    await start.expectKept(run);
    expect(letters.slice(0, 4).map(({ messageId }, n) => sink.count(messageId, `a${n}@good.test`))).toEqual([
      1, 1, 1, 1,
    ]);
  });
});
