import { createHash } from "node:crypto";
import type { TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { type ChainLink, checkChains, lookedAt, type Seen } from "../repository/chain.ts";
import { type ObjectKind, objectKey, type RecordPlace, snapshotKey } from "../repository/layout.ts";
import { mapConcurrently, type Repository, type SignedSnapshot } from "../repository/repository.ts";
import type { ObjectReference } from "../snapshot/snapshot.ts";
import type { Damage } from "./damage.ts";

export interface SealedRequest {
  readonly repository: Repository;
  /** The snapshots to verify. */
  readonly refs: readonly RecordPlace[];
  readonly trusted: Pick<TrustedKeys, "check">;
  /** What this host remembers of the repository. */
  readonly seen: Seen;
  /** Share of the objects that are read, 0 to 1, drawn at random; of all others only presence and size are checked. Default 1. */
  readonly share?: number | undefined;
  readonly report: (progress: SealedProgress) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface SealedReport {
  readonly level: "sealed";
  readonly snapshots: number;
  /** Packs read, each once however many snapshots share it. */
  readonly packs: number;
  /** What the records looked at count. */
  readonly messages: number;
  /** Empty when all is well. */
  readonly damaged: readonly Damage[];
  /** What to remember from now on; of writers whose chain is broken nothing new. */
  readonly seen: Seen;
}

/** Of the objects that are there, packs and parts: how many have been read, how many bytes. */
export interface SealedProgress {
  readonly objects: number;
  readonly objectsTotal: number;
  readonly bytes: number;
  readonly bytesTotal: number;
}

/**
 * Verify snapshots without any key to open them: each record is signed by a trusted key and is read from the store, not
 * from a cache; every object it names is there with its size and SHA-256, read back byte by byte; and the chain of its
 * writer is whole or its gaps are covered by trusted removals. When the request is for every snapshot there is, also
 * writers this host has seen and that are gone are found.
 *
 * Damage is reported, not thrown. A store that fails is thrown: nothing is known then.
 */
export async function verifySealed(request: SealedRequest): Promise<SealedReport> {
  const damaged: Damage[] = [];
  const tell = (damage: Damage) => damaged.push(damage);
  const snapshots = await readRecords(request, tell);
  const packs = await checkObjects(request, snapshots, tell);
  const seen = await checkChain(request, tell);
  const messages = snapshots.reduce((sum, { snapshot }) => sum + snapshot.messages.total, 0);
  const left = await withoutPruned(request, damaged);
  return { level: "sealed", snapshots: request.refs.length, packs, messages, damaged: left, seen };
}

/** What a prune elsewhere has taken away while we looked is no damage: its record is not there now, and a trusted removal lists it. */
async function withoutPruned(
  { repository, trusted, signal }: SealedRequest,
  damaged: readonly Damage[],
): Promise<Damage[]> {
  if (!damaged.some(({ snapshot }) => snapshot !== null)) return [...damaged];
  const there = new Set((await repository.snapshotRefs(signal)).map(({ id }) => id));
  const removals = await repository.trustedRemovals(trusted, signal);
  const removed = new Set(removals.flatMap(({ removal }) => removal.snapshots.map(({ id }) => id)));
  return damaged.filter(({ snapshot }) => snapshot === null || there.has(snapshot) || !removed.has(snapshot));
}

type Tell = (damage: Damage) => unknown;

/** The records that can be believed; of the others it is said why not. */
async function readRecords({ repository, refs, trusted, signal }: SealedRequest, tell: Tell) {
  const read = await mapConcurrently(refs, 8, (ref) => orDamage(() => repository.loadFromStore(ref, signal)));
  return read.flatMap((result, index) => {
    const ref = refs[index];
    if (ref === undefined) return [];
    const problem = result instanceof OperatorError ? result.message : signatureProblem(result, trusted);
    if (problem !== undefined) tell({ snapshot: ref.id, object: snapshotKey(ref), message: null, problem });
    return problem === undefined && !(result instanceof OperatorError) ? [result] : [];
  });
}

/** What `read` brings, or the `damaged` error it ends with; other failures pass. */
async function orDamage<T>(read: () => Promise<T>): Promise<T | OperatorError> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof OperatorError && error.kind === "damaged") return error;
    throw error;
  }
}

function signatureProblem(record: SignedSnapshot, trusted: SealedRequest["trusted"]): string | undefined {
  switch (trusted.check(record.key, record.line, record.signature)) {
    case "trusted":
      return undefined;
    case "stranger":
      return `signed by a key this host does not trust (${record.key.slice(0, 16)}, host ${record.snapshot.host})`;
    case "forged":
      return `its signature is not one of the key it names (${record.key.slice(0, 16)})`;
  }
}

/** An object some snapshots name, and what reading it brought. */
interface NamedObject {
  readonly kind: ObjectKind;
  readonly id: string;
  readonly namedBy: { readonly snapshot: string; readonly bytes: number }[];
}

