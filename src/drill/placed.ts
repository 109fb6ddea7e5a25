import { hash } from "node:crypto";
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { MessageFacts } from "../postfix/message.ts";
import { messageQueues, type QueueName } from "../postfix/queue.ts";
import { bufferSource, QueueFileDamaged, readQueueFile, routingRecords } from "../postfix/queue-file.ts";
import { listQueue } from "../postfix/spool.ts";
import { queueFilePath, temporaryPath } from "../restore/place.ts";
import type { PlannedMessage, RestorePlan } from "../restore/plan.ts";
import { unreadableByPostcat } from "../restore/prove.ts";
import type { DrillCheck } from "../snapshot/drill.ts";
import { run } from "../system/exec.ts";
import { unquoted } from "./sink.ts";

/** A message of the manifest that a restore placed, and the file found for it afterwards. */
export interface Placed {
  readonly planned: PlannedMessage;
  /** What the file says, read back from it. */
  readonly facts: MessageFacts;
  readonly path: string;
  /** Its queue id; null for mail of maildrop that waits under another name for somebody to decide. */
  readonly id: string | null;
  readonly queue: QueueName;
}

/** What was found in a queue after a restore. */
export interface FoundQueue {
  readonly placed: readonly Placed[];
  /** Planned, and no file has its digest. */
  readonly missing: readonly PlannedMessage[];
  /** Files nobody planned, as `queue/id`. */
  readonly strange: readonly string[];
  /** Of all planned and found messages: those postcat(1) can't read. */
  readonly unreadable: readonly string[];
  /** Ids and what `postqueue -j` has otherwise. */
  readonly unlisted: readonly { readonly id: string; readonly problem: string }[];
  /** Lines of `postqueue -j` that agree, without maildrop. */
  readonly listed: number;
  /** Files of bounce, defer and trace that were to be restored, and those that are not as the manifest has them, as `defer/id`. */
  readonly logs: { readonly planned: number; readonly deviating: readonly string[] };
}

/**
 * Read every file of a restored queue and find for each planned message the one whose bytes have the manifest's digest, in
 * the queue it was to be in. Nothing the restore remembers is used: neither names nor journal.
 */
export async function readQueue(
  instance: PostfixInstance,
  plan: Pick<RestorePlan, "place">,
  run: string,
  signal: AbortSignal | undefined,
): Promise<FoundQueue> {
  const wanted = Map.groupBy(
    plan.place,
    (planned) => `${planned.message.file.digest} ${planned.waits ? "" : planned.queue}`,
  );
  const placed: Placed[] = [];
  const strange: string[] = [];
  for (const { queue, id, path } of filesOf(instance, plan, run)) {
    signal?.throwIfAborted();
    const { digest, facts } = readFile(path);
    const planned = wanted.get(`${digest} ${id === null ? "" : queue}`)?.shift();
    if (planned === undefined || facts === null) strange.push(`${queue}/${id ?? "waiting"}`);
    else placed.push({ planned, facts, path, id, queue });
  }
  const ids = placed.flatMap(({ id }) => id ?? []);
  const unreadable = ids.length === 0 ? [] : await unreadableByPostcat(instance, ids, signal);
  const { listed, unlisted } = await compareListing(instance, placed, signal);
  const missing = [...wanted.values()].flat();
  return { placed, missing, strange, unreadable, unlisted, listed, logs: compareLogs(instance, placed) };
}

interface QueueFile {
  readonly queue: QueueName;
  readonly id: string | null;
  readonly path: string;
}

function filesOf(instance: PostfixInstance, { place }: Pick<RestorePlan, "place">, run: string): QueueFile[] {
  const waiting = place.flatMap(({ waits, queue }, number) =>
    waits ? [{ queue, id: null, path: temporaryPath(instance, "message", run, number) }] : [],
  );
  return [...messageQueues.flatMap((queue) => listQueue(instance.queueDirectory, queue)), ...waiting];
}

function readFile(path: string): { readonly digest: string; readonly facts: MessageFacts | null } {
  const bytes = bytesOf(path);
  const digest = hash("sha256", bytes, "hex");
  try {
    return { digest, facts: readQueueFile(bufferSource(bytes)) };
  } catch (error) {
    if (error instanceof QueueFileDamaged) return { digest, facts: null };
    throw error;
  }
}

const memory = Buffer.allocUnsafeSlow(1024 * 1024);

/** Valid until the next call. */
function bytesOf(path: string): Buffer {
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    if (size > memory.length) return readFileSync(fd);
    return memory.subarray(0, readAll(fd, size));
  } finally {
    closeSync(fd);
  }
}

function readAll(fd: number, size: number): number {
  let done = 0;
  while (done < size) {
    const got = readSync(fd, memory, done, size - done, done);
    if (got === 0) break;
    done += got;
  }
  return done;
}

/** What a message's sender is still to be told is in its logs. */
function compareLogs(instance: PostfixInstance, placed: readonly Placed[]): FoundQueue["logs"] {
  const planned = placed.flatMap(({ id, planned: { logs, message } }) =>
    logs && id !== null ? message.logs.map(({ log, digest }) => ({ log, id, digest })) : [],
  );
  const deviating = planned.filter(({ log, id, digest }) => {
    const path = queueFilePath(instance, log, id);
    return !existsSync(path) || hash("sha256", bytesOf(path), "hex") !== digest;
  });
  return { planned: planned.length, deviating: deviating.map(({ log, id }) => `${log}/${id}`) };
}

