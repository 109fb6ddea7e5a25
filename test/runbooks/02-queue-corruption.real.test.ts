import { chmodSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import type { Submitted } from "../support/smtp.ts";
import { allTried } from "../support/undelivered.ts";

/** A queue in which a power loss has cut off, turned over and hidden files. */
class DamagedQueue implements AsyncDisposable {
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

  static async make(): Promise<DamagedQueue> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "good.test": { rcpt: "450 4.2.0 try later" } } });
    const postfix = await PrivatePostfix.start({ sink });
    const names = ["whole", "held", "cut", "turned", "unseen", "cut-unseen"];
    const saved = await submitTo(postfix, names);
    await postfix.hold(saved.slice(1, 2).map(({ queueId }) => queueId));
    await site.backup(postfix);
    const letters = [...saved, ...(await submitTo(postfix, ["lost"]))];
    return new DamagedQueue(site, sink, postfix, letters);
  }

  async damage(): Promise<void> {
    const [, , cut, turned, unseen, cutUnseen, lost] = this.letters.map(
      ({ queueId }) => this.postfix.find(queueId) ?? "",
    );
    for (const path of [cut, lost, cutUnseen]) truncateSync(path ?? "", statSync(path ?? "").size - 60);
    for (const path of [unseen, cutUnseen]) chmodSync(path ?? "", 0o600);
    const bytes = readFileSync(turned ?? "");
    bytes.writeUInt8(bytes.readUInt8(0) ^ 0xff, 0);
    writeFileSync(turned ?? "", bytes);
    // The queue manager meets this one, and puts it into corrupt/.
    await this.postfix.wake(basename(turned ?? ""));
    await until(() => this.postfix.counts().corrupt === 1, { what: "one damaged message in corrupt/" });
  }

  get scene(): SceneOptions {
    const set = {
      MAIL_LOG: this.postfix.logFile,
      SPOOLSAFE_IDENTITY_FILE: join(this.site.directory, "identity.txt"),
    };
    return { postfix: this.postfix, config: this.site.configure([this.postfix]), set };
  }

  isHeld(messageId: string): boolean {
    return this.postfix.files("hold").some((path) => readFileSync(path).includes(messageId));
  }

  get gone(): string[] {
    return this.letters.slice(6).map(({ messageId }) => `${messageId} lost@good.test`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

async function submitTo(postfix: PrivatePostfix, names: readonly string[]): Promise<Submitted[]> {
  const letters = await postfix.submit(names.map((name) => plainLetter({ recipients: [`${name}@good.test`] })));
  await postfix.settled();
  return letters;
}

describeRunbook("02-queue-corruption", (scenes) => {
  test("damaged mail comes back from a snapshot, hidden mail is seen again, the rest is listed", {
    timeout: 180_000,
  }, async () => {
    await using queue = await DamagedQueue.make();
    const { postfix, sink, letters } = queue;
    await queue.damage();
    const start = await StartState.of(postfix, { letters, sink });

    const half = await scenes.run({ ...queue.scene, until: "start" });
    expect(half.error).toBeUndefined();
    expect(postfix.counts()).toMatchObject({ deferred: 2, hold: 4, corrupt: 4 });
    await scenes.undo(half);
    expect(postfix.running()).toBe(true);
    // Started again, Postfix itself puts what it meets of the damaged files into corrupt/.
    const { hold, deferred, corrupt } = postfix.counts();
    expect({ hold, others: deferred + corrupt }).toEqual({ hold: 1, others: 6 });
    expect(postfix.files("deferred").filter((path) => (statSync(path).mode & 0o777) === 0o600)).toHaveLength(2);

    const run = await scenes.run(queue.scene);
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 10, skipped: 0 });
    sink.set("good.test", {});
    await allTried(postfix);
    await start.expectKept(run, { gone: queue.gone });
    expect(sink.deliveries.map(({ recipient }) => recipient).sort()).toEqual(
      ["cut-unseen", "turned", "unseen", "whole"].map((name) => `${name}@good.test`),
    );
    // The queue manager had begun with it, and its log has no outcome: somebody has to decide.
    expect(queue.isHeld(letters[2]?.messageId ?? "")).toBe(true);
    const lost = readFileSync(join(run.found.directory, "work", "lost.txt"), "utf8");
    expect(lost).toContain("lost@good.test");
    expect(lost).not.toContain("cut@good.test");
  });
});
