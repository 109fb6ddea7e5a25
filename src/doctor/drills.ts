import { readJob } from "../jobs/record.ts";
import { bad, type Finding, good } from "./finding.ts";

const name = "last drill";
const advice =
  "a takeover that was never tried is a hope: `spoolsafe drill --deliver` tries it, and touches nothing of this host";
const report = "see what was in the way: `spoolsafe drill show latest`";

/**
 * What came of the last drill on this host. That there never was one is advice only, and so is a missed target: the mail would have
 * been saved.
 */
export function examineDrills(stateDirectory: string): readonly Finding[] {
  const { lastStart, lastEnd, lastExit, lastSuccess, missedTarget } = readJob(stateDirectory, "drill");
  if (lastEnd === null || lastExit === null) {
    return [good(name, lastStart === null ? "never" : `begun at ${lastStart}, and none was seen to end`, advice)];
  }
  const proved = lastSuccess === null ? "none has succeeded yet" : `the last that succeeded began at ${lastSuccess}`;
  const last = `ended at ${lastEnd} with exit ${lastExit}; ${proved}`;
  if (lastExit === 0 || lastExit === 3) return [good(name, `it succeeded, and began at ${lastSuccess}`)];
  if (missedTarget !== null) return [good(name, `${last}: ${missedTarget}`, report)];
  return [bad(name, last, report)];
}
