import { randomBytes } from "node:crypto";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import {
  type Claimant,
  type ClaimedIdentity,
  claimDigester,
  formatDigests,
  isSameParty,
  type Overlap,
  overlapOf,
} from "../snapshot/claim.ts";
import type { Clock } from "../system/clock.ts";
import {
  type ClaimMemory,
  type Claims,
  listClaims,
  readDigests,
  requireChecked,
  type StandingClaim,
  type StrangerClaim,
  writeClaimRecord,
  writeDigests,
} from "./claims.ts";
import type { Repository } from "./repository.ts";

export interface TakeClaimRequest {
  readonly repository: Repository;
  readonly key: SigningKey;
  readonly trusted: Pick<TrustedKeys, "check" | "fingerprints">;
  /** Whose mail, and which of it: the messages the plan places, as the snapshot has them. */
  readonly wanted: Omit<Claimant, "writer">;
  readonly snapshot: string;
  readonly run: string;
  /** Ids of claims the operator declares void: whoever made them is known to be gone for good. */
  readonly overrule?: readonly string[];
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** Milliseconds to wait for claims with higher names to be withdrawn; default half a minute. */
  readonly waitMs?: number;
  /** Milliseconds for which no other may turn up in listings after one's own has; default one second. */
  readonly settleMs?: number;
}

export interface TakenClaim {
  readonly id: string;
  readonly key: string;
  /** Not believed and not heeded; for the operator to know of. */
  readonly strangers: readonly StrangerClaim[];
}

/**
 * Claim messages of a host before any of them is placed (docs/FORMAT.md, "Claim"): of several hosts that try at one time, one
 * gets it at most.
 *
 * Whoever has been given a claim notes it in the run's journal before the first message is placed, and does not call this again
 * for the run: it could give the claim up. Called again by a run that died before that, it goes on with the claim it finds.
 *
 * @throws OperatorError `refused` when the messages, or some of them, are another's; `damaged` when a claim can't be checked;
 * whatever the store throws. In all these cases one's own claim is withdrawn, or the error says that it still stands
 */
export async function takeClaim(request: TakeClaimRequest): Promise<TakenClaim> {
  const { repository, trusted, signal } = request;
  requireOwnTrust(request);
  const before = await listClaims(repository, trusted, signal);
  requireChecked(before);
  const rivals = new Rivals(request);
  const unfinished = await findUnfinished(before, request);
  if (unfinished !== undefined) return await stand(request, rivals, unfinished);
  const [taken] = await rivals.among(before);
  if (taken !== undefined) throw claimedBy(taken);
  return await stand(request, rivals, await write(request, before));
}

/**
 * Take a claim of this key back. The fence of the host it speaks of lets its mail go from then on, so nothing the claim
 * names may be left here that Postfix could deliver.
 *
 * @throws OperatorError `usage` when there is no such claim of this key; one that is withdrawn already is a success
 */
export async function withdrawClaim(
  request: Pick<TakeClaimRequest, "repository" | "key" | "trusted" | "clock" | "signal">,
  id: string,
  reason: string,
): Promise<void> {
  const { repository, key, trusted, clock, signal } = request;
  requireOwnTrust(request);
  const claims = await listClaims(repository, trusted, signal);
  const isIt = (one: StandingClaim) => one.id === id && one.claim.writer === key.writer;
  if (claims.withdrawn.some(isIt)) return;
  if (!claims.standing.some(isIt)) {
    throw new OperatorError("usage", `there is no claim ${id.slice(0, 8)} signed with this host's key`, {
      hints: ["only the host that made a claim can withdraw it", "is this host's own key among its trusted keys?"],
    });
  }
  await writeClaimRecord(repository, key, claims.places, withdrawal(clock, id, reason), signal);
}

/** What it takes to change claims of one's own. */
export type OwnClaimRequest = Pick<TakeClaimRequest, "repository" | "key" | "trusted" | "clock" | "signal">;

/**
 * Take back every standing claim this key made for a run; that there is none any more is a success.
 *
 * @returns their ids
 * @throws OperatorError `damaged` when none of the run's claims is to be seen and some can't be checked
 */
