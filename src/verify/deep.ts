import type { AgeIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { largeFile, readLargePack } from "../pack/pack.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import { readPart } from "../pack/part.ts";
import { bufferSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { packKey, partKey } from "../repository/layout.ts";
import type { Repository, SignedSnapshot } from "../repository/repository.ts";
import { differentFacts } from "../snapshot/compare.ts";
import { applyPart, type Manifest, type ManifestEntry, toManifest } from "../snapshot/manifest.ts";
import type { Damage } from "./damage.ts";
import { manifestDamages } from "./manifest-check.ts";
import { type FileUse, type PackUse, usesOf } from "./pack-use.ts";

export interface DeepRequest {
  readonly repository: Repository;
  readonly snapshots: readonly SignedSnapshot[];
  readonly identities: AgeIdentities;
  /** Threads that open packs; the caller's to end. */
  readonly reader: PackReader;
  readonly processors: number;
  /** Share of the packs that are read, above 0 and up to 1; the parts always all are. Default 1. */
  readonly sample?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((progress: DeepProgress) => void) | undefined;
}

/** What has been read so far. Bytes are sealed ones, as the records have them. */
export interface DeepProgress {
  readonly packs: number;
  readonly packsTotal: number;
  readonly bytes: number;
  readonly bytesTotal: number;
}

export interface DeepReport {
  readonly snapshots: number;
  /** Packs and messages read; one that several snapshots share counts once. */
  readonly packs: number;
  readonly messages: number;
  readonly damaged: readonly Damage[];
}

/**
 * Read snapshots to the last byte: every part and pack opens, every file in them has its digest, every message parses by
 * Postfix's own pointer walk and says what its manifest line says, manifest and packs agree in both directions, and the
 * record counts what the manifest has. Changes nothing. Damage is found and listed, each with the snapshots and messages
 * it affects, and never ends the search.
 *
 * @throws OperatorError `no-identity` when no identity opens a part or pack, `store-failed` when the store does not answer
 */
export async function verifyDeep(request: DeepRequest): Promise<DeepReport> {
  const { snapshots } = request;
  const damaged: Damage[] = [];
  const manifests = new Map<SignedSnapshot, Manifest>();
  for (const signed of snapshots) {
    const manifest = await readManifest(request, signed, damaged);
    if (manifest !== undefined) manifests.set(signed, manifest);
  }
  for (const [signed, manifest] of manifests) damaged.push(...manifestDamages(signed, manifest));
  const uses = sampled([...usesOf(snapshots, manifests).values()], request.sample ?? 1);
  const messages = await readPacks(request, uses, damaged);
  return { snapshots: snapshots.length, packs: uses.length, messages, damaged };
}

/** @returns undefined when a part is damaged; that is then in the list */
async function readManifest(
  { repository, identities, signal }: DeepRequest,
  { id, snapshot }: SignedSnapshot,
  damaged: Damage[],
): Promise<Manifest | undefined> {
  const entries = new Map<string, ManifestEntry>();
  for (const [index, part] of snapshot.parts.entries()) {
    const object = partKey(part.id);
    try {
      if ((part.kind === "base") !== (index === 0))
        throw damage("the record's parts are not one base and then increments");
      const sealed = await repository.object("part", part.id, signal);
      if (sealed.length !== part.bytes) throw damage(`it has ${sealed.length} bytes, the record says ${part.bytes}`);
      applyPart(entries, await readPart(sealed, identities), part.kind);
    } catch (error) {
      damaged.push({
        snapshot: id,
        object,
        message: null,
        problem: `${damageOf(error)}: none of its messages can be found`,
      });
      return undefined;
    }
  }
  return toManifest(entries);
}

function damage(problem: string): OperatorError {
  return new OperatorError("damaged", problem);
}

/** What is wrong, of an error that says so. @throws any other error */
function damageOf(error: unknown): string {
  if (error instanceof OperatorError && error.kind === "damaged") return error.message;
  throw error;
}

/** A random share, one at least. */
function sampled(uses: readonly PackUse[], share: number): readonly PackUse[] {
  if (share >= 1) return uses;
  const drawn = uses.map((use) => ({ use, lot: Math.random() })).sort((a, b) => a.lot - b.lot);
  return drawn.slice(0, Math.max(1, Math.ceil(uses.length * share))).map(({ use }) => use);
}

/** @returns the number of messages read */
async function readPacks(request: DeepRequest, uses: readonly PackUse[], damaged: Damage[]): Promise<number> {
  const { processors } = request;
  const told = progressOf(request, uses);
  const queue = uses.values();
  let messages = 0;
  const worker = async () => {
    for (const use of queue) {
      const found = await readOne(request, use);
      messages += use.files.values().reduce((sum, file) => sum + (isMessage(file) ? 1 : 0), 0);
      damaged.push(...found);
      told(use);
    }
  };
  // One more than there are threads, so that a pack is being fetched while the others are opened.
  const ends = await Promise.allSettled(Array.from({ length: processors + 1 }, worker));
  const failed = ends.find((end) => end.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return messages;
}

/** @returns to be called for each pack that is done */
function progressOf({ snapshots, report }: DeepRequest, uses: readonly PackUse[]): (use: PackUse) => void {
  if (report === undefined) return () => {};
  const sizes = new Map(snapshots.flatMap(({ snapshot }) => snapshot.packs.map(({ id, bytes }) => [id, bytes])));
  const sizeOf = ({ id }: PackUse) => sizes.get(id) ?? 0;
  const bytesTotal = uses.reduce((sum, use) => sum + sizeOf(use), 0);
  let packs = 0;
  let bytes = 0;
  const tell = () => report({ packs, packsTotal: uses.length, bytes, bytesTotal });
  tell();
  return (use) => {
    packs++;
    bytes += sizeOf(use);
    tell();
  };
}

function isMessage(uses: readonly FileUse[]): boolean {
  return uses.some(({ part }) => part === "message");
}

/** Open one pack and look at every file a manifest wants from it. */
async function readOne(request: DeepRequest, use: PackUse): Promise<Damage[]> {
  request.signal?.throwIfAborted();
  try {
    const left = new Map(use.files);
    const found: Damage[] = [];
    for await (const [digest, bytes] of filesOf(request, use)) {
      const wanted = left.get(digest);
      if (wanted === undefined) continue; // an older version, or another snapshot's
      left.delete(digest);
      found.push(...compare(use, wanted, bytes));
    }
    for (const wanted of left.values()) found.push(...affected(use, wanted, "the pack does not hold it"));
    return found;
  } catch (error) {
    return wholePack(use, damageOf(error));
  }
}

async function* filesOf(
  { repository, identities, reader, signal }: DeepRequest,
  use: PackUse,
): AsyncGenerator<[string, Buffer]> {
  const isLarge = use.files.values().some((uses) => uses.some(({ bytes }) => bytes > largeFile));
  if (isLarge) {
    for await (const entry of readLargePack(repository.openObject("pack", use.id, signal), identities)) {
      yield [entry.digest, await whole(entry.body)];
    }
    return;
  }
  yield* await reader.read(await repository.object("pack", use.id, signal));
}

async function whole(body: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of body) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** Bytes have their digest: opening the pack has checked that. */
function compare(use: PackUse, uses: readonly FileUse[], bytes: Buffer): Damage[] {
  return uses.flatMap((one) => {
    const problem = fileProblem(one, bytes);
    return problem === null ? [] : affected(use, [one], problem);
  });
}

function fileProblem({ entry, part, bytes: said }: FileUse, bytes: Buffer): string | null {
  if (bytes.length !== said) return `it has ${bytes.length} bytes, the manifest says ${said}`;
  return entry.kind === "message" && part === "message" ? messageProblem(bytes, entry) : null;
}

function messageProblem(bytes: Buffer, entry: Parameters<typeof differentFacts>[1]): string | null {
  try {
    return differentFacts(readQueueFile(bufferSource(bytes)), entry);
  } catch (error) {
    if (error instanceof QueueFileDamaged) return error.problem;
    throw error;
  }
}

function affected(use: PackUse, uses: readonly FileUse[], problem: string): Damage[] {
  return uses.flatMap(({ entry, part, snapshots }) =>
    snapshots.map((snapshot) => ({
      snapshot,
      object: packKey(use.id),
      message: entry.kind === "message" ? entry.queueId : null,
      problem: `${nameOf(entry, part)}: ${problem}`,
    })),
  );
}

function nameOf(entry: ManifestEntry, part: string): string {
  if (entry.kind === "file") return `${entry.area} ${entry.path}`;
  return part === "message" ? `message in ${entry.queue}` : `its ${part} log`;
}

/** A pack that can't be opened takes everything in it along; where nothing wanted it, its snapshots are named alone. */
function wholePack(use: PackUse, problem: string): Damage[] {
  const lost = use.files
    .values()
    .toArray()
    .flatMap((file) => affected(use, file, problem));
  const named = new Set(lost.map(({ snapshot }) => snapshot));
  const others = use.snapshots.filter((snapshot) => !named.has(snapshot));
  return [...lost, ...others.map((snapshot) => ({ snapshot, object: packKey(use.id), message: null, problem }))];
}
