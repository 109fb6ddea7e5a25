import { existsSync, statSync, utimesSync } from "node:fs";
import { uptime } from "node:os";
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
import { type FoundFile, locateInQueue } from "../postfix/spool.ts";
import type { Clock } from "../system/clock.ts";
import { textIfThere } from "../system/files.ts";
import { writersOf } from "../system/processes.ts";
import {
  type CaptureJournal,
  currentBootId,
  type JournalBatch,
  postsuperOutput,
  readJournals,
  removeJournal,
} from "./journal.ts";
import { syncHold } from "./sync-hold.ts";

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
  /** Only what this run held; default whatever run. */
  readonly run?: string;
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
 * `freeze` only behind a qmgr that started after the hold (by a reload of ours, or a reboot), because qmgr may have had its
 * mail in memory, and would drop it undelivered when it met it again (`qmgr_job.c`, `qmgr_message.c`: a second instance of
 * a known message).
 */
export async function recoverHolds(request: RecoverRequest): Promise<HoldRecovery[]> {
  const recoveries: HoldRecovery[] = [];
  for (const journal of journalsOf(request.stateDirectory, request.instance)) {
    if (request.run === undefined || request.run === journal.start.run) {
      recoveries.push(await recoverJournal(journal, request));
    }
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
  const held = journal.open.map((batch) => ({ batch, ...batchOnHold(journal, batch, instance, clock) }));
  const ids = held.flatMap((one) => one.ours);
  const since = Date.parse(journal.open[0]?.since ?? journal.start.since);
  const answer = (released: readonly string[], stillHeld: readonly string[], reason: string | null): HoldRecovery => ({
    type: "holds-recovered",
    instance: instance.name,
    run: journal.start.run,
    released,
    stillHeld,
    unclear: without(
      held.flatMap((one) => one.unclear),
      ids,
    ),
    reason,
    heldMs: ids.length === 0 ? 0 : Math.max(0, clock.now() - since),
  });
  if (ids.length > 0) {
    if (journal.start.mode === "freeze") {
      const missing = await barrierMissing(journal, request);
      if (missing !== null) return answer([], ids, missing);
      for (const { batch } of held) keepRetryTimes(instance, batch, ids, clock);
    }
    const left: string[] = [];
    for (const { batch, ours } of held) {
      left.push(...(await releaseHeld(instance, ours, postsuperOutput(journal.path, batch.batch, "release"))));
    }
    if (left.length > 0) return answer(without(ids, left), left, "postsuper -H did not release them");
    if (journal.start.mode === "freeze" && (await masterState(instance)) !== "stopped")
      await wakeDeferred(instance, clock);
  }
  syncHold(instance.queueDirectory);
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
 * Ours is what postsuper reported as held and not as released, and what is in hold/ now.
 *
 * It reports after it has moved a message, so one that was killed may have moved one more: the next in its list, moved
 * (ctime) in the moment after its last report. And where the host itself went down, the reports may have gone with it
 * while the moves are on disk: then what we announced and what was moved in one go from there on is ours.
 */
export function batchOnHold(
  journal: CaptureJournal,
  batch: JournalBatch,
  instance: PostfixInstance,
  clock: Clock,
): BatchOnHold {
  const said = parsePostsuper(textIfThere(postsuperOutput(journal.path, batch.batch, "hold")) ?? "");
  const released = parsePostsuper(textIfThere(postsuperOutput(journal.path, batch.batch, "release")) ?? "").ids;
  const reported = without(said.ids, released).filter((id) => heldFile(instance, id) !== undefined);
  // Whole: what it did not report it did not hold.
  if (said.count !== undefined) return { ours: reported, unclear: [] };
  const announced = batch.messages.map(([id]) => id);
  const silent = without(announced, [...journal.start.preheld, ...said.ids]).flatMap((id) => moved(instance, id) ?? []);
  const reportedMoves = reported.flatMap((id) => moved(instance, id) ?? []);
  const unreported =
    journal.start.bootId === currentBootId()
      ? movedWhenKilled(journal, batch, said.ids, silent)
      : movedInOneGo(clock.now() - uptime() * 1000, journal, batch, reportedMoves, silent);
  return {
    ours: [...reported, ...unreported],
    unclear: without(
      silent.map(({ id }) => id),
      unreported,
    ),
  };
}

interface Moved {
  readonly id: string;
  /** When it was moved into hold/ (ctime), milliseconds since 1970. */
  readonly at: number;
}

function moved(instance: PostfixInstance, id: string): Moved | undefined {
  const file = heldFile(instance, id);
  return file === undefined ? undefined : { id, at: file.stat.ctimeMs };
}

/** The message a killed postsuper had moved and not reported yet, as far as order and time prove it. */
function movedWhenKilled(
  journal: CaptureJournal,
  batch: JournalBatch,
  reported: readonly string[],
  silent: readonly Moved[],
): string[] {
  const ids = batch.messages.map(([id]) => id);
  const last = reported.at(-1);
  const behind = new Set(ids.slice(last === undefined ? 0 : ids.indexOf(last) + 1));
  const next = silent.find(({ id }) => behind.has(id));
  const output = statSync(postsuperOutput(journal.path, batch.batch, "hold"), { throwIfNoEntry: false });
  if (next === undefined || output === undefined) return [];
  const lastSign = Math.max(Date.parse(batch.since), output.mtimeMs);
  const ours = next.at >= Date.parse(batch.since) - clockGrainMs && next.at - lastSign < killedWithinMs;
  return ours ? [next.id] : [];
}

const killedWithinMs = 2000;
/** Times of files are those of the kernel's last tick, up to 10 ms before the time of day. */
const clockGrainMs = 10;

/**
 * What postsuper had moved when the host went down, as far as order and time prove it: in the order of its list, each within
 * a moment of the batch's announcement, of the last report or of the move before. A run may have died long before its
 * host did, and what an administrator held in between is not ours.
 */
function movedInOneGo(
  boot: number,
  journal: CaptureJournal,
  batch: JournalBatch,
  reported: readonly Moved[],
  silent: readonly Moved[],
): string[] {
  const since = Date.parse(batch.since);
  const output = statSync(postsuperOutput(journal.path, batch.batch, "hold"), { throwIfNoEntry: false });
  let lastSign = Math.max(since, output?.mtimeMs ?? 0, ...reported.map(({ at }) => at));
  const ours: string[] = [];
  for (const { id, at } of silent) {
    if (at < since - clockGrainMs || at > boot || at - lastSign >= killedWithinMs) continue;
    ours.push(id);
    lastSign = Math.max(lastSign, at);
  }
  return ours;
}

/** The file of a message that is on hold, or undefined. */
export function heldFile(instance: PostfixInstance, id: string): FoundFile | undefined {
  return locateInQueue(instance, "hold", id);
}

/**
 * Release exactly these messages, once more what stays. What postsuper says it released is done with, also when an
 * administrator has put it on hold again a moment later.
 *
 * @param output postsuper's standard error, appended
 * @returns the ids that are still on hold because of us
 */
export async function releaseHeld(
  instance: PostfixInstance,
  ids: readonly string[],
  output: string,
): Promise<string[]> {
  let left: string[] = [...ids];
  for (let attempt = 1; left.length > 0; attempt++) {
    try {
      const { ids: released } = await release(instance, left, output);
      left = without(left, released);
    } catch (error) {
      if (attempt > 1) throw error;
    }
    left = left.filter((id) => heldFile(instance, id) !== undefined);
    if (attempt > 1) break;
  }
  return left;
}

/**
 * Put a qmgr between hold and release that cannot know what was held. Always by a reload of our own: which qmgr started
 * after the hold can't be told from times on a clock that may have been set meanwhile. Only a reboot has done it already.
 *
 * @returns why mail of a freeze can't be released yet, or null when no qmgr that knew it from before is left
 */
async function barrierMissing(journal: CaptureJournal, request: RecoverRequest): Promise<string | null> {
  const { instance, clock } = request;
  if (journal.start.bootId !== currentBootId() || (await masterState(instance)) === "stopped") return null;
  try {
    const pid = qmgrPid(instance);
    await reload(instance);
    await waitForNewQmgr(instance, pid, request.barrierMs ?? 30_000, clock);
    return null;
  } catch (error) {
    if (error instanceof OperatorError) return `the queue manager could not be restarted: ${error.message}`;
    throw error;
  }
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
    const file = heldFile(instance, id);
    if (file === undefined || Math.abs(file.stat.mtimeMs / 1000 - mtime) <= 0.001) continue;
    try {
      utimesSync(file.path, mtime, mtime);
    } catch (error) {
      // Removed or released by an administrator at this moment.
      if (errnoOf(error) !== "ENOENT") throw error;
    }
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
