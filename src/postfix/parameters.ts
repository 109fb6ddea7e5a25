import { run } from "../system/exec.ts";

/** A service of master.cf, as `postconf -M` and `-P` print it. */
export interface MasterService {
  /** First column, e.g. `smtp` or `127.0.0.1:10025`. */
  readonly name: string;
  readonly type: string;
  /** The program, relative to the daemon directory: `smtpd`, `pipe`, `spawn`. */
  readonly command: string;
  /** What follows the program, taken apart as master(8) does: `{ }` keeps words together and is removed. */
  readonly args: readonly string[];
  /** `-o name=value`, not expanded. */
  readonly overrides: ReadonlyMap<string, string>;
}

/** What one instance's main.cf and master.cf say. Values are as written: `$name` not expanded. */
export interface PostfixParameters {
  readonly configDirectory: string;
  /** Set in main.cf, or in use there under a name of the administrator's own (restriction classes, `$mydir`). */
  readonly explicit: ReadonlyMap<string, string>;
  /** Built in. */
  readonly defaults: ReadonlyMap<string, string>;
  readonly services: readonly MasterService[];
  /** `postconf -m`: map types this Postfix can open. */
  readonly mapTypes: readonly string[];
  /** What postconf printed, by the name of the report it becomes in a snapshot. */
  readonly reports: ReadonlyMap<string, Buffer>;
}

/** One way the parameters are seen: by main.cf alone, or by a service with its own `-o` settings over it. */
export interface Scope {
  /** `main.cf`, or `name/type` of the service. */
  readonly label: string;
  /** Parameters whose value may differ from the scopes before: all in main.cf, in a service what `-o` changes, also through `$name`. */
  readonly names: readonly string[];
  /** Set by the administrator, not built in. */
  given(name: string): boolean;
  /** Fully expanded; empty for an unknown name, as Postfix has it. */
  value(name: string): string;
  /** Expand a text that names things only known at delivery (`$sender`): those stay as they are. */
  expandKnown(name: string): string;
}

/**
 * Ask postconf(1) for everything one instance is configured to do. Warnings (unused parameters) are not errors.
 *
 * @param typesFrom a configuration directory to ask for map types: `postconf -m` fails for one whose myorigin is a file that is
 * not here; default: the same
 * @throws OperatorError `program-failed` when postconf can't read the directory
 */
export async function readParameters(
  configDirectory: string,
  signal?: AbortSignal,
  typesFrom = configDirectory,
): Promise<PostfixParameters> {
  const ask = async (flag: string, directory = configDirectory) =>
    (await run("postconf", ["-c", directory, flag], signal === undefined ? {} : { signal })).stdout;
  const [main, master, overrides, types, defaults] = await Promise.all([
    ask("-n"),
    ask("-M"),
    ask("-P"),
    ask("-m", typesFrom),
    ask("-d"),
  ]);
  const builtIn = parseParameters(defaults.toString());
  return {
    configDirectory,
    explicit: parseParameters(main.toString()).set("config_directory", configDirectory),
    defaults: builtIn,
    services: parseServices(master.toString(), overrides.toString()),
    mapTypes: types.toString().split("\n").filter(Boolean),
    reports: new Map([
      ["postconf-n", main],
      ["postconf-M", master],
      ["postconf-P", overrides],
      ["postconf-m", types],
      ["mail_version", Buffer.from(`mail_version = ${builtIn.get("mail_version") ?? ""}\n`)],
    ]),
  };
}

/** `name = value` lines as `postconf -n` and `-d` print them: one line each, continuation lines already joined. */
export function parseParameters(text: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, name, value = ""] = /^(\S+) =(?: (.*))?$/.exec(line) ?? [];
    if (name !== undefined) parameters.set(name, value);
  }
  return parameters;
}

