import { readFileSync, type Stats, statSync } from "node:fs";
import { resolve } from "node:path";
import type { z } from "zod";
import { mailPorts, relayOf } from "../alerts/mail.ts";
import { errnoOf, OperatorError } from "../errors.ts";
import { isOwnHost } from "../system/own-host.ts";
import { nearest } from "./nearest.ts";
import { about, type Config, configSchema, sections } from "./schema.ts";
import { type KeyPath, readToml, TomlFault } from "./toml.ts";

export const defaultConfigFile = "/etc/spoolsafe/spoolsafe.toml";

/** Where settings come from: flags beat environment beats file. */
export interface ConfigSources {
  /** The command line's own settings; undefined where a flag was not given. */
  readonly flags: {
    readonly config?: string | undefined;
    readonly repository?: string | undefined;
    readonly identityFile?: string | undefined;
  };
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Relative paths of flags and environment start here; those of the file must be absolute. */
  readonly cwd: string;
}

/** One thing that is wrong: where it stands, which key, what. */
export interface ConfigProblem {
  /** `file:line`, `file`, or the flag or variable. */
  readonly where: string;
  /** Dotted, `repository.url`; empty when the text is not TOML at all. */
  readonly key: string;
  readonly message: string;
}

/** The configuration has problems; all of them, each with where it stands. */
export class ConfigFault extends OperatorError {
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[], hints: readonly string[] = []) {
    const lines = problems.map(describeProblem);
    super(
      "config",
      lines.length === 1 ? (lines[0] ?? "") : `${lines.length} problems in the configuration\n${lines.join("\n")}`,
      {
        hints,
      },
    );
    this.problems = problems;
  }
}

export function describeProblem(problem: ConfigProblem): string {
  return [problem.where, problem.key, problem.message].filter((part) => part !== "").join(": ");
}

/** Absolute path of the configuration file, and whether somebody named it: a named one must exist. */
export function configFile(sources: ConfigSources): { readonly path: string; readonly named: boolean } {
  const named = sources.flags.config || sources.env.SPOOLSAFE_CONFIG;
  return { path: resolve(sources.cwd, named || defaultConfigFile), named: Boolean(named) };
}

/**
 * Read file, environment and flags into one configuration. A missing file is an empty one unless it was named.
 *
 * @throws ConfigFault with every problem at once: unknown keys (with the nearest known one), wrong types, impossible
 * values, files with secrets that others can read
 */
export function loadConfig(sources: ConfigSources): Config {
  const file = configFile(sources);
  return parseConfig(readText(file.path, file.named), file.path, sources);
}

/** As `loadConfig`, of a text already in hand. */
export function parseConfig(text: string, path: string, sources: ConfigSources): Config {
  const toml = parseText(text, path);
  const overrides = collectOverrides(sources);
  const values = applyOverrides(toml.values, overrides);
  const place = (key: KeyPath): string => {
    const override = overrides.find((each) => each.path.every((part, index) => key[index] === part));
    if (override !== undefined) return override.from;
    const line = toml.lineOf(key);
    return line === undefined ? path : `${path}:${line}`;
  };
  const parsed = configSchema.safeParse(values);
  const problems = [
    ...(parsed.success ? [] : parsed.error.issues.flatMap((issue) => fromIssue(issue, values))),
    ...impossibleTogether(values),
    ...lockedDirectories(toml.values),
    ...readableSecrets(values),
    ...passwordForAll(values, path),
  ].map(({ path, message }) => ({ where: place(path), key: path.join("."), message }));
  if (!parsed.success || problems.length > 0) throw new ConfigFault(problems.sort(byLine));
  return parsed.data;
}

function readText(path: string, named: boolean): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT" && !named) return "";
    if (errnoOf(error) === "ENOENT") {
      throw new ConfigFault(
        [{ where: path, key: "", message: "there is no such configuration file" }],
        ["make one with spoolsafe init"],
      );
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigFault([{ where: path, key: "", message: `the configuration can't be read: ${reason}` }]);
  }
}

function parseText(text: string, path: string) {
  try {
    return readToml(text);
  } catch (error) {
    if (!(error instanceof TomlFault)) throw error;
    throw new ConfigFault([{ where: `${path}:${error.line}`, key: "", message: `not valid TOML: ${error.message}` }]);
  }
}

interface Override {
  readonly path: readonly [string, string];
  readonly value: unknown;
  /** The flag or variable, for messages. */
  readonly from: string;
}

