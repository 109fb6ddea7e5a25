import { errnoOf } from "../errors.ts";
import {
  type ChainFinding,
  type ChainLink,
  checkChains,
  loadSeen,
  lookedAt,
  type Seen,
  saveSeen,
} from "../repository/chain.ts";
import type { DamagedRecord, Repository, SignedSnapshot } from "../repository/repository.ts";
import type { Context } from "./context.ts";

/**
 * What this host has seen of the repository; undefined for an ordinary user, who may not read it. To be asked for before a
 * listing that is compared with it: a backup that ends meanwhile notes its snapshot, which the listing does not have yet.
 */
export function seenBefore({ stateDirectory }: Context, repository: Repository): Seen | undefined {
  return permitted(() => loadSeen(stateDirectory, repository.id));
}

/**
 * Compare what a listing shows with what this host had seen before it, and remember it: a missing, replaced or replayed
 * snapshot is a warning in every command that looks, and a failure in `verify`. An ordinary user, who may not write to the
 * state directory, looks without remembering.
 *
 * @returns what is wrong
 */
export async function noticeChains(
  context: Context,
  repository: Repository,
  seen: Seen | undefined,
  snapshots: readonly SignedSnapshot[],
  damaged: readonly DamagedRecord[],
): Promise<ChainFinding[]> {
  const { render, signal, stateDirectory } = context;
  const trusted = await context.trustedKeys();
  if (trusted.fingerprints.length === 0) return [];
  const links = [...believed(trusted, snapshots), ...damaged.map(({ ref }) => ({ ...ref, previous: undefined }))];
  const removed = (await repository.trustedRemovals(trusted, signal)).flatMap(({ removal }) => removal.snapshots);
  const findings = checkChains(links, removed, seen ?? new Map());
  for (const { problem } of findings) render.warn(problem);
  if (findings.length > 0)
    render.note("`spoolsafe verify --all` says more; another copy of the repository may still have them");
  if (seen !== undefined) permitted(() => saveSeen(stateDirectory, repository.id, lookedAt(seen, links, findings)));
  return findings;
}

function believed(
  trusted: Awaited<ReturnType<Context["trustedKeys"]>>,
  snapshots: readonly SignedSnapshot[],
): ChainLink[] {
  return snapshots
    .filter(({ key, line, signature }) => trusted.check(key, line, signature) === "trusted")
    .map(({ id, snapshot: { writer, number, previous } }) => ({ id, writer, number, previous }));
}

function permitted<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    const denied = [error, error instanceof Error ? error.cause : undefined].map(errnoOf);
    if (denied.some((code) => code === "EACCES" || code === "EROFS" || code === "EPERM")) return undefined;
    throw error;
  }
}
