import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from "node:fs";
import type { Readable, Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, OperatorError } from "../errors.ts";
import type { JobProcess } from "../jobs/record.ts";
import { digestOf } from "../system/digest.ts";
import { processArguments, processesOfSession, processStart } from "../system/processes.ts";
import type { Secrets } from "./secrets.ts";

/** How the execution of a block ended. `killed`: by a signal that was not ours, or at the operator's word. */
export type BlockOutcome = "ok" | "failed" | "timeout" | "killed";

/** What is left of a block on disk, by one stem such as `/var/lib/spoolsafe/runbooks/RUN/03-release`. */
export interface BlockFiles {
  /** What it said, both streams in one; of a block whose output is compared, standard output. Appended to. */
  readonly output: string;
  /** Standard error of a block whose output is compared. */
  readonly errors: string;
  /** The environment it ended with, and its exit code: there as soon as it has ended, whoever is left to see it. */
  readonly environment: string;
  /** There until it is let go: while it is, nothing was executed. (Taken away, not made: a full disk must not lie.) */
  readonly waiting: string;
}

export function blockFiles(stem: string): BlockFiles {
  return { output: `${stem}.out`, errors: `${stem}.err`, environment: `${stem}.env`, waiting: `${stem}.waiting` };
}

export interface BlockJob {
  readonly script: string;
  /** Shown by ps(1), and by bash where it complains. */
  readonly name: string;
  /** All of its environment, SPOOLSAFE_* and PATH included. */
  readonly env: Readonly<Record<string, string>>;
  readonly directory: string;
  /** Null: nothing can be written anywhere. Then output and environment come through pipes. */
  readonly files: BlockFiles | null;
  /** Keep standard error out of `output`. */
  readonly apart: boolean;
  readonly secrets: Secrets;
  /** Infinity: none. */
  readonly timeoutMs: number;
  /** Between SIGTERM and SIGKILL; default 10 s. */
  readonly graceMs?: number;
  /** Whole lines as they come, secrets taken out. */
  readonly onOutput?: (text: string) => void;
}

export interface BlockResult {
  readonly outcome: BlockOutcome;
  readonly code: number | null;
  readonly signal: string | null;
  readonly ms: number;
  /** Standard output of a block whose errors are apart, else all it said; the last mebibyte. */
  readonly output: string;
  /** SHA-256 of all of it. */
  readonly sha256: string;
  /** What its environment was at the end; null when it can't be known. */
  readonly environment: ReadonlyMap<string, string> | null;
}

/** A block that waits to be let go. */
export interface StartedBlock {
  readonly process: JobProcess;
  /** Until this it does nothing, and if we end before, it never will. */
  go(): void;
  /** SIGTERM for its whole session, SIGKILL for what is left after the grace time. */
  end(): void;
  readonly ended: Promise<BlockResult>;
}

/**
 * Starts `bash --noprofile --norc -euo pipefail` behind a gate: a shell that waits for a line from us and then becomes it,
 * with the same pid. So the pid can be on disk before anything is done.
 *
 * It is a session of its own, with /dev/null as standard input: neither Ctrl-C nor the loss of the terminal nor our end
 * reaches it. What it says goes through sed(1), which takes the secrets out, into a file; sed is in a session of its own
 * and, should the disk be full, swallows the rest: a log that can't be written does not end what it is the log of.
 *
 * @throws OperatorError `program-failed` when no process can be started
 */
