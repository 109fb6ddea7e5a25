import { closeSync, constants, existsSync, fstatSync, openSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { errnoOf } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import { isComplete, messageQueues } from "../postfix/queue.ts";
import { bufferSource, descriptorSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { listQueue, type SpoolFile } from "../postfix/spool.ts";
import type { Manifest } from "../snapshot/manifest.ts";
import { readDescriptor } from "../system/files.ts";
import { tryLock } from "../system/lock.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";

/**
 * Whether mail of the snapshot is queued here already: then this is the primary, a copy of its disk, or a host where a
 * takeover has begun. A message is known by its creation and its text, as its queue id may be another here.
 */
export async function examineQueue(
  { messages }: Manifest,
  pairs: readonly Pair[],
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const saved = new Set(messages.map(identity));
  const findings: Finding[] = [];
  for (const pair of pairs) findings.push(await queueFinding(pair, saved, signal));
  return findings;
}

function identity({ created, content }: { readonly created: string; readonly content: string }): string {
  return `${created}/${content}`;
}

async function queueFinding({ target }: Pair, saved: ReadonlySet<string>, signal: AbortSignal): Promise<Finding> {
  const { queueDirectory } = target;
  const name = "queue";
  // An instance that never ran has no queue directories yet; `postfix check` makes them.
  const queues = messageQueues.filter((queue) => existsSync(join(queueDirectory, queue)));
  const files = queues.flatMap((queue) => listQueue(queueDirectory, queue));
  if (files.length === 0) return good(name, `${queueDirectory} has no mail`);
  let twins = 0;
  for (const [at, file] of files.entries()) {
    if (at % 500 === 0) {
      await turn();
      signal.throwIfAborted();
    }
    if (isSaved(file, saved)) twins++;
  }
  if (twins === 0) {
    const advice = "a plain restore wants an empty queue; with --merge it puts the mail beside what is queued here";
    return good(name, `${queueDirectory} has ${files.length} messages, none of the snapshot's`, advice);
  }
  const running = (await masterState(target)) !== "stopped";
  return bad(
    name,
    `${twins} of the snapshot's messages are in ${queueDirectory} already${running ? ", where Postfix runs and delivers them" : ""}`,
    `this is the primary itself, a copy of it, or a takeover has begun here: find out which${running ? ", and stop Postfix until you know" : ""}`,
  );
}

/** A restore waits for no other job on the queue: it is refused. */
export async function examineRunLock(pairs: readonly Pair[]): Promise<readonly Finding[]> {
  const busy: string[] = [];
  for (const { target } of pairs) {
    const lock = await tryLock(target.queueDirectory);
    if (lock === undefined) busy.push(target.queueDirectory);
    await lock?.release();
  }
  if (busy.length === 0) return [good("run lock", "no other run of spoolsafe is at work")];
  return busy.map((queue) =>
    bad("run lock", `another run works on ${queue}`, `wait until it has ended: fuser -v ${queue}`),
  );
}

const inMemory = 1024 * 1024;

/** Not for what is gone, still being received, or damaged. */
function isSaved({ path }: SpoolFile, saved: ReadonlySet<string>): boolean {
  const fd = openIfThere(path);
  if (fd === undefined) return false;
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || !isComplete(stat.mode)) return false;
    const source = stat.size <= inMemory ? bufferSource(readDescriptor(fd).bytes) : descriptorSource(fd, stat.size);
    return saved.has(identity(readQueueFile(source)));
  } catch (error) {
    if (error instanceof QueueFileDamaged) return false;
    throw error;
  } finally {
    closeSync(fd);
  }
}

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
