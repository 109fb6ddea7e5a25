import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type CopyReport, type CopyRequest, copy } from "../../src/copy/copy.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import type { ObjectStore } from "../../src/repository/object-store.ts";
import { Repository } from "../../src/repository/repository.ts";
import { systemClock } from "../../src/system/clock.ts";
import { verifySealed } from "../../src/verify/sealed.ts";
import { filesBelow } from "../prune/aged.ts";
import type { HandMade } from "../support/hand-made.ts";

/** Copy what a repository made by hand has, from its directory or another store, in this process. */
export async function copyFrom(
  made: HandMade,
  target: ObjectStore,
  over: Partial<CopyRequest> & { readonly from?: ObjectStore } = {},
): Promise<CopyReport> {
  const { from = new DirectoryStore(join(made.directory, "repository")), ...rest } = over;
  return await copy({
    source: await Repository.open(from),
    target,
    mayMake: true,
    chosen: null,
    trusted: made.trusted,
    stateDirectory: join(made.directory, "state"),
    uploadBytesPerSecond: undefined,
    lockWaitMs: 5000,
    clock: systemClock,
    signal: new AbortController().signal,
    report: () => {},
    ...rest,
  });
}

/** Every object of a repository in a directory, by key. */
export function objectsIn(directory: string): Map<string, string> {
  return new Map(filesBelow(directory).map((key) => [key, readFileSync(join(directory, key), "base64")]));
}

/** What a sealed check of every snapshot there finds. */
export async function damageIn(made: HandMade, store: ObjectStore): Promise<string[]> {
  const repository = await Repository.open(store);
  const refs = await repository.snapshotRefs();
  const { damaged } = await verifySealed({
    repository,
    refs,
    trusted: made.trusted,
    seen: new Map(),
    report: () => {},
  });
  return damaged.map(({ problem }) => problem);
}
