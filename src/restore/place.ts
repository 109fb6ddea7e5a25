import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  fsyncSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  unlinkSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LogKind, logKinds, type QueueName } from "../postfix/queue.ts";
import { hashDirectories, nextMicrosecond } from "../postfix/queue-id.ts";
import { listEvidence, locate } from "../postfix/spool.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import { fsyncDirectory, makePrivateDirectory } from "../system/files.ts";
import type { RunJournal, RunMessage, StagedMessage } from "./journal.ts";

/** A message of a run: how it is to lie in the target, and what the snapshot says of it. */
export interface Work {
  readonly message: RunMessage;
  readonly entry: MessageEntry;
}

/** A message with the temporary file that will become it. */
export interface Placement extends Work, StagedMessage {}

/** A placed message: where it is now. */
export interface PlacedMessage extends Work {
  readonly id: string;
  readonly inode: string;
  readonly path: string;
}

/** The file a temporary name stands for: the message, or one of its logs. */
export type WaitingFile = "message" | LogKind;

/**
 * Where a file of a run waits until it gets its name. `#` and `.` are no characters of a queue id, so every daemon passes
 * it by. It waits in defer/, which no daemon lists (hold/ is listed by mailq, and `postsuper -p` removes old files from
 * queues when they are not mode 0700), on the file system of the queues, so that its name is given by a link and no copy.
 *
 * Where defer/ is hashed the files are spread over its sub-directories, because threads that create files in one directory
 * wait for each other. A sub-directory that is not wanted would be fatal to postsuper, and so to `postfix start`.
 */
export function temporaryPath(instance: SpoolPlace, file: WaitingFile, run: string, number: number): string {
  return `${waitingRoom(instance, number)}/${number}.${file}.${run}${suffix}`;
}

const suffix = "#SPOOLSAFE";

/** Whether a line of postsuper(1) speaks of a temporary file of ours. */
export function isWaiting(line: string): boolean {
  return /^warning: bogus file name: defer\/\S+#SPOOLSAFE$/.test(line);
}
/** Messages in a row that wait in one sub-directory: fewer than come from one pack. */
const neighbours = 512;

/** What has to be known of an instance to find the files of its queues. */
export type SpoolPlace = Pick<PostfixInstance, "queueDirectory" | "hashQueues" | "hashDepth">;

function waitingRoom({ queueDirectory, hashQueues, hashDepth }: SpoolPlace, number: number): string {
  const room = `${queueDirectory}/defer`;
  if (!hashQueues.includes("defer") || hashDepth < 1) return room;
  return `${room}/${(Math.floor(number / neighbours) % 16).toString(16).toUpperCase()}`;
}

/** Make the directories that so many messages of a run wait in; Postfix would make the same ones for its logs. */
export function makeWaitingRooms(instance: PostfixInstance, messages: number): void {
  for (let number = 0; number < Math.min(messages, neighbours * 16); number += neighbours) {
    makeOwned(waitingRoom(instance, number), instance.ownerUid, instance.ownerGid);
  }
}

/**
 * Remove the temporary files a run left.
 *
 * @param waiting numbers of messages that are to keep theirs
 */
export function sweepTemporaries(instance: SpoolPlace, run: string, waiting: ReadonlySet<number> = new Set()): void {
  const top = join(instance.queueDirectory, "defer");
  const below = namesIn(top)
    .filter((name) => /^[0-9A-F]$/.test(name))
    .map((name) => join(top, name));
  for (const directory of [top, ...below]) {
    const left = namesIn(directory).filter(
      (name) => name.endsWith(`.${run}${suffix}`) && !waiting.has(Number.parseInt(name, 10)),
    );
    for (const name of left) unlinkSync(join(directory, name));
    if (left.length > 0) fsyncDirectory(directory);
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return [];
    throw error;
  }
}

/** What placing needs to know of the target, and what it leaves there. */
export class Placer {
  readonly #instance: PostfixInstance;
  readonly #run: Pick<RunJournal, "run" | "directory">;
  readonly #renamed: (placement: Placement, id: string) => void;
  /** Names of evidence: a message of the same name would overwrite it, or be overwritten, when Postfix moves it there. */
  readonly #taken: ReadonlySet<string>;
  readonly #beside: boolean;
  readonly #touched = new Set<string>();
  readonly #made = new Set<string>();
  /** Logs without a message that were in the way, by the path they were moved to. */
  readonly movedAside: string[] = [];

  /**
   * @param renamed called before a message is tried under another name than the one it was staged with
   * @param beside whether the queue has other mail: then names are looked for in all of it
   */
  constructor(
    instance: PostfixInstance,
    run: Pick<RunJournal, "run" | "directory">,
    renamed: (placement: Placement, id: string) => void,
    beside = false,
  ) {
    this.#instance = instance;
    this.#run = run;
    this.#renamed = renamed;
    this.#beside = beside;
    this.#taken = new Set(listEvidence(instance.queueDirectory).map(({ path }) => basename(path)));
  }

