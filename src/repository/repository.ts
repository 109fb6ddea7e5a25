import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import * as z from "zod";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import {
  formatRecord,
  parseRemovalRecord,
  parseSnapshotRecord,
  type Removal,
  type Signed,
  type SignedRemoval,
  type SignedSnapshot,
} from "../snapshot/record.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";
import { digestOf } from "../system/digest.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import {
  markerKey,
  type ObjectKind,
  objectKey,
  parseObjectKey,
  parseRemovalKey,
  parseSnapshotKey,
  prefixes,
  type RecordPlace,
  recoveryPageKey,
  removalKey,
  snapshotKey,
} from "./layout.ts";
import type { ObjectBody, ObjectStore, StoredObject } from "./object-store.ts";
import { recoveryPage } from "./recovery-page.ts";

export type { SignedRemoval, SignedSnapshot } from "../snapshot/record.ts";

/** A record seen in a listing. */
export interface SnapshotRef extends RecordPlace {
  readonly key: string;
  /** When the store says it was written, milliseconds since 1970. */
  readonly modified: number;
}

/** A pack or part as a listing shows it. */
export type ListedObject = Pick<StoredObject, "bytes" | "modified">;

/** What a removal record lists. */
export type Announcement = Pick<Removal, "snapshots" | "packs" | "parts">;

/** The objects a snapshot's record names. */
export interface Needed {
  readonly packs: readonly { readonly id: string }[];
  readonly parts: readonly { readonly id: string }[];
}

/** A record that is there and can't be used. */
export interface DamagedRecord {
  readonly ref: RecordPlace;
  /** Kind `damaged`. */
  readonly error: OperatorError;
}

export interface RepositoryOptions {
  /** Where records already read may be kept (below a directory named by the repository's id); undefined: nowhere. */
  readonly cacheDirectory?: string | undefined;
}

/** What lies in a repository, in terms of snapshots, packs and parts (docs/FORMAT.md), over any object store. */
export class Repository {
  readonly id: string;
  readonly store: ObjectStore;
  readonly #recordCache: string | undefined;

  private constructor(store: ObjectStore, id: string, options: RepositoryOptions) {
    this.store = store;
    this.id = id;
    this.#recordCache = options.cacheDirectory && join(options.cacheDirectory, id, "records");
  }

  /**
   * @throws OperatorError `no-repository` when nothing of ours is there, `refused` for a format of the future, `damaged`
   * when there are snapshots and no marker, and whatever the store throws
   */
  static async open(store: ObjectStore, signal?: AbortSignal, options: RepositoryOptions = {}): Promise<Repository> {
    return new Repository(store, await readMarker(store, signal), options);
  }

  /** Make a repository with its recovery page, or open the one that is there. */
  static async create(store: ObjectStore, signal?: AbortSignal, options: RepositoryOptions = {}): Promise<Repository> {
    await store.prepare(signal);
    const found = await openIfThere(store, signal, options);
    if (found === undefined) await putNew(store, markerKey, newMarker(), signal);
    // Read back also after our own put: of two `init` at one time, one marker stands, and both go by it.
    const repository = found ?? (await Repository.open(store, signal, options));
    await putNew(store, recoveryPageKey, Buffer.from(recoveryPage()), signal);
    return repository;
  }

  /** Every snapshot there is, by writer and number, from one listing; nothing is read. */
  async snapshotRefs(signal?: AbortSignal): Promise<SnapshotRef[]> {
    return this.#records(prefixes.snapshots, parseSnapshotKey, signal);
  }

  async removalRefs(signal?: AbortSignal): Promise<SnapshotRef[]> {
    return this.#records(prefixes.removals, parseRemovalKey, signal);
  }

  /**
   * Read a snapshot's record, from the cache if it is there: its id was checked against its bytes, its signature was
   * not.
   *
   * @throws OperatorError `damaged` for a record that is missing, can't be read, or is not what its key says
   */
  async load(ref: RecordPlace, signal?: AbortSignal): Promise<SignedSnapshot> {
    const cached = this.#cached(ref, parseSnapshotRecord);
    if (cached !== undefined && isAt(ref, cached, cached.snapshot)) return cached;
    return this.loadFromStore(ref, signal);
  }

  /** `load` past the cache, for those who want to know what the store has. */
  async loadFromStore(ref: RecordPlace, signal?: AbortSignal): Promise<SignedSnapshot> {
    const key = snapshotKey(ref);
    const bytes = await this.store.get(key, signal);
    const signed = this.#parse(key, ref, () => parseSnapshotRecord(bytes, this.id));
    checkPlace(key, ref, signed, signed.snapshot);
    this.#keep(signed.id, bytes);
    return signed;
  }

