import { closeSync, lstatSync, openSync, type Stats } from "node:fs";
import { basename } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { placedHolds } from "../holds/placed.ts";
import { type HoldRecovery, recoverHolds } from "../holds/recover.ts";
import { canSignalWhatIsSeen, masterState } from "../postfix/control.ts";
import { holdInboxReasons } from "../postfix/hold-inbox.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { readLocks } from "../postfix/locks.ts";
import { foreignOwner } from "../postfix/owner.ts";
import { messageQueues } from "../postfix/queue.ts";
import { listEvidence } from "../postfix/spool.ts";
import type { FileEntry } from "../snapshot/manifest.ts";
import type { CaptureMode, MessageCounts } from "../snapshot/snapshot.ts";
import { groupName, userName } from "../system/accounts.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { readRegularFile } from "../system/files.ts";
import {
  type ByteKeeper,
  Capture,
  type CapturedMessage,
  type CaptureProblem,
  type CaptureProgress,
  keepInMemory,
} from "./capture.ts";
import {
  type ConfigurationEvent,
  type ConfigurationFile,
  collectConfiguration,
  isIncomplete,
} from "./configuration.ts";
import { captureDeferredOnHold, captureFrozen, type HoldContext, type HoldTotals } from "./hold.ts";
import { mtimeOf } from "./read-message.ts";
import { type PrintedSheet, sheetFiles } from "./sheets.ts";

export type InstanceEvent =
  | CaptureProgress
  | ConfigurationEvent
  | HoldRecovery
  | {
      readonly type: "mode";
      readonly instance: string;
      readonly mode: CaptureMode;
      readonly reasons: readonly string[];
    }
  | { readonly type: "holds-given-up"; readonly instance: string; readonly reason: string };

export interface InstanceRequest {
  readonly mode: CaptureMode;
  readonly run: string;
  /** Start of the run, seconds since 1970. */
  readonly startedAt: number;
  readonly stateDirectory: string;
  readonly holdBatch: number;
  readonly holdLimitMs: number;
  readonly freezeLimitMs: number;
  /** How long freeze waits for a new queue manager, and for deliveries under way to end; milliseconds. */
  readonly barrierMs: number;
  readonly drainMs: number;
  readonly include: readonly string[];
  readonly sheets: readonly PrintedSheet[];
  readonly mailServices: boolean;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly report: (event: InstanceEvent) => void;
}

export interface CapturedInstance {
  readonly instance: PostfixInstance;
  readonly mode: CaptureMode;
  readonly running: boolean;
  readonly messages: readonly CapturedMessage[];
  readonly files: readonly CapturedFile[];
  readonly counts: MessageCounts;
  readonly holds: HoldTotals;
  readonly problems: readonly CaptureProblem[];
}

/** A file entry that does not know its pack yet. */
export type CapturedFile = Omit<FileEntry, "file"> & {
  readonly content: { readonly digest: string; readonly bytes: number } | null;
};

/**
 * Capture one instance: configuration, then the queues in the mode that is safe for it, then evidence. The caller holds
 * the run lock of its queue directory, and gives the packs time to be stored while this goes on (through the keeper).
 */
export async function captureInstance(
  instance: PostfixInstance,
  keeper: ByteKeeper,
  request: InstanceRequest,
): Promise<CapturedInstance> {
  // First of all: mail that an earlier run has left on hold waits for it.
  const before = await recover(instance, request, request.signal);
  const { mode, running, visible } = await chooseMode(instance, request, before);
  const problems: CaptureProblem[] = [];
  const fileProblem = (path: string, what: string) =>
    problems.push({ instance: instance.name, queueId: null, problem: `${path} ${what}` });
  const configuration = await collectConfiguration({
    instance,
    include: request.include,
    mailServices: request.mailServices,
    report: (event) => {
      request.report(event);
      if (isIncomplete(event)) fileProblem(event.path, "could not be read");
    },
    signal: request.signal,
  });
  const files = await keepFiles([...configuration, ...sheetFiles(request.sheets)], keeper, fileProblem);
  const capture = new Capture({
    instance,
    keeper,
    startedAt: request.startedAt,
    locksVisible: visible && locksVisible(instance),
    stopped: !running,
    placed: placedHolds(request.stateDirectory, instance),
    report: request.report,
    signal: request.signal,
  });
  capture.heldByUs(before.flatMap((one) => one.stillHeld));
  const holds: HoldTotals = { held: 0, released: 0, longestMs: Math.max(0, ...before.map((one) => one.heldMs)) };
  await capture.inPlace("maildrop");
  const after = await withHolds(capture, mode, instance, request, holds);
  for (const queue of ["hold", "incoming", "active", "deferred"] as const) await capture.inPlace(queue);
  const closed = await capture.close();
  // Nobody delivers while Postfix is stopped; if somebody started it meanwhile, who knows.
  const started = !running && (await masterState(instance)) !== "stopped";
  const messages = started ? closed.messages.map((one) => ({ ...one, inFlight: null })) : closed.messages;
  const damaged = capture.damaged.map(({ file, queue, stat, digest, size }) =>
    evidenceEntry(instance, `${queue}/${file.id}`, stat, { digest, bytes: size }),
  );
  return {
    instance,
    mode,
    running,
    messages,
    files: [...files, ...(await keepEvidence(instance, keeper)), ...damaged],
    counts: count(messages, closed),
    holds,
    problems: [...problems, ...capture.problems, ...recoveryProblems(before), ...recoveryProblems(after)],
  };
}

