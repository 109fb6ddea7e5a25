import { compiledFiles, type NamedFile } from "../postfix/maps.ts";
import type { PostfixParameters } from "../postfix/parameters.ts";

/** A lookup table whose compiled file is made again from its source. Paths are the snapshot's. */
export interface Table {
  readonly source: string;
  readonly type: string;
  /** What settings say, where this Postfix has no such type and another is built so that the suggestion works at once. */
  readonly insteadOf: string | null;
  readonly program: "postmap" | "postalias";
  /** `postmap -F`: values are names of files, whose contents go into the table (tls_server_sni_maps). */
  readonly ofFiles: boolean;
  readonly namedBy: string;
  readonly compiled: readonly string[];
}

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
const indexedTypes = ["lmdb", "hash", "cdb", "btree", "sdbm", "dbm"];

/** The indexed type to use on a host for one it lacks. */
export function usableType(parameters: PostfixParameters): string | undefined {
  const built = parameters.defaults.get("default_database_type") ?? "";
  return [built, ...indexedTypes].find((type) => indexedTypes.includes(type) && parameters.mapTypes.includes(type));
}

/**
 * The tables to compile: every one that settings name, whose source the snapshot has. One compiled file is made once, from
 * the first that names it; an alias file is one whoever else names it.
 *
 * @param named what main.cf and master.cf of the snapshot name, as the target's Postfix reads them
 * @param saved whether the snapshot has a file of this path
 */
export function tablesOf(
  named: readonly NamedFile[],
  parameters: PostfixParameters,
  saved: (path: string) => boolean,
): Table[] {
  const aliasFirst = [...named].sort((a, b) => Number(isAlias(b)) - Number(isAlias(a)));
  const taken = new Set<string>();
  return aliasFirst.flatMap((file) => {
    const asked = file.mapType ?? "";
    if (file.shape !== "map" || !indexedTypes.includes(asked) || !saved(file.path)) return [];
    const lacking = !parameters.mapTypes.includes(asked);
    const type = lacking ? usableType(parameters) : asked;
    if (type === undefined) return [];
    const compiled = compiledFiles(type, file.path);
    if (compiled.some((path) => taken.has(path))) return [];
    for (const path of compiled) taken.add(path);
    return [
      {
        source: file.path,
        type,
        insteadOf: lacking ? asked : null,
        program: isAlias(file) ? "postalias" : "postmap",
        ofFiles: / tls_server_sni_maps$/.test(file.namedBy),
        namedBy: file.namedBy,
        compiled,
      },
    ];
  });
}

function isAlias({ namedBy }: NamedFile): boolean {
  return / alias_(maps|database)$/.test(namedBy) || namedBy === "newaliases";
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

/**
 * Settings that name files below the source's configuration directory by its path, when the target's has another: the
 * files lie elsewhere here.
 */
export function movedSettings(
  parameters: PostfixParameters,
  from: string,
  to: string,
  shown: (setting: string) => boolean,
): LackingType["settings"] {
  if (from === to) return [];
  return settingsOf(parameters).flatMap(({ setting, value }) => {
    const moved = replacePath(value, from, to);
    if (moved === value) return [];
    return [{ setting, value: shown(setting) ? value : null, suggestion: shown(setting) ? moved : null }];
  });
}

function replacePath(value: string, from: string, to: string): string {
  const escaped = from.replaceAll(/[.*+?^$(){}|[\]\\]/g, "\\$&");
  return value.replaceAll(new RegExp(`(?<![\\w./-])${escaped}(?=/|$|[\\s,}])`, "g"), () => to);
}
