import type { JobName, JobRecord } from "../jobs/record.ts";

/*
 * What is wrong with the unattended jobs, told from their records and the time on the wall alone: so it is found again by
 * whoever looks next, whatever was killed in between.
 */

/**
 * `failed`: the last run ended badly, or is gone without an end. `incomplete`: it ended with exit 3. `old`: the last success
 * is too long ago. `empty`: nothing was backed up where there always was something. `overdue`: it was due and did not happen.
 * `target`: it happened, and missed a target.
 */
export const conditionKinds = ["failed", "incomplete", "old", "empty", "overdue", "target"] as const;

export type ConditionKind = (typeof conditionKinds)[number];

export interface Condition {
  /** `backup-failed`: one of a kind at a time for each job. */
  readonly key: string;
  readonly kind: ConditionKind;
  readonly job: JobName;
  readonly severity: "warning" | "critical";
  /** A fact, lower case, without the host and without a full stop. */
  readonly message: string;
  /** Exit code of the run it is about, where it is about one that has one. */
  readonly exit: number | null;
  /** When it was first seen, RFC 3339 in UTC. */
  readonly since: string;
}

/** A job that is to succeed at least this often. */
export interface AgeLimit {
  readonly job: JobName;
  readonly maxAgeMs: number;
}

/** A job that is to happen each time it is due: it says something though nothing else has changed. */
export interface DueLimit {
  readonly job: JobName;
  /** Its times, as text: with other times everything that was due before is forgotten. */
  readonly schedule: string;
  /** The last time it was due at or before one, milliseconds since 1970. */
  readonly lastDue: (before: number) => number | undefined;
  /** How late it may be. */
  readonly graceMs: number;
}

/** Since when a job has its times, RFC 3339 in UTC. */
export type Schedules = Readonly<Partial<Record<JobName, { readonly schedule: string; readonly since: string }>>>;

/** A success of the backup and how many messages it had. */
export interface BackedUp {
  /** As `lastSuccess` of the record, which tells one from the next. */
  readonly start: string;
  readonly messages: number;
}

/** A run that has just ended, whether or not its record could be written. */
export interface Outcome {
  readonly job: JobName;
  /** RFC 3339 in UTC. */
  readonly start: string;
  /** Null when it was ended from outside and has none. */
  readonly exit: number | null;
  /** What it failed of. */
  readonly message: string | null;
}

/** What a job failed of, and which run of it. */
export type Reasons = Readonly<Partial<Record<JobName, { readonly start: string; readonly message: string }>>>;

export interface Situation {
  readonly records: readonly JobRecord[];
  /** Whether the run that started last is still at work. */
  readonly running: (record: JobRecord) => boolean;
  readonly limits: readonly AgeLimit[];
  readonly dueLimits: readonly DueLimit[];
  readonly schedules: Schedules;
  /** Oldest first, the last success included. */
  readonly backups: readonly BackedUp[];
  /** What each job last failed of, as far as it is known. */
  readonly reasons: Reasons;
  /** What was wrong when somebody looked last, by key. */
  readonly before: Readonly<Record<string, Condition>>;
  /** When somebody looked for the first time: the age of what never succeeded. RFC 3339 in UTC. */
  readonly watchedSince: string;
  readonly now: Date;
}

/** Exit code of a run that found the lock held: it says nothing about the job. */
export const lockedExit = 11;

/** What is wrong now. What was wrong before keeps its `since`. */
export function conditionsOf(situation: Situation): readonly Condition[] {
  const found = [
    ...situation.records.flatMap((record) => runConditions(record, situation)),
    ...situation.limits.flatMap((limit) => ageConditions(limit, situation)),
    ...situation.dueLimits.flatMap((limit) => dueConditions(limit, situation)),
    ...emptyConditions(situation.backups),
  ];
  const now = situation.now.toISOString();
  return found.map((condition) => {
    const key = `${condition.job}-${condition.kind}`;
    return { since: situation.before[key]?.since ?? now, ...condition, key };
  });
}

/** One that was there before brings its `since`. */
type Found = Omit<Condition, "since" | "key"> & { readonly since?: string };

