import { OperatorError } from "../errors.ts";
import type { Repository } from "../repository/repository.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { type Finding, good } from "./finding.ts";

export interface RepositoryToExamine {
  openRepository(): Promise<Repository>;
  /** Also write a small object to the repository, read it and remove it. */
  readonly probe: boolean;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** When an object was written: by the store's clock, and by ours right before and after. Milliseconds since 1970. */
export interface StoreTime {
  readonly store: number;
  readonly before: number;
  readonly after: number;
}

/** @returns with `probe` also what the store's clock says */
export async function examineRepository(
  request: RepositoryToExamine,
): Promise<{ readonly findings: readonly Finding[]; readonly storeTime: StoreTime | undefined }> {
  const { probe, signal } = request;
  const repository = await request.openRepository();
  const snapshots = await repository.snapshotRefs(signal);
  const found = good("repository", `${repository.store.url} answers and has ${snapshots.length} snapshots`);
  if (!probe) return { findings: [found], storeTime: undefined };
  const storeTime = await writeProbe(repository, request);
  return { findings: [found, good("repository probe", "an object was written, read and removed")], storeTime };
}

async function writeProbe(
  { store, id }: Repository,
  { clock, signal }: RepositoryToExamine,
): Promise<StoreTime | undefined> {
  const before = clock.now();
  const bytes = Buffer.from(`probe of ${id} at ${new Date(before).toISOString()}\n`);
  const { digest } = digestOf(bytes);
  const key = `probes/${digest}`;
  try {
    await store.put(key, bytes, digest, signal);
    const after = clock.now();
    if (!(await store.get(key, signal)).equals(bytes)) {
      throw new OperatorError("store-failed", `${store.url} gave back other bytes than were written`);
    }
    for await (const { modified } of store.list(key, signal)) return { store: modified, before, after };
    return undefined;
  } finally {
    await store.remove(key, signal);
  }
}
