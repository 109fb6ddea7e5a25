import { closeSync, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { errnoOf, OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { messageQueues, type QueueName } from "../postfix/queue.ts";
import { readHead } from "../postfix/queue-file.ts";
import { arrivalOfLong, isQueueId } from "../postfix/queue-id.ts";
import type { Clock } from "../system/clock.ts";

/*
 * How much mail is where, and how old the oldest is, in a fraction of a second whatever the size of the queue. Counting is
 * one read of each directory. A long queue id tells when its message came; a short one does not, and no time of the file does
 * either (mtime is the next attempt, ctime the last move, the birth of a restored file its restore), so files are opened
 * and their creation time read, as many as there is time for.
 */

/** The oldest message that was seen. */
export interface Oldest {
  readonly ageSeconds: number;
  /** False when not every message could be looked at in time: then it is at least so old. */
  readonly exact: boolean;
}

/** Upper limits of the columns of `QueueState.ages` but for the last, seconds. */
export const ageLimits: readonly number[] = [600, 3600, 6 * 3600, 86_400, 3 * 86_400];

export interface QueueState {
  /** Files by name: mail that is still being received is among incoming. */
  readonly messages: number;
  /** Null for an empty queue. */
  readonly oldest: Oldest | null;
  /**
   * Messages by age, one count for each of `ageLimits` and one for what is older. Where not every message could be looked at
   * in time it is those that were, spread evenly over the queue: their sum is then less than `messages`.
   */
  readonly ages: readonly number[];
}

export interface InstanceState {
  readonly name: string;
  readonly queues: Readonly<Record<QueueName, QueueState>>;
  readonly total: number;
  /** Deferred messages as a share of all, 0 to 1; null without mail. */
  readonly deferredShare: number | null;
  /** Of the queues that Postfix works on: what is on hold waits for a person and may be as old as it likes. */
  readonly oldest: Oldest | null;
}

export interface QueueLook {
  readonly clock: Clock;
  /** Milliseconds that may go into opening files of this instance. */
  readonly budgetMs: number;
}

/**
 * @throws OperatorError `refused` when this user may not look, `failed` when there is no such queue
 */
export function lookAtQueues(instance: PostfixInstance, { clock, budgetMs }: QueueLook): InstanceState {
  const until = clock.monotonic() + budgetMs;
  // The small queues first; the one nobody is alarmed about last.
  const order = ["maildrop", "incoming", "active", "deferred", "hold"] as const satisfies readonly QueueName[];
  const looked = new Map(order.map((queue) => [queue, lookAtQueue(instance, queue, clock, until)]));
  const state = (queue: QueueName): QueueState => looked.get(queue) ?? { messages: 0, oldest: null, ages: [] };
  const total = messageQueues.reduce((sum, queue) => sum + state(queue).messages, 0);
  return {
    name: instance.name,
    queues: {
      maildrop: state("maildrop"),
      incoming: state("incoming"),
      active: state("active"),
      deferred: state("deferred"),
      hold: state("hold"),
    },
    total,
    deferredShare: total === 0 ? null : state("deferred").messages / total,
    oldest: oldestOf(messageQueues.filter((queue) => queue !== "hold").map((queue) => state(queue).oldest)),
  };
}

function lookAtQueue(instance: PostfixInstance, queue: QueueName, clock: Clock, until: number): QueueState {
  const directories = directoriesBelow(`${instance.queueDirectory}/${queue}`);
  const messages = directories.reduce((sum, { ids }) => sum + ids.length, 0);
  return { messages, ...agesOf(directories, clock, until) };
}

/** Names only: a path for each of 100,000 would take longer than reading their directories. */
interface Directory {
  readonly path: string;
  readonly ids: readonly string[];
}

/** By names alone: one of a single character is a directory of a hashed queue (`dir_forest.c`). */
function directoriesBelow(path: string, depth = 0): Directory[] {
  const names = namesIn(path, depth > 0);
  const inner = names.filter((name) => name.length === 1);
  return [
    { path, ids: names.filter((name) => name.length > 1 && isQueueId(name)) },
    ...inner.flatMap((name) => directoriesBelow(`${path}/${name}`, depth + 1)),
  ];
}

function namesIn(directory: string, mayBeGone: boolean): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    const code = errnoOf(error);
    if (mayBeGone && (code === "ENOENT" || code === "ENOTDIR")) return [];
    if (code === "EACCES") throw mayNotRead(directory, error);
    if (code !== "ENOENT") throw error;
    throw new OperatorError("failed", `${directory} is not there`, {
      hints: ["mount the queue's file system", "let `postfix check` create the queue directories of a new instance"],
      cause: error,
    });
  }
}

