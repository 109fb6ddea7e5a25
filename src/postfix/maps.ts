import { basename, join } from "node:path";
import {
  listSeparators,
  type PostfixParameters,
  type Scope,
  scopes,
  splitWords,
  whitespace,
  withoutBraces,
} from "./parameters.ts";

/** Finds what else a file names, given its path and its text. One constant per format, so that it tells formats apart. */
export type FileReader = (path: string, text: string) => NamedFile[];

/** A file that the configuration names, whether it exists or not. */
export interface NamedFile {
  /** Absolute. */
  readonly path: string;
  /**
   * `file`: a file. `map`: the source of a lookup table, whose compiled files go with it. `tree`: a directory with all
   * that is below. `script`: a program or its argument, of interest if it is a small text.
   */
  readonly shape: "file" | "map" | "tree" | "script";
  /** Type of a `map`, else null. */
  readonly mapType: string | null;
  /** Who names it: a parameter with its scope (`smtp/inet smtpd_tls_key_file`), or the path of a file. */
  readonly namedBy: string;
  /** An administrator wrote it down, so it is worth a word when it is missing. */
  readonly required: boolean;
  readonly reader: FileReader | null;
}

// Suffixes of the files that postmap(1) and postalias(1) make (Postfix `util/dict_db.c`, `dict_dbm.c`, `dict_cdb.c`, ...).
const compiledSuffixes: Readonly<Record<string, readonly string[]>> = {
  hash: [".db"],
  btree: [".db"],
  lmdb: [".lmdb"],
  cdb: [".cdb"],
  dbm: [".dir", ".pag"],
  sdbm: [".dir", ".pag"],
};
const textTypes = ["texthash", "cidr", "pcre", "regexp"];
const clientTypes = ["sqlite", "mysql", "pgsql", "ldap", "memcache", "mongodb"];
const wrapperTypes = ["proxy", "debug"];
const combiningTypes = ["unionmap", "pipemap"];

/** The files compiled from a table's source: none for types that read the source itself. */
export function compiledFiles(mapType: string, source: string): string[] {
  return (compiledSuffixes[mapType] ?? []).map((suffix) => source + suffix);
}

/**
 * Every file that main.cf and master.cf name, in every scope: lookup tables, pattern lists, alias files, certificates and
 * keys, templates, programs of pipe(8) and spawn(8). Caches that Postfix makes itself are left out.
 */
export function namedFiles(parameters: PostfixParameters): NamedFile[] {
  const views = scopes(parameters);
  const byParameter = views.flatMap((view) => view.names.flatMap((name) => filesOfParameter(view, name)));
  const programs = parameters.services.flatMap((service) => {
    if (service.command !== "pipe" && service.command !== "spawn") return [];
    return scripts(programWords(service.args), `${service.name}/${service.type} argv`);
  });
  return merge([...byParameter, ...programs]);
}

/** One entry per file and format. The first to name it stays; it is required if anybody requires it. */
function merge(files: readonly NamedFile[]): NamedFile[] {
  const merged: NamedFile[] = [];
  const places = new Map<string, number>();
  const readers = new Map<FileReader | null, number>();
  for (const file of files) {
    if (!readers.has(file.reader)) readers.set(file.reader, readers.size);
    const key = `${file.shape} ${file.mapType} ${readers.get(file.reader)} ${file.path}`;
    const place = places.get(key);
    const before = place === undefined ? undefined : merged[place];
    if (place === undefined || before === undefined) places.set(key, merged.push(file) - 1);
    else if (file.required && !before.required) merged[place] = file;
  }
  return merged;
}

// What Postfix writes for itself, and lists that only repeat other parameters.
const caches =
  /^(address_verify_map|postscreen_cache_map|.*_tls_session_cache_database|tls_random_exchange_name|proxy_write_maps)$/;
// Places and programs that belong to packages, sockets and logs: not configuration.
const places =
  /(_directory|_directories|_path|_shell|_socket|_milters|_base|_filter)$|^(maillog_file.*|tls_random_source|home_mailbox|forward_path|mail_name|import_environment|export_environment|debugger_command)$/;