export function startBlock(job: BlockJob): StartedBlock {
  const { files } = job;
  const output = files === null ? "pipe" : openAppend(files.output);
  const errors = files === null || !job.apart ? output : openAppend(files.errors);
  if (files !== null) {
    rmSync(files.environment, { force: true });
    closeSync(openAppend(files.waiting));
  }
  const offset = typeof output === "number" ? fstatSync(output).size : 0;
  const child = spawn(
    "/bin/bash",
    [
      "--noprofile",
      "--norc",
      "-c",
      job.apart ? gateApart : gate,
      "gate",
      withTrap(job),
      files?.waiting ?? "",
      job.name,
    ],
    {
      cwd: job.directory,
      env: { ...job.env },
      detached: true,
      stdio: ["pipe", "ignore", "ignore", output, "pipe", errors, files === null ? "pipe" : "ignore"],
    },
  );
  for (const fd of new Set([output, errors])) if (typeof fd === "number") closeSync(fd);
  const follow = files === null ? followPipes(child, job) : followFile(files, offset, job);
  const { pid } = child;
  const startTicks = pid === undefined ? undefined : processStart(pid);
  const exited = exitOf(child);
  if (pid === undefined || startTicks === undefined) {
    throw new OperatorError("program-failed", "bash could not be started", {
      hints: ["perhaps there are too many processes, or too little memory"],
    });
  }
  const stdin = child.stdin;
  if (stdin === null) throw new Error("a child without standard input");
  stdin.on("error", () => {});
  stdin.write(`${job.secrets.sedScript}\0${job.secrets.keptOut}\0`);
  const session = new Session(pid, job.graceMs ?? 10_000);
  const ended = watch({ job, child, session, exited, follow });
  return {
    process: { pid, startTicks },
    go: () => void stdin.end("go\n"),
    end: () => session.end("killed"),
    ended,
  };
}

/*
 * $1 script with its trap, $2 file that says it waits, $3 name. Standard input: the program for sed, ended by NUL; what
 * is to be kept out of the environment file, ended by NUL; `go`. Descriptor 3: output, 5: errors, 4: closed when all of the
 * output has been written, 6: the environment where it has no file. A pipe of Node is a socket pair, which can't be opened as /dev/fd/N, as scripts that write to
 * /dev/stderr do: so bash makes the pipes.
 */
const beforeBlock = `umask 077
IFS= read -r -d '' filter || exit 0
IFS= read -r -d '' SPOOLSAFE_KEPT_OUT || exit 0
read -r go || exit 0
rm -f -- "$2"
`;
const becomeBlock = `exec 3>&- 4>&- 5>&-
SPOOLSAFE_KEPT_OUT=$SPOOLSAFE_KEPT_OUT exec /bin/bash --noprofile --norc -euo pipefail -c "$1" "$3"`;

/** Whether this process, the one of a block, is past its gate: then it is the block's own bash. */
export function wasLetGo({ pid }: JobProcess): boolean {
  return processArguments(pid).includes("-euo");
}

/** A process substitution that filters into this descriptor, in a session that no signal of ours or a terminal's ends. */
function filterInto(descriptor: number): string {
  return `> >(filter=$filter exec setsid bash -c 'trap "" HUP INT TERM PIPE
sed -u -E -f <(printf "%s\\n" "$filter") >&${descriptor}; exec cat > /dev/null' 2> /dev/null)`;
}

const gate = `${beforeBlock}exec < /dev/null 1${filterInto(3)} 2>&1\n${becomeBlock}`;
const gateApart = `${beforeBlock}exec < /dev/null 1${filterInto(3)} 2${filterInto(5)}\n${becomeBlock}`;

/**
 * The trap stands on the first line of the script, so that line numbers in bash's messages stay. It writes what was exported
 * and is no secret, and at the end the exit code, which says that the rest is whole.
 */
function withTrap({ script, files }: BlockJob): string {
  const target = files === null ? "&6" : ` ${quoted(files.environment)}`;
  const lines = [
    "spoolsafe_code=$?",
    "set +eu",
    `{ command -p env -0 -u SPOOLSAFE_KEPT_OUT | command -p grep -zvF -f <(printf "%s\\n" "$SPOOLSAFE_KEPT_OUT")`,
    `printf "${codeName}=%s\\0" "$spoolsafe_code"; } >${target} 2> /dev/null`,
  ];
  return `trap ${quoted(lines.join("; "))} EXIT; ${script}`;
}

const codeName = "SPOOLSAFE_BLOCK_EXIT";

