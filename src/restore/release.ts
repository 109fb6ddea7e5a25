import { lstatSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { OperatorError } from "../errors.ts";
import type { FencingClaim } from "../holds/fence-claims.ts";
import { recordReleased } from "../holds/released.ts";
import { masterState, release, scanMaildrop, wake } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { nextMicrosecond } from "../postfix/queue-id.ts";
import { locate } from "../postfix/spool.ts";
import { mapConcurrently } from "../repository/repository.ts";
import type { Clock } from "../system/clock.ts";
import { fsyncDirectory } from "../system/files.ts";
import { isExpired } from "./forecast.ts";
import { RunJournal, type RunRecord, readRuns } from "./journal.ts";
import { queueFilePath } from "./place.ts";
import { chooseMail, type HeldMail, isWaiting, type NotReleased, type ReleaseChoice } from "./release-choice.ts";
import { mailLogOf, ReturnedMail } from "./release-log.ts";
import { batchesOf, domainsInTurn, oldestFirst, type Pace } from "./release-order.ts";
import {
  type Outcomes,
  type Outlet,
  type PacedRelease,
  type PaceEvent,
  type Patience,
  releasePaced,
  usualPatience,
} from "./release-pace.ts";
import { requireReleasable } from "./release-run.ts";
import { ReleaseWatch } from "./release-watch.ts";
import { lockQueue } from "./target.ts";
import { type RunFile, whereabouts } from "./whereabouts.ts";

export interface ReleaseJob {
  /** The run's whole name. */
  readonly run: string;
  /** The instance it placed mail in. */
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  /** Also what may have been delivered already. */
  readonly inDoubt: boolean;
  /** Standing claims of others on mail of the host the run's mail is of: what they name is not released. */
  readonly claims: readonly FencingClaim[];
  /** Undefined: as fast as Postfix takes it. */
  readonly pace?: Pace | undefined;
  readonly patience?: Patience | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: ReleaseEvent) => void) | undefined;
}

/** What is about to be let go, and what becomes of it. */
export interface ReleaseForecast {
  readonly messages: number;
  /** Of these, mail that goes through maildrop. */
  readonly maildrop: number;
  /** RFC 3339; null without mail. */
  readonly oldest: string | null;
  /** Destination domains, most mail first. */
  readonly domains: readonly { readonly domain: string; readonly messages: number }[];
  /** Older than the queue keeps mail: returned to the sender if the first attempt fails. */
  readonly expired: number;
  /** The same of the null sender: it vanishes. */
  readonly expiredNotices: number;
  /** In doubt: among the messages, and left on hold. */
  readonly doubtful: { readonly messages: number; readonly recipients: number };
  readonly leftInDoubt: { readonly messages: number; readonly recipients: number };
  readonly admin: number;
  readonly fence: number;
  readonly running: boolean;
}

export type ReleaseEvent =
  | PaceEvent
  | ({ readonly type: "forecast" } & ReleaseForecast)
  | {
      readonly type: "batch";
      readonly batch: number;
      readonly released: number;
      readonly remaining: number;
      /** Seen so far; null when nobody watches. */
      readonly cameBack: number | null;
      readonly returned: number | null;
    };

export interface ReleaseReport {
  readonly run: string;
  /** Let go by this call. */
  readonly released: number;
  /** Of this run, let go before. */
  readonly before: number;
  /** Messages left on hold: in doubt, an administrator's, fenced at the source. */
  readonly inDoubt: number;
  readonly admin: number;
  readonly fence: number;
  /** Still on hold, and not because of any of these. */
  readonly remaining: number;
  readonly claimed: ReleaseChoice["claimed"];
  readonly notFound: readonly NotReleased[];
  /** Could not be let go. */
  readonly problems: readonly NotReleased[];
  /** Deferred again, and returned to the sender, as far as that was watched; null when it was not. */
  readonly cameBack: number | null;
  readonly returned: number | null;
  readonly paused: number;
  /** Most was still not delivered: the rest was not tried. */
  readonly gaveUp: boolean;
  /** Why that was. */
  readonly reason: string | null;
  /** Let go, and not tried at once: Postfix tries them in its own time, or when it starts. */
  readonly notWoken: number;
  readonly running: boolean;
}

/** Look at what a release would do. Touches nothing and takes no lock. */
export async function forecastRelease(
  job: Pick<ReleaseJob, "run" | "instance" | "stateDirectory" | "inDoubt" | "claims" | "clock" | "signal">,
): Promise<ReleaseForecast> {
  const record = requireReleasable(recordOf(job), job.instance);
  const files = whereabouts(job.instance, record);
  const released = new Set([...record.released, ...leftSince(job, record, files).map(({ number }) => number)]);
  const choice = await chooseMail({ ...job, record, released }, files);
  return forecastOf(job, choice, (await masterState(job.instance)) !== "stopped");
}

