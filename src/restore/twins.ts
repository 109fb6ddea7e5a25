import { closeSync, constants, existsSync, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as otherWork } from "node:timers/promises";
import { errnoOf, OperatorError } from "../errors.ts";
import type { MessageFacts } from "../postfix/message.ts";
import { isComplete, messageQueues, type QueueName } from "../postfix/queue.ts";
import {
  descriptorSource,
  QueueFileDamaged,
  type QueueFileHead,
  readHead,
  readQueueFile,
} from "../postfix/queue-file.ts";
import { listQueue, locate, type SpoolFile, type SpoolPlace } from "../postfix/spool.ts";
import { entryKey, type MessageEntry } from "../snapshot/manifest.ts";

/** A message of a snapshot as it is queued in the target, where it was when it was read. */
export interface Twin {
  readonly queue: QueueName;
  readonly id: string;
  readonly path: string;
  /** Decimal. */
  readonly inode: string;
  /** The marks in this file, by the index of the recipient in the manifest's entry. */
  readonly done: readonly boolean[];
}

/**
 * Find which messages of a snapshot are still queued in an instance, running or not: by `entryKey`, a file of it in any
 * queue under any name, whatever its marks. Writes nothing and takes no lock; the caller's run lock keeps other restores
 * from placing meanwhile.
 *
 * A message is the same when it was created in the same second and has the same text, arrival time to the microsecond,
 * sender and recipients. Postfix changes none of these in a complete file, and the text alone would not do: where
 * header_checks strip `Received`, two messages of one second may have the same text. In maildrop it never has that header,
 * so an entry of maildrop needs its own queue id as well. One file stands for one entry; of several files of one message,
 * the one under the entry's id is given, else one on hold, whose marks can be changed.
 *
 * A file that is still being received can't be in a snapshot, and a damaged one is no copy of a message that could be
 * read: qmgr(8) will move it to corrupt/. Both are passed over. An instance that never ran has no mail.
 *
 * @throws OperatorError `failed` when mail of the snapshot's time keeps turning up, or a queue's directory is not there;
 * whatever reading a file that is there fails with
 */
export async function findTwins(
  instance: SpoolPlace,
  messages: readonly MessageEntry[],
  signal?: AbortSignal,
): Promise<Map<string, Twin>> {
  const wanted = new Wanted(messages);
  if (messages.length > 0 && hasQueues(instance)) await readAll(new QueueReader(instance, wanted), instance, signal);
  return wanted.twins();
}

/** `postfix check` makes the directories before an instance first runs. */
function hasQueues({ queueDirectory }: SpoolPlace): boolean {
  return messageQueues.some((queue) => existsSync(join(queueDirectory, queue)));
}

/**
 * Listings in a row that show nothing new before all is believed to have been seen. One listing misses a message that is
 * in another queue at each of its looks: of messages renamed without a pause it missed one in a thousand. The next one
 * finds it, and costs little beside the reading.
 */
const quietListings = 3;
const mostListings = 50;

async function readAll(reader: QueueReader, { queueDirectory }: SpoolPlace, signal?: AbortSignal): Promise<void> {
  let quiet = 0;
  for (let listing = 0; listing < mostListings; listing++) {
    await otherWork();
    signal?.throwIfAborted();
    const turnedUp = await reader.readNew(listQueues(queueDirectory), signal);
    quiet = turnedUp ? 0 : quiet + 1;
    if (quiet === quietListings) return;
  }
  throw new OperatorError(
    "failed",
    `messages move between the queues of ${queueDirectory} too fast to tell which of the snapshot are among them`,
    { hints: ["run it again when fewer deliveries are being tried", "or stop Postfix for it: postfix stop"] },
  );
}

/** Mail comes by incoming and active, goes to and fro between active and deferred, and on hold and off it: both ways. */
const lookOrder = ["maildrop", "incoming", "active", "hold", "deferred", "hold", "active", "incoming"] as const;

function listQueues(queueDirectory: string): Iterable<SpoolFile> {
  const files = new Map<string, SpoolFile>();
  for (const queue of lookOrder) for (const file of listQueue(queueDirectory, queue)) files.set(spoolKey(file), file);
  return files.values();
}

/** The names in maildrop are made apart from those of the other queues. */
function spoolKey({ queue, id }: SpoolFile): string {
  return queue === "maildrop" ? `maildrop/${id}` : id;
}

/** Files between two turns of the event loop, where a signal to stop is heard. */
const filesAtATime = 128;
const headBytes = 4096;
/** The heads of all files are read into the same memory. */
const head = Buffer.allocUnsafeSlow(headBytes);

/** Opens each file of a spool once, wherever it has moved, and shows it to the search if it may be a twin. */
class QueueReader {
  readonly #instance: SpoolPlace;
  readonly #wanted: Wanted;
  readonly #read = new Set<string>();

