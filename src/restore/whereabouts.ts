import { lstatSync } from "node:fs";
import type { QueueName } from "../postfix/queue.ts";
import { locate } from "../postfix/spool.ts";
import type { RunMessage, RunRecord, StagedMessage } from "./journal.ts";
import { lookFor, type SpoolPlace, temporaryPath } from "./place.ts";

/** A message of a run that has ended: what it is, under which name and inode, and where its file is now. */
export interface RunFile {
  readonly message: RunMessage;
  readonly staged: StagedMessage;
  /**
   * `waiting`: under its temporary name, as mail of maildrop does until it is released. A queue: the file that was staged
   * is there. `gone`: no file of this name has the inode that was staged.
   */
  readonly at: QueueName | "waiting" | "gone";
  /** Null when it is gone. */
  readonly path: string | null;
}

/** Look for every message of a run that was placed and has not been taken back. */
export function whereabouts(instance: SpoolPlace, record: RunRecord): RunFile[] {
  return record.staged.flatMap((staged) => {
    const message = record.messages[staged.number];
    if (message === undefined || record.undone.has(staged.number)) return [];
    return [{ message, staged, ...find(instance, record.run, message, staged) }];
  });
}

function find(
  instance: SpoolPlace,
  run: string,
  message: RunMessage,
  staged: StagedMessage,
): Pick<RunFile, "at" | "path"> {
  if (message.waits && lookFor(instance, run, staged) === "waiting") {
    return { at: "waiting", path: temporaryPath(instance, "message", run, staged.number) };
  }
  for (const { queue, path } of locate(instance, staged.id)) {
    const inode = lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino;
    if (String(inode) === staged.inode) return { at: queue, path };
  }
  return { at: "gone", path: null };
}
