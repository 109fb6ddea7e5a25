import { readdirSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import { readLocks } from "../postfix/locks.ts";
import { lookAround, type ScheduledJob } from "../status/local.ts";
import { judgeRepository, judge as judgeStatus } from "../status/problems.ts";
import type { RepositoryStatus, StatusFacts, StatusLimits, StatusProblem } from "../status/report.ts";
import type { Clock } from "../system/clock.ts";
import type { KnownInstance } from "./instances.ts";
import { judge } from "./judge.ts";
import { signsOf } from "./log-signs.ts";
import { readTails } from "./log-tail.ts";
import type { DiskState, InstanceFacts, RepositoryAnswer, TriageFacts, TriageReport } from "./report.ts";
import { lookAtTraffic } from "./traffic.ts";

export interface TriageLook {
  readonly host: string;
  readonly stateDirectory: string;
  readonly instances: readonly KnownInstance[];
  readonly schedule: readonly ScheduledJob[];
  /** Milliseconds since 1970. */
  readonly scheduledSince: number;
  readonly limits: StatusLimits;
  readonly repository: RepositoryAnswer;
  /** What the repository says of the hosts in it, where this one backs none up: a standby. */
  readonly stored: RepositoryStatus | null;
  readonly identity: string | null;
  /** What is known to be out of sight before this looks. */
  readonly unseen: readonly string[];
  readonly clock: Clock;
  /** As in TailOptions. */
  readonly syslogFiles?: readonly string[];
}

/** Milliseconds that may go into queue files, of all instances together: for their age, and for their envelopes. */
const ageMs = 300;
const trafficMs = 700;

/**
 * Measure, judge, and name the runbooks to open. Writes nothing, holds no lock longer than it takes to see whether one is
 * free, and takes a second for a queue of 100,000 messages. What can't be looked at is told of, and takes nothing else along.
 */
export async function triage(look: TriageLook): Promise<TriageReport> {
  const { clock } = look;
  const unseen = [...look.unseen];
  const status = trying(unseen, () => statusFacts(look));
  const seen = await Promise.all(look.instances.map((known) => lookAtInstance(known, status, look, unseen)));
  const { tails, unseen: unreadable } = await readTails({
    logFiles: look.instances.map(({ logFile }) => logFile),
    now: clock.now(),
    ...(look.syslogFiles === undefined ? {} : { syslogFiles: look.syslogFiles }),
  });
  const facts: TriageFacts = {
    host: look.host,
    time: new Date(clock.now()).toISOString(),
    backupExpected: status?.backupExpected ?? (look.schedule.length === 0 || look.schedule.some(isBackup)),
    instances: seen,
    holds: status?.holds ?? [],
    jobs: status?.jobs ?? [],
    lastBackup: status?.lastBackup ?? null,
    logs: tails.map((tail) => signsOf(tail, clock.now())),
    repository: look.repository,
    identity: look.identity,
    unseen: [...unseen, ...unreadable],
  };
  const own = status === undefined ? [] : judgeStatus(status, look.limits);
  return { ...facts, ...judge(facts, own, hostsBehind(look, facts)) };
}

/** Hosts whose backups have grown old, by the repository: on a standby that may be all there is to be seen of a dead primary. */
function hostsBehind({ stored, host, limits }: TriageLook, { backupExpected }: TriageFacts): readonly StatusProblem[] {
  if (stored === null) return [];
  const { own, elsewhere } = judgeRepository(stored, { host, backupExpected }, limits);
  return [...own, ...elsewhere];
}

function isBackup({ job }: ScheduledJob): boolean {
  return job === "backup";
}

function statusFacts(look: TriageLook): StatusFacts {
  const instances = look.instances.map(({ instance }) => instance);
  return lookAround({ ...look, instances, budgetMs: ageMs });
}

async function lookAtInstance(
  { instance, reserveBytes, enabled }: KnownInstance,
  status: StatusFacts | undefined,
  { clock, instances }: TriageLook,
  unseen: string[],
): Promise<InstanceFacts> {
  const { name, configDirectory, queueDirectory } = instance;
  const state = status?.instances.find((one) => one.name === name) ?? null;
  const ours = status?.holds.filter((hold) => hold.instance === name).reduce((sum, { messages }) => sum + messages, 0);
  const isThere = statSync(queueDirectory, { throwIfNoEntry: false }) !== undefined;
  const master = isThere ? await tryingLater(unseen, () => masterState(instance)) : "stopped";
  const budgetMs = trafficMs / Math.max(1, instances.length);
  return {
    name,
    configDirectory,
    queueDirectory,
    enabled,
    running: master === undefined ? null : master !== "stopped",
    locked: isThere ? (trying(unseen, () => isLocked(queueDirectory)) ?? null) : null,
    state,
    corrupt: trying(unseen, () => namesIn(join(queueDirectory, "corrupt"))) ?? [],
    disk: isThere ? (trying(unseen, () => diskState(queueDirectory, reserveBytes)) ?? null) : null,
    traffic: state === null ? null : (trying(unseen, () => lookAtTraffic(queueDirectory, { clock, budgetMs })) ?? null),
    heldByOthers: state === null || ours === undefined ? null : Math.max(0, state.queues.hold.messages - ours),
  };
}

function isLocked(directory: string): boolean {
  const { dev, ino } = statSync(directory);
  return readLocks().has(dev, ino);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => name)
      .sort();
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}

function diskState(directory: string, reserveBytes: number | null): DiskState {
  const { blocks, bfree, bavail, bsize, files, ffree } = statfsSync(directory);
  const used = blocks - bfree;
  return {
    directory,
    totalBytes: blocks * bsize,
    freeBytes: bavail * bsize,
    usedShare: used + bavail === 0 ? 0 : used / (used + bavail),
    freeInodes: files === 0 ? null : ffree,
    usedInodeShare: files === 0 ? null : (files - ffree) / files,
    reserveBytes,
  };
}

function trying<T>(unseen: string[], ask: () => T): T | undefined {
  try {
    return ask();
  } catch (error) {
    unseen.push(reason(error));
    return undefined;
  }
}

async function tryingLater<T>(unseen: string[], ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    unseen.push(reason(error));
    return undefined;
  }
}

/** @throws what is neither ours nor the system's */
function reason(error: unknown): string {
  if (error instanceof OperatorError || errnoOf(error) !== undefined) return (error as Error).message;
  throw error;
}