/** For a shell, whatever is in it. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function openAppend(path: string): number {
  return openSync(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
}

interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
}

function exitOf(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.on("error", () => resolve({ code: null, signal: null }));
    child.on("exit", (code, signal) => resolve({ code, signal }));
  });
}

interface Watched {
  readonly job: BlockJob;
  readonly child: ChildProcess;
  readonly session: Session;
  readonly exited: Promise<Exit>;
  readonly follow: Follow;
}

async function watch({ job, child, session, exited, follow }: Watched): Promise<BlockResult> {
  const begin = performance.now();
  const timer = Number.isFinite(job.timeoutMs)
    ? setTimeout(() => session.end("timeout"), Math.min(job.timeoutMs, 2 ** 31 - 1))
    : undefined;
  const written = closed(pipesOf(child)[4]);
  const exit = await exited;
  clearTimeout(timer);
  const ms = Math.round(performance.now() - begin);
  // What it started may still be there, and be told to end: nothing of it is to be at work when we go on.
  await session.gone;
  // A process it left behind may keep the pipe open; its words come too late.
  await Promise.race([written, delay(2000)]);
  for (const pipe of pipesOf(child).slice(3)) pipe?.destroy();
  const { output, sha256 } = follow.finish();
  const outcome = session.reason ?? (exit.code === 0 ? "ok" : exit.code === null ? "killed" : "failed");
  const left = job.files === null ? parseEnvironment(follow.environment()) : readEnvironment(job.files.environment);
  const environment = left?.variables ?? null;
  return { outcome, ...exit, ms, output, sha256, environment };
}

/** Node's types know five of them. */
function pipesOf(child: ChildProcess): readonly (Readable | Writable | null | undefined)[] {
  return child.stdio;
}

function closed(stream: Readable | Writable | null | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (stream === null || stream === undefined) return resolve();
    stream.on("error", () => resolve());
    stream.on("close", () => resolve());
    if ("resume" in stream) stream.resume();
  });
}

/** The processes of a block, and their end. */
class Session {
  readonly #id: number;
  readonly #graceMs: number;
  #reason: "timeout" | "killed" | undefined;
  /** Resolves when nothing of it is left that was told to end; at once while nothing was. */
  gone: Promise<void> = Promise.resolve();

  constructor(id: number, graceMs: number) {
    this.#id = id;
    this.#graceMs = graceMs;
  }

  get reason(): "timeout" | "killed" | undefined {
    return this.#reason;
  }

  end(reason: "timeout" | "killed"): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.gone = endSession(this.#id, this.#graceMs);
  }
}

/**
 * SIGTERM for every process of a session, SIGKILL for those that are left after the grace time, until none is. A daemon
 * that made a session of its own, as Postfix's master(8) does, is none of them.
 */
export async function endSession(id: number, graceMs: number): Promise<void> {
  signalAll(processesOfSession(id), "SIGTERM");
  const deadline = performance.now() + graceMs;
  for (;;) {
    const left = processesOfSession(id);
    if (left.length === 0) return;
    if (performance.now() >= deadline) signalAll(left, "SIGKILL");
    await delay(50);
  }
}

function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (errnoOf(error) !== "ESRCH") throw error;
    }
  }
}

/** Hands on what a block says while it says it. */
interface Follow {
  /** To be called when nothing more comes. */
  finish(): { readonly output: string; readonly sha256: string };
  /** What came by a pipe of its own. */
  environment(): string;
}

const keptBytes = 1024 * 1024;

function followFile({ output, errors }: BlockFiles, offset: number, job: BlockJob): Follow {
  const tails = [new Tail(output, offset, job.onOutput)];
  if (job.apart) tails.push(new Tail(errors, sizeOf(errors), job.onOutput));
  const timer = job.onOutput === undefined ? undefined : setInterval(() => readAll(tails), 100);
  return {
    finish: () => {
      clearInterval(timer);
      for (const tail of tails) tail.end();
      return { output: lastOf(output, offset), sha256: digestFrom(output, offset) };
    },
    environment: () => "",
  };
}

function readAll(tails: readonly Tail[]): void {
  for (const tail of tails) tail.read();
}

