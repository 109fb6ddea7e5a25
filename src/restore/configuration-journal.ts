import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  existsSync,
  fdatasyncSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
} from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import { fsyncDirectory, makePrivateDirectory, readRegularFile, writeAll } from "../system/files.ts";
import { inParent, type Place, type Present, pathOf } from "./configuration-place.ts";

const dress = { mode: z.number(), uid: z.number(), gid: z.number(), mtime: z.number() };
const before = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("nothing") }),
  z.object({ kind: z.literal("file"), copy: z.string(), digest: z.string(), ...dress }),
  z.object({ kind: z.literal("link"), target: z.string(), ...dress }),
  z.object({ kind: z.literal("directory"), ...dress }),
]);
const after = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("file"), digest: z.string() }),
  z.object({ kind: z.literal("link"), target: z.string() }),
  z.object({ kind: z.literal("directory") }),
  /** Not known yet, and not there yet. */
  z.object({ kind: z.literal("pending") }),
  /** Being edited by Postfix's own tools. */
  z.object({ kind: z.literal("any") }),
]);
const startLine = z.object({
  type: z.literal("start"),
  format: z.literal(1),
  run: z.string(),
  /** RFC 3339, UTC. */
  time: z.string(),
  snapshot: z.string(),
  host: z.string(),
  instance: z.string(),
  configDirectory: z.string(),
  root: z.string(),
});
const place = { base: z.string(), steps: z.array(z.string()) };
const keptLine = z.object({ type: z.literal("kept"), ...place, before, after });
const placedLine = z.object({ type: z.literal("placed"), ...place, after });
const endLine = z.object({
  type: z.literal("end"),
  outcome: z.enum(["done", "incomplete", "abandoned", "undone"]),
  time: z.string(),
});
const journalLine = z.discriminatedUnion("type", [startLine, keptLine, placedLine, endLine]);

export type Before = z.infer<typeof before>;
export type After = z.infer<typeof after>;
export type ConfigurationRunStart = Omit<z.infer<typeof startLine>, "type" | "format" | "run" | "time">;
type JournalLine = z.infer<typeof journalLine>;

/** What was at a place before the run, and what the run puts there. */
export interface KeptPlace {
  readonly place: Place;
  readonly before: Before;
  readonly after: After;
}

/** A restore of configuration as its journal tells it. */
export interface ConfigurationRun extends ConfigurationRunStart {
  readonly run: string;
  readonly time: string;
  /** What it replaced lies here, and the journal that says where it belongs. */
  readonly directory: string;
  /** In the order they were kept; one per place. */
  readonly kept: readonly KeptPlace[];
  /** Null while it is under way, or was interrupted. */
  readonly outcome: z.infer<typeof endLine>["outcome"] | null;
}

/** How temporary files of a run begin, in whatever directory they lie. */
export function temporaryPrefix(run: string): string {
  return `.spoolsafe-${run}-`;
}

export function replacedDirectory(stateDirectory: string): string {
  return join(stateDirectory, "replaced");
}

/**
 * The record of one restore of configuration, `replaced/<run>/journal.jsonl`, and copies of the files it replaces, private
 * to root. Both are on disk before anything is replaced, so that whatever interrupts it, what was there can be put back.
 */
export class ConfigurationJournal {
  readonly run: string;
  readonly directory: string;
  readonly #kept: Map<string, KeptPlace>;
  readonly #fd: number;
  #copies: number;

