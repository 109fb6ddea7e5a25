import { closeSync, lstatSync, openSync } from "node:fs";
import { HoldJournal, postsuperOutput } from "../holds/journal.ts";
import { heldFile, keepRetryTimes, releaseHeld, wakeDeferred } from "../holds/recover.ts";
import { hold, masterState, qmgrPid, reload, waitForNewQmgr } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LockTable, readLocks } from "../postfix/locks.ts";
import { isComplete, type QueueName } from "../postfix/queue.ts";
import { listQueue, type SpoolFile } from "../postfix/spool.ts";
import type { Clock } from "../system/clock.ts";
import type { Capture, CaptureProblem } from "./capture.ts";
import { mtimeOf } from "./read-message.ts";

/** What a run held; `longestMs` is measured from the start of postsuper -h to the end of postsuper -H of a batch. */
export interface HoldTotals {
  held: number;
  released: number;
  longestMs: number;
}

export interface HoldContext {
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  readonly run: string;
  readonly clock: Clock;
  /** Messages per batch. */
  readonly batch: number;
  /** Milliseconds a batch of mode hold, or the whole of mode freeze, may be held. */
  readonly limitMs: number;
  /** Milliseconds freeze waits for deliveries under way to end. */
  readonly drainMs: number;
  /** Milliseconds freeze waits for a new queue manager after the reload. */
  readonly barrierMs: number;
  readonly signal?: AbortSignal | undefined;
}

// Bytes of one batch: what is held is read into memory, so that nothing but the disk decides how long it takes.
const batchBytes = 32 * 1024 * 1024;

/** A message about to be held: its id, and its time and size before. */
interface Candidate {
  readonly id: string;
  readonly queue: QueueName;
  readonly mtime: number;
  readonly size: number;
}

/**
 * Capture mail of `deferred` in batches: hold, read, release. Only mail that qmgr does not have in memory can be held and
 * released without a barrier, and that is mail in deferred whose retry time is not near; a due message on hold would miss
 * its turn. What a lock shows to be in delivery is left for the walk that reads in place, and so is everything else.
 *
 * A batch is released when it has been read, at its time limit, and when anything goes wrong, whatever was read by then.
 * What could not be released stays in the journal, for `recoverHolds`.
 *
 * One limit can't be helped: an administrator's `postsuper -h` on a message that we hold at that moment says nothing and
 * changes nothing, and our release undoes it. Batches are short so that it is rare.
 */
export async function captureDeferredOnHold(capture: Capture, context: HoldContext, totals: HoldTotals): Promise<void> {
  const preheld = idsOnHold(context.instance);
  const candidates = notDue(context, preheld);
  if (candidates.length === 0) return;
  const journal = beginJournal(context, "hold", preheld);
  try {
    let most = context.batch;
    for (let start = 0, batch = 0; start < candidates.length; batch++) {
      context.signal?.throwIfAborted();
      const size = batchSize(candidates, start, most);
      const some = candidates.slice(start, start + size).filter((one) => later(context, one));
      start += size;
      const ms = some.length > 0 ? await holdReadRelease(capture, context, journal, batch, some, totals) : 0;
      most = nextBatch(context, size, ms);
      await capture.flush();
      if (!journal.settled) return;
    }
  } finally {
    journal.close();
  }
}

function idsOnHold(instance: PostfixInstance): Set<string> {
  return new Set(listQueue(instance.queueDirectory, "hold").map((file) => file.id));
}

function beginJournal(context: HoldContext, mode: "hold" | "freeze", preheld: ReadonlySet<string>): HoldJournal {
  const { instance } = context;
  return HoldJournal.begin(context.stateDirectory, {
    run: context.run,
    mode,
    instance: instance.name,
    configDirectory: instance.configDirectory,
    queueDirectory: instance.queueDirectory,
    since: new Date(context.clock.now()).toISOString(),
    preheld: [...preheld],
  });
}

function notDue(context: HoldContext, preheld: ReadonlySet<string>): Candidate[] {
  return candidates(listQueue(context.instance.queueDirectory, "deferred"), preheld).filter((one) =>
    later(context, one),
  );
}

/** Complete mail of a listing. What has the name of a message on hold is none: postsuper would rename one over the other. */
function candidates(files: readonly SpoolFile[], preheld: ReadonlySet<string>): Candidate[] {
  return files.flatMap((file) => {
    if (preheld.has(file.id)) return [];
    const stat = lstatSync(file.path, { throwIfNoEntry: false });
    if (stat === undefined || !stat.isFile() || !isComplete(stat.mode)) return [];
    return [{ id: file.id, queue: file.queue, mtime: mtimeOf(stat), size: stat.size }];
  });
}