const wholeFile = /_(file|CAfile)$/;
const fileList = /_(files|CAfiles)$/;
const program = /_command$/;
// Lists of match_list(3), where `/file` stands for the patterns in it.
const matchList =
  /(_networks|_domains|_destinations?|_clients|_hosts|_users|_exceptions|_list|_limit_exceptions|_classes)$|^(mydestination|mynetworks|myorigin|proxy_interfaces|inet_interfaces)$/;

function filesOfParameter(view: Scope, name: string): NamedFile[] {
  if (caches.test(name) || (name === "proxy_read_maps" && !view.given(name))) return [];
  const value = view.value(name);
  if (value === "") return [];
  const finding = {
    namedBy: `${view.label} ${name}`,
    required: view.given(name),
    queueDirectory: view.value("queue_directory"),
    defaultType: name === "alias_database" ? view.value("default_database_type") : null,
    bareRequired: matchList.test(name),
    readerOf: readersOf(name),
  };
  if (name.endsWith("_CApath")) return [{ ...plain(value, finding), shape: "tree" as const }].filter(isAbsolute);
  if (program.test(name)) return scripts(splitWords(view.expandKnown(name), whitespace), finding.namedBy);
  if (places.test(name)) return filesInList(value, { ...finding, bare: "ignore" });
  if (wholeFile.test(name)) return [plain(value, finding)].filter(isAbsolute);
  if (fileList.test(name))
    return splitWords(value)
      .map((path) => plain(path, finding))
      .filter(isAbsolute);
  return filesInList(value, { ...finding, bare: "patterns" });
}

interface Finding {
  readonly namedBy: string;
  readonly required: boolean;
  /** Daemons run there, so a relative table name is relative to it. */
  readonly queueDirectory: string;
  /** Type of a table named without one (alias_database, as newaliases(1) takes it), else null. */
  readonly defaultType: string | null;
  /** Of a table: what its text names. */
  readonly readerOf: (mapType: string) => FileReader | null;
}

interface ListFinding extends Finding {
  /** What a bare `/file` is: a file of match patterns, or nothing to keep. */
  readonly bare: "patterns" | "ignore";
  /** The list is known to take `/file` patterns; elsewhere such a word may be anything. */
  readonly bareRequired: boolean;
}

function plain(path: string, finding: Finding): NamedFile {
  const { namedBy, required } = finding;
  return { path, shape: "file", mapType: null, namedBy, required, reader: null };
}

function isAbsolute(file: NamedFile): boolean {
  return file.path.startsWith("/");
}

/** Files named by a list of tables and patterns, with `!`, `{ }` groups and tables inside tables. */
function filesInList(value: string, finding: ListFinding): NamedFile[] {
  return splitWords(value, listSeparators).flatMap((word) => filesInWord(word.replace(/^!+/, ""), finding));
}

function filesInWord(word: string, finding: ListFinding): NamedFile[] {
  if (word.startsWith("{")) return filesInGroup(withoutBraces(word), finding);
  if (word.startsWith("/")) return bareFile(word, finding);
  const [, type = "", rest = ""] = /^([a-z]+):(.*)$/s.exec(word) ?? [];
  if (wrapperTypes.includes(type)) return filesInWord(rest, finding);
  if (combiningTypes.includes(type)) return filesInList(withoutBraces(rest), finding);
  const inline = rest.startsWith("{");
  // `inline:{ {name = /key, /chain} }`: text of a table in main.cf itself.
  if (inline) return finding.readerOf("inline")?.(finding.namedBy, tableOf(rest)) ?? [];
  return isFileType(type) ? table(type, rest, finding) : [];
}

/** `{ }` around several items is a list; around one that has spaces in its path, that path. */
function filesInGroup(inside: string, finding: ListFinding): NamedFile[] {
  const words = splitWords(inside);
  const [first = "", ...others] = words;
  const isPath = (word: string) => word.startsWith("/") || /^[a-z]+:\//.test(word);
  const onePath = others.length > 0 && isPath(first) && !others.some(isPath) && !inside.includes(",");
  return onePath ? filesInWord(inside, finding) : filesInList(inside, finding);
}

