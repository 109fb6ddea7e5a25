import { indexedTypes, type LackingType, settingsOf, usableType } from "../postfix/map-types.ts";
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
