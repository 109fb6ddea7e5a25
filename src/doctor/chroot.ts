import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type PostfixParameters, scopes, splitWords, whitespace } from "../postfix/parameters.ts";
import { compareVersions } from "../postfix/version.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";
import { perInstance } from "./pairs.ts";

// What a daemon in a chroot reads there of the host: without them names of hosts and ports aren't found, and mail is
// deferred with "Host not found".
const needed = ["resolv.conf", "services"];

/**
 * Whether the queue directory has the files that chrooted services of this host's master.cf, and of the saved one, read in
 * its etc/.
 *
 * @param etc where the host has them
 */
export function examineChroot(pairs: readonly Pair[], etc = "/etc"): readonly Finding[] {
  return perInstance(pairs, ({ target, here, saved }) => {
    const name = "chroot files";
    const services = [...new Set([...chrooted(here), ...(saved === undefined ? [] : chrooted(saved))])];
    if (services.length === 0) return [good(name, "no service is chrooted")];
    const copy = (file: string) => join(target.queueDirectory, "etc", file);
    const there = needed.filter((file) => existsSync(join(etc, file)));
    const missing = there.filter((file) => !existsSync(copy(file)));
    if (missing.length > 0) {
      return missing.map((file) =>
        bad(
          name,
          `${copy(file)} is not there, and ${count(services)} run in a chroot`,
          `mkdir -p ${join(target.queueDirectory, "etc")} && cp ${join(etc, file)} ${copy(file)} (Debian's start of Postfix does it, too)`,
        ),
      );
    }
    const stale = there.filter((file) => !readFileSync(copy(file)).equals(readFileSync(join(etc, file))));
    if (stale.length === 0) return [good(name, `${there.join(" and ")} are there for ${count(services)}`)];
    return stale.map((file) =>
      good(
        name,
        `${copy(file)} is not as ${join(etc, file)}`,
        `if it is out of date: cp ${join(etc, file)} ${copy(file)}`,
      ),
    );
  });
}

function count(services: readonly string[]): string {
  return `${services.length} service${services.length === 1 ? "" : "s"} (${services.slice(0, 3).join(", ")}${services.length > 3 ? ", ..." : ""})`;
}

/**
 * Services with `y` in the fifth column of master.cf, or with `-` where that means yes: below compatibility level 1
 * (COMPATIBILITY_README, "backwards-compatible default setting chroot=y").
 */
function chrooted(parameters: PostfixParameters): string[] {
  const level = scopes(parameters)[0]?.value("compatibility_level") ?? "";
  const unset = compareVersions(level, "1") < 0 ? "y" : "n";
  const lines = (parameters.reports.get("postconf-M")?.toString() ?? "").split("\n");
  return lines.flatMap((line) => {
    const [name, type, , , chroot] = splitWords(line, whitespace);
    const value = chroot === "-" ? unset : chroot;
    return value?.toLowerCase() === "y" ? [`${name}/${type}`] : [];
  });
}
