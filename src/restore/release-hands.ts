import { lstatSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { OperatorError } from "../errors.ts";
import { recordReleased } from "../holds/released.ts";
import { masterState, release, scanMaildrop, wake } from "../postfix/control.ts";
import { nextMicrosecond } from "../postfix/queue-id.ts";
import { locate } from "../postfix/spool.ts";
import { mapConcurrently } from "../repository/repository.ts";
import { fsyncDirectory } from "../system/files.ts";
import type { RunJournal } from "./journal.ts";
import { queueFilePath } from "./place.ts";
import type { HeldMail, NotReleased } from "./release-choice.ts";
import type { ReleaseJob, ReleaseReport } from "./release-job.ts";
import type { ReturnedMail } from "./release-log.ts";
import type { Outcomes, Outlet } from "./release-pace.ts";
import { ReleaseWatch } from "./release-watch.ts";

/** A message of a run that has left hold, by its number and its id. */
interface Left {
  readonly number: number;
  readonly id: string;
}

/** Lets batches go, and remembers what it did. */
export class ReleasingHands implements Outlet<HeldMail> {
  released = 0;
  /** Of those chosen, not let go yet. */
  remaining = 0;
  notWoken = 0;
  readonly problems: NotReleased[] = [];
  /** Let go by somebody else. */
  readonly gone: NotReleased[] = [];
  readonly #watch: ReleaseWatch;
  readonly #job: ReleaseJob;
  readonly #journal: RunJournal;
  #running: boolean;
  #batches = 0;

  constructor(job: ReleaseJob, journal: RunJournal, running: boolean, log: ReturnedMail | null) {
    this.#job = job;
    this.#journal = journal;
    this.#running = running;
    this.#watch = new ReleaseWatch(job.instance, () => job.clock.now(), log);
  }

  /** Seen so far; null when nobody watches. */
  get failures(): Pick<ReleaseReport, "cameBack" | "returned"> {
    if (this.#job.pace === undefined) return { cameBack: null, returned: null };
    return { cameBack: this.#watch.count("came-back"), returned: this.#watch.count("returned") };
  }

  look(batch: readonly HeldMail[]): Outcomes {
    return this.#watch.look(batch);
  }

  reason(batch: readonly HeldMail[]): string | null {
    return this.#watch.reason(batch);
  }

  /** Nothing in here waits for a signal: a batch is let go as a whole. */
  async release(batch: readonly HeldMail[]): Promise<void> {
    await this.#requirePostfix();
    const there = batch.filter(({ path }) => lstatSync(path, { throwIfNoEntry: false }) !== undefined);
    this.#forgetOthers(batch.filter((mail) => !there.includes(mail)));
    const untouched = there.filter((mail) => this.#isUntouched(mail));
    const [waiting, held] = [untouched.filter(({ waits }) => waits), untouched.filter(({ waits }) => !waits)];
    this.#journal.releasing(untouched.map(({ number }) => number));
    const { left, failure } = await this.#releaseHeld(held);
    const stays = new Set(left);
    const out = [
      ...held.filter((mail) => !stays.has(mail)).map(({ number, id }) => ({ number, id })),
      ...waiting.map((mail) => ({ number: mail.number, id: this.#drop(mail) })),
    ];
    for (const directory of new Set(untouched.map(({ path }) => dirname(path)))) fsyncDirectory(directory);
    if (waiting.length > 0) fsyncDirectory(join(this.#job.instance.queueDirectory, "maildrop"));
    this.released += out.length;
    this.remaining -= batch.length;
    await this.settle(out, waiting.length > 0);
    for (const { number, id } of left) this.#problem(number, id, "postsuper did not release it");
    if (failure !== undefined) throw failure;
    this.#tell();
  }

  /**
   * Write down what has left hold, and have Postfix try it now. The journal comes last: a call that dies before it leaves the
   * waking to the next.
   */
  async settle(out: readonly Left[], maildrop = false): Promise<void> {
    const { stateDirectory, instance, run, clock } = this.#job;
    const time = new Date(clock.now()).toISOString();
    recordReleased(stateDirectory, instance, { run, time, ids: out.map(({ id }) => id) });
    await this.#wake(
      out.map(({ id }) => id),
      maildrop,
    );
    if (out.length > 0)
      this.#journal.released(
        out.map(({ number }) => number),
        clock.now(),
      );
  }

  /** Somebody else has let it go: it is not ours any more. */
  forget(gone: readonly NotReleased[]): void {
    const { stateDirectory, instance, run, clock } = this.#job;
    if (gone.length === 0) return;
    const time = new Date(clock.now()).toISOString();
    recordReleased(stateDirectory, instance, { run, time, ids: gone.map(({ queueId }) => queueId) });
    this.#journal.released(
      gone.map(({ number }) => number),
      clock.now(),
    );
  }

  #forgetOthers(gone: readonly HeldMail[]): void {
    const reason = "it was released or removed by somebody else while this ran";
    const found = gone.map(({ number, id }) => ({ number, queueId: id, reason }));
    this.gone.push(...found);
    this.forget(found);
  }

  /**
   * Whether the file is the one that was looked at, and no other has its name: postsuper would rename it over the other. One
   * that was moved out and back may be known to qmgr(8), which would lose it.
   */
  #isUntouched({ number, id, path, inode, changed }: HeldMail): boolean {
    const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (String(stat?.ino) !== inode || stat?.ctimeNs !== changed) {
      return this.#problem(number, id, "it was moved or changed by somebody else while this ran");
    }
    const twin = locate(this.#job.instance, id).find((file) => file.path !== path);
    return twin === undefined || this.#problem(number, id, `another file has its name: ${twin.path}`);
  }

  #problem(number: number, queueId: string, reason: string): false {
    this.problems.push({ number, queueId, reason });
    return false;
  }

  /**
   * Twice at most: a Ctrl-C at the terminal ends postsuper as well. What it says it released is done with, also when somebody
   * has put it on hold again a moment later.
   */
  async #releaseHeld(held: readonly HeldMail[]): Promise<{ left: readonly HeldMail[]; failure?: unknown }> {
    let left = held;
    let failure: unknown;
    for (let attempt = 1; attempt <= 2 && left.length > 0; attempt++) {
      const said = new Set<string>();
      failure = undefined;
      try {
        const { ids } = await release(
          this.#job.instance,
          left.map(({ id }) => id),
        );
        for (const id of ids) said.add(id);
      } catch (error) {
        failure = error;
      }
      left = left.filter(({ id, path, inode }) => !said.has(id) && isFile(path, inode));
    }
    return { left, ...(left.length > 0 && failure !== undefined ? { failure } : {}) };
  }

  /**
   * Give a waiting file its name in maildrop. By rename(2), so that it is under one name at every moment: no other file can
   * have the name, because the inode is in it.
   *
   * @returns its id there
   */
  #drop({ number, id, path }: HeldMail): string {
    const { instance } = this.#job;
    let name = id;
    while (locate(instance, name).length > 0) {
      name = nextMicrosecond(name);
      this.#journal.renamed(number, name);
    }
    renameSync(path, queueFilePath(instance, "maildrop", name));
    return name;
  }

  async #wake(ids: readonly string[], maildrop: boolean): Promise<void> {
    const { instance } = this.#job;
    if (!this.#running) {
      this.notWoken += ids.length;
      return;
    }
    if (maildrop) await this.#attempt(() => scanMaildrop(instance));
    const tries = await mapConcurrently(ids, 8, (id) => this.#attempt(() => wake(instance, id)));
    this.notWoken += tries.filter((worked) => !worked).length;
  }

  /** Twice, as for postsuper. A message that could not be woken is tried in its time: no reason to stop. */
  async #attempt(work: () => Promise<void>): Promise<boolean> {
    for (let attempt = 1; attempt <= 2; attempt++) {
      try {
        await work();
        return true;
      } catch (error) {
        if (!(error instanceof OperatorError)) throw error;
      }
    }
    return false;
  }

  #tell(): void {
    const { report } = this.#job;
    const { released, remaining } = this;
    report?.({ type: "batch", batch: ++this.#batches, released, remaining, ...this.failures });
  }

  async #requirePostfix(): Promise<void> {
    const { instance, pace, run } = this.#job;
    this.#running = (await masterState(instance)) !== "stopped";
    if (this.#running || pace === undefined) return;
    throw new OperatorError(
      "incomplete",
      `Postfix was stopped: ${this.remaining} messages of run ${run} are still on hold`,
      { hints: ["start Postfix; the same command then goes on with them"] },
    );
  }
}

function isFile(path: string, inode: string): boolean {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino) === inode;
}