/** Its turn comes only after the longest time we may hold it. */
function later(context: HoldContext, one: Candidate): boolean {
  return one.mtime * 1000 > context.clock.now() + context.limitMs;
}

function batchSize(candidates: readonly Candidate[], start: number, most: number): number {
  let bytes = 0;
  let size = 0;
  for (; start + size < candidates.length && size < most; size++) {
    bytes += candidates[start + size]?.size ?? 0;
    if (bytes > batchBytes && size > 0) break;
  }
  return size;
}

/** On a slow disk or a busy machine smaller batches keep the time on hold well below its limit. */
function nextBatch(context: HoldContext, size: number, ms: number): number {
  if (ms > context.limitMs / 3) return Math.max(10, Math.floor(size / 2));
  return ms < context.limitMs / 8 ? Math.min(context.batch, size * 2) : size;
}

/** @returns milliseconds from before the hold to after the release */
async function holdReadRelease(
  capture: Capture,
  context: HoldContext,
  journal: HoldJournal,
  batch: number,
  messages: readonly Candidate[],
  totals: HoldTotals,
): Promise<number> {
  const { instance, clock } = context;
  const started = clock.monotonic();
  writeAhead(journal, context, batch, messages);
  const report = await hold(instance, idsOf(messages), ["deferred"], postsuperOutput(journal.path, batch, "hold"));
  const holding = clock.monotonic() - started;
  totals.held += report.ids.length;
  // Releasing takes about as long as holding took: what can't be read before then is read in place.
  const readUntil = started + context.limitMs - Math.max(2 * holding, 100);
  let ms = 0;
  try {
    const locks = readLocks();
    for (const id of report.ids) {
      if (clock.monotonic() > readUntil) break;
      readHeld(capture, instance, id, "deferred", locks);
    }
  } finally {
    // Not ended by the run's signal: what is held is given back first.
    const left = await releaseHeld(instance, report.ids, postsuperOutput(journal.path, batch, "release"));
    ms = Math.round(clock.monotonic() - started);
    totals.longestMs = Math.max(totals.longestMs, ms);
    totals.released += report.ids.length - left.length;
    if (left.length === 0) journal.released(batch);
    if (ms > context.limitMs) capture.problems.push(overLimit(context, report.ids.length, ms));
  }
  return ms;
}

function writeAhead(journal: HoldJournal, context: HoldContext, batch: number, messages: readonly Candidate[]): void {
  const since = new Date(context.clock.now()).toISOString();
  journal.batch(
    batch,
    since,
    messages.map(({ id, mtime }) => [id, mtime] as const),
  );
  // The outputs exist before their writers, so that recovery never mistakes a missing file for an empty one.
  for (const action of ["hold", "release"] as const)
    closeSync(openSync(postsuperOutput(journal.path, batch, action), "a", 0o600));
}

function idsOf(messages: readonly Candidate[]): string[] {
  return messages.map((one) => one.id);
}

function readHeld(
  capture: Capture,
  instance: PostfixInstance,
  id: string,
  cameFrom: QueueName,
  locks: LockTable,
): void {
  const file = heldFile(instance, id);
  // Being delivered at this moment: the walk reads it in place, where its marks are followed.
  if (file === undefined || locks.has(file.stat.dev, file.stat.ino)) return;
  capture.held({ queue: "hold", id, path: file.path }, cameFrom, locks);
}

function overLimit(context: HoldContext, messages: number, ms: number): CaptureProblem {
  return {
    instance: context.instance.name,
    queueId: null,
    problem: `${messages} messages were on hold for ${ms} ms, longer than the limit of ${context.limitMs} ms`,
  };
}

/**
 * Capture at one instant: hold all mail that is complete, put the reload barrier between hold and release, let deliveries
 * under way end, read, release.
 *
 * qmgr may have any of this mail in memory. Without the barrier it would read a released message a second time, merge it
 * into the job it still has, and remove the file undelivered; so if no new qmgr is seen, nothing is released, whatever
 * queue it came from, and the journal stays for recovery.
 */
