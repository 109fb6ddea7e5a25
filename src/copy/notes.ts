import { OperatorError } from "../errors.ts";
import {
  claimedKey,
  claimKey,
  drillKey,
  parseClaimKey,
  parseDrillKey,
  prefixes,
  type RecordPlace,
  removalKey,
} from "../repository/layout.ts";
import type { Repository, SignedRemoval } from "../repository/repository.ts";
import type { Claim } from "../snapshot/claim.ts";
import { digestOf } from "../system/digest.ts";
import { copyRecord, putRecord, type RecordCopying, readRecord } from "./records.ts";
import type { CopyProblem, CopyRequest } from "./request.ts";

type NotesRequest = Pick<CopyRequest, "source" | "trusted" | "signal">;

export interface NotesReport {
  readonly copied: number;
  readonly problems: readonly CopyProblem[];
}

/**
 * Copy the lists of what prunes of the source have removed: without them the numbers that are missing there would be gaps here.
 * Nothing is removed by that: a prune of the copy goes by retention and by what refers to what, as everywhere.
 */
export async function copyRemovals(
  { source, trusted, signal }: NotesRequest,
  target: Repository,
  there: Map<string, number>,
  removals: readonly SignedRemoval[],
): Promise<NotesReport> {
  const problems: CopyProblem[] = [];
  let copied = 0;
  for (const { id, removal } of removals) {
    const place = { id, writer: removal.writer, number: removal.number };
    const key = removalKey(place);
    if (there.has(key)) continue;
    const problem = await copyRecord({ source, target, trusted, signal }, "removal", place, key);
    if (problem === null) copied++;
    else problems.push({ kind: "damaged", problem });
  }
  return { copied, problems };
}

/**
 * Copy claims and withdrawals of trusted writers in the order of their numbers, the list of a claim's messages before it. One
 * that can't be copied leaves a gap there, as it should: whoever looks then knows that a claim may be missing.
 */
export async function copyClaims(
  { source, trusted, signal }: NotesRequest & Pick<CopyRequest, "trusted">,
  target: Repository,
  there: Map<string, number>,
): Promise<NotesReport> {
  const problems: CopyProblem[] = [];
  let copied = 0;
  const copying = { source, target, trusted, signal };
  for (const place of await trustedPlaces({ source, trusted, signal }, prefixes.claims, parseClaimKey)) {
    if (there.has(claimKey(place))) continue;
    const problem = await copyClaim(copying, place, there);
    if (problem === null) copied++;
    else problems.push({ kind: "damaged", problem });
  }
  return { copied, problems };
}

/** Copy reports of drills of trusted writers. */
export async function copyDrills(
  request: NotesRequest,
  target: Repository,
  there: ReadonlyMap<string, number>,
): Promise<NotesReport> {
  const problems: CopyProblem[] = [];
  let copied = 0;
  for (const place of await trustedPlaces(request, prefixes.drills, parseDrillKey)) {
    const key = drillKey(place);
    if (there.has(key)) continue;
    const problem = await copyRecord({ ...request, target }, "drill", place, key);
    if (problem === null) copied++;
    else problems.push({ kind: "damaged", problem });
  }
  return { copied, problems };
}

/** What strangers have written claims and proves nothing. */
async function trustedPlaces(
  { source, trusted, signal }: NotesRequest,
  prefix: string,
  parse: (key: string) => RecordPlace | undefined,
): Promise<RecordPlace[]> {
  const writers = new Set(trusted.fingerprints.map((fingerprint) => fingerprint.slice(0, 16)));
  const places: RecordPlace[] = [];
  for await (const { key } of source.store.list(prefix, signal)) {
    const place = parse(key);
    if (place !== undefined && writers.has(place.writer)) places.push(place);
  }
  return places;
}

async function copyClaim(
  copying: RecordCopying,
  place: RecordPlace,
  there: Map<string, number>,
): Promise<string | null> {
  const key = claimKey(place);
  const read = await readRecord(copying, "claim", place, key);
  if (typeof read === "string") return read;
  const { claim } = read.signed;
  const problem = claim === undefined ? null : await copyList(copying, claim, there);
  if (problem === null) await putRecord(copying, key, read.bytes);
  return problem;
}

async function copyList(
  { source, target, signal }: RecordCopying,
  claim: Claim,
  there: Map<string, number>,
): Promise<string | null> {
  if (claim.state !== "claimed") return null;
  const { id, bytes: size } = claim.digests;
  const key = claimedKey(id);
  if (there.get(key) === size) return null;
  try {
    const bytes = await source.store.get(key, signal);
    if (digestOf(bytes).digest !== id) return `${key} does not match its digest`;
    await target.store.put(key, bytes, id, signal);
    there.set(key, size);
    return null;
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return error.message;
  }
}