function followPipes(child: ChildProcess, job: BlockJob): Follow {
  const chunks: Buffer[] = [];
  const lines = new Lines(job.onOutput);
  const [, , , output, , errors, variables] = pipesOf(child);
  const environment: Buffer[] = [];
  variables?.on("error", () => {});
  variables?.on("data", (chunk: Buffer) => void environment.push(chunk));
  for (const pipe of [output, job.apart ? errors : undefined]) {
    pipe?.on("error", () => {});
    pipe?.on("data", (chunk: Buffer) => {
      if (pipe === output) chunks.push(chunk);
      lines.add(chunk);
    });
  }
  return {
    finish: () => {
      lines.end();
      const bytes = Buffer.concat(chunks);
      return { output: bytes.subarray(-keptBytes).toString("utf8"), sha256: digestOf(bytes).digest };
    },
    environment: () => Buffer.concat(environment).toString("utf8"),
  };
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** The end of what stands behind the offset. Nothing where the file is gone: then nothing is known of what was said. */
function lastOf(path: string, offset: number): string {
  const from = Math.max(offset, sizeOf(path) - keptBytes);
  const chunks: Buffer[] = [];
  readFrom(path, from, (chunk) => void chunks.push(Buffer.from(chunk)));
  return Buffer.concat(chunks).toString("utf8");
}

function digestFrom(path: string, offset: number): string {
  const sha256 = createHash("sha256");
  readFrom(path, offset, (chunk) => void sha256.update(chunk));
  return sha256.digest("hex");
}

/** In pieces that are valid during the call. @returns how many bytes there were */
function readFrom(path: string, offset: number, take: (chunk: Buffer) => void): number {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    return 0; // somebody removed it: what it would have told is all that is lost
  }
  try {
    const chunk = Buffer.allocUnsafe(64 * 1024);
    for (let done = 0; ; ) {
      const got = readSync(fd, chunk, 0, chunk.length, offset + done);
      if (got === 0) return done;
      take(chunk.subarray(0, got));
      done += got;
    }
  } finally {
    closeSync(fd);
  }
}

/** What is appended to a file, line by line. */
class Tail {
  readonly #path: string;
  readonly #lines: Lines;
  #offset: number;

  constructor(path: string, offset: number, onOutput: BlockJob["onOutput"]) {
    this.#path = path;
    this.#offset = offset;
    this.#lines = new Lines(onOutput);
  }

  read(): void {
    this.#offset += readFrom(this.#path, this.#offset, (chunk) => this.#lines.add(chunk));
  }

  end(): void {
    this.read();
    this.#lines.end();
  }
}

class Lines {
  readonly #tell: BlockJob["onOutput"];
  readonly #decoder = new StringDecoder("utf8");
  #rest = "";

  constructor(tell: BlockJob["onOutput"]) {
    this.#tell = tell;
  }

  add(chunk: Buffer): void {
    const text = this.#rest + this.#decoder.write(chunk);
    const end = text.lastIndexOf("\n") + 1;
    this.#rest = text.slice(end);
    if (end > 0) this.#tell?.(text.slice(0, end));
  }

  end(): void {
    if (this.#rest !== "") this.#tell?.(this.#rest);
    this.#rest = "";
  }
}

export interface LeftEnvironment {
  readonly code: number;
  readonly variables: ReadonlyMap<string, string>;
}

/** What a block's trap left; undefined where it wrote none, or not all of it. */
export function readEnvironment(path: string): LeftEnvironment | undefined {
  return existsSync(path) ? parseEnvironment(readFileSync(path, "utf8")) : undefined;
}

function parseEnvironment(text: string): LeftEnvironment | undefined {
  const entries = text
    .split("\0")
    .slice(0, -1)
    .map((entry): [string, string] => {
      const at = entry.indexOf("=");
      return [entry.slice(0, at), entry.slice(at + 1)];
    });
  const [name, code] = entries.at(-1) ?? [];
  if (name !== codeName) return undefined;
  return { code: Number(code), variables: new Map(entries.slice(0, -1)) };
}