function bareFile(path: string, finding: ListFinding): NamedFile[] {
  if (finding.defaultType !== null) return table(finding.defaultType, path, finding);
  if (finding.bare === "ignore") return [];
  const { namedBy, required, bareRequired } = finding;
  // In a parameter that isn't a match list a path may be a binary or a directory: small texts only, and no word if missing.
  if (!bareRequired) return [{ path, shape: "script", mapType: null, namedBy, required: false, reader: null }];
  return [{ path, shape: "file", mapType: null, namedBy, required, reader: patternFile }];
}

function isFileType(type: string): boolean {
  return type in compiledSuffixes || textTypes.includes(type) || clientTypes.includes(type);
}

function table(mapType: string, name: string, finding: Finding): NamedFile[] {
  // `ldap:name` without a path is the old way to keep a client's settings in main.cf itself.
  if (clientTypes.includes(mapType) && !/^[./]/.test(name)) return [];
  const path = name.startsWith("/") ? name : join(finding.queueDirectory, name);
  const reader = clientTypes.includes(mapType) ? clientReaders[mapType] : finding.readerOf(mapType);
  const { namedBy, required } = finding;
  return [{ path, shape: "map", mapType, namedBy, required, reader: reader ?? null }];
}

/**
 * Programs and those of their arguments that are paths known beforehand. Never required: Debian's master.cf names five
 * programs of packages that hardly a host has.
 */
function scripts(words: readonly string[], namedBy: string): NamedFile[] {
  const paths = words.filter((word) => word.startsWith("/") && !word.includes("$"));
  return paths.map((path) => ({ path, shape: "script", mapType: null, namedBy, required: false, reader: null }));
}

/** The words after `argv=` (pipe(8): it comes last); `{ }` keeps spaces. */
function programWords(args: readonly string[]): string[] {
  const start = args.findIndex((word) => word.startsWith("argv="));
  if (start < 0) return [];
  const [first = "", ...others] = args.slice(start);
  return [withoutBraces(first.slice("argv=".length)), ...others];
}

function readersOf(parameter: string): (mapType: string) => FileReader | null {
  if (/^alias_(maps|database)$/.test(parameter)) return (type) => (type === "inline" ? null : aliasFile);
  if (parameter === "tls_server_sni_maps") return () => chainTable;
  if (/_tls_policy_maps$/.test(parameter)) return () => policyTable;
  return () => null;
}

/** `{ {a = b}, {c = d} }` as the lines of a table. */
function tableOf(inline: string): string {
  return splitWords(withoutBraces(inline))
    .map((rule) => withoutBraces(rule).replace("=", " "))
    .join("\n");
}

/** Patterns of a match list kept in a file: one or more a line, among them tables and further files. */
const patternFile: FileReader = (path, text) =>
  logicalLines(text).flatMap((line) =>
    filesInList(line, {
      namedBy: path,
      required: true,
      queueDirectory: "/",
      defaultType: null,
      readerOf: () => null,
      bare: "patterns",
      bareRequired: true,
    }),
  );

