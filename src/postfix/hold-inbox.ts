import { readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../errors.ts";
import { listSeparators, type PostfixParameters, readParameters, scopes, splitWords } from "./parameters.ts";

/**
 * Why `hold` of this instance is somebody else's inbox, or is emptied by somebody else: then none of our holds would be
 * safe there, and theirs not safe from us. Empty when nothing of the kind is found.
 *
 * MailScanner takes its mail out of `hold` ("Incoming Queue Dir"), fed by a HOLD for every message in header_checks or in
 * an access table; a site's own script may release ALL of it.
 *
 * @param root where /etc, /usr/local and /var/spool/cron are looked for
 */
export async function holdInboxReasons(
  instance: { readonly configDirectory: string; readonly queueDirectory: string },
  root = "/",
): Promise<string[]> {
  return [
    ...scannerReasons(root, instance.queueDirectory),
    ...parameterReasons(await readParameters(instance.configDirectory)),
    ...scriptReasons(root),
  ];
}

/** A MailScanner whose incoming queue is this instance's hold, or whose configuration names queues by a file or wildcard. */
export function scannerReasons(root: string, queueDirectory: string): string[] {
  const main = join(root, "etc/MailScanner/MailScanner.conf");
  return [main, ...filesIn(join(root, "etc/MailScanner/conf.d"))].flatMap((file) => {
    const value = /^\s*Incoming Queue Dir\s*=\s*(\S+)/im.exec(textOf(file))?.[1];
    if (value === undefined || !mayMean(value, join(queueDirectory, "hold"))) return [];
    return [`MailScanner takes its mail from ${value} (Incoming Queue Dir in ${file})`];
  });
}

/** A file that lists directories, or a wildcard, may mean any queue. */
function mayMean(value: string, hold: string): boolean {
  const path = value.replace(/\/+$/, "");
  return /[*?]/.test(path) || !path.endsWith("/hold") || realPath(path) === realPath(hold);
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (unreadable(error)) return path;
    throw error;
  }
}

/** Parameters that put every message on hold: a HOLD in header_checks that an ordinary header meets, or `static:HOLD`. */
export function parameterReasons(parameters: PostfixParameters): string[] {
  const reasons = scopes(parameters).flatMap((scope) =>
    scope.names
      .filter((name) => scope.given(name) && /(header_checks|_restrictions)$/.test(name))
      .flatMap((name) => {
        const value = scope.value(name);
        const where = scope.label === "main.cf" ? name : `${name} of ${scope.label}`;
        const everyone = /\bstatic:\s*\{?\s*HOLD\b/i.test(value)
          ? [`${where} puts every message on hold (static:HOLD)`]
          : [];
        const tables = name.endsWith("header_checks") ? checkTables(value) : [];
        return [
          ...everyone,
          ...tables.flatMap((table) =>
            tableReason(table).map((rule) => `${where} puts every message on hold: ${rule}`),
          ),
        ];
      }),
  );
  return [...new Set(reasons)];
}

/** Timers and scripts that release all held mail, which would release ours in the middle of a copy, too. */
export function scriptReasons(root: string): string[] {
  const directories = [
    ...["cron.d", "cron.hourly", "cron.daily", "cron.weekly", "cron.monthly", "systemd/system"].map(
      (name) => `etc/${name}`,
    ),
    "var/spool/cron/crontabs",
    "usr/local/bin",
    "usr/local/sbin",
  ];
  const files = [join(root, "etc/crontab"), ...directories.flatMap((directory) => filesIn(join(root, directory)))];
  return files.flatMap((file) => {
    const line = textOf(file)
      .split("\n")
      .find((each) => !/^\s*[#;]/.test(each) && /\bpostsuper\b.*\s-H\s*["']?ALL\b/.test(each));
    return line === undefined ? [] : [`${file} releases all held mail: ${line.trim()}`];
  });
}

/** Files of the regexp: and pcre: tables of a checks parameter; other table types can't match every header. */
function checkTables(value: string): string[] {
  return splitWords(value, listSeparators).flatMap((word) => /^(?:regexp|pcre):(\/.+)$/.exec(word)?.[1] ?? []);
}

/** Headers every message has, as cleanup(8) sees them. */
const ordinaryHeaders = [
  "Received: from mail.example.org (mail.example.org [192.0.2.1]) by mx.example.net (Postfix) with ESMTPS id 4Z5j73J8pzBvYj",
  "From: Someone <someone@example.org>",
  "Date: Tue, 24 Nov 2026 02:00:00 +0000",
  "Message-ID: <1@example.org>",
];

/** The first rule of a table that holds an ordinary message. Conditions around rules (`if`) are taken as met. */
function tableReason(file: string): string[] {
  for (const line of textOf(file).split("\n")) {
    const [, not, pattern, flags, action] = /^\s*(!?)\/((?:\\.|[^/\\])*)\/(\w*)\s+(.*)$/.exec(line) ?? [];
    if (pattern === undefined || !/^HOLD\b/i.test(action ?? "")) continue;
    if (meets(pattern, flags ?? "", not === "!")) return [`${line.trim()} (${file})`];
  }
  return [];
}

/** regexp_table(5) and pcre_table(5) ignore case unless the flag `i` turns that off. */
function meets(pattern: string, flags: string, negated: boolean): boolean {
  try {
    const expression = new RegExp(pattern, flags.includes("i") ? "" : "i");
    return ordinaryHeaders.some((header) => expression.test(header) !== negated);
  } catch {
    // A pattern JavaScript does not know: judged by its beginning.
    return /^\^?(Received|\.)/i.test(pattern);
  }
}

function filesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .sort()
      .map((name) => join(directory, name));
  } catch (error) {
    if (unreadable(error)) return [];
    throw error;
  }
}

/** A text file's content; empty for what is not there, can't be read, or is too large for a script. */
function textOf(file: string): string {
  try {
    const stat = statSync(file);
    return stat.isFile() && stat.size <= 1024 * 1024 ? readFileSync(file, "utf8") : "";
  } catch (error) {
    if (unreadable(error)) return "";
    throw error;
  }
}

function unreadable(error: unknown): boolean {
  return ["ENOENT", "ENOTDIR", "EACCES", "ELOOP"].includes(errnoOf(error) ?? "");
}
