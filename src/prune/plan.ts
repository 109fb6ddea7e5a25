import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import type { OperatorError } from "../errors.ts";
import type { ObjectKind } from "../repository/layout.ts";
import { longestRunMs } from "../repository/object-store.ts";
import type { ListedObject, Repository, SignedSnapshot, SnapshotRef } from "../repository/repository.ts";
import type { ObjectReference } from "../snapshot/snapshot.ts";
import { type Candidate, planRetention, type RetentionPolicy, type Verdict } from "./retention.ts";

export interface PlanRequest {
  readonly repository: Repository;
  /** Whose announcements count: those of this host. */
  readonly signingKey: Pick<SigningKey, "writer">;
  readonly trusted: Pick<TrustedKeys, "check">;
  readonly policy: RetentionPolicy;
  readonly timeZone: string;
  /** Id of the snapshot the last drill proved, null for none. */
  readonly proved: string | null;
  /** The only host whose snapshots may go; null for every host. */
  readonly onlyHost: string | null;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly signal?: AbortSignal | undefined;
}

/** A snapshot as the plan shows it. */
export interface PlannedSnapshot extends Candidate {
  readonly writer: string;
  /** A removal record of this host lists it already. */
  readonly announced: boolean;
  /** Ids of the packs and parts it refers to. */
  readonly needs: readonly string[];
}

/** A pack or part no snapshot that stays refers to. */
export interface Unused extends ListedObject {
  readonly kind: ObjectKind;
  readonly id: string;
  /** When the store says this host's first removal record listing it was written; null for none yet. */
  readonly condemned: number | null;
}

export interface PrunePlan {
  /** Every snapshot, with why it stays or that it goes; by host, newest first. */
  readonly snapshots: readonly Verdict<PlannedSnapshot>[];
  /** Packs and parts to condemn now: old enough, and nothing that stays refers to them. */
  readonly condemn: readonly Unused[];
  /** Packs and parts whose grace is over. */
  readonly remove: readonly Unused[];
  /** Condemned, and in their grace. */
  readonly waiting: readonly Unused[];
  /** Unused and so young that a backup under way may have written them. */
  readonly young: readonly Unused[];
  /** Records that can't be read. While there are any, it is not known what they refer to, and no pack or part is touched. */
  readonly unreadable: readonly OperatorError[];
  /** The store has written something later than now: the clock here is behind its, and takes what is old for young. */
  readonly behind: boolean;
}

/**
 * What a prune would do now. Nothing is changed.
 *
 * A pack goes in two steps, at least `longestRunMs` apart, because backups elsewhere take no lock. It is condemned when no
 * snapshot refers to it and it is older than the longest run: whoever wrote it has committed a record by then or never will. It
 * is removed when it has been condemned for as long: a backup that began before it was condemned and built on it has committed
 * its record by then, which shows in the listing of snapshots, made last; one that began later has not built on it.
 *
 * @throws OperatorError `damaged` for a removal record that can't be read, and whatever the store throws
 */
export async function planPrune(request: PlanRequest): Promise<PrunePlan> {
  const { repository, signal } = request;
  // The order counts: first what may go, then what keeps it.
  const packs = await repository.listed("pack", signal);
  const parts = await repository.listed("part", signal);
  const announced = await ownAnnouncements(request);
  const refs = await repository.snapshotRefs(signal);
  const read = readingOf(request, refs, announced, { packs, parts });
  const { taken, damaged } = await repository.takeReadable(refs, read, signal);

  const verdicts = planRetention(taken, { ...request, longestRunMs });
  const used = new Set(verdicts.flatMap(({ snapshot, kept }) => (kept.length > 0 ? snapshot.needs : [])));
  const unused = [...unusedOf("pack", packs, used, announced), ...unusedOf("part", parts, used, announced)];
  const unreadable = damaged.map(({ error }) => error);
  const behind = isBehind([...packs.values(), ...parts.values(), ...refs], request.now);
  return { snapshots: verdicts, unreadable, behind, ...sortOut(unreadable.length > 0 ? [] : unused, request.now) };
}

function isBehind(listed: readonly { readonly modified: number }[], now: number): boolean {
  return listed.some(({ modified }) => modified > now + differenceMs);
}

/** Two clocks that are right are no further apart. */
const differenceMs = 300_000;

/** What this host's removal records list, and when the store says the first that lists it was written. */
type Announcements = ReadonlyMap<string, number>;

/** Only this host's count: whoever backs up must trust its key, and may not know of another that prunes. */
async function ownAnnouncements({ repository, signingKey, trusted, signal }: PlanRequest): Promise<Announcements> {
  const listed = new Map<string, number>();
  const written = new Map((await repository.removalRefs(signal)).map(({ id, modified }) => [id, modified]));
  for (const { id, removal } of await repository.trustedRemovals(trusted, signal)) {
    const modified = written.get(id);
    if (removal.writer !== signingKey.writer || modified === undefined) continue;
    for (const one of [...removal.packs, ...removal.parts, ...removal.snapshots.map((snapshot) => snapshot.id)]) {
      listed.set(one, Math.min(modified, listed.get(one) ?? modified));
    }
  }
  return listed;
}

interface Listings {
  readonly packs: ReadonlyMap<string, ListedObject>;
  readonly parts: ReadonlyMap<string, ListedObject>;
}

/** What is kept of a record. Ids are in many records, and in memory once. */
function readingOf(
  { trusted }: PlanRequest,
  refs: readonly SnapshotRef[],
  announced: Announcements,
  { packs, parts }: Listings,
): (signed: SignedSnapshot) => PlannedSnapshot {
  const written = new Map(refs.map(({ id, modified }) => [id, modified]));
  const once = new Map<string, string>();
  const same = (id: string) => {
    if (!once.has(id)) once.set(id, id);
    return once.get(id) ?? id;
  };
  const has = (listing: ReadonlyMap<string, ListedObject>, all: readonly ObjectReference[]) =>
    all.every(({ id, bytes }) => listing.get(id)?.bytes === bytes);
  return ({ id, key, line, signature, snapshot }) => ({
    id,
    host: snapshot.host,
    writer: snapshot.writer,
    number: snapshot.number,
    time: Date.parse(snapshot.time),
    stored: written.get(id) ?? 0,
    trusted: trusted.check(key, line, signature) === "trusted",
    whole: has(packs, snapshot.packs) && has(parts, snapshot.parts),
    announced: announced.has(id),
    needs: [...snapshot.packs, ...snapshot.parts].map((object) => same(object.id)),
  });
}

function unusedOf(
  kind: ObjectKind,
  listed: ReadonlyMap<string, ListedObject>,
  used: ReadonlySet<string>,
  announced: Announcements,
): Unused[] {
  return [...listed].flatMap(([id, object]) =>
    used.has(id) ? [] : [{ kind, id, ...object, condemned: announced.get(id) ?? null }],
  );
}

function sortOut(unused: readonly Unused[], now: number) {
  const old = unused.filter(({ modified }) => now - modified >= longestRunMs);
  const condemned = old.filter((one) => one.condemned !== null);
  return {
    young: unused.filter(({ modified }) => now - modified < longestRunMs),
    condemn: old.filter((one) => one.condemned === null),
    remove: condemned.filter((one) => isOver(one, now)),
    waiting: condemned.filter((one) => !isOver(one, now)),
  };
}

/** Whether a pack or part has been there, and has been condemned, for longer than any run takes. */
export function isOver({ modified, condemned }: Unused, now: number): boolean {
  return condemned !== null && now - Math.max(modified, condemned) >= longestRunMs;
}
