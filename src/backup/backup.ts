import { existsSync } from "node:fs";
import type { AgeRecipients } from "../crypto/keys.ts";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { largeFile, SourceChanged } from "../pack/pack.ts";
import { PackWriter } from "../pack/pack-pool.ts";
import { buildPart } from "../pack/part.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { messageQueues } from "../postfix/queue.ts";
import { listQueue } from "../postfix/spool.ts";
import { loadSeen, saveSeen } from "../repository/chain.ts";
import { longestRunMs } from "../repository/object-store.ts";
import type { Repository, SignedRemoval } from "../repository/repository.ts";
import {
  type IndexedPack,
  type KnownFiles,
  knownFiles,
  loadIndex,
  type StoredIndex,
  saveIndex,
} from "../repository/stored-index.ts";
import type { ManifestEntry, StoredFile } from "../snapshot/manifest.ts";
import type { CaptureMode, MessageCounts, ObjectReference, Snapshot } from "../snapshot/snapshot.ts";
import type { Clock } from "../system/clock.ts";
import { makePrivateDirectory } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import type { ByteKeeper, CaptureProblem } from "./capture.ts";
import { entriesOf, type PartPlan, planPart, type Stored } from "./entries.ts";
import { type CapturedInstance, captureInstance, type InstanceEvent } from "./instance.ts";
import type { PrintedSheet } from "./sheets.ts";
import { sparsePacks, withoutPacks } from "./sparse-packs.ts";

/** What the backup tells while it runs; the command line words them. */
export type BackupEvent =
  | InstanceEvent
  | { readonly type: "stored"; readonly bytes: number; readonly files: number }
  /** Messages in the queues of all instances at the beginning, whole or not. */
  | { readonly type: "listed"; readonly messages: number }
  /** So many packs hold little that is still in the queues; what is, `bytes` at most, is stored anew. */
  | { readonly type: "repacking"; readonly packs: number; readonly bytes: number }
  /** The snapshot is whole; the next backup will be a full one. */
  | { readonly type: "index-not-saved" | "not-swept"; readonly reason: string };

export interface BackupRequest {
  readonly instances: readonly PostfixInstance[];
  readonly host: string;
  readonly mode: CaptureMode;
  readonly tags: readonly string[];
  readonly repository: Repository;
  readonly recipients: AgeRecipients;
  readonly signingKey: SigningKey;
  /** Whose removal lists are believed. */
  readonly trusted: TrustedKeys;
  readonly stateDirectory: string;
  readonly holdBatch: number;
  readonly holdLimitMs: number;
  readonly freezeLimitMs: number;
  /** How long freeze waits for a new queue manager behind its reload; without one it releases nothing. Milliseconds. */
  readonly barrierMs: number;
  /** How long freeze waits for deliveries under way to end; one that takes longer is captured as in flight. Milliseconds. */
  readonly drainMs: number;
  /** Further paths to keep with the configuration. */
  readonly include: readonly string[];
  /** Printed runbooks, kept with the first instance; default: none. */
  readonly sheets?: readonly PrintedSheet[];
  readonly mailServices: boolean;
  readonly processors: number;
  /** Most sealed bytes a second to the store, or undefined for as fast as it goes. */
  readonly uploadBytesPerSecond: number | undefined;
  /** Version of spoolsafe, for the record. */
  readonly version: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly report: (event: BackupEvent) => void;
}

export interface BackupReport {
  readonly id: string;
  readonly snapshot: Snapshot;
  /** Bytes of all objects this run wrote, the record included. */
  readonly storedBytes: number;
  readonly durationMs: number;
  /** What is still there and could not be read, or was held over the limit. Not empty: the backup is done, but incomplete. */
  readonly problems: readonly CaptureProblem[];
}

/**
 * Back up every instance into the repository: take the run locks, capture configuration and queues, seal and store what is
 * new while that goes on, then the manifest part, and last the record that makes it a snapshot.
 *
 * Whatever ends it early, nothing stays on hold that may be released, and no record names what is not stored.
 */
