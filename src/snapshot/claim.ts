import { createHmac } from "node:crypto";
import type { MessageEntry } from "./manifest.ts";

/** One of `n` equal shares of a host's mail. */
export interface Shard {
  /** From 1. */
  readonly k: number;
  readonly n: number;
}

interface ClaimHead {
  readonly format: 1;
  readonly type: "claim";
  readonly repository: string;
  readonly writer: string;
  /** 1, 2, ... per writer, claims and withdrawals counted together. */
  readonly number: number;
  /** Id of a record of this writer with the number before, null for its first. */
  readonly previous: string | null;
  /** RFC 3339 in UTC. */
  readonly time: string;
}

/** A host's word that it takes over these messages of another: written before it places any (docs/FORMAT.md, "Claim"). */
export interface Claimed extends ClaimHead {
  readonly state: "claimed";
  /** The host whose mail is taken over. */
  readonly host: string;
  readonly snapshot: string;
  /** Of the restore, on the host that claims. */
  readonly run: string;
  /** Name of the host that claims, and of its instance that receives the mail. */
  readonly by: string;
  readonly into: string;
  /** Null: not a share, but whatever the digests say. */
  readonly shard: Shard | null;
  /** Claims an operator declared void, so that this one could be made. */
  readonly overrules: readonly string[];
  /** 32 random bytes, base64. */
  readonly salt: string;
  /** The list of the messages, an object of its own. */
  readonly digests: { readonly id: string; readonly bytes: number; readonly messages: number };
}

export interface Withdrawn extends ClaimHead {
  readonly state: "withdrawn";
  /** Id of a claim of the same writer. */
  readonly withdraws: string;
  readonly reason: string;
}

export type Claim = Claimed | Withdrawn;

/** What makes a message itself, within its host. */
export type ClaimedIdentity = Pick<MessageEntry, "instance" | "queueId" | "created" | "content">;

/** Who claims: claims of one party never stand in each other's way. */
export type ClaimParty = Pick<Claimed, "writer" | "by" | "into">;

export function isSameParty(one: ClaimParty, other: ClaimParty): boolean {
  return one.writer === other.writer && one.by === other.by && one.into === other.into;
}

/** How the digests of one claim are made. */
export interface ClaimDigester {
  /** 32 hexadecimal digits. Whoever has the message can make it; from it nobody learns what the message was. */
  of(message: ClaimedIdentity): string;
}

export function claimDigester({ salt, host }: Pick<Claimed, "salt" | "host">): ClaimDigester {
  const key = Buffer.from(salt, "base64");
  return {
    of: ({ instance, queueId, created, content }) =>
      createHmac("sha256", key)
        .update([host, instance, queueId, created, content].join("\0"))
        .digest("hex")
        .slice(0, digestDigits),
  };
}

const digestDigits = 32;

/** The list of a claim's messages as it is stored: a digest per line, sorted, none twice. */
export function formatDigests(digests: Iterable<string>): Buffer {
  return Buffer.from(
    [...new Set(digests)]
      .sort()
      .map((digest) => `${digest}\n`)
      .join(""),
  );
}

/** The inverse of `formatDigests`. @returns undefined for any text that it would not have made */
export function parseDigests(list: Buffer): Set<string> | undefined {
  const text = list.toString("latin1");
  const digests = text.split("\n");
  if (digests.pop() !== "") return undefined;
  const sorted = digests.every(
    (digest, at) => /^[0-9a-f]{32}$/.test(digest) && (at === 0 || digest > (digests[at - 1] ?? "")),
  );
  return sorted ? new Set(digests) : undefined;
}

/** The side that wants to claim: what it would say, and the messages it would take. */
export interface Claimant extends ClaimParty {
  readonly host: string;
  readonly shard: Shard | null;
  readonly messages: readonly ClaimedIdentity[];
}

/** Why two claims can't both stand: the shares don't fit, or so many messages are in both. */
export type Overlap = { readonly reason: "shares" } | { readonly reason: "messages"; readonly messages: number };

/**
 * Whether what is wanted could take a message that a claim has taken (docs/FORMAT.md, "Claim").
 *
 * @param digests of the claim's list
 */
export function overlapOf(wanted: Claimant, claim: Claimed, digests: ReadonlySet<string>): Overlap | undefined {
  if (wanted.host !== claim.host || isSameParty(wanted, claim)) return undefined;
  if (sharesClash(wanted.shard, claim.shard)) return { reason: "shares" };
  const digester = claimDigester(claim);
  const messages = wanted.messages.filter((message) => digests.has(digester.of(message))).length;
  return messages === 0 ? undefined : { reason: "messages", messages };
}

/** Shares of another count cut the mail in another way, so that what one takes and the other leaves can't be told. */
function sharesClash(one: Shard | null, other: Shard | null): boolean {
  return one !== null && other !== null && (one.n !== other.n || one.k === other.k);
}