  /**
   * Give a staged message its name: its logs first, then the message, by link(2), which never replaces a file. A name that
   * is taken is left alone and the next microsecond tried. Between two of these system calls a crash leaves a temporary
   * name, or the message in its place and a temporary name beside it.
   *
   * Into maildrop by rename(2): pickup(8) removes what it finds there with two names (`safe_open_exist` refuses it, and
   * pickup.c then keeps only what it may not read). No other file has the name, because the inode is in it.
   *
   * @param queue where it goes now; mail that is to be deferred may be put on hold first
   */
  place(placement: Placement, queue: QueueName = placement.message.queue): PlacedMessage {
    const { message, entry, number, inode } = placement;
    const temporary = temporaryPath(this.#instance, "message", this.#run.run, number);
    let { id } = placement;
    let path = this.#path(queue, id);
    const give = queue === "maildrop" ? this.#rename.bind(this) : this.#link.bind(this);
    while (!give(placement, temporary, id, path)) {
      id = nextMicrosecond(id);
      path = this.#path(queue, id);
      this.#renamed(placement, id);
    }
    if (queue !== "maildrop") this.#unlink(temporary);
    for (const { log } of placement.logs) this.#unlink(temporaryPath(this.#instance, log, this.#run.run, number));
    return { message, entry, id, inode, path };
  }

  /** @returns false when the name is taken, with nothing left under it */
  #link(placement: Placement, temporary: string, id: string, path: string): boolean {
    if (this.#taken.has(id) || this.#isElsewhere(id, placement.inode)) return false;
    const logs = placement.logs.map(({ log, inode }) => this.#linkLog(log, placement.number, id, inode));
    this.#makeDirectory(dirname(path));
    try {
      linkSync(temporary, path);
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") throw error;
      if (sameFile(path, placement.inode)) return true;
      for (const log of logs) unlinkSync(log);
      return false;
    }
    this.#touched.add(dirname(path));
    return true;
  }

  /** @returns false when the name is taken */
  #rename({ inode }: Placement, temporary: string, id: string, path: string): boolean {
    if (this.#taken.has(id) || this.#isElsewhere(id, inode)) return false;
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) return false;
    this.#makeDirectory(dirname(path));
    renameSync(temporary, path);
    for (const directory of [dirname(temporary), dirname(path)]) this.#touched.add(directory);
    return true;
  }

  /** In a queue that had mail before: a misnamed file may have the name although no other file has the inode. */
  #isElsewhere(id: string, inode: string): boolean {
    return this.#beside && locate(this.#instance, id).some(({ path }) => !sameFile(path, inode));
  }

  #linkLog(log: LogKind, number: number, id: string, inode: string): string {
    const temporary = temporaryPath(this.#instance, log, this.#run.run, number);
    const path = this.#path(log, id);
    this.#makeDirectory(dirname(path));
    try {
      linkSync(temporary, path);
    } catch (error) {
      if (errnoOf(error) !== "EEXIST") throw error;
      if (sameFile(path, inode)) return path;
      this.#moveAside(path, `${log}-${id}`);
      linkSync(temporary, path);
    }
    this.#touched.add(dirname(path));
    return path;
  }

  /** A log whose message is long gone must not be taken for the log of ours. It is kept beside the journal. */
  #moveAside(path: string, name: string): void {
    const directory = join(this.#run.directory, "orphan-logs");
    makePrivateDirectory(directory);
    const kept = join(directory, name);
    copyFileSync(path, kept);
    syncFile(kept);
    fsyncDirectory(directory);
    unlinkSync(path);
    this.movedAside.push(kept);
  }

  /** Make every name given and taken so far durable. */
  sync(): void {
    for (const directory of this.#touched) fsyncDirectory(directory);
    this.#touched.clear();
  }

  #unlink(path: string): void {
    unlinkSync(path);
    this.#touched.add(dirname(path));
  }

  #path(directory: QueueName | LogKind, id: string): string {
    return queueFilePath(this.#instance, directory, id);
  }

  /** Sub-directories of hashed queues come and go with their files; Postfix makes them 0700, owned by itself. */
  #makeDirectory(directory: string): void {
    if (this.#made.has(directory)) return;
    const { queueDirectory, ownerUid, ownerGid } = this.#instance;
    if (dirname(directory) !== queueDirectory) {
      this.#makeDirectory(dirname(directory));
      makeOwned(directory, ownerUid, ownerGid);
      this.#touched.add(dirname(directory));
    }
    this.#made.add(directory);
  }
}

/** Where Postfix looks for a file of this name in this directory. */
export function queueFilePath(instance: SpoolPlace, directory: QueueName | LogKind, id: string): string {
  const hashed = instance.hashQueues.includes(directory) ? hashDirectories(id, instance.hashDepth) : [];
  return join(instance.queueDirectory, directory, ...hashed, id);
}

function sameFile(path: string, inode: string): boolean {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino) === inode;
}

function makeOwned(directory: string, uid: number, gid: number): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    if (errnoOf(error) === "EEXIST") return;
    throw error;
  }
  chmodSync(directory, 0o700);
  chownSync(directory, uid, gid);
}

function syncFile(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * What an interrupted run left of a message. `waiting`: its temporary file, as it was staged. `placed`: it has its name, or
 * had it. `unknown`: the temporary file is there, but was linked before and its other name is gone: Postfix may have been
 * started meanwhile and have delivered it.
 */
export type Found = "waiting" | "placed" | "unknown";

export function lookFor(instance: SpoolPlace, run: string, staged: StagedMessage): Found {
  const path = temporaryPath(instance, "message", run, staged.number);
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined || String(stat.ino) !== staged.inode || stat.nlink > 1n) return "placed";
  return String(stat.ctimeNs) === staged.changed ? "waiting" : "unknown";
}

/** Drop the temporary names of a message that has its own. */
export function dropTemporaries(instance: SpoolPlace, run: string, staged: StagedMessage): void {
  for (const file of ["message", ...logKinds] as const) {
    const path = temporaryPath(instance, file, run, staged.number);
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) unlinkSync(path);
  }
}
