import { type Dirent, lstatSync, readdirSync, type Stats } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { type EvidenceQueue, evidenceQueues, type LogKind, messageQueues, type QueueName } from "./queue.ts";
import { hashDirectories, isQueueId } from "./queue-id.ts";

/** A file of a message queue by its name alone: whether it is complete, or still there, is for the reader to see. */
export interface SpoolFile {
  readonly queue: QueueName;
  readonly id: string;
  readonly path: string;
}

/** A file of corrupt/ or saved/; its name need not be a queue id. */
export interface EvidenceFile {
  readonly queue: EvidenceQueue;
  readonly path: string;
}

/** Where to look for a message: what {@link locate} needs to know of an instance. */
export interface SpoolPlace {
  readonly queueDirectory: string;
  /** `hash_queue_depth`. Files may be elsewhere: it may have been changed since they were queued. */
  readonly hashDepth: number;
}

/** Levels of hash directories looked at whatever `hash_queue_depth` (1 unless changed) is now. */
const usualDepth = 4;

/**
 * The files of one queue, flat or hashed to any depth. Names Postfix ignores (temporary files, leftovers) and
 * everything that isn't a regular file are left out. A listing and no snapshot: mail that moves meanwhile may be
 * missing or, moving within the queue's directories, be there twice.
 *
 * @throws OperatorError `failed` when the queue's directory is not there: no mail and no queue are different things
 */
export function listQueue(queueDirectory: string, queue: QueueName): SpoolFile[] {
  return namesBelow(queueDirectory, queue).map(({ id, path }) => ({ queue, id, path }));
}

/** Logs of one kind as paths by queue id: for looking at many messages, one walk instead of one search each. */
export function listLogs(queueDirectory: string, log: LogKind): Map<string, string> {
  return new Map(namesBelow(queueDirectory, log).map(({ id, path }) => [id, path]));
}

/** Everything below corrupt/ and saved/, whatever it is called; a directory that isn't there holds nothing. */
export function listEvidence(queueDirectory: string): EvidenceFile[] {
  return evidenceQueues.flatMap((queue) => {
    const entries = entriesOf(join(queueDirectory, queue)) ?? [];
    return filesIn(join(queueDirectory, queue), entries, isAnyName, isAnyName).map(({ path }) => ({ queue, path }));
  });
}

/**
 * Look for one id in every queue, in the order of {@link messageQueues}, without a walk. A message that moves
 * meanwhile may be seen in two queues or, moving against the order, in none.
 */
export function locate({ queueDirectory, hashDepth }: SpoolPlace, id: string): SpoolFile[] {
  const deepest = Math.max(usualDepth, hashDepth);
  return messageQueues.flatMap((queue) => {
    const path = locateIn(`${queueDirectory}/${queue}`, id, deepest);
    return path === undefined ? [] : [{ queue, id, path }];
  });
}

/** The path of an id in one queue, with what lstat says of it; undefined where it is not. */
export function locateInQueue(
  { queueDirectory, hashDepth }: SpoolPlace,
  queue: QueueName,
  id: string,
): FoundFile | undefined {
  return findIn(`${queueDirectory}/${queue}`, id, Math.max(usualDepth, hashDepth));
}

/** The path of a message's log of one kind, or undefined where there is none. */
export function locateLog(queueDirectory: string, log: LogKind, id: string, hashDepth = 1): string | undefined {
  return locateIn(`${queueDirectory}/${log}`, id, Math.max(usualDepth, hashDepth));
}

export interface FoundFile {
  readonly path: string;
  readonly stat: Stats;
}

function locateIn(directory: string, id: string, deepest: number): string | undefined {
  return findIn(directory, id, deepest)?.path;
}

function findIn(directory: string, id: string, deepest: number): FoundFile | undefined {
  if (!isQueueId(id)) throw new OperatorError("damaged", `${JSON.stringify(id)} is no queue id`);
  for (let depth = 0; depth <= deepest; depth++) {
    const path = [directory, ...hashDirectories(id, depth), id].join("/");
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat?.isFile()) return { path, stat };
  }
  return undefined;
}

interface NamedFile {
  readonly id: string;
  readonly path: string;
}

function namesBelow(queueDirectory: string, name: QueueName | LogKind): NamedFile[] {
  const directory = join(queueDirectory, name);
  const entries = entriesOf(directory);
  if (entries === undefined) {
    throw new OperatorError("failed", `${directory} is not there`, {
      hints: ["mount the queue's file system", "let `postfix check` create the queue directories of a new instance"],
    });
  }
  return filesIn(directory, entries, isHashName, isQueueId);
}

/** Postfix's hash directories have names of one character (`dir_forest.c`). */
function isHashName(name: string): boolean {
  return name.length === 1;
}

function isAnyName(): boolean {
  return true;
}

function filesIn(
  directory: string,
  entries: readonly Dirent[],
  isDirectory: (name: string) => boolean,
  isName: (name: string) => boolean,
): NamedFile[] {
  const files: NamedFile[] = [];
  for (const entry of entries) {
    // Not join(): for thousands of names that need no normalising it takes longer than the directory read.
    const path = `${directory}/${entry.name}`;
    if (entry.isFile()) {
      if (isName(entry.name)) files.push({ id: entry.name, path });
    } else if (entry.isDirectory() && isDirectory(entry.name)) {
      // postsuper -s removes hash directories it no longer wants.
      for (const file of filesIn(path, entriesOf(path) ?? [], isDirectory, isName)) files.push(file);
    }
  }
  return files;
}

function entriesOf(directory: string): Dirent[] | undefined {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
