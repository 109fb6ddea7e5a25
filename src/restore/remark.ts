import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { readLocks } from "../postfix/locks.ts";
import { markDone } from "../postfix/marks.ts";
import { bufferSource, readQueueFile } from "../postfix/queue-file.ts";
import { locateInQueue } from "../postfix/spool.ts";
import { digestOf } from "../system/digest.ts";
import { readRegularFile } from "../system/files.ts";
import { RunJournal, type RunRecord } from "./journal.ts";
import type { Remark } from "./plan.ts";

/**
 * Mark recipients that are known to be served now in messages an earlier run put on hold: the newest marks win. A file that
 * has left hold, that somebody works on or that has these marks already is left alone.
 *
 * @returns how many messages were marked
 */
export function remark(instance: PostfixInstance, runs: readonly RunRecord[], wanted: readonly Remark[]): number {
  let marked = 0;
  for (const { id, inode, recipients } of wanted) {
    const found = locateInQueue(instance, "hold", id);
    if (found === undefined || String(found.stat.ino) !== inode) continue;
    if (readLocks().has(found.stat.dev, found.stat.ino)) continue;
    const digest = mark(found.path, recipients);
    if (digest === null) continue;
    record(runs, id, inode, digest);
    marked++;
  }
  return marked;
}

/** @returns its new digest; null when it has these marks already, or somebody has let it go a moment ago */
function mark(path: string, recipients: readonly number[]): string | null {
  try {
    const { recipients: are } = readQueueFile(bufferSource(readRegularFile(path).bytes));
    if (recipients.every((index) => are[index]?.done === true)) return null;
    markDone(path, recipients);
    return digestOf(readRegularFile(path).bytes).digest;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return null;
    throw error;
  }
}

/** Without its new digest, the run that placed it would not know the file any more when it is undone. */
function record(runs: readonly RunRecord[], id: string, inode: string, digest: string): void {
  for (const run of runs) {
    const staged = run.staged.find((one) => one.id === id && one.inode === inode);
    if (staged === undefined) continue;
    const journal = RunJournal.reopen(run);
    journal.restaged({ ...staged, digest });
    journal.close();
  }
}
