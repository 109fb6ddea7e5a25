import type { PostfixInstance } from "../postfix/instance.ts";
import { type Claiming, claimsOf, mayDoWithout, type StandingClaims, standingClaims } from "../restore/claiming.ts";
import type { Shard } from "../snapshot/claim.ts";
import type { Context } from "./context.ts";

/** Whose mail a restore takes over, and where it goes. */
export interface ClaimedMail {
  /** The host as its snapshots call it. */
  readonly host: string;
  readonly snapshot: string;
  /** The instance that receives the mail. */
  readonly into: Pick<PostfixInstance, "name" | "host">;
  readonly shard: Shard | null;
}

/**
 * The claimant is this host, by the name its own fence knows its claims by. Not what `--host` says: that is the host whose
 * snapshots are meant.
 *
 * @throws OperatorError as `Claiming.take` does, with the same hint, where this host has no key to sign a claim with
 */
export async function claimsFor(context: Context, mail: ClaimedMail): Promise<Claiming> {
  const { clock, signal } = context;
  try {
    const [repository, key, trusted] = [
      await context.openRepository(),
      await context.signingKey(),
      await context.trustedKeys(),
    ];
    const { host, snapshot, into, shard } = mail;
    const by = context.config.host ?? into.host;
    return claimsOf({ repository, key, trusted, host, snapshot, by, into: into.name, shard, clock, signal });
  } catch (error) {
    throw mayDoWithout(error, { ...mail, signal });
  }
}

/** For a run whose claims were made before. */
export async function claimsMade(context: Context): Promise<StandingClaims> {
  const { clock, signal } = context;
  const [repository, key, trusted] = [
    await context.openRepository(),
    await context.signingKey(),
    await context.trustedKeys(),
  ];
  return standingClaims({ repository, key, trusted, clock, signal });
}
