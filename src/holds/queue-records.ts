import { closeSync, fstatSync, fsyncSync, openSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import type { PostfixInstance } from "../postfix/instance.ts";
import { isSameQueue, type QueueIdentity, queueIdentity } from "../postfix/queue-identity.ts";
import { fsyncDirectory, makePrivateDirectory, textIfThere, writeAll } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import { journalDirectory } from "./journal.ts";

const identity = z.object({ device: z.string(), inode: z.string(), born: z.string().nullable() });
/** As the first records had it, without the birth of the directory. */
const numbers = z
  .object({ dev: z.number(), ino: z.number() })
  .transform(({ dev, ino }): QueueIdentity => ({ device: String(dev), inode: String(ino), born: null }));

/** Which queue directory a record speaks of: names change, and a list of another queue must never speak for this one. */
export const recordedQueue = z.union([identity, numbers]);

/**
 * Write a line about an instance's queue directory, synced, to a file among the hold journals. A newline comes first: behind
 * a line that a crash has cut off, this one would be lost with it.
 */
export function appendQueueRecord(
  stateDirectory: string,
  file: string,
  instance: Pick<PostfixInstance, "queueDirectory">,
  record: object,
): void {
  const directory = journalDirectory(stateDirectory);
  makePrivateDirectory(directory);
  const fd = openSync(join(directory, file), "a", 0o600);
  try {
    const line = { ...record, queue: queueIdentity(instance.queueDirectory) };
    const gap = fstatSync(fd).size > 0 ? "\n" : "";
    writeAll(fd, Buffer.from(`${gap}${JSON.stringify(line)}\n`));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  fsyncDirectory(directory);
}

/** The lines of a file that speak of this queue directory. One that was cut off was not synced, and counts for nothing. */
export function queueRecords<Line extends { readonly queue: QueueIdentity }>(
  stateDirectory: string,
  file: string,
  instance: Pick<PostfixInstance, "queueDirectory">,
  schema: z.ZodType<Line>,
): Line[] {
  const text = textIfThere(join(journalDirectory(stateDirectory), file));
  if (text === undefined) return [];
  const queue = queueIdentity(instance.queueDirectory);
  return text.split("\n").flatMap((one) => {
    const line = schema.safeParse(parseJson(one));
    return line.success && isSameQueue(line.data.queue, queue) ? [line.data] : [];
  });
}
