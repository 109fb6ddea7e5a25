import { spawnSync } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";

/** What the recovery page asks for (age, zstd, tar), and what every Debian has without asking. */
const programs = [
  ..."sh awk sed sort find xargs tar age zstd openssl".split(" "),
  ..."base64 cat chmod chown cp cut dirname head id ln ls mkdir mv rm sha256sum sync tail touch tr wc grep".split(" "),
];

/**
 * Make a directory that is all the PATH of somebody who recovers without spoolsafe: neither our command nor Node is there.
 *
 * @param more programs of a package the page says must be installed, such as `postsuper`
 */
export function strangersPrograms(directory: string, more: readonly string[] = []): void {
  mkdirSync(directory);
  const path = `${process.env.PATH}:/usr/sbin:/sbin`;
  for (const program of [...programs, ...more]) {
    const found = spawnSync("sh", ["-c", `command -v ${program}`], { encoding: "utf8", env: { PATH: path } });
    symlinkSync(found.stdout.trim(), join(directory, program));
  }
}

/** The script in the recovery page, taken out of it by the command the page itself gives. */
export function scriptOf(page: string): string {
  const command = /^ {6}(sed -n .*RECOVER\.txt) > recover\.sh$/m.exec(page)?.[1] ?? "false";
  return spawnSync("sh", ["-c", command.replace("RECOVER.txt", "")], { input: page, encoding: "utf8" }).stdout;
}
