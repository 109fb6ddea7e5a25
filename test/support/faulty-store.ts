import type { ObjectBody, ObjectStore, StoredObject } from "../../src/repository/object-store.ts";

/** A call about to be made of the store behind. */
export interface StoreCall {
  readonly name: "put" | "get" | "open" | "list" | "keepLocked" | "remove" | "prepare" | "sweep" | "close";
  /** The prefix of a listing; empty where the call has none. */
  readonly key: string;
}

/** What a test may do around each call of a real store. Throwing in either is what the caller gets. */
export interface StoreFaults {
  /** Before the call reaches the store. */
  readonly before?: (call: StoreCall) => void | Promise<void>;
  /** After the store did it and before the caller hears of it. */
  readonly after?: (call: StoreCall) => void | Promise<void>;
  /** Put other bytes in the place of those read. */
  readonly read?: (key: string, bytes: Buffer) => Buffer;
}

/** A real store whose calls can be made to fail, wait, or bring damaged bytes. Counts its calls. */
export class FaultyStore implements ObjectStore {
  readonly url: string;
  readonly calls: StoreCall[] = [];
  faults: StoreFaults;
  readonly #behind: ObjectStore;

  constructor(behind: ObjectStore, faults: StoreFaults = {}) {
    this.#behind = behind;
    this.faults = faults;
    this.url = behind.url;
  }

  prepare(signal?: AbortSignal): Promise<void> {
    return this.#around({ name: "prepare", key: "" }, () => this.#behind.prepare(signal));
  }

  put(key: string, body: ObjectBody, sha256: string, signal?: AbortSignal): Promise<void> {
    return this.#around({ name: "put", key }, () => this.#behind.put(key, body, sha256, signal));
  }

  async get(key: string, signal?: AbortSignal): Promise<Buffer> {
    const bytes = await this.#around({ name: "get", key }, () => this.#behind.get(key, signal));
    return this.faults.read?.(key, bytes) ?? bytes;
  }

  async *open(key: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const call: StoreCall = { name: "open", key };
    this.calls.push(call);
    await this.faults.before?.(call);
    if (this.faults.read === undefined) yield* this.#behind.open(key, signal);
    else yield this.faults.read(key, await this.#behind.get(key, signal));
    await this.faults.after?.(call);
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<StoredObject, void, undefined> {
    const call: StoreCall = { name: "list", key: prefix };
    this.calls.push(call);
    await this.faults.before?.(call);
    yield* this.#behind.list(prefix, signal);
    await this.faults.after?.(call);
  }

  keepLocked(key: string, signal?: AbortSignal): Promise<void> {
    return this.#around({ name: "keepLocked", key }, () => this.#behind.keepLocked(key, signal));
  }

  remove(key: string, signal?: AbortSignal): Promise<void> {
    return this.#around({ name: "remove", key }, () => this.#behind.remove(key, signal));
  }

  sweep(signal?: AbortSignal): Promise<number> {
    return this.#around({ name: "sweep", key: "" }, () => this.#behind.sweep(signal));
  }

  close(): Promise<void> {
    return this.#around({ name: "close", key: "" }, () => this.#behind.close());
  }

  async #around<T>(call: StoreCall, act: () => Promise<T>): Promise<T> {
    this.calls.push(call);
    await this.faults.before?.(call);
    const result = await act();
    await this.faults.after?.(call);
    return result;
  }
}
