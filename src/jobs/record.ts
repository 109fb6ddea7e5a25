import { join } from "node:path";
import * as z from "zod";
import { makePrivateDirectory, textIfThere, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import { processStart } from "../system/processes.ts";
import { addBackupRun } from "./history.ts";

/*
 * What is known of the unattended jobs of this host, one small file for each. Whoever runs a job writes it: the daemon's
 * child, a systemd timer, cron, a person. Status and alerts read it; they need nothing else and no repository.
 */

export const jobNames = ["backup", "verify", "drill", "prune", "copy"] as const;

export type JobName = (typeof jobNames)[number];

/**
 * Small facts a job leaves about its last success, such as a backup's `snapshot`, `messages` and `heldLongestMs`. A drill that
 * ends with 1 because it missed a target leaves that as `missedTarget`, in words.
 */
export type JobDetail = Readonly<Record<string, string | number | boolean | null>>;

/** Exit codes that count as success: done, and done but incomplete (listed; what could be saved is saved). */
const goodExits: readonly number[] = [0, 3];

/** Exit code of a run that came to its end, and whose answer is no. */
const noExit = 1;

/** Another run held the lock: nothing was done, and it says nothing about the job. */
const lockedExit = 11;

/** The process of a run; its start in clock ticks after boot tells it from a later one with the same pid (proc(5)). */
const processSchema = z.object({ pid: z.int(), startTicks: z.string() });

export type JobProcess = Readonly<z.infer<typeof processSchema>>;

const scheduledSchema = z.object({
  due: z.string(),
  start: z.string(),
  end: z.string().nullable(),
  exit: z.int().nullable(),
});

/** The last run that was started for a time on the schedule: `due` is that time. */
export type ScheduledRun = Readonly<z.infer<typeof scheduledSchema>>;

const recordSchema = z.object({
  job: z.enum(jobNames),
  lastStart: z.string().nullable(),
  lastEnd: z.string().nullable(),
  lastExit: z.int().nullable(),
  lastSuccess: z.string().nullable(),
  lastLocked: z.string().nullable(),
  running: processSchema.nullable(),
  scheduled: scheduledSchema.nullable(),
  missedTarget: z.string().nullable().default(null),
  detail: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])).nullable(),
});

/** Times are RFC 3339 in UTC; what never happened is null. */
export interface JobRecord {
  readonly job: JobName;
  /** Start of the last run that was not refused for a lock. */
  readonly lastStart: string | null;
  /** End and exit code of the last run that ended; of one that was killed only where somebody saw it end. */
  readonly lastEnd: string | null;
  readonly lastExit: number | null;
  /** Start of the last run that ended well (exit 0 or 3). */
  readonly lastSuccess: string | null;
  /** Start of the last run that found the lock held. */
  readonly lastLocked: string | null;
  /** The process of the run that started last and was not seen to end; it may be gone (`isRunning` tells). */
  readonly running: JobProcess | null;
  readonly scheduled: ScheduledRun | null;
  /** The target that the last run which ended has missed, in its words; null when it missed none. */
  readonly missedTarget: string | null;
  /** What the last success left to say. */
  readonly detail: JobDetail | null;
}

/** The record of a job; everything null where it never ran, and where the file is not a record. */
export function readJob(stateDirectory: string, job: JobName): JobRecord {
  const parsed = recordSchema.safeParse(parseJson(textIfThere(fileOf(stateDirectory, job)) ?? ""));
  return parsed.success && parsed.data.job === job ? parsed.data : neverRun(job);
}

/** Whether the run that started last is still at work. */
export function isRunning(record: JobRecord): boolean {
  return record.running !== null && isAlive(record.running);
}

/** Whether that very process is there, not one that got its number later. */
export function isAlive({ pid, startTicks }: JobProcess): boolean {
  return processStart(pid) === startTicks;
}

