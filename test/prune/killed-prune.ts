import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import type { PruneReport } from "../../src/prune/prune.ts";
import type { RetentionPolicy } from "../../src/prune/retention.ts";
import type { ObjectStore } from "../../src/repository/object-store.ts";
import type { StoreCall } from "../support/faulty-store.ts";

/*
 * A prune in a process of its own that is killed by SIGKILL at a chosen call of its store, before or after the store has done
 * its work, or lives. Its parent names the job in the environment.
 */

export interface KilledPrune {
  readonly repository: string;
  readonly signingKeyFile: string;
  readonly trustedKeysFile: string;
  readonly stateDirectory: string;
  readonly policy: RetentionPolicy;
  readonly death: { readonly nth: number; readonly after: boolean } | null;
}

/** Run one, as the parent. What it prints when it lives is what it removed, and its calls. */
export function runKilledPrune(job: KilledPrune): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [import.meta.filename], {
    env: { ...process.env, SPOOLSAFE_TEST_KILLED_PRUNE: JSON.stringify(job) },
    encoding: "utf8",
    timeout: 60_000,
  });
}

const text = process.env.SPOOLSAFE_TEST_KILLED_PRUNE;
if (text !== undefined) await runJob(JSON.parse(text) as KilledPrune);

async function runJob({ death, ...job }: KilledPrune): Promise<void> {
  const { DirectoryStore } = await import("../../src/repository/directory.ts");
  const { FaultyStore } = await import("../support/faulty-store.ts");
  const store = new FaultyStore(new DirectoryStore(job.repository));
  const { calls } = store;
  const die = (after: boolean) => (call: StoreCall) => {
    const isIt = death !== null && death.after === after && calls.indexOf(call) + 1 === death.nth;
    if (isIt) process.kill(process.pid, "SIGKILL");
  };
  store.faults = { before: die(false), after: die(true) };
  const { removed } = await pruneHere(job, store);
  process.stdout.write(JSON.stringify({ removed, calls }));
}

/** The prune of a job in this process. */
export async function pruneHere(job: Omit<KilledPrune, "death">, store: ObjectStore): Promise<PruneReport> {
  const { loadSigningKey, loadTrustedKeys } = await import("../../src/crypto/sign.ts");
  const { prune } = await import("../../src/prune/prune.ts");
  const { Repository } = await import("../../src/repository/repository.ts");
  const { systemClock } = await import("../../src/system/clock.ts");
  return await prune({
    repository: await Repository.open(store),
    signingKey: loadSigningKey(job.signingKeyFile),
    trusted: loadTrustedKeys(job.trustedKeysFile),
    policy: job.policy,
    timeZone: "UTC",
    proved: null,
    onlyHost: null,
    stateDirectory: job.stateDirectory,
    clock: systemClock,
    signal: new AbortController().signal,
    report: () => {},
  });
}
