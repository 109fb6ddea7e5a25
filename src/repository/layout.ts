/** Keys of a repository's objects, formatted and parsed side by side (docs/FORMAT.md, table at the top). */

export const markerKey = "spoolsafe-repository.json";
export const recoveryPageKey = "RECOVER.txt";

/** The kinds of sealed object; an object's id is the SHA-256 of its bytes. */
export type ObjectKind = "pack" | "part";

/** Where a signed record lies: its writer, its number in the writer's sequence, and its id. */
export interface RecordPlace {
  readonly writer: string;
  readonly number: number;
  readonly id: string;
}

/** Prefixes to list, each ending in a slash. */
export const prefixes = {
  pack: "packs/",
  part: "parts/",
  snapshots: "snapshots/",
  removals: "removals/",
  claimed: "claimed/",
  claims: "claims/",
  drills: "drills/",
} as const;

export function objectKey(kind: ObjectKind, id: string): string {
  return `${prefixes[kind]}${id.slice(0, 2)}/${id}`;
}

export function packKey(id: string): string {
  return objectKey("pack", id);
}

export function partKey(id: string): string {
  return objectKey("part", id);
}

/** The id in a pack's or part's key; undefined for any key `objectKey` would not have made. */
export function parseObjectKey(kind: ObjectKind, key: string): string | undefined {
  const id = key.slice(-64);
  return /^[0-9a-f]{64}$/.test(id) && key === objectKey(kind, id) ? id : undefined;
}

export function snapshotKey(place: RecordPlace): string {
  return prefixes.snapshots + recordName(place);
}

export function removalKey(place: RecordPlace): string {
  return prefixes.removals + recordName(place);
}

/** The list of a claim's messages: not sealed, named by its bytes like a sealed object. */
export function claimedKey(id: string): string {
  return `${prefixes.claimed}${id.slice(0, 2)}/${id}`;
}

export function claimKey(place: RecordPlace): string {
  return prefixes.claims + recordName(place);
}

export function drillKey(place: RecordPlace): string {
  return prefixes.drills + recordName(place);
}

/** What a snapshot record's key says; undefined for any key `snapshotKey` would not have made. */
export function parseSnapshotKey(key: string): RecordPlace | undefined {
  return parseRecordKey(prefixes.snapshots, key);
}

/** What a removal record's key says; undefined for any key `removalKey` would not have made. */
export function parseRemovalKey(key: string): RecordPlace | undefined {
  return parseRecordKey(prefixes.removals, key);
}

/** What a claim record's key says; undefined for any key `claimKey` would not have made. */
export function parseClaimKey(key: string): RecordPlace | undefined {
  return parseRecordKey(prefixes.claims, key);
}

/** What a drill record's key says; undefined for any key `drillKey` would not have made. */
export function parseDrillKey(key: string): RecordPlace | undefined {
  return parseRecordKey(prefixes.drills, key);
}

/** Ten digits, zeros in front, so that the order of the names is the order of the numbers. */
function recordName({ writer, number, id }: RecordPlace): string {
  return `${writer}/${String(number).padStart(10, "0")}-${id}`;
}

function parseRecordKey(prefix: string, key: string): RecordPlace | undefined {
  if (!key.startsWith(prefix)) return undefined;
  const match = /^([0-9a-f]{16})\/(\d{10})-([0-9a-f]{64})$/.exec(key.slice(prefix.length));
  const [, writer = "", number = "", id = ""] = match ?? [];
  return match === null || Number(number) < 1 ? undefined : { writer, number: Number(number), id };
}
