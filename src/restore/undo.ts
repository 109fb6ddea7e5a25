import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  renameSync,
  unlinkSync,
} from "node:fs";
import { dirname } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { isLocked, readLocks } from "../postfix/locks.ts";
import { isSameQueue, queueIdentity } from "../postfix/queue-identity.ts";
import { locate, locateLog } from "../postfix/spool.ts";
import { parseMessageKey } from "../snapshot/manifest.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf, digestOfDescriptor } from "../system/digest.ts";
import { fsyncDirectory, readDescriptor } from "../system/files.ts";
import type { StandingClaims } from "./claiming.ts";
import { RunJournal, type RunMessage, type RunRecord, readRuns, type StagedMessage } from "./journal.ts";
import { noteReleased, releasedMeanwhile } from "./left-hold.ts";
import { dropTemporaries, makeWaitingRooms, sweepTemporaries, temporaryPath } from "./place.ts";
import { lockQueue } from "./target.ts";
import { type RunFile, whereabouts } from "./whereabouts.ts";

export interface UndoJob {
  /** Full name of the run. */
  readonly run: string;
  /** The instance it placed mail into. */
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  /** Null for a run that placed its mail without a claim. */
  readonly claims: StandingClaims | null;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: UndoEvent) => void) | undefined;
}

export interface UndoEvent {
  readonly type: "looked";
  readonly done: number;
  readonly total: number;
}

/** A message of a run as it is now. */
interface MessageNow {
  /** Its name in the target. */
  readonly queueId: string;
  /** Its name in the snapshot. */
  readonly from: string;
}

export interface RemovableMessage extends MessageNow {
  /** Under its name in hold/, or a temporary one. */
  readonly at: "hold" | "waiting";
}

/** What an undo does not touch, and where it is. */
export interface LeftMessage extends MessageNow {
  readonly at: RunFile["at"];
  readonly path: string | null;
  readonly reason: string;
}

/** What an undo would do. */
export interface UndoPlan {
  readonly run: string;
  /** The run was interrupted before all of it was placed. */
  readonly interrupted: boolean;
  readonly remove: readonly RemovableMessage[];
  readonly left: readonly LeftMessage[];
  /** Messages that were taken back before. */
  readonly undoneBefore: number;
}

export interface UndoReport extends Omit<UndoPlan, "remove"> {
  readonly removed: readonly RemovableMessage[];
  /** The claim that stands for what is left; null when there is none. */
  readonly claim: string | null;
}

/**
 * Look at what an undo would remove. Touches nothing, and takes no lock.
 *
 * @throws OperatorError `refused` when the instance has another queue directory than the one the run placed mail into
 */
export function planUndo(instance: PostfixInstance, record: RunRecord): UndoPlan {
  requireSameQueue(instance, record);
  const locks = readLocks();
  const settled = withReleased(
    record,
    releasedMeanwhile(instance, record).map(({ staged }) => staged),
  );
  const found = look(instance, settled, pending(record), (_, { dev, ino }) => locks.has(dev, ino));
  return {
    ...headOf(record),
    remove: found.flatMap((one) => (one.left === null ? [removable(one)] : [])),
    left: found.flatMap(leftOver),
  };
}

/**
 * Remove what a run placed and is still as it left it: on hold, or waiting under a temporary name, with the inode, bytes,
 * marks, mode and time it was given, and nobody delivering it; its logs go with it. Everything else is listed and not
 * touched. Then the claim is withdrawn, or narrowed to what is left: of that Postfix may deliver something here, or has.
 *
 * A message is first moved out of every daemon's sight, then noted as undone, then deleted: so a further call after a crash
 * can tell what we took from what Postfix took, and ends in the same state.
 *
 * @throws OperatorError `locked`; `refused` when the instance has another queue directory than the one the run placed mail
 * into; whatever the claims throw, when everything else is done
 */
export async function undoRun(job: UndoJob): Promise<UndoReport> {
  const lock = await lockQueue(job.instance);
  const signal = AbortSignal.any([lock.lost, ...(job.signal === undefined ? [] : [job.signal])]);
  try {
    const record = readRuns(job.stateDirectory).find(({ run }) => run === job.run);
    if (record === undefined) throw new OperatorError("failed", `run ${job.run} has no journal any more`);
    requireSameQueue(job.instance, record);
    const isLitter = record.phase === "started" || record.phase === "planned";
    return await (isLitter ? undoLitter : undoPlaced)({ ...job, signal }, record);
  } finally {
    await lock.release();
  }
}

