import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import {
  listClaims,
  parseList,
  readDigests,
  requireChecked,
  type StandingClaim,
  type StrangerClaim,
  type WithdrawnClaim,
} from "../repository/claims.ts";
import { claimKey } from "../repository/layout.ts";
import type { Repository } from "../repository/repository.ts";
import type { Claimed } from "../snapshot/claim.ts";
import { parseClaimRecord } from "../snapshot/record.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";

/** A claim on mail of this host, with the digests of what it took. */
export interface FencingClaim {
  readonly id: string;
  readonly claim: Claimed;
  readonly digests: ReadonlySet<string>;
}

export interface FencingClaims {
  /** In the order of their keys. */
  readonly claims: readonly FencingClaim[];
  /** Trusted claims on it that the repository says are withdrawn. */
  readonly withdrawn: readonly WithdrawnClaim[];
  /** Standing claims that an operator of this host has decided against (`decideAgainst`): not among `claims`. */
  readonly decidedAgainst: readonly StandingClaim[];
  readonly strangers: readonly StrangerClaim[];
  /** Why there may be claims that are not among these; null when every one of them is known. */
  readonly failure: OperatorError | null;
}

export interface FencingRequest {
  readonly open: () => Promise<Repository>;
  readonly trusted: Pick<TrustedKeys, "check" | "fingerprints">;
  /** Every name this host is or was known by in snapshots; without a repository, those it knows itself. */
  readonly hosts: (repository: Repository | undefined) => Promise<readonly string[]>;
  readonly stateDirectory: string;
  readonly signal?: AbortSignal;
}

/**
 * What others have claimed of this host's mail, and a copy of it kept for the day the repository can't be read.
 *
 * What was seen once counts until the repository itself says it is withdrawn: the copy can fence more than the repository
 * would, never less. It does not replace the repository either; whoever gets a `failure` can't know of the newest claims.
 */
export async function gatherFencingClaims(request: FencingRequest): Promise<FencingClaims> {
  const { trusted, stateDirectory, signal } = request;
  const failures: OperatorError[] = [];
  const attempt = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      if (signal?.aborted || !(error instanceof OperatorError)) throw error;
      failures.push(error);
      return undefined;
    }
  };
  const repository = await attempt(request.open);
  const found = repository && (await attempt(() => listClaims(repository, trusted, signal)));
  if (found !== undefined) await attempt(async () => requireChecked(found));
  const hosts = (await attempt(() => request.hosts(repository))) ?? (await request.hosts(undefined));
  const withdrawn = new Set(found?.withdrawn.map(({ id }) => id));
  const seen = seenClaims(stateDirectory, trusted).filter(({ id }) => !withdrawn.has(id));
  const standing = new Map([...seen, ...(found?.standing ?? [])].map((one) => [one.id, one]));
  if (found !== undefined && repository !== undefined) {
    failures.push(...vanished(seen, new Set(found.standing.map(({ id }) => id)), repository.id));
  }
  const ours = [...standing.values()]
    .filter(({ claim }) => hosts.includes(claim.host))
    .sort((a, b) => (a.key < b.key ? -1 : 1));
  const [decidedAgainst, inForce] = partition(ours, ({ id }) => existsSync(decisionFile(stateDirectory, id)));
  const claims: FencingClaim[] = [];
  for (const one of inForce) {
    const digests = await attempt(() => digestsOf(one, repository, request));
    if (digests !== undefined) claims.push({ id: one.id, claim: one.claim, digests });
  }
  for (const id of withdrawn) forget(stateDirectory, id);
  return {
    claims,
    withdrawn: (found?.withdrawn ?? []).filter(({ claim }) => hosts.includes(claim.host)),
    decidedAgainst,
    strangers: found?.strangers ?? [],
    failure: failures[0] ?? null,
  };
}

/** Claims are never removed: one that has gone from its repository may not be the only one. */
function vanished(seen: readonly StandingClaim[], listed: ReadonlySet<string>, repository: string): OperatorError[] {
  const gone = seen.filter(({ id, claim }) => claim.repository === repository && !listed.has(id));
  return gone.slice(0, 1).map(
    ({ key, claim }) =>
      new OperatorError(
        "damaged",
        `the repository has lost ${key}, by which ${claim.by} claimed mail of ${claim.host}`,
        {
          hints: ["bring it back from a copy of the repository: others may be missing with it"],
        },
      ),
  );
}

/**
 * Remember that this host takes its mail back although the claim stands: from now on its fence does not go by it.
 *
 * @param time RFC 3339
 */
export function decideAgainst(stateDirectory: string, claim: string, time: string): void {
  makePrivateDirectory(copyDirectory(stateDirectory));
  writeFileAtomic(decisionFile(stateDirectory, claim), `${JSON.stringify({ format: 1, claim, time })}\n`);
}

/** From the copy if it is there: the signed record names the list by its digest, so that both are equally good. */
async function digestsOf(
  { id, claim, record }: StandingClaim,
  repository: Repository | undefined,
  { stateDirectory, signal }: FencingRequest,
): Promise<ReadonlySet<string>> {
  const copy = listFile(stateDirectory, id);
  if (existsSync(copy)) {
    try {
      return parseList(readFileSync(copy), claim, copy);
    } catch (error) {
      if (!(error instanceof OperatorError) || repository === undefined) throw error;
    }
  }
  if (repository === undefined) throw new OperatorError("damaged", `${copy} is not there`);
  const digests = await readDigests(repository, claim, signal);
  makePrivateDirectory(copyDirectory(stateDirectory));
  writeFileAtomic(copy, [...digests].map((digest) => `${digest}\n`).join(""));
  writeFileAtomic(recordFile(stateDirectory, id), record);
  return digests;
}

/** The claims in the copy. One whose record can't be read, or whose key is trusted no longer, is none. */
function seenClaims(stateDirectory: string, trusted: FencingRequest["trusted"]): StandingClaim[] {
  const directory = copyDirectory(stateDirectory);
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => /^[0-9a-f]{64}$/.test(name));
  return names.sort().flatMap((name) => seenClaim(readFileSync(join(directory, name)), trusted) ?? []);
}

function seenClaim(record: Buffer, trusted: FencingRequest["trusted"]): StandingClaim | undefined {
  const repository = /"repository":"([0-9a-f]{32})"/.exec(record.toString("latin1"))?.[1] ?? "";
  try {
    const { id, claim, key, line, signature } = parseClaimRecord(record, repository);
    const isTrusted = trusted.check(key, line, signature) === "trusted";
    return isTrusted && claim.state === "claimed" ? { id, key: claimKey({ ...claim, id }), claim, record } : undefined;
  } catch (error) {
    // The copy only ever adds to what the repository says.
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}

function forget(stateDirectory: string, id: string): void {
  for (const path of [recordFile(stateDirectory, id), listFile(stateDirectory, id)]) rmSync(path, { force: true });
}

function copyDirectory(stateDirectory: string): string {
  return join(stateDirectory, "claims");
}

function recordFile(stateDirectory: string, id: string): string {
  return join(copyDirectory(stateDirectory), id);
}

function decisionFile(stateDirectory: string, id: string): string {
  return join(copyDirectory(stateDirectory), `${id}.decided-against`);
}

function partition<T>(items: readonly T[], first: (item: T) => boolean): [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))];
}

function listFile(stateDirectory: string, id: string): string {
  return join(copyDirectory(stateDirectory), `${id}.digests`);
}
