import { existsSync, lstatSync, readdirSync, readFileSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import {
  masterState,
  parsePostsuper,
  qmgrPid,
  release,
  reload,
  scanDeferred,
  waitForNewQmgr,
} from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import { processStartedAt, writersOf } from "../system/processes.ts";
import {
  type CaptureJournal,
  currentBootId,
  type JournalBatch,
  postsuperOutput,
  readJournals,
  removeJournal,
} from "./journal.ts";

/** What a recovery did, per journal. */
export interface HoldRecovery {
  readonly type: "holds-recovered";
  readonly instance: string;
  readonly run: string;
  readonly released: readonly string[];
  /** Still on hold because of us; with the reason. Empty when all is well. */
  readonly stillHeld: readonly string[];
  /** On hold since that run, without proof that we held it: left alone, for an administrator to look at. */
  readonly unclear: readonly string[];
  readonly reason: string | null;
  /** From the start of the first hold to the end of the release, milliseconds of wall clock. */
  readonly heldMs: number;
}

export interface RecoverRequest {
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** How long to wait for a postsuper that outlived its spoolsafe; milliseconds. */
  readonly waitMs?: number;
  /** How long `postfix reload` may take to show a new qmgr; milliseconds. */
  readonly barrierMs?: number;
}

/**
 * Give back what an earlier run of ours held in this instance and did not release: exactly the messages postsuper
 * reported, still in hold/, never anything an administrator held. Call it with the instance's run lock held.
 *
 * A journal of mode `hold` is released at once: its mail came from deferred, where qmgr does not know it. One of
 * `freeze` only behind a qmgr that started after the hold, because qmgr may have had its mail in memory, and would drop
 * it undelivered when it met it again (`qmgr_job.c`, `qmgr_message.c`: a second instance of a known message).
 */
export async function recoverHolds(request: RecoverRequest): Promise<HoldRecovery[]> {
  const recoveries: HoldRecovery[] = [];
  for (const journal of journalsOf(request.stateDirectory, request.instance)) {
    recoveries.push(await recoverJournal(journal, request));
  }
  return recoveries;
}

/** The capture journals that speak of an instance's queue directory, whatever name it was reached by. */
export function journalsOf(stateDirectory: string, instance: PostfixInstance): CaptureJournal[] {
  return readJournals(stateDirectory).filter(({ start }) =>
    sameDirectory(start.queueDirectory, instance.queueDirectory),
  );
}

function sameDirectory(one: string, other: string): boolean {
  if (one === other) return true;
  if (!existsSync(one) || !existsSync(other)) return false;
  const [a, b] = [statSync(one), statSync(other)];
  return a.dev === b.dev && a.ino === b.ino;
}

async function recoverJournal(journal: CaptureJournal, request: RecoverRequest): Promise<HoldRecovery> {
  const { instance, clock } = request;
  await outputsClosed(journal, request);
  const held = journal.open.map((batch) => ({ batch, ...batchOnHold(journal, batch, instance) }));
  const ids = held.flatMap((one) => one.ours);
  const since = Date.parse(journal.open[0]?.since ?? journal.start.since);
  const answer = (released: readonly string[], stillHeld: readonly string[], reason: string | null): HoldRecovery => ({
    type: "holds-recovered",
    instance: instance.name,
    run: journal.start.run,
    released,
    stillHeld,
    unclear: held.flatMap((one) => one.unclear),
    reason,
    heldMs: ids.length === 0 ? 0 : Math.max(0, clock.now() - since),
  });
  if (ids.length > 0) {
    if (journal.start.mode === "freeze") {
      const missing = await barrierMissing(journal, request);
      if (missing !== null) return answer([], ids, missing);
      for (const { batch } of held) keepRetryTimes(instance, batch, ids, clock);
    }
    for (const { batch, ours } of held) {
      await release(instance, ours, postsuperOutput(journal.path, batch.batch, "release"));
    }
    const left = ids.filter((id) => isHeld(instance, id));
    if (left.length > 0) return answer(without(ids, left), left, "postsuper -H did not release them");
    if (journal.start.mode === "freeze" && (await masterState(instance)) !== "stopped")
      await wakeDeferred(instance, clock);
  }
  removeJournal(journal.path);
  return answer(ids, [], null);
}

/** Wait until no process has an output of this journal open: a postsuper that outlived its spoolsafe is still moving mail. */
async function outputsClosed(
  journal: CaptureJournal,
  { clock, signal, waitMs = 60_000 }: RecoverRequest,
): Promise<void> {
  if (journal.start.bootId !== currentBootId()) return;
  const outputs = journal.open.flatMap(({ batch }) => [
    postsuperOutput(journal.path, batch, "hold"),
    postsuperOutput(journal.path, batch, "release"),
  ]);
  const until = clock.monotonic() + waitMs;
  for (;;) {
    const writers = writersOf(outputs.filter((path) => existsSync(path)));
    if (writers.length === 0) return;
    if (clock.monotonic() > until) {
      throw new OperatorError("failed", `postsuper (pid ${writers.join(", ")}) of an earlier run is still at work`, {
        hints: ["wait until it has ended, then run `spoolsafe holds release`"],
      });
    }
    await clock.sleep(50, signal);
  }
}

/** What of a batch is on hold, told apart by whose it is. */
export interface BatchOnHold {
  readonly ours: readonly string[];
  /** In hold/ and of the batch, but nothing proves that we put it there: an administrator may have. Never released by us. */
  readonly unclear: readonly string[];
}

/**
 * Ours is what postsuper reported and is in hold/ now. It reports after it has moved a message, so a postsuper that was
 * killed may have moved one more: the next of its list, moved (ctime) within the moment after its last report.
 */
export function batchOnHold(journal: CaptureJournal, batch: JournalBatch, instance: PostfixInstance): BatchOnHold {
  const output = postsuperOutput(journal.path, batch.batch, "hold");
  const report = parsePostsuper(existsSync(output) ? readFileSync(output, "utf8") : "");
  const reported = report.ids.filter((id) => isHeld(instance, id));
  const others = new Set([...journal.start.preheld, ...report.ids]);
  const unreported = batch.messages.map(([id]) => id).filter((id) => !others.has(id) && isHeld(instance, id));
  const [next] = unreported;
  if (report.count !== undefined || next === undefined || !existsSync(output))
    return { ours: reported, unclear: unreported };
  const lastSign = Math.max(Date.parse(batch.since), statSync(output).mtimeMs);
  const moved = statSync(heldPath(instance, next) ?? output).ctimeMs;
  const byUs = moved >= Date.parse(batch.since) && moved - lastSign < killedWithinMs;
  return byUs ? { ours: [...reported, next], unclear: unreported.slice(1) } : { ours: reported, unclear: unreported };
}

const killedWithinMs = 2000;

function isHeld(instance: PostfixInstance, id: string): boolean {
  return heldPath(instance, id) !== undefined;
}

/** Path of a message in hold/, flat or hashed to any depth. */
function heldPath(instance: PostfixInstance, id: string): string | undefined {
  const flat = join(instance.queueDirectory, "hold", id);
  if (present(flat)) return flat;
  if (!instance.hashQueues.includes("hold")) return undefined;
  return findBelow(join(instance.queueDirectory, "hold"), id, instance.hashDepth);
}

function findBelow(directory: string, id: string, depth: number): string | undefined {
  const path = join(directory, id);
  if (present(path)) return path;
  if (depth === 0) return undefined;
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const found = findBelow(join(directory, entry.name), id, depth - 1);
    if (found !== undefined) return found;
  }
  return undefined;
}