export async function withdrawClaimsOf(request: OwnClaimRequest, run: string, reason: string): Promise<string[]> {
  requireOwnTrust(request);
  const { standing } = await claimsOfRun(request, run);
  return await withdrawEach(request, standing, reason);
}

export interface NarrowClaimRequest extends OwnClaimRequest {
  readonly run: string;
  /** The messages of the run that stay claimed. Those it has not claimed before are not claimed by this. */
  readonly rest: readonly ClaimedIdentity[];
  readonly reason: string;
  /** As for `takeClaim`. */
  readonly waitMs?: number;
  readonly settleMs?: number;
}

/**
 * Let go of most of what a run has claimed. First a claim of the rest is written and seen in listings, then the others are
 * withdrawn, so that the rest is claimed at every moment; killed anywhere, the same call again finishes. Nobody can be in
 * its way: what it names was this side's before.
 *
 * @returns the id of the claim that stands then; null when the run has none, and gets none
 * @throws OperatorError `damaged` as `withdrawClaimsOf`, `failed` when the new claim does not turn up: then all of them stand
 */
export async function narrowClaims(request: NarrowClaimRequest): Promise<string | null> {
  const { repository, run, rest, reason, signal } = request;
  requireOwnTrust(request);
  const { claims, standing } = await claimsOfRun(request, run);
  const [first] = standing;
  if (first === undefined) return null;
  const lists = await Promise.all(standing.map(({ claim }) => listOf(repository, claim, signal)));
  const claimed = rest.filter((message) => lists.some((list) => list.has(message)));
  if (claimed.length === 0) {
    await withdrawEach(request, standing, reason);
    return null;
  }
  const exact = standing.find((_, at) => lists[at]?.isExactly(claimed));
  const { id } = exact ?? (await writeAgain(request, claims, first, claimed));
  await waitUntilListed(request, id);
  await withdrawEach(
    request,
    standing.filter((one) => one.id !== id),
    reason,
  );
  return id;
}

async function claimsOfRun(
  request: OwnClaimRequest,
  run: string,
): Promise<{ readonly claims: Claims; readonly standing: readonly StandingClaim[] }> {
  const { repository, key, trusted, signal } = request;
  const claims = await listClaims(repository, trusted, signal);
  const ofRun = ({ claim }: StandingClaim) => claim.writer === key.writer && claim.run === run;
  const standing = claims.standing.filter(ofRun);
  if (standing.length === 0 && !claims.withdrawn.some(ofRun)) requireChecked(claims);
  return { claims, standing };
}

async function withdrawEach(
  { repository, key, trusted, clock, signal }: OwnClaimRequest,
  standing: readonly StandingClaim[],
  reason: string,
): Promise<string[]> {
  for (const { id } of standing) {
    await withdrawOwn(repository, key, trusted, withdrawal(clock, id, reason), signal);
  }
  return standing.map(({ id }) => id);
}

/** The same claim once more, of fewer messages. */
async function writeAgain(
  { repository, key, clock, signal }: OwnClaimRequest,
  claims: Claims,
  { claim }: StandingClaim,
  messages: readonly ClaimedIdentity[],
): Promise<Own> {
  const { host, snapshot, run, by, into, shard, overrules } = claim;
  const list = await writeList(repository, host, messages, signal);
  const time = new Date(clock.now()).toISOString();
  const record = { time, state: "claimed", host, snapshot, run, by, into, shard, overrules, ...list } as const;
  return await writeClaimRecord(repository, key, claims.places, record, signal);
}

async function waitUntilListed(request: NarrowClaimRequest, id: string): Promise<void> {
  const { repository, trusted, clock, signal, waitMs = 30_000, settleMs = 1000 } = request;
  const until = clock.monotonic() + waitMs;
  const memory: ClaimMemory = new Map();
  let since: number | undefined;
  for (;;) {
    const { standing } = await listClaims(repository, trusted, signal, memory);
    const now = clock.monotonic();
    since = standing.some((one) => one.id === id) ? (since ?? now) : undefined;
    if (since !== undefined && now - since >= settleMs) return;
    if (now > until) throw notListed(repository);
    await clock.sleep(Math.min(250, Math.max(settleMs, 20)), signal);
  }
}

function withdrawal(clock: Clock, id: string, reason: string) {
  return { time: new Date(clock.now()).toISOString(), state: "withdrawn", withdraws: id, reason } as const;
}

