import { closeSync, constants, lstatSync, openSync } from "node:fs";
import type { PlacedHold } from "../holds/placed.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LockTable, readLocks } from "../postfix/locks.ts";
import { isComplete, type QueueName } from "../postfix/queue.ts";
import { listQueue, locate, type SpoolFile } from "../postfix/spool.ts";
import type { HoldRole, LogEntry } from "../snapshot/manifest.ts";
import { LogPlaces } from "./log-places.ts";
import { type ReadMessage, type ReadOutcome, readMessage } from "./read-message.ts";

/** Takes the bytes of captured files; what it already has it does not need again. */
export interface ByteKeeper {
  has(digest: string): boolean;
  /** The defer log stored with a message file before; it is not replaced while the message keeps its bytes. */
  deferLogOf(digest: string): LogEntry | undefined;
  /** Resolves when there is room for more; the bytes are not changed by the caller afterwards. */
  add(digest: string, bytes: Buffer): Promise<void>;
  /** For files too large for memory. @returns false when the file no longer has this digest: read the message again */
  addLarge(digest: string, fd: number, size: number): Promise<boolean>;
}

export interface CapturedMessage {
  readonly queueId: string;
  readonly queue: QueueName;
  readonly read: Omit<ReadMessage, "bytes">;
  readonly inFlight: boolean | null;
  readonly role: HoldRole;
  readonly finished: boolean;
}

/** A complete file that does not parse: kept as evidence, reported as a message that could not be read. */
export interface DamagedMessage {
  readonly file: SpoolFile;
  /** Where it was before we held it. */
  readonly queue: QueueName;
  readonly problem: string;
  readonly digest: string;
  readonly size: number;
  readonly stat: ReadMessage["stat"];
}

/** Something still there that could not be read, or was held too long: the backup is done but incomplete. */
export interface CaptureProblem {
  readonly instance: string;
  readonly queueId: string | null;
  readonly problem: string;
}

export interface CaptureProgress {
  readonly type: "captured";
  readonly instance: string;
  readonly messages: number;
  readonly bytes: number;
}

export interface CaptureContext {
  readonly instance: PostfixInstance;
  readonly keeper: ByteKeeper;
  /** Start of the run, seconds since 1970: mail complete by then is captured or accounted for. */
  readonly startedAt: number;
  /** False where flock holders can't be seen: whether a message was in flight is then unknown. */
  readonly locksVisible: boolean;
  /** No daemon runs: nothing is in flight. */
  readonly stopped: boolean;
  readonly placed: ReadonlyMap<string, PlacedHold>;
  readonly report: (event: CaptureProgress) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Files up to this many bytes are kept in memory while they are captured; larger ones are read again when stored. */
export const keepInMemory = 16 * 1024 * 1024;
// Locks are looked at before and after each chunk: a delivery must not begin and end unseen while one is read, and
// deliveries are of mail in active.
const chunkMessages: Partial<Record<QueueName, number>> = { active: 16, incoming: 16 };
const usualChunkMessages = 256;
const chunkBytes = 32 * 1024 * 1024;
const maxClosingPasses = 50;

/**
 * What has been captured of one instance so far. Files move between queues while they are read, in both directions, so
 * every message is opened once and read by its descriptor, one that has moved is looked for in every queue, and `close`
 * lists all queues again until nothing older than the run is left uncaptured.
 */
export class Capture {
  readonly context: CaptureContext;
  readonly messages = new Map<string, CapturedMessage>();
  readonly damaged: DamagedMessage[] = [];
  readonly problems: CaptureProblem[] = [];
  readonly #logs: LogPlaces;
  readonly #maildrop = new Map<string, CapturedMessage>();
  /** `spoolKey` of what is damaged, and of all that was looked for. */
  readonly #damagedKeys = new Set<string>();
  readonly #sought = new Map<string, SpoolFile>();
  readonly #heldByUs = new Set<string>();
  #pending: { digest: string; bytes: Buffer }[] = [];
  #large: { queueId: string; queue: QueueName; digest: string; size: number }[] = [];
  #largeDamaged: DamagedMessage[] = [];
  #pendingBytes = 0;
  #bytes = 0;

  constructor(context: CaptureContext) {
    this.context = context;
    this.#logs = new LogPlaces(context.instance);
  }

  /** Messages on hold because a run of ours could not release them: they count as deferred, where they will be again. */
  heldByUs(ids: readonly string[]): void {
    for (const id of ids) this.#heldByUs.add(id);
  }

