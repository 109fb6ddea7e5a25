import { readdirSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { errnoOf, OperatorError } from "../errors.ts";
import { listHolds } from "../holds/list.ts";
import { readCopies } from "../jobs/copies.ts";
import { isRunning, type JobName, type JobRecord, jobNames, readJob } from "../jobs/record.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import { textIfThere } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import { daemonFaults } from "./daemon-faults.ts";
import { type InstanceState, lookAtQueues, mayNotRead } from "./queue-state.ts";
import type { Happened, HoldStatus, JobStatus, LastBackup, LastVerify, StatusFacts, UnsentAlert } from "./report.ts";

/** A job of the schedule, and when it was due last. */
export interface ScheduledJob {
  readonly job: JobName;
  /** Its times, as text. */
  readonly schedule: string;
  /** The last two times it was due, the later one first, milliseconds since 1970; fewer where there were fewer. */
  readonly due: readonly number[];
  /** How late a run may be that is made up, milliseconds. */
  readonly graceMs: number;
}

export interface LocalLook {
  readonly host: string;
  readonly stateDirectory: string;
  readonly instances: readonly PostfixInstance[];
  readonly schedule: readonly ScheduledJob[];
  /** Since when the schedule has stood, milliseconds since 1970: what was due before was not missed. */
  readonly scheduledSince: number;
  readonly clock: Clock;
  /** Milliseconds that may go into finding the oldest messages. */
  readonly budgetMs?: number;
}

/**
 * What this host knows by itself: records of its jobs, what is on hold because of it, its queues. Asks no repository, runs
 * no program, takes no lock and writes nothing.
 *
 * @throws OperatorError `refused` when this user may not look
 */
export function lookAround(look: LocalLook): StatusFacts {
  const { host, stateDirectory, clock, schedule } = look;
  const now = clock.now();
  requireReadable(stateDirectory);
  const records = jobNames.map((job) => readJob(stateDirectory, job));
  const alarm = alarmFacts(stateDirectory);
  const jobs = records.map((record) => jobStatus(record, look, alarm));
  const seen = look.instances.map((instance) => lookAtInstance(instance, look));
  return {
    host,
    time: new Date(now).toISOString(),
    backupExpected: isBackupExpected(jobs, schedule),
    lastBackup: lastBackup(recordOf(records, "backup"), now),
    lastVerify: lastVerify(recordOf(records, "verify"), now),
    lastDrill: happened(recordOf(records, "drill")?.lastSuccess, now),
    jobs,
    holds: seen.flatMap(({ holds }) => holds),
    copies: readCopies(stateDirectory).map(({ url, behind, lastSuccess, error }) => ({
      url,
      behind,
      lastSuccess: happened(lastSuccess, now),
      error,
    })),
    unsentAlerts: unsentAlerts(stateDirectory),
    emptyBackup: alarm.conditions["backup-empty"] ?? null,
    daemonFaults: daemonFaults(stateDirectory),
    instances: seen.flatMap(({ state }) => state ?? []),
    unseen: seen.flatMap(({ unseen }) => unseen ?? []),
    repository: null,
  };
}

/** A state directory that is not there yet is one in which nothing happened. */
function requireReadable(stateDirectory: string): void {
  try {
    readdirSync(stateDirectory);
  } catch (error) {
    const code = errnoOf(error);
    if (code === "EACCES") throw mayNotRead(stateDirectory, error);
    if (code !== "ENOENT") throw error;
  }
}

function recordOf(records: readonly JobRecord[], job: JobName): JobRecord | undefined {
  return records.find((record) => record.job === job);
}

/**
 * A standby has a schedule, and no backup in it. Where nothing says what the host is for (cron starts everything), no backup
 * at all is worth an alarm.
 */
function isBackupExpected(jobs: readonly JobStatus[], schedule: readonly ScheduledJob[]): boolean {
  const backup = jobs.find(({ job }) => job === "backup");
  return schedule.length === 0 || backup?.scheduled === true || (backup !== undefined && backup.lastStart !== null);
}

function jobStatus(record: JobRecord, { schedule, scheduledSince, clock }: LocalLook, alarm: AlarmFacts): JobStatus {
  const now = clock.now();
  const running = isRunning(record);
  const scheduled = schedule.find(({ job }) => job === record.job);
  const known = alarm.schedules[record.job];
  // A configuration that was edited for another reason changes nothing.
  const since =
    known !== undefined && known.schedule === scheduled?.schedule ? Date.parse(known.since) : scheduledSince;
  return {
    job: record.job,
    lastSuccess: happened(record.lastSuccess, now),
    lastStart: happened(record.lastStart, now),
    lastExit: record.lastExit,
    running,
    died: record.running !== null && !running,
    scheduled: scheduled !== undefined,
    missedTarget: record.missedTarget,
    missedSince: scheduled === undefined || running ? null : missedSince(record, scheduled, since, now),
  };
}

/** Jobs that are due every few minutes may take longer than that, or wait for a lock. */
const lateMs = 60 * 60 * 1000;

/**
 * One run may be late or still at work; when the next one is due as well and neither succeeded, it is missed. A drill is so
 * seldom that each counts, once nobody makes it up any more; one that failed did happen.
 */
function missedSince(record: JobRecord, scheduled: ScheduledJob, scheduledSince: number, now: number): string | null {
  const { job, due, graceMs } = scheduled;
  if (job === "drill") {
    const last = due.find((time) => time <= now - graceMs);
    const done = [record.lastSuccess, record.lastEnd].map((time) => Date.parse(time ?? ""));
    const isMissed = last !== undefined && last >= scheduledSince && !done.some((time) => time >= last);
    return isMissed ? new Date(last).toISOString() : null;
  }
  const [, before] = due;
  const good = record.lastSuccess === null ? scheduledSince : Date.parse(record.lastSuccess);
  if (before === undefined || before < scheduledSince || good >= before || now - good < lateMs) return null;
  return new Date(before).toISOString();
}

function lastBackup(record: JobRecord | undefined, now: number): LastBackup | null {
  const when = happened(record?.lastSuccess, now);
  if (when === null) return null;
  const { snapshot, messages, heldLongestMs } = record?.detail ?? {};
  return {
    ...when,
    snapshot: text(snapshot),
    messages: number(messages),
    heldLongestMs: number(heldLongestMs),
  };
}

function lastVerify(record: JobRecord | undefined, now: number): LastVerify | null {
  const when = happened(record?.lastSuccess, now);
  return when && { ...when, level: text(record?.detail?.level), snapshot: text(record?.detail?.snapshot) };
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

/** Whole seconds; negative for what is dated in the future. */
export function happened(time: string | null | undefined, now: number): Happened | null {
  const at = Date.parse(time ?? "");
  return Number.isNaN(at) ? null : { time: new Date(at).toISOString(), ageSeconds: Math.floor((now - at) / 1000) };
}

interface Seen {
  readonly state?: InstanceState;
  readonly holds: readonly HoldStatus[];
  readonly unseen?: string;
}

/** An instance that can't be looked at is a finding and does not take the others along. */
function lookAtInstance(instance: PostfixInstance, look: LocalLook): Seen {
  const { clock, instances, budgetMs = 100 } = look;
  try {
    const state = lookAtQueues(instance, { clock, budgetMs: budgetMs / Math.max(1, instances.length) });
    return { state, holds: holdsOf(instance, state, look) };
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind === "refused") throw error;
    return { holds: [], unseen: `${instance.name}: ${error.message}` };
  }
}

function holdsOf(instance: PostfixInstance, state: InstanceState, { stateDirectory, clock }: LocalLook): HoldStatus[] {
  if (state.queues.hold.messages === 0) return [];
  const groups = Map.groupBy(listHolds(stateDirectory, instance, clock), ({ kind, run }) => `${kind} ${run}`);
  return [...groups.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const began = group.reduce((oldest, { since }) => Math.min(oldest, Date.parse(since)), Date.parse(first.since));
    return [
      {
        kind: first.kind,
        instance: instance.name,
        run: first.run,
        since: new Date(began).toISOString(),
        ageSeconds: Math.floor((clock.now() - began) / 1000),
        messages: group.length,
      },
    ];
  });
}

const alarmSchema = z.object({
  conditions: z.record(z.string(), z.object({ message: z.string(), since: z.string() })),
  schedules: z.record(z.string(), z.object({ schedule: z.string(), since: z.string() })).default({}),
});

type AlarmFacts = Readonly<z.infer<typeof alarmSchema>>;

/** What those who alert have noted and a single look can't know. A file that says something else is written anew by them. */
function alarmFacts(stateDirectory: string): AlarmFacts {
  const text = textIfThere(join(stateDirectory, "alerts", "state.json"));
  const parsed = alarmSchema.safeParse(parseJson(text ?? ""));
  return parsed.success ? parsed.data : { conditions: {}, schedules: {} };
}

const unsentSchema = z.array(z.object({ time: z.string(), channel: z.string(), error: z.string() }));

/** What those who alert left to say of what they could not tell. A file that says something else is told of, not skipped. */
function unsentAlerts(stateDirectory: string): readonly UnsentAlert[] {
  const path = join(stateDirectory, "alerts", "unsent.json");
  const text = textIfThere(path);
  if (text === undefined) return [];
  const parsed = unsentSchema.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  return [{ time: new Date(0).toISOString(), channel: path, error: "it can't be read" }];
}
