import { entryKey, type MessageEntry } from "../snapshot/manifest.ts";
import { digestOf } from "../system/digest.ts";
import type { RunMessage, RunRecord, StagedMessage } from "./journal.ts";
import { identityOf } from "./twins.ts";

/** What earlier runs did for one message. */
export interface PlacedBefore {
  /** Indexes of recipients who were given their copy, or were known to be served then. */
  readonly recipients: ReadonlySet<number>;
  /** Those of them who were known to be served. */
  readonly served: ReadonlySet<number>;
  /** Oldest first. */
  readonly runs: readonly string[];
  /** The files of it that runs put on hold and have not released, wherever they are by now. */
  readonly onHold: readonly HeldFile[];
}

export interface HeldFile {
  readonly id: string;
  /** Decimal. */
  readonly inode: string;
  /** Indexes of recipients that were not done when it was placed. */
  readonly recipients: readonly number[];
}

/**
 * What runs have placed in one queue directory, per message and recipient, from their journals: so that a second restore,
 * of another part, another snapshot or another host's copy, gives nobody a message twice.
 */
export class PlacedRecord {
  /** By host and key: what the runs placed of a message of that name. */
  readonly #placed = new Map<string, Share[]>();
  /** By identity: the hosts and keys it was placed under. */
  readonly #names = new Map<string, Set<string>>();
  readonly #files = new Set<string>();

  /** @param runs into one queue directory, oldest first; those that placed nothing, and messages that were taken back, don't count */
  constructor(runs: readonly RunRecord[]) {
    for (const record of runs.filter(didPlace)) {
      const staged = new Map(record.staged.map((one) => [one.number, one]));
      for (const message of record.messages) {
        const file = staged.get(message.number);
        if (file === undefined || record.undone.has(message.number)) continue;
        const onHold = message.queue === "hold" && !record.released.has(message.number);
        this.#add(record.host, { run: record.run, message, held: onHold ? file : null });
        this.#files.add(`${file.id}/${file.inode}`);
      }
    }
  }

  /**
   * What is recorded of the messages of one snapshot, by `entryKey`; of what no run placed there is nothing.
   *
   * A message is found again under its own name (host, instance, queue id, time and text), and under another by all that no
   * Postfix changes in it, as a restored copy of it is in the snapshots of another host, or of its own after postsuper(1)
   * renamed it. Messages of one snapshot are never one, however alike they are: what was placed under other names is dealt
   * out among them, first to those that have nothing under their own.
   */
  of(host: string, messages: readonly MessageEntry[]): ReadonlyMap<string, PlacedBefore> {
    const found = new Map<string, PlacedBefore>();
    if (this.#placed.size === 0) return found;
    for (const [identity, alike] of Map.groupBy(messages, (message) => placedIdentity(message) ?? entryKey(message))) {
      for (const [entry, names] of this.#deal(host, identity, alike)) {
        const shares = names.flatMap((name) => this.#placed.get(name) ?? []);
        if (shares.length > 0) found.set(entryKey(entry), together(shares));
      }
    }
    return found;
  }

  /** Whether a file was placed by a run, wherever Postfix has moved it since. */
  isOurs({ id, inode }: { readonly id: string; readonly inode: string }): boolean {
    return this.#files.has(`${id}/${inode}`);
  }

  #add(host: string, share: Share): void {
    const { key, identity } = share.message;
    const name = `${host}/${key}`;
    this.#placed.set(name, [...(this.#placed.get(name) ?? []), share]);
    if (identity != null) this.#names.set(identity, (this.#names.get(identity) ?? new Set()).add(name));
  }

  #deal(host: string, identity: string, alike: readonly MessageEntry[]): [MessageEntry, string[]][] {
    const own = alike.map((entry): [MessageEntry, string[]] => [entry, [`${host}/${entryKey(entry)}`]]);
    const taken = new Set(own.flatMap(([, names]) => names));
    const known = ([, names]: (typeof own)[number]) => names.some((name) => this.#placed.has(name));
    const order = [...own.filter((one) => !known(one)), ...own.filter(known)];
    const others = [...(this.#names.get(identity) ?? [])].filter((name) => !taken.has(name));
    for (const [at, name] of others.entries()) order[at % order.length]?.[1].push(name);
    return own;
  }
}

/** One copy of a message, and the run that placed it. */
interface Share {
  readonly run: string;
  readonly message: RunMessage;
  readonly held: StagedMessage | null;
}

function together(shares: readonly Share[]): PlacedBefore {
  const served = new Set(shares.flatMap(({ message }) => message.served));
  const recipients = new Set([...served, ...shares.flatMap(({ message }) => message.recipients)]);
  const onHold = shares.flatMap(({ message, held }) =>
    held === null ? [] : [{ id: held.id, inode: held.inode, recipients: message.recipients }],
  );
  return { recipients, served, runs: [...new Set(shares.map(({ run }) => run))].sort(), onHold };
}

/**
 * By what a message is known under any name and on any host: a digest of its time, text, arrival to the microsecond, sender
 * and recipients. Time and text alone would not do: where header_checks take `Received` away, messages of one second may
 * have the same text. Null for mail of maildrop, which never has that header: only its own name tells it.
 */
export function placedIdentity(message: MessageEntry): string | null {
  return message.queue === "maildrop" ? null : digestOf(Buffer.from(identityOf(message))).digest;
}

function didPlace({ phase, outcome }: RunRecord): boolean {
  return phase === "placing" || phase === "visible" || outcome === "done" || outcome === "incomplete";
}