  private constructor(run: string, directory: string, kept: readonly KeptPlace[]) {
    this.run = run;
    this.directory = directory;
    this.#kept = new Map(kept.map((one) => [pathOf(one.place), one]));
    this.#copies = existsSync(join(directory, "files")) ? readdirSync(join(directory, "files")).length : 0;
    this.#fd = openSync(journalPath(directory), constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  }

  /** @param nowMs milliseconds since 1970; part of the run's name */
  static begin(stateDirectory: string, start: ConfigurationRunStart, nowMs: number): ConfigurationJournal {
    const time = new Date(nowMs).toISOString();
    const run = `${time.slice(0, 19).replaceAll(/[-:]/g, "")}-${randomBytes(4).toString("hex")}`;
    const directory = join(replacedDirectory(stateDirectory), run);
    makePrivateDirectory(join(directory, "files"));
    const journal = new ConfigurationJournal(run, directory, []);
    journal.#append({ type: "start", format: 1, run, time, ...start });
    for (const made of [directory, replacedDirectory(stateDirectory), stateDirectory]) fsyncDirectory(made);
    return journal;
  }

  /** Go on with an interrupted run; a torn last line is cut off: what it announces had not begun. */
  static reopen(record: ConfigurationRun): ConfigurationJournal {
    const path = journalPath(record.directory);
    truncateSync(path, readFileSync(path).lastIndexOf(0x0a) + 1);
    return new ConfigurationJournal(record.run, record.directory, record.kept);
  }

  /**
   * Keep what lies at a place before it is replaced. What an interrupted part of this run put there is its own and not kept
   * again.
   */
  keep(place: Place, here: Present, after: After): void {
    const known = this.#kept.get(pathOf(place));
    if (known !== undefined && (isStill(known.before, here) || isOurs(known.after, here))) {
      if (JSON.stringify(known.after) !== JSON.stringify(after)) this.placed(place, after);
      return;
    }
    const before = this.#copy(place, here);
    this.#append({ type: "kept", base: place.base, steps: [...place.steps], before, after });
    this.#kept.set(pathOf(place), { place, before, after });
  }

  /** Say what will lie at a kept place from now on. */
  placed(place: Place, after: After): void {
    const known = this.#kept.get(pathOf(place));
    if (known === undefined) throw new OperatorError("failed", `${pathOf(place)} was not kept`);
    this.#append({ type: "placed", base: place.base, steps: [...place.steps], after });
    this.#kept.set(pathOf(place), { ...known, after });
  }

  end(outcome: Exclude<ConfigurationRun["outcome"], null>, nowMs: number): void {
    this.#append({ type: "end", outcome, time: new Date(nowMs).toISOString() });
  }

  close(): void {
    closeSync(this.#fd);
  }

  #copy(place: Place, here: Present): Before {
    switch (here.kind) {
      case "nothing":
        return { kind: "nothing" };
      case "link": {
        const { kind, target, mode, uid, gid, mtime } = here;
        return { kind, target, mode, uid, gid, mtime };
      }
      case "directory": {
        const { kind, mode, uid, gid, mtime } = here;
        return { kind, mode, uid, gid, mtime };
      }
      case "file": {
        const copy = `files/${String(++this.#copies).padStart(4, "0")}`;
        const { mode, uid, gid, mtime, digest } = here;
        const bytes = inParent(place, (at, name) => readRegularFile(at(name)).bytes);
        writePrivate(join(this.directory, copy), bytes);
        fsyncDirectory(join(this.directory, "files"));
        return { kind: "file", copy, digest, mode, uid, gid, mtime };
      }
      case "other":
      case "unreachable":
        throw new OperatorError("failed", `${pathOf(place)} can't be kept: ${here.what}`);
    }
  }

  #append(line: JournalLine): void {
    writeAll(this.#fd, Buffer.from(`${JSON.stringify(line)}\n`));
    fdatasyncSync(this.#fd);
  }
}

function journalPath(directory: string): string {
  return join(directory, "journal.jsonl");
}

/** New, 0600 and on disk; a torn copy of an interrupted run that no line names is overwritten. */
export function writePrivate(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o600);
  try {
    writeAll(fd, bytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whether a place is as it was before the run. */
export function isStill(before: Before, here: Present): boolean {
  if (before.kind !== here.kind) return false;
  if (before.kind === "file") return here.kind === "file" && here.digest === before.digest && sameDress(before, here);
  if (before.kind === "link") return here.kind === "link" && here.target === before.target;
  if (before.kind === "directory") return here.kind === "directory" && sameDress(before, here);
  return true;
}

function sameDress(
  before: { readonly mode: number; readonly uid: number; readonly gid: number },
  here: { readonly mode: number; readonly uid: number; readonly gid: number },
): boolean {
  return before.mode === here.mode && before.uid === here.uid && before.gid === here.gid;
}

/** Whether what lies at a place is what the run put there. Mode and owner may have been changed since. */
export function isOurs(after: After, here: Present): boolean {
  if (after.kind === "any") return here.kind === "file";
  if (after.kind === "file") return here.kind === "file" && here.digest === after.digest;
  if (after.kind === "link") return here.kind === "link" && here.target === after.target;
  return after.kind === "directory" && here.kind === "directory";
}

/** Every restore of configuration below a state directory, oldest first. */
export function readConfigurationRuns(stateDirectory: string): ConfigurationRun[] {
  const directory = replacedDirectory(stateDirectory);
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .sort()
    .flatMap((name) => readRun(join(directory, name)) ?? []);
}

function readRun(directory: string): ConfigurationRun | undefined {
  const path = journalPath(directory);
  if (!existsSync(path)) return undefined;
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  const [start, ...rest] = lines.map((line, index) => parseLine(path, line, index));
  if (start === undefined) return undefined; // died before its first line: nothing was replaced
  if (start.type !== "start") throw unreadable(path, 0);
  const { type: _type, format: _format, ...facts } = start;
  return { ...facts, directory, ...replay(rest) };
}

function replay(lines: readonly JournalLine[]): Pick<ConfigurationRun, "kept" | "outcome"> {
  let outcome: ConfigurationRun["outcome"] = null;
  const kept = new Map<string, KeptPlace>();
  for (const line of lines) {
    if (line.type === "kept") {
      const place = { base: line.base, steps: line.steps };
      kept.set(pathOf(place), { place, before: line.before, after: line.after });
    } else if (line.type === "placed") {
      const known = kept.get(pathOf(line));
      if (known !== undefined) kept.set(pathOf(line), { ...known, after: line.after });
    } else if (line.type === "end") outcome = line.outcome;
  }
  return { kept: [...kept.values()], outcome };
}

function parseLine(path: string, text: string, index: number): JournalLine {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw unreadable(path, index);
  }
  const parsed = journalLine.safeParse(value);
  if (parsed.success) return parsed.data;
  throw unreadable(path, index);
}

function unreadable(path: string, index: number): OperatorError {
  return new OperatorError("failed", `line ${index + 1} of ${path} can't be read`, {
    hints: [
      "a newer spoolsafe may have written it: use that version",
      "the files it replaced lie beside it, in files/",
    ],
  });
}