export async function backup(request: BackupRequest): Promise<BackupReport> {
  const started = request.clock.now();
  const begun = request.clock.monotonic();
  makePrivateDirectory(request.stateDirectory);
  const locks = await lockQueues(request.instances);
  const signal = AbortSignal.any([request.signal, ...locks.map((lock) => lock.lost)]);
  try {
    const store = await openStore({ ...request, signal });
    const captured = await captureAll({ ...request, signal }, store, started);
    const stored = whereStored(store);
    const entries = entriesOf(captured, stored);
    const plan = planPart(entries, request.host, store.index);
    const part = await storePart(plan, request, store.pace, signal);
    await request.repository.keepLocked({ packs: packsOf(entries, store), parts: [...plan.follows, part] }, signal);
    const removals = await removalsOf(request, signal);
    const snapshot = await describe(
      { ...request, signal },
      { store, captured, entries, plan, part, started, removals },
    );
    refuseCondemned(snapshot, removals, new Set([...store.written.keys(), part.id]));
    refuseLate(request.clock, started, begun);
    const { id, bytes } = await request.repository.commit(snapshot, request.signingKey, signal);
    saveSeen(
      request.stateDirectory,
      request.repository.id,
      new Map([[snapshot.writer, { number: snapshot.number, id }]]),
    );
    remember(request, store, { parts: snapshot.parts, packs: indexedPacks(snapshot, store), lines: plan.lines });
    const problems = captured.flatMap((one) => one.problems);
    const durationMs = Math.round(request.clock.now() - started);
    return { id, snapshot, storedBytes: snapshot.storedBytes + bytes, durationMs, problems };
  } catch (error) {
    // What a run that has lost its lock throws is the consequence; the loss is the reason.
    throw signal.aborted && !request.signal.aborted ? signal.reason : error;
  } finally {
    for (const lock of locks) await lock.release();
  }
}

/** The snapshot is there already: that it can't be remembered costs the next backup time and space, and nothing else. */
function remember({ stateDirectory, report }: BackupRequest, { identity }: Store, index: StoredIndex): void {
  try {
    saveIndex(stateDirectory, identity, index);
  } catch (error) {
    report({ type: "index-not-saved", reason: error instanceof Error ? error.message : String(error) });
  }
}

/** One job at a time per queue directory, by its inode; taken in one order everywhere, so that two runs can't wait for each other. */
async function lockQueues(instances: readonly PostfixInstance[]): Promise<HeldLock[]> {
  const locks: HeldLock[] = [];
  const directories = [...new Set(instances.map((instance) => instance.queueDirectory))].sort();
  for (const directory of directories) {
    // flock(1) would make a file of that name.
    if (!existsSync(directory)) {
      throw new OperatorError("failed", `the queue directory ${directory} is not there`, {
        hints: ["mount the queue's file system", "let `postfix check` create the queue directories of a new instance"],
      });
    }
    const lock = await tryLock(directory);
    if (lock !== undefined) {
      locks.push(lock);
      continue;
    }
    for (const held of locks) await held.release();
    throw new OperatorError("locked", `another spoolsafe run holds the lock of ${directory}`, {
      hints: ["wait for it to finish: the kernel frees the lock when that process ends"],
    });
  }
  return locks;
}

interface Store {
  readonly identity: { repository: string; writer: string; host: string; recipients: readonly string[] };
  readonly index: StoredIndex | undefined;
  readonly known: KnownFiles;
  readonly writer: PackWriter;
  /** Waits before bytes are sent. */
  readonly pace: (bytes: number) => Promise<void>;
  /** Sizes of the files handed to the writer, by digest. */
  readonly offered: Map<string, number>;
  /** Packs there before this run, with their sizes. */
  readonly before: ReadonlyMap<string, number>;
  /** Packs written by this run. */
  readonly written: Map<string, number>;
}