/** Whoever does not believe its own key does not see its own claims. */
function requireOwnTrust({ key, trusted }: Pick<TakeClaimRequest, "key" | "trusted">): void {
  if (trusted.fingerprints.includes(key.fingerprint)) return;
  throw new OperatorError("config", "this host's own signing key is not among the keys it trusts", {
    hints: ["add its public half to the trusted keys: spoolsafe key add FILE"],
  });
}

/** What of a claim the protocol goes by. */
type Own = Pick<StandingClaim, "id" | "key">;

/** A claim of the run on other messages than these is not it: both stand until the run's are withdrawn. */
async function findUnfinished({ standing }: Claims, request: TakeClaimRequest): Promise<StandingClaim | undefined> {
  const { repository, key, wanted, run, signal } = request;
  for (const one of standing) {
    if (one.claim.run !== run || !isSameParty(one.claim, { ...wanted, writer: key.writer })) continue;
    if ((await listOf(repository, one.claim, signal)).isExactly(wanted.messages)) return one;
  }
  return undefined;
}

/** What a claim has taken. */
interface ClaimList {
  has(message: ClaimedIdentity): boolean;
  isExactly(messages: readonly ClaimedIdentity[]): boolean;
}

async function listOf(
  repository: Repository,
  claim: StandingClaim["claim"],
  signal: AbortSignal | undefined,
): Promise<ClaimList> {
  const digests = await readDigests(repository, claim, signal);
  const digester = claimDigester(claim);
  return {
    has: (message) => digests.has(digester.of(message)),
    isExactly: (messages) => {
      const wanted = new Set(messages.map((message) => digester.of(message)));
      return wanted.size === digests.size && [...wanted].every((digest) => digests.has(digest));
    },
  };
}

async function write(request: TakeClaimRequest, before: Claims): Promise<Own> {
  const { repository, key, wanted, snapshot, run, clock, signal } = request;
  const { host, by, into, shard, messages } = wanted;
  const list = await writeList(repository, host, messages, signal);
  const time = new Date(clock.now()).toISOString();
  const claim = { time, state: "claimed", host, snapshot, run, by, into, shard } as const;
  const overrules = [...(request.overrule ?? [])];
  // Not interrupted half-way: it may be there for all to see already, and only what is known to be there is withdrawn.
  signal?.throwIfAborted();
  return await writeClaimRecord(repository, key, before.places, { ...claim, overrules, ...list });
}

/** Store the list under a salt of its own. */
async function writeList(
  repository: Repository,
  host: string,
  messages: readonly ClaimedIdentity[],
  signal: AbortSignal | undefined,
): Promise<Pick<StandingClaim["claim"], "salt" | "digests">> {
  const salt = randomBytes(32).toString("base64");
  const digester = claimDigester({ salt, host });
  const list = formatDigests(messages.map((message) => digester.of(message)));
  return { salt, digests: await writeDigests(repository, list, signal) };
}

/** Look until one's own claim stands alone, or has to be withdrawn. */
async function stand(request: TakeClaimRequest, rivals: Rivals, own: Own): Promise<TakenClaim> {
  try {
    return await standOrGiveUp(request, rivals, own);
  } catch (error) {
    await giveUp(request, own, error);
    request.signal?.throwIfAborted();
    throw error;
  }
}

async function standOrGiveUp(request: TakeClaimRequest, rivals: Rivals, own: Own): Promise<TakenClaim> {
  const { repository, trusted, clock, signal, waitMs = 30_000, settleMs = 1000 } = request;
  const until = clock.monotonic() + waitMs;
  const memory: ClaimMemory = new Map();
  let aloneSince: number | undefined;
  for (;;) {
    const claims = await listClaims(repository, trusted, signal, memory);
    requireChecked(claims);
    const others = await rivals.among(claims);
    const seen = claims.standing.some(({ id }) => id === own.id);
    const lower = others.find(({ key }) => key < own.key);
    if (lower !== undefined) throw claimedBy(lower);
    const now = clock.monotonic();
    aloneSince = seen && others.length === 0 ? (aloneSince ?? now) : undefined;
    if (aloneSince !== undefined && now - aloneSince >= settleMs) return { ...own, strangers: claims.strangers };
    if (now > until) throw others[0] === undefined ? notListed(repository) : claimedBy(others[0]);
    await clock.sleep(Math.min(250, Math.max(settleMs, 20)), signal);
  }
}

