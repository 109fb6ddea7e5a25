import { rmSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { hold } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { QueueName } from "../postfix/queue.ts";
import { listQueue } from "../postfix/spool.ts";
import { keepStopped } from "../postfix/stopped.ts";
import type { Claimed } from "../snapshot/claim.ts";
import type { Clock } from "../system/clock.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { type ClaimedFile, type ClaimedMail, findClaimed } from "./claimed-mail.ts";
import type { FencingClaim } from "./fence-claims.ts";
import { type HoldKind, journalDirectory } from "./journal.ts";
import { placedHolds, recordPlaced } from "./placed.ts";
import { recoverHolds } from "./recover.ts";
import { fencedMail, recordGivenBack } from "./released.ts";
import { setAside } from "./set-aside.ts";

export interface FenceRequest {
  readonly instance: PostfixInstance;
  /** Every claim on this host's mail that may stand. */
  readonly claims: readonly FencingClaim[];
  readonly own: OwnClaims;
  readonly stateDirectory: string;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** Milliseconds to wait for another run of ours on this queue; default two minutes. */
  readonly lockWaitMs?: number;
}

/** By what the claims of this host itself are known. */
export interface OwnClaims {
  /** The name of its signing key; undefined where there is none. */
  readonly writer: string | undefined;
  readonly hosts: readonly string[];
}

/** A message another host has taken over. */
export interface FencedMessage {
  readonly queueId: string;
  /** Where it was found. */
  readonly queue: QueueName;
  /** Id of the claim. */
  readonly claim: string;
}

export interface FenceReport {
  readonly instance: string;
  /** Postfix was running: too late for everything but mail that waits in deferred. */
  readonly running: boolean;
  /** On hold from now on, kind fence. */
  readonly held: readonly FencedMessage[];
  /** Files of maildrop, now below the state directory. */
  readonly setAside: readonly (FencedMessage & { readonly file: string })[];
  /** On hold before, and why: nothing of it was changed. */
  readonly onHold: readonly (FencedMessage & { readonly kind: HoldKind | "admin" })[];
  /** Claimed, and yet where Postfix can deliver it. */
  readonly unfenced: readonly (FencedMessage & { readonly reason: string })[];
  /** Files that are no message Postfix would deliver; whether they are claimed can't be told. */
  readonly unreadable: readonly { readonly queueId: string; readonly queue: QueueName; readonly problem: string }[];
}

/**
 * Put on hold what other hosts have taken over of this instance's mail, so that nobody gets it a second time. Made to run before
 * Postfix starts, which can't start meanwhile; then everything claimed is out of its reach at the end. What a backup that
 * died had on hold is given back first, or its recovery would release claimed mail later.
 *
 * When Postfix runs, only mail of deferred whose turn has not come is held: that is mail the queue manager does not have in
 * memory. All other claimed mail is in `unfenced`.
 *
 * @throws OperatorError `locked`, `failed` and others: then something claimed may be within Postfix's reach
 */
export async function fence(request: FenceRequest): Promise<FenceReport> {
  const claims = foreignClaims(request.claims, request.own, request.instance);
  if (claims.length === 0) return { ...nothing, instance: request.instance.name, running: false };
  const lock = await lockQueue(request);
  try {
    const guard = await keepStopped(request.instance);
    if (guard === undefined) return await fenceRunning(request, claims);
    try {
      const report = await fenceStopped(request, claims);
      requireHeld(guard, lock);
      return report;
    } finally {
      await guard.release();
    }
  } finally {
    await lock.release();
  }
}

/** Without a restore of this host into this very instance: that mail is where it was claimed for. */
export function foreignClaims(
  claims: readonly FencingClaim[],
  own: OwnClaims,
  instance: Pick<PostfixInstance, "name">,
): FencingClaim[] {
  const isOwn = ({ writer, by, into }: Claimed) =>
    writer === own.writer && own.hosts.includes(by) && into === instance.name;
  return claims.filter(({ claim }) => !isOwn(claim));
}

const nothing = { held: [], setAside: [], onHold: [], unfenced: [], unreadable: [] } as const;

async function lockQueue({ instance, lockWaitMs = 120_000 }: FenceRequest): Promise<HeldLock> {
  const lock = await tryLock(instance.queueDirectory, lockWaitMs);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another run works on ${instance.queueDirectory}`, {
    hints: ["wait until it has ended, then start Postfix again: the fence comes before it"],
  });
}

function requireHeld(...locks: readonly HeldLock[]): void {
  const lost = locks.find((lock) => lock.lost.aborted);
  if (lost === undefined) return;
  throw new OperatorError("failed", `the lock of ${lost.path} was lost: Postfix may have started meanwhile`, {
    hints: ["stop Postfix, and run spoolsafe holds fence again"],
  });
}

async function fenceStopped(request: FenceRequest, claims: readonly FencingClaim[]): Promise<FenceReport> {
  const { instance, stateDirectory, clock, signal } = request;
  await giveBackCaptured(request);
  const claimed = await findClaimed(instance, ["maildrop", "incoming", "active", "deferred", "hold"], claims, signal);
  const [dropped, queued] = partition(claimed.files, ({ queue }) => queue === "maildrop");
  const onHold = alreadyOnHold(request, queued);
  const { held, unfenced } = await holdAll(
    request,
    queued.filter(({ queue }) => queue !== "hold"),
  );
  const since = new Date(clock.now()).toISOString();
  const aside = dropped.map((file) => {
    return { ...toMessage(file), file: setAside(stateDirectory, instance, file, file.claim, since).file };
  });
  const seen = { instance: instance.name, running: false, unreadable: toUnreadable(claimed) };
  return { ...seen, held, setAside: aside, onHold, unfenced };
}

/** @throws OperatorError when something stays in a capture journal, whose recovery would release it later */
async function giveBackCaptured({ instance, stateDirectory, clock, signal }: FenceRequest): Promise<void> {
  const recovered = await recoverHolds({ instance, stateDirectory, clock, ...(signal && { signal }) });
  const left = recovered.find(({ stillHeld }) => stillHeld.length > 0);
  if (left === undefined) return;
  throw new OperatorError("failed", `run ${left.run} of a backup still has mail on hold: ${left.reason}`, {
    hints: ["spoolsafe holds release gives it back; then run spoolsafe holds fence again, before Postfix starts"],
  });
}

async function fenceRunning(request: FenceRequest, claims: readonly FencingClaim[]): Promise<FenceReport> {
  const { instance, clock, signal } = request;
  // Against the way mail goes, and deferred again: what moves meanwhile is met at least once.
  const queues = ["deferred", "active", "incoming", "maildrop", "hold", "deferred"] as const;
  const claimed = await findClaimed(instance, queues, claims, signal);
  const files = [...new Map(claimed.files.map((file) => [file.id, file])).values()];
  const later = clock.now() / 1000 + dueMarginS;
  const [waiting, others] = partition(files, ({ queue, mtime }) => queue === "deferred" && mtime > later);
  const { held, unfenced } = await holdAll(request, waiting);
  const missed = others
    .filter(({ queue }) => queue !== "hold")
    .map((file) => ({ ...toMessage(file), reason: reasons[file.queue] }));
  const seen = { instance: instance.name, running: true, unreadable: toUnreadable(claimed) };
  return { ...seen, held, setAside: [], onHold: alreadyOnHold(request, others), unfenced: [...unfenced, ...missed] };
}

/** Seconds: what is due sooner may be the queue manager's by the time postsuper comes to it. */
const dueMarginS = 10;

const reasons: Readonly<Record<QueueName, string>> = {
  maildrop: "Postfix is running and takes it out of maildrop",
  incoming: "Postfix is running and has it in its hands",
  active: "Postfix is running and may be delivering it",
  deferred: "Postfix is running and it is due",
  hold: "it is on hold",
};

/** Recorded before the first of them is in hold/, so that none ever looks like an administrator's. */
async function holdAll(
  request: FenceRequest,
  files: readonly ClaimedFile[],
): Promise<Pick<FenceReport, "held" | "unfenced">> {
  const { instance, stateDirectory, clock, signal } = request;
  const taken = new Set(listQueue(instance.queueDirectory, "hold").map(({ id }) => id));
  // postsuper would rename one over the other.
  const [clashing, free] = partition(files, ({ id }) => taken.has(id));
  const since = new Date(clock.now()).toISOString();
  for (const [claim, some] of Map.groupBy(free, (file) => file.claim)) {
    recordPlaced(stateDirectory, instance, { kind: "fence", run: claim, since, ids: some.map(({ id }) => id) });
  }
  const reported = await holdIds(request, free, signal);
  const there = new Set(listQueue(instance.queueDirectory, "hold").map(({ id }) => id));
  const [held, left] = partition(free, ({ id }) => there.has(id) && reported.has(id));
  forget(request, left);
  return {
    held: held.map(toMessage),
    unfenced: [
      ...left.map((file) => ({ ...toMessage(file), reason: "postsuper did not put it on hold" })),
      ...clashing.map((file) => ({ ...toMessage(file), reason: "another file of its name is on hold" })),
    ],
  };
}

/** Of what it could not hold: whoever holds it now, or later, is an administrator. */
function forget({ instance, stateDirectory, clock }: FenceRequest, left: readonly ClaimedFile[]): void {
  const time = new Date(clock.now()).toISOString();
  for (const [claim, some] of Map.groupBy(left, (file) => file.claim)) {
    recordGivenBack(stateDirectory, instance, { claim, time, ids: some.map(({ id }) => id) });
  }
}

async function holdIds(
  { instance, stateDirectory }: FenceRequest,
  files: readonly ClaimedFile[],
  signal: AbortSignal | undefined,
): Promise<ReadonlySet<string>> {
  if (files.length === 0) return new Set();
  const output = join(journalDirectory(stateDirectory), `fence.${instance.name.replaceAll("/", "_")}.stderr`);
  const queues = [...new Set(files.map(({ queue }) => queue))];
  const { ids } = await hold(
    instance,
    files.map(({ id }) => id),
    queues,
    output,
    signal,
  );
  rmSync(output, { force: true });
  return new Set(ids);
}

function alreadyOnHold(
  { instance, stateDirectory }: FenceRequest,
  files: readonly ClaimedFile[],
): FenceReport["onHold"] {
  const fenced = new Set(fencedMail(stateDirectory, instance).map(({ id }) => id));
  const placed = placedHolds(stateDirectory, instance);
  return files
    .filter(({ queue }) => queue === "hold")
    .map((file) => {
      const kind = fenced.has(file.id) ? "fence" : placed.get(file.id)?.kind === "restore" ? "restore" : "admin";
      return { ...toMessage(file), kind };
    });
}

function toMessage({ id, queue, claim }: ClaimedFile): FencedMessage {
  return { queueId: id, queue, claim };
}

function toUnreadable({ unreadable }: ClaimedMail): FenceReport["unreadable"] {
  return unreadable.map(({ id, queue, problem }) => ({ queueId: id, queue, problem }));
}

function partition<T>(items: readonly T[], first: (item: T) => boolean): [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))];
}
