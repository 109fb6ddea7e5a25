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
  rmdirSync,
  unlinkSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LogKind, logKinds, type QueueName } from "../postfix/queue.ts";
import { hashDirectories, nextMicrosecond } from "../postfix/queue-id.ts";
import { listEvidence } from "../postfix/spool.ts";
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

/**
 * Where a file of a run waits until it gets its name. `#` and `.` are no characters of a queue id, so every daemon passes
 * it by; it is on the file system of the queues, and its last name change is a link and no copy. A message waits below
 * hold/, a log below the directory of its like: `postsuper -p` removes old files from queues when they are not mode 0700.
 *
 * The files are spread over sub-directories of one character, as hash directories are, because threads that create files in
 * one directory wait for each other.
 */
export function temporaryPath(
  queueDirectory: string,
  directory: "hold" | LogKind,
  run: string,
  number: number,
): string {
  return `${queueDirectory}/${directory}/${subdirectoryOf(number)}/${number}.${run}${suffix}`;
}

const suffix = "#SPOOLSAFE";
/** Messages in a row that wait in one sub-directory: fewer than come from one pack. */
const neighbours = 512;

function subdirectoryOf(number: number): string {
  return (Math.floor(number / neighbours) % 16).toString(16).toUpperCase();
}

/** Make the directories that so many messages of a run wait in. */
export function makeTemporaryDirectories(instance: PostfixInstance, messages: number): void {
  for (let number = 0; number < Math.min(messages, neighbours * 16); number += neighbours) {
    for (const directory of waitingRooms) {
      const path = join(instance.queueDirectory, directory, subdirectoryOf(number));
      makeOwned(path, instance.ownerUid, instance.ownerGid);
    }
  }
}

const waitingRooms = ["hold", ...logKinds] as const;

/** Remove the temporary files a run left in a queue directory. */
export function sweepTemporaries(queueDirectory: string, run: string): void {
  for (const directory of waitingRooms.flatMap((room) => subdirectoriesOf(join(queueDirectory, room)))) {
    const left = namesIn(directory).filter((name) => name.endsWith(`.${run}${suffix}`));
    for (const name of left) unlinkSync(join(directory, name));
    if (left.length > 0) fsyncDirectory(directory);
  }
  removeEmptyDirectories(queueDirectory);
}

/** Directories that a hashed queue wants are made again when a file needs them, by Postfix and by us. */
export function removeEmptyDirectories(queueDirectory: string): void {
  for (const directory of waitingRooms.flatMap((room) => subdirectoriesOf(join(queueDirectory, room)))) {
    try {
      rmdirSync(directory);
    } catch (error) {
      if (errnoOf(error) !== "ENOTEMPTY" && errnoOf(error) !== "ENOENT") throw error;
    }
  }
}

function subdirectoriesOf(directory: string): string[] {
  return namesIn(directory)
    .filter((name) => /^[0-9A-F]$/.test(name))
    .map((name) => join(directory, name));
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
  readonly #touched = new Set<string>();
  readonly #made = new Set<string>();
  /** Logs without a message that were in the way, by the path they were moved to. */
  readonly movedAside: string[] = [];

  /** @param renamed called before a message is tried under another name than the one it was staged with */
  constructor(
    instance: PostfixInstance,
    run: Pick<RunJournal, "run" | "directory">,
    renamed: (placement: Placement, id: string) => void,
  ) {
    this.#instance = instance;
    this.#run = run;
    this.#renamed = renamed;
    this.#taken = new Set(listEvidence(instance.queueDirectory).map(({ path }) => basename(path)));
  }

  /**
   * Give a staged message its name: its logs first, then the message, by link(2), which never replaces a file. A name that
   * is taken is left alone and the next microsecond tried. Between two of these system calls a crash leaves a temporary
   * name, or the message in its place and a temporary name beside it.
   */
  place(placement: Placement): PlacedMessage {
    const { message, entry, number, inode } = placement;
    const { queueDirectory } = this.#instance;
    const temporary = temporaryPath(queueDirectory, "hold", this.#run.run, number);
    let { id } = placement;
    let path = this.#path(message.queue, id);
    while (!this.#link(placement, temporary, id, path)) {
      id = nextMicrosecond(id);
      path = this.#path(message.queue, id);
      this.#renamed(placement, id);
    }
    this.#unlink(temporary);
    for (const { log } of placement.logs) this.#unlink(temporaryPath(queueDirectory, log, this.#run.run, number));
    return { message, entry, id, inode, path };
  }

  /** @returns false when the name is taken, with nothing left under it */
  #link(placement: Placement, temporary: string, id: string, path: string): boolean {
    if (this.#taken.has(id)) return false;
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

  #linkLog(log: LogKind, number: number, id: string, inode: string): string {
    const temporary = temporaryPath(this.#instance.queueDirectory, log, this.#run.run, number);
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
export function queueFilePath(instance: PostfixInstance, directory: QueueName | LogKind, id: string): string {
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

export function lookFor(queueDirectory: string, run: string, staged: StagedMessage): Found {
  const path = temporaryPath(queueDirectory, "hold", run, staged.number);
  const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (stat === undefined || String(stat.ino) !== staged.inode || stat.nlink > 1n) return "placed";
  return String(stat.ctimeNs) === staged.changed ? "waiting" : "unknown";
}

/** Drop the temporary names of a message that has its own. */
export function dropTemporaries(queueDirectory: string, run: string, staged: StagedMessage): void {
  for (const directory of waitingRooms) {
    const path = temporaryPath(queueDirectory, directory, run, staged.number);
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) unlinkSync(path);
  }
}