/** aliases(5): `:include:/file` (which may include more) and `"|/program"`. */
const aliasFile: FileReader = (path, text) => {
  if (!text.includes(":include:") && !text.includes("|")) return [];
  const inclusion = /":include:(\/[^"\n]+)"|:include:"(\/[^"\n]+)"|:include:(\/[^",\s]+)/g;
  const included = [...text.matchAll(inclusion)].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
  const programs = [...text.matchAll(/\|\s*(\/[^"\n]+)/g)].map((match) => match[1] ?? "");
  return [
    ...included.map((file) => fileNamedIn(path, file, aliasFile)),
    ...programs.flatMap((command) => scripts(splitWords(command, listSeparators), path)),
  ];
};

/** tls_server_sni_maps: a server name, then files with its keys and chains. */
const chainTable: FileReader = (path, text) =>
  logicalLines(text).flatMap((line) =>
    splitWords(line)
      .slice(1)
      .filter((word) => word.startsWith("/"))
      .map((file) => fileNamedIn(path, file, null)),
  );

/** smtp_tls_policy_maps: `tafile=/path` names trust anchors. */
const policyTable: FileReader = (path, text) =>
  [...text.matchAll(/\btafile=(\/[^\s,:;]+)/g)].map((match) => fileNamedIn(path, match[1] ?? "", null));

/** Settings of a table's client (ldap_table(5), mysql_table(5), pgsql_table(5), sqlite_table(5), memcache_table(5)). */
function clientFile(path: string, text: string, mapType: string): NamedFile[] {
  return logicalLines(text).flatMap((line) => {
    const [, name = "", value = ""] = /^(\S+?)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (mapType === "memcache" && name === "backup") return memcacheBackup(path, value);
    if (!value.startsWith("/")) return [];
    if (/(CApath|ca_cert_dir)$/.test(name)) return [{ ...fileNamedIn(path, value, null), shape: "tree" as const }];
    // By name: a password may look like a path, and paths are printed.
    if (!/^(dbpath|option_file|tls_\w*(file|cert|key))$/.test(name)) return [];
    const file = fileNamedIn(path, value, null);
    if (mapType !== "sqlite" || name !== "dbpath") return [file];
    // What was committed last may still be in the write-ahead log.
    return [
      file,
      ...["-wal", "-journal"].map((suffix) => ({ ...fileNamedIn(path, value + suffix, null), required: false })),
    ];
  });
}

function memcacheBackup(path: string, value: string): NamedFile[] {
  return filesInWord(value, {
    namedBy: path,
    required: true,
    queueDirectory: "/",
    defaultType: null,
    readerOf: () => null,
    bare: "ignore",
    bareRequired: false,
  });
}

const clientReaders: Readonly<Record<string, FileReader>> = Object.fromEntries(
  clientTypes.map((type) => [type, (path: string, text: string) => clientFile(path, text, type)]),
);

/** A file that another file names in its own words. */
export function fileNamedIn(namedBy: string, path: string, reader: FileReader | null): NamedFile {
  return { path, shape: "file", mapType: null, namedBy, required: true, reader };
}

/** Lines as Postfix tables have them: comments and empty lines left out, a line that begins with a space goes on. */
export function logicalLines(text: string): string[] {
  const lines: string[] = [];
  for (const line of text.split("\n")) {
    if (/^\s*(#|$)/.test(line)) continue;
    if (/^\s/.test(line) && lines.length > 0) lines.push(`${lines.pop()} ${line.trim()}`);
    else lines.push(line.trim());
  }
  return lines;
}

/**
 * Files of the host that Postfix or its libraries read without being told: Debian's `/etc/mailname`, the aliases that
 * newaliases(1) compiles, Cyrus SASL's passwords and its settings for smtpd(8) (`smtpd_sasl_path`.conf in
 * cyrus_sasl_config_path, else in the directories that Debian's and the original library know). All are optional.
 */
export function hostFiles(parameters: PostfixParameters): NamedFile[] {
  const views = scopes(parameters);
  const aliases: NamedFile = {
    ...fileNamedIn("newaliases", "/etc/aliases", aliasFile),
    shape: "map",
    mapType: views[0]?.value("default_database_type") ?? "hash",
  };
  const files = [
    fileNamedIn("myorigin", "/etc/mailname", null),
    aliases,
    fileNamedIn("smtpd_sasl_type", "/etc/sasldb2", null),
    ...views.flatMap(saslSettings),
  ];
  return merge(files.map((file) => ({ ...file, required: false })));
}

function saslSettings(view: Scope): NamedFile[] {
  if (view.value("smtpd_sasl_type") !== "cyrus") return [];
  const application = basename(view.value("smtpd_sasl_path") || "smtpd");
  const own = view.value("cyrus_sasl_config_path").split(":").filter(Boolean);
  return [...own, ...saslDirectories].map((directory) =>
    fileNamedIn("smtpd_sasl_path", join(directory, `${application}.conf`), saslFile),
  );
}

const saslDirectories = ["/etc/postfix/sasl", "/etc/sasl2", "/usr/lib/sasl2", "/var/lib/sasl2"];

const saslFile: FileReader = (path, text) =>
  [...text.matchAll(/^\s*sasldb_path\s*:\s*(\/\S+)/gm)].map((match) => fileNamedIn(path, match[1] ?? "", null));
