import childProcess from "node:child_process";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

/*
 * A release in a process of its own that is killed by SIGKILL at a chosen call, or lives. Its parent names the job in the
 * environment. The calls are the real ones; only the moment of death is added.
 */

export interface KilledRelease {
  readonly run: string;
  readonly configDirectory: string;
  readonly stateDirectory: string;
  readonly batch: number;
  /** Die at the nth call of this function, before or after it has done its work; null: live. */
  readonly death: { readonly call: DeadlyCall; readonly nth: number; readonly after: boolean } | null;
}

/** What a release does: writes and syncs journal and records, renames waiting files, starts programs. */
export const deadlyCalls = ["writeSync", "fdatasyncSync", "fsyncSync", "renameSync", "spawn"] as const;
export type DeadlyCall = (typeof deadlyCalls)[number];

const text = process.env.SPOOLSAFE_TEST_KILLED_RELEASE;
if (text !== undefined) await runJob(JSON.parse(text) as KilledRelease);

async function runJob({ run, configDirectory, stateDirectory, batch, death }: KilledRelease): Promise<void> {
  const { loadInstance } = await import("../../src/postfix/instance.ts");
  const { releaseRun } = await import("../../src/restore/release.ts");
  const { systemClock } = await import("../../src/system/clock.ts");
  const instance = await loadInstance(configDirectory);
  const calls = arm(death);
  const report = await releaseRun({
    ...{ run, instance, stateDirectory, inDoubt: false, claims: [], clock: systemClock },
    pace: { batch, intervalMs: 20 },
  });
  process.stdout.write(JSON.stringify({ report, calls: Object.fromEntries(calls) }));
}

/** @returns how often each call was made, as it goes on */
function arm(death: KilledRelease["death"]): Map<DeadlyCall, number> {
  const calls = new Map<DeadlyCall, number>();
  for (const name of deadlyCalls) {
    const home: object = name === "spawn" ? childProcess : fs;
    const real = (home as Record<string, (...args: unknown[]) => unknown>)[name];
    const deadly = (...args: unknown[]) => {
      const nth = (calls.get(name) ?? 0) + 1;
      calls.set(name, nth);
      const dies = death?.call === name && death.nth === nth;
      if (dies && !death.after) process.kill(process.pid, "SIGKILL");
      const result = real?.(...args);
      if (dies) process.kill(process.pid, "SIGKILL");
      return result;
    };
    Object.assign(home, { [name]: deadly });
  }
  syncBuiltinESMExports();
  return calls;
}