/** First of its path wins. Credentials and the like are left to the SDK: here they only take the file's value away. */
function collectOverrides({ flags, env, cwd }: ConfigSources): readonly Override[] {
  const file = (path: string | undefined) => (path ? resolve(cwd, path) : undefined);
  const config = file(env.MAIL_CONFIG);
  const keys = env.AWS_ACCESS_KEY_ID && env.AWS_SECRET_ACCESS_KEY ? "" : undefined;
  const endpoint = env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL;
  const all: (Omit<Override, "value"> & { value: unknown })[] = [
    { path: ["repository", "url"], value: flags.repository, from: "--repository" },
    { path: ["repository", "url"], value: env.SPOOLSAFE_REPOSITORY || undefined, from: "SPOOLSAFE_REPOSITORY" },
    { path: ["repository", "credentials_file"], value: keys, from: "AWS_ACCESS_KEY_ID" },
    {
      path: ["repository", "credentials_file"],
      value: file(env.AWS_SHARED_CREDENTIALS_FILE),
      from: "AWS_SHARED_CREDENTIALS_FILE",
    },
    {
      path: ["repository", "region"],
      value: env.AWS_REGION || env.AWS_DEFAULT_REGION || undefined,
      from: "AWS_REGION",
    },
    { path: ["repository", "endpoint"], value: endpoint || undefined, from: "AWS_ENDPOINT_URL" },
    { path: ["encryption", "identity_file"], value: file(flags.identityFile), from: "--identity-file" },
    {
      path: ["encryption", "identity_file"],
      value: file(env.SPOOLSAFE_IDENTITY_FILE),
      from: "SPOOLSAFE_IDENTITY_FILE",
    },
    { path: ["postfix", "config_directories"], value: config && [config], from: "MAIL_CONFIG" },
  ];
  return all.filter(
    (each, index) =>
      each.value !== undefined &&
      all.findIndex((other) => other.value !== undefined && samePath(other.path, each.path)) === index,
  );
}

function samePath(a: KeyPath, b: KeyPath): boolean {
  return a.length === b.length && a.every((part, index) => part === b[index]);
}

function applyOverrides(values: Record<string, unknown>, overrides: readonly Override[]): Record<string, unknown> {
  const result = withCopyNamed(values, overrides);
  for (const { path, value } of overrides) {
    const [section, key] = path;
    const table = result[section];
    // Something that is no table stays, to be reported as such.
    if (table === undefined || isTable(table)) result[section] = { ...table, [key]: value };
  }
  return result;
}

/** A copy that flag or environment name as the repository is reached as its own table says. */
function withCopyNamed(values: Record<string, unknown>, overrides: readonly Override[]): Record<string, unknown> {
  const url = overrides.find(({ path }) => path.join(".") === "repository.url")?.value;
  const copies = Array.isArray(values.copy) ? values.copy : [];
  const named = copies.find((table) => isTable(table) && table.url === url);
  const own = isTable(values.repository) && values.repository.url === url;
  return url === undefined || named === undefined || own ? { ...values } : { ...values, repository: { ...named } };
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

interface Finding {
  readonly path: KeyPath;
  readonly message: string;
}

function fromIssue(issue: z.core.$ZodIssue, values: unknown): readonly Finding[] {
  const path = issue.path.filter((part): part is string | number => typeof part !== "symbol");
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({ path: [...path, key], message: unknownKey(path, key) }));
  }
  return [{ path, message: wording(issue, valueAt(values, path)) }];
}

const sectionOptions: Readonly<Record<string, object>> = { ...sections, copy: sections.repository };
const sectionNames = [...Object.keys(sectionOptions).filter((name) => name !== "")];

function unknownKey(table: KeyPath, key: string): string {
  const section = String(table[0] ?? "");
  const known = Object.keys(sectionOptions[section] ?? {});
  const near = nearest(key, section === "" ? [...known, ...sectionNames] : known);
  if (near !== undefined) return `unknown key; the nearest known one is "${near}"`;
  const elsewhere = Object.entries(sectionOptions).find(([, options]) => Object.hasOwn(options, key))?.[0];
  if (elsewhere !== undefined) {
    return `unknown key here; it belongs ${elsewhere === "" ? "at the top of the file" : `in [${elsewhere}]`}`;
  }
  return `unknown key; known here: ${known.join(", ")}`;
}

const typeWords: Readonly<Record<string, string>> = {
  string: "a string",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  tuple: "a list",
  object: "a table",
  date: "a date",
};

function wording(issue: z.core.$ZodIssue, value: unknown): string {
  if (issue.code === "invalid_type") {
    const wanted = typeWords[issue.expected] ?? issue.expected;
    return `must be ${wanted}, not ${describeType(value)}`;
  }
  if (issue.code === "invalid_value")
    return `must be one of ${issue.values.map((each) => `"${String(each)}"`).join(", ")}`;
  if (issue.code === "too_small" && issue.origin !== "array") return `must be at least ${issue.minimum}`;
  if (issue.code === "too_big" && issue.origin !== "array") return `must be at most ${issue.maximum}`;
  return issue.message;
}

function describeType(value: unknown): string {
  if (typeof value === "string") return `the string "${value}"`;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return typeWords[Array.isArray(value) ? "array" : value instanceof Date ? "date" : "object"] ?? "something else";
}

function valueAt(values: unknown, path: KeyPath): unknown {
  return path.reduce<unknown>(
    (value, part) => (typeof value === "object" && value !== null ? Reflect.get(value, part) : undefined),
    values,
  );
}