/** @returns how many packs were read */
async function checkObjects(request: SealedRequest, snapshots: readonly SignedSnapshot[], tell: Tell): Promise<number> {
  const { repository, report, signal } = request;
  const named = namedObjects(snapshots);
  const listed = { pack: await repository.packs(signal), part: await repository.parts(signal) };
  const present = named.filter((object) => listed[object.kind].has(object.id) && Math.random() < (request.share ?? 1));
  const toRead = new Set(present);
  const sizeOf = ({ kind, id }: NamedObject) => listed[kind].get(id) ?? 0;
  const bytesTotal = present.reduce((sum, object) => sum + sizeOf(object), 0);
  let objects = 0;
  let bytes = 0;
  const progress = () => report({ objects, objectsTotal: present.length, bytes, bytesTotal });
  progress();
  const found = await mapConcurrently(named, 4, async (object) => {
    if (!toRead.has(object)) return listed[object.kind].get(object.id) ?? "is missing";
    const outcome = await readObject(repository, object, signal);
    objects++;
    bytes += sizeOf(object);
    progress();
    return outcome;
  });
  for (const [index, object] of named.entries()) tellOfObject(object, found[index], tell);
  return present.filter(({ kind }) => kind === "pack").length;
}

function namedObjects(snapshots: readonly SignedSnapshot[]): NamedObject[] {
  const named = new Map<string, NamedObject>();
  const add = (kind: ObjectKind, { id, bytes }: ObjectReference, snapshot: string) => {
    const object = named.get(objectKey(kind, id)) ?? { kind, id, namedBy: [] };
    object.namedBy.push({ snapshot, bytes });
    named.set(objectKey(kind, id), object);
  };
  for (const { id, snapshot } of snapshots) {
    for (const part of snapshot.parts) add("part", part, id);
    for (const pack of snapshot.packs) add("pack", pack, id);
  }
  return [...named.values()];
}

/** The size of an object whose bytes are those of its id, or what is wrong with it. */
async function readObject(
  repository: Repository,
  { kind, id }: NamedObject,
  signal: AbortSignal | undefined,
): Promise<number | string> {
  const sha256 = createHash("sha256");
  let bytes = 0;
  const result = await orDamage(async () => {
    for await (const chunk of repository.store.open(objectKey(kind, id), signal)) {
      sha256.update(chunk);
      bytes += chunk.length;
    }
  });
  if (result instanceof OperatorError) return result.message;
  return sha256.digest("hex") === id ? bytes : `does not match its digest (${bytes} bytes)`;
}

function tellOfObject({ kind, id, namedBy }: NamedObject, found: number | string | undefined, tell: Tell): void {
  for (const { snapshot, bytes } of namedBy) {
    const problem = typeof found === "number" ? wrongSize(found, bytes) : found;
    if (problem !== undefined) tell({ snapshot, object: objectKey(kind, id), message: null, problem });
  }
}

function wrongSize(found: number, said: number): string | undefined {
  return found === said ? undefined : `has ${found} bytes, the record says ${said}`;
}

/** @returns what to remember */
async function checkChain(request: SealedRequest, tell: Tell): Promise<Seen> {
  const { repository, refs, trusted, seen, signal } = request;
  const listed = await repository.snapshotRefs(signal);
  const asked = new Set(refs.map((ref) => ref.id));
  const everything = listed.every((ref) => asked.has(ref.id));
  const writers = new Set(refs.map((ref) => ref.writer));
  const links = await linksOf(request, everything ? listed : listed.filter((ref) => writers.has(ref.writer)), tell);
  const removals = await repository.trustedRemovals(trusted, signal);
  const removed = removals.flatMap(({ removal }) => removal.snapshots);
  const remembered = everything ? seen : new Map([...seen].filter(([writer]) => writers.has(writer)));
  const findings = checkChains(links, removed, remembered);
  for (const { snapshot, problem } of findings) tell({ snapshot, object: null, message: null, problem });
  return lookedAt(seen, links, findings);
}

/** Records outside the request may come from the cache: the listing shows that they are there. */
async function linksOf(
  { repository, refs, trusted, signal }: SealedRequest,
  listed: readonly RecordPlace[],
  tell: Tell,
): Promise<ChainLink[]> {
  const asked = new Set(refs.map((ref) => ref.id));
  const loaded = await mapConcurrently(listed, 8, (ref) => orDamage(() => repository.load(ref, signal)));
  return loaded.flatMap((result, index): ChainLink[] => {
    const ref = listed[index];
    if (ref === undefined) return [];
    if (!(result instanceof OperatorError)) {
      return signatureProblem(result, trusted) === undefined ? [{ ...ref, previous: result.snapshot.previous }] : [];
    }
    if (!asked.has(ref.id))
      tell({ snapshot: ref.id, object: snapshotKey(ref), message: null, problem: result.message });
    return [{ ...ref, previous: undefined }];
  });
}
