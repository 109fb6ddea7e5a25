import type { PostfixParameters } from "./parameters.ts";

/** A type of table that settings of the snapshot name and that this Postfix does not have. */
export interface LackingType {
  readonly type: string;
  readonly settings: readonly {
    /** `main.cf transport_maps`, `smtp/unix smtp_tls_policy_maps`. */
    readonly setting: string;
    /** As saved, and as it could be; null where the file is secret, or there is nothing to be offered. */
    readonly value: string | null;
    readonly suggestion: string | null;
  }[];
  readonly remedy: string;
}

// Types whose tables postmap(1) compiles from one and the same kind of source, so that one can stand for another. The
// first that is there is offered when default_database_type itself is not.
export const indexedTypes = ["lmdb", "hash", "cdb", "btree", "sdbm", "dbm"];

/** The indexed type to use on a host for one it lacks. */
export function usableType(parameters: PostfixParameters): string | undefined {
  const built = parameters.defaults.get("default_database_type") ?? "";
  return [built, ...indexedTypes].find((type) => indexedTypes.includes(type) && parameters.mapTypes.includes(type));
}

/**
 * Types that settings of the snapshot name and this Postfix lacks, each with the settings and what they could say instead.
 * Only offered: main.cf stays as it was saved.
 *
 * @param shown whether what a setting says may be printed
 */
export function lackingTypes(parameters: PostfixParameters, shown: (setting: string) => boolean): LackingType[] {
  const substitute = usableType(parameters);
  const found = new Map<string, LackingType["settings"][number][]>();
  for (const { setting, value } of settingsOf(parameters)) {
    for (const type of typesIn(setting, value)) {
      if (parameters.mapTypes.includes(type)) continue;
      const offered = indexedTypes.includes(type) && substitute !== undefined && shown(setting);
      const suggestion = offered ? replaceType(setting, value, type, substitute) : null;
      found.set(type, [...(found.get(type) ?? []), { setting, value: shown(setting) ? value : null, suggestion }]);
    }
  }
  return [...found].map(([type, settings]) => ({ type, settings, remedy: remedyFor(type, substitute) }));
}

export interface Setting {
  readonly setting: string;
  /** As written. */
  readonly value: string;
}

/** Everything an administrator wrote: main.cf, then the -o settings and other arguments of each service. */
export function settingsOf({ explicit, services }: PostfixParameters): Setting[] {
  const main = [...explicit].filter(([name]) => name !== "config_directory");
  return [
    ...main.map(([name, value]) => ({ setting: `main.cf ${name}`, value })),
    ...services.flatMap(({ name, type, overrides }) =>
      [...overrides].map(([parameter, value]) => ({ setting: `${name}/${type} ${parameter}`, value })),
    ),
  ];
}

const knownTypes = [...indexedTypes, "pcre", "sqlite", "mysql", "pgsql", "ldap", "mongodb", "memcache", "nis"];
const knownType = new RegExp(`(?<![\\w.$/-])(${knownTypes.join("|")}):(?=[\\w/$.{])`, "g");
const databaseType = / default_(database|cache_db)_type$/;

function typesIn(setting: string, value: string): Set<string> {
  if (databaseType.test(setting)) return new Set(knownTypes.filter((type) => type === value.trim()));
  return new Set([...value.matchAll(knownType)].map(([, type = ""]) => type));
}

function replaceType(setting: string, value: string, type: string, substitute: string): string {
  if (databaseType.test(setting)) return substitute;
  return value.replaceAll(knownType, (match, found) => (found === type ? `${substitute}:` : match));
}

function remedyFor(type: string, substitute: string | undefined): string {
  const install = `install support for it (Debian: apt-get install postfix-${type})`;
  if (["hash", "btree", "dbm", "sdbm", "nis", "memcache"].includes(type)) {
    return substitute === undefined ? "this Postfix has no type that could stand for it" : "use the value suggested";
  }
  return indexedTypes.includes(type) ? `${install}, or use the value suggested` : install;
}