/** For what only root may read: the state directory and the queues. */
export function mayNotRead(path: string, cause: unknown): OperatorError {
  return new OperatorError("refused", `this user may not read ${path}`, {
    hints: [
      "run it as root",
      "for a monitoring user, let sudo run exactly this command: examples/nagios/sudoers has the line",
    ],
    cause,
  });
}

function agesOf(directories: readonly Directory[], clock: Clock, until: number): Omit<QueueState, "messages"> {
  const now = clock.now() / 1000;
  const ages = new Array<number>(ageLimits.length + 1).fill(0);
  let oldest = Number.POSITIVE_INFINITY;
  const see = (created: number) => {
    if (created < oldest) oldest = created;
    const column = columnOf(now - created);
    ages[column] = (ages[column] ?? 0) + 1;
  };
  const silent = directories.map(({ path, ids }) => {
    const untold: string[] = [];
    for (const id of ids) {
      const arrival = arrivalOfLong(id);
      if (arrival === undefined) untold.push(id);
      else see(arrival);
    }
    return { path, ids: untold };
  });
  let exact = true;
  let looked = 0;
  for (const path of spread(silent)) {
    // At least a few of every queue, however little time is left.
    exact = ++looked <= fewest || clock.monotonic() <= until;
    if (!exact) break;
    const created = createdSeconds(path);
    if (created !== undefined) see(created);
  }
  if (oldest === Number.POSITIVE_INFINITY) return { oldest: null, ages };
  return { oldest: { ageSeconds: Math.max(0, Math.floor(now - oldest)), exact }, ages };
}

/** The first column for what is dated in the future. */
function columnOf(ageSeconds: number): number {
  let column = 0;
  while (column < ageLimits.length && ageSeconds >= (ageLimits[column] ?? 0)) column++;
  return column;
}

const fewest = 100;

/** Paths of all of them in an order that is spread evenly wherever one stops, and begins elsewhere each time. */
function* spread(directories: readonly Directory[]): Generator<string> {
  const filled = directories.filter(({ ids }) => ids.length > 0);
  const ends: number[] = [];
  for (const { ids } of filled) ends.push((ends.at(-1) ?? 0) + ids.length);
  const total = ends.at(-1) ?? 0;
  const step = coprimeStep(total);
  let index = Math.floor(Math.random() * total);
  for (let taken = 0; taken < total; taken++) {
    const at = ends.findIndex((end) => index < end);
    const id = filled[at]?.ids[index - (ends[at - 1] ?? 0)];
    if (id !== undefined) yield `${filled[at]?.path}/${id}`;
    index = (index + step) % total;
  }
}

/** Near the golden section, whose multiples never come close to each other. */
function coprimeStep(length: number): number {
  let step = Math.max(1, Math.floor(length * 0.618));
  while (greatestDivisor(step, length) !== 1) step++;
  return step;
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

const head = Buffer.allocUnsafe(1024);

/** When the message was created, in seconds since 1970; undefined when it is gone by now. */
function createdSeconds(path: string): number | undefined {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw code === "EACCES" ? mayNotRead(path, error) : error;
  }
  try {
    const length = readSync(fd, head, 0, head.length, 0);
    // Of the file's size only the first bytes' own part matters here.
    const said = length === 0 ? undefined : readHead(head.subarray(0, length), length)?.created;
    if (said !== undefined) return Number(said);
    // maildrop's files, and what is still being received, don't say it: nobody has set their time yet.
    return fstatSync(fd).mtimeMs / 1000;
  } finally {
    closeSync(fd);
  }
}

function oldestOf(all: readonly (Oldest | null)[]): Oldest | null {
  const known = all.filter((one) => one !== null);
  if (known.length === 0) return null;
  return { ageSeconds: Math.max(...known.map((one) => one.ageSeconds)), exact: known.every(({ exact }) => exact) };
}