/** The services of `postconf -M`, each with the settings `postconf -P` has for it. */
export function parseServices(master: string, overrides: string): MasterService[] {
  const settings = new Map<string, Map<string, string>>();
  for (const [key, value] of parseParameters(overrides)) {
    const slash = key.lastIndexOf("/");
    const service = key.slice(0, slash);
    settings.set(service, (settings.get(service) ?? new Map()).set(key.slice(slash + 1), value));
  }
  return master.split("\n").flatMap((line) => {
    const [name, type, , , , , , ...command] = splitWords(line, whitespace);
    if (name === undefined || type === undefined || command[0] === undefined) return [];
    const args = command.slice(1).map(withoutBraces);
    return [{ name, type, command: command[0], args, overrides: settings.get(`${name}/${type}`) ?? new Map() }];
  });
}

export const whitespace = " \t\r\n";
/** What separates the items of a list in main.cf. */
export const listSeparators = `,${whitespace}`;

/** Take a text apart at separators outside `{ }`, braces kept (Postfix `mystrtokq`). */
export function splitWords(text: string, separators = listSeparators): string[] {
  const words: string[] = [];
  let word = "";
  let depth = 0;
  for (const char of text) {
    if (depth === 0 && separators.includes(char)) {
      if (word !== "") words.push(word);
      word = "";
      continue;
    }
    if (char === "{") depth++;
    if (char === "}" && depth > 0) depth--;
    word += char;
  }
  if (word !== "") words.push(word);
  return words;
}

/** The inside of `{ text }`, trimmed; any other text as it is. */
export function withoutBraces(text: string): string {
  return text.startsWith("{") && text.endsWith("}") ? text.slice(1, -1).trim() : text;
}

/** The scope of main.cf, then one for each service with `-o` settings. */
export function scopes(parameters: PostfixParameters): Scope[] {
  const { explicit, defaults, services } = parameters;
  const base = new Map([...defaults, ...explicit]);
  const main = scope("main.cf", [...base.keys()], base, (name) => explicit.has(name));
  const own = services
    .filter((service) => service.overrides.size > 0)
    .map((service) => {
      const values = new Map([...base, ...service.overrides]);
      const given = (name: string) => service.overrides.has(name) || explicit.has(name);
      return scope(`${service.name}/${service.type}`, affectedBy(service.overrides, values), values, given);
    });
  return [main, ...own];
}

function scope(
  label: string,
  names: readonly string[],
  raw: ReadonlyMap<string, string>,
  given: (name: string) => boolean,
): Scope {
  const known = new Map<string, string>();
  const open = new Set<string>();
  const value = (name: string): string => {
    const before = known.get(name);
    if (before !== undefined) return before;
    // A parameter defined by itself is fatal to Postfix; here it is merely empty.
    if (open.has(name)) return "";
    open.add(name);
    const result = expand(raw.get(name) ?? "", value);
    open.delete(name);
    known.set(name, result);
    return result;
  };
  const expandKnown = (name: string) =>
    expand(raw.get(name) ?? "", (inner) => (raw.has(inner) && inner !== name ? value(inner) : `$${inner}`));
  return { label, names, given, value, expandKnown };
}

/** The overridden names, and every parameter whose text comes to mention one of them. */
function affectedBy(overrides: ReadonlyMap<string, string>, raw: ReadonlyMap<string, string>): string[] {
  const affected = new Set(overrides.keys());
  for (let before = -1; before !== affected.size; ) {
    before = affected.size;
    for (const [name, text] of raw) {
      if (affected.has(name) || !text.includes("$")) continue;
      if ((text.match(/[A-Za-z0-9_]+/g) ?? []).some((word) => affected.has(word))) affected.add(name);
    }
  }
  return [...affected];
}

/**
 * Expand `$name`, `${name}`, `$(name)`, `${name?text}`, `${name:text}`, `${name?{text}:{text}}` and
 * `${{a} == {b} ? {text} : {text}}` (postconf(5), "Parameter value syntax"; Postfix `util/mac_expand.c`). `$$` is `$`.
 *
 * postconf's own `-x` does the same, but not for a main.cf parameter as seen by a service whose `-o` changes what it
 * mentions, and master.cf is full of those.
 *
 * @param value the expanded value of a name; empty for an unknown one
 */
