import { hash } from "node:crypto";
import { type BigIntStats, closeSync, fstatSync, lstatSync, openSync, readSync, type Stats } from "node:fs";
import { checkStructure } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { markDone } from "../postfix/marks.ts";
import { messageQueues } from "../postfix/queue.ts";
import { bufferSource, descriptorSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { listQueue } from "../postfix/spool.ts";
import { differentFacts } from "../snapshot/compare.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import { digestOfDescriptor } from "../system/digest.ts";
import { run } from "../system/exec.ts";
import type { RunMessage } from "./journal.ts";
import { isWaiting, type PlacedMessage, type Work } from "./place.ts";

/** Files that fit are read whole, into the same memory each: with memory of its own, each would cost more than its reading. */
const memory = Buffer.allocUnsafeSlow(1024 * 1024);

export interface MessageProof {
  /** What is wrong with it, or null. */
  readonly problem: string | null;
  /** When the inode last changed, nanoseconds. */
  readonly changed: bigint;
  /** SHA-256 of its bytes; empty when something is wrong. */
  readonly digest: string;
}

/**
 * Read a staged message back and compare it with what the manifest says: the bytes by their digest, and by Postfix's own
 * pointer walk the sender, the recipients with their marks, the text, the creation time and the size; then owner, mode and
 * time with what was planned.
 */
export function proveMessage(path: string, { entry, message }: Work): MessageProof {
  const fd = openSync(path, "r");
  try {
    const stat = fstatSync(fd, { bigint: true });
    const problem = differentBytes(fd, Number(stat.size), entry) ?? differentPlacement(lookOf(stat), message);
    return { problem, changed: stat.ctimeNs, digest: problem === null ? entry.file.digest : "" };
  } finally {
    closeSync(fd);
  }
}

/**
 * Mark in a staged message the recipients that are not to be served by it, and prove that nothing but those marks has
 * changed.
 */
export function markMessage(path: string, { entry, message }: Work): MessageProof {
  markDone(path, message.marks);
  const marks = new Set(message.marks);
  const recipients = entry.recipients.map((one, index) => (marks.has(index) ? { ...one, done: true } : one));
  const fd = openSync(path, "r");
  try {
    const stat = fstatSync(fd, { bigint: true });
    const facts = readQueueFile(descriptorSource(fd, Number(stat.size)));
    const problem = differentFacts(facts, { ...entry, recipients }) ?? differentPlacement(lookOf(stat), message);
    return { problem, changed: stat.ctimeNs, digest: digestOfDescriptor(fd).digest };
  } finally {
    closeSync(fd);
  }
}

function differentBytes(fd: number, size: number, entry: MessageEntry): string | null {
  if (size !== entry.file.bytes) return `it has ${size} bytes, not ${entry.file.bytes}`;
  const bytes = size <= memory.length ? memory.subarray(0, readSync(fd, memory, 0, size, 0)) : null;
  const digest = bytes === null ? digestOfDescriptor(fd).digest : hash("sha256", bytes, "hex");
  if (digest !== entry.file.digest) return "its bytes do not have the digest of the manifest";
  try {
    return differentFacts(readQueueFile(bytes === null ? descriptorSource(fd, size) : bufferSource(bytes)), entry);
  } catch (error) {
    if (error instanceof QueueFileDamaged) return error.problem;
    throw error;
  }
}

/** What can be seen of a file without opening it, as far as Postfix cares. */
interface Look {
  /** With the bits of the type. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Whole seconds: Postfix compares no fractions, and not every file system keeps them. */
  readonly seconds: number;
}

function lookOf(stat: Stats | BigIntStats): Look {
  const { mode, uid, gid, mtimeMs } = stat;
  const seconds = typeof mtimeMs === "bigint" ? Number(mtimeMs / 1000n) : Math.trunc(mtimeMs / 1000);
  return { mode: Number(mode), uid: Number(uid), gid: Number(gid), seconds };
}

function differentPlacement(look: Look, planned: RunMessage): string | null {
  const mode = look.mode & 0o7777;
  if (mode !== planned.mode) return `its mode is ${mode.toString(8)}, not ${planned.mode.toString(8)}`;
  if (look.uid !== planned.uid || look.gid !== planned.gid) {
    return `its owner is ${look.uid}:${look.gid}, not ${planned.uid}:${planned.gid}`;
  }
  const seconds = Math.trunc(planned.mtime);
  return look.seconds === seconds ? null : `its time is ${look.seconds}, not ${seconds}`;
}

export interface PlacementProof {
  /** Queue id → what is wrong with the message under it. */
  readonly messages: ReadonlyMap<string, string>;
  /** What is wrong with the queue as a whole. */
  readonly queue: readonly string[];
  /** What is not as it was placed, and need not be. */
  readonly changed: readonly string[];
}

/**
 * Prove that every message lies where it was put and that Postfix agrees: each name leads to the file that was staged,
 * with its mode and time, and postcat(1) reads all. In a queue that has no other mail also that each queue has as many
 * messages as were put there, and that `postsuper -s` finds nothing to repair; other mail is not ours to repair.
 *
 * @param earlier placed by an interrupted run; Postfix may have run since, so their queue, mode and time are its own
 */
export async function provePlaced(
  instance: PostfixInstance,
  placed: readonly PlacedMessage[],
  earlier: readonly PlacedMessage[],
  { beside, signal }: { readonly beside: boolean; readonly signal?: AbortSignal },
): Promise<PlacementProof> {
  const messages = new Map<string, string>();
  for (const message of placed) {
    const problem = differentFile(message);
    if (problem !== null) messages.set(message.id, problem);
  }
  const moved = earlier.filter((message) => differentFile(message) !== null).length;
  const queue = beside
    ? []
    : [...(moved === 0 ? miscounted(instance, [...placed, ...earlier]) : []), ...(await structure(instance))];
  const ids = [...placed, ...earlier].map(({ id }) => id);
  for (const id of await unreadableByPostcat(instance, ids, signal)) {
    if (!messages.has(id)) messages.set(id, "postcat can't read it");
  }
  const changed =
    moved === 0
      ? []
      : [`${moved} messages have changed since they were placed: Postfix was started before the restore was finished`];
  return { messages, queue, changed };
}

/** Anybody may leave mail in maildrop at any time, also while Postfix is stopped; it is not counted. */
function miscounted(instance: PostfixInstance, placed: readonly PlacedMessage[]): string[] {
  return messageQueues.flatMap((queue) => {
    const found = listQueue(instance.queueDirectory, queue).length;
    const expected = placed.filter(({ message }) => message.queue === queue).length;
    return queue === "maildrop" || found === expected ? [] : [`${queue} has ${found} messages, not ${expected}`];
  });
}

/** Mail of maildrop that waits for its release has a name postsuper calls bogus, and is meant to. */
async function structure(instance: PostfixInstance): Promise<string[]> {
  const lines = (await checkStructure(instance)).filter((line) => !isWaiting(line));
  return lines.map((line) => `postsuper -s said: ${line}`);
}

function differentFile({ path, inode, message }: PlacedMessage): string | null {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return "it is not where it was put";
  // An inode number beyond 2^53 loses its last digits here; a bigint stat costs four times as much.
  if (stat.ino !== Number(inode)) return "another file has its name";
  if (stat.nlink !== 1) return `it has ${stat.nlink} names`;
  return differentPlacement(lookOf(stat), message);
}

/** Ids that `postcat -q` can't open and print. It takes many ids per call and stops at the first it can't read. */
export async function unreadableByPostcat(
  instance: PostfixInstance,
  ids: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  // Two at a time; starting one costs as much as reading a hundred files.
  const size = Math.min(postcatBatch, Math.ceil(ids.length / 2));
  const batches = Array.from({ length: Math.ceil(ids.length / size) }, (_, n) => ids.slice(n * size, (n + 1) * size));
  const bad: string[] = [];
  const worker = async (queue: Iterator<string[]>) => {
    for (let next = queue.next(); !next.done; next = queue.next())
      bad.push(...(await firstToLast(instance, next.value, signal)));
  };
  const queue = batches.values();
  await Promise.all([worker(queue), worker(queue)]);
  return bad;
}

/** Ids per call; with ids of 20 characters a fifth of what a command line may hold. */
const postcatBatch = 20_000;

/** Halve a batch that fails until the ids at fault are alone. */
async function firstToLast(instance: PostfixInstance, ids: readonly string[], signal?: AbortSignal): Promise<string[]> {
  if (await postcatReads(instance, ids, signal)) return [];
  if (ids.length === 1) return [...ids];
  const half = Math.ceil(ids.length / 2);
  const left = await firstToLast(instance, ids.slice(0, half), signal);
  return [...left, ...(await firstToLast(instance, ids.slice(half), signal))];
}

/** A queue file that makes no sense is only a warning to postcat, so its standard error must be empty as well. */
async function postcatReads(instance: PostfixInstance, ids: readonly string[], signal?: AbortSignal): Promise<boolean> {
  const { code, stderr } = await run("postcat", ["-c", instance.configDirectory, "-q", ...ids], {
    okCodes: [0, 1],
    timeoutMs: 60 * 60_000,
    discardOutput: true,
    ...(signal === undefined ? {} : { signal }),
  });
  return code === 0 && !/: (warning|fatal|error|panic): /.test(stderr);
}
