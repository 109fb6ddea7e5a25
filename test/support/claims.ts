import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createSigningKey, loadSigningKey, loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import type { Repository } from "../../src/repository/repository.ts";
import type { TakeClaimRequest } from "../../src/repository/take-claim.ts";
import type { ClaimedIdentity } from "../../src/snapshot/claim.ts";
import { systemClock } from "../../src/system/clock.ts";
import { digestFrom } from "./records.ts";

/** A signing key in a file of its own. */
export function newSigningKey(directory: string, name: string): SigningKey {
  const { privatePem } = createSigningKey();
  writeFileSync(join(directory, `${name}.key`), privatePem, { mode: 0o600 });
  return loadSigningKey(join(directory, `${name}.key`));
}

/** Write a file of trusted keys. @returns its path */
export function trustFile(directory: string, name: string, keys: readonly SigningKey[]): string {
  const path = join(directory, `${name}.pub`);
  writeFileSync(path, keys.map(({ publicPem }) => publicPem).join(""));
  return path;
}

export function identities(count: number, from = 0): ClaimedIdentity[] {
  return Array.from({ length: count }, (_, at) => ({
    instance: "mx",
    queueId: `4Z5j7${from + at}`,
    created: String(1_790_000_000 + from + at),
    content: digestFrom(from + at),
  }));
}

/** What a restore on host `by` asks for: messages of mx1.source.test. Waits are short. */
export function claimRequest(
  repository: Repository,
  key: SigningKey,
  trustedFile: string,
  by: string,
  messages: readonly ClaimedIdentity[],
  over: Omit<Partial<TakeClaimRequest>, "wanted"> & { readonly wanted?: Partial<TakeClaimRequest["wanted"]> } = {},
): TakeClaimRequest {
  return {
    repository,
    key,
    trusted: loadTrustedKeys(trustedFile),
    snapshot: digestFrom("snapshot"),
    run: `run-of-${by}`,
    clock: systemClock,
    waitMs: 10_000,
    settleMs: 40,
    ...over,
    wanted: { host: "mx1.source.test", by, into: "mx", shard: null, messages, ...over.wanted },
  };
}