/**
 * Withdraw what was written. Also when the run was interrupted: a claim nobody acts on keeps others from their mail.
 *
 * @throws OperatorError that says the claim still stands, when it can't be withdrawn
 */
async function giveUp({ repository, key, trusted, clock }: TakeClaimRequest, own: Own, why: unknown): Promise<void> {
  const reason = why instanceof OperatorError && why.kind === "refused" ? "overlaps another claim" : "the run failed";
  try {
    await withdrawOwn(repository, key, trusted, withdrawal(clock, own.id, reason));
  } catch (cause) {
    const because = why instanceof Error ? why.message : String(why);
    throw new OperatorError("failed", `${because}; and the claim ${own.id.slice(0, 8)} could not be withdrawn`, {
      hints: [`nothing was placed: take it back with spoolsafe holds take-over ${own.id.slice(0, 8)} --withdraw`],
      cause,
    });
  }
}

async function withdrawOwn(
  repository: Repository,
  key: SigningKey,
  trusted: TakeClaimRequest["trusted"],
  record: ReturnType<typeof withdrawal>,
  signal?: AbortSignal,
): Promise<void> {
  const { places } = await listClaims(repository, trusted, signal);
  await writeClaimRecord(repository, key, places, record, signal);
}

/** A claim that stands in the way, and why. */
interface Rival extends StandingClaim {
  readonly overlap: Overlap;
}

/** Finds the claims that overlap what is wanted; each claim's list is read once. */
class Rivals {
  readonly #request: TakeClaimRequest;
  readonly #overlaps = new Map<string, Overlap | undefined>();

  constructor(request: TakeClaimRequest) {
    this.#request = request;
  }

  /** In the order of their keys. */
  async among({ standing }: Claims): Promise<Rival[]> {
    const rivals: Rival[] = [];
    for (const one of standing) {
      const overlap = await this.#overlap(one);
      if (overlap !== undefined) rivals.push({ ...one, overlap });
    }
    return rivals;
  }

  async #overlap({ id, claim }: StandingClaim): Promise<Overlap | undefined> {
    const { repository, key, wanted, snapshot, overrule = [], signal } = this.#request;
    const claimant = { ...wanted, writer: key.writer };
    if (claim.host !== wanted.host || overrule.includes(id)) return undefined;
    if (isSameParty(claim, claimant))
      return isCutAnew(claim, snapshot, wanted.shard) ? { reason: "shares" } : undefined;
    if (!this.#overlaps.has(id)) {
      this.#overlaps.set(id, overlapOf(claimant, claim, await readDigests(repository, claim, signal)));
    }
    return this.#overlaps.get(id);
  }
}

/** The first claim of a share of a snapshot says into how many it is cut, for the host that made it as well. */
function isCutAnew(claim: StandingClaim["claim"], snapshot: string, wanted: Claimant["shard"]): boolean {
  return claim.snapshot === snapshot && claim.shard !== null && wanted !== null && claim.shard.n !== wanted.n;
}

function claimedBy({ id, claim, overlap }: Rival): OperatorError {
  const { host, by, into, time, shard } = claim;
  const share = shard === null ? "" : `, share ${shard.k}/${shard.n}`;
  const what =
    overlap.reason === "shares"
      ? `mail of ${host} is shared out in another way, or this share is taken`
      : `${overlap.messages} of these messages of ${host} are taken over`;
  return new OperatorError("refused", `${what}: by ${by}, into ${into}, at ${time} (claim ${id.slice(0, 8)}${share})`, {
    hints: [
      `on ${by}: spoolsafe undo ${claim.run} gives them back, once it is sure that none was delivered there`,
      "or restore only what is not claimed (--only)",
    ],
  });
}

function notListed(repository: Repository): OperatorError {
  return new OperatorError(
    "failed",
    `the claim that was written does not turn up in listings of ${repository.store.url}`,
    {
      hints: ["wait a minute and run it again", "a store whose listings lag can't keep two hosts apart: claim by hand"],
    },
  );
}
