import { constants, existsSync, readdirSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { journalDirectory } from "../holds/journal.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { tryLock } from "../system/lock.ts";
import { bad, type Finding, good } from "./finding.ts";
import { permits } from "./host.ts";

/** `f_type` of statfs(2) for file systems that are gone after a boot. */
const memoryFileSystems = new Set([0x01021994, 0x858458f6]);
const tinyBytes = 256 * 1024 * 1024;

export function examineStateDirectory(directory: string, instances: readonly PostfixInstance[]): readonly Finding[] {
  const name = "state directory";
  const there = nearestExisting(directory);
  const remedy = "set state_directory to a directory on a local disk";
  if (!statSync(there).isDirectory()) return [bad(name, `${there} is not a directory`, remedy)];
  if (!permits(there, constants.W_OK | constants.X_OK)) return [bad(name, `${there} can't be written to`, remedy)];
  const { type, bavail, bsize } = statfsSync(there);
  const free = bavail * bsize;
  if (memoryFileSystems.has(type)) {
    return [bad(name, `${directory} is in memory: what we hold would be forgotten at a reboot`, remedy)];
  }
  const shared = instances.find(({ queueDirectory }) => statSync(queueDirectory).dev === statSync(there).dev);
  if (free < tinyBytes) {
    const beside = shared === undefined ? "" : `, beside the queue ${shared.queueDirectory}`;
    return [
      bad(name, `${directory} has ${Math.floor(free / 1024 / 1024)} MiB left${beside}`, `make room, or ${remedy}`),
    ];
  }
  return [good(name, directory)];
}

function nearestExisting(path: string): string {
  return existsSync(path) ? path : nearestExisting(dirname(path));
}

/** Names only: a journal that is being written is nobody's to read or clear up. */
export async function examineJournals(
  stateDirectory: string,
  instances: readonly PostfixInstance[],
): Promise<readonly Finding[]> {
  const directory = journalDirectory(stateDirectory);
  const names = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith(".jsonl")) : [];
  if (names.length === 0) return [good("holds", "no backup has left anything on hold")];
  if (await somebodyWorks(instances)) return [good("holds", "a run is at work now; it clears up after itself")];
  return [
    bad(
      "holds",
      `an interrupted backup may have left mail on hold: ${names.join(", ")}`,
      "`spoolsafe holds release` gives it back",
    ),
  ];
}

async function somebodyWorks(instances: readonly PostfixInstance[]): Promise<boolean> {
  for (const { queueDirectory } of instances) {
    const lock = await tryLock(queueDirectory, 1);
    if (lock === undefined) return true;
    await lock.release();
  }
  return false;
}
