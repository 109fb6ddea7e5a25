import type { AgeIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { largeFile } from "../pack/pack.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import { type StageResult, type StageTarget, stageLargePack } from "../pack/stage.ts";
import type { Repository } from "../repository/repository.ts";
import type { StoredFile } from "../snapshot/manifest.ts";
import type { RestoreEvent } from "./report.ts";

/** A file of a snapshot to be written, and how and where it lies when it is done. */
export interface StageFile extends StageTarget, StoredFile {}

export interface StageSource {
  readonly repository: Repository;
  readonly identities: AgeIdentities;
  readonly reader: PackReader;
  readonly processors: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Write files out of packs, each pack fetched and opened once, in worker threads, whatever the order of the files. Nothing
 * is on disk for certain until the caller syncs the file system. On failure files may be left; their names are the caller's
 * to sweep, and nothing writes any more when this has thrown.
 *
 * @param written called after each pack with the files it gave, by their index, and their inodes; a failure of it ends all
 * @throws OperatorError `damaged` (a pack is missing or damaged, or does not have a file it should have), `no-identity`,
 * `failed` when a file can't be written
 */
export async function stageFiles(
  files: readonly StageFile[],
  source: StageSource,
  written: (file: number, inode: bigint) => void,
): Promise<void> {
  const packs = byPack(files).entries();
  const worker = async () => {
    for (const [pack, indexes] of packs) {
      source.signal?.throwIfAborted();
      const wanted = indexes.flatMap((index) => files[index] ?? []);
      const inodes = await stagePack(pack, wanted, source);
      for (const [n, index] of indexes.entries()) written(index, inodes[n] ?? 0n);
    }
  };
  // One more than there are processors, so that a pack is being fetched while the others are written.
  await allOrFirstFailure(Array.from({ length: source.processors + 1 }, worker));
}

/** @returns to be called with the index of each file that is written */
export function stagedReport(
  files: readonly StageFile[],
  report: ((event: RestoreEvent) => void) | undefined,
): (file: number) => void {
  if (report === undefined) return () => {};
  const total = files.length;
  const bytesTotal = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let done = 0;
  let bytes = 0;
  const tell = () => report({ type: "staged", done, total, bytes, bytesTotal });
  tell();
  return (file) => {
    done++;
    bytes += files[file]?.bytes ?? 0;
    tell();
  };
}

function byPack(files: readonly StageFile[]): Map<string, number[]> {
  const packs = new Map<string, number[]>();
  for (const [index, { pack }] of files.entries()) {
    const indexes = packs.get(pack);
    if (indexes === undefined) packs.set(pack, [index]);
    else indexes.push(index);
  }
  return packs;
}

/** Wait for all, also when one fails: after that nothing writes any more. */
async function allOrFirstFailure(workers: readonly Promise<void>[]): Promise<void> {
  const settled = await Promise.allSettled(workers);
  const failed = settled.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
}

async function stagePack(pack: string, files: readonly StageFile[], source: StageSource): Promise<bigint[]> {
  const isLarge = files.some(({ bytes }) => bytes > largeFile);
  const result = await (isLarge ? stageLarge : stageSmall)(pack, files, source).catch((error) => {
    throw withAdvice(pack, error);
  });
  if (result.failure !== null) throw notWritten(result.failure);
  const inodes = new Map(result.staged.map(({ path, ino }) => [path, ino]));
  return files.map(({ path }) => inodes.get(path) ?? 0n);
}

async function stageSmall(pack: string, targets: readonly StageTarget[], source: StageSource): Promise<StageResult> {
  return source.reader.stage(await source.repository.object("pack", pack, source.signal), targets);
}

async function stageLarge(pack: string, targets: readonly StageTarget[], source: StageSource): Promise<StageResult> {
  return stageLargePack(source.repository.openObject("pack", pack, source.signal), source.identities, targets);
}

function withAdvice(pack: string, error: unknown): unknown {
  if (!(error instanceof OperatorError) || error.kind !== "damaged") return error;
  return new OperatorError("damaged", `pack ${pack.slice(0, 12)} can't be used: ${error.message}`, {
    hints: [
      "spoolsafe verify SNAP --level deep names every message that is affected",
      "an older snapshot may not need this pack: spoolsafe snapshots",
    ],
    cause: error,
  });
}

function notWritten({ path, errno, message }: NonNullable<StageResult["failure"]>): OperatorError {
  const full = errno === "ENOSPC" || errno === "EDQUOT";
  return new OperatorError("failed", `${path} could not be written: ${message}`, {
    hints: [
      full ? "make room on its file system and run the restore again" : "nothing was placed; run the restore again",
    ],
  });
}
