import { isDeepStrictEqual } from "node:util";
import { isRunning, type JobName, type JobRecord, jobNames, readJob } from "../jobs/record.ts";
import { makePrivateDirectory } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { attempt, type Patience, reasonOf, usualPatience } from "./attempt.ts";
import { type AlertSettings, type Channel, channelsOf } from "./channels.ts";
import {
  type AgeLimit,
  type BackedUp,
  backupsKept,
  type Condition,
  conditionsOf,
  type DueLimit,
  lockedExit,
  type Outcome,
  type Schedules,
} from "./conditions.ts";
import { afterTelling, type Due, dueFor, eventOf } from "./decide.ts";
import {
  type AlertState,
  alertDirectory,
  type ChannelState,
  loadAlertState,
  newChannel,
  saveAlertState,
  type Unsent,
  unsentOf,
} from "./state.ts";

export interface AlarmOptions {
  readonly stateDirectory: string;
  readonly settings: AlertSettings;
  readonly limits: readonly AgeLimit[];
  readonly dueLimits?: readonly DueLimit[];
  /** Asked only when there is something to tell. */
  readonly host: () => Promise<string>;
  readonly now: () => number;
  /** Of looks by the minute; a run that ends may have less. */
  readonly patience?: Patience;
}

/** How a heartbeat went; `error` is null when it arrived. */
export interface HeartbeatResult {
  readonly channel: "heartbeat" | "drill heartbeat";
  readonly error: string | null;
}

export interface Ended {
  readonly outcome: Outcome;
  readonly heartbeat?: HeartbeatResult | undefined;
  readonly patience?: Patience;
}

/** What was told, and what still could not be. */
export interface Alarmed {
  readonly told: number;
  /** What is wrong now, told or not. */
  readonly conditions: readonly Condition[];
  readonly unsent: readonly Unsent[];
}

/**
 * Tells people what is wrong with the unattended jobs: once when it begins, daily while it goes on, once when it is well
 * again. Who was told what is on disk, so that daemon, timers, cron and people together tell it once; what was sent right
 * before a crash may be sent again. A channel that does not work is tried again, and the others don't suffer.
 */
export class Alarm {
  readonly #options: AlarmOptions;
  readonly #channels: readonly Channel[];
  /** Where the state can't be saved, a daemon knows at least by itself what it has told. */
  #unsaved: AlertState | undefined;

  constructor(options: AlarmOptions) {
    this.#options = options;
    this.#channels = channelsOf(options.settings);
  }

  /**
   * Look whether anything is too old, failed or ended without a word, and tell it. Meant to be called each minute: it reads
   * a few small files, and does more only if there is something new. Somebody else who is telling just now is left to it.
   *
   * @param unstarted runs that are due and can't be started, as if they had just failed
   * @throws when the state directory can't be written, after everything was told
   */
  async raiseAges(unstarted: readonly Outcome[] = []): Promise<Alarmed> {
    const { now, patience = usualPatience } = this.#options;
    return await this.#raise({ now: new Date(now()), patience, lockMs: 100, minutely: true, outcomes: unstarted });
  }

