import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { createCopyRepository, openCopyRepository } from "../repository/copy-repository.ts";
import { markerKey, snapshotKey } from "../repository/layout.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Repository } from "../repository/repository.ts";
import { makePrivateDirectory } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { copyClaims, copyDrills, copyRemovals } from "./notes.ts";
import { countNewer, keysOf, missingOf, type NeededObject, type PlannedCopy, planCopy, removedNow } from "./plan.ts";
import { copyRecord } from "./records.ts";
import type { CopyProblem, CopyRequest } from "./request.ts";
import { Transfer } from "./transfer.ts";

export type { CopyEvent, CopyProblem, CopyRequest } from "./request.ts";

export interface CopyReport {
  readonly copied: { readonly snapshots: number; readonly objects: number; readonly bytes: number };
  /** Claims, withdrawals, lists of what a prune removes, and reports of drills that were copied. */
  readonly notes: number;
  /** Snapshots that should be there and are not. */
  readonly behind: number;
  readonly problems: readonly CopyProblem[];
}

/**
 * Copy what is missing into a further repository: first what claims, removals and reports of drills say, then one snapshot after another in the
 * order of their numbers, each time packs, parts, and the record last, so that a snapshot which is seen there is whole. Every
 * object's bytes are checked against its name before they go, and by the store's put when they have arrived. Killed anywhere,
 * it is finished by the next.
 *
 * @throws OperatorError `refused` when something else lies at the target, `locked` when a prune or copy of this repository is
 * under way on this host, and whatever the stores throw; what is damaged or untrusted is told in the report, and the rest copied
 */
export async function copy(request: CopyRequest): Promise<CopyReport> {
  const lock = await lockRepository(request);
  const signal = AbortSignal.any([request.signal, lock.lost]);
  try {
    return await copyUntilNothingIsNew({ ...request, signal });
  } catch (error) {
    // What a run that has lost its lock throws is the consequence; the loss is the reason.
    throw signal.aborted && !request.signal.aborted ? signal.reason : error;
  } finally {
    await lock.release();
  }
}

/** The lock a prune takes as well: neither then builds on what the other changes. Every copy has the id of its original. */
async function lockRepository({ stateDirectory, source, lockWaitMs }: CopyRequest): Promise<HeldLock> {
  const directory = join(stateDirectory, "repositories", source.id);
  makePrivateDirectory(directory);
  const lock = await tryLock(directory, lockWaitMs);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `a prune or another copy of ${source.store.url} is under way on this host`, {
    hints: ["wait for it to finish, then run spoolsafe copy: the kernel frees the lock when that process ends"],
  });
}

/** A first copy may take longer than the time between two backups, whose own copies find the lock held. */
async function copyUntilNothingIsNew(request: CopyRequest): Promise<CopyReport> {
  let report = await copyOnce(request);
  for (let round = 1; report.newer > 0 && round < mostRounds; round++) {
    const { copied, notes } = report;
    const more = await copyOnce(request);
    report = {
      ...more,
      notes: notes + more.notes,
      copied: {
        snapshots: copied.snapshots + more.copied.snapshots,
        objects: copied.objects + more.copied.objects,
        bytes: copied.bytes + more.copied.bytes,
      },
    };
  }
  const { newer, ...rest } = report;
  return { ...rest, behind: rest.behind + newer };
}

const mostRounds = 10;

/** Snapshots that were taken while this ran are counted as newer. */
async function copyOnce(request: CopyRequest): Promise<CopyReport & { readonly newer: number }> {
  const { report, signal } = request;
  const target = await openTarget(request);
  await refuseItself(request);
  let there = await keysOf(target.store, signal);
  const plan = await planCopy(request, target);
  let missing = missingOf(plan.snapshots, there);
  report({ type: "planned", ...missing.totals });

  const noted = [
    await copyRemovals(request, target, there, plan.sourceRemovals),
    await copyClaims(request, target, there),
    await copyDrills(request, target, there),
  ];
  const transfer = new Transfer(request, target, missing.totals.objects);
  const work = new Work(request, target, transfer);
  await work.copyAll(missing.snapshots, there);
  if (work.buildsOn(await target.condemned(request.trusted, request.signal))) {
    // A prune on another host may have removed what this copy found there, or had just sent, before the record that names it was.
    there = await keysOf(target.store, signal);
    missing = missingOf(plan.snapshots, there);
    await work.copyAll(missing.snapshots, there);
  }
  const damaged = plan.damaged.filter(({ id }) => !work.isWhole(id));
  const failed = [...missing.snapshots.filter(({ id }) => !work.isWhole(id)), ...damaged];
  const gone = failed.length === 0 ? new Set<string>() : await removedNow(request, failed);
  const took = missing.snapshots.length > 0 && request.chosen === null;
  return {
    newer: took ? await countNewer(request, plan) : 0,
    copied: { snapshots: work.snapshots, objects: transfer.objects, bytes: transfer.bytes },
    notes: noted.reduce((sum, { copied }) => sum + copied, 0),
    behind: failed.filter(({ id }) => !gone.has(id)).length + plan.untrusted.length,
    problems: [
      ...plan.untrusted.map(({ problem }) => ({ kind: "untrusted" as const, problem })),
      ...noted.flatMap(({ problems }) => problems),
      ...problemsOf([...work.failures, ...damaged], gone),
    ],
  };
}