/** `stopped` chooses itself; what an instance's surroundings make unsafe falls back to `live`, and says why. */
async function chooseMode(
  instance: PostfixInstance,
  request: InstanceRequest,
  before: readonly HoldRecovery[],
): Promise<{ mode: CaptureMode; running: boolean; visible: boolean }> {
  const state = await masterState(instance);
  const reasons: string[] = [];
  const chosen = (mode: CaptureMode) => {
    request.report({ type: "mode", instance: instance.name, mode, reasons });
    return { mode, running: state !== "stopped", visible: state !== "stopped" && state.visible };
  };
  if (state === "stopped") return chosen("stopped");
  if (request.mode === "stopped") {
    throw new OperatorError(
      "refused",
      `Postfix instance ${instance.name} is running (pid ${state.pid}): it can't be captured as stopped`,
      {
        hints: ["leave --mode out, or use --mode hold, freeze or live"],
      },
    );
  }
  if (request.mode === "live") return chosen("live");
  if (!state.visible) reasons.push("its processes are in another PID namespace, so deliveries under way can't be seen");
  if (state.visible && request.mode === "freeze" && !canSignalWhatIsSeen()) {
    reasons.push("/proc is another PID namespace's, so Postfix can't be told to reload");
  }
  const foreign = foreignOwner(instance);
  if (foreign !== undefined) reasons.push(foreign);
  reasons.push(...(await holdInboxReasons(instance)));
  if (request.mode === "freeze" && before.some((one) => one.stillHeld.length > 0)) {
    reasons.push(
      "mail of an earlier run is still on hold for want of a new queue manager, and another freeze would add to it",
    );
  }
  return chosen(reasons.length > 0 ? "live" : request.mode);
}

/**
 * The run lock is an flock on the queue directory. Seen in /proc/locks with the device and inode that stat gives, it
 * shows that locks of delivery agents on this file system can be seen as well (not on NFS, some overlays, btrfs).
 */
function locksVisible(instance: PostfixInstance): boolean {
  const { dev, ino } = lstatSync(instance.queueDirectory);
  return readLocks().has(dev, ino);
}

/**
 * Hold in the way of the mode. When that fails, or the run is told to end: give back what is held and may be released. A
 * failure is said, and the rest is left to reading in place.
 */
async function withHolds(
  capture: Capture,
  mode: CaptureMode,
  instance: PostfixInstance,
  request: InstanceRequest,
  holds: HoldTotals,
): Promise<HoldRecovery[]> {
  if (mode !== "hold" && mode !== "freeze") return [];
  const context: HoldContext = {
    ...request,
    instance,
    batch: request.holdBatch,
    limitMs: mode === "hold" ? request.holdLimitMs : request.freezeLimitMs,
  };
  let failure: unknown;
  try {
    await (mode === "hold" ? captureDeferredOnHold : captureFrozen)(capture, context, holds);
  } catch (error) {
    failure = error;
  }
  // Not ended by the run's signal.
  const recovered = await recover(instance, { ...request, onlyRun: request.run });
  for (const one of recovered) {
    holds.released += one.released.length;
    holds.held = Math.max(holds.held, holds.released + one.stillHeld.length);
    holds.longestMs = Math.max(holds.longestMs, one.heldMs);
    capture.heldByUs(one.stillHeld);
  }
  if (request.signal.aborted) throw interruptedHolding(recovered, request.signal.reason);
  if (failure !== undefined && !(failure instanceof OperatorError)) throw failure;
  if (failure !== undefined) {
    request.report({ type: "holds-given-up", instance: instance.name, reason: failure.message });
  }
  await capture.flush();
  return recovered;
}