  constructor(instance: SpoolPlace, wanted: Wanted) {
    this.#instance = instance;
    this.#wanted = wanted;
  }

  /**
   * Read what has not been read. A name made again for newer mail isn't: only a restore puts older mail into a queue.
   *
   * @returns whether mail as old as the snapshot's turned up; new mail, of which a running instance always has some, says
   * nothing of what was missed
   */
  async readNew(files: Iterable<SpoolFile>, signal?: AbortSignal): Promise<boolean> {
    let turnedUp = false;
    let opened = 0;
    for (const file of files) {
      if (this.#read.has(spoolKey(file))) continue;
      if (this.#follow(file)) turnedUp = true;
      if (++opened % filesAtATime > 0) continue;
      await otherWork();
      signal?.throwIfAborted();
    }
    return turnedUp;
  }

  #follow(file: SpoolFile): boolean {
    for (const at of this.#places(file)) {
      const created = this.#open(at);
      if (created === "gone") continue;
      this.#read.add(spoolKey(file));
      return created !== null && this.#wanted.isOldEnough(created);
    }
    return false; // delivered; or moving, and then in the next listing, too
  }

  *#places(file: SpoolFile): Iterable<SpoolFile> {
    yield file;
    for (let attempt = 0; attempt < 3; attempt++) yield* locate(this.#instance, file.id);
  }

  /** @returns when its message was created; null for what is no message */
  #open(file: SpoolFile): string | null | "gone" {
    const fd = openExisting(file.path);
    if (fd === undefined) return "gone";
    try {
      return this.#look(fd, file);
    } catch (error) {
      if (error instanceof QueueFileDamaged) return null;
      throw error;
    } finally {
      closeSync(fd);
    }
  }

  #look(fd: number, file: SpoolFile): string | null {
    const stat = fstatSync(fd);
    if (!stat.isFile() || !isComplete(stat.mode)) return null;
    const said = readHead(head.subarray(0, readSync(fd, head, 0, headBytes, 0)), stat.size);
    if (said !== undefined && !this.#wanted.maybe(said)) return said.created;
    const facts = readQueueFile(descriptorSource(fd, stat.size));
    this.#wanted.found(facts, {
      ...file,
      inode: String(fstatSync(fd, { bigint: true }).ino),
      done: facts.recipients.map(({ done }) => done),
    });
    return facts.created;
  }
}

function openExisting(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Entries that nothing but their queue id tells apart, mostly one, and the files that are theirs by their inodes. */
interface Alike {
  readonly entries: MessageEntry[];
  readonly files: Map<string, Twin>;
}

/** The messages looked for, and what of them was found. */
class Wanted {
  readonly #alike = new Map<string, Alike>();
  /** Sizes of the messages created in a second. */
  readonly #sizes = new Map<string, Set<number>>();
  #newest = 0;

  constructor(messages: readonly MessageEntry[]) {
    for (const entry of messages) {
      const key = entry.queue === "maildrop" ? withId(identityOf(entry), entry.queueId) : identityOf(entry);
      const alike = this.#alike.get(key);
      if (alike === undefined) this.#alike.set(key, { entries: [entry], files: new Map() });
      else alike.entries.push(entry);
      const sizes = this.#sizes.get(entry.created) ?? new Set();
      this.#sizes.set(entry.created, sizes.add(entry.size));
      this.#newest = Math.max(this.#newest, Number(entry.created));
    }
  }

  isOldEnough(created: string): boolean {
    return Number(created) <= this.#newest;
  }

  maybe({ created, size }: QueueFileHead): boolean {
    return this.#sizes.get(created)?.has(size) === true;
  }

  found(facts: MessageFacts, file: Twin): void {
    const identity = identityOf(facts);
    for (const key of [identity, withId(identity, file.id)]) this.#alike.get(key)?.files.set(file.inode, file);
  }

  twins(): Map<string, Twin> {
    return new Map([...this.#alike.values()].flatMap(paired));
  }
}

/** What is the same in every copy of a message. */
export function identityOf({ created, content, arrival, sender, recipients }: MessageEntry | MessageFacts): string {
  return JSON.stringify([created, content, arrival, sender, ...recipients.map(({ address }) => address)]);
}

function withId(identity: string, id: string): string {
  return `${id} ${identity}`;
}

function paired({ entries, files }: Alike): [string, Twin][] {
  const left = [...files.values()].sort((a, b) => Number(b.queue === "hold") - Number(a.queue === "hold"));
  const take = (at: number) => (at < 0 ? [] : left.splice(at, 1));
  const byId = entries.map((entry) => take(left.findIndex(({ id }) => id === entry.queueId)));
  return entries.flatMap((entry, n): [string, Twin][] => {
    const [twin = left.shift()] = byId[n] ?? [];
    return twin === undefined ? [] : [[entryKey(entry), twin]];
  });
}