  /** True for a file that needs no more reading. */
  has(file: SpoolFile): boolean {
    const captured = file.queue === "maildrop" ? this.#maildrop : this.messages;
    return captured.has(file.id) || this.#damagedKeys.has(spoolKey(file));
  }

  /** Read a queue where it lies: every message not captured yet. */
  async inPlace(queue: QueueName): Promise<void> {
    await this.#files(listQueue(this.context.instance.queueDirectory, queue));
  }

  /** @returns how many were captured that are older than the run, and which are complete but kept slipping away */
  async #files(files: readonly SpoolFile[]): Promise<{ older: number; slipped: SpoolFile[] }> {
    let older = 0;
    const slipped: SpoolFile[] = [];
    for (let start = 0; start < files.length; ) {
      this.context.signal?.throwIfAborted();
      const before = this.#locks();
      const chunk: CapturedMessage[] = [];
      let bytes = 0;
      const most = chunkMessages[files[start]?.queue ?? "deferred"] ?? usualChunkMessages;
      while (start < files.length && chunk.length < most && bytes < chunkBytes) {
        const file = files[start++];
        const message = file === undefined ? undefined : this.#read(file);
        if (message === "slipped" && file !== undefined) slipped.push(file);
        if (message === undefined || message === "slipped") continue;
        chunk.push(message);
        bytes += message.read.size;
        if (Number(message.read.facts.created) <= this.context.startedAt) older++;
      }
      const after = this.#locks();
      for (const message of chunk) this.#keep({ ...message, inFlight: this.#inFlight(message.read, before, after) });
      await this.flush();
    }
    return { older, slipped };
  }

  /**
   * Capture one message that is on hold by us at this moment, without waiting for anything: its bytes stay in memory
   * until `flush`.
   *
   * @returns false when it is gone from there
   */
  held(file: SpoolFile, cameFrom: QueueName, locks: LockTable | undefined): boolean {
    const message = this.#read(file, cameFrom);
    if (message === undefined || message === "slipped") return this.has(file);
    const seen = this.context.locksVisible ? locks : undefined;
    this.#keep({ ...message, inFlight: this.#inFlight(message.read, seen, seen) });
    return true;
  }