/** The reason of the interruption, unless something more important is to be said. */
function interruptedHolding(recovered: readonly HoldRecovery[], reason: unknown): unknown {
  const stillHeld = recovered.flatMap((one) => one.stillHeld);
  if (stillHeld.length === 0) return reason;
  const why = recovered.find((one) => one.stillHeld.length > 0)?.reason;
  return new OperatorError("interrupted", `${stillHeld.length} messages are still on hold because of us (${why})`, {
    hints: ["give them back: spoolsafe holds release"],
    cause: reason,
  });
}

async function recover(
  instance: PostfixInstance,
  request: InstanceRequest & { readonly onlyRun?: string },
  signal?: AbortSignal,
): Promise<HoldRecovery[]> {
  const { stateDirectory, clock, barrierMs, onlyRun: run } = request;
  const options = { ...(run === undefined ? {} : { run }), ...(signal === undefined ? {} : { signal }) };
  const recovered = await recoverHolds({ instance, stateDirectory, clock, barrierMs, ...options });
  for (const one of recovered) request.report(one);
  return recovered;
}

function recoveryProblems(recovered: readonly HoldRecovery[]): CaptureProblem[] {
  return recovered.flatMap(({ instance, stillHeld, unclear, reason }) => [
    ...stillHeld.map((queueId) => ({
      instance,
      queueId,
      problem: `is still on hold because of us (${reason}): run \`spoolsafe holds release\``,
    })),
    ...unclear.map((queueId) => ({
      instance,
      queueId,
      problem:
        "is on hold since a run of ours that died, without proof that we held it: look at it and release it yourself",
    })),
  ]);
}

/** Bytes of a file to the keeper; one too large for memory is read again from where it lies. @returns false if it changed */
async function keepBytes(path: string, digest: string, bytes: Buffer, keeper: ByteKeeper): Promise<boolean> {
  if (bytes.length <= keepInMemory) {
    await keeper.add(digest, bytes);
    return true;
  }
  const fd = openSync(path, "r");
  try {
    return await keeper.addLarge(digest, fd, bytes.length);
  } finally {
    closeSync(fd);
  }
}

async function keepFiles(
  files: readonly ConfigurationFile[],
  keeper: ByteKeeper,
  problem: (path: string, what: string) => void,
): Promise<CapturedFile[]> {
  const kept: CapturedFile[] = [];
  for (const { bytes, ...file } of files) {
    const content = bytes === undefined ? null : { digest: digestOf(bytes).digest, bytes: bytes.length };
    const stored = content === null || (await keepBytes(file.path, content.digest, bytes ?? Buffer.alloc(0), keeper));
    if (stored) kept.push({ kind: "file", ...file, content });
    else problem(file.path, "changed while it was stored");
  }
  return kept;
}

/** corrupt/ and saved/: for whoever finds out what happened, never for a queue. One that goes meanwhile is no loss. */
async function keepEvidence(instance: PostfixInstance, keeper: ByteKeeper): Promise<CapturedFile[]> {
  const kept: CapturedFile[] = [];
  for (const file of listEvidence(instance.queueDirectory)) {
    const read = ifThere(() => readRegularFile(file.path));
    if (read === undefined) continue;
    const { digest } = digestOf(read.bytes);
    if (!(await keepBytes(file.path, digest, read.bytes, keeper))) continue;
    const name = basename(file.path);
    kept.push(evidenceEntry(instance, `${file.queue}/${name}`, read.stat, { digest, bytes: read.bytes.length }));
  }
  return kept;
}

function ifThere<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function evidenceEntry(
  instance: PostfixInstance,
  path: string,
  stat: Stats,
  content: { readonly digest: string; readonly bytes: number },
): CapturedFile {
  return {
    kind: "file",
    instance: instance.name,
    area: "evidence",
    path,
    type: "file",
    mode: stat.mode & 0o7777,
    owner: { user: userName(stat.uid), group: groupName(stat.gid), uid: stat.uid, gid: stat.gid },
    mtime: mtimeOf(stat),
    target: null,
    content,
  };
}

/** What finished during the run is in the snapshot, because nobody but a log knows how it ended, and in no queue's count. */
function count(
  captured: readonly CapturedMessage[],
  closed: { readonly vanished: number; readonly incomplete: number; readonly finished: number },
): MessageCounts {
  const per = Object.fromEntries(messageQueues.map((queue) => [queue, 0])) as Record<
    (typeof messageQueues)[number],
    number
  >;
  const messages = captured.filter(({ finished }) => !finished);
  for (const message of messages) per[message.queue]++;
  const unknown = messages.some((message) => message.inFlight === null);
  return {
    total: messages.length,
    ...per,
    inFlight: unknown ? null : messages.filter((message) => message.inFlight).length,
    incomplete: closed.incomplete,
    vanished: closed.vanished,
    finishedDuringRun: closed.finished,
  };
}
