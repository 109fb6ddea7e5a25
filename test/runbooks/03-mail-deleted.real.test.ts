import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter, type Submitted } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, type SceneRun, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";

/** A queue that was saved and lived on, before it was deleted. */
class DeletedQueue implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  /** In the snapshot: one was delivered after it, two are held by an administrator. */
  readonly saved: readonly Submitted[];
  /** Accepted after the snapshot, and deleted: no snapshot has it. */
  readonly lost: Submitted;

  private constructor(site: Site, sink: Sink, postfix: PrivatePostfix, saved: readonly Submitted[], lost: Submitted) {
    this.site = site;
    this.sink = sink;
    this.postfix = postfix;
    this.saved = saved;
    this.lost = lost;
  }

  static async make(): Promise<DeletedQueue> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "good.test": { rcpt: "450 4.2.0 try later" } } });
    const postfix = await PrivatePostfix.start({ sink });
    const saved = await submitTo(postfix, ["a0", "a1", "a2", "a3", "a4", "a5"]);
    await postfix.hold(saved.slice(4).map(({ queueId }) => queueId));
    await site.backup(postfix);
    sink.set("a0@good.test", {});
    await postfix.wake(saved[0]?.queueId ?? "");
    const [lost] = await submitTo(postfix, ["late"]);
    if (lost === undefined) throw new Error("nothing was submitted");
    return new DeletedQueue(site, sink, postfix, saved, lost);
  }

  /** Mail that this run has to bring to its recipients once the sink takes it. */
  get released(): readonly Submitted[] {
    return this.saved.slice(1, 4);
  }

  get gone(): string[] {
    return [`${this.lost.messageId} late@good.test`];
  }

  scene(deletedAt: string): SceneOptions {
    const set = {
      ...{ DELETED_AT: deletedAt, MAIL_LOG: this.postfix.logFile, RATE: "60000" },
      SPOOLSAFE_IDENTITY_FILE: join(this.site.directory, "identity.txt"),
    };
    return { postfix: this.postfix, config: this.site.configure([this.postfix]), set };
  }

  /** Messages of the administrator that are on hold now, under whatever name. */
  get heldByAdmin(): number {
    const held = this.postfix.files("hold").map((path) => readFileSync(path, "latin1"));
    return this.saved.slice(4).filter(({ messageId }) => held.some((text) => text.includes(messageId))).length;
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

function textOf({ found }: SceneRun, name: string): string {
  return readFileSync(join(found.directory, "work", name), "utf8");
}

describeRunbook("03-mail-deleted", (scenes) => {
  test("what `postsuper -d ALL` removed comes back once, and what no snapshot has is listed", {
    timeout: 120_000,
  }, async () => {
    await using queue = await DeletedQueue.make();
    const { postfix, sink } = queue;
    const deletedAt = new Date().toISOString();
    await postfix.postsuper(["-d", "ALL"]);
    const later = await submitTo(postfix, ["after"]);
    const start = await StartState.of(postfix, { letters: [...queue.saved, queue.lost, ...later], sink });

    const planned = await scenes.run({ ...queue.scene(deletedAt), until: "let-go" });
    expect(planned.error).toBeUndefined();
    expect(postfix.counts()).toMatchObject({ hold: 5, deferred: 1 });
    await scenes.undo(planned);
    start.expectRestored();

    const run = await scenes.run(queue.scene(deletedAt));
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 5, skipped: 0 });
    expect(queue.heldByAdmin).toBe(2);
    expect(textOf(run, "lost.txt")).toMatch(new RegExp(`^${queue.lost.queueId}\t.*late@good\\.test\n$`));
    sink.set("good.test", {});
    await allTried(postfix);
    await start.expectKept(run, { gone: queue.gone });
    expect(
      queue.released.filter(({ messageId, recipients }) => sink.count(messageId, recipients[0] ?? "") !== 1),
    ).toEqual([]);
    expect(queue.heldByAdmin).toBe(2);
  });

  test("where nothing is missing there is nothing to put back", { timeout: 60_000 }, async () => {
    await using queue = await DeletedQueue.make();
    const start = await StartState.of(queue.postfix, { letters: [...queue.saved, queue.lost], sink: queue.sink });
    const run = await scenes.run(queue.scene(new Date().toISOString()));
    expect(run.error).toMatchObject({ message: expect.stringContaining("plan") });
    await start.expectKept(run);
    start.expectRestored();
  });
});
