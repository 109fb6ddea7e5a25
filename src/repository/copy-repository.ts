import { OperatorError } from "../errors.ts";
import { digestOf } from "../system/digest.ts";
import { markerKey, recoveryPageKey } from "./layout.ts";
import type { ObjectStore } from "./object-store.ts";
import { recoveryPage } from "./recovery-page.ts";
import { Repository, type RepositoryOptions } from "./repository.ts";

/*
 * A further repository for copies of another's objects. Its marker is the other's, byte for byte: every signed record names
 * the id in it, and so is right there as it is.
 */

/**
 * Make such a repository, or open the one that is there.
 *
 * @throws OperatorError `refused` when another repository, or something that is none, is there
 */
export async function createCopyRepository(
  original: Repository,
  store: ObjectStore,
  signal?: AbortSignal,
  options: RepositoryOptions = {},
): Promise<Repository> {
  await store.prepare(signal);
  if (!(await isThere(store, markerKey, signal))) {
    await requireEmpty(store, signal);
    await putNew(store, markerKey, await original.store.get(markerKey, signal), signal);
  }
  const repository = await openCopyRepository(original, store, signal, options);
  if (!(await isThere(store, recoveryPageKey, signal))) {
    await putNew(store, recoveryPageKey, Buffer.from(recoveryPage()), signal);
  }
  return repository;
}

/** Open such a repository. @throws OperatorError as `Repository.open`, and `refused` when it is another's */
export async function openCopyRepository(
  original: Repository,
  store: ObjectStore,
  signal?: AbortSignal,
  options: RepositoryOptions = {},
): Promise<Repository> {
  const repository = await Repository.open(store, signal, options);
  if (repository.id === original.id) return repository;
  throw new OperatorError("refused", `${store.url} is another repository, not a copy of ${original.store.url}`, {
    hints: ["name an empty place for the copy: it is made there"],
  });
}

async function isThere(store: ObjectStore, key: string, signal: AbortSignal | undefined): Promise<boolean> {
  for await (const found of store.list(key, signal)) if (found.key === key) return true;
  return false;
}

async function requireEmpty(store: ObjectStore, signal: AbortSignal | undefined): Promise<void> {
  for await (const { key } of store.list("", signal)) {
    throw new OperatorError("refused", `${store.url} is not empty and is no repository: there is ${key}`, {
      hints: ["name an empty place for the copy: it is made there"],
    });
  }
}

/** Of two that make it at one time, one may be told that the other's bytes are there: that is right as well. */
async function putNew(store: ObjectStore, key: string, bytes: Buffer, signal: AbortSignal | undefined): Promise<void> {
  try {
    await store.put(key, bytes, digestOf(bytes).digest, signal);
  } catch (error) {
    if (signal?.aborted || !(await isThere(store, key, signal))) throw error;
  }
}