function runConditions(record: JobRecord, { running, before, reasons }: Situation): readonly Found[] {
  const { job, lastStart, lastExit } = record;
  // Of a run at work nobody knows how it ends: what was wrong stays so.
  const ends = [before[`${job}-failed`], before[`${job}-incomplete`], before[`${job}-target`]];
  if (running(record)) return ends.filter((one) => one !== undefined);
  // One that fails is not complete either.
  const incomplete = [before[`${job}-incomplete`]].filter((one) => one !== undefined);
  const reason = reasons[job]?.start === lastStart ? reasons[job]?.message : undefined;
  if (record.running !== null) {
    const why = reason ?? "it is gone without an end: it was killed, or the host went down";
    const message = `${job} failed, which began at ${lastStart}: ${why}`;
    return [{ kind: "failed", job, severity: "critical", message, exit: null }, ...incomplete];
  }
  if (lastExit === null || lastExit === 0 || lastExit === lockedExit) return [];
  const why = reason ?? exitWords[lastExit];
  const told = `(exit ${lastExit})${why === undefined ? "" : `: ${why}`}`;
  if (lastExit === 3) {
    return [{ kind: "incomplete", job, severity: "warning", message: `${job} was incomplete ${told}`, exit: 3 }];
  }
  if (record.missedTarget !== null) {
    const missed = `${job} missed its target: ${record.missedTarget}`;
    return [{ kind: "target", job, severity: "critical", message: missed, exit: lastExit }];
  }
  const message = `${job} failed ${told}`;
  return [{ kind: "failed", job, severity: "critical", message, exit: lastExit }, ...incomplete];
}

/** What exit codes say where the run said nothing more (docs/INTERFACE.md). */
const exitWords: Readonly<Record<number, string>> = {
  2: "wrong usage or configuration",
  3: "not everything that is there could be read, or something was held over the limit",
  10: "there is no repository",
  12: "no identity opens this",
  13: "something is damaged, missing, or not signed by a trusted key",
  130: "it was ended by a signal",
  137: "it was killed: out of memory, much too late, or by somebody",
};

const hour = 3_600_000;

function ageConditions({ job, maxAgeMs }: AgeLimit, situation: Situation): readonly Found[] {
  const lastSuccess = situation.records.find((record) => record.job === job)?.lastSuccess ?? null;
  const ageMs = situation.now.getTime() - Date.parse(lastSuccess ?? situation.watchedSince);
  const severity = "critical" as const;
  if (ageMs < -hour) {
    const message = `the last ${job} that succeeded is dated in the future (${lastSuccess}), so nobody knows how old it is`;
    return lastSuccess === null ? [] : [{ kind: "old", job, severity, message, exit: null }];
  }
  if (ageMs <= maxAgeMs) return [];
  const last =
    lastSuccess === null
      ? `no ${job} has succeeded since ${situation.watchedSince}`
      : `the last ${job} that succeeded began at ${lastSuccess}`;
  const message = `${last}, ${hours(ageMs)} ago; the limit is ${hours(maxAgeMs)}`;
  return [{ kind: "old", job, severity, message, exit: null }];
}

/** One that happened and failed is told as that. */
function dueConditions({ job, lastDue, graceMs }: DueLimit, situation: Situation): readonly Found[] {
  const { records, running, schedules, before, now } = situation;
  const record = records.find((one) => one.job === job);
  if (record !== undefined && running(record)) return [before[`${job}-overdue`]].filter((one) => one !== undefined);
  const due = lastDue(now.getTime() - graceMs);
  const { lastSuccess = null, lastEnd = null } = record ?? {};
  const done = [schedules[job]?.since ?? null, lastSuccess, lastEnd].map((time) => Date.parse(time ?? ""));
  if (due === undefined || done.some((time) => time >= due)) return [];
  const last = lastSuccess === null ? "none has ever succeeded" : `the last that succeeded began at ${lastSuccess}`;
  const message = `${job} did not happen: it was due at ${new Date(due).toISOString()}; ${last}`;
  return [{ kind: "overdue", job, severity: "critical", message, exit: null }];
}

function hours(ms: number): string {
  return `${Math.floor(ms / hour)} h`;
}

/** Backups that tell what is usual, and so few that a first week can't tell. */
const usual = 10;
const leastUsual = 3;
/** How many are kept: empty ones, and the usual ones before them. */
export const backupsKept = 2 * usual;

/** After ten empty ones in a row, nothing to back up is usual. */
function emptyConditions(backups: readonly BackedUp[]): readonly Found[] {
  const empty = backups.length - 1 - backups.findLastIndex(({ messages }) => messages > 0);
  const before = backups.slice(0, backups.length - empty).slice(-usual);
  if (empty === 0 || empty >= usual) return [];
  if (before.length < leastUsual || before.some(({ messages }) => messages === 0)) return [];
  const message = `backup found no message at all in the queues, and each of the ${before.length} before had some: is it the right queue?`;
  return [{ kind: "empty", job: "backup", severity: "warning", message, exit: 0 }];
}
