import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";

/*
 * What a queue holds, said in a way that two queues can be compared: by content, never by queue id. Independent of the
 * code under test: the envelope is what postcat(1) prints, the rest an own walk of the directories and records.
 */

export interface Fingerprint {
  /** Incoming and active count as one, `active`: qmgr moves mail between them as it likes. */
  readonly queue: string;
  readonly sender: string;
  /** In file order; `D` is done. */
  readonly recipients: readonly string[];
  /** SHA-256 of the text, with its records glued to lines. */
  readonly content: string;
  readonly created: string;
  /** Permission bits, octal. */
  readonly mode: string;
  /** Seconds; in deferred the time of the next attempt. */
  readonly mtime: number;
  /** Numeric owner where it means something: in maildrop. */
  readonly uid: number | null;
  /** SHA-256 of each log that is there. */
  readonly logs: Readonly<Partial<Record<"bounce" | "defer" | "trace", string>>>;
}

export interface CompareOptions {
  /** Fields left out, such as `["mtime"]` after mail was tried again. */
  readonly without?: readonly (keyof Fingerprint)[];
}

/** Fingerprints of every complete message below a queue directory, sorted; ids appear nowhere in them. */
export function fingerprints(queueDirectory: string): Fingerprint[] {
  const logs = logsById(queueDirectory);
  const files = ["maildrop", "incoming", "active", "deferred", "hold"].flatMap((queue) =>
    filesBelow(join(queueDirectory, queue)).map((path) => ({ queue: queue === "incoming" ? "active" : queue, path })),
  );
  const complete = files.filter(({ path }) => (statSync(path).mode & 0o700) === 0o700);
  const envelopes = postcatEnvelopes(complete.map(({ path }) => path));
  return complete
    .map(({ queue, path }) => fingerprint(queue, path, envelopes.get(path), logs.get(basename(path)) ?? {}))
    .sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1));
}

/**
 * Differences between two queues as text lines, `-` for what only the first has and `+` for the second; empty when
 * they hold the same mail.
 */
export function differences(
  first: readonly Fingerprint[],
  second: readonly Fingerprint[],
  options: CompareOptions = {},
): string[] {
  const texts = (list: readonly Fingerprint[]) => list.map((one) => comparable(one, options.without ?? [])).sort();
  const [left, right] = [texts(first), texts(second)];
  return [...without(left, right).map((text) => `- ${text}`), ...without(right, left).map((text) => `+ ${text}`)];
}

function comparable(one: Fingerprint, without: readonly (keyof Fingerprint)[]): string {
  return JSON.stringify(
    Object.fromEntries(Object.entries(one).filter(([key]) => !without.some((left) => left === key))),
  );
}

/** Elements of a list that another has not, or has less often. */
function without(list: readonly string[], other: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const text of other) counts.set(text, (counts.get(text) ?? 0) + 1);
  return list.filter((text) => {
    const count = counts.get(text) ?? 0;
    counts.set(text, count - 1);
    return count <= 0;
  });
}

interface Envelope {
  readonly sender: string;
  readonly recipients: readonly string[];
  readonly created: string;
}

function fingerprint(
  queue: string,
  path: string,
  envelope: Envelope | undefined,
  logs: Fingerprint["logs"],
): Fingerprint {
  if (envelope === undefined) throw new Error(`postcat printed nothing for ${path}`);
  const stat = statSync(path);
  return {
    queue,
    ...envelope,
    content: sha256(textOf(readFileSync(path), path)),
    mode: (stat.mode & 0o7777).toString(8),
    mtime: Math.floor(stat.mtimeMs / 1000),
    uid: queue === "maildrop" ? stat.uid : null,
    logs,
  };
}

/** What `postcat -e` says of many files; it fails for one whose records are damaged. */
function postcatEnvelopes(paths: readonly string[]): Map<string, Envelope> {
  const envelopes = new Map<string, Envelope>();
  for (let at = 0; at < paths.length; at += 200) {
    const printed = execFileSync("postcat", ["-e", ...paths.slice(at, at + 200)], {
      encoding: "latin1",
      maxBuffer: 1 << 28,
      env: { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` },
    });
    for (const section of printed.split(/^\*\*\* ENVELOPE RECORDS /m).slice(1)) {
      const [path = "", ...lines] = section.split("\n");
      envelopes.set(path.replace(/ \*\*\*$/, ""), readEnvelope(lines));
    }
  }
  return envelopes;
}

function readEnvelope(lines: readonly string[]): Envelope {
  const values = (pattern: RegExp) => lines.flatMap((line) => pattern.exec(line)?.[1] ?? []);
  return {
    sender: values(/^sender: (.*)$/)[0] ?? "",
    recipients: lines.flatMap((line) => {
      const [, done, address] = /^(done_)?recipient: (.*)$/.exec(line) ?? [];
      return address === undefined ? [] : [`${done === undefined ? "R" : "D"} ${address}`];
    }),
    created: values(/^create_time: (.*)$/)[0] ?? "",
  };
}

/** The message's text by the pointer walk: records from the start, `p` with a target followed, text between M and X. */
function textOf(bytes: Buffer, path: string): Buffer {
  const text: Buffer[] = [];
  let inText = false;
  for (let at = 0, steps = 0; ; steps++) {
    if (at >= bytes.length || steps > bytes.length) throw new Error(`${path}: the walk leaves the file`);
    const type = String.fromCharCode(bytes[at] ?? 0);
    const { length, start } = lengthAt(bytes, at + 1);
    const payload = bytes.subarray(start, start + length);
    at = start + length;
    if (type === "E") break;
    if (type === "p" && Number(payload.toString()) > 0) at = Number(payload.toString());
    if (type === "M") inText = true;
    if (type === "X") inText = false;
    if (inText && (type === "N" || type === "L")) text.push(payload);
    if (inText && type === "N") text.push(Buffer.from("\n"));
  }
  return Buffer.concat(text);
}

function lengthAt(bytes: Buffer, offset: number): { length: number; start: number } {
  let length = 0;
  let start = offset;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[start++] ?? 0;
    length += (byte & 127) << shift;
    if (byte < 128) return { length, start };
  }
}

function logsById(queueDirectory: string): Map<string, Fingerprint["logs"]> {
  const logs = new Map<string, Fingerprint["logs"]>();
  for (const kind of ["bounce", "defer", "trace"] as const) {
    for (const path of filesBelow(join(queueDirectory, kind))) {
      const id = basename(path);
      logs.set(id, { ...logs.get(id), [kind]: sha256(readFileSync(path)) });
    }
  }
  return logs;
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    return entry.isDirectory() ? filesBelow(path) : entry.isFile() ? [path] : [];
  });
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
