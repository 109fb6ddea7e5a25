import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { type Claim, type Claimed, parseDigests, type Withdrawn } from "../snapshot/claim.ts";
import { formatRecord, parseClaimRecord, type SignedClaim } from "../snapshot/record.ts";
import { digestOf } from "../system/digest.ts";
import { claimedKey, claimKey, parseClaimKey, prefixes, type RecordPlace } from "./layout.ts";
import { mapConcurrently, type Repository } from "./repository.ts";

/** A claim whose signature is a trusted key's. */
export interface StandingClaim {
  readonly id: string;
  /** Claims are ordered by it: the lowest of those that overlap stands. */
  readonly key: string;
  readonly claim: Claimed;
  /** The record's two lines, as stored. */
  readonly record: Buffer;
}

export interface WithdrawnClaim extends StandingClaim {
  readonly withdrawal: Withdrawn;
}

/** A record that claims nothing here, because no trusted key signed it. */
export interface StrangerClaim {
  readonly key: string;
  /** What it says; null when it can't be read. Said by a stranger: material to look at and no more. */
  readonly claim: Claim | null;
}

/** What a look at the claims of a repository found. */
export interface Claims {
  readonly standing: readonly StandingClaim[];
  readonly withdrawn: readonly WithdrawnClaim[];
  readonly strangers: readonly StrangerClaim[];
  /** Why claims of trusted writers may be missing above. Empty when every one of them is known. */
  readonly unchecked: readonly string[];
  /** The place of every record of a trusted writer, for the numbers of further ones. */
  readonly places: readonly RecordPlace[];
}

/** Records read before, by key: they never change. For who looks again and again, with the same trusted keys. */
export type ClaimMemory = Map<string, Look>;

/** Read every claim there is. @throws whatever the store throws when it can't be read */
export async function listClaims(
  repository: Repository,
  trusted: Pick<TrustedKeys, "check" | "fingerprints">,
  signal?: AbortSignal,
  memory: ClaimMemory = new Map(),
): Promise<Claims> {
  const writers = new Set(trusted.fingerprints.map((fingerprint) => fingerprint.slice(0, 16)));
  const places = await placesOf(repository, signal);
  const looks = await mapConcurrently(places, 8, async (place) => {
    const found = memory.get(claimKey(place)) ?? (await look(repository, place, trusted, signal));
    if (found.signed !== null) memory.set(claimKey(place), found);
    return found;
  });
  const known = looks.flatMap(({ signed, verdict }) => (verdict === "trusted" && signed !== null ? [signed] : []));
  const ours = places.filter(({ writer }) => writers.has(writer));
  const isOurs = ({ place }: Look) => writers.has(place.writer);
  return {
    ...sortOut(known),
    strangers: looks
      .filter((one) => !isOurs(one))
      .map(({ place, signed }) => ({ key: claimKey(place), claim: signed?.claim ?? null })),
    unchecked: [
      ...looks.filter(isOurs).flatMap(({ problem }) => problem ?? []),
      ...gaps(
        known.map(({ claim, id }) => ({ ...claim, id })),
        ours,
      ),
    ],
    places: ours,
  };
}

/** @throws OperatorError `damaged` when a claim of a trusted writer may be missing from what was found */
export function requireChecked({ unchecked }: Pick<Claims, "unchecked">): void {
  const [first, ...others] = unchecked;
  if (first === undefined) return;
  const more = others.length === 0 ? "" : ` (and ${others.length} more)`;
  throw new OperatorError("damaged", `the claims in the repository can't all be checked: ${first}${more}`, {
    hints: [
      "bring the record back from a copy of the repository, or find out on the host of that writer what it claimed",
      "a writer that is not to be believed any more: spoolsafe key remove",
    ],
  });
}

async function placesOf(repository: Repository, signal: AbortSignal | undefined): Promise<RecordPlace[]> {
  const places: RecordPlace[] = [];
  for await (const { key } of repository.store.list(prefixes.claims, signal)) {
    const place = parseClaimKey(key);
    if (place !== undefined) places.push(place);
  }
  return places;
}

interface Look {
  readonly place: RecordPlace;
  readonly signed: (SignedClaim & { readonly record: Buffer }) | null;
  readonly verdict: "trusted" | "stranger" | "forged" | "unreadable";
  readonly problem?: string;
}

async function look(
  repository: Repository,
  place: RecordPlace,
  trusted: Pick<TrustedKeys, "check">,
  signal: AbortSignal | undefined,
): Promise<Look> {
  const key = claimKey(place);
  try {
    const record = await repository.store.get(key, signal);
    const signed = parseClaimRecord(record, repository.id);
    const { claim, id } = signed;
    if (id !== place.id || claim.writer !== place.writer || claim.number !== place.number) {
      return { place, signed: null, verdict: "unreadable", problem: `${key} is not what its name says` };
    }
    const verdict = trusted.check(signed.key, signed.line, signed.signature);
    const problem = verdict === "trusted" ? {} : { problem: `${key} is not signed by the key it names` };
    return { place, signed: { ...signed, record }, verdict, ...problem };
  } catch (error) {
    // Missing right after it was listed is damage as well: claims are never removed.
    if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return { place, signed: null, verdict: "unreadable", problem: `${key}: ${error.message}` };
  }
}