  /**
   * A run has ended: tell what that changes. Takes as long as the slowest channel, and no longer than its patience lets it.
   *
   * @throws when the state directory can't be written, after everything was told
   */
  async raiseEnd({ outcome, heartbeat, patience = this.#options.patience ?? usualPatience }: Ended): Promise<Alarmed> {
    // Somebody who is telling at this moment is waited for.
    const lockMs = patience.timeoutMs * patience.tries;
    const now = new Date(this.#options.now());
    return await this.#raise({ now, patience, lockMs, minutely: false, outcomes: [outcome], heartbeat });
  }

  async #raise(round: Round): Promise<Alarmed> {
    const before = this.#load(round);
    if (this.#isQuiet(before, round)) return alarmed(before, 0);
    const lock = await lockIfPossible(this.#options.stateDirectory, round.lockMs);
    if (lock === "busy" && round.minutely) return alarmed(before, 0);
    try {
      // Somebody may have told it while the lock was waited for.
      const looked = this.#look(this.#load(round), round);
      const { state, told } = await this.#tell(looked, round);
      this.#save(state);
      return alarmed(state, told);
    } finally {
      if (lock !== "busy") await lock?.release();
    }
  }

  #isQuiet(before: AlertState, round: Round): boolean {
    const looked = this.#look(before, round);
    const due = this.#channels.some(({ name }) => isDue(looked, name, round));
    const isNew = before.watchedSince === round.now.toISOString();
    return !due && !isNew && isDeepStrictEqual(before, looked);
  }

  #load({ now }: Round): AlertState {
    return this.#unsaved ?? loadAlertState(this.#options.stateDirectory, now);
  }

  #save(state: AlertState): void {
    this.#unsaved = state;
    saveAlertState(this.#options.stateDirectory, state);
    this.#unsaved = undefined;
  }

  /** The state as it is now, and nobody told of it yet. */
  #look(before: AlertState, { now, outcomes, heartbeat }: Round): AlertState {
    const { stateDirectory, limits, dueLimits = [], settings } = this.#options;
    const records = jobNames.map((job) => outcomes.reduce(withOutcome, recordOf(stateDirectory, job)));
    const state = {
      ...before,
      schedules: schedulesOf(before.schedules, dueLimits, now),
      reasons: outcomes.reduce(reasonsOf, before.reasons),
      backups: withNewest(before.backups, records),
      channels: withHeartbeat(inUse(before.channels, settings), heartbeat, now),
    };
    const conditions = conditionsOf({
      records,
      running: isRunning,
      limits,
      dueLimits,
      schedules: state.schedules,
      backups: state.backups,
      reasons: state.reasons,
      before: before.conditions,
      watchedSince: before.watchedSince,
      now,
    });
    // What it says of its age changes by the hour: what was said first stays until it is well again.
    const kept = conditions.map((one) => (one.kind === "old" ? (before.conditions[one.key] ?? one) : one));
    return { ...state, conditions: Object.fromEntries(kept.map((one) => [one.key, one])) };
  }

  async #tell(state: AlertState, round: Round): Promise<{ state: AlertState; told: number }> {
    const { now } = round;
    const talking = this.#channels.filter(({ name }) => isDue(state, name, round));
    if (talking.length === 0) return { state, told: 0 };
    const host = await this.#options.host();
    const results = await Promise.all(
      talking.map(async (channel) => {
        const before = state.channels[channel.name] ?? newChannel;
        return [
          channel.name,
          await tellThrough(channel, before, state, { host, now, patience: round.patience }),
        ] as const;
      }),
    );
    const told = results.reduce((sum, [, { told }]) => sum + told, 0);
    const channels = {
      ...state.channels,
      ...Object.fromEntries(results.map(([name, { channel }]) => [name, channel])),
    };
    return { state: { ...state, channels }, told };
  }
}

function alarmed(state: AlertState, told: number): Alarmed {
  return { told, conditions: Object.values(state.conditions), unsent: unsentOf(state) };
}

/** What one call is about. */
interface Round {
  readonly now: Date;
  readonly patience: Patience;
  readonly lockMs: number;
  /** Comes again in a minute: waits for nobody and lets a channel that does not work rest. */
  readonly minutely: boolean;
  readonly outcomes: readonly Outcome[];
  readonly heartbeat?: HeartbeatResult | undefined;
}

function isDue(state: AlertState, name: string, { minutely, now }: Round): boolean {
  const { told, retryAt } = state.channels[name] ?? newChannel;
  const rests = minutely && retryAt !== null && isAhead(retryAt, now);
  return !rests && dueFor(told, Object.values(state.conditions), now).length > 0;
}

const longestRestMs = 3_600_000;

/** A clock that was set back lets nobody rest for longer than usual. */
function isAhead(time: string, now: Date): boolean {
  const ms = Date.parse(time) - now.getTime();
  return ms > 0 && ms <= longestRestMs;
}

/** A record that can't be read (a disk that is dying) must not keep the run that has just failed from being told. */
function recordOf(stateDirectory: string, job: JobName): JobRecord {
  try {
    return readJob(stateDirectory, job);
  } catch {
    const nothing = { lastStart: null, lastEnd: null, lastExit: null, lastSuccess: null, lastLocked: null };
    return { job, ...nothing, running: null, scheduled: null, missedTarget: null, detail: null };
  }
}

