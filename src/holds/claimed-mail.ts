import { closeSync, constants, fstatSync, openSync } from "node:fs";
import { setImmediate as turn } from "node:timers/promises";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { isComplete, type QueueName } from "../postfix/queue.ts";
import { bufferSource, descriptorSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { listQueue, type SpoolFile } from "../postfix/spool.ts";
import { type ClaimDigester, claimDigester } from "../snapshot/claim.ts";
import { readDescriptor } from "../system/files.ts";
import type { FencingClaim } from "./fence-claims.ts";

/** A message of this queue that a claim has taken. */
export interface ClaimedFile extends SpoolFile {
  /** Id of the claim; the first one's, where several took it. */
  readonly claim: string;
  /** Seconds since 1970: of deferred mail the next try. */
  readonly mtime: number;
}

export interface ClaimedMail {
  readonly files: readonly ClaimedFile[];
  /** Files Postfix itself would put aside as damaged. */
  readonly unreadable: readonly (SpoolFile & { readonly problem: string })[];
}

/** Look through queues for what the claims have taken. Every message is read: only its text tells. */
export async function findClaimed(
  instance: PostfixInstance,
  queues: readonly QueueName[],
  claims: readonly FencingClaim[],
  signal?: AbortSignal,
): Promise<ClaimedMail> {
  const files: ClaimedFile[] = [];
  const unreadable: (SpoolFile & { readonly problem: string })[] = [];
  const takers = takersOf(claims);
  if (takers.length === 0) return { files, unreadable };
  for (const [at, file] of queues.flatMap((queue) => listQueue(instance.queueDirectory, queue)).entries()) {
    if (at % 500 === 0) {
      await turn();
      signal?.throwIfAborted();
    }
    const found = takerOf(file, instance.name, takers);
    if (found?.problem !== undefined) unreadable.push({ ...file, problem: found.problem });
    else if (found !== undefined) files.push({ ...file, claim: found.claim, mtime: found.mtime });
  }
  return { files, unreadable };
}

/**
 * Which of the claims, if any, has taken a message a fence moved: the file may lie anywhere and have any mode.
 *
 * @param queueId the name it had in the queue
 * @returns the claim's id
 */
export function takenBy(
  { path, queueId }: { readonly path: string; readonly queueId: string },
  instance: string,
  claims: readonly FencingClaim[],
): string | undefined {
  return takerOf({ path, id: queueId }, instance, takersOf(claims), () => true)?.claim;
}

interface Taker {
  readonly id: string;
  readonly digester: ClaimDigester;
  readonly digests: ReadonlySet<string>;
}

function takersOf(claims: readonly FencingClaim[]): Taker[] {
  return claims.map(({ id, claim, digests }) => ({ id, digester: claimDigester(claim), digests }));
}

type Found =
  | { readonly claim: string; readonly mtime: number; readonly problem?: undefined }
  | { readonly claim?: undefined; readonly problem: string };

/** @returns undefined for a message nobody has taken, one that is gone, and one still being received (0600) */
function takerOf(
  { path, id }: Pick<SpoolFile, "path" | "id">,
  instance: string,
  takers: readonly Taker[],
  isWhole: (mode: number) => boolean = isComplete,
): Found | undefined {
  const fd = openIfThere(path);
  if (fd === undefined) return undefined;
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || !isWhole(stat.mode)) return undefined;
    const source = stat.size <= inMemory ? bufferSource(readDescriptor(fd).bytes) : descriptorSource(fd, stat.size);
    const { created, content } = readQueueFile(source);
    const taker = takers.find(({ digester, digests }) =>
      digests.has(digester.of({ instance, queueId: id, created, content })),
    );
    return taker && { claim: taker.id, mtime: stat.mtimeMs / 1000 };
  } catch (error) {
    if (error instanceof QueueFileDamaged) return { problem: error.problem };
    throw error;
  } finally {
    closeSync(fd);
  }
}

const inMemory = 1024 * 1024;

function openIfThere(path: string): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
