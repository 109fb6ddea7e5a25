import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface CliOptions {
  /** Added to a clean environment: nothing of SPOOLSAFE_*, AWS_* or MAIL_CONFIG comes from ours. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly input?: string;
  /** A program with its arguments that the command is run under, such as `setpriv` or `unshare`. */
  readonly under?: readonly string[];
  /** It is killed after this; default 60 s. */
  readonly timeoutMs?: number;
  /** Called once it runs; what it does to the process (a signal, closing its output) is the test's business. */
  readonly meanwhile?: (child: ReturnType<typeof spawn>) => void;
}

export interface CliResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stdoutBytes: Buffer;
  readonly stderr: string;
  /** The lines of standard output as JSON; throws when one is not. */
  readonly json: readonly Readonly<Record<string, unknown>>[];
}

/** Run the built command, building it first where its sources have changed, and wait for its end. */
export async function spoolsafe(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const command = [...(options.under ?? []), process.execPath, join(builtProgram(), "spoolsafe.js"), ...args];
  const child = spawn(command[0] ?? "", command.slice(1), {
    cwd: options.cwd ?? root,
    env: { ...cleanEnvironment(), ...options.env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeoutMs ?? 60_000);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on("error", () => {});
  child.stdin.end(options.input ?? "");
  options.meanwhile?.(child);
  try {
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (...end) => resolve(end));
    });
    return result(code, signal, Buffer.concat(stdout), Buffer.concat(stderr).toString());
  } finally {
    clearTimeout(timer);
    child.kill("SIGKILL");
  }
}

function result(code: number | null, signal: NodeJS.Signals | null, stdoutBytes: Buffer, stderr: string): CliResult {
  const stdout = stdoutBytes.toString();
  return {
    code,
    signal,
    stdout,
    stdoutBytes,
    stderr,
    get json() {
      return stdout
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line));
    },
  };
}

function cleanEnvironment(): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(SPOOLSAFE_|AWS_|MAIL_CONFIG$|NO_COLOR$|FORCE_COLOR$)/.test(name),
  );
  // Hundreds of starts of the same program: compiled once (a sixth of the CPU time of a small command).
  const compiled = { NODE_COMPILE_CACHE: join(builtProgram(), "compiled") };
  return {
    ...compiled,
    ...Object.fromEntries(kept.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]))),
  };
}

let built: string | undefined;

/**
 * The directory with spoolsafe.js of the sources as they are now. It is named by them, so that several test processes
 * can build at one time, and a change of the sources never meets a program that runs.
 */
export function builtProgram(): string {
  if (built !== undefined) return built;
  const parent = join(root, ".vitest");
  const directory = join(parent, `built-${sourceDigest()}`);
  if (!existsSync(directory)) {
    const outdir = `${directory}.${process.pid}`;
    mkdirSync(parent, { recursive: true });
    const build = spawnSync(process.execPath, [join(root, "scripts/build.mjs"), "--outdir", outdir], {
      encoding: "utf8",
    });
    if (build.status !== 0) throw new Error(`the build failed:\n${build.stderr}`);
    publish(outdir, directory);
    removeOld(parent, directory);
  }
  built = directory;
  return directory;
}

function publish(outdir: string, directory: string): void {
  try {
    renameSync(outdir, directory);
  } catch (error) {
    rmSync(outdir, { recursive: true, force: true });
    if (!existsSync(directory)) throw error;
  }
}

function removeOld(parent: string, current: string): void {
  const hourAgo = Date.now() - 60 * 60 * 1000;
  for (const name of readdirSync(parent)) {
    const path = join(parent, name);
    if (!name.startsWith("built-") || path === current) continue;
    if ((statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) < hourAgo)
      rmSync(path, { recursive: true, force: true });
  }
}

function sourceDigest(): string {
  const names = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join("src", name));
  const sha256 = createHash("sha256");
  for (const name of [...names.sort(), "scripts/build.mjs", "package-lock.json", "package.json"]) {
    sha256.update(name).update(readFileSync(join(root, name)));
  }
  return sha256.digest("hex").slice(0, 16);
}