function sortOut(
  known: readonly (SignedClaim & { readonly record: Buffer })[],
): Pick<Claims, "standing" | "withdrawn"> {
  const withdrawals = new Map(
    known.flatMap(({ claim }) => (claim.state === "withdrawn" ? [[`${claim.writer}/${claim.withdraws}`, claim]] : [])),
  );
  const standing: StandingClaim[] = [];
  const withdrawn: WithdrawnClaim[] = [];
  for (const { claim, id, record } of known) {
    if (claim.state !== "claimed") continue;
    const one = { id, key: claimKey({ ...claim, id }), claim, record };
    const withdrawal = withdrawals.get(`${claim.writer}/${id}`);
    if (withdrawal === undefined) standing.push(one);
    else withdrawn.push({ ...one, withdrawal });
  }
  return { standing, withdrawn };
}

/** A number that is missing, or a `previous` that is not there, is a claim that has gone. */
function gaps(known: readonly (Claim & { readonly id: string })[], places: readonly RecordPlace[]): string[] {
  const byWriter = Map.groupBy(places, ({ writer }) => writer);
  return [...byWriter].flatMap(([writer, listed]) => {
    const numbers = Map.groupBy(listed, ({ number }) => number);
    const newest = Math.max(...numbers.keys());
    const missing = Array.from({ length: newest }, (_, at) => at + 1).find((number) => !numbers.has(number));
    const cut = known.find(
      (claim) => claim.writer === writer && !previousIsThere(claim, numbers.get(claim.number - 1) ?? []),
    );
    return [
      ...(missing === undefined ? [] : [`record ${missing} of writer ${writer} in ${prefixes.claims} is not there`]),
      ...(cut === undefined || missing !== undefined
        ? []
        : [`record ${cut.number} of writer ${writer} in ${prefixes.claims} follows one that is not there`]),
    ];
  });
}

function previousIsThere({ number, previous }: Claim, before: readonly RecordPlace[]): boolean {
  return number === 1 ? previous === null : before.some(({ id }) => id === previous);
}

/**
 * Read the list of a claim's messages.
 *
 * @throws OperatorError `damaged` when it is missing or not the list the claim names
 */
export async function readDigests(
  repository: Repository,
  { digests }: Pick<Claimed, "digests">,
  signal?: AbortSignal,
): Promise<Set<string>> {
  const key = claimedKey(digests.id);
  return parseList(await repository.store.get(key, signal), { digests }, key);
}

/** The list in bytes that were stored under its name. @throws OperatorError `damaged` as `readDigests` */
export function parseList(bytes: Buffer, { digests }: Pick<Claimed, "digests">, where: string): Set<string> {
  const list = digestOf(bytes).digest === digests.id ? parseDigests(bytes) : undefined;
  if (list?.size === digests.messages) return list;
  throw new OperatorError("damaged", `${where} is not the list of messages its claim names`, {
    hints: ["bring it back from a copy of the repository", "or ask the host that claims to withdraw it"],
  });
}

/** What a new record says beside its place among its writer's. */
export type NewClaim = WithoutPlace<Claimed> | WithoutPlace<Withdrawn>;
type WithoutPlace<Record extends Claim> = Omit<
  Record,
  "format" | "type" | "repository" | "writer" | "number" | "previous"
>;

/**
 * Sign and store a claim or a withdrawal, under a name nobody else uses. It stands from the moment this resolves; the list
 * a claim names must have been stored before.
 *
 * @param places of a look just now: what its writer has written before
 */
export async function writeClaimRecord(
  repository: Repository,
  key: SigningKey,
  places: readonly RecordPlace[],
  record: NewClaim,
  signal?: AbortSignal,
): Promise<RecordPlace & { readonly key: string }> {
  const own = places.filter(({ writer }) => writer === key.writer);
  const last = own.reduce((most, { number }) => Math.max(most, number), 0);
  const previous = own.find(({ number }) => number === last)?.id ?? null;
  const { writer } = key;
  const head = { format: 1, type: "claim", repository: repository.id, writer, number: last + 1, previous } as const;
  const { id, bytes } = formatRecord({ ...head, ...record }, key);
  const place = { writer, number: last + 1, id };
  await repository.store.put(claimKey(place), bytes, digestOf(bytes).digest, signal);
  return { ...place, key: claimKey(place) };
}

/** Store the list of a claim's messages. @returns what its claim says of it */
export async function writeDigests(
  repository: Repository,
  list: Buffer,
  signal?: AbortSignal,
): Promise<Claimed["digests"]> {
  const { digest } = digestOf(list);
  await repository.store.put(claimedKey(digest), list, digest, signal);
  return { id: digest, bytes: list.length, messages: list.length / 33 };
}
