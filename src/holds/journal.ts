import { closeSync, existsSync, fdatasyncSync, linkSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import { fsyncDirectory, makePrivateDirectory, textIfThere, writeAll } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import { syncHold } from "./sync-hold.ts";

/**
 * Why a message is on hold because of us. `capture`: for the moment of a backup, ours to release after a crash.
 * `restore`: placed by a restore and waiting for an operator's release. `fence`: taken over by another host. What an
 * administrator or a filter held is in no journal and is never released by us.
 */
export type HoldKind = "capture" | "restore" | "fence";

const startLine = z.object({
  type: z.literal("start"),
  run: z.string(),
  mode: z.enum(["hold", "freeze"]),
  instance: z.string(),
  configDirectory: z.string(),
  queueDirectory: z.string(),
  bootId: z.string(),
  /** RFC 3339. */
  since: z.string(),
  /** Ids on hold before this run: an administrator's, whatever a later listing shows. */
  preheld: z.array(z.string()),
});
const batchLine = z.object({
  type: z.literal("batch"),
  batch: z.number(),
  since: z.string(),
  /** Each message about to be held, in the order postsuper gets them, with its time (seconds) before the hold. */
  messages: z.array(z.tuple([z.string(), z.number()])),
});
const releasedLine = z.object({ type: z.literal("released"), batch: z.number() });
const journalLine = z.discriminatedUnion("type", [startLine, batchLine, releasedLine]);

export type JournalStart = z.infer<typeof startLine>;
export type JournalBatch = z.infer<typeof batchLine>;

/** A capture journal as found on disk: its start, and the batches not known to be released. */
export interface CaptureJournal {
  readonly path: string;
  readonly start: JournalStart;
  readonly open: readonly JournalBatch[];
}

/** Where journals lie below a state directory; on a disk that survives a reboot, never inside a queue directory. */
export function journalDirectory(stateDirectory: string): string {
  return join(stateDirectory, "holds");
}

/**
 * The write-ahead journal of one run's capture holds in one instance. A batch is on disk and synced before postsuper sees
 * its first id, so that whatever dies afterwards leaves enough to give exactly our mail back.
 */
export class HoldJournal {
  readonly path: string;
  readonly #queueDirectory: string;
  readonly #fd: number;
  readonly #open = new Set<number>();

  private constructor(path: string, queueDirectory: string, fd: number) {
    this.path = path;
    this.#queueDirectory = queueDirectory;
    this.#fd = fd;
  }

  static begin(stateDirectory: string, start: Omit<JournalStart, "type" | "bootId">): HoldJournal {
    const directory = journalDirectory(stateDirectory);
    makePrivateDirectory(directory);
    const path = join(directory, `${start.run}.${start.instance.replaceAll("/", "_")}.jsonl`);
    const temporary = `${path}.new`;
    const journal = new HoldJournal(path, start.queueDirectory, openSync(temporary, "ax", 0o600));
    journal.#append({ type: "start", bootId: currentBootId(), ...start });
    fdatasyncSync(journal.#fd);
    // It gets its name with its first line in it: whoever reads journals never meets an empty one.
    linkSync(temporary, path);
    rmSync(temporary);
    fsyncDirectory(directory);
    return journal;
  }

  /** Promise on disk that these messages are about to be held. */
  batch(batch: number, since: string, messages: readonly (readonly [string, number])[]): void {
    this.#open.add(batch);
    this.#append({ type: "batch", batch, since, messages: messages.map(([id, mtime]) => [id, mtime]) });
    fdatasyncSync(this.#fd);
  }

  /**
   * Every message of the batch is known to be out of hold again, and that is made durable first. This line is on disk with
   * the next batch or the journal's end: what postsuper reported tells the same until then.
   */
  released(batch: number): void {
    syncHold(this.#queueDirectory);
    this.#append({ type: "released", batch });
    this.#open.delete(batch);
  }

  /** True while nothing is held that was announced. */
  get settled(): boolean {
    return this.#open.size === 0;
  }

  /** The run is over: a settled journal goes, one with mail still held stays for recovery. */
  close(): void {
    closeSync(this.#fd);
    if (this.settled) removeJournal(this.path);
  }

  #append(line: z.infer<typeof journalLine>): void {
    writeAll(this.#fd, Buffer.from(`${JSON.stringify(line)}\n`));
  }
}

/** Standard error of the postsuper that holds (`-h`) or releases (`-H`) a batch: a file, which outlives us as a pipe does not. */
export function postsuperOutput(journalPath: string, batch: number, action: "hold" | "release"): string {
  return journalPath.replace(/\.jsonl$/, `.${batch}.${action}.stderr`);
}

/** Every capture journal below a state directory, oldest first. */
export function readJournals(stateDirectory: string): CaptureJournal[] {
  const directory = journalDirectory(stateDirectory);
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => name.endsWith(".jsonl"));
  return names.sort().flatMap((name) => readJournal(join(directory, name)) ?? []);
}

/** @returns undefined when its run has removed it meanwhile */
function readJournal(path: string): CaptureJournal | undefined {
  const text = textIfThere(path);
  if (text === undefined) return undefined;
  // The last line may be torn: it was not synced, so what it announces had not begun.
  const lines = text.split("\n").slice(0, -1);
  const parsed = lines.map((line, index) => {
    const result = journalLine.safeParse(parseJson(line));
    if (result.success) return result.data;
    throw new OperatorError("failed", `line ${index + 1} of the hold journal ${path} can't be read`, {
      hints: ["messages may be on hold because of us: compare its ids with `postqueue -p` before removing it"],
    });
  });
  const [start, ...rest] = parsed;
  if (start?.type !== "start") throw new OperatorError("failed", `the hold journal ${path} has no start line`);
  const released = new Set(rest.flatMap((line) => (line.type === "released" ? [line.batch] : [])));
  const open = rest.flatMap((line) => (line.type === "batch" && !released.has(line.batch) ? [line] : []));
  return { path, start, open };
}

/** Remove a journal and its outputs, the journal last: until then recovery would find it again. */
export function removeJournal(path: string): void {
  const directory = dirname(path);
  const stem = `${basename(path, ".jsonl")}.`;
  for (const name of readdirSync(directory)) {
    // The rest of the name in full: another instance's may begin like this one's.
    const isOutput = name.startsWith(stem) && /^\d+\.(hold|release)\.stderr$/.test(name.slice(stem.length));
    if (isOutput) rmSync(join(directory, name), { force: true });
  }
  rmSync(path, { force: true });
  fsyncDirectory(directory);
}

/** Changes with every boot: after one, no process of before is left. */
export function currentBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
