import { lstatSync } from "node:fs";
import { basename } from "node:path";
import { expect, test } from "vitest";
import { HoldJournal, postsuperOutput } from "../../src/holds/journal.ts";
import { hold } from "../../src/postfix/control.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";

/** A queue of deferred mail, some of it held by an administrator and more of it by a backup that died. */
class StuckQueue implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  readonly start: StartState;
  readonly ours: readonly string[];

  private constructor(site: Site, sink: Sink, postfix: PrivatePostfix, start: StartState, ours: readonly string[]) {
    this.site = site;
    this.sink = sink;
    this.postfix = postfix;
    this.start = start;
    this.ours = ours;
  }

  static async make(): Promise<StuckQueue> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "good.test": { rcpt: "450 4.2.0 try later" } } });
    const postfix = await PrivatePostfix.start({ sink });
    const letters = await postfix.submit(
      Array.from({ length: 8 }, (_, n) => plainLetter({ recipients: [`a${n}@good.test`] })),
    );
    await postfix.settled();
    const ids = letters.map(({ queueId }) => queueId);
    await postfix.hold(ids.slice(0, 2));
    const ours = ids.slice(2, 6);
    await holdAsDeadBackup(site, postfix, ours);
    return new StuckQueue(site, sink, postfix, await StartState.of(postfix, { letters, sink, ours }), ours);
  }

  get scene(): SceneOptions {
    return { postfix: this.postfix, config: this.site.configure([this.postfix]) };
  }

  get held(): string[] {
    return this.postfix.files("hold").map((path) => basename(path));
  }

  /** The sink takes everything from now on; all that may go is delivered. */
  async deliver(): Promise<void> {
    this.sink.set("good.test", {});
    await allTried(this.postfix);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

/** What is left of a backup that was killed between the hold and the release of a batch. */
async function holdAsDeadBackup(site: Site, postfix: PrivatePostfix, ids: readonly string[]): Promise<void> {
  const instance = await loadInstance(postfix.configDirectory);
  const since = new Date().toISOString();
  const { name, configDirectory, queueDirectory } = instance;
  const preheld = postfix.files("hold").map((path) => basename(path));
  const start = { run: "dead", mode: "hold" as const, instance: name, configDirectory, queueDirectory, since, preheld };
  const journal = HoldJournal.begin(site.stateDirectory, start);
  const times = ids.map((id) => [id, lstatSync(postfix.find(id) ?? "").mtimeMs / 1000] as const);
  journal.batch(0, since, times);
  await hold(instance, ids, ["deferred"], postsuperOutput(journal.path, 0, "hold"));
  journal.close();
}

describeRunbook("09-stuck-hold", (scenes) => {
  test("what a dead backup held goes on, and what an administrator held stays", { timeout: 60_000 }, async () => {
    await using queue = await StuckQueue.make();
    const run = await scenes.run(queue.scene);
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 4, skipped: 0 });
    expect(queue.held.filter((id) => queue.ours.includes(id))).toEqual([]);
    await queue.deliver();
    await queue.start.expectKept(run);
    expect(queue.sink.deliveries).toHaveLength(6);
  });

  test("where nothing is ours it is refused, and nothing is released", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    const letters = await postfix.submit([plainLetter({ recipients: ["a@elsewhere.test"] })]);
    await postfix.settled();
    await postfix.hold(letters.map(({ queueId }) => queueId));
    const start = await StartState.of(postfix, { letters });
    const run = await scenes.run({ postfix, config: site.configure([postfix]) });
    expect(run.error).toMatchObject({ kind: "failed", message: expect.stringContaining("something-is-ours") });
    await start.expectKept(run);
    start.expectRestored();
  });

  const points = ["started", "let-go", "exited"] as const;
  const random = new Random(chooseSeed("the point at which the runner of 09 is killed"));
  const tried = process.env.SPOOLSAFE_LONG ? points : [random.pick(points)];
  test.each(tried)("a runner killed at every step (%s) comes to the same end", { timeout: 120_000 }, async (point) => {
    await using queue = await StuckQueue.make();
    const run = await scenes.crash(queue.scene, point);
    expect(run.report).toMatchObject({ done: 4, skipped: 0 });
    expect(queue.held.filter((id) => queue.ours.includes(id))).toEqual([]);
    await queue.deliver();
    await queue.start.expectKept(run);
  });
});