/**
 * Let a run's mail go that was put on hold to be signed off, oldest first: exactly the files that were placed, by name and
 * inode. What an administrator held, what a fence held at the source and, unless asked for, what is in doubt stays.
 *
 * Each batch is in the run's journal before its first message moves, and again once it has left hold/. Killed or interrupted at
 * any point, the same call goes on, and what has left hold once is never touched again.
 *
 * @throws OperatorError `locked`; `refused` when the run can't be released, or not at this pace, with nothing changed;
 * `interrupted` between two batches, with the rest on hold; `incomplete` when Postfix stops under a paced release
 */
export async function releaseRun(job: ReleaseJob): Promise<ReleaseReport> {
  const lock = await lockQueue(job.instance);
  const signal = AbortSignal.any([lock.lost, ...(job.signal === undefined ? [] : [job.signal])]);
  try {
    return await releaseLocked({ ...job, signal });
  } finally {
    await lock.release();
  }
}

async function releaseLocked(job: ReleaseJob): Promise<ReleaseReport> {
  const { instance, pace } = job;
  const record = requireReleasable(recordOf(job), instance);
  const running = (await masterState(instance)) !== "stopped";
  if (pace !== undefined && !running) throw nothingToPace(record);
  const files = whereabouts(instance, record);
  const left = leftSince(job, record, files);
  const journal = RunJournal.reopen(record);
  try {
    const log = pace === undefined ? null : await mailLogOf(instance);
    const hands = new ReleasingHands(job, journal, running, log === null ? null : new ReturnedMail(log));
    await hands.settle(
      left,
      left.some(({ at }) => at === "maildrop"),
    );
    const released = new Set([...record.released, ...left.map(({ number }) => number)]);
    const choice = await chooseMail({ ...job, record, released }, files);
    hands.forget(choice.notFound);
    job.report?.({ type: "forecast", ...forecastOf(job, choice, running) });
    const paced = await letGo(job, hands, choice);
    return reportOf({ record, before: released.size, choice, hands, paced, pace, running });
  } finally {
    journal.close();
  }
}

function recordOf({ stateDirectory, run }: Pick<ReleaseJob, "stateDirectory" | "run">): RunRecord {
  const record = readRuns(stateDirectory).find((one) => one.run === run);
  if (record === undefined) throw new OperatorError("usage", `${run} is no run of this host`);
  return record;
}

function nothingToPace({ run }: RunRecord): OperatorError {
  return new OperatorError("refused", "Postfix is stopped: there is no rate to let mail go at, and nothing to watch", {
    hints: ["start Postfix first", `or release all at once, to be tried when it starts: spoolsafe release ${run}`],
  });
}

interface Left {
  readonly number: number;
  readonly id: string;
}

/** Found to have left, and where it is now. */
interface FoundLeft extends Left, Pick<RunFile, "at"> {}

/**
 * What a call that died was releasing and has let go. A message that is on hold although its file was moved after the
 * journal's last line is one of them: somebody has put it on hold again since.
 */
function leftSince(
  { instance }: Pick<ReleaseJob, "instance">,
  record: RunRecord,
  files: readonly RunFile[],
): FoundLeft[] {
  const { mtimeNs } = statSync(join(record.directory, "journal.jsonl"), { bigint: true });
  const isOut = (file: RunFile) => {
    if (file.at !== "hold") return !isWaiting(instance, record.run, file);
    const stat = file.path === null ? undefined : lstatSync(file.path, { bigint: true, throwIfNoEntry: false });
    return stat === undefined || stat.ctimeNs > mtimeNs;
  };
  return files
    .filter(({ staged }) => record.releasing.has(staged.number) && !record.released.has(staged.number))
    .filter(isOut)
    .map(({ staged, at }) => ({ number: staged.number, id: staged.id, at }));
}

/** At the pace that was asked for, or one batch behind the other. */
async function letGo(job: ReleaseJob, hands: ReleasingHands, { release: mail }: ReleaseChoice): Promise<PacedRelease> {
  const { pace, patience = usualPatience, clock, signal, report } = job;
  hands.remaining = mail.length;
  try {
    if (pace !== undefined) {
      return await releasePaced({ mail: domainsInTurn(mail), outlet: hands, pace, patience, clock, signal, report });
    }
    for (const batch of batchesOf(oldestFirst(mail), unpacedBatch)) {
      signal?.throwIfAborted();
      await hands.release(batch);
    }
    return { released: mail.length, pauses: 0, gaveUp: false, reason: null };
  } catch (error) {
    const another = error instanceof OperatorError && error !== signal?.reason;
    throw signal?.aborted && !another ? stopped(job, signal.reason, hands.remaining) : error;
  }
}

