import { loadTrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { ObjectRetained, type ObjectStore, RemovalRefused } from "../repository/object-store.ts";
import type { Repository } from "../repository/repository.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { bad, type Finding, good } from "./finding.ts";

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
  const { storeTime, left } = await writeProbe(repository, request);
  const said = `an object was written and read, and ${left ?? "removed"}`;
  return { findings: [found, good("repository probe", said)], storeTime };
}

/** Whether this host heeds every prune of the repository: what it does not trust it does not believe. */
export async function examinePrunes({
  openRepository,
  trustedKeysFile,
  signal,
}: Pick<RepositoryToExamine, "openRepository" | "signal"> & { readonly trustedKeysFile: string }): Promise<
  readonly Finding[]
> {
  const trusted = new Set(loadTrustedKeys(trustedKeysFile).fingerprints.map((fingerprint) => fingerprint.slice(0, 16)));
  const writers = new Set((await (await openRepository()).removalRefs(signal)).map(({ writer }) => writer));
  const strangers = [...writers].filter((writer) => !trusted.has(writer));
  return strangers.map((writer) =>
    bad(
      "prunes",
      `${writer} prunes this repository, and this host does not trust its key: a backup here may build upon what it removes, and verify sees gaps`,
      "`spoolsafe key add FILE` with the trusted.pub of the host that prunes; if none should, find out who can write to the repository",
    ),
  );
}

async function writeProbe(
  { store, id }: Repository,
  { clock, signal }: RepositoryToExamine,
): Promise<{ storeTime: StoreTime | undefined; left: string | undefined }> {
  const before = clock.now();
  const bytes = Buffer.from(`probe of ${id} at ${new Date(before).toISOString()}\n`);
  const { digest } = digestOf(bytes);
  const key = `probes/${digest}`;
  // Where objects are written with a lock this reads it back as well.
  await store.put(key, bytes, digest, signal);
  const after = clock.now();
  const readBack = await store.get(key, signal);
  let storeTime: StoreTime | undefined;
  for await (const { modified } of store.list(key, signal)) storeTime = { store: modified, before, after };
  const left = await removeProbes(store, key, signal);
  if (!readBack.equals(bytes)) {
    throw new OperatorError("store-failed", `${store.url} gave back other bytes than were written`);
  }
  return { storeTime, left };
}

/** Also those of earlier times whose lock has ended. @returns why the one just written is still there, if it is */
async function removeProbes(store: ObjectStore, own: string, signal: AbortSignal): Promise<string | undefined> {
  let left: string | undefined;
  for await (const { key } of store.list("probes/", signal)) {
    try {
      await store.remove(key, signal);
    } catch (error) {
      if (error instanceof RemovalRefused) return "not removed: these credentials may not";
      if (!(error instanceof ObjectRetained)) throw error;
      const until = error.until === null ? "" : ` until ${new Date(error.until).toISOString()}`;
      if (key === own) left = `is locked${until}`;
    }
  }
  return left;
}