  /** `load` for many, several at a time, in the order given. */
  async loadAll(refs: readonly RecordPlace[], signal?: AbortSignal): Promise<SignedSnapshot[]> {
    return mapConcurrently(refs, 8, (ref) => this.load(ref, signal));
  }

  /**
   * `loadAll` that goes on past records which are damaged, so that one of them does not take the others along. A record that
   * a prune has removed since the listing is none of them.
   */
  async loadReadable(
    refs: readonly RecordPlace[],
    signal?: AbortSignal,
  ): Promise<{ readonly snapshots: SignedSnapshot[]; readonly damaged: DamagedRecord[] }> {
    const { taken, damaged } = await this.takeReadable(refs, (signed) => signed, signal);
    return { snapshots: taken, damaged };
  }

  /**
   * `loadReadable` that keeps of each record only what is taken from it: those of a month of snapshots every ten minutes would
   * take a gigabyte.
   */
  async takeReadable<T>(
    refs: readonly RecordPlace[],
    take: (signed: SignedSnapshot) => T,
    signal?: AbortSignal,
  ): Promise<{ readonly taken: T[]; readonly damaged: DamagedRecord[] }> {
    const taken: T[] = [];
    const failed: DamagedRecord[] = [];
    const loaded = await mapConcurrently(refs, 8, async (ref) => {
      try {
        return { value: take(await this.load(ref, signal)) };
      } catch (error) {
        if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
        return { ref, error };
      }
    });
    for (const each of loaded) {
      if ("value" in each) taken.push(each.value);
      else failed.push(each);
    }
    return { taken, damaged: await this.#stillThere(failed, signal) };
  }

  async #stillThere(damaged: DamagedRecord[], signal: AbortSignal | undefined): Promise<DamagedRecord[]> {
    if (damaged.length === 0) return damaged;
    const there = new Set((await this.snapshotRefs(signal)).map(({ key }) => key));
    return damaged.filter(({ ref }) => there.has(snapshotKey(ref)));
  }

  async loadRemoval(ref: RecordPlace, signal?: AbortSignal): Promise<SignedRemoval> {
    const cached = this.#cached(ref, parseRemovalRecord);
    if (cached !== undefined && isAt(ref, cached, cached.removal)) return cached;
    const key = removalKey(ref);
    try {
      const bytes = await this.store.get(key, signal);
      const signed = parseRemovalRecord(bytes, this.id);
      if (!isAt(ref, signed, signed.removal)) throw misplaced(key, ref, signed, []);
      this.#keep(signed.id, bytes);
      return signed;
    } catch (error) {
      if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
      throw unreadableRemoval(key, ref, error);
    }
  }

  /** Removal records signed by a trusted key; those of strangers say nothing. */
  async trustedRemovals(trusted: Pick<TrustedKeys, "check">, signal?: AbortSignal): Promise<SignedRemoval[]> {
    const all = await mapConcurrently(await this.removalRefs(signal), 8, (ref) => this.loadRemoval(ref, signal));
    return all.filter((each) => trusted.check(each.key, each.line, each.signature) === "trusted");
  }

  /** Packs and parts a trusted removal lists: no later snapshot may refer to them, even while they still lie there. */
  async condemned(trusted: Pick<TrustedKeys, "check">, signal?: AbortSignal): Promise<Set<string>> {
    const removals = await this.trustedRemovals(trusted, signal);
    return new Set(removals.flatMap(({ removal }) => [...removal.packs, ...removal.parts]));
  }

  /** Sealed bytes of every pack by its id, from a listing. */
  async packs(signal?: AbortSignal): Promise<Map<string, number>> {
    return bytesOf(await this.listed("pack", signal));
  }

  async parts(signal?: AbortSignal): Promise<Map<string, number>> {
    return bytesOf(await this.listed("part", signal));
  }

  /** Every pack, or every part, by its id. */
  async listed(kind: ObjectKind, signal?: AbortSignal): Promise<Map<string, ListedObject>> {
    const found = new Map<string, ListedObject>();
    for await (const { key, bytes, modified } of this.store.list(prefixes[kind], signal)) {
      const id = parseObjectKey(kind, key);
      if (id !== undefined) found.set(id, { bytes, modified });
    }
    return found;
  }

