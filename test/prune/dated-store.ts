import type { ObjectBody, StoredObject } from "../../src/repository/object-store.ts";
import type { Clock } from "../../src/system/clock.ts";
import { FaultyStore } from "../support/faulty-store.ts";

/** A real store that dates what it is given by a clock of the test, so that days pass in no time. */
export class DatedStore extends FaultyStore {
  now = Date.now();
  readonly #written = new Map<string, number>();

  /** The same clock for those who use the store; what waits on it does not wait. */
  get clock(): Clock {
    return { now: () => this.now, monotonic: () => this.now, sleep: async () => {} };
  }

  pass(hours: number): void {
    this.now += hours * 3_600_000;
  }

  override async put(key: string, body: ObjectBody, sha256: string, signal?: AbortSignal): Promise<void> {
    await super.put(key, body, sha256, signal);
    if (!this.#written.has(key)) this.#written.set(key, this.now);
  }

  override async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<StoredObject, void, undefined> {
    for await (const object of super.list(prefix, signal)) {
      yield { ...object, modified: this.#written.get(object.key) ?? object.modified };
    }
  }
}