function requireSameQueue(instance: PostfixInstance, { run, target }: RunRecord): void {
  if (isSameQueue(queueIdentity(instance.queueDirectory), target)) return;
  throw new OperatorError(
    "refused",
    `${instance.queueDirectory} is not the queue directory that run ${run} placed mail into`,
    {
      hints: [
        "is its file system mounted, and queue_directory what it was?",
        "if that queue is gone for good: spoolsafe holds take-over CLAIM --withdraw gives its mail back",
      ],
    },
  );
}

function headOf(record: RunRecord): Pick<UndoPlan, "run" | "interrupted" | "undoneBefore"> {
  return { run: record.run, interrupted: record.phase !== "ended", undoneBefore: record.undone.size };
}

/** Nothing of it has been placed: temporary files at most, and perhaps a claim that its journal does not name. */
async function undoLitter({ instance, claims, clock }: UndoJob, record: RunRecord): Promise<UndoReport> {
  sweepTemporaries(instance, record.run);
  await claims?.withdraw(record.run, withdrawn);
  RunJournal.reopen(record).end("abandoned", clock.now());
  return { ...headOf(record), removed: [], left: [], claim: null };
}

const withdrawn = "the restore was undone";

async function undoPlaced(job: UndoJob, record: RunRecord): Promise<UndoReport> {
  const found = takeAllBack(job, record);
  const left = found.flatMap(leftOver);
  const claim = await settleClaim(job, record, found);
  const removed = found.flatMap((one) => (one.left === null ? [removable(one)] : []));
  return { ...headOf(record), removed, left, claim };
}

/** A message of the run, and why it is left; null: it is ours to remove, or removed. */
interface Found {
  readonly message: RunMessage;
  readonly staged: StagedMessage;
  readonly at: RunFile["at"];
  readonly path: string | null;
  readonly left: string | null;
  /** It was to be removed, and had gone when it came to that. */
  readonly missed?: true;
}

function takeAllBack(job: UndoJob, record: RunRecord): Found[] {
  const { instance, clock, signal, report } = job;
  const out = releasedMeanwhile(instance, record).map(({ staged }) => staged);
  const settled = withReleased(record, out);
  const journal = RunJournal.reopen(record);
  const found: Found[] = [];
  try {
    noteReleased({ ...job, journal }, out);
    for (const staged of record.staged) if (record.undone.has(staged.number)) clearUp(instance, record.run, staged);
    const all = pending(record);
    for (let at = 0; at < all.length; at += batch) {
      signal?.throwIfAborted();
      const some = look(instance, settled, all.slice(at, at + batch), lockCheck(instance));
      found.push(...takeBack(instance, record, journal, some, clock));
      report?.({ type: "looked", done: found.length, total: all.length });
    }
    if (leavesAnnounced(record, found)) journal.undoing([]);
  } catch (error) {
    journal.close();
    throw error;
  }
  if (record.phase === "ended") journal.close();
  else endInterrupted(job, record, journal, found);
  return found;
}

function withReleased(record: RunRecord, out: readonly StagedMessage[]): RunRecord {
  return { ...record, released: new Set([...record.released, ...out.map(({ number }) => number)]) };
}

/** Whether some of what was announced, now or by an undo that died, is left after all: nothing of it is under way then. */
function leavesAnnounced({ undoing }: RunRecord, found: readonly Found[]): boolean {
  return found.some(({ left, missed, staged }) => left !== null && (missed === true || undoing.has(staged.number)));
}

/** Messages between two looks at the locks, and between two syncs of the journal. */
const batch = 500;

function pending({ staged, undone }: RunRecord): StagedMessage[] {
  return staged.filter(({ number }) => !undone.has(number));
}

/** The table of locks is read once per batch, if it tells those of this file system: it does when our own lock is in it. */
function lockCheck({ queueDirectory }: PostfixInstance): LockCheck {
  const table = readLocks();
  const own = lstatSync(queueDirectory, { bigint: true });
  return table.has(own.dev, own.ino) ? (_, { dev, ino }) => table.has(dev, ino) : isLocked;
}

type LockCheck = (fd: number, stat: BigIntStats) => boolean;

