import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { type JobName, readJob, recordEnd, recordStart } from "../jobs/record.ts";
import type { Clock } from "../system/clock.ts";
import { makePrivateDirectory } from "../system/files.ts";
import { tryLock } from "../system/lock.ts";
import { adoptChild, type ChildCommand, type JobChild, startChild } from "./child.ts";
import {
  deadlineOf,
  type Ending,
  ended,
  type Finding,
  type JobPlan,
  type JobState,
  look,
  type Owed,
  putOff,
  type Running,
  readyAt,
  started,
} from "./engine.ts";
import { makeCalendar, minute } from "./expression.ts";
import type { Notify } from "./notify.ts";
import { type JobStates, loadStates, saveStates, stateFile } from "./state.ts";
import type { StartTicks, Ticks } from "./ticks.ts";

/** A job on the schedule of this host. */
export interface ScheduledJob extends JobPlan {
  readonly job: JobName;
  /** Jobs of one lane run one after the other: they would wait for the same lock, or load the host together. */
  readonly lane: string;
}

/** What happens, for the log. Times are milliseconds since 1970. */
export type DaemonEvent =
  | { readonly type: "started"; readonly jobs: readonly JobName[] }
  | { readonly type: "state-damaged"; readonly file: string }
  | { readonly type: "state-unsaved"; readonly reason: string }
  | { readonly type: "clock-stepped"; readonly byMs: number }
  | ({ readonly job: JobName } & Finding)
  | { readonly type: "run-started"; readonly job: JobName; readonly due: number; readonly adopted: boolean }
  | { readonly type: "run-overdue"; readonly job: JobName; readonly due: number; readonly afterMs: number }
  | {
      readonly type: "run-ended";
      readonly job: JobName;
      readonly due: number;
      /** Null: a signal ended it, or nobody saw its end. */
      readonly exit: number | null;
      readonly tookMs: number;
      /** Whether it will be run again. */
      readonly again: boolean;
    }
  | { readonly type: "not-started"; readonly job: JobName; readonly due: number; readonly reason: string }
  | { readonly type: "recovered"; readonly exit: number | null }
  | { readonly type: "stopping"; readonly running: readonly JobName[] };

export interface DaemonOptions {
  readonly jobs: readonly ScheduledJob[];
  readonly stateDirectory: string;
  readonly clock: Clock;
  /** Ends the daemon, in good order. */
  readonly signal: AbortSignal;
  readonly ticks: StartTicks;
  /**
   * The program that does a job; with SPOOLSAFE_DUE in its environment it records start and end itself, and with SPOOLSAFE_LABEL it
   * says whose its lines are.
   */
  readonly commandOf: (job: JobName) => readonly string[];
  /** Run after a backup that died: gives back what it had put on hold. */
  readonly recovery: readonly string[];
  /** A recovery that is not through by then is ended. Milliseconds; default ten minutes. */
  readonly recoveryLimitMs?: number | undefined;
  readonly notify: Notify;
  readonly report: (event: DaemonEvent) => void;
}

/**
 * Run jobs when they are due until the signal aborts, each as a process of its own. Whatever is killed, this daemon, a job
 * or both, a run that is due happens once: it is on disk as owed before it is started, its process is on disk before it does
 * anything, and it records its own end. Only a run that was killed itself, before its end was recorded, is run again.
 *
 * @throws OperatorError `locked` when another daemon works with the same state directory
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const { stateDirectory } = options;
  makePrivateDirectory(stateDirectory);
  const file = stateFile(stateDirectory);
  const lock = await tryLock(join(stateDirectory, "schedule.lock"), 3000);
  if (lock === undefined) {
    throw new OperatorError("locked", `another schedule is at work with ${file}`, {
      hints: ["one daemon runs all jobs of a host; give a second one a state_directory of its own"],
    });
  }
  try {
    await new Daemon(options).live(AbortSignal.any([options.signal, lock.lost]));
    lock.lost.throwIfAborted();
  } finally {
    await lock.release();
  }
}

/** After SIGTERM a job has so long to clear up before it is killed. */
const graceMs = 2 * minute;
const usualRecoveryMs = 10 * minute;
/** A step of the wall clock against the monotonic one, or a suspend, that the next tick should not wait for. */
const stepMs = 30_000;
const watchEveryMs = 10_000;

