import { lackingTypes, usableType } from "../postfix/map-types.ts";
import { compareVersions } from "../postfix/version.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";
import { perInstance } from "./pairs.ts";

/** Queue files of a newer Postfix may hold records an older one does not know, so it has to be the same or newer. */
export function examineVersions(pairs: readonly Pair[]): readonly Finding[] {
  return perInstance(pairs, ({ source, target }) => {
    const versions = `Postfix here is ${target.version}, the primary's ${source.postfixVersion}`;
    if (compareVersions(target.version, source.postfixVersion) >= 0) return [good("postfix version", versions)];
    return [bad("postfix version", `${versions}, which is newer`, "upgrade Postfix here: apt-get install postfix")];
  });
}

/** The types of tables that the saved configuration names, and this Postfix can't open. */
export function examineMapTypes(pairs: readonly Pair[]): readonly Finding[] {
  const name = "map types";
  return perInstance(pairs, ({ saved, here }) => {
    if (saved === undefined)
      return [good(name, "what the saved configuration uses is not known", "see saved settings")];
    const lacking = lackingTypes(saved, () => false);
    if (lacking.length === 0) return [good(name, `this Postfix has every one the saved configuration uses`)];
    return lacking.map(({ type, settings }) => {
      const users = settings.map(({ setting }) => setting).join(", ");
      return bad(
        name,
        `this Postfix has no type ${type}, which the saved configuration uses (${users})`,
        remedyFor(type, usableType(here)),
      );
    });
  });
}

// Without a package of their own at Debian.
const builtIn = ["hash", "btree", "dbm", "sdbm", "nis", "memcache"];

function remedyFor(type: string, substitute: string | undefined): string {
  const instead = substitute === undefined ? [] : [`use ${substitute} in its place on the primary`];
  const install = builtIn.includes(type) ? [] : [`apt-get install postfix-${type}`];
  return [...install, ...instead].join(", or ") || "use a Postfix that is built with it";
}