  /** Bytes waiting in memory for `flush`. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  #read(file: SpoolFile, cameFrom?: QueueName): CapturedMessage | "slipped" | undefined {
    if (this.has(file)) return undefined;
    this.#sought.set(spoolKey(file), file);
    for (const at of this.#places(file)) {
      const read = readMessage(this.#logs, at.path, at.id, keepInMemory);
      if (read.outcome === "moved") continue;
      if (read.outcome === "incomplete") return undefined;
      if (read.outcome === "damaged") {
        this.#keepDamaged(at, cameFrom ?? at.queue, read);
        return undefined;
      }
      this.#remember(at, read);
      return {
        queueId: at.id,
        ...this.#queueAndRole(at, cameFrom),
        read: withoutBytes(read),
        inFlight: null,
        finished: false,
      };
    }
    return "slipped";
  }

  /** Where a file may be, one place after another: gone from its own it was renamed within the spool, and is looked for then. */
  *#places(file: SpoolFile): Iterable<SpoolFile> {
    yield file;
    if (file.queue === "maildrop") return;
    for (let attempt = 0; attempt < 3; attempt++) yield* locate(this.context.instance, file.id);
  }

  #queueAndRole(at: SpoolFile, cameFrom: QueueName | undefined): { queue: QueueName; role: HoldRole } {
    if (cameFrom !== undefined) return { queue: cameFrom, role: null };
    if (at.queue !== "hold") return { queue: at.queue, role: null };
    if (this.#heldByUs.has(at.id)) return { queue: "deferred", role: null };
    const placed = this.context.placed.get(at.id);
    return { queue: "hold", role: placed === undefined ? { kind: "admin" } : { kind: placed.kind, run: placed.run } };
  }

  #keepDamaged(file: SpoolFile, queue: QueueName, read: Extract<ReadOutcome, { outcome: "damaged" }>): void {
    const { problem, digest, size, stat, bytes } = read;
    this.#damagedKeys.add(spoolKey(file));
    this.#problem(file.id, `can't be read as a message (${problem}); its bytes are kept as evidence`);
    const damaged = { file, queue, problem, digest, size, stat };
    if (bytes === null) this.#largeDamaged.push(damaged);
    else {
      this.damaged.push(damaged);
      this.#pend(digest, bytes);
    }
  }

  #remember(at: SpoolFile, read: ReadMessage): void {
    for (const log of read.logs) {
      if (log.log !== "defer" || this.context.keeper.deferLogOf(read.digest) === undefined)
        this.#pend(log.digest, log.bytes);
    }
    if (read.bytes !== null) this.#pend(read.digest, read.bytes);
    else if (!this.context.keeper.has(read.digest)) {
      this.#large.push({ queueId: at.id, queue: at.queue, digest: read.digest, size: read.size });
    }
  }

  #pend(digest: string, bytes: Buffer): void {
    if (this.context.keeper.has(digest)) return;
    this.#pending.push({ digest, bytes });
    this.#pendingBytes += bytes.length;
  }

  #keep(message: CapturedMessage): void {
    (message.queue === "maildrop" ? this.#maildrop : this.messages).set(message.queueId, message);
    this.#bytes += message.read.size;
  }

  #locks(): LockTable | undefined {
    return this.context.locksVisible && !this.context.stopped ? readLocks() : undefined;
  }

  #inFlight(read: Pick<ReadMessage, "stat" | "settled">, before: LockTable | undefined, after: LockTable | undefined) {
    if (this.context.stopped) return false;
    if (before === undefined || after === undefined) return null;
    const { dev, ino } = read.stat;
    return before.has(dev, ino) || after.has(dev, ino) || !read.settled;
  }

  /** Hand what is pending to the keeper. */
  async flush(): Promise<void> {
    const [pending, large, damaged] = [this.#pending, this.#large, this.#largeDamaged];
    this.#pending = [];
    this.#large = [];
    this.#largeDamaged = [];
    this.#pendingBytes = 0;
    for (const { digest, bytes } of pending) await this.context.keeper.add(digest, bytes);
    for (const one of large) await this.#storeLarge(one);
    for (const one of damaged) await this.#storeDamaged(one);
    const { instance, report } = this.context;
    report({
      type: "captured",
      instance: instance.name,
      messages: this.messages.size + this.#maildrop.size,
      bytes: this.#bytes,
    });
  }

  /** A large file is read twice, to know its digest and to store it; if a mark changed in between, it is read again. */
  async #storeLarge(large: { queueId: string; queue: QueueName; digest: string; size: number }): Promise<void> {
    const { instance, keeper } = this.context;
    const captured = (large.queue === "maildrop" ? this.#maildrop : this.messages).get(large.queueId);
    let digest = large.digest;
    for (let attempt = 0; attempt < 8; attempt++) {
      for (const at of locate(instance, large.queueId)) {
        const fd = openExisting(at.path);
        if (fd === undefined) continue;
        try {
          if (await keeper.addLarge(digest, fd, large.size)) return;
        } finally {
          closeSync(fd);
        }
        const read = readMessage(this.#logs, at.path, at.id, 0);
        if (read.outcome !== "read" || captured === undefined) continue;
        digest = read.digest;
        for (const log of read.logs) await keeper.add(log.digest, log.bytes);
        this.#keep({ ...captured, read: withoutBytes(read) });
      }
    }
    this.messages.delete(large.queueId);
    this.#maildrop.delete(large.queueId);
    if (locate(instance, large.queueId).some((at) => lstatSync(at.path, { throwIfNoEntry: false }) !== undefined)) {
      this.#problem(large.queueId, "kept changing while it was read");
    }
  }

  /** Nobody writes to what is no message; one that goes or changes meanwhile is no loss. */
  async #storeDamaged(damaged: DamagedMessage): Promise<void> {
    const fd = openExisting(damaged.file.path);
    if (fd === undefined) return;
    try {
      if (await this.context.keeper.addLarge(damaged.digest, fd, damaged.size)) this.damaged.push(damaged);
    } finally {
      closeSync(fd);
    }
  }

  #problem(queueId: string, problem: string): void {
    this.problems.push({ instance: this.context.instance.name, queueId, problem });
  }

  /**
   * List all queues until a listing shows nothing uncaptured that is older than the run; then tell what has vanished
   * (in no queue, never captured) and what finished (captured, and in no queue now).
   */
  async close(): Promise<{ messages: CapturedMessage[]; vanished: number; incomplete: number; finished: number }> {
    let listing = this.#listAll();
    // Local mail that comes after this is newer than the run, and is not followed.
    let files = [...listing.maildrop.values(), ...listing.files.values()];
    for (let pass = 0; pass < maxClosingPasses; pass++) {
      const { older, slipped } = await this.#files(files);
      const left = slipped.filter((file) => file.queue !== "maildrop" && this.#isSomewhere(file.id));
      if (older === 0 && left.length === 0 && !this.#pickedUpSince(listing.maildrop)) break;
      if (pass === maxClosingPasses - 1)
        for (const file of left) this.#problem(file.id, "kept moving between queues while it was looked for");
      listing = this.#listAll();
      files = [...listing.files.values()];
    }
    const queued = [...this.messages.values()].map((message) => ({
      ...message,
      finished: !listing.files.has(message.queueId) && !this.#isSomewhere(message.queueId),
    }));
    const messages = [...queued, ...this.#stillInMaildrop(listing.maildrop)];
    const finished = queued.filter((message) => message.finished).length;
    return { messages, finished, ...this.#missing(listing.incomplete) };
  }

  /** Whether pickup took one of ours since the listing, so that its new message may not have been in it. */
  #pickedUpSince(listed: ReadonlyMap<string, SpoolFile>): boolean {
    return [...this.#maildrop.keys()].some((id) => {
      const file = listed.get(id);
      return file !== undefined && lstatSync(file.path, { throwIfNoEntry: false }) === undefined;
    });
  }

  /**
   * What pickup has not taken. It removes its file a moment after cleanup has finished the new message (an fsync lies
   * between), so both may be there: they are one mail when the arrival time, to the microsecond, and the sender are the
   * same, which pickup hands on (`pickup.c`, `cleanup_envelope.c`).
   */
  #stillInMaildrop(listed: ReadonlyMap<string, SpoolFile>): CapturedMessage[] {
    const submission = ({ read: { facts } }: CapturedMessage) => `${facts.arrival} ${facts.sender}`;
    const taken = new Map([...this.messages.values()].map((message) => [submission(message), message]));
    return [...this.#maildrop.values()].filter((message) => {
      if (!listed.has(message.queueId)) return false;
      const { messageId } = message.read.facts;
      const twin = taken.get(submission(message));
      return twin === undefined || (messageId !== null && messageId !== twin.read.facts.messageId);
    });
  }

  /** What was looked for and not captured: still being received, or in no queue any more. */
  #missing(incomplete: ReadonlySet<string>): { vanished: number; incomplete: number } {
    const counts = { vanished: 0, incomplete: 0 };
    for (const file of this.#sought.values()) {
      if (this.has(file) || this.#maildrop.has(file.id)) continue;
      if (locate(this.context.instance, file.id).length > 0) counts.incomplete++;
      // A maildrop file that is gone was taken by pickup; a client may have given up what it had not finished.
      else if (file.queue !== "maildrop" && !incomplete.has(file.id)) counts.vanished++;
    }
    return counts;
  }

  #isSomewhere(id: string): boolean {
    for (let attempt = 0; attempt < 3; attempt++) if (locate(this.context.instance, id).length > 0) return true;
    return false;
  }

  /** Flow order first (maildrop, incoming, active, deferred), then what may have moved back meanwhile, seen a second time. */
  #listAll(): Listing {
    const { queueDirectory } = this.context.instance;
    const maildrop = new Map(listQueue(queueDirectory, "maildrop").map((file) => [file.id, file]));
    const files = new Map<string, SpoolFile>();
    const incomplete = new Set<string>();
    for (const queue of ["incoming", "active", "deferred", "hold", "deferred", "incoming", "active"] as const) {
      for (const file of listQueue(queueDirectory, queue)) {
        files.set(file.id, file);
        if (queue === "incoming" && !isCompleteNow(file.path)) incomplete.add(file.id);
      }
    }
    return { maildrop, files, incomplete };
  }
}

/** Files by id; maildrop, whose names are a space of their own, apart. */
interface Listing {
  readonly maildrop: ReadonlyMap<string, SpoolFile>;
  readonly files: ReadonlyMap<string, SpoolFile>;
  /** Ids in incoming that were still being received. */
  readonly incomplete: ReadonlySet<string>;
}

function spoolKey(file: SpoolFile): string {
  return file.queue === "maildrop" ? `maildrop/${file.id}` : file.id;
}

function isCompleteNow(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat === undefined || isComplete(stat.mode);
}

function openExisting(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

function withoutBytes(read: ReadMessage): Omit<ReadMessage, "bytes"> {
  const { bytes: _bytes, ...rest } = read;
  return rest;
}