export function expand(text: string, value: (name: string) => string): string {
  let result = "";
  for (let at = 0; at < text.length; ) {
    const dollar = text.indexOf("$", at);
    if (dollar < 0) return result + text.slice(at);
    result += text.slice(at, dollar);
    const next = text[dollar + 1] ?? "";
    const name = /^[A-Za-z0-9_]+/.exec(text.slice(dollar + 1))?.[0];
    const close = next === "{" || next === "(" ? matching(text, dollar + 1) : -1;
    if (close > 0) {
      result += expression(text.slice(dollar + 2, close), value);
      at = close + 1;
    } else if (name !== undefined) {
      result += value(name);
      at = dollar + 1 + name.length;
    } else {
      result += "$";
      at = dollar + (next === "$" ? 2 : 1);
    }
  }
  return result;
}

/** The index of the bracket that closes the one at `start`, or -1. */
function matching(text: string, start: number): number {
  const open = text[start];
  const close = open === "{" ? "}" : ")";
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    if (text[at] === open) depth++;
    if (text[at] === close && --depth === 0) return at;
  }
  return -1;
}

function expression(text: string, value: (name: string) => string): string {
  const trimmed = text.trimStart();
  if (trimmed.startsWith("{")) return relation(trimmed, value);
  const name = /^[A-Za-z0-9_]+/.exec(trimmed)?.[0] ?? "";
  const rest = trimmed.slice(name.length).trimStart();
  const found = value(name);
  if (rest === "") return found;
  const { yes, no } = branches(rest);
  const chosen = rest.startsWith("?") === (found !== "") ? yes : no;
  return expand(chosen ?? "", value);
}

/** `{a} == {b} ? {text} : {text}` */
function relation(text: string, value: (name: string) => string): string {
  const left = matching(text, 0);
  const right = text.indexOf("{", left);
  const end = right < 0 ? -1 : matching(text, right);
  if (left < 0 || end < 0) return "";
  const a = expand(text.slice(1, left), value);
  const b = expand(text.slice(right + 1, end), value);
  const holds = compare(a, text.slice(left + 1, right).trim(), b);
  const { yes, no } = branches(text.slice(end + 1).trimStart());
  return expand((holds ? yes : no) ?? "", value);
}

/** The texts after `?` (or `:`), each bare or in braces, the second one only after a first in braces. Spaces inside count. */
function branches(text: string): { yes: string | undefined; no: string | undefined } {
  const first = text.slice(1).trimStart();
  if (!first.startsWith("{")) return { yes: text.slice(1), no: undefined };
  const close = matching(first, 0);
  if (close < 0) return { yes: undefined, no: undefined };
  const rest = first.slice(close + 1).trimStart();
  const second = rest.startsWith(":") ? rest.slice(1).trimStart() : "";
  const last = second.startsWith("{") ? matching(second, 0) : -1;
  return { yes: first.slice(1, close), no: last < 0 ? rest.slice(1) : second.slice(1, last) };
}

/** Numbers compare as numbers, `<=level` and its kin as dotted versions, everything else as text. */
function compare(a: string, operator: string, b: string): boolean {
  const order = compareOrder(a, operator.endsWith("level"), b);
  switch (operator.replace(/level$/, "")) {
    case "==":
      return order === 0;
    case "!=":
      return order !== 0;
    case "<":
      return order < 0;
    case "<=":
      return order <= 0;
    case ">":
      return order > 0;
    case ">=":
      return order >= 0;
    default:
      return false;
  }
}

function compareOrder(a: string, level: boolean, b: string): number {
  if (!level && !(/^\d+$/.test(a) && /^\d+$/.test(b))) return a < b ? -1 : a > b ? 1 : 0;
  const left = a.split(".").map(Number);
  const right = b.split(".").map(Number);
  for (let at = 0; at < Math.max(left.length, right.length); at++) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