export async function captureFrozen(capture: Capture, context: HoldContext, totals: HoldTotals): Promise<void> {
  const { instance, clock } = context;
  const preheld = idsOnHold(instance);
  const journal = beginJournal(context, "freeze", preheld);
  const frozen = new Map<string, Candidate>();
  const started = clock.monotonic();
  let barrier = false;
  const batches: { batch: number; ids: readonly string[] }[] = [];
  try {
    for (let batch = 0; batch < 5; batch++) {
      // The first listings say what is frozen; the later ones what of it postsuper missed on its way between two queues.
      const found = completeMail(instance, preheld).filter((one) => batch === 0 || frozen.has(one.id));
      if (found.length === 0) break;
      for (const one of found) if (!frozen.has(one.id)) frozen.set(one.id, one);
      writeAhead(journal, context, batch, found);
      const report = await hold(instance, idsOf(found), frozenQueues, postsuperOutput(journal.path, batch, "hold"));
      batches.push({ batch, ids: report.ids });
      totals.held += report.ids.length;
    }
    if (batches.some(({ ids }) => ids.length > 0)) await confirmBarrier(context);
    barrier = true;
    await readFrozen(capture, context, frozen, batches, started + context.limitMs);
  } finally {
    await thaw(capture, context, journal, frozen, batches, barrier, started, totals);
  }
}

const frozenQueues = ["incoming", "active", "deferred"] as const;

/** Listed there and back: a message that moves meanwhile is missed by one listing and met by the next. */
function completeMail(instance: PostfixInstance, preheld: ReadonlySet<string>): Candidate[] {
  const files = [...frozenQueues, "active" as const, "incoming" as const].flatMap((queue) =>
    candidates(listQueue(instance.queueDirectory, queue), preheld),
  );
  return [...new Map(files.reverse().map((one) => [one.id, one])).values()];
}

/** The queue manager to be replaced is the one that is there after the hold: one that started meanwhile has read mail, too. */
async function confirmBarrier(context: HoldContext): Promise<void> {
  if ((await masterState(context.instance)) === "stopped") return;
  const oldQmgr = qmgrPid(context.instance);
  await reload(context.instance);
  await waitForNewQmgr(context.instance, oldQmgr, context.barrierMs, context.clock);
}

/** Deliveries under way write their marks into the held file; what is locked past the deadline is captured as in flight. */
async function readFrozen(
  capture: Capture,
  context: HoldContext,
  frozen: ReadonlyMap<string, Candidate>,
  batches: readonly { ids: readonly string[] }[],
  until: number,
): Promise<void> {
  const { instance, clock, signal } = context;
  const drainUntil = Math.min(until, clock.monotonic() + context.drainMs);
  let waiting = batches.flatMap(({ ids }) => ids);
  while (waiting.length > 0) {
    const locks = readLocks();
    const last = clock.monotonic() > drainUntil;
    const locked: string[] = [];
    for (const id of waiting) {
      signal?.throwIfAborted();
      if (clock.monotonic() > until) return;
      const file = heldFile(instance, id);
      if (file === undefined) continue;
      if (locks.has(file.stat.dev, file.stat.ino) && !last) locked.push(id);
      else capture.held({ queue: "hold", id, path: file.path }, frozen.get(id)?.queue ?? "deferred", locks);
      if (capture.pendingBytes > batchBytes) await capture.flush();
    }
    waiting = locked;
    if (waiting.length > 0) await clock.sleep(50, signal);
  }
}

async function thaw(
  capture: Capture,
  context: HoldContext,
  journal: HoldJournal,
  frozen: ReadonlyMap<string, Candidate>,
  batches: readonly { batch: number; ids: readonly string[] }[],
  barrier: boolean,
  started: number,
  totals: HoldTotals,
): Promise<void> {
  const { instance, clock } = context;
  const ids = batches.flatMap((one) => one.ids);
  if (!barrier && ids.length > 0) {
    journal.close();
    return;
  }
  const times = [...frozen.values()].map(({ id, mtime }) => [id, mtime] as [string, number]);
  keepRetryTimes(instance, { type: "batch", batch: 0, since: "", messages: times }, ids, clock);
  const left: string[] = [];
  try {
    for (const one of batches) {
      const stays = await releaseHeld(instance, one.ids, postsuperOutput(journal.path, one.batch, "release"));
      if (stays.length === 0) journal.released(one.batch);
      left.push(...stays);
    }
  } finally {
    journal.close();
  }
  const ms = Math.round(clock.monotonic() - started);
  totals.longestMs = Math.max(totals.longestMs, ids.length === 0 ? 0 : ms);
  totals.released += ids.length - left.length;
  if (ms > context.limitMs) capture.problems.push(overLimit(context, ids.length, ms));
  // Mail that was being delivered is due now and sits in deferred, which qmgr looks at every queue_run_delay (300 s).
  if (ids.length > 0 && (await masterState(instance)) !== "stopped") await wakeDeferred(instance, clock);
}