interface Deadline {
  passed(): boolean;
  clear(): void;
}

class Daemon {
  readonly #options: DaemonOptions;
  readonly #jobs: ReadonlyMap<JobName, ScheduledJob>;
  readonly #children = new Map<JobName, JobChild>();
  readonly #recoveries = new Set<JobChild>();
  readonly #busy = new Set<string>();
  readonly #work = new Set<Promise<void>>();
  #states: JobStates;
  /** What is known is newer than what is on disk, which can't be written. */
  #unsaved = false;
  #stopping = false;
  #wake: NodeJS.Timeout | undefined;
  #tickedAt = 0;
  /** Of what can't be gone on without, or was never thought of. */
  readonly #failed = Promise.withResolvers<never>();

  constructor(options: DaemonOptions) {
    this.#options = options;
    this.#jobs = new Map(options.jobs.map((each) => [each.job, each]));
    const { jobs, damaged } = loadStates(options.stateDirectory);
    if (damaged) options.report({ type: "state-damaged", file: stateFile(options.stateDirectory) });
    // What is not on the schedule any more owes nothing when it comes back.
    const kept = Object.entries(jobs).filter(([job]) => this.#jobs.has(job as JobName));
    this.#states = Object.fromEntries(kept);
  }

  async live(signal: AbortSignal): Promise<void> {
    const { notify, report, ticks } = this.#options;
    report({ type: "started", jobs: [...this.#jobs.keys()] });
    for (const job of this.#jobs.keys()) this.#takeUp(job);
    const stopped = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener("abort", () => resolve(), { once: true });
    });
    const tick = () => this.#retick();
    const started = ticks(tick);
    const watch = this.#watch(started, tick);
    const alive =
      notify.watchdogMs === undefined ? undefined : setInterval(() => this.#sayAlive(), notify.watchdogMs / 3);
    tick();
    notify.ready();
    try {
      await Promise.race([stopped, this.#failed.promise]);
    } finally {
      clearInterval(alive);
      clearInterval(watch);
      clearTimeout(this.#wake);
      started.stop();
      await this.#stop();
    }
  }

  #retick(): void {
    try {
      this.#tick();
    } catch (error) {
      this.#failed.reject(error);
    }
  }

  /** Node's timers go by a clock that stands still in a suspend and knows nothing of the wall. */
  #watch(ticks: Ticks, tick: () => void): NodeJS.Timeout {
    const { clock, report } = this.#options;
    const drift = () => clock.now() - clock.monotonic();
    let before = drift();
    return setInterval(() => {
      const byMs = Math.round(drift() - before);
      const stepped = Math.abs(byMs) > stepMs;
      before = drift();
      if (stepped) {
        report({ type: "clock-stepped", byMs });
        ticks.restart();
      }
      if (stepped || clock.monotonic() - this.#tickedAt > 1.5 * minute) tick();
    }, watchEveryMs);
  }

  #sayAlive(): void {
    const { clock, notify } = this.#options;
    if (clock.monotonic() - this.#tickedAt < 3 * minute) notify.alive();
  }

  /** A run of an earlier daemon: still at work, or over, or dead. */
  #takeUp(job: JobName): void {
    const running = this.#states[job]?.running;
    if (running === null || running === undefined) return;
    this.#options.report({ type: "run-started", job, due: running.due, adopted: true });
    this.#follow(job, adoptChild(running.process), true);
  }

  #tick(): void {
    if (this.#stopping) return;
    const now = this.#options.clock.now();
    this.#tickedAt = this.#options.clock.monotonic();
    const before = this.#states;
    for (const [job, plan] of this.#jobs) this.#look(job, plan, now);
    if (this.#unsaved || changed(before, this.#states)) this.#save();
    const waiting = [...this.#jobs.keys()]
      .flatMap((job) => {
        const state = this.#states[job];
        const at = state === undefined ? null : readyAt(state);
        return at === null ? [] : [{ job, at }];
      })
      .sort((a, b) => a.at - b.at);
    for (const { job, at } of waiting) if (at <= now) this.#start(job);
    const next = waiting.find(({ at }) => at > now)?.at;
    clearTimeout(this.#wake);
    if (next !== undefined) this.#wake = setTimeout(() => this.#retick(), Math.min(next - now, minute));
  }

  #look(job: JobName, plan: JobPlan, now: number): void {
    const before = this.#states[job];
    const { state, findings } = look(before, plan, now, formerCalendar(before, plan));
    this.#states = { ...this.#states, [job]: state };
    for (const finding of findings) this.#options.report({ job, ...finding });
  }

  #start(job: JobName): void {
    const { clock, commandOf } = this.#options;
    const state = this.#states[job];
    const lane = this.#jobs.get(job)?.lane ?? job;
    if (state === undefined || state.owed === null || this.#busy.has(lane)) return;
    let child: JobChild;
    try {
      child = startChild({ command: commandOf(job), env: environment(job, state.owed.due) });
    } catch (error) {
      this.#putOff(job, state.owed, reasonOf(error));
      return;
    }
    // On disk before it is let go: see startChild.
    this.#states = { ...this.#states, [job]: started(state, child.process, clock.now()) };
    const reason = this.#save();
    if (reason !== null) {
      child.kill("SIGKILL");
      this.#states = { ...this.#states, [job]: state };
      this.#putOff(job, state.owed, reason);
      return;
    }
    child.go();
    this.#options.report({ type: "run-started", job, due: state.owed.due, adopted: false });
    this.#follow(job, child, false);
  }

  /** Too little memory or a full disk now may be enough in a minute, and nobody else would try again. */
  #putOff(job: JobName, { due }: Owed, reason: string): void {
    const state = this.#states[job];
    if (state !== undefined) this.#set(job, putOff(state, this.#options.clock.now()));
    this.#options.report({ type: "not-started", job, due, reason });
  }

  #follow(job: JobName, child: JobChild, adopted: boolean): void {
    const lane = this.#jobs.get(job)?.lane ?? job;
    this.#busy.add(lane);
    this.#children.set(job, child);
    const work = this.#finish(job, child, adopted)
      .finally(() => {
        this.#children.delete(job);
        this.#busy.delete(lane);
        this.#work.delete(work);
      })
      .then(
        () => this.#retick(),
        (error: unknown) => this.#failed.reject(error),
      );
    this.#work.add(work);
  }

  async #finish(job: JobName, child: JobChild, adopted: boolean): Promise<void> {
    const { clock, report, stateDirectory } = this.#options;
    const running = this.#states[job]?.running;
    const plan = this.#jobs.get(job);
    if (running === null || running === undefined || plan === undefined) return;
    const { due, startedAt } = running;
    const deadline = this.#endAtDeadline(job, child, running, deadlineOf(plan.calendar, due));
    const seen = await child.ended;
    deadline.clear();
    const exit = adopted ? recordedExit(stateDirectory, job, running) : seen;
    const unseen = adopted && !deadline.passed();
    if (exit === null && job === "backup") await this.#recover();
    const now = clock.now();
    const state = this.#states[job];
    if (state === undefined) return;
    this.#set(job, ended(state, this.#ending(exit, unseen), now));
    // Not before: a daemon killed in between would take the end we write for one that the run came to.
    this.#orUnsaved(() => completeRecord(stateDirectory, job, running, exit ?? killedExit, now));
    const again = this.#states[job]?.owed?.due === due;
    report({ type: "run-ended", job, due, exit, tookMs: Math.max(0, now - startedAt), again });
  }

  /** @param unseen it ran on without a daemon, so that nobody knows what ended it */
  #ending(exit: number | null, unseen: boolean): Ending {
    if (this.#stopping && (exit === null || exit === 130)) return { type: "stopped" };
    if (unseen && (exit === null || exit === 130)) return { type: "died" };
    return { type: "exited", exit: exit ?? killedExit };
  }

  #endAtDeadline(job: JobName, child: JobChild, { due, startedAt }: Running, deadlineMs: number): Deadline {
    const { clock, report } = this.#options;
    let passed = false;
    let kill: NodeJS.Timeout | undefined;
    const end = setTimeout(
      () => {
        passed = true;
        report({ type: "run-overdue", job, due, afterMs: Math.max(0, clock.now() - startedAt) });
        child.kill("SIGTERM");
        kill = setTimeout(() => child.kill("SIGKILL"), graceMs);
      },
      // Not longer than from now: it may be dated in the future, by a clock that was wrong.
      Math.min(deadlineMs, Math.max(0, startedAt + deadlineMs - clock.now())),
    );
    return {
      passed: () => passed,
      clear: () => {
        clearTimeout(end);
        clearTimeout(kill);
      },
    };
  }

  /** A backup that was killed leaves mail on hold; the next one would give it back, and may be a day away. */
  async #recover(): Promise<void> {
    const { recovery, recoveryLimitMs = usualRecoveryMs, report } = this.#options;
    const child = startChild({ command: recovery, env: quietEnvironment });
    this.#recoveries.add(child);
    const limit = setTimeout(() => child.kill("SIGKILL"), recoveryLimitMs);
    child.go();
    const exit = await child.ended;
    clearTimeout(limit);
    this.#recoveries.delete(child);
    report({ type: "recovered", exit });
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    this.#options.notify.stopping();
    this.#options.report({ type: "stopping", running: [...this.#children.keys()] });
    for (const child of this.#children.values()) child.kill("SIGTERM");
    const kill = setTimeout(() => {
      for (const child of [...this.#children.values(), ...this.#recoveries]) child.kill("SIGKILL");
    }, graceMs);
    await Promise.allSettled(this.#work);
    clearTimeout(kill);
  }

  #set(job: JobName, state: JobState): void {
    this.#states = { ...this.#states, [job]: state };
    this.#save();
  }

  /**
   * A disk that is full or read-only ends nothing: what can't be saved now is tried again by the minute.
   *
   * @returns why it could not be saved; null when it is on disk
   */
  #save(): string | null {
    const reason = this.#orUnsaved(() => saveStates(this.#options.stateDirectory, this.#states));
    this.#unsaved = reason !== null;
    return reason;
  }

  /** Told once, when it begins. */
  #orUnsaved(write: () => void): string | null {
    try {
      write();
      return null;
    } catch (error) {
      const reason = reasonOf(error);
      if (!this.#unsaved) this.#options.report({ type: "state-unsaved", reason });
      return reason;
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const quietEnvironment = {
  NOTIFY_SOCKET: undefined,
  WATCHDOG_USEC: undefined,
  WATCHDOG_PID: undefined,
};

function environment(job: JobName, due: number): ChildCommand["env"] {
  return { ...quietEnvironment, SPOOLSAFE_DUE: new Date(due).toISOString(), SPOOLSAFE_LABEL: job };
}

/** The calendar a job had when it was last looked at, if it is another now. */
function formerCalendar(before: JobState | undefined, { calendar }: JobPlan) {
  if (before === undefined) return undefined;
  const { expression, timezone } = before;
  if (expression === calendar.expression && timezone === calendar.timezone) return undefined;
  try {
    return makeCalendar(expression, timezone);
  } catch {
    // Another version wrote it, or knew a time zone that is no more: then the times of now count from there.
    return undefined;
  }
}

/**
 * Whether anything has to be on disk: that a minute without a due time has passed need not, because looking at it again
 * finds the same.
 */
function changed(before: JobStates, after: JobStates): boolean {
  const essence = (states: JobStates) =>
    JSON.stringify(states, (key, value) => (key === "seenUntil" ? undefined : value));
  return essence(before) !== essence(after) || setBack(before, after);
}

function setBack(before: JobStates, after: JobStates): boolean {
  return Object.entries(after).some(([job, { seenUntil }]) => seenUntil < (before[job as JobName]?.seenUntil ?? 0));
}

/** As a shell tells that SIGKILL ended a program. */
const killedExit = 137;

/** How a run ended by its own record; null when it did not come to record an end. */
function recordedExit(stateDirectory: string, job: JobName, { due, startedAt }: Running): number | null {
  const { scheduled } = readJob(stateDirectory, job);
  if (scheduled === null || Date.parse(scheduled.due) !== due) return null;
  // An earlier one for the same time, which was stopped or found the lock held, says nothing of this one.
  return Date.parse(scheduled.start) >= startedAt ? scheduled.exit : null;
}

/** Record the end of a run that could not do so itself: killed, or unable to read its own configuration. */
function completeRecord(stateDirectory: string, job: JobName, running: Running, exit: number, now: number): void {
  if (recordedExit(stateDirectory, job, running) !== null) return;
  const run = recordStart(stateDirectory, {
    job,
    now: new Date(running.startedAt),
    due: new Date(running.due).toISOString(),
    process: running.process,
  });
  recordEnd(stateDirectory, run, { exit, now: new Date(now) });
}
