import { randomBytes } from "node:crypto";
import { closeSync, existsSync, fdatasyncSync, openSync, readdirSync, readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import { logKinds } from "../postfix/queue.ts";
import { fsyncDirectory, makePrivateDirectory, writeAll } from "../system/files.ts";
import { parseJson } from "../system/json.ts";

const startLine = z.object({
  type: z.literal("start"),
  format: z.literal(1),
  run: z.string(),
  /** RFC 3339, UTC. */
  time: z.string(),
  snapshot: z.string(),
  host: z.string(),
  /** Instance of the snapshot. */
  instance: z.string(),
  route: z.enum(["fresh", "merge", "requeue"]),
  land: z.enum(["original", "hold"]),
  /** The choice as one text: two runs with the same one are the same restore. */
  choice: z.string(),
  /** Whether logs were given that tell what became of the mail after the snapshot. */
  judged: z.boolean(),
  /** Options of the command line that make the same choice again, without snapshot, instance and target. */
  options: z.array(z.string()),
  target: z.object({
    configDirectory: z.string(),
    queueDirectory: z.string(),
    /** Which queue directory, as `queueIdentity` tells it. */
    device: z.string(),
    inode: z.string(),
    born: z.string().nullable(),
  }),
});
const claimedLine = z.object({
  type: z.literal("claimed"),
  /** Id of the claim in the repository under which the run places mail. */
  claim: z.string(),
});
const messageLine = z.object({
  type: z.literal("message"),
  /** Counts from 0 in the order of the plan; temporary names are made of it. */
  number: z.number(),
  /** `entryKey` of the message in the snapshot's manifest. */
  key: z.string(),
  /** `placedIdentity` of the message: by what it is known under other names. Null or left out where only its key tells it. */
  identity: z.string().nullable().optional(),
  queue: z.enum(["deferred", "hold", "maildrop"]),
  mode: z.number(),
  uid: z.number(),
  gid: z.number(),
  mtime: z.number(),
  role: z.enum(["admin", "restore", "fence"]).nullable(),
  inDoubt: z.string().nullable(),
  /** Indexes of the recipients this placement answers for. */
  recipients: z.array(z.number()),
  /** Indexes of recipients that get their mark in the placed copy although the snapshot has them without. */
  marks: z.array(z.number()),
  /** Indexes of recipients that were known to be served when this was planned. */
  served: z.array(z.number()),
  /** Whether it takes its logs with it: of two copies of one message only one does. */
  logs: z.boolean(),
  /** Whether it keeps its temporary name until it is released: mail of maildrop can't be put on hold. */
  waits: z.boolean(),
});
const plannedLine = z.object({ type: z.literal("planned"), messages: z.number() });
const stagedLine = z.object({
  type: z.literal("staged"),
  number: z.number(),
  /** Decimal text. */
  inode: z.string(),
  /** Nanoseconds of the last change of the inode, as text: while it stays, nobody has linked or unlinked the file. */
  changed: z.string(),
  /** SHA-256 of the bytes as they were read back, marks included. */
  digest: z.string(),
  /** The name it will get; a later `renamed` line replaces it. */
  id: z.string(),
  logs: z.array(z.object({ log: z.enum(logKinds), inode: z.string() })),
});
const placingLine = z.object({ type: z.literal("placing") });
const renamedLine = z.object({ type: z.literal("renamed"), number: z.number(), id: z.string() });
const doubtedLine = z.object({
  type: z.literal("doubted"),
  number: z.number(),
  /** Why, what the file looks like now, and which recipients have no mark in it. */
  inDoubt: z.string(),
  mode: z.number(),
  mtime: z.number(),
  recipients: z.array(z.number()),
});
const visibleLine = z.object({ type: z.literal("visible") });
const numbers = z.array(z.number());
const releasingLine = z.object({ type: z.literal("releasing"), numbers });
const releasedLine = z.object({ type: z.literal("released"), numbers, time: z.string() });
const undoingLine = z.object({ type: z.literal("undoing"), numbers });
const undoneLine = z.object({ type: z.literal("undone"), numbers, time: z.string() });
const endLine = z.object({
  type: z.literal("end"),
  /** `done`: placed and proven. `incomplete`: placed, but not everything could be proven. `abandoned`: nothing was placed. */
  outcome: z.enum(["done", "incomplete", "abandoned"]),
  time: z.string(),
});
const runLine = z.discriminatedUnion("type", [
  startLine,
  claimedLine,
  messageLine,
  plannedLine,
  stagedLine,
  placingLine,
  renamedLine,
  doubtedLine,
  visibleLine,
  endLine,
  releasingLine,
  releasedLine,
  undoingLine,
  undoneLine,
]);

export type RunStart = Omit<z.infer<typeof startLine>, "type" | "format" | "run">;
export type RunMessage = Omit<z.infer<typeof messageLine>, "type">;
export type StagedMessage = Omit<z.infer<typeof stagedLine>, "type">;
export type Doubt = Omit<z.infer<typeof doubtedLine>, "type" | "number">;
export type RunOutcome = z.infer<typeof endLine>["outcome"];
type RunLine = z.infer<typeof runLine>;

/**
 * How far a run came, by the last whole line of its journal. `started`: nothing of it is anywhere. `planned`: temporary
 * files may lie in the target. `placing`: all of them were complete and on disk, none was visible to Postfix before this
 * line. `visible`: what is on hold is in its place, mail Postfix may deliver is being put in its own. `ended`: over.
 */
export type RunPhase = "started" | "planned" | "placing" | "visible" | "ended";

/** A run as its journal tells it. */
export interface RunRecord extends RunStart {
  readonly run: string;
  /** Where the journal and what the run moved aside lie. */
  readonly directory: string;
  readonly phase: RunPhase;
  readonly messages: readonly RunMessage[];
  readonly staged: readonly StagedMessage[];
  readonly outcome: RunOutcome | null;
  /** The claim it places mail under; null before it has one, and for a run that takes none. */
  readonly claim: string | null;
  /** Numbers of messages that are being, or have been, released from hold; without a crash the first set is empty. */
  readonly releasing: ReadonlySet<number>;
  readonly released: ReadonlySet<number>;
  /** The same for messages that were taken back. */
  readonly undoing: ReadonlySet<number>;
  readonly undone: ReadonlySet<number>;
}

/** Where runs lie below a state directory; on a disk that survives a reboot, never inside a queue directory. */
export function runsDirectory(stateDirectory: string): string {
  return join(stateDirectory, "runs");
}

/**
 * The write-ahead journal of one restore: `runs/<run>/journal.jsonl`. Each phase is announced here, synced, before its
 * first step, so that whoever runs the restore again after a crash knows what may lie where. It stays after the end: it
 * is the record of what was placed, per message and recipient.
 */
export class RunJournal {
  readonly run: string;
  readonly directory: string;
  readonly #fd: number;

  private constructor(run: string, directory: string, flags: "ax" | "a") {
    this.run = run;
    this.directory = directory;
    this.#fd = openSync(journalPath(directory), flags, 0o600);
  }

  /** @param nowMs milliseconds since 1970; part of the run's name */
  static begin(stateDirectory: string, start: RunStart, nowMs: number): RunJournal {
    const run = runName(nowMs);
    const directory = join(runsDirectory(stateDirectory), run);
    makePrivateDirectory(directory);
    const journal = new RunJournal(run, directory, "ax");
    journal.#append([{ type: "start", format: 1, run, ...start }]);
    for (const made of [directory, runsDirectory(stateDirectory), stateDirectory]) fsyncDirectory(made);
    return journal;
  }

  /** Go on with an interrupted run. A torn last line is cut off: what it announces had not begun. */
  static reopen(record: RunRecord): RunJournal {
    const path = journalPath(record.directory);
    const bytes = readFileSync(path);
    truncateSync(path, bytes.lastIndexOf(0x0a) + 1);
    return new RunJournal(record.run, record.directory, "a");
  }

  /** Before the first message is placed: what has to be withdrawn when the run is given up or undone. */
  claimed(claim: string): void {
    this.#append([{ type: "claimed", claim }]);
  }

  /** From here temporary files of the run may lie in the target. */
  planned(messages: readonly RunMessage[]): void {
    const lines = messages.map((message): RunLine => ({ type: "message", ...message }));
    this.#append([...lines, { type: "planned", messages: messages.length }]);
  }

  /** Everything staged is complete and on disk; from here files get their names. */
  placing(staged: readonly StagedMessage[]): void {
    const lines = staged.map((message): RunLine => ({ type: "staged", ...message }));
    this.#append([...lines, { type: "placing" }]);
  }

  /** A placed file has got more marks. */
  restaged(staged: StagedMessage): void {
    this.#append([{ type: "staged", ...staged }]);
  }

  /** The name that was planned is taken: this one will be tried instead. */
  renamed(number: number, id: string): void {
    this.#append([{ type: "renamed", number, id }]);
  }

  /** What happened to a message while we were away can't be known: it goes on hold and is in doubt. */
  doubted(number: number, doubt: Doubt): void {
    this.#append([{ type: "doubted", number, ...doubt }]);
  }

  /** From here Postfix, once started, delivers what is put into its queues. */
  visible(): void {
    this.#append([{ type: "visible" }]);
  }

  /** From here postsuper may be releasing these from hold. */
  releasing(numbers: readonly number[]): void {
    this.#append([{ type: "releasing", numbers: [...numbers] }]);
  }

  /** These have been seen to have left hold. */
  released(numbers: readonly number[], nowMs: number): void {
    this.#append([{ type: "released", numbers: [...numbers], time: new Date(nowMs).toISOString() }]);
  }

  /** From here the files of these may be gone. None: nothing that was announced before is under way any more. */
  undoing(numbers: readonly number[]): void {
    this.#append([{ type: "undoing", numbers: [...numbers] }]);
  }

  undone(numbers: readonly number[], nowMs: number): void {
    this.#append([{ type: "undone", numbers: [...numbers], time: new Date(nowMs).toISOString() }]);
  }

  end(outcome: RunOutcome, nowMs: number): void {
    this.#append([{ type: "end", outcome, time: new Date(nowMs).toISOString() }]);
    this.close();
  }

  close(): void {
    closeSync(this.#fd);
  }

  #append(lines: readonly RunLine[]): void {
    writeAll(this.#fd, Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
    fdatasyncSync(this.#fd);
  }
}

/** The fields of a staged message that belong in the journal. */
export function toStagedMessage({ number, inode, changed, digest, id, logs }: StagedMessage): StagedMessage {
  return { number, inode, changed, digest, id, logs };
}

function journalPath(directory: string): string {
  return join(directory, "journal.jsonl");
}

/** Sortable by time, legal in file names, and no part of it can end a temporary name early. */
function runName(nowMs: number): string {
  const stamp = new Date(nowMs).toISOString().slice(0, 19).replaceAll(/[-:]/g, "");
  return `${stamp}-${randomBytes(4).toString("hex")}`;
}

/** Every run below a state directory, oldest first. One that died before its first line was whole did nothing. */
export function readRuns(stateDirectory: string): RunRecord[] {
  const directory = runsDirectory(stateDirectory);
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .sort()
    .flatMap((name) => readRun(join(directory, name)) ?? []);
}

function readRun(directory: string): RunRecord | undefined {
  const path = journalPath(directory);
  if (!existsSync(path)) return undefined;
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  const [start, ...rest] = lines.map((line, index) => parseLine(path, line, index));
  if (start === undefined) return undefined;
  if (start.type !== "start") throw unreadable(path, 0);
  const { type: _type, format: _format, ...facts } = start;
  return { ...facts, directory, ...replay(rest) };
}

type Replayed = Omit<RunRecord, keyof RunStart | "run" | "directory">;

/** What the lines after the first say together. */
function replay(lines: readonly RunLine[]): Replayed {
  let phase: RunPhase = "started";
  let outcome: RunOutcome | null = null;
  let claim: string | null = null;
  const messages: RunMessage[] = [];
  const staged = new Map<number, StagedMessage>();
  const release = new Progress();
  const undo = new Progress();
  for (const line of lines) {
    switch (line.type) {
      case "start":
        break;
      case "claimed":
        claim = line.claim;
        break;
      case "message":
        messages[line.number] = strip(line);
        break;
      case "staged":
        staged.set(line.number, strip(line));
        break;
      case "renamed":
        staged.set(line.number, { ...known(staged, line.number), id: line.id });
        break;
      case "doubted": {
        const message = messages[line.number];
        if (message !== undefined) messages[line.number] = { ...message, ...onHoldInDoubt(strip(line)) };
        break;
      }
      case "releasing":
        release.begin(line.numbers);
        break;
      case "released":
        release.finish(line.numbers);
        break;
      case "undoing":
        if (line.numbers.length === 0) undo.begun.clear();
        undo.begin(line.numbers);
        break;
      case "undone":
        undo.finish(line.numbers);
        break;
      case "end":
        phase = "ended";
        outcome = line.outcome;
        break;
      default:
        phase = line.type;
    }
  }
  return {
    ...{ phase, messages, staged: [...staged.values()], outcome, claim },
    ...{ releasing: release.begun, released: release.finished, undoing: undo.begun, undone: undo.finished },
  };
}

/** What is under way and what has been done, of announcements and confirmations. */
class Progress {
  readonly begun = new Set<number>();
  readonly finished = new Set<number>();

  begin(numbers: readonly number[]): void {
    for (const number of numbers) this.begun.add(number);
  }

  finish(numbers: readonly number[]): void {
    for (const number of numbers) {
      this.begun.delete(number);
      this.finished.add(number);
    }
  }
}

/** Where a message goes that may have been delivered while an interrupted restore lay about. */
export function onHoldInDoubt({
  inDoubt,
  mode,
  mtime,
  recipients,
}: Doubt): Pick<RunMessage, "queue" | "role" | "inDoubt" | "mode" | "mtime" | "recipients"> {
  return { queue: "hold", role: "restore", inDoubt, mode, mtime, recipients };
}

function strip<T extends { type: string }>(line: T): Omit<T, "type"> {
  const { type: _type, ...rest } = line;
  return rest;
}

function known(staged: ReadonlyMap<number, StagedMessage>, number: number): StagedMessage {
  const message = staged.get(number);
  if (message === undefined)
    throw new OperatorError("failed", `a run's journal renames message ${number}, which it never staged`);
  return message;
}

function parseLine(path: string, text: string, index: number): RunLine {
  const parsed = runLine.safeParse(parseJson(text));
  if (parsed.success) return parsed.data;
  throw unreadable(path, index);
}

function unreadable(path: string, index: number): OperatorError {
  return new OperatorError("failed", `line ${index + 1} of the run journal ${path} can't be read`, {
    hints: ["a newer spoolsafe may have written it: use that version", "it records what was placed: don't remove it"],
  });
}
