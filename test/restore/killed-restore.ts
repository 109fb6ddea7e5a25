import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import type { RestoreChoice } from "../../src/restore/plan.ts";

/*
 * A restore in a process of its own that is killed by SIGKILL at a chosen system call, or lives. Its parent names the
 * job in the environment. The calls are the real ones; only the moment of death is added.
 */

export interface KilledJob {
  readonly repository: string;
  readonly identityFile: string;
  readonly trustedKeysFile: string;
  readonly snapshot: { readonly id: string; readonly writer: string; readonly number: number };
  readonly configDirectory: string;
  readonly stateDirectory: string;
  /** Default: everything, into a stopped and empty instance. */
  readonly choice?: Partial<Pick<RestoreChoice, "route" | "land">>;
  /** Die at the nth call of this function, before or after it has done its work; null: live. */
  readonly death: { readonly call: DeadlyCall; readonly nth: number; readonly after: boolean } | null;
}

/** What a restore does on its main thread between its first and its last step. */
export const deadlyCalls = ["fdatasyncSync", "linkSync", "renameSync", "unlinkSync", "fsyncSync", "openSync"] as const;
export type DeadlyCall = (typeof deadlyCalls)[number];

/** Run one, as the parent. What it prints when it lives is its report and how often it made each call. */
export function runKilled(job: KilledJob): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [import.meta.filename], {
    env: { ...process.env, SPOOLSAFE_TEST_KILLED_JOB: JSON.stringify(job) },
    encoding: "utf8",
    timeout: 60_000,
  });
}

const text = process.env.SPOOLSAFE_TEST_KILLED_JOB;
if (text !== undefined) await runJob(JSON.parse(text) as KilledJob);

async function runJob(job: KilledJob): Promise<void> {
  const { loadIdentities } = await import("../../src/crypto/keys.ts");
  const { loadTrustedKeys } = await import("../../src/crypto/sign.ts");
  const { PackReader } = await import("../../src/pack/pack-pool.ts");
  const { loadInstance } = await import("../../src/postfix/instance.ts");
  const { DirectoryStore } = await import("../../src/repository/directory.ts");
  const { Repository } = await import("../../src/repository/repository.ts");
  const { restoreInto } = await import("../../src/restore/restore.ts");
  const { systemClock } = await import("../../src/system/clock.ts");
  const { choice } = await import("./entries.ts");

  const identities = await loadIdentities(job.identityFile);
  const repository = await Repository.open(new DirectoryStore(job.repository));
  const signed = await repository.load(job.snapshot);
  const instance = await loadInstance(job.configDirectory);
  const trusted = loadTrustedKeys(job.trustedKeysFile);
  await using reader = new PackReader({ identities, processors: 1 });
  const calls = arm(job.death);
  const report = await restoreInto({
    source: { repository, identities, signed, trusted },
    instance,
    choice: choice(job.choice),
    stateDirectory: job.stateDirectory,
    reader,
    processors: 1,
    clock: systemClock,
  });
  process.stdout.write(JSON.stringify({ report, calls: Object.fromEntries(calls) }));
}

/** @returns how often each call was made, as it goes on */
function arm(death: KilledJob["death"]): Map<DeadlyCall, number> {
  const calls = new Map<DeadlyCall, number>();
  for (const name of deadlyCalls) {
    const real = fs[name] as (...args: unknown[]) => unknown;
    const deadly = (...args: unknown[]) => {
      const nth = (calls.get(name) ?? 0) + 1;
      calls.set(name, nth);
      const dies = death?.call === name && death.nth === nth;
      if (dies && !death.after) process.kill(process.pid, "SIGKILL");
      const result = real(...args);
      if (dies) process.kill(process.pid, "SIGKILL");
      return result;
    };
    Object.assign(fs, { [name]: deadly });
  }
  syncBuiltinESMExports();
  return calls;
}