/** What each value alone can't show. */
function impossibleTogether(values: Record<string, unknown>): readonly Finding[] {
  const findings: Finding[] = [];
  const { drill } = isTable(values.schedule) ? values.schedule : {};
  if (drill !== undefined && drill !== "" && !valueAt(values, ["encryption", "identity_file"])) {
    findings.push({ path: ["schedule", "drill"], message: "a drill needs encryption.identity_file" });
  }
  const retention = isTable(values.retention) ? values.retention : {};
  const keeps = Object.keys(sections.retention);
  if (keeps.every((key) => retention[key] === 0)) {
    findings.push({ path: ["retention"], message: "every value is 0: nothing would be kept" });
  }
  return [...findings, ...alertMail(values)];
}

/**
 * Of the file alone: a copy on a disk that the command line names instead can be read whatever the file says of its own
 * repository.
 */
function lockedDirectories(file: Record<string, unknown>): readonly Finding[] {
  const copies = Array.isArray(file.copy) ? file.copy : [];
  const places = [
    { table: file.repository, path: ["repository"] },
    ...copies.map((table, index) => ({ table, path: ["copy", index] })),
  ];
  return places.flatMap(({ table, path }) => {
    if (!isTable(table) || typeof table.url !== "string" || !/^(\/|file:)/.test(table.url)) return [];
    if (typeof table.object_lock_days !== "number" || table.object_lock_days <= 0) return [];
    const message =
      "a directory keeps no locks: whoever may write there may delete as well. Set 0, or use a bucket with Object Lock";
    return [{ path: [...path, "object_lock_days"], message }];
  });
}

/** Mail about this Postfix must not go through it: there it would wait in the very queue that is in trouble. */
function alertMail(values: Record<string, unknown>): readonly Finding[] {
  const { smtp, smtp_from: from, smtp_to: to } = isTable(values.alerts) ? values.alerts : {};
  const hasReceivers = Array.isArray(to) && to.length > 0;
  if (smtp === undefined || smtp === "") {
    const message = "nobody gets these mails: alerts.smtp names no relay";
    return hasReceivers ? [{ path: ["alerts", "smtp_to"], message }] : [];
  }
  const findings: Finding[] = [];
  if (!from || !hasReceivers) {
    findings.push({ path: ["alerts", "smtp"], message: "needs alerts.smtp_from and alerts.smtp_to as well" });
  }
  const relay = typeof smtp === "string" ? relayIfAny(smtp) : undefined;
  const ownName = typeof values.host === "string" ? values.host : undefined;
  if (relay !== undefined && mailPorts.includes(relay.port) && isOwnHost(relay.host, [ownName])) {
    const message = `${relay.host} is this host, and port ${relay.port} its own Postfix, which alerts are about: name a relay on another host`;
    findings.push({ path: ["alerts", "smtp"], message });
  }
  return findings;
}

function relayIfAny(url: string): ReturnType<typeof relayOf> | undefined {
  try {
    return relayOf(url);
  } catch {
    // Its own problem is told of by the schema.
    return undefined;
  }
}

/** A password in the configuration makes the configuration a secret. */
function passwordForAll(values: Record<string, unknown>, file: string): readonly Finding[] {
  const smtp = valueAt(values, ["alerts", "smtp"]);
  const relay = typeof smtp === "string" && smtp !== "" ? relayIfAny(smtp) : undefined;
  return relay === undefined || relay.password === "" ? [] : openToOthers(["alerts", "smtp"], file);
}

/** Files that hold a secret and can be read by the group or others. One that is not there is its user's to report. */
function readableSecrets(values: Record<string, unknown>): readonly Finding[] {
  return Object.entries(sections).flatMap(([section, options]) =>
    Object.entries(options)
      .filter(([, option]) => about.get(option)?.secretFile === true)
      .map(([key, option]) => {
        const path = section === "" ? [key] : [section, key];
        return { path, file: valueAt(values, path) ?? (about.get(option)?.hasDefault ? about.get(option)?.shown : "") };
      })
      .flatMap(({ path, file }) => (typeof file === "string" && file !== "" ? openToOthers(path, file) : [])),
  );
}

function openToOthers(path: KeyPath, file: string): readonly Finding[] {
  const stat = statOf(file);
  if (stat === undefined || !stat.isFile() || (stat.mode & 0o077) === 0) return [];
  const mode = (stat.mode & 0o7777).toString(8).padStart(4, "0");
  return [{ path, message: `${file} can be read by others (mode ${mode}); run: chmod 600 ${file}` }];
}

/** Undefined for a file that is not there, or behind a directory closed to us. */
function statOf(file: string): Stats | undefined {
  try {
    return statSync(file);
  } catch {
    return undefined;
  }
}

function byLine(a: ConfigProblem, b: ConfigProblem): number {
  const line = (problem: ConfigProblem) => Number(/:(\d+)$/.exec(problem.where)?.[1] ?? 0);
  return line(a) - line(b);
}
