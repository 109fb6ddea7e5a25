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

/** Collects in which snapshots messages are, given in any order; a message is the same one through every retry. */
export class Sightings {
  readonly #found = new Map<string, Sighting>();

  add(host: string, snapshot: SnapshotName, entry: MessageEntry): void {
    const key = `${host}\0${entryKey(entry)}`;
    const before = this.#found.get(key);
    this.#found.set(
      key,
      before === undefined
        ? { host, entry, first: snapshot, last: snapshot, snapshots: 1 }
        : {
            host,
            entry: isLater(snapshot, before.last) ? entry : before.entry,
            first: isLater(before.first, snapshot) ? snapshot : before.first,
            last: isLater(snapshot, before.last) ? snapshot : before.last,
            snapshots: before.snapshots + 1,
          },
    );
  }

  /** By arrival of the messages, oldest first. */
  list(): Sighting[] {
    return [...this.#found.values()].sort((a, b) => a.entry.arrival - b.entry.arrival);
  }
}

function isLater(a: SnapshotName, b: SnapshotName): boolean {
  return Date.parse(a.time) > Date.parse(b.time);
}
