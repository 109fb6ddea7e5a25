import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { OperatorError } from "../errors.ts";

export interface RunOptions {
  /** Written to the program's standard input, which is then closed. Without it standard input is /dev/null. */
  readonly input?: string | Uint8Array;
  readonly cwd?: string;
  /** Added to (or, with undefined, taken out of) our own environment. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Milliseconds until the program is ended (SIGTERM, then SIGKILL after 2 s); default one minute. */
  readonly timeoutMs?: number;
  /** Bytes of standard output kept before the run counts as failed; default 256 MiB. */
  readonly maxOutput?: number;
  /** Send standard output to /dev/null; the result then has none. */
  readonly discardOutput?: boolean;
  /** Exit codes that are answers and not failures; default `[0]`. */
  readonly okCodes?: readonly number[];
  /** A file descriptor that receives standard error instead of a pipe; it stays the caller's to close. */
  readonly stderrFd?: number;
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/**
 * Run a program by its argument vector, never through a shell, and collect what it says. `LC_ALL=C`, so messages can
 * be parsed.
 *
 * @throws OperatorError `program-failed` (could not be started, timed out, signalled, too much output or a code not in
 * okCodes), its message quoting the program's last line on standard error.
 */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const child = spawn(program, args, {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, PATH: programPath(), LC_ALL: "C", ...options.env },
    stdio: [
      options.input === undefined ? "ignore" : "pipe",
      options.discardOutput ? "ignore" : "pipe",
      options.stderrFd ?? "pipe",
    ],
  });
  let reason: string | undefined;
  let killTimer: NodeJS.Timeout | undefined;
  const end = (why: string) => {
    reason ??= why;
    child.kill("SIGTERM");
    killTimer ??= setTimeout(() => child.kill("SIGKILL"), 2000);
  };
  const timeoutMs = options.timeoutMs ?? 60_000;
  const timer = setTimeout(() => end(`did not finish within ${timeoutMs / 1000} s`), timeoutMs);
  const onAbort = () => end("was interrupted");
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted) onAbort();

  const closed = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal }));
  });
  // The program may exit without reading its input; its exit code tells more than our EPIPE.
  child.stdin?.on("error", () => {});
  if (options.input !== undefined) child.stdin?.end(options.input);
  try {
    const [stdout, stderr, exit] = await Promise.all([
      collect(child.stdout, options.maxOutput ?? 256 * 1024 * 1024, () => end("printed more than expected")),
      collect(child.stderr, 16 * 1024 * 1024, () => {}),
      closed,
    ]);
    const said = stderr.toString("utf8");
    if (reason !== undefined || exit.code === null || !(options.okCodes ?? [0]).includes(exit.code)) {
      throw failure(program, args, reason ?? describeExit(exit), said);
    }
    return { code: exit.code, stdout, stderr: said };
  } catch (error) {
    if (error instanceof OperatorError) throw error;
    throw failure(program, args, error instanceof Error ? error.message : String(error), "", error);
  } finally {
    clearTimeout(timer);
    clearTimeout(killTimer);
    options.signal?.removeEventListener("abort", onAbort);
  }
}

/** Our PATH, and the directories of Postfix's commands, which cron's `/usr/bin:/bin` lacks. */
export function programPath(): string {
  return `${process.env.PATH ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`;
}

async function collect(stream: Readable | null, limit: number, tooMuch: () => void): Promise<Buffer> {
  if (stream === null) return Buffer.alloc(0);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) tooMuch();
    else chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function describeExit(exit: { code: number | null; signal: NodeJS.Signals | null }): string {
  return exit.code === null ? `was ended by ${exit.signal}` : `exited with ${exit.code}`;
}

function failure(program: string, args: readonly string[], what: string, stderr: string, cause?: unknown) {
  const lastLine = stderr.trim().split("\n").at(-1) ?? "";
  const line = [program, ...args].join(" ");
  return new OperatorError("program-failed", `${line} ${what}${lastLine === "" ? "" : `: ${lastLine}`}`, { cause });
}
