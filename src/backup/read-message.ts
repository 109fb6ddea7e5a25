import { closeSync, constants, fstatSync, lstatSync, openSync, type Stats } from "node:fs";
import { errnoOf } from "../errors.ts";
import type { MessageFacts } from "../postfix/message.ts";
import { isComplete, type LogKind, logKinds } from "../postfix/queue.ts";
import { bufferSource, descriptorSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { digestOf, digestOfDescriptor, type FileDigest } from "../system/digest.ts";
import { readDescriptor, readRegularFile } from "../system/files.ts";
import type { LogPlaces } from "./log-places.ts";

/** A log of a message as read: small, so always in memory. */
export interface ReadLog {
  readonly log: LogKind;
  readonly digest: string;
  readonly bytes: Buffer;
  readonly mode: number;
  readonly mtime: number;
}

/** A message read by descriptor and seen unchanged afterwards, together with its logs. */
export interface ReadMessage {
  readonly outcome: "read";
  readonly facts: MessageFacts;
  readonly stat: Stats;
  readonly digest: string;
  readonly size: number;
  /** Null for a file larger than the caller keeps in memory: read again when it is stored. */
  readonly bytes: Buffer | null;
  readonly logs: readonly ReadLog[];
  /** False when it kept changing: marks may be older than the queue's, never the text (only marks change, in place). */
  readonly settled: boolean;
}

export type ReadOutcome =
  | ReadMessage
  /** Not at this path any more: delivered, removed, or moved to another queue. */
  | { readonly outcome: "moved" }
  /** Not all owner bits: still being received, nobody has acknowledged it. */
  | { readonly outcome: "incomplete" }
  /** Complete by its mode, but not readable as a message; its bytes are evidence. */
  | {
      readonly outcome: "damaged";
      readonly problem: string;
      readonly stat: Stats;
      readonly digest: string;
      readonly size: number;
      /** Null for a file larger than the caller keeps in memory. */
      readonly bytes: Buffer | null;
    };

const attempts = 8;

/**
 * Read one message with its logs. Message first, then logs, then both are seen unchanged, else both again: an agent
 * appends to the bounce log before it marks the recipient done, so the other order could miss a non-delivery notice.
 *
 * @param keepInMemory bytes; a larger file is digested and parsed through its descriptor only
 * @throws for system calls that fail in any other way than by the file's being gone
 */
export function readMessage(places: LogPlaces, path: string, id: string, keepInMemory: number): ReadOutcome {
  const fd = openMessage(path);
  if (fd === undefined) return { outcome: "moved" };
  try {
    let last: ReadMessage | undefined;
    for (let attempt = 0; attempt < attempts; attempt++) {
      const read = readOnce(fd, keepInMemory);
      if (read.outcome !== "read") return read;
      const logs = readLogs(places, id);
      const settled = sameFile(read.stat, fstatSync(fd)) && logsUnchanged(places, id, logs);
      last = { ...read, logs: logs.map(({ stat: _stat, path: _path, ...log }) => log), settled };
      if (settled) return last;
    }
    return last ?? { outcome: "moved" };
  } finally {
    closeSync(fd);
  }
}

function openMessage(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function readOnce(fd: number, keepInMemory: number): Exclude<ReadOutcome, { outcome: "moved" }> {
  const stat = fstatSync(fd);
  if (!stat.isFile() || !isComplete(stat.mode)) return { outcome: "incomplete" };
  const small = stat.size <= keepInMemory;
  const read = small ? readDescriptor(fd) : undefined;
  const digest: FileDigest = read === undefined ? digestOfDescriptor(fd) : digestOf(read.bytes);
  try {
    const source = read === undefined ? descriptorSource(fd, stat.size) : bufferSource(read.bytes);
    const facts = readQueueFile(source);
    return { outcome: "read", facts, stat, ...digest, bytes: read?.bytes ?? null, logs: [], settled: false };
  } catch (error) {
    if (!(error instanceof QueueFileDamaged)) throw error;
    return { outcome: "damaged", problem: error.problem, stat, ...digest, bytes: read?.bytes ?? null };
  }
}

interface LogOnDisk extends ReadLog {
  readonly path: string;
  readonly stat: Stats;
}

function readLogs(places: LogPlaces, id: string): LogOnDisk[] {
  return logKinds.flatMap((log) => readLog(log, places.paths(log, id)) ?? []);
}

function readLog(log: LogKind, paths: readonly string[]): LogOnDisk | undefined {
  for (const path of paths) {
    // Most messages have neither bounce nor trace log, and an exception for each costs more than reading one.
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) continue;
    try {
      const { stat, bytes } = readRegularFile(path);
      const { digest } = digestOf(bytes);
      return { log, path, stat, bytes, digest, mode: stat.mode & 0o7777, mtime: mtimeOf(stat) };
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") throw error;
    }
  }
  return undefined;
}

function logsUnchanged(places: LogPlaces, id: string, logs: readonly LogOnDisk[]): boolean {
  const known = new Map(logs.map((log) => [log.log, log]));
  return logKinds.every((kind) => {
    // A defer log comes and goes with every attempt and only explains the last one: it settles nothing.
    if (kind === "defer") return true;
    const before = known.get(kind);
    const paths = before === undefined ? places.paths(kind, id) : [before.path];
    return paths.every((path) => {
      const now = lstatSync(path, { throwIfNoEntry: false });
      return before === undefined ? now === undefined : now !== undefined && sameFile(before.stat, now);
    });
  });
}

/** Neither written, renamed, chmodded nor replaced since: ctime changes with every one of them. */
function sameFile(one: Stats, other: Stats): boolean {
  return (
    one.ino === other.ino &&
    one.dev === other.dev &&
    one.size === other.size &&
    one.mtimeMs === other.mtimeMs &&
    one.ctimeMs === other.ctimeMs
  );
}

/** Modification time in seconds with microseconds, as the manifest keeps it. */
export function mtimeOf(stat: Stats): number {
  return Math.round(stat.mtimeMs * 1000) / 1e6;
}
