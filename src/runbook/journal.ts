import { hash } from "node:crypto";
import { closeSync, constants, fsyncSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { OperatorError } from "../errors.ts";
import { fsyncDirectory, makePrivateDirectory, writeAll } from "../system/files.ts";
import type { Secrets } from "./secrets.ts";

/*
 * What a run did, one JSON object per line. Each line but for its last field `h` is hashed together with the `h` of the
 * line before, so that a line can't be changed, taken out or put in without all that follow telling so.
 */

const processFields = { pid: z.int(), startTicks: z.string(), bootId: z.string() };
const blockEnd = {
  outcome: z.enum(["ok", "failed", "timeout", "killed"]),
  code: z.int().nullable(),
  signal: z.string().nullable(),
  ms: z.int(),
  output: z.string(),
};
const who = { user: z.string(), sudoUser: z.string().nullable(), terminal: z.string().nullable() };

const eventSchema = z.discriminatedUnion("event", [
  z.object({
    event: z.literal("run.start"),
    run: z.string(),
    runbook: z.object({ id: z.string(), name: z.string(), title: z.string(), path: z.string(), sha256: z.string() }),
    /** Milliseconds. */
    budget: z.int(),
    tool: z.string(),
    postfix: z.string().nullable(),
    host: z.string(),
    configDirectory: z.string().nullable(),
    queueDirectory: z.string().nullable(),
    steps: z.array(z.object({ name: z.string(), heading: z.string() })),
    /** Index of the first step that is not left out (--from). */
    from: z.int().optional(),
    ...who,
    ...processFields,
  }),
  /** Another process goes on with the run. */
  z.object({ event: z.literal("run.resume"), ...who, ...processFields }),
  z.object({
    event: z.literal("variables"),
    values: z.array(z.object({ name: z.string(), value: z.string().nullable(), origin: z.string() })),
  }),
  z.object({ event: z.literal("step.offered"), step: z.string() }),
  z.object({ event: z.literal("step.confirmed"), step: z.string(), by: z.string(), how: z.string() }),
  z.object({ event: z.literal("step.started"), step: z.string(), ...processFields }),
  z.object({ event: z.literal("step.exit"), step: z.string(), ...blockEnd }),
  /** A block other than an action or a verify. */
  z.object({
    event: z.literal("block"),
    step: z.string().nullable(),
    block: z.string(),
    kind: z.string(),
    ...blockEnd,
  }),
  z.object({
    event: z.literal("verify"),
    step: z.string(),
    block: z.string(),
    ok: z.boolean(),
    attempts: z.int(),
    /** What was wrong; null when nothing was. */
    got: z.string().nullable(),
    ...blockEnd,
  }),
  z.object({ event: z.literal("step.done"), step: z.string(), how: z.string(), ms: z.int() }),
  z.object({ event: z.literal("step.failed"), step: z.string(), reason: z.string() }),
  z.object({ event: z.literal("step.refused"), step: z.string(), block: z.string(), reason: z.string() }),
  z.object({ event: z.literal("step.skipped"), step: z.string(), reason: z.string(), by: z.string() }),
  z.object({ event: z.literal("warning"), step: z.string().nullable(), text: z.string(), acknowledged: z.string() }),
  z.object({ event: z.literal("undo.started"), step: z.string(), ...processFields }),
  z.object({ event: z.literal("step.undone"), step: z.string(), stillHolds: z.boolean().nullable() }),
  z.object({ event: z.literal("undo.failed"), step: z.string(), reason: z.string() }),
  z.object({
    event: z.literal("note"),
    step: z.string().nullable(),
    text: z.string(),
    by: z.string(),
    /** When it was written, where that was before it came into the journal. */
    at: z.string().optional(),
  }),
  /** Nothing more is done for now; `resume` goes on. */
  z.object({ event: z.literal("run.stopped"), reason: z.string() }),
  z.object({ event: z.literal("run.end"), outcome: z.enum(["done", "undone"]), ms: z.int() }),
]);

export type JournalEvent = z.output<typeof eventSchema>;

export type JournalLine = JournalEvent & {
  /** From 1. */
  readonly n: number;
  /** RFC 3339, UTC. */
  readonly time: string;
};

const stamp = z.object({ n: z.int(), time: z.string(), h: z.string() });

export interface JournalOptions {
  /** Run directories to write in, in this order: the next is taken when one can't be written. */
  readonly directories: readonly string[];
  readonly secrets: Secrets;
  readonly now: () => number;
  readonly warn: (text: string) => void;
}

/**
 * Appends. Never fails: when it can't write where it writes, all of it so far goes to the next directory, and where there
 * is none it is kept in memory, and said so. A recovery is not to end because its log can't be written.
 */
export class Journal {
  readonly lines: JournalLine[] = [];
  readonly #options: JournalOptions;
  readonly #texts: string[] = [];
  #last = "";
  #place = 0;
  #fd: number | undefined;

  constructor(options: JournalOptions) {
    this.#options = options;
    if (options.directories.length === 0) options.warn(inMemory);
  }

  /** Go on with one that was read. Its torn last line, if it has one, is cut off first. */
  static resume(read: JournalRead, options: JournalOptions): Journal {
    const journal = new Journal(options);
    journal.lines.push(...read.lines);
    journal.#texts.push(...read.texts);
    journal.#last = read.last;
    journal.#guarded(() => journal.#openAgain(read));
    return journal;
  }

  /** The directory it writes in now; null when it is in memory only. */
  get directory(): string | null {
    return this.#options.directories[this.#place] ?? null;
  }

  /** Where it would go on if it can't be written here any more. */
  get otherDirectories(): readonly string[] {
    return this.#options.directories.slice(this.#place);
  }

  append(event: JournalEvent): void {
    const { secrets, now } = this.#options;
    const line: JournalLine = {
      n: this.lines.length + 1,
      time: new Date(now()).toISOString(),
      ...secrets.scrubDeep(event),
    };
    const bare = JSON.stringify(line);
    this.#last = chained(this.#last, bare);
    const text = `${bare.slice(0, -1)},"h":"${this.#last}"}\n`;
    this.lines.push(line);
    this.#texts.push(text);
    this.#guarded(() => {
      if (this.#fd === undefined) this.#open();
      else writeAll(this.#fd, Buffer.from(text));
    });
  }

  /** On disk, wherever it is written: before anything happens that the last line announces. */
  sync(): void {
    this.#guarded(() => {
      if (this.#fd !== undefined) fsyncSync(this.#fd);
    });
  }

  close(): void {
    this.sync();
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  /** Do it; when it can't be done, do the same in the next directory with all lines. */
  #guarded(write: () => void): void {
    try {
      if (this.directory !== null) write();
    } catch (error) {
      this.#moveOn(error);
    }
  }

  #moveOn(error: unknown): void {
    const { directories, warn } = this.#options;
    const why = error instanceof Error ? error.message : String(error);
    warn(`the journal can't be written in ${directories[this.#place]}: ${why}`);
    if (this.#fd !== undefined) closeQuietly(this.#fd);
    this.#fd = undefined;
    this.#place += 1;
    if (this.directory === null) {
      warn(inMemory);
    } else {
      this.#guarded(() => this.#open());
      if (this.directory !== null) warn(`the journal is in ${this.directory} from now on`);
    }
  }

  /** A new file with all lines so far. */
  #open(): void {
    const path = journalFile(this.directory ?? "");
    makePrivateDirectory(dirname(path));
    this.#fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_APPEND, 0o600);
    writeAll(this.#fd, Buffer.from(this.#texts.join("")));
    fsyncSync(this.#fd);
    fsyncDirectory(dirname(path));
    fsyncDirectory(dirname(dirname(path)));
  }

  #openAgain({ path, length }: JournalRead): void {
    const here = journalFile(this.directory ?? "");
    if (here === path) {
      this.#fd = openSync(path, constants.O_WRONLY | constants.O_APPEND);
      ftruncateSync(this.#fd, length);
    } else this.#open();
  }
}

const inMemory =
  "nothing can be written anywhere: the journal is in memory only, and THIS RUN CAN'T BE RESUMED if it is lost";

export function journalFile(runDirectory: string): string {
  return join(runDirectory, "journal.jsonl");
}

function chained(before: string, line: string): string {
  return hash("sha256", before + line, "hex");
}

function closeQuietly(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // What failed has been told already.
  }
}