/** As it would stand there if it was recorded; where the state can't be written it is not. */
function withOutcome(record: JobRecord, outcome: Outcome): JobRecord {
  if (outcome.job !== record.job || outcome.exit === lockedExit) return record;
  const { exit, start } = outcome;
  const good = exit === 0 || exit === 3;
  // Without an exit code and without its process: gone.
  const running = exit === null ? (record.running ?? { pid: 0, startTicks: "" }) : null;
  return { ...record, running, lastStart: start, lastExit: exit, lastSuccess: good ? start : record.lastSuccess };
}

function schedulesOf(before: Schedules, limits: readonly DueLimit[], now: Date): Schedules {
  const entries = limits.map(({ job, schedule }) => {
    const known = before[job];
    return [job, known?.schedule === schedule ? known : { schedule, since: now.toISOString() }] as const;
  });
  return Object.fromEntries(entries);
}

function reasonsOf(reasons: AlertState["reasons"], outcome: Outcome): AlertState["reasons"] {
  if (outcome.exit === lockedExit) return reasons;
  const { [outcome.job]: _, ...others } = reasons;
  if (outcome.message === null) return others;
  return { ...others, [outcome.job]: { start: outcome.start, message: oneLine(outcome.message) } };
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim().slice(0, 500);
}

function withNewest(backups: readonly BackedUp[], records: readonly JobRecord[]): BackedUp[] {
  const record = records.find(({ job }) => job === "backup");
  const messages = record?.detail?.messages;
  const start = record?.lastSuccess ?? null;
  if (start === null || typeof messages !== "number" || backups.at(-1)?.start === start) return [...backups];
  return [...backups, { start, messages }].slice(-backupsKept);
}

/** Without what was taken out of the configuration: nobody can repair that. */
function inUse(channels: AlertState["channels"], settings: AlertSettings): AlertState["channels"] {
  const names: string[] = channelsOf(settings).map(({ name }) => name);
  if (settings.heartbeatUrl !== undefined) names.push("heartbeat");
  if (settings.drillHeartbeatUrl !== undefined) names.push("drill heartbeat");
  return Object.fromEntries(Object.entries(channels).filter(([name]) => names.includes(name)));
}

function withHeartbeat(
  channels: AlertState["channels"],
  heartbeat: HeartbeatResult | undefined,
  now: Date,
): AlertState["channels"] {
  if (heartbeat === undefined) return channels;
  const { channel, error } = heartbeat;
  const state = error === null ? newChannel : failed(channels[channel] ?? newChannel, "end of a run", error, now);
  return { ...channels, [channel]: state };
}

interface Telling {
  readonly host: string;
  readonly now: Date;
  readonly patience: Patience;
}

/** One after another; after the first that does not arrive the rest waits for the next time. */
async function tellThrough(
  channel: Channel,
  before: ChannelState,
  { conditions }: AlertState,
  { host, now, patience }: Telling,
): Promise<{ channel: ChannelState; told: number }> {
  let state = before;
  let told = 0;
  const { timeoutMs } = patience;
  for (const due of dueFor(before.told, Object.values(conditions), now)) {
    const event = eventOf(due, host, now);
    try {
      await attempt((signal, tryNumber) => channel.send(event, { signal, tryNumber, timeoutMs }), patience);
    } catch (error) {
      return { channel: failed(state, whatOf(due), reasonOf(error), now), told };
    }
    told++;
    state = { ...newChannel, told: afterTelling(state.told, due, now) };
  }
  return { channel: state, told };
}

function whatOf({ event, condition }: Due): string {
  return `${condition.key} ${event}`;
}

const unsentKept = 20;

function failed(state: ChannelState, what: string, error: string, now: Date): ChannelState {
  const first = state.unsent.find((one) => one.what === what);
  const entry = { time: first?.time ?? now.toISOString(), what, error };
  const restMs = Math.min(longestRestMs, 60_000 * 2 ** state.failures);
  return {
    ...state,
    unsent: [...state.unsent.filter((one) => one.what !== what), entry].slice(-unsentKept),
    failures: state.failures + 1,
    retryAt: new Date(now.getTime() + restMs).toISOString(),
  };
}

/**
 * Undefined where there can be no lock (the state directory can't be written, flock is missing): told twice is better
 * than not at all.
 */
async function lockIfPossible(stateDirectory: string, waitMs: number): Promise<HeldLock | "busy" | undefined> {
  try {
    makePrivateDirectory(alertDirectory(stateDirectory));
    return (await tryLock(alertDirectory(stateDirectory), waitMs)) ?? "busy";
  } catch {
    return undefined;
  }
}
