import type { ObjectKind, RecordPlace } from "../repository/layout.ts";
import { objectKey, snapshotKey } from "../repository/layout.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Repository, SignedRemoval, SignedSnapshot } from "../repository/repository.ts";
import type { CopyRequest } from "./request.ts";

/** A pack or part that a snapshot needs. */
export interface NeededObject {
  readonly kind: ObjectKind;
  readonly id: string;
  readonly bytes: number;
}

/** A snapshot that is to be in the copy, with what it needs: packs first, then parts. */
export interface PlannedCopy extends RecordPlace {
  readonly needs: readonly NeededObject[];
}

export interface CopyPlan {
  /** Ids of all snapshots that were there, wanted or not. */
  readonly listed: ReadonlySet<string>;
  /** By writer and number: every one that is to be there, whether or not it is. */
  readonly snapshots: readonly PlannedCopy[];
  /** Those that are not signed by a trusted key, and so are not to be there. */
  readonly untrusted: readonly { readonly id: string; readonly problem: string }[];
  /** Those whose record can't be read. */
  readonly damaged: readonly { readonly id: string; readonly problem: string }[];
  readonly sourceRemovals: readonly SignedRemoval[];
}

type PlanRequest = Pick<CopyRequest, "source" | "chosen" | "trusted" | "signal">;

/**
 * Which snapshots the copy is to have: the chosen ones and those before them in the chains of their writers, signed by a
 * trusted key, and listed by no trusted removal on either side. What a prune let go from the copy does not come again.
 */
export async function planCopy(request: PlanRequest, target: Repository): Promise<CopyPlan> {
  const { source, trusted, signal } = request;
  // In this order: what a prune removes after it was listed here is then among the removals.
  const refs = await source.snapshotRefs(signal);
  const sourceRemovals = await source.trustedRemovals(trusted, signal);
  const targetRemovals = await target.trustedRemovals(trusted, signal);
  const wanted = upToChosen(refs, request.chosen).filter(isNotRemoved([...sourceRemovals, ...targetRemovals]));
  const { taken, damaged } = await source.takeReadable(wanted, readingOf(request), signal);
  const strangers = taken.filter((one) => !one.trusted);
  return {
    listed: new Set(refs.map(({ id }) => id)),
    snapshots: taken.filter((one) => one.trusted),
    untrusted: strangers.map(({ id, host }) => ({
      id,
      problem: `snapshot ${id.slice(0, 8)} of ${host} is not signed by a key this host trusts, and was not copied`,
    })),
    damaged: damaged.map(({ ref, error }) => ({ id: ref.id, problem: error.message })),
    sourceRemovals,
  };
}

function upToChosen<Ref extends RecordPlace>(refs: readonly Ref[], chosen: ReadonlySet<string> | null): readonly Ref[] {
  if (chosen === null) return refs;
  const last = new Map<string, number>();
  for (const { id, writer, number } of refs) {
    if (chosen.has(id)) last.set(writer, Math.max(number, last.get(writer) ?? 0));
  }
  return refs.filter(({ writer, number }) => number <= (last.get(writer) ?? 0));
}

function isNotRemoved(removals: readonly SignedRemoval[]): (ref: { readonly id: string }) => boolean {
  const removed = new Set(removals.flatMap(({ removal }) => removal.snapshots.map(({ id }) => id)));
  return ({ id }) => !removed.has(id);
}

/** What is kept of a record. Objects are named by many records, and in memory once. */
function readingOf({ trusted }: PlanRequest) {
  const once = new Map<string, NeededObject>();
  const needed = (kind: ObjectKind) => (found: { id: string; bytes: number }) => {
    const name = `${kind} ${found.id} ${found.bytes}`;
    const known = once.get(name) ?? { kind, id: found.id, bytes: found.bytes };
    once.set(name, known);
    return known;
  };
  return ({ id, key, line, signature, snapshot }: SignedSnapshot) => ({
    id,
    writer: snapshot.writer,
    number: snapshot.number,
    host: snapshot.host,
    trusted: trusted.check(key, line, signature) === "trusted",
    needs: [...snapshot.packs.map(needed("pack")), ...snapshot.parts.map(needed("part"))],
  });
}

/** Every key of a store with the size of its object. */
export async function keysOf(store: ObjectStore, signal: AbortSignal): Promise<Map<string, number>> {
  const keys = new Map<string, number>();
  for await (const { key, bytes } of store.list("", signal)) keys.set(key, bytes);
  return keys;
}

/** The snapshots that are not whole at the target, and what is to be sent for them. */
export function missingOf(snapshots: readonly PlannedCopy[], there: ReadonlyMap<string, number>) {
  const isThere = ({ kind, id, bytes }: NeededObject) => there.get(objectKey(kind, id)) === bytes;
  const missing = snapshots.filter((one) => !there.has(snapshotKey(one)) || !one.needs.every(isThere));
  const objects = new Set(missing.flatMap(({ needs }) => needs.filter((object) => !isThere(object))));
  const bytes = [...objects].reduce((sum, object) => sum + object.bytes, 0);
  return { snapshots: missing, totals: { snapshots: missing.length, objects: objects.size, bytes } };
}

/** The ids among these of snapshots that a prune has removed, or has said it removes, since they were listed. */
export async function removedNow(
  { source, trusted, signal }: PlanRequest,
  failed: readonly { readonly id: string }[],
): Promise<Set<string>> {
  const there = new Set((await source.snapshotRefs(signal)).map(({ id }) => id));
  const isKept = isNotRemoved(await source.trustedRemovals(trusted, signal));
  return new Set(failed.filter((one) => !there.has(one.id) || !isKept(one)).map(({ id }) => id));
}

/** How many snapshots have come since. */
export async function countNewer({ source, signal }: PlanRequest, { listed }: CopyPlan): Promise<number> {
  return (await source.snapshotRefs(signal)).filter(({ id }) => !listed.has(id)).length;
}