/** A line of `postqueue -j`, as far as a drill looks at it. */
interface Listed {
  readonly queue_name: string;
  readonly queue_id: string;
  readonly arrival_time: number;
  readonly message_size: number;
  readonly sender: string;
  readonly recipients: readonly { readonly address: string }[];
}

async function compareListing(
  instance: PostfixInstance,
  placed: readonly Placed[],
  signal: AbortSignal | undefined,
): Promise<Pick<FoundQueue, "listed" | "unlisted">> {
  const { stdout } = await run("postqueue", ["-c", instance.configDirectory, "-j"], {
    timeoutMs: 60 * 60_000,
    maxOutput: 4 * 1024 ** 3,
    ...(signal === undefined ? {} : { signal }),
  });
  const byId = new Map<string, Listed>();
  for (const text of linesOf(stdout)) {
    const line = JSON.parse(text) as Listed;
    byId.set(line.queue_id, line);
  }
  const unlisted: { id: string; problem: string }[] = [];
  let listed = 0;
  for (const one of placed) {
    if (one.id === null) continue;
    const problem = differentLine(byId.get(one.id), one);
    byId.delete(one.id);
    if (problem !== null) unlisted.push({ id: one.id, problem });
    else if (one.queue !== "maildrop") listed++;
  }
  unlisted.push(...[...byId.keys()].map((id) => ({ id, problem: "it is listed and nobody placed it" })));
  return { listed, unlisted };
}

/** One at a time: the list of a large queue is longer than a string can be (512 MiB). */
function* linesOf(bytes: Buffer): Generator<string, void, undefined> {
  for (let start = 0; start < bytes.length; ) {
    const found = bytes.indexOf(0x0a, start);
    const end = found < 0 ? bytes.length : found;
    if (end > start) yield bytes.toString("utf8", start, end);
    start = end + 1;
  }
}

function differentLine(line: Listed | undefined, { facts, queue, path }: Placed): string | null {
  if (line === undefined) return "it is not listed";
  if (line.queue_name !== queue) return `it is listed in ${line.queue_name}, not in ${queue}`;
  const sender = facts.sender === "" ? "MAILER-DAEMON" : facts.sender;
  if (!same(line.sender, sender)) return "it is listed with another sender";
  const pending = facts.recipients.filter(({ done }) => !done).map(({ address }) => plain(address));
  const said = line.recipients.map(({ address }) => plain(unquoted(address)));
  // showq(8) lists who is in the defer log as well: of a message that was redirected, whom it was redirected to.
  const more = without(said, pending).length > 0 && !isRedirected(path);
  if (more || without(pending, said).length > 0) return "it is listed with other recipients";
  if (queue !== "maildrop" && line.message_size !== facts.size) return "it is listed with another size";
  return null;
}

function isRedirected(path: string): boolean {
  return routingRecords(bufferSource(bytesOf(path))).some(({ kind }) => kind === "redirect");
}

/** What one list has more than the other, the same address counted as often as it is there. */
function without(list: readonly string[], other: readonly string[]): string[] {
  const left = [...other];
  return list.filter((one) => {
    const at = left.indexOf(one);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}

function same(listed: string, address: string): boolean {
  return plain(unquoted(listed)) === plain(address);
}

/** showq(8) and postqueue(1) write `?` for what can't be printed. */
function plain(address: string): string {
  return address.replace(/[^\x20-\x7e]+/g, "?");
}

/** @param manifest messages of the instance in the manifest */
export function queueChecks(
  { placed, missing, strange, unreadable, unlisted, logs }: FoundQueue,
  plan: Pick<RestorePlan, "place" | "skip">,
  manifest: number,
): DrillCheck[] {
  const unexplained = plan.skip.filter(({ message }) => message.recipients.some(({ done }) => !done));
  const served = plan.skip.length - unexplained.length;
  const count = placed.length + served;
  const all = `${placed.length} of ${plan.place.length}`;
  return [
    {
      name: "count",
      ok: count === manifest && strange.length === 0,
      detail: `${placed.length} messages are there and ${served} have nobody left to go to, of ${manifest} in the manifest${
        strange.length === 0 ? "" : `; nobody planned ${some(strange)}`
      }`,
    },
    {
      name: "digests",
      ok: missing.length === 0,
      detail: `${all} have the bytes of the manifest${lacking(missing.map(({ message }) => message.queueId))}`,
    },
    {
      name: "logs",
      ok: logs.deviating.length === 0,
      detail: `${logs.planned - logs.deviating.length} of ${logs.planned} bounce, defer and trace logs have the bytes of the manifest${lacking(logs.deviating)}`,
    },
    {
      name: "postqueue",
      ok: unlisted.length === 0,
      detail: `postqueue -j ${unlisted.length === 0 ? "lists exactly these" : `differs: ${some(unlisted.map(({ id, problem }) => `${id}: ${problem}`))}`}`,
    },
    {
      name: "postcat",
      ok: unreadable.length === 0,
      detail: `postcat -q reads ${placed.length - unreadable.length} of ${placed.length}${lacking(unreadable)}`,
    },
  ];
}

function lacking(ids: readonly string[]): string {
  return ids.length === 0 ? "" : `; not ${some(ids)}`;
}

export function some(names: readonly string[]): string {
  const more = names.length - 5;
  return `${names.slice(0, 5).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}
