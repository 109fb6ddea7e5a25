import { closeSync, constants, fchmodSync, fchownSync, fstatSync, futimesSync, openSync, rmSync } from "node:fs";
import type { AgeIdentities } from "../crypto/keys.ts";
import { errnoOf, OperatorError } from "../errors.ts";
import { writeAll } from "../system/files.ts";
import { packEntryName, readLargePack } from "./pack.ts";

/** Where a stored file is to be written, and what it is to look like there. */
export interface StageTarget {
  readonly digest: string;
  /** A name that is not taken, in a directory nobody else writes to. */
  readonly path: string;
  /** Permission bits, set last. */
  readonly mode: number;
  /** -1 leaves owner or group as they are. */
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, kept to the microsecond; the access time becomes the same. */
  readonly mtime: number;
}

export interface StagedFile {
  readonly path: string;
  readonly ino: bigint;
  readonly bytes: number;
}

export interface StageResult {
  /** What was written, in the order of the targets. */
  readonly staged: readonly StagedFile[];
  /** The target that could not be written; it was removed again, and none after it was tried. */
  readonly failure: { readonly path: string; readonly errno: string; readonly message: string } | null;
}

/**
 * Write files with their owner, mode and time. No existing file is replaced and no link followed. Nothing is synced:
 * the caller does that once for all of them (`sync -f`) before it makes any visible.
 *
 * @throws OperatorError `damaged` before anything is written when a target's digest is not among the files
 */
export function stageFiles(files: ReadonlyMap<string, Uint8Array>, targets: readonly StageTarget[]): StageResult {
  for (const { digest } of targets) if (!files.has(digest)) throw missing(digest);
  const staged: StagedFile[] = [];
  for (const target of targets) {
    try {
      staged.push(stageOne(target, files.get(target.digest) ?? new Uint8Array(0)));
    } catch (error) {
      return { staged, failure: failureOf(target, error) };
    }
  }
  return { staged, failure: null };
}

/**
 * `stageFiles` from a pack of any size, in constant memory. When the pack proves damaged, what was written from it is
 * removed again.
 */
export async function stageLargePack(
  sealed: AsyncIterable<Uint8Array>,
  identities: AgeIdentities,
  targets: readonly StageTarget[],
): Promise<StageResult> {
  const staged: StagedFile[] = [];
  try {
    for await (const entry of readLargePack(sealed, identities)) {
      const wanted = targets.filter((target) => target.digest === entry.digest);
      const failure = await stageBody(wanted, entry.body, staged);
      if (failure !== null) return { staged, failure };
    }
    const found = new Set(staged.map(({ path }) => path));
    const absent = targets.find((target) => !found.has(target.path));
    if (absent !== undefined) throw missing(absent.digest);
  } catch (error) {
    for (const { path } of staged) rmSync(path, { force: true });
    throw error;
  }
  return { staged, failure: null };
}

/** Write one body to every target; files that did not get all of it are removed. */
async function stageBody(
  targets: readonly StageTarget[],
  body: AsyncIterable<Buffer>,
  staged: StagedFile[],
): Promise<StageResult["failure"]> {
  const files: { target: StageTarget; fd: number; done: boolean }[] = [];
  let current: StageTarget | undefined;
  try {
    for (const target of targets) {
      current = target;
      files.push({ target, fd: create(target.path), done: false });
    }
    current = undefined;
    for await (const piece of body) {
      for (const file of files) {
        current = file.target;
        writeAll(file.fd, piece);
      }
      current = undefined;
    }
    for (const file of files) {
      current = file.target;
      staged.push(dress(file.fd, file.target));
      file.done = true;
    }
    return null;
  } catch (error) {
    // Without a current target it was the pack that failed, not the disk.
    if (current === undefined) throw error;
    return failureOf(current, error);
  } finally {
    for (const file of files) {
      closeSync(file.fd);
      if (!file.done) rmSync(file.target.path, { force: true });
    }
  }
}

function stageOne(target: StageTarget, bytes: Uint8Array): StagedFile {
  const fd = create(target.path);
  try {
    writeAll(fd, bytes);
    return dress(fd, target);
  } catch (error) {
    rmSync(target.path, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

function create(path: string): number {
  return openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
}

/** Owner before mode, because chown(2) clears the set-id bits; time last, because the others may touch it. */
function dress(fd: number, target: StageTarget): StagedFile {
  fchownSync(fd, target.uid, target.gid);
  fchmodSync(fd, target.mode & 0o7777);
  // libuv cuts the fraction of its double off; a fifth of a microsecond more keeps it from falling to the one before.
  const time = Number.isInteger(target.mtime) ? target.mtime : target.mtime + 2e-7;
  futimesSync(fd, time, time);
  const stat = fstatSync(fd, { bigint: true });
  return { path: target.path, ino: stat.ino, bytes: Number(stat.size) };
}

function failureOf(target: StageTarget, error: unknown): StageResult["failure"] {
  const message = error instanceof Error ? error.message : String(error);
  return { path: target.path, errno: errnoOf(error) ?? "", message };
}

function missing(digest: string): OperatorError {
  return new OperatorError("damaged", `the pack does not hold "${packEntryName(digest)}"`);
}