async function openStore(request: BackupRequest): Promise<Store> {
  const { repository, signingKey, host, recipients, stateDirectory, signal } = request;
  const identity = { repository: repository.id, writer: signingKey.writer, host, recipients: recipients.list };
  await sweepLitter(request);
  const before = await repository.packs(signal);
  const parts = await repository.parts(signal);
  const condemned = await repository.condemned(request.trusted, signal);
  const index = usable(loadIndex(stateDirectory, identity), parts, condemned);
  const written = new Map<string, number>();
  const pace = pacing(request);
  const writer = new PackWriter({
    recipients,
    processors: request.processors,
    temporaryDirectory: stateDirectory,
    signal,
    store: async (pack) => {
      await pace(pack.bytes);
      await repository.putPack(pack.id, pack.body, signal);
      written.set(pack.id, pack.bytes);
      request.report({ type: "stored", bytes: pack.bytes, files: pack.digests.length });
    },
  });
  const known = leaveSparse(request, index, knownFiles(index, before, condemned));
  return { identity, index, known, writer, pace, offered: new Map(), before, written };
}

/** What is still wanted of packs that hold little else counts as unknown, and so is stored anew. */
function leaveSparse({ report }: BackupRequest, index: StoredIndex | undefined, known: KnownFiles): KnownFiles {
  const sparse = sparsePacks(index?.packs ?? [], known);
  if (sparse.packs.size === 0) return known;
  report({ type: "repacking", packs: sparse.packs.size, bytes: sparse.bytes });
  return withoutPacks(known, sparse.packs);
}

/** Waits one after another, also when several packs are sent at once, so that all of it together keeps the rate. */
function pacing({ uploadBytesPerSecond, clock, signal }: BackupRequest): (bytes: number) => Promise<void> {
  let free = clock.monotonic();
  return async (bytes) => {
    if (uploadBytesPerSecond === undefined) return;
    const now = clock.monotonic();
    free = Math.max(free, now) + (bytes / uploadBytesPerSecond) * 1000;
    await clock.sleep(free - now, signal);
  };
}

/** Uploads and temporary files that an earlier run of ours left half-done; one who may not see or remove them backs up all the same. */
async function sweepLitter({ repository, signal, report }: BackupRequest): Promise<void> {
  try {
    await repository.store.sweep(signal);
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError)) throw error;
    report({ type: "not-swept", reason: error.message });
  }
}

/** An index whose parts are not all there any more is none. */
function usable(
  index: StoredIndex | undefined,
  parts: ReadonlyMap<string, number>,
  condemned: ReadonlySet<string>,
): StoredIndex | undefined {
  const whole = index?.parts.every(({ id, bytes }) => parts.get(id) === bytes && !condemned.has(id));
  return whole === true ? index : undefined;
}

async function captureAll(request: BackupRequest, store: Store, started: number): Promise<CapturedInstance[]> {
  const { writer, known, offered } = store;
  const keeper: ByteKeeper = {
    has: (digest) => known.files.has(digest) || offered.has(digest),
    deferLogOf: (digest) => known.deferLogs.get(digest),
    add: async (digest, bytes) => {
      if (known.files.has(digest) || offered.has(digest)) return;
      if (bytes.length > largeFile) throw new Error("a large file was kept in memory");
      offered.set(digest, bytes.length);
      await writer.add(digest, bytes);
    },
    addLarge: async (digest, fd, size) => {
      try {
        await writer.addLarge(digest, fd, size);
        offered.set(digest, size);
        return true;
      } catch (error) {
        if (error instanceof SourceChanged) return false;
        throw error;
      }
    },
  };
  const run = runName(started, request.signingKey.writer);
  const captured: CapturedInstance[] = [];
  try {
    request.report({ type: "listed", messages: countMessages(request.instances) });
    for (const [index, instance] of request.instances.entries()) {
      // What belongs to the host and not to an instance is kept once, with the first.
      const host = index === 0 ? request : { include: [], mailServices: false, sheets: [] };
      const { include, mailServices, sheets = [] } = host;
      captured.push(
        await captureInstance(instance, keeper, {
          ...request,
          include,
          mailServices,
          sheets,
          run,
          startedAt: started / 1000,
        }),
      );
    }
    await writer.finish();
    return captured;
  } finally {
    await writer.close();
  }
}

