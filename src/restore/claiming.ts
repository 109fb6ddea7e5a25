import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import type { StrangerClaim } from "../repository/claims.ts";
import type { Repository } from "../repository/repository.ts";
import { narrowClaims, takeClaim, withdrawClaimsOf } from "../repository/take-claim.ts";
import type { ClaimedIdentity, Shard } from "../snapshot/claim.ts";
import type { Clock } from "../system/clock.ts";

/** How a run says that it takes over messages of a host, and takes that back. */
export interface Claiming extends StandingClaims {
  /**
   * Claim these messages for the run, before any of them is placed. The id belongs in the run's journal at once: who has it
   * there does not call this again. A run that died before that gets the claim it had made.
   *
   * @returns the claim's id, and what an operator has to know of others' claims
   * @throws OperatorError `refused` when another party has claimed some of them; others when the claims can't be read or
   * written, with a hint that names `--without-claim`. Nothing is claimed then
   */
  take(
    run: string,
    messages: readonly ClaimedIdentity[],
  ): Promise<{ readonly id: string; readonly warnings: readonly string[] }>;
}

/** What is done with claims that have been made. */
export interface StandingClaims {
  /**
   * Withdraw every standing claim of this host for the run, also one that its journal does not name because it died
   * between. From then on the host it speaks of delivers that mail: nothing the run placed may be left here to deliver.
   */
  withdraw(run: string, reason: string): Promise<void>;
  /**
   * Claim only these for the run, then withdraw what it had claimed before: the rest is claimed at every moment. Killed
   * anywhere, the same call again finishes.
   *
   * @returns the id of the claim that stands then, or null when the run has none
   */
  narrow(run: string, rest: readonly ClaimedIdentity[], reason: string): Promise<string | null>;
}

/** Where claims are kept, and by which key this host makes and believes them. */
export interface ClaimAccess {
  readonly repository: Repository;
  readonly key: SigningKey;
  readonly trusted: Pick<TrustedKeys, "check" | "fingerprints">;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds, as for `takeClaim`. */
  readonly waitMs?: number | undefined;
  readonly settleMs?: number | undefined;
}

export interface ClaimsOptions extends ClaimAccess {
  /** The host whose mail it is, as its snapshots call it. */
  readonly host: string;
  readonly snapshot: string;
  /** The name of this host, by which its own fence knows its claims. */
  readonly by: string;
  /** Name of the instance that receives the mail. */
  readonly into: string;
  readonly shard: Shard | null;
}

export function claimsOf(options: ClaimsOptions): Claiming {
  return { ...standingClaims(options), take: (run, messages) => take(options, run, messages) };
}

export function standingClaims(access: ClaimAccess): StandingClaims {
  const request = given(access);
  return {
    withdraw: async (run, reason) => {
      await withdrawClaimsOf(request, run, reason);
    },
    narrow: (run, rest, reason) => narrowClaims({ ...request, run, rest, reason }),
  };
}

function given({ repository, key, trusted, clock, signal, waitMs, settleMs }: ClaimAccess) {
  return {
    ...{ repository, key, trusted, clock },
    ...(signal === undefined ? {} : { signal }),
    ...(waitMs === undefined ? {} : { waitMs }),
    ...(settleMs === undefined ? {} : { settleMs }),
  };
}

async function take(options: ClaimsOptions, run: string, messages: readonly ClaimedIdentity[]) {
  const { host, snapshot, by, into, shard } = options;
  try {
    const wanted = { host, by, into, shard, messages };
    const { id, strangers } = await takeClaim({ ...given(options), wanted, snapshot, run });
    return { id, warnings: strangers.flatMap((one) => warningOf(one, host)) };
  } catch (error) {
    throw mayDoWithout(error, options);
  }
}

/** A stranger's word on another host's mail is nothing to this restore. */
function warningOf({ key, claim }: StrangerClaim, host: string): string[] {
  if (claim === null) return [`a claim that can't be read, of a writer this host does not trust, is ignored: ${key}`];
  if (claim.state !== "claimed" || claim.host !== host) return [];
  return [
    `${claim.by} says it took over mail of ${host}, signed by a key this host does not trust, and ignored: ${key}`,
  ];
}

/** Where claims can't be had, whether another host restores the same mail is for people to know. */
export function mayDoWithout(error: unknown, { host, signal }: Pick<ClaimsOptions, "host" | "signal">): unknown {
  const isOther = !(error instanceof OperatorError) || error.kind === "refused" || error.kind === "interrupted";
  if (isOther || signal?.aborted) return error;
  return new OperatorError(error.kind, `the mail of ${host} could not be claimed: ${error.message}`, {
    hints: [...error.hints, withoutClaim],
    cause: error,
  });
}

const withoutClaim =
  "if it is certain that no other host restores this mail, and the old one never starts with it: --without-claim";
