import { hostname } from "node:os";
import { type Claiming, claimsOf, mayDoWithout, type StandingClaims, standingClaims } from "../restore/claiming.ts";
import type { Shard } from "../snapshot/claim.ts";
import type { Context } from "./context.ts";

/** Whose mail a restore takes over, and where it goes. */
export interface ClaimedMail {
  /** The host as its snapshots call it. */
  readonly host: string;
  readonly snapshot: string;
  /** Name of the instance that receives the mail. */
  readonly into: string;
  readonly shard: Shard | null;
}

/** @throws OperatorError as `Claiming.take` does, with the same hint, where this host has no key to sign a claim with */
export async function claimsFor(context: Context, mail: ClaimedMail): Promise<Claiming> {
  const { clock, signal } = context;
  try {
    const [repository, key, trusted] = [
      await context.openRepository(),
      await context.signingKey(),
      await context.trustedKeys(),
    ];
    return claimsOf({ ...mail, repository, key, trusted, by: await nameOfThisHost(context), clock, signal });
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

/**
 * By which its own fence knows this host's claims. Not what `--host` says: that is the host whose snapshots are meant.
 */
async function nameOfThisHost(context: Context): Promise<string> {
  if (context.config.host !== undefined) return context.config.host;
  const [first] = await context.instances();
  return first?.host ?? hostname();
}
