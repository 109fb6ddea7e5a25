import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { readJob } from "../jobs/record.ts";
import { tryLock } from "../system/lock.ts";
import { bad, type Finding, good } from "./finding.ts";

const name = "last drill";
const advice =
  "a takeover that was never tried is a hope: `spoolsafe drill --deliver` tries it, and touches nothing of this host";
const report = "see what was in the way: `spoolsafe drill show latest`";

/** What came of the last drill on this host, and what drills left that were killed. */
export async function examineDrills(stateDirectory: string): Promise<readonly Finding[]> {
  const killed = await killedDrills(join(stateDirectory, "drills"));
  const left = `mail that was restored for a drill is still there, as it was killed: ${killed.join(", ")}`;
  const sweep = "the next drill takes it away, and ends the Postfix it may have left: `spoolsafe drill`";
  return [lastDrill(stateDirectory), ...(killed.length === 0 ? [] : [bad(name, left, sweep)])];
}

/** Ids of drills that have said where they work and hold the lock of their directory no more. */
async function killedDrills(drills: string): Promise<string[]> {
  const killed: string[] = [];
  const ids = existsSync(drills) ? readdirSync(drills).filter((id) => existsSync(join(drills, id, "work.json"))) : [];
  for (const id of ids) {
    const lock = await tryLock(join(drills, id), 1);
    await lock?.release();
    if (lock !== undefined) killed.push(id);
  }
  return killed;
}

/**
 * What came of the last drill on this host. That there never was one is advice only, and so is a missed target: the mail would have
 * been saved.
 */
function lastDrill(stateDirectory: string): Finding {
  const { lastStart, lastEnd, lastExit, lastSuccess, missedTarget } = readJob(stateDirectory, "drill");
  if (lastEnd === null || lastExit === null) {
    return good(name, lastStart === null ? "never" : `begun at ${lastStart}, and none was seen to end`, advice);
  }
  const proved = lastSuccess === null ? "none has succeeded yet" : `the last that succeeded began at ${lastSuccess}`;
  const last = `ended at ${lastEnd} with exit ${lastExit}; ${proved}`;
  if (lastExit === 0 || lastExit === 3) return good(name, `it succeeded, and began at ${lastSuccess}`);
  if (missedTarget !== null) return good(name, `${last}: ${missedTarget}`, report);
  return bad(name, last, report);
}
