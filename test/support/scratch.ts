import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/*
 * Directories of tests, and what runs in them. Each carries in its name who made it, so that a later run can prove that
 * its owner is dead and clear up after a test process that was killed.
 */

const prefix = "spoolsafe-test-";
const live = new Set<string>();
const closers = new Set<() => void>();
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
  watchForOurEnd();
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
  watchForOurEnd();
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
    return readFileSync(`/proc/${pid}/stat`, "latin1")
      .replace(/^.*\) /s, "")
      .split(" ")[19];
  } catch {
    return undefined;
  }
}

/** SIGKILL for each process whose working directory is inside, or whose MAIL_CONFIG points inside, until none is left. */
function endProcessesOf(directory: string): void {
  for (let round = 0; round < 50; round++) {
    const found = processesOf(directory);
    if (found.length === 0) return;
    for (const pid of found) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // gone already
      }
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
}

/** Processes whose working directory is inside the directory, or that were started with a MAIL_CONFIG inside it. */
export function processesOf(directory: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => pid !== process.pid && worksIn(pid, directory));
}

/** Whether a process works in the directory, or was started with a MAIL_CONFIG inside it. */
export function worksIn(pid: number, directory: string): boolean {
  try {
    const cwd = readlinkSync(`/proc/${pid}/cwd`);
    if (cwd === directory || cwd.startsWith(`${directory}/`)) return true;
    return readFileSync(`/proc/${pid}/environ`, "latin1")
      .split("\0")
      .some((entry) => entry.startsWith(`MAIL_CONFIG=${directory}/`));
  } catch {
    return false; // gone, a zombie, or not ours to look at
  }
}

function mountsBelow(directory: string): string[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "")
    .filter((point) => point === directory || point.startsWith(`${directory}/`))
    .reverse();
}

function watchForOurEnd(): void {
  if (watching) return;
  watching = true;
  process.once("exit", clearUp);
  // A vitest worker whose parent was killed sees its channel close and nothing else.
  process.once("disconnect", endNow);
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, endNow);
}

function endNow(): void {
  process.exit(130);
}

function clearUp(): void {
  for (const close of closers) close();
  for (const directory of live) destroyScratch(directory);
}

function mustRun(program: string, args: string[]): void {
  const result = spawnSync(program, args, { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`${program} ${args.join(" ")}: ${result.stderr || result.error?.message}`);
}
