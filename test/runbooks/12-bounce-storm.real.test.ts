import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

/** A queue full of notices to strangers, with mail of users and an administrator's hold among them. */
class Storm implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  readonly start: StartState;
  /** To forged.test, which is away. */
  readonly notices: readonly Submitted[];
  /** To fresh.test, where they are taken once the source is stopped. */
  readonly fresh: readonly Submitted[];

  private constructor(
    places: { site: Site; sink: Sink; postfix: PrivatePostfix },
    start: StartState,
    notices: readonly Submitted[],
    fresh: readonly Submitted[],
  ) {
    this.site = places.site;
    this.sink = places.sink;
    this.postfix = places.postfix;
    this.start = start;
    this.notices = notices;
    this.fresh = fresh;
  }

  static async make(): Promise<Storm> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "fresh.test": { rcpt: "450 4.2.0 try later" } } });
    const postfix = await PrivatePostfix.start({ sink });
    const notices = await postfix.submit(lettersTo("forged.test", 12, ""));
    const fresh = await postfix.submit(lettersTo("fresh.test", 6, ""));
    const mail = await postfix.submit(lettersTo("elsewhere.test", 3, "user@src.test"));
    const held = await postfix.submit(lettersTo("forged.test", 1, ""));
    await postfix.settled();
    await postfix.hold(held.map(({ queueId }) => queueId));
    const letters = [...notices, ...fresh, ...mail, ...held];
    const start = await StartState.of(postfix, { letters, sink });
    return new Storm({ site, sink, postfix }, start, notices, fresh);
  }

  get keep(): string {
    return join(this.site.directory, "keep.ids");
  }

  get scene(): SceneOptions {
    return {
      postfix: this.postfix,
      config: this.site.configure([this.postfix]),
      // All of this storm is as new as the test: what counts is that less of it is left.
      set: { MATCH: "@forged[.]test$", QUIET: "3600", MOST: "15", KEEP: this.keep, REASON: "backscatter of a test" },
      answers: { "stop-source": "yes", judge: "yes" },
      beforeAction: (step) => this.byHand(step),
    };
  }

  get held(): string[] {
    return this.postfix.files("hold").map((path) => basename(path));
  }

  private async byHand(step: string): Promise<void> {
    if (step === "judge") writeFileSync(this.keep, `${this.notices[0]?.queueId}\n`);
    if (step !== "stop-source") return;
    this.sink.set("fresh.test", {});
    for (const { queueId } of this.fresh) await this.postfix.wake(queueId);
    await until(() => this.sink.deliveries.length === this.fresh.length, { what: "the end of the fresh notices" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

function lettersTo(domain: string, count: number, sender: string) {
  return Array.from({ length: count }, (_, n) => plainLetter({ sender, recipients: [`a${n}@${domain}`] }));
}

describeRunbook("12-bounce-storm", (scenes) => {
  test("notices nobody needs are deleted by id, all else stays", { timeout: 180_000 }, async () => {
    await using storm = await Storm.make();
    const { postfix, start, notices } = storm;
    const main = readFileSync(join(postfix.configDirectory, "main.cf"), "utf8");

    // As far as the queue and the configuration are changed, and all of it back.
    const half = await scenes.run({ ...storm.scene, until: "backup" });
    expect(half.error).toBeUndefined();
    expect(storm.held).toHaveLength(13);
    await start.expectKept(half);
    await scenes.undo(half);
    expect(storm.held).toHaveLength(1);
    expect(readFileSync(join(postfix.configDirectory, "main.cf"), "utf8")).toBe(main);
    await start.expectKept(half);

    const run = await scenes.run({
      ...storm.scene,
      holdsBefore: { "stop-source": "it was stopped the first time" },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 8, skipped: 0 });
    const [kept, ...deleted] = notices;
    const gone = deleted.flatMap(({ messageId, recipients }) => recipients.map((address) => `${messageId} ${address}`));
    await start.expectKept(run, { gone });
    expect(start.lost(), "deleted").toEqual(gone);
    expect(storm.held).toHaveLength(1);
    expect(postfix.find(kept?.queueId ?? "")).toBeDefined();
    expect(readFileSync(join(run.found.directory, "work", "reason.txt"), "utf8")).toBe("backscatter of a test\n");
    expect(await postfix.postconf("bounce_queue_lifetime")).toBe("1d");
  });
});