/** A run that has begun and whose end is to be recorded. */
export interface StartedRun {
  readonly job: JobName;
  readonly start: string;
  /** The time on the schedule it runs for; null for a run by hand, cron or timer. */
  readonly due: string | null;
  /** What stood there before, for the case that this run is refused. */
  readonly before: Pick<JobRecord, "lastStart" | "lastEnd" | "running">;
}

export interface StartOf {
  readonly job: JobName;
  readonly now: Date;
  /** The time on the schedule this run is for. */
  readonly due?: string | null;
  /** The process that runs it; default: this one. */
  readonly process?: JobProcess;
}

/** Record, durably, that a run begins. Makes `<state>/jobs` where it is missing. */
export function recordStart(stateDirectory: string, { job, now, due = null, process: runner }: StartOf): StartedRun {
  const record = readJob(stateDirectory, job);
  const { lastStart, lastEnd, running } = record;
  const start = now.toISOString();
  write(stateDirectory, {
    ...record,
    lastStart: start,
    running: runner ?? ourselves(),
    scheduled: due === null ? record.scheduled : { due, start, end: null, exit: null },
  });
  return { job, start, due, before: { lastStart, lastEnd, running } };
}

/**
 * Record, durably, how a run ended; a backup also in the history of backups. A run that found the lock held (exit 11) leaves everything as it was, but for
 * `lastLocked`; its time on the schedule is not done with.
 */
export function recordEnd(
  stateDirectory: string,
  run: StartedRun,
  { exit, now, detail }: { readonly exit: number; readonly now: Date; readonly detail?: JobDetail | undefined },
): void {
  const record = readJob(stateDirectory, run.job);
  // A run that began after this one, by hand beside the daemon's, keeps its place.
  const ours = record.lastStart === run.start;
  const scheduled =
    run.due !== null && record.scheduled?.due === run.due
      ? { ...record.scheduled, end: now.toISOString(), exit }
      : record.scheduled;
  if (exit === lockedExit) {
    const { lastStart, lastEnd, running } = run.before;
    // What held the lock may have ended meanwhile, and left its place to us.
    const back = { lastStart, running: record.lastEnd === lastEnd ? running : null };
    write(stateDirectory, { ...record, ...(ours ? back : {}), scheduled, lastLocked: run.start });
    return;
  }
  const good = goodExits.includes(exit);
  write(stateDirectory, {
    ...record,
    lastEnd: now.toISOString(),
    lastExit: exit,
    running: ours ? null : record.running,
    scheduled,
    missedTarget: exit === noExit && typeof detail?.missedTarget === "string" ? detail.missedTarget : null,
    ...(good ? { lastSuccess: run.start, detail: detail ?? null } : {}),
  });
  if (run.job !== "backup") return;
  addBackupRun(stateDirectory, {
    start: run.start,
    end: now.toISOString(),
    exit,
    snapshot: typeof detail?.snapshot === "string" ? detail.snapshot : null,
    messages: typeof detail?.messages === "number" ? detail.messages : null,
    heldLongestMs: typeof detail?.heldLongestMs === "number" ? detail.heldLongestMs : null,
  });
}

function write(stateDirectory: string, record: JobRecord): void {
  makePrivateDirectory(join(stateDirectory, "jobs"));
  writeFileAtomic(fileOf(stateDirectory, record.job), `${JSON.stringify(record)}\n`);
}

function ourselves(): JobProcess | null {
  const startTicks = processStart(process.pid);
  return startTicks === undefined ? null : { pid: process.pid, startTicks };
}

function fileOf(stateDirectory: string, job: JobName): string {
  return join(stateDirectory, "jobs", `${job}.json`);
}

function neverRun(job: JobName): JobRecord {
  return {
    job,
    lastStart: null,
    lastEnd: null,
    lastExit: null,
    lastSuccess: null,
    lastLocked: null,
    running: null,
    scheduled: null,
    missedTarget: null,
    detail: null,
  };
}