  /** @param id SHA-256 of the sealed bytes */
  async putPack(id: string, sealed: ObjectBody, signal?: AbortSignal): Promise<void> {
    await this.store.put(objectKey("pack", id), sealed, id, signal);
  }

  /** @param id SHA-256 of the sealed bytes */
  async putPart(id: string, sealed: ObjectBody, signal?: AbortSignal): Promise<void> {
    await this.store.put(objectKey("part", id), sealed, id, signal);
  }

  /**
   * See to it that all a snapshot needs stays locked for as long as a snapshot written now, where the store locks what is
   * written: packs and parts of earlier snapshots, and the marker. To be called before `commit`.
   */
  async keepLocked({ packs, parts }: Needed, signal?: AbortSignal): Promise<void> {
    const keys = [
      markerKey,
      ...parts.map(({ id }) => objectKey("part", id)),
      ...packs.map(({ id }) => objectKey("pack", id)),
    ];
    await mapConcurrently(keys, 8, (key) => this.store.keepLocked(key, signal));
  }

  /**
   * Sign and store a snapshot's record. The snapshot exists from the moment this resolves; what it refers to must have
   * been stored before.
   *
   * @throws OperatorError `refused` when this writer's number is taken (its key is in use on another host)
   */
  async commit(snapshot: Snapshot, key: SigningKey, signal?: AbortSignal): Promise<{ id: string; bytes: number }> {
    if (snapshot.repository !== this.id || snapshot.writer !== key.writer) {
      throw new Error("a record of another repository or writer was to be committed");
    }
    const { id, bytes } = formatRecord(snapshot, key);
    await this.#requireFreeNumber(snapshot, id, signal);
    await this.store.put(snapshotKey({ ...snapshot, id }), bytes, digestOf(bytes).digest, signal);
    this.#keep(id, bytes);
    await this.#forgetGone(signal);
    return { id, bytes: bytes.length };
  }

  /**
   * Sign and store the list of what is going to be removed. It stands from the moment this resolves, and nothing it lists
   * may be removed before.
   *
   * @returns when the store says it was written, milliseconds since 1970: a look at the store's own clock
   */
  async announce(announcement: Announcement, now: Date, key: SigningKey, signal?: AbortSignal): Promise<number> {
    const own = (await this.removalRefs(signal)).filter(({ writer }) => writer === key.writer);
    const last = own.at(-1);
    const [number, writer] = [(last?.number ?? 0) + 1, key.writer];
    const head = {
      format: 1,
      type: "removal",
      repository: this.id,
      writer,
      number,
      previous: last?.id ?? null,
    } as const;
    const { id, bytes } = formatRecord({ ...head, time: now.toISOString(), ...announcement }, key);
    const name = removalKey({ writer, number, id });
    await this.store.put(name, bytes, digestOf(bytes).digest, signal);
    this.#keep(id, bytes);
    for await (const { key, modified } of this.store.list(name, signal)) if (key === name) return modified;
    throw new OperatorError("store-failed", `${name} was stored and is not listed`, {
      hints: [
        "the store does not list what was just written: nothing is removed from it, because that can't be done safely",
      ],
    });
  }

  /** Remove a snapshot's record, which a removal record lists already: from then on there is no such snapshot. */
  async removeSnapshot(place: RecordPlace, signal?: AbortSignal): Promise<void> {
    await this.store.remove(snapshotKey(place), signal);
    if (this.#recordCache !== undefined) rmSync(join(this.#recordCache, place.id), { force: true });
  }

  /** Remove a pack or part, which a removal record lists already and no snapshot refers to. */
  async removeObject(kind: ObjectKind, id: string, signal?: AbortSignal): Promise<void> {
    await this.store.remove(objectKey(kind, id), signal);
  }

  /**
   * Read a pack or part whole.
   *
   * @throws OperatorError `damaged` when it is missing or its bytes are not those of its id
   */
  async object(kind: ObjectKind, id: string, signal?: AbortSignal): Promise<Buffer> {
    const bytes = await this.store.get(objectKey(kind, id), signal);
    if (digestOf(bytes).digest !== id) throw wrongBytes(kind, id);
    return bytes;
  }

  /**
   * Stream a pack or part. Whether its bytes are those of its id is known only at the end: act on nothing before that.
   *
   * @throws OperatorError `damaged` as `object`, the second after the last chunk
   */
  async *openObject(kind: ObjectKind, id: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const sha256 = createHash("sha256");
    for await (const chunk of this.store.open(objectKey(kind, id), signal)) {
      sha256.update(chunk);
      yield chunk;
    }
    if (sha256.digest("hex") !== id) throw wrongBytes(kind, id);
  }

  async #records(
    prefix: string,
    parse: (key: string) => RecordPlace | undefined,
    signal: AbortSignal | undefined,
  ): Promise<SnapshotRef[]> {
    const refs: SnapshotRef[] = [];
    for await (const { key, modified } of this.store.list(prefix, signal)) {
      const place = parse(key);
      if (place !== undefined) refs.push({ ...place, key, modified });
    }
    return refs;
  }