/** By name alone: a stat of each would be a noticeable share of a backup that finds everything stored already. */
function countMessages(instances: readonly PostfixInstance[]): number {
  const counts = instances.flatMap(({ queueDirectory }) =>
    messageQueues.map((queue) => listQueue(queueDirectory, queue).length),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Sortable by time, unique per writer and process. */
function runName(now: number, writer: string): string {
  return `${new Date(now).toISOString().replace(/[-:.]/g, "")}-${process.pid}-${writer.slice(0, 6)}`;
}

function whereStored({ known, writer, offered }: Store): Stored {
  return {
    of: (digest): StoredFile => {
      const stored = known.files.get(digest);
      if (stored !== undefined) return stored;
      const [bytes, pack] = [offered.get(digest), writer.packOf(digest)];
      if (bytes === undefined || pack === undefined)
        throw new Error(`the bytes of ${digest} were captured but not stored`);
      return { digest, bytes, pack };
    },
    deferLogOf: (digest) => known.deferLogs.get(digest),
  };
}

async function storePart(
  plan: PartPlan,
  request: BackupRequest,
  pace: Store["pace"],
  signal: AbortSignal,
): Promise<ObjectReference> {
  const part = await buildPart(Buffer.from(plan.text), request.recipients);
  await pace(part.sealed.length);
  await request.repository.putPart(part.id, part.sealed, signal);
  return { id: part.id, bytes: part.sealed.length };
}

async function removalsOf(
  { repository, trusted }: BackupRequest,
  signal: AbortSignal,
): Promise<readonly SignedRemoval["removal"][]> {
  return (await repository.trustedRemovals(trusted, signal)).map(({ removal }) => removal);
}

/**
 * A prune on another host may have begun after we looked; what it has listed is not to be counted on. What this run itself has
 * stored is: a prune whose clock is ahead takes it for litter, but removes it no earlier than 48 hours after it came by the
 * store's clock, and then not while a record refers to it.
 */
function refuseCondemned({ parts, packs }: Snapshot, removals: Done["removals"], own: ReadonlySet<string>): void {
  const condemned = new Set(removals.flatMap((removal) => [...removal.packs, ...removal.parts]));
  if (![...parts, ...packs].some(({ id }) => condemned.has(id) && !own.has(id))) return;
  throw new OperatorError("failed", "a prune has removed packs that this backup built upon, while it ran", {
    hints: ["run the backup again: it stores anew what is gone"],
  });
}

/** A prune elsewhere, which knows nothing of us, takes packs for litter that no record names after so long. */
function refuseLate(clock: Clock, started: number, begun: number): void {
  const took = Math.max(clock.now() - started, clock.monotonic() - begun);
  if (took < longestRunMs) return;
  const hours = Math.round(took / 3_600_000);
  throw new OperatorError("failed", `the backup took ${hours} hours, and a prune may have removed what it stored`, {
    hints: ["run it again: limits.upload may be too low", "if it did not take so long, the clock was set: timedatectl"],
  });
}

interface Done {
  readonly store: Store;
  readonly captured: readonly CapturedInstance[];
  readonly entries: ReadonlyMap<string, ManifestEntry>;
  readonly plan: PartPlan;
  readonly part: ObjectReference;
  readonly started: number;
  /** What trusted prunes have listed by the end of the capture. */
  readonly removals: readonly SignedRemoval["removal"][];
}

async function describe(request: BackupRequest, done: Done): Promise<Snapshot> {
  const { captured, entries, plan, part, store } = done;
  const last = await lastOf(request, done.removals);
  const packs = packsOf(entries, store);
  const messages = captured.map((one) => one.counts).reduce(addCounts);
  const reused = [...entries.values()].filter(
    (entry) => entry.kind === "message" && store.known.files.has(entry.file.digest),
  );
  const modes = new Set(captured.map((one) => one.mode));
  return {
    format: 1,
    type: "snapshot",
    repository: request.repository.id,
    writer: request.signingKey.writer,
    number: last.number + 1,
    previous: last.id,
    host: request.host,
    time: new Date(done.started).toISOString(),
    finished: new Date(request.clock.now()).toISOString(),
    mode: modes.size === 1 ? ([...modes][0] ?? request.mode) : request.mode,
    tags: request.tags,
    spoolsafe: request.version,
    instances: captured.map(({ instance, mode, running, counts }) => ({
      name: instance.name,
      configDirectory: instance.configDirectory,
      queueDirectory: instance.queueDirectory,
      postfixVersion: instance.version,
      running,
      mode,
      messages: counts,
    })),
    messages,
    bytes: bytesOf(entries),
    storedBytes: part.bytes + sum([...store.written.values()]),
    newMessages: captured.reduce((total, one) => total + one.messages.length, 0) - reused.length,
    reusedMessages: reused.length,
    hold: {
      held: sum(captured.map((one) => one.holds.held)),
      longestMs: Math.max(0, ...captured.map((one) => one.holds.longestMs)),
      released: sum(captured.map((one) => one.holds.released)),
    },
    recipients: request.recipients.list,
    parts: [...plan.follows, { ...part, kind: plan.kind }],
    packs,
  };
}

/** Number and id of this writer's newest snapshot: numbers go on from it even if it was taken away, so that its loss shows. */
async function lastOf(
  request: BackupRequest,
  removals: Done["removals"],
): Promise<{ number: number; id: string | null }> {
  const { repository, signingKey, stateDirectory, signal } = request;
  const seen = loadSeen(stateDirectory, repository.id).get(signingKey.writer);
  const listed = [...(await repository.snapshotRefs(signal)), ...removals.flatMap((removal) => removal.snapshots)];
  const own = listed.filter(({ writer }) => writer === signingKey.writer);
  const known = [...own, ...(seen === undefined ? [] : [seen])];
  return known.reduce<{ number: number; id: string | null }>((best, one) => (one.number > best.number ? one : best), {
    number: 0,
    id: null,
  });
}

function packsOf(entries: ReadonlyMap<string, ManifestEntry>, { before, written }: Store): ObjectReference[] {
  const ids = new Set<string>();
  for (const entry of entries.values()) {
    if (entry.file !== null) ids.add(entry.file.pack);
    if (entry.kind === "message") for (const log of entry.logs) ids.add(log.pack);
  }
  return [...ids].sort().map((id) => {
    const bytes = written.get(id) ?? before.get(id);
    if (bytes === undefined) throw new Error(`pack ${id} is neither written nor listed`);
    return { id, bytes };
  });
}

/** The packs of a snapshot with what was put into each, for the next backup to see how much of it is still wanted. */
function indexedPacks({ packs }: Snapshot, { index, offered, writer }: Store): IndexedPack[] {
  const content = new Map((index?.packs ?? []).map((pack) => [pack.id, pack.content]));
  for (const [digest, bytes] of offered) {
    const pack = writer.packOf(digest);
    if (pack !== undefined) content.set(pack, (content.get(pack) ?? 0) + bytes);
  }
  return packs.map((pack) => ({ ...pack, content: content.get(pack.id) ?? null }));
}

function bytesOf(entries: ReadonlyMap<string, ManifestEntry>): number {
  let bytes = 0;
  for (const entry of entries.values()) {
    if (entry.kind === "message") bytes += entry.file.bytes + sum(entry.logs.map((log) => log.bytes));
  }
  return bytes;
}

function addCounts(one: MessageCounts, other: MessageCounts): MessageCounts {
  const add = (key: Exclude<keyof MessageCounts, "inFlight">) => one[key] + other[key];
  return {
    total: add("total"),
    incoming: add("incoming"),
    active: add("active"),
    deferred: add("deferred"),
    hold: add("hold"),
    maildrop: add("maildrop"),
    inFlight: one.inFlight === null || other.inFlight === null ? null : one.inFlight + other.inFlight,
    incomplete: add("incomplete"),
    vanished: add("vanished"),
    finishedDuringRun: add("finishedDuringRun"),
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
