import { closeSync, constants, fstatSync, fsyncSync, futimesSync, openSync, readSync, writeSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import { descriptorSource, readQueueFile, routingRecords } from "./queue-file.ts";

/**
 * Mark recipients of a queue file as done, as delivery agents do (`deliver_completed.c`): the type byte of their records
 * turns from `R` to `D`, nothing else changes. For files no daemon sees (a temporary name) or that are on hold with no
 * lock on them. The file keeps its time: another one says that Postfix has tried it. Synced.
 *
 * @param indexes into the recipients as `readQueueFile` gives them; one that is done already stays so
 * @throws QueueFileDamaged, or OperatorError `damaged` when the file has no such recipient
 */
export function markDone(path: string, indexes: readonly number[]): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    const { size, atimeMs, mtimeMs } = fstatSync(fd);
    const { recipients } = readQueueFile(descriptorSource(fd, size));
    for (const index of indexes) {
      const recipient = recipients[index];
      if (recipient === undefined) throw new OperatorError("damaged", `${path} has no recipient number ${index + 1}`);
      if (!recipient.done) mark(fd, path, recipient.offset);
    }
    futimesSync(fd, atimeMs / 1000, mtimeMs / 1000);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function mark(fd: number, path: string, offset: number): void {
  const type = Buffer.alloc(1);
  readSync(fd, type, 0, 1, offset);
  if (type.toString() !== "R") throw new OperatorError("damaged", `${path} has no recipient record at byte ${offset}`);
  writeSync(fd, "D", offset);
}

/**
 * Have a queue file say no more where its message goes: content filter and redirection become killed records, as
 * `qmgr_message_kill_record` makes them (one byte each, `K`), which qmgr(8) passes over. For files no daemon has read. The
 * file keeps its time.
 *
 * @returns how many records there were
 * @throws QueueFileDamaged
 */
export function killRouting(path: string): number {
  const fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW);
  try {
    const { size, atimeMs, mtimeMs } = fstatSync(fd);
    const records = routingRecords(descriptorSource(fd, size));
    for (const { offset } of records) writeSync(fd, "K", offset);
    if (records.length > 0) futimesSync(fd, atimeMs / 1000, mtimeMs / 1000);
    return records.length;
  } finally {
    closeSync(fd);
  }
}