  async #requireFreeNumber(snapshot: Snapshot, id: string, signal: AbortSignal | undefined): Promise<void> {
    const sameNumber = snapshotKey({ ...snapshot, id: "" });
    for await (const { key } of this.store.list(sameNumber, signal)) {
      if (key === sameNumber + id) continue;
      throw new OperatorError("refused", `snapshot number ${snapshot.number} of this signing key is taken: ${key}`, {
        hints: [
          "another host signs with the same key (a cloned machine?): give each its own with spoolsafe key, then back up again",
        ],
      });
    }
  }

  /** Add to a parse failure where the record lies. */
  #parse<Record>(key: string, ref: RecordPlace, parse: () => Record): Record {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error;
      throw new OperatorError(error.kind, `${key}: ${error.message}`, {
        hints: [...error.hints, `the other snapshots are not affected; ${ref.id.slice(0, 8)} is not usable`],
        cause: error,
      });
    }
  }

  /** A cache that can't be read or does not hold what it should is as good as none. */
  #cached<Record extends Signed>(
    ref: RecordPlace,
    parse: (bytes: Uint8Array, repository: string) => Record,
  ): Record | undefined {
    if (this.#recordCache === undefined) return undefined;
    try {
      return parse(readFileSync(join(this.#recordCache, ref.id)), this.id);
    } catch {
      return undefined;
    }
  }

  #keep(id: string, bytes: Uint8Array): void {
    if (this.#recordCache === undefined) return;
    const path = join(this.#recordCache, id);
    try {
      makePrivateDirectory(dirname(path));
      writeFileAtomic(path, bytes);
    } catch {
      // Without a cache the record is read from the store each time, which is right as well.
    }
  }

  /** A host that backs up and never prunes would keep the record of every snapshot there ever was. */
  async #forgetGone(signal: AbortSignal | undefined): Promise<void> {
    if (this.#recordCache === undefined) return;
    try {
      const cached = readdirSync(this.#recordCache).filter((name) => /^[0-9a-f]{64}$/.test(name));
      if (cached.length <= mostCached) return;
      const there = new Set(
        [...(await this.snapshotRefs(signal)), ...(await this.removalRefs(signal))].map(({ id }) => id),
      );
      for (const id of cached) if (!there.has(id)) rmSync(join(this.#recordCache, id), { force: true });
    } catch {
      // The snapshot is there whatever becomes of the cache; the next one looks again.
    }
  }
}

/** Up to so many cached records nobody asks whether they are still in the store. */
const mostCached = 1000;

async function openIfThere(store: ObjectStore, signal: AbortSignal | undefined, options: RepositoryOptions) {
  try {
    return await Repository.open(store, signal, options);
  } catch (error) {
    if (error instanceof OperatorError && error.kind === "no-repository") return undefined;
    throw error;
  }
}

function newMarker(): Buffer {
  const id = randomBytes(16).toString("hex");
  return Buffer.from(`${JSON.stringify({ format: 1, type: "repository", id, created: new Date().toISOString() })}\n`);
}

/** Store an object unless one of that name is there, whatever its bytes; also if it came while we put ours. */
async function putNew(store: ObjectStore, key: string, bytes: Buffer, signal: AbortSignal | undefined): Promise<void> {
  if (await isThere(store, key, signal)) return;
  try {
    await store.put(key, bytes, digestOf(bytes).digest, signal);
  } catch (error) {
    if (signal?.aborted || !(await isThere(store, key, signal))) throw error;
  }
}

async function isThere(store: ObjectStore, key: string, signal: AbortSignal | undefined): Promise<boolean> {
  for await (const found of store.list(key, signal)) if (found.key === key) return true;
  return false;
}

/** @returns the repository's id */
async function readMarker(store: ObjectStore, signal: AbortSignal | undefined): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await store.get(markerKey, signal);
  } catch (error) {
    if (error instanceof OperatorError && error.kind === "damaged") throw await withoutMarker(store, error, signal);
    throw error;
  }
  return parseMarker(bytes, store.url);
}

async function withoutMarker(store: ObjectStore, cause: OperatorError, signal: AbortSignal | undefined) {
  for await (const { key } of store.list(prefixes.snapshots, signal)) {
    if (parseSnapshotKey(key) === undefined) continue;
    return new OperatorError("damaged", `the repository at ${store.url} has lost its ${markerKey}`, {
      hints: [
        `put it back: {"format":1,"type":"repository","id":"ID","created":"TIME"}, the ID is "repository" in ${key}`,
      ],
      cause,
    });
  }
  return new OperatorError("no-repository", `there is no repository at ${store.url}`, {
    hints: ["spoolsafe init makes one there", "is repository.url right, and its disk mounted?"],
    cause,
  });
}

const markerSchema = z.object({ format: z.int(), type: z.literal("repository"), id: z.string() });

function parseMarker(bytes: Buffer, url: string): string {
  const marker = markerSchema.safeParse(parseJson(bytes));
  if (marker.success && marker.data.format > 1) {
    throw new OperatorError(
      "refused",
      `the repository at ${url} has format ${marker.data.format}, this spoolsafe knows format 1`,
      { hints: ["use a newer spoolsafe; this one has changed nothing there"] },
    );
  }
  if (marker.success && marker.data.format === 1 && /^[0-9a-f]{32}$/.test(marker.data.id)) return marker.data.id;
  throw new OperatorError("damaged", `${markerKey} at ${url} is not as the format says`, {
    hints: [
      `put it back: {"format":1,"type":"repository","id":"ID","created":"TIME"}, the ID is "repository" in any snapshot record`,
    ],
  });
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
}

/** A record is what its key says; under another number it would be a replay. */
function isAt(ref: RecordPlace, signed: Signed, said: { writer: string; number: number }): boolean {
  return signed.id === ref.id && said.writer === ref.writer && said.number === ref.number;
}

function checkPlace(key: string, ref: RecordPlace, signed: Signed, said: { writer: string; number: number }): void {
  if (isAt(ref, signed, said)) return;
  throw misplaced(key, ref, signed, [`the other snapshots are not affected; ${ref.id.slice(0, 8)} is not usable`]);
}

function misplaced(key: string, ref: RecordPlace, signed: Signed, hints: readonly string[]): OperatorError {
  const what = signed.id === ref.id ? "has another writer or number than its name" : "does not match its digest";
  return new OperatorError("damaged", `${key} ${what}`, { hints });
}

/**
 * One list of what a prune removes that can't be read ends every backup, verify and prune: what it condemns may be going.
 * So its error has to tell the way out.
 */
function unreadableRemoval(key: string, { writer, id }: RecordPlace, cause: OperatorError): OperatorError {
  const said = cause.message.startsWith(key) ? cause.message : `${key}: ${cause.message}`;
  return new OperatorError("damaged", said, {
    hints: [
      "it lists what a prune removes; until it can be read, no backup builds on what is stored and nothing is pruned",
      `put a good copy in its place: the host that signs as ${writer} has one below its state directory, cache/*/records/${id.slice(0, 12)}...`,
      "without one, move the object out of the repository: verify then tells of a gap where it removed snapshots, and the next prune lists anew what is left to remove",
    ],
    cause,
  });
}

function bytesOf(listed: ReadonlyMap<string, ListedObject>): Map<string, number> {
  return new Map([...listed].map(([id, { bytes }]) => [id, bytes]));
}

function wrongBytes(kind: ObjectKind, id: string): OperatorError {
  return new OperatorError("damaged", `${objectKey(kind, id)} does not match its digest`, {
    hints: ["run spoolsafe verify --all to see which snapshots are whole"],
  });
}

/**
 * Apply to each, at most `width` at a time; results in the order of the items. The first failure is thrown: when it comes nothing
 * more is begun, and what was begun has ended before it is thrown, so that nothing is done behind the back of who caught it.
 */
export async function mapConcurrently<T, R>(
  items: readonly T[],
  width: number,
  apply: (item: T) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length);
  const failures: unknown[] = [];
  const queue = items.entries();
  const worker = async () => {
    for (const [index, item] of queue) {
      try {
        results[index] = await apply(item);
      } catch (error) {
        failures.push(error);
      }
      if (failures.length > 0) return;
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
  if (failures.length > 0) throw failures[0];
  return results;
}
