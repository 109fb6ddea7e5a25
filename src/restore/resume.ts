import { lstatSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { bufferSource, readQueueFile } from "../postfix/queue-file.ts";
import { isSameQueue, type QueueIdentity } from "../postfix/queue-identity.ts";
import { locate } from "../postfix/spool.ts";
import { readRegularFile } from "../system/files.ts";
import { type Doubt, onHoldInDoubt, RunJournal, type RunRecord, readRuns } from "./journal.ts";
import {
  dropTemporaries,
  lookFor,
  type PlacedMessage,
  type Placement,
  queueFilePath,
  sweepTemporaries,
  temporaryPath,
  type Work,
} from "./place.ts";
import { choiceText, type RestorePlan } from "./plan.ts";

/** What interrupted runs left in a target. Nothing has been touched yet. */
export interface Remains {
  /** Runs that never came to placing: their temporary files can go. */
  readonly litter: readonly RunRecord[];
  /** The run that has to be finished; there is one at most, because no other starts before it is. */
  readonly unfinished: RunRecord | undefined;
  /** Runs that ended, for what they placed. */
  readonly ended: readonly RunRecord[];
}

/** Find the runs into a queue directory. The run lock is held, so none of them is alive. */
export function findRemains(stateDirectory: string, target: QueueIdentity): Remains {
  const runs = readRuns(stateDirectory).filter((run) => isSameQueue(run.target, target));
  return {
    litter: runs.filter(({ phase }) => phase === "started" || phase === "planned"),
    unfinished: runs.find(({ phase }) => phase === "placing" || phase === "visible"),
    ended: runs.filter(({ phase }) => phase === "ended"),
  };
}

/**
 * An interrupted run is finished by the restore it was, and by no other.
 *
 * @throws OperatorError `refused` that says which restore has to be run again
 */
export function refuseOtherRun(
  unfinished: RunRecord,
  { source, choice }: Pick<RestorePlan, "source" | "choice">,
): void {
  refuseBeingUndone(unfinished);
  if (unfinished.snapshot === source.snapshot && unfinished.choice === choiceText(choice)) return;
  const { target } = unfinished;
  const again = commandOf(unfinished);
  throw new OperatorError(
    "refused",
    `run ${unfinished.run} into ${target.queueDirectory} was interrupted while it placed mail`,
    {
      hints: [`finish it first: ${again}`, `or take it back: spoolsafe undo ${unfinished.run}`],
    },
  );
}

/** What was taken back would look like delivered. */
function refuseBeingUndone({ run, undoing, undone, target }: RunRecord): void {
  if (undoing.size + undone.size === 0) return;
  throw new OperatorError("refused", `run ${run} into ${target.queueDirectory} is being undone`, {
    hints: [`finish that first: spoolsafe undo ${run}`],
  });
}

/** The command line that is this run again. */
export function commandOf({ snapshot, instance, target, options }: RunRecord): string {
  const words = [snapshot.slice(0, 12), "--instance", instance, "--into", target.configDirectory, ...options];
  return `spoolsafe restore ${words.map(quoted).join(" ")}`;
}

/** A word of a command line as a shell takes it. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Remove what a run left that never came to placing, and close its journal. */
export function sweepLitter(record: RunRecord, instance: PostfixInstance, nowMs: number): void {
  sweepTemporaries(instance, record.run);
  RunJournal.reopen(record).end("abandoned", nowMs);
}

/** What is left to do of an interrupted run, and what it had done. */
export interface Rest {
  readonly toPlace: readonly Placement[];
  /** In their place, or in another queue where Postfix has put them since. */
  readonly placed: readonly PlacedMessage[];
  /** Placed, and in no queue any more: Postfix ran and is done with them. */
  readonly left: readonly PlacedMessage[];
  /** Of maildrop, and perhaps taken by Postfix since: not placed again, because nothing there can be held back. */
  readonly dropped: readonly Placement[];
  /** Under their temporary names until they are released. */
  readonly waiting: readonly Placement[];
  /** Numbers of what was on hold until it was proven, and has been released: on hold now, it is there by somebody else's hand. */
  readonly released: ReadonlySet<number>;
}

/** Look at every message of an interrupted run, and take away the temporary names of those that have their own. */
export function restOf(
  instance: PostfixInstance,
  record: RunRecord,
  work: readonly Work[],
  journal: Pick<RunJournal, "doubted">,
): Omit<Rest, "released"> {
  const toPlace: Placement[] = [];
  const placed: PlacedMessage[] = [];
  const left: PlacedMessage[] = [];
  const dropped: Placement[] = [];
  const waiting: Placement[] = [];
  for (const staged of record.staged) {
    const own = work[staged.number];
    if (own === undefined) continue;
    const placement = { ...staged, ...own };
    const found = lookFor(instance, record.run, staged);
    if (found === "waiting") {
      (own.message.waits ? waiting : toPlace).push(placement);
    } else if (found === "placed") {
      dropTemporaries(instance, record.run, staged);
      const { message, inQueue } = find(instance, placement);
      (inQueue ? placed : left).push(message);
    } else if (own.message.queue === "maildrop") {
      dropTemporaries(instance, record.run, staged);
      dropped.push(placement);
    } else {
      const doubt = doubtOf(temporaryPath(instance, "message", record.run, staged.number), own);
      if (doubt.recipients.length === 0) {
        dropTemporaries(instance, record.run, staged);
        left.push(find(instance, placement).message);
      } else {
        journal.doubted(staged.number, doubt);
        toPlace.push({ ...placement, message: { ...own.message, ...onHoldInDoubt(doubt) } });
      }
    }
  }
  return { toPlace, placed, left, dropped, waiting };
}

/**
 * What the marks say of a message whose other name is gone: the file is the one Postfix had, and agents mark a recipient
 * in it before the queue manager removes it. With all of them marked it was delivered.
 */
function doubtOf(path: string, { message }: Work): Doubt {
  const { stat, bytes } = readRegularFile(path);
  const facts = readQueueFile(bufferSource(bytes));
  return {
    inDoubt: "the restore was interrupted while it was placed, and Postfix may have delivered it since",
    mode: stat.mode & 0o7777,
    mtime: stat.mtimeMs / 1000,
    recipients: message.recipients.filter((index) => facts.recipients[index]?.done !== true),
  };
}

function find(instance: PostfixInstance, placement: Placement): { message: PlacedMessage; inQueue: boolean } {
  const { message, entry, id, inode } = placement;
  const planned = queueFilePath(instance, message.queue, id);
  const path = [planned, ...locate(instance, id).map((file) => file.path)].find(
    (candidate) => String(lstatSync(candidate, { bigint: true, throwIfNoEntry: false })?.ino) === inode,
  );
  return { message: { message, entry, id, inode, path: path ?? planned }, inQueue: path !== undefined };
}
