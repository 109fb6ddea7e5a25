import { readdirSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";

/** Let every object of a repository in a directory be three days older: past all that a prune waits for. */
export function age(repository: string): void {
  for (const name of filesBelow(repository)) {
    const path = join(repository, name);
    const time = statSync(path).mtimeMs / 1000 - 3 * 86_400;
    utimesSync(path, time, time);
  }
}

/** Paths of the files below a directory, sorted. */
export function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => statSync(join(directory, name)).isFile())
    .sort();
}
