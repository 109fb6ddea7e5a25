import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import type { StoreCall } from "../support/faulty-store.ts";

/*
 * A copy in a process of its own that is killed by SIGKILL before a chosen put of the store it copies to. Its parent names the
 * job in the environment.
 */

export interface KilledCopy {
  readonly from: string;
  readonly to: string;
  readonly trustedKeysFile: string;
  readonly stateDirectory: string;
  /** From 1, puts counted alone. */
  readonly put: number;
}

/** Run one, as the parent. */
export function runKilledCopy(job: KilledCopy): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [import.meta.filename], {
    env: { ...process.env, SPOOLSAFE_TEST_KILLED_COPY: JSON.stringify(job) },
    encoding: "utf8",
    timeout: 60_000,
  });
}

const text = process.env.SPOOLSAFE_TEST_KILLED_COPY;
if (text !== undefined) await runJob(JSON.parse(text) as KilledCopy);

async function runJob({ from, to, trustedKeysFile, stateDirectory, put }: KilledCopy): Promise<void> {
  const { copy } = await import("../../src/copy/copy.ts");
  const { loadTrustedKeys } = await import("../../src/crypto/sign.ts");
  const { DirectoryStore } = await import("../../src/repository/directory.ts");
  const { Repository } = await import("../../src/repository/repository.ts");
  const { systemClock } = await import("../../src/system/clock.ts");
  const { FaultyStore } = await import("../support/faulty-store.ts");
  const target = new FaultyStore(new DirectoryStore(to));
  const puts = () => target.calls.filter(({ name }) => name === "put").length;
  target.faults = {
    before: ({ name }: StoreCall) => {
      if (name === "put" && puts() === put) process.kill(process.pid, "SIGKILL");
    },
  };
  await copy({
    source: await Repository.open(new DirectoryStore(from)),
    target,
    mayMake: true,
    chosen: null,
    trusted: loadTrustedKeys(trustedKeysFile),
    stateDirectory,
    uploadBytesPerSecond: undefined,
    lockWaitMs: 5000,
    clock: systemClock,
    signal: new AbortController().signal,
    report: () => {},
  });
}