/** One bucket answers at several addresses. A copy's marker is written later than its original's. */
async function refuseItself({ source, target, signal }: CopyRequest): Promise<void> {
  if (source.store.url !== target.url) return;
  const written = async (store: ObjectStore) => {
    for await (const { key, modified } of store.list(markerKey, signal)) if (key === markerKey) return modified;
    return undefined;
  };
  if ((await written(source.store)) !== (await written(target))) return;
  throw new OperatorError("config", `the copy ${target.url} is the repository itself, at another address`, {
    hints: ["name a place for the copy that is not lost together with the repository: another disk, another store"],
  });
}

interface Failure {
  /** Id of the snapshot it keeps from being copied. */
  readonly id: string;
  readonly problem: string;
}

/** Each once; of snapshots that a prune has removed meanwhile, none. */
function problemsOf(failures: readonly Failure[], gone: ReadonlySet<string>): CopyProblem[] {
  const told = new Set(failures.filter(({ id }) => !gone.has(id)).map(({ problem }) => problem));
  return [...told].map((problem) => ({ kind: "damaged", problem }));
}

async function openTarget({ source, target, mayMake, stateDirectory, signal }: CopyRequest): Promise<Repository> {
  const options = { cacheDirectory: join(stateDirectory, "cache") };
  if (mayMake) return await createCopyRepository(source, target, signal, options);
  try {
    return await openCopyRepository(source, target, signal, options);
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind !== "no-repository") throw error;
    throw new OperatorError("no-repository", `the copy at ${target.url} is not there any more`, {
      hints: [
        "is its disk mounted?",
        "to begin a new copy in its place, remove copies.json below the state directory, then run spoolsafe copy",
      ],
      cause: error,
    });
  }
}

/** Copies snapshots, and remembers which of them are whole at the target and what stood in the way of the others. */
class Work {
  readonly #request: CopyRequest;
  readonly #target: Repository;
  readonly #transfer: Transfer;
  readonly #whole = new Set<string>();
  /** Packs and parts that records name which were written. */
  readonly #named = new Set<string>();
  #failures: Failure[] = [];
  snapshots = 0;

  constructor(request: CopyRequest, target: Repository, transfer: Transfer) {
    this.#request = request;
    this.#target = target;
    this.#transfer = transfer;
  }

  /** @param missing the snapshots that are not whole there, by writer and number */
  async copyAll(missing: readonly PlannedCopy[], there: Map<string, number>): Promise<void> {
    this.#failures = [];
    for (const snapshot of missing) {
      this.#whole.delete(snapshot.id);
      const problems = await this.#copyOne(snapshot, there);
      if (problems.length === 0) this.#whole.add(snapshot.id);
      for (const problem of problems) this.#failures.push({ id: snapshot.id, problem });
    }
  }

  isWhole(id: string): boolean {
    return this.#whole.has(id);
  }

  /** Whether a record that was written names one of these packs or parts. */
  buildsOn(condemned: ReadonlySet<string>): boolean {
    return condemned.size > 0 && [...this.#named].some((id) => condemned.has(id));
  }

  /** Of the last `copyAll`. */
  get failures(): readonly Failure[] {
    return this.#failures;
  }

  async #copyOne(snapshot: PlannedCopy, there: Map<string, number>): Promise<readonly string[]> {
    const problems = await this.#transfer.copyObjects(snapshot.needs, there);
    if (problems.length > 0) return problems;
    for (const { id } of snapshot.needs) this.#named.add(id);
    const key = snapshotKey(snapshot);
    if (there.has(key)) return [];
    const needed = { packs: ofKind(snapshot, "pack"), parts: ofKind(snapshot, "part") };
    await this.#target.keepLocked(needed, this.#request.signal);
    const { source, trusted, signal } = this.#request;
    const problem = await copyRecord({ source, target: this.#target, trusted, signal }, "snapshot", snapshot, key);
    if (problem !== null) return [problem];
    there.set(key, 0);
    this.snapshots++;
    return [];
  }
}

function ofKind({ needs }: PlannedCopy, kind: NeededObject["kind"]): readonly NeededObject[] {
  return needs.filter((object) => object.kind === kind);
}
