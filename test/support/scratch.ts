import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { fileURLToPath } from "node:url";

/*
 * Directories of tests, and what runs in them. Each carries in its name who made it, so that a later run can prove that
 * its owner is dead and clear up after a test process that was killed.
 */

const prefix = "spoolsafe-test-";
const live = new Set<string>();
const closers = new Set<() => void>();
const guarded = new Set<string>();
let guard: Writable | undefined;
let watching = false;

export interface ScratchOptions {
  /** Where to make it; default the system's temporary directory. */
  readonly parent?: string;
  /** Give it a file system of its own: size of a tmpfs (`"64m"`) mounted there. Needs root. */
  readonly tmpfs?: string;
  /** Permission bits; default 0755, so that Postfix's and other users' processes can pass through. */
  readonly mode?: number;
}

/** Make a directory of this process's own. It, its mounts and every process in it are gone when this process ends. */
export function makeScratch(options: ScratchOptions = {}): string {
  watchForOurEnd(options.parent ?? tmpdir());
  const { pid } = process;
  const name = `${prefix}${pid}-${startTime(pid)}-${randomBytes(3).toString("hex")}`;
  const directory = join(options.parent ?? tmpdir(), name);
  mkdirSync(directory);
  live.add(directory);
  writeFileSync(join(directory, ownerFile), JSON.stringify(ourPlace()));
  if (options.tmpfs !== undefined) {
    mustRun("mount", ["-t", "tmpfs", "-o", `size=${options.tmpfs},mode=755`, "spoolsafe-test", directory]);
    writeFileSync(join(directory, ownerFile), JSON.stringify(ourPlace()));
  }
  chmodSync(directory, options.mode ?? 0o755);
  return directory;
}

/** End every process that works in the directory, unmount what is mounted below it, remove it. May be called twice. */
export function destroyScratch(directory: string): void {
  endProcessesOf(directory);
  for (const mount of mountsBelow(directory)) spawnSync("umount", ["--lazy", mount]);
  rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  live.delete(directory);
}

/** Run something when this process ends, whatever ends it except SIGKILL; synchronous. Returns how to forget it again. */
export function atOurEnd(close: () => void): () => void {
  watchForOurEnd(tmpdir());
  closers.add(close);
  return () => closers.delete(close);
}

/**
 * Clear up after test processes that were killed: directories whose name and owner file name a process of this boot
 * and this PID namespace that is gone (or of an earlier boot). Others are left alone.
 *
 * @returns the directories removed
 */
export function sweepScratch(parent: string = tmpdir()): string[] {
  const dead = readdirSync(parent)
    .filter((name) => name.startsWith(prefix))
    .map((name) => join(parent, name))
    .filter(ownerIsDead);
  for (const directory of dead) destroyScratch(directory);
  return dead;
}

const ownerFile = ".owner";

interface Place {
  readonly boot: string;
  readonly pidNamespace: string;
}

function ourPlace(): Place {
  return {
    boot: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    pidNamespace: readlinkSync("/proc/self/ns/pid"),
  };
}

function ownerIsDead(directory: string): boolean {
  const [, pid, started] = /spoolsafe-test-(\d+)-(\d+)-[0-9a-f]{6}$/.exec(directory) ?? [];
  if (pid === undefined) return false;
  let place: Place;
  try {
    place = JSON.parse(readFileSync(join(directory, ownerFile), "utf8"));
  } catch {
    return false;
  }
  const here = ourPlace();
  if (place.boot !== here.boot) return true;
  return place.pidNamespace === here.pidNamespace && startTime(Number(pid)) !== started;
}

/** Clock ticks between boot and the start of a process (field 22 of /proc/PID/stat): with the pid it names one process. */
function startTime(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1")
      .replace(/^.*\) /s, "")
      .split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** SIGKILL for each process that has to do with the directory, until none is left. */
function endProcessesOf(directory: string): void {
  for (let round = 0; round < 50; round++) {
    const found = processesWhere((pid) => worksIn(pid, directory) || names(pid, directory));
    if (found.length === 0) return;
    for (const pid of found) killQuietly(pid);
    sleepSync(10);
  }
}

/** Processes whose working directory is inside the directory, or that were started with a MAIL_CONFIG inside it. */
export function processesOf(directory: string): number[] {
  return processesWhere((pid) => worksIn(pid, directory));
}

function processesWhere(condition: (pid: number) => boolean): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && condition(pid));
}

/** Whether a process works in the directory, or was started with a MAIL_CONFIG inside it: as Postfix's processes do. */
export function worksIn(pid: number, directory: string): boolean {
  try {
    const cwd = readlinkSync(`/proc/${pid}/cwd`);
    if (cwd === directory || cwd.startsWith(`${directory}/`)) return true;
    return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`MAIL_CONFIG=${directory}/`);
  } catch {
    return false; // gone, a zombie, or not ours to look at
  }
}

/** Whether the directory's name, which nobody else has, is in a process's arguments or environment. */
function names(pid: number, directory: string): boolean {
  try {
    const said = ["cmdline", "environ"].map((file) => readFileSync(`/proc/${pid}/${file}`, "latin1"));
    return said.some((text) => text.includes(directory));
  } catch {
    return false;
  }
}

/** SIGKILL for a process that may be gone already. */
export function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone already
  }
}

/** Block for so many milliseconds: for clearing up where nothing may be awaited. */
export function sleepSync(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function mountsBelow(directory: string): string[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "")
    .filter((point) => point === directory || point.startsWith(`${directory}/`))
    .reverse();
}

function watchForOurEnd(parent: string): void {
  guard ??= startGuard();
  if (!guarded.has(parent)) guard.write(`${parent}\n`);
  guarded.add(parent);
  if (watching) return;
  watching = true;
  process.once("exit", clearUp);
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, endNow);
}

/**
 * A shell that waits for our end (its standard input closes, whatever ends us: Vitest ends its workers with SIGKILL) and
 * then sweeps the directories it was told of. After a clean end it is told `done` and has nothing to do.
 */
function startGuard(): Writable {
  const script = `while IFS= read -r line; do [ "$line" = done ] && exit; set -- "$@" "$line"; done; exec "$0" "$@"`;
  const program = fileURLToPath(new URL("./scratch-guard.ts", import.meta.url));
  const args = ["-c", script, process.execPath, program, String(process.pid)];
  const child = spawn("sh", args, { detached: true, stdio: ["pipe", "ignore", "inherit"], cwd: "/" });
  child.unref();
  child.stdin.on("error", () => {}); // a killed guard leaves its work to the next run's sweep
  if (child.stdin instanceof Socket) child.stdin.unref();
  return child.stdin;
}

function endNow(): void {
  process.exit(130);
}

function clearUp(): void {
  for (const close of closers) close();
  for (const directory of live) destroyScratch(directory);
  guard?.write("done\n");
}

function mustRun(program: string, args: string[]): void {
  const result = spawnSync(program, args, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${program} ${args.join(" ")}: ${result.stderr || result.error?.message}`);
}
