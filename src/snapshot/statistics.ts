import type { ObjectReference, Snapshot } from "./snapshot.ts";

export interface Statistics {
  readonly snapshots: number;
  /** Start of the oldest and of the newest, RFC 3339 in UTC; null for none. */
  readonly oldest: string | null;
  readonly newest: string | null;
  /** In the newest snapshot of each host, and in all of them together. */
  readonly newestMessages: number;
  readonly messages: number;
  /** Bytes of queue files and logs of all snapshots, each counted as if it stood alone. */
  readonly logicalBytes: number;
  /** Sealed bytes of the packs and manifest parts they refer to, each counted once. */
  readonly storedBytes: number;
  readonly packs: number;
  /** Logical bytes for one that is stored: what sharing and compression save together; null where nothing is stored. */
  readonly dedupRatio: number | null;
  /**
   * Sealed bytes written a week over the four weeks before the newest snapshot, the first snapshot of all left out, which
   * stores everything; null for less than a day.
   */
  readonly growthPerWeek: number | null;
}

const day = 24 * 3600 * 1000;
const week = 7 * day;

/** What a host's snapshots hold, in any order; from their records alone. */
export function statisticsOf(snapshots: readonly Snapshot[]): Statistics {
  const byTime = [...snapshots].sort((a, b) => Date.parse(a.time) - Date.parse(b.time));
  const newest = byTime.at(-1);
  return {
    oldest: byTime[0]?.time ?? null,
    newest: newest?.time ?? null,
    newestMessages: newest?.messages.total ?? 0,
    growthPerWeek: growth(byTime),
    ...contents(byTime),
  };
}

/** `statisticsOf` for a whole repository, whose hosts grow side by side. */
export function totalOf(snapshots: readonly Snapshot[]): Statistics {
  const hosts = [...Map.groupBy(snapshots, ({ host }) => host).values()].map(statisticsOf);
  const growing = hosts.flatMap(({ growthPerWeek }) => growthPerWeek ?? []);
  return {
    ...statisticsOf(snapshots),
    newestMessages: hosts.reduce((sum, { newestMessages }) => sum + newestMessages, 0),
    growthPerWeek: growing.length === 0 ? null : growing.reduce((sum, bytes) => sum + bytes, 0),
  };
}

function contents(snapshots: readonly Snapshot[]) {
  const packs = distinct(snapshots.flatMap((each) => each.packs));
  const parts = distinct(snapshots.flatMap((each) => each.parts));
  const logicalBytes = snapshots.reduce((sum, { bytes }) => sum + bytes, 0);
  const storedBytes = [...packs.values(), ...parts.values()].reduce((sum, bytes) => sum + bytes, 0);
  return {
    snapshots: snapshots.length,
    messages: snapshots.reduce((sum, { messages }) => sum + messages.total, 0),
    logicalBytes,
    storedBytes,
    packs: packs.size,
    dedupRatio: storedBytes === 0 ? null : logicalBytes / storedBytes,
  };
}

function distinct(references: readonly ObjectReference[]): Map<string, number> {
  return new Map(references.map(({ id, bytes }) => [id, bytes]));
}

function growth(byTime: readonly Snapshot[]): number | null {
  const [first, ...later] = byTime.map(({ time, storedBytes }) => ({ time: Date.parse(time), storedBytes }));
  const newest = later.at(-1)?.time;
  if (first === undefined || newest === undefined) return null;
  const since = Math.max(first.time, newest - 4 * week);
  if (newest - since < day) return null;
  const written = later.filter(({ time }) => time > since).reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  return Math.round((written * week) / (newest - since));
}
