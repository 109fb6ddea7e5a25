import { join } from "node:path";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { objectKey, snapshotKey } from "../repository/layout.ts";
import { longestRunMs, ObjectRetained } from "../repository/object-store.ts";
import { mapConcurrently } from "../repository/repository.ts";
import type { Clock } from "../system/clock.ts";
import { makePrivateDirectory } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { isOver, type PlannedSnapshot, type PlanRequest, type PrunePlan, planPrune, type Unused } from "./plan.ts";

/** What the prune tells while it runs. */
export type PruneEvent =
  | { readonly type: "planned"; readonly plan: PrunePlan }
  | { readonly type: "removed"; readonly objects: number; readonly of: number }
  | { readonly type: "not-swept"; readonly reason: string };

export interface PruneRequest extends Omit<PlanRequest, "now" | "signal" | "signingKey" | "trusted"> {
  readonly signingKey: SigningKey;
  readonly trusted: Pick<TrustedKeys, "check" | "fingerprints">;
  readonly stateDirectory: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly report: (event: PruneEvent) => void;
}

export interface PruneReport {
  readonly plan: PrunePlan;
  readonly removed: {
    readonly snapshots: number;
    readonly packs: number;
    readonly parts: number;
    readonly bytes: number;
  };
  /** What the store keeps for now, because it is locked. */
  readonly retained: readonly { readonly key: string; readonly until: number | null }[];
  /** What stood in the way; the rest is done. */
  readonly problems: readonly string[];
}

/**
 * Apply retention: sign and store the list of what goes, then remove the records of snapshots, then the packs and parts that
 * were condemned by an earlier prune and whose grace is over. Killed anywhere it leaves every snapshot that is still there
 * whole, and the next prune goes on with the rest: all it needs to know is in the repository.
 *
 * @throws OperatorError `locked` when another prune of this repository is under way on this host, `config` when this host does
 * not trust its own key, `damaged` for a removal record that can't be read, and whatever the store throws
 */
export async function prune(request: PruneRequest): Promise<PruneReport> {
  requireOwnTrust(request);
  const lock = await lockRepository(request);
  const signal = AbortSignal.any([request.signal, lock.lost]);
  try {
    return await pruneLocked({ ...request, signal });
  } catch (error) {
    // What a run that has lost its lock throws is the consequence; the loss is the reason.
    throw signal.aborted && !request.signal.aborted ? signal.reason : error;
  } finally {
    await lock.release();
  }
}

/**
 * Backups would not heed what it announces, and its own next prune neither.
 *
 * @throws OperatorError `config`
 */
export function requireOwnTrust({ signingKey, trusted }: Pick<PruneRequest, "signingKey" | "trusted">): void {
  if (trusted.fingerprints.includes(signingKey.fingerprint)) return;
  throw new OperatorError("config", "this host's own signing key is not among the keys it trusts", {
    hints: [
      "add its public half to the trusted keys, here and on every host that backs up to this repository: spoolsafe key add FILE",
    ],
  });
}