/** Between two of these the run can be interrupted; waking takes some ten milliseconds a message. */
const unpacedBatch = 300;

function stopped({ run }: ReleaseJob, cause: unknown, remaining: number): OperatorError {
  const kind = cause instanceof OperatorError ? cause.kind : "interrupted";
  const why = cause instanceof OperatorError ? `${cause.message}: ` : "";
  return new OperatorError(kind, `${why}${remaining} messages of run ${run} are still on hold`, {
    hints: ["the same command goes on with them"],
    cause,
  });
}

/** Lets batches go, and remembers what it did. */
class ReleasingHands implements Outlet<HeldMail> {
  released = 0;
  /** Of those chosen, not let go yet. */
  remaining = 0;
  notWoken = 0;
  readonly problems: NotReleased[] = [];
  /** Let go by somebody else. */
  readonly gone: NotReleased[] = [];
  readonly watch: ReleaseWatch;
  readonly #job: ReleaseJob;
  readonly #journal: RunJournal;
  #running: boolean;
  #batches = 0;

  constructor(job: ReleaseJob, journal: RunJournal, running: boolean, log: ReturnedMail | null) {
    this.#job = job;
    this.#journal = journal;
    this.#running = running;
    this.watch = new ReleaseWatch(job.instance, () => job.clock.now(), log);
  }

  look(batch: readonly HeldMail[]): Outcomes {
    return this.watch.look(batch);
  }

  reason(batch: readonly HeldMail[]): string | null {
    return this.watch.reason(batch);
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
    const { pace, report } = this.#job;
    const { released, remaining } = this;
    report?.({ type: "batch", batch: ++this.#batches, released, remaining, ...failuresOf(this.watch, pace) });
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

function failuresOf(watch: ReleaseWatch, pace: Pace | undefined) {
  if (pace === undefined) return { cameBack: null, returned: null };
  return { cameBack: watch.count("came-back"), returned: watch.count("returned") };
}

function isFile(path: string, inode: string): boolean {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino) === inode;
}

function forecastOf(
  { instance, clock }: Pick<ReleaseJob, "instance" | "clock">,
  { release: mail, inDoubt, admin, fence }: ReleaseChoice,
  running: boolean,
): ReleaseForecast {
  const now = clock.now() / 1000;
  const expired = mail.filter(({ waits }) => !waits).filter((one) => isExpired(one, { ...instance, now }));
  const notices = expired.filter(({ sender }) => sender === "");
  const domains = [...Map.groupBy(mail, ({ domain }) => domain)].map(([domain, mails]) => ({
    domain,
    messages: mails.length,
  }));
  const oldest = mail.reduce((least, { arrival }) => Math.min(least, arrival), Number.POSITIVE_INFINITY);
  const doubtful = mail.filter((one) => one.inDoubt);
  return {
    messages: mail.length,
    maildrop: mail.filter(({ waits }) => waits).length,
    oldest: mail.length === 0 ? null : new Date(oldest * 1000).toISOString(),
    domains: domains.sort((a, b) => b.messages - a.messages),
    expired: expired.length - notices.length,
    expiredNotices: notices.length,
    doubtful: {
      messages: doubtful.length,
      recipients: doubtful.reduce((sum, { recipients }) => sum + recipients.filter(({ done }) => !done).length, 0),
    },
    leftInDoubt: {
      messages: inDoubt.length,
      recipients: inDoubt.reduce((sum, { message }) => sum + message.recipients.length, 0),
    },
    admin: admin.length,
    fence: fence.length,
    running,
  };
}

function reportOf({
  record,
  before,
  choice,
  hands,
  paced,
  pace,
  running,
}: {
  readonly record: RunRecord;
  readonly before: number;
  readonly choice: ReleaseChoice;
  readonly hands: ReleasingHands;
  readonly paced: PacedRelease;
  readonly pace: Pace | undefined;
  readonly running: boolean;
}): ReleaseReport {
  const { inDoubt, admin, fence, claimed, notFound, unfit } = choice;
  const problems = [...unfit, ...hands.problems];
  return {
    run: record.run,
    released: hands.released,
    before,
    ...{ inDoubt: inDoubt.length, admin: admin.length, fence: fence.length },
    remaining: choice.release.length - hands.released - hands.gone.length + claimed.length + unfit.length,
    ...{ claimed, notFound: [...notFound, ...hands.gone], problems },
    ...failuresOf(hands.watch, pace),
    paused: paced.pauses,
    gaveUp: paced.gaveUp,
    reason: paced.reason,
    notWoken: hands.notWoken,
    running,
  };
}
