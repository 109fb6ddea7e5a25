import { entryKey, type MessageEntry } from "./manifest.ts";

export interface SnapshotName {
  readonly id: string;
  /** RFC 3339 in UTC. */
  readonly time: string;
}

/** A message and where it was seen. */
export interface Sighting {
  readonly host: string;
  /** As the newest of these snapshots has it. */
  readonly entry: MessageEntry;
  readonly first: SnapshotName;
  readonly last: SnapshotName;
  readonly snapshots: number;
}

interface Seen {
  entry: MessageEntry;
  first: Dated;
  last: Dated;
  snapshots: number;
}

interface Dated extends SnapshotName {
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** Collects in which snapshots messages are, given in any order; a message is the same one through every retry. */
export class Sightings {
  readonly #hosts = new Map<string, Map<string, Seen>>();

  /** Millions of entries take seconds: nothing is made for one that is known. */
  add(host: string, { id, time }: SnapshotName, entries: readonly MessageEntry[]): void {
    const dated = { id, time, at: Date.parse(time) };
    const seen = this.#hosts.get(host) ?? new Map<string, Seen>();
    this.#hosts.set(host, seen);
    for (const entry of entries) {
      const key = entryKey(entry);
      const before = seen.get(key);
      if (before === undefined) seen.set(key, { entry, first: dated, last: dated, snapshots: 1 });
      else addTo(before, dated, entry);
    }
  }

  /** By arrival of the messages, oldest first. */
  list(): Sighting[] {
    const name = ({ id, time }: Dated) => ({ id, time });
    const all = [...this.#hosts].flatMap(([host, seen]) =>
      [...seen.values()].map(({ entry, first, last, snapshots }) => ({
        ...{ host, entry, first: name(first), last: name(last), snapshots },
      })),
    );
    return all.sort((a, b) => a.entry.arrival - b.entry.arrival);
  }
}

function addTo(seen: Seen, snapshot: Dated, entry: MessageEntry): void {
  seen.snapshots++;
  if (snapshot.at < seen.first.at) seen.first = snapshot;
  if (snapshot.at > seen.last.at) {
    seen.last = snapshot;
    seen.entry = entry;
  }
}