async function lockRepository({ stateDirectory, repository }: PruneRequest): Promise<HeldLock> {
  const directory = join(stateDirectory, "repositories", repository.id);
  makePrivateDirectory(directory);
  const lock = await tryLock(directory);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another prune of ${repository.store.url} is under way on this host`, {
    hints: ["wait for it to finish: the kernel frees the lock when that process ends"],
  });
}

async function pruneLocked(request: PruneRequest): Promise<PruneReport> {
  const { clock, report } = request;
  const plan = await planPrune({ ...request, now: clock.now() });
  report({ type: "planned", plan });
  const going = plan.snapshots.filter(({ kept }) => kept.length === 0).map(({ snapshot }) => snapshot);
  const work = new Work(request, going.length + plan.remove.length);

  const storeNow = await announce(request, plan, going);
  await work.removeSnapshots(going);
  if (storeNow !== null) await work.removeObjects(plan.remove.filter((one) => isOver(one, storeNow)));
  await sweep(request);
  return { plan, ...work.done(), problems: problemsOf(plan, storeNow) };
}

/**
 * Nothing is removed before a record of what goes is there. A prune that only removes what earlier ones have announced writes
 * one as well, if packs go: by it the store's clock tells whether their grace is over, however wrong the clock is here.
 *
 * @returns the time by the store's clock; null when there is nothing to say
 */
async function announce(
  { repository, signingKey, clock, signal }: PruneRequest,
  { condemn, remove }: PrunePlan,
  going: readonly PlannedSnapshot[],
): Promise<number | null> {
  const fresh = going.filter(({ announced }) => !announced);
  if (fresh.length + condemn.length + remove.length === 0) return null;
  const announcement = {
    snapshots: fresh.map(({ id, writer, number }) => ({ id, writer, number })),
    packs: idsOf("pack", condemn),
    parts: idsOf("part", condemn),
  };
  return await repository.announce(announcement, new Date(clock.now()), signingKey, signal);
}

function idsOf(kind: Unused["kind"], unused: readonly Unused[]): string[] {
  return unused.filter((one) => one.kind === kind).map(({ id }) => id);
}

/** Removes, counts what went, and lists what the store keeps. */
class Work {
  readonly #request: PruneRequest;
  readonly #of: number;
  readonly #removed = { snapshots: 0, packs: 0, parts: 0, bytes: 0 };
  readonly #retained: { key: string; until: number | null }[] = [];
  #objects = 0;

  constructor(request: PruneRequest, of: number) {
    this.#request = request;
    this.#of = of;
  }

  async removeSnapshots(going: readonly PlannedSnapshot[]): Promise<void> {
    const { repository, signal } = this.#request;
    await mapConcurrently(going, width, async (snapshot) => {
      const went = await this.#unlessRetained(snapshotKey(snapshot), () => repository.removeSnapshot(snapshot, signal));
      if (went) this.#removed.snapshots++;
    });
  }

  /** Once more nothing goes that a snapshot refers to which is there now: one that came meanwhile, or could not be removed. */
  async removeObjects(over: readonly Unused[]): Promise<void> {
    if (over.length === 0) return;
    const { repository, signal } = this.#request;
    const used = new Set<string>();
    const refs = await repository.snapshotRefs(signal);
    const { damaged } = await repository.takeReadable(
      refs,
      ({ snapshot }) => {
        for (const { id } of [...snapshot.packs, ...snapshot.parts]) used.add(id);
      },
      signal,
    );
    for (const { error } of damaged) throw error;
    await mapConcurrently(
      over.filter(({ id }) => !used.has(id)),
      width,
      async ({ kind, id, bytes }) => {
        const remove = () => repository.removeObject(kind, id, signal);
        if (!(await this.#unlessRetained(objectKey(kind, id), remove))) return;
        this.#removed[kind === "pack" ? "packs" : "parts"]++;
        this.#removed.bytes += bytes;
      },
    );
  }

  done() {
    return { removed: this.#removed, retained: this.#retained.sort((one, other) => (one.key < other.key ? -1 : 1)) };
  }

  async #unlessRetained(key: string, remove: () => Promise<void>): Promise<boolean> {
    try {
      await remove();
      return true;
    } catch (error) {
      if (!(error instanceof ObjectRetained)) throw error;
      this.#retained.push({ key, until: error.until });
      return false;
    } finally {
      this.#request.report({ type: "removed", objects: ++this.#objects, of: this.#of });
    }
  }
}

/** Requests under way at a time. */
const width = 8;

/** Unfinished uploads are litter as well; hosts that back up may not be allowed to remove any. */
async function sweep({ repository, signal, report }: PruneRequest): Promise<void> {
  try {
    await repository.store.sweep(signal);
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError)) throw error;
    report({ type: "not-swept", reason: error.message });
  }
}

/** What a prune, or the plan of one, has to say where it is. */
export const clockBehind =
  "this host's clock is behind the store's: set it right; what is old is taken for young, and stays";

function problemsOf({ unreadable, behind, condemn, remove }: PrunePlan, storeNow: number | null): string[] {
  const early = (one: Unused) => storeNow !== null && storeNow - one.modified < longestRunMs;
  const ahead = storeNow !== null && (condemn.some(early) || remove.some((one) => !isOver(one, storeNow)));
  return [
    ...unreadable.map(({ message }) => message),
    ...(unreadable.length === 0
      ? []
      : [
          "no pack or part was touched, because it is not known what that record refers to: move it out of the repository if it can't be mended",
        ]),
    ...(ahead
      ? ["this host's clock is ahead of the store's: set it right; what is old only by it was not removed"]
      : []),
    ...(behind ? [clockBehind] : []),
  ];
}