function look(
  instance: PostfixInstance,
  record: RunRecord,
  staged: readonly StagedMessage[],
  hasLock: LockCheck,
): Found[] {
  return whereabouts(instance, { ...record, staged }).map((file) => {
    const temporary = temporaryOf(instance, record.run, file.staged);
    if (temporary?.nlink === 1n) return lookWaiting(instance, record, file, temporary, hasLock);
    if (file.path === null || file.at !== "hold") return { ...file, left: elsewhere[file.at] };
    if (record.released.has(file.staged.number)) {
      return { ...file, left: "it was released, and somebody has put it on hold again" };
    }
    return { ...file, left: whyNotOurs(file.path, file, hasLock) };
  });
}

const elsewhere: Readonly<Record<RunFile["at"], string>> = {
  maildrop: "it is in maildrop, where Postfix takes it from",
  incoming: "Postfix has it",
  active: "Postfix has it, and may be delivering it",
  deferred: "Postfix has it, and tries it when its time comes",
  hold: "it is on hold",
  waiting: "it waits to be released",
  gone: "it has left the queue: delivered, deleted, or queued anew under another name",
};

/** What has the temporary name of a message, if it is the file that was staged. */
function temporaryOf(
  instance: PostfixInstance,
  run: string,
  { number, inode }: StagedMessage,
): BigIntStats | undefined {
  const path = temporaryPath(instance, "message", run, number);
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return String(stat?.ino) === inode ? stat : undefined;
}

/**
 * Under its temporary name and no other: never linked since it was staged; or moved there by an undo that was interrupted,
 * which had announced it; or what is left of one whose own name Postfix, or somebody, has taken away.
 */
function lookWaiting(
  instance: PostfixInstance,
  record: RunRecord,
  file: RunFile,
  temporary: BigIntStats,
  hasLock: LockCheck,
): Found {
  const { staged } = file;
  const path = temporaryPath(instance, "message", record.run, staged.number);
  const tookIt = record.undoing.has(staged.number) && !record.released.has(staged.number);
  if (!isUntouched(temporary, staged) && !tookIt) return { ...file, at: "gone", path: null, left: elsewhere.gone };
  return { ...file, at: "waiting", path, left: whyNotOurs(path, file, hasLock) };
}

/** Nobody has linked or unlinked it since it was staged. */
function isUntouched({ ctimeNs, nlink }: BigIntStats, { changed }: StagedMessage): boolean {
  return nlink === 1n && String(ctimeNs) === changed;
}

/** @returns null for a file that is as it was placed and that nobody delivers */
function whyNotOurs(path: string, { message, staged }: RunFile, hasLock: LockCheck): string | null {
  const fd = openIfThere(path);
  if (fd === undefined) return "it has just left hold";
  try {
    const stat = fstatSync(fd, { bigint: true });
    if (String(stat.ino) !== staged.inode) return "another file has its name";
    const mode = Number(stat.mode & 0o7777n);
    if (mode !== message.mode) return `it was changed since: its mode is ${mode.toString(8)}`;
    // Whole seconds: not every file system keeps fractions.
    if (stat.mtimeNs / 1_000_000_000n !== BigInt(Math.trunc(message.mtime))) {
      return "it was changed since: it has another time, so Postfix has tried it or somebody has written to it";
    }
    const { digest } = stat.size <= inMemory ? digestOf(readDescriptor(fd).bytes) : digestOfDescriptor(fd);
    if (digest !== staged.digest) return "it was changed since: its text or its marks are others";
    return hasLock(fd, stat) ? "somebody has a lock on it: it may be in delivery" : null;
  } finally {
    closeSync(fd);
  }
}

const inMemory = 1024n * 1024n;

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Out of Postfix's sight, on disk, noted as undone; then deleted: first the message, because a log alone harms nobody. */
function takeBack(
  instance: PostfixInstance,
  { run, messages }: RunRecord,
  journal: RunJournal,
  found: readonly Found[],
  clock: Clock,
): Found[] {
  const ours = found.filter(({ left }) => left === null);
  if (ours.length === 0) return [...found];
  makeWaitingRooms(instance, messages.length);
  const rooms = new Set(ours.map(({ staged }) => dirname(temporaryPath(instance, "message", run, staged.number))));
  for (const one of ours) dropSecondName(instance, run, one);
  sync(rooms);
  const numbers = ours.map(({ staged }) => staged.number);
  journal.undoing(numbers);
  const missed = new Set(ours.filter((one) => !moveAway(instance, run, one)));
  const taken = ours.filter((one) => !missed.has(one));
  sync(new Set([...rooms, ...taken.flatMap(({ path }) => (path === null ? [] : [dirname(path)]))]));
  journal.undone(
    taken.map(({ staged }) => staged.number),
    clock.now(),
  );
  for (const { staged } of taken) clearUp(instance, run, staged);
  sync(rooms);
  return found.map((one) => (missed.has(one) ? { ...one, ...justLeft } : one));
}

