import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Finding, good } from "./finding.ts";

const advice =
  "a takeover that was never tried is a hope: restore into a spare instance, or look at the files of `spoolsafe restore latest --to DIR`";

/** When something was last written below `drills` of the state directory. That there never was a drill is advice only. */
export function examineDrills(stateDirectory: string): readonly Finding[] {
  const directory = join(stateDirectory, "drills");
  const names = existsSync(directory) ? readdirSync(directory) : [];
  const newest = Math.max(0, ...names.map((name) => statSync(join(directory, name)).mtimeMs));
  if (newest === 0) return [good("last drill", "never", advice)];
  return [
    good("last drill", `the newest of ${names.length} records in ${directory} is of ${new Date(newest).toISOString()}`),
  ];
}