export interface JournalRead {
  readonly path: string;
  readonly lines: readonly JournalLine[];
  readonly texts: readonly string[];
  /** `h` of the last line. */
  readonly last: string;
  /** Bytes of the whole lines; what follows is a line that was being written when its writer or the machine died. */
  readonly length: number;
}

/**
 * Reads and proves a journal: every line but a torn last one.
 *
 * @throws OperatorError `damaged` with the first line that is not as it was written
 */
export function readJournal(path: string): JournalRead {
  const text = readFileSync(path, "utf8");
  const texts = text.split(/(?<=\n)/).filter((line) => line.endsWith("\n"));
  const lines: JournalLine[] = [];
  let last = "";
  for (const [index, whole] of texts.entries()) {
    const [, bare = "", h = ""] = /^(\{.*),"h":"([0-9a-f]{64})"\}\n$/s.exec(whole) ?? [];
    const line = bare === "" ? undefined : parseLine(`${bare}}`);
    if (line === undefined || chained(last, `${bare}}`) !== h || line.n !== index + 1) {
      throw new OperatorError("damaged", `line ${index + 1} of ${path} is not as it was written`, {
        hints: ["the journal was changed, or the disk is at fault: what the run did can't be proved any more"],
      });
    }
    lines.push(line);
    last = h;
  }
  return { path, lines, texts, last, length: Buffer.byteLength(texts.join("")) };
}

function parseLine(text: string): JournalLine | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const event = eventSchema.safeParse(value);
    const { n, time } = stamp.omit({ h: true }).parse(value);
    return event.success ? { ...event.data, n, time } : undefined;
  } catch {
    return undefined;
  }
}
