import { OperatorError } from "../errors.ts";
import type { ObjectStore, StoredObject } from "../repository/object-store.ts";

/** What is wrong with a store while a failure is rehearsed. */
export interface Faults {
  /** Keys of objects that come with a bit turned over. */
  readonly damaged: ReadonlySet<string>;
  /** Keys of objects that are not there. */
  readonly missing: ReadonlySet<string>;
}

/**
 * A real store in which objects seem damaged or missing to whoever reads through this. It can't write: whatever is rehearsed, the
 * store behind stays as it is.
 */
export class FaultyReading implements ObjectStore {
  readonly url: string;
  faults: Faults = { damaged: new Set(), missing: new Set() };
  readonly #behind: ObjectStore;

  constructor(behind: ObjectStore) {
    this.#behind = behind;
    this.url = behind.url;
  }

  async get(key: string, signal?: AbortSignal): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.open(key, signal)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async *open(key: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    if (this.faults.missing.has(key)) throw new OperatorError("damaged", `${key} is missing`);
    let first = this.faults.damaged.has(key);
    for await (const chunk of this.#behind.open(key, signal)) {
      yield first ? turned(chunk) : chunk;
      first = false;
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<StoredObject, void, undefined> {
    for await (const found of this.#behind.list(prefix, signal)) {
      if (!this.faults.missing.has(found.key)) yield found;
    }
  }

  prepare(): Promise<void> {
    throw writing();
  }

  put(): Promise<void> {
    throw writing();
  }

  keepLocked(): Promise<void> {
    throw writing();
  }

  remove(): Promise<void> {
    throw writing();
  }

  sweep(): Promise<number> {
    throw writing();
  }

  /** The store behind belongs to others. */
  async close(): Promise<void> {}
}

/** With the lowest bit of the byte in its middle turned over. */
function turned(chunk: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(chunk);
  const middle = copy.length >> 1;
  copy[middle] = (copy[middle] ?? 0) ^ 1;
  return copy;
}

function writing(): Error {
  return new Error("a rehearsal was about to change the repository");
}
