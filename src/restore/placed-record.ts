import { entryKey, type MessageEntry } from "../snapshot/manifest.ts";
import type { RunMessage, RunRecord } from "./journal.ts";

/** What earlier runs did for one message. */
export interface PlacedBefore {
  /** Indexes of recipients who were given their copy, or were known to be served then. */
  readonly recipients: ReadonlySet<number>;
  /** Those of them who were known to be served. */
  readonly served: ReadonlySet<number>;
  readonly runs: readonly string[];
}

/**
 * What runs have placed in one queue directory, per message and recipient, from their journals: so that a second restore,
 * of another part, another snapshot or another host's copy, gives nobody a message twice.
 */
export class PlacedRecord {
  readonly #byKey = new Map<string, RunMessage[]>();
  readonly #runs = new Map<RunMessage, string>();
  readonly #files = new Set<string>();
  readonly #onHold = new Set<string>();

  /** @param runs into one queue directory; those that placed nothing, and messages that were taken back, don't count */
  constructor(runs: readonly RunRecord[]) {
    for (const record of runs.filter(didPlace)) {
      const staged = new Map(record.staged.map((one) => [one.number, one]));
      for (const message of record.messages) {
        const file = staged.get(message.number);
        if (file === undefined || record.undone.has(message.number)) continue;
        this.#add(record, message);
        this.#files.add(`${file.id}/${file.inode}`);
        const onHold = message.role === "restore" && message.queue === "hold" && !record.released.has(message.number);
        if (onHold) this.#onHold.add(`${file.id}/${file.inode}`);
      }
    }
  }

  /** What is recorded of a message of a host; undefined when no run placed any of it. */
  of(host: string, message: MessageEntry): PlacedBefore | undefined {
    const found = this.#byKey.get(recordKey(host, entryKey(message), message.queue === "maildrop"));
    if (found === undefined) return undefined;
    const served = new Set(found.flatMap((one) => one.served));
    const recipients = new Set([...served, ...found.flatMap((one) => one.recipients)]);
    return { recipients, served, runs: [...new Set(found.flatMap((one) => this.#runs.get(one) ?? []))] };
  }

  /** Whether a file was placed by a run, wherever Postfix has moved it since. */
  isOurs({ id, inode }: { readonly id: string; readonly inode: string }): boolean {
    return this.#files.has(`${id}/${inode}`);
  }

  /** Whether a file in hold/ is one that a run put there for an operator to release. */
  isOnHoldByUs({ id, inode }: { readonly id: string; readonly inode: string }): boolean {
    return this.#onHold.has(`${id}/${inode}`);
  }

  #add(record: RunRecord, message: RunMessage): void {
    this.#runs.set(message, record.run);
    for (const key of [recordKey(record.host, message.key, true), recordKey(record.host, message.key, false)]) {
      const others = this.#byKey.get(key);
      if (others === undefined) this.#byKey.set(key, [message]);
      else others.push(message);
    }
  }
}

/**
 * A message keeps its time and text wherever it is taken, so these alone find it again in another host's snapshot. Mail of
 * maildrop has no Received header yet: two of the same text and second are told apart by their ids.
 */
function recordKey(host: string, key: string, whole: boolean): string {
  return whole ? `${host}/${key}` : key.split("/").slice(-2).join("/");
}

function didPlace({ phase, outcome }: RunRecord): boolean {
  return phase === "placing" || phase === "visible" || outcome === "done" || outcome === "incomplete";
}
