import { closeSync, constants, lstatSync, openSync } from "node:fs";
import type { PlacedHold } from "../holds/placed.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LockTable, readLocks } from "../postfix/locks.ts";
import { isComplete, type QueueName } from "../postfix/queue.ts";
import { listQueue, locate, type SpoolFile } from "../postfix/spool.ts";
import type { HoldRole, LogEntry } from "../snapshot/manifest.ts";
import { type ReadMessage, readMessage } from "./read-message.ts";

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
  /** Held by an earlier run of ours that could not release them: they count as deferred. */
  readonly heldByCapture: ReadonlySet<string>;
  readonly report: (event: CaptureProgress) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Files up to this many bytes are kept in memory while they are captured; larger ones are read again when stored. */
export const keepInMemory = 16 * 1024 * 1024;
const chunkMessages = 256;
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
  readonly #maildrop = new Map<string, CapturedMessage>();
  readonly #damagedIds = new Set<string>();
  readonly #sought = new Set<string>();
  #pending: { digest: string; bytes: Buffer }[] = [];
  #large: { queueId: string; queue: QueueName; digest: string; size: number }[] = [];
  #pendingBytes = 0;
  #bytes = 0;

  constructor(context: CaptureContext) {
    this.context = context;
  }

  /** True for an id that needs no more reading (of any queue but maildrop, whose names are a space of their own). */
  has(queueId: string): boolean {
    return this.messages.has(queueId) || this.#damagedIds.has(queueId);
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
      while (start < files.length && chunk.length < chunkMessages && bytes < chunkBytes) {
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
    if (message === undefined || message === "slipped") return this.has(file.id);
    this.#keep({ ...message, inFlight: this.#inFlight(message.read, locks, locks) });
    return true;
  }

  /** Bytes waiting in memory for `flush`. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  #read(file: SpoolFile, cameFrom?: QueueName): CapturedMessage | "slipped" | undefined {
    const inMaildrop = file.queue === "maildrop";
    if (inMaildrop ? this.#maildrop.has(file.id) : this.has(file.id)) return undefined;
    this.#sought.add(file.id);
    const { instance } = this.context;
    for (const at of [file, ...this.#elsewhere(file)]) {
      const read = readMessage(instance.queueDirectory, at.path, at.id, keepInMemory);
      if (read.outcome === "moved") continue;
      if (read.outcome === "incomplete") return undefined;
      if (read.outcome === "damaged") {
        this.#damagedIds.add(file.id);
        this.damaged.push({
          file: at,
          problem: read.problem,
          digest: read.digest,
          size: read.bytes.length,
          stat: read.stat,
        });
        this.#pending.push({ digest: read.digest, bytes: read.bytes });
        this.#problem(at.id, `can't be read as a message (${read.problem}); its bytes are kept as evidence`);
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

  /** Where a file that is gone from its place may be now, looked up when asked: moves are renames within the spool. */
  *#elsewhere(file: SpoolFile): Iterable<SpoolFile> {
    if (file.queue === "maildrop") return;
    for (let attempt = 0; attempt < 3; attempt++) yield* locate(this.context.instance, file.id);
  }

  #queueAndRole(at: SpoolFile, cameFrom: QueueName | undefined): { queue: QueueName; role: HoldRole } {
    if (cameFrom !== undefined) return { queue: cameFrom, role: null };
    if (at.queue !== "hold") return { queue: at.queue, role: null };
    if (this.context.heldByCapture.has(at.id)) return { queue: "deferred", role: null };
    const placed = this.context.placed.get(at.id);
    return { queue: "hold", role: placed === undefined ? { kind: "admin" } : { kind: placed.kind, run: placed.run } };
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
    const [pending, large] = [this.#pending, this.#large];
    this.#pending = [];
    this.#large = [];
    this.#pendingBytes = 0;
    for (const { digest, bytes } of pending) await this.context.keeper.add(digest, bytes);
    for (const one of large) await this.#storeLarge(one);
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
        const read = readMessage(instance.queueDirectory, at.path, at.id, 0);
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

  #problem(queueId: string, problem: string): void {
    this.problems.push({ instance: this.context.instance.name, queueId, problem });
  }

  /**
   * List all queues until a listing shows nothing uncaptured that is older than the run; then tell what has vanished
   * (in no queue, never captured) and what finished (captured, and in no queue now).
   */
  async close(): Promise<{ messages: CapturedMessage[]; vanished: number; incomplete: number; finished: number }> {
    let listing = this.#listAll();
    for (let pass = 0; pass < maxClosingPasses; pass++) {
      const { older, slipped } = await this.#files(listing.files);
      const left = slipped.filter((file) => file.queue !== "maildrop" && this.#isSomewhere(file.id));
      if (older === 0 && left.length === 0) break;
      if (pass === maxClosingPasses - 1)
        for (const file of left) this.#problem(file.id, "kept moving between queues while it was looked for");
      listing = this.#listAll();
    }
    const messages: CapturedMessage[] = [];
    let finished = 0;
    for (const message of this.messages.values()) {
      const gone = !listing.ids.has(message.queueId) && !this.#isSomewhere(message.queueId);
      if (gone) finished++;
      messages.push({ ...message, finished: gone });
    }
    // pickup removes its file after cleanup has finished the new message, which this same listing then showed.
    for (const message of this.#maildrop.values()) if (listing.maildrop.has(message.queueId)) messages.push(message);
    let incomplete = 0;
    let vanished = 0;
    for (const id of this.#sought) {
      if (this.has(id) || this.#maildrop.has(id)) continue;
      const at = locate(this.context.instance, id);
      if (at.length > 0) incomplete++;
      else if (listing.incomplete.has(id)) continue;
      else vanished++;
    }
    return { messages, vanished, incomplete, finished };
  }

  #isSomewhere(id: string): boolean {
    for (let attempt = 0; attempt < 3; attempt++) if (locate(this.context.instance, id).length > 0) return true;
    return false;
  }

  /** Flow order first (maildrop, incoming, active, deferred), then what may have moved back meanwhile, seen a second time. */
  #listAll() {
    const files = new Map<string, SpoolFile>();
    const maildrop = new Set<string>();
    const incomplete = new Set<string>();
    for (const queue of [
      "maildrop",
      "incoming",
      "active",
      "deferred",
      "hold",
      "deferred",
      "incoming",
      "active",
    ] as const) {
      for (const file of listQueue(this.context.instance.queueDirectory, queue)) {
        if (queue === "maildrop") maildrop.add(file.id);
        files.set(`${queue === "maildrop" ? "maildrop/" : ""}${file.id}`, file);
        if (queue === "incoming" && !isCompleteNow(file.path)) incomplete.add(file.id);
      }
    }
    const ids = new Set([...files.values()].flatMap((file) => (file.queue === "maildrop" ? [] : [file.id])));
    return { files: [...files.values()], ids, maildrop, incomplete };
  }
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