function present(path: string): boolean {
  try {
    return lstatSync(path).isFile();
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return false;
    throw error;
  }
}

/** @returns why mail of a freeze can't be released yet, or null when no qmgr that knew it from before is left */
async function barrierMissing(journal: CaptureJournal, request: RecoverRequest): Promise<string | null> {
  const { instance, clock } = request;
  if ((await masterState(instance)) === "stopped") return null;
  const pid = qmgrPid(instance);
  if (pid !== undefined && processStartedAt(pid) > lastHoldAt(journal)) return null;
  try {
    await reload(instance);
    await waitForNewQmgr(instance, pid, request.barrierMs ?? 30_000, clock);
    return null;
  } catch (error) {
    if (error instanceof OperatorError) return `the queue manager could not be restarted: ${error.message}`;
    throw error;
  }
}

/** When the last hold was written down or reported, milliseconds since 1970. */
function lastHoldAt(journal: CaptureJournal): number {
  const times = journal.open.map((batch) => {
    const output = postsuperOutput(journal.path, batch.batch, "hold");
    return Math.max(Date.parse(batch.since), existsSync(output) ? statSync(output).mtimeMs : 0);
  });
  return Math.max(...times, Date.parse(journal.start.since));
}

/**
 * A delivery that was under way when the message was held sets its time to now. A message with a retry time in the
 * future gets it back; nobody else touches a file in hold/.
 */
export function keepRetryTimes(
  instance: PostfixInstance,
  batch: JournalBatch,
  ids: readonly string[],
  clock: Clock,
): void {
  const ours = new Set(ids);
  for (const [id, mtime] of batch.messages) {
    if (!ours.has(id) || mtime * 1000 <= clock.now()) continue;
    const path = heldPath(instance, id);
    if (path !== undefined && Math.abs(lstatSync(path).mtimeMs / 1000 - mtime) > 0.001) utimesSync(path, mtime, mtime);
  }
}

function without(ids: readonly string[], taken: readonly string[]): string[] {
  const gone = new Set(taken);
  return ids.filter((id) => !gone.has(id));
}

/**
 * Have qmgr look at deferred now, each message's retry time respected: mail that was being delivered when it was frozen is
 * due, and qmgr looks every queue_run_delay (300 s) only. One that is just restarting closes the connection; it reads
 * deferred anyway when it starts, so that this may fail.
 */
export async function wakeDeferred(instance: PostfixInstance, clock: Clock): Promise<void> {
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      return await scanDeferred(instance);
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      await clock.sleep(200);
    }
  }
}