const justLeft = { at: "gone", path: null, left: "it has just left hold", missed: true } as const;

function sync(directories: ReadonlySet<string>): void {
  for (const directory of directories) fsyncDirectory(directory);
}

/**
 * Of a run that was killed between giving a message its name and taking the temporary one away. To be done before anything
 * is announced: from then on a temporary name says that we took the message. And renaming one name of a file to another of
 * the same file does nothing (rename(2)).
 */
function dropSecondName(instance: PostfixInstance, run: string, { staged, at }: Found): void {
  if (at === "hold" && temporaryOf(instance, run, staged) !== undefined) {
    unlinkSync(temporaryPath(instance, "message", run, staged.number));
  }
}

/** @returns false when it has left hold this very moment */
function moveAway(instance: PostfixInstance, run: string, { staged, at, path }: Found): boolean {
  if (at === "waiting" || path === null) return true;
  try {
    renameSync(path, temporaryPath(instance, "message", run, staged.number));
    return true;
  } catch (error) {
    if (errnoOf(error) !== "ENOENT" || lstatSync(path, { throwIfNoEntry: false }) !== undefined) throw error;
    return false;
  }
}

/** Delete what is left of a message that is noted as undone. */
function clearUp(instance: PostfixInstance, run: string, staged: StagedMessage): void {
  dropTemporaries(instance, run, staged);
  for (const { log, inode } of staged.logs) {
    const path = locateLog(instance.queueDirectory, log, staged.id, instance.hashDepth);
    const isOurs = path !== undefined && inodeOf(path) === inode && locate(instance, staged.id).length === 0;
    if (isOurs) unlinkSync(path);
  }
}

function inodeOf(path: string): string {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino);
}

/** Its other temporary files go as well; what Postfix has of it, it keeps. */
function endInterrupted({ instance, clock }: UndoJob, record: RunRecord, journal: RunJournal, found: readonly Found[]) {
  const waiting = found.filter(({ at, left }) => at === "waiting" && left !== null);
  sweepTemporaries(instance, record.run, new Set(waiting.map(({ staged }) => staged.number)));
  journal.end(found.every(({ left }) => left === null) ? "abandoned" : "incomplete", clock.now());
}

/**
 * The old host's fence lets go what is claimed no more. What is left here may be delivered here, or has been, so it stays
 * claimed.
 */
async function settleClaim(
  { claims, stateDirectory }: UndoJob,
  record: RunRecord,
  found: readonly Found[],
): Promise<string | null> {
  if (claims === null) return null;
  const rest = found.filter(({ left }) => left !== null).map(({ message }) => parseMessageKey(message.key));
  if (rest.length === 0) {
    await claims.withdraw(record.run, withdrawn);
    return null;
  }
  const id = await claims.narrow(record.run, rest, "the restore was undone but for what is left");
  if (id !== null && id !== record.claim) noteClaim(stateDirectory, record.run, id);
  return id;
}

function noteClaim(stateDirectory: string, run: string, claim: string): void {
  const record = readRuns(stateDirectory).find((one) => one.run === run);
  if (record === undefined) return;
  const journal = RunJournal.reopen(record);
  journal.claimed(claim);
  journal.close();
}

function removable({ message, staged, at }: Found): RemovableMessage {
  return { ...nameOf(message, staged), at: at === "waiting" ? "waiting" : "hold" };
}

function leftOver({ message, staged, at, path, left }: Found): LeftMessage[] {
  return left === null ? [] : [{ ...nameOf(message, staged), at, path, reason: left }];
}

function nameOf(message: RunMessage, staged: StagedMessage): MessageNow {
  return { queueId: staged.id, from: parseMessageKey(message.key).queueId };
}
