import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import * as z from "zod";
import { errnoOf, OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import type { Clock } from "../system/clock.ts";
import { run } from "../system/exec.ts";
import { tryLock } from "../system/lock.ts";
import { isAtTerminal, isHidden, processesIn, processesOfSession } from "../system/processes.ts";

/** Beside the reports: what a drill under way has made elsewhere. It is there before the directory is. */
export const workFile = "work.json";

const workSchema = z.object({ version: z.literal(1), directory: z.string().regex(/\/spoolsafe-drill-[0-9a-f]{12}$/) });

/** @param directory of the throw-away Postfix; its name begins with `workPrefix` and ends with the drill's id */
export function workRecord(directory: string): string {
  return `${JSON.stringify({ version: 1, directory })}\n`;
}

export const workPrefix = "spoolsafe-drill-";

/**
 * Take away what drills left that were killed: processes, mounts, files. One that is still at work holds the lock of its
 * directory and is left alone.
 *
 * @param drills `<state>/drills`; to be called with its lock held
 * @returns ids of the drills something was left of
 */
export async function sweepDead(drills: string, clock: Clock): Promise<string[]> {
  const swept: string[] = [];
  for (const id of readdirSync(drills)) {
    const place = join(drills, id);
    if (!/^[0-9a-f]{12}$/.test(id) || !isLeft(place)) continue;
    const lock = await tryLock(place, 200);
    if (lock === undefined) continue;
    try {
      await takeAway(place, clock);
      swept.push(id);
    } finally {
      await lock.release();
    }
  }
  return swept;
}

/** A drill that works on, or was killed: it has not taken its file away, or has not come to write one. */
function isLeft(place: string): boolean {
  return existsSync(join(place, workFile)) || readdirSync(place).length === 0;
}

/** Take away all that the file of a drill speaks of, then the file; the directory stays where it has a report. */
export async function takeAway(place: string, clock: Clock): Promise<void> {
  const file = join(place, workFile);
  const directory = directoryIn(file);
  if (directory !== undefined) {
    await endProcesses(directory, clock);
    for (const mount of mountsBelow(directory)) await run("umount", ["--lazy", mount]);
    rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
  rmSync(file, { force: true });
  removeIfEmpty(place);
}

/** Undefined where nothing was made yet: a file that can't be read was not written to its end. */
function directoryIn(file: string): string | undefined {
  if (statSync(file, { throwIfNoEntry: false }) === undefined) return undefined;
  const parsed = workSchema.safeParse(parseJson(readFileSync(file, "utf8")));
  if (!parsed.success || !basename(parsed.data.directory).startsWith(workPrefix)) return undefined;
  return parsed.data.directory;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * SIGKILL for every process that works below a directory, until there is none. Without CAP_SYS_PTRACE, which containers lack, the
 * kernel doesn't tell where a process of Postfix works (proc(5)); those are known by the lock of their master(8), and its session.
 *
 * @throws OperatorError `failed` when one does not end, such as one that waits for a disk that is gone
 */
export async function endProcesses(directory: string, clock: Clock): Promise<void> {
  const masters = new Set<number>();
  const until = clock.monotonic() + endMs;
  for (;;) {
    for (const pid of await hiddenMasters(directory)) masters.add(pid);
    // Whoever looks around in there at a terminal is none of ours.
    const inside = processesIn(directory).filter((pid) => !isAtTerminal(pid));
    const found = new Set([...inside, ...[...masters].flatMap(processesOfSession)]);
    if (found.size === 0) return;
    if (clock.monotonic() > until) throw unending([...found], directory);
    for (const pid of found) kill(pid);
    await clock.sleep(10);
  }
}

const endMs = 60_000;

function unending(pids: readonly number[], directory: string): OperatorError {
  return new OperatorError("failed", `processes of the drill in ${directory} do not end: ${pids.join(", ")}`, {
    hints: [`see what they wait for: ps -o pid,stat,wchan,args -p ${pids.join(",")}`],
  });
}

/** The pid in a locked master.pid is that of the master that has locked it, unless it is one of another PID namespace. */
async function hiddenMasters(directory: string): Promise<number[]> {
  const found: number[] = [];
  for (const queueDirectory of queueDirectoriesOf(directory)) {
    const state = await masterState({ queueDirectory, configDirectory: directory });
    if (state !== "stopped" && state.visible && isHidden(state.pid)) found.push(state.pid);
  }
  return found;
}

/** Of a drill, which has one for each instance, or of one instance. */
function queueDirectoriesOf(directory: string): string[] {
  if (!existsSync(directory)) return [];
  const below = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const all = [directory, ...below.map(({ name }) => join(directory, name))];
  return all.map((each) => join(each, "spool")).filter((spool) => existsSync(spool));
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (errnoOf(error) !== "ESRCH") throw error;
  }
}

/** Deepest first. No drill of this version mounts anything. */
function mountsBelow(directory: string): string[] {
  return readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[1] ?? "")
    .filter((point) => point.startsWith(`${directory}/`))
    .reverse();
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (errnoOf(error) !== "ENOTEMPTY" && errnoOf(error) !== "ENOENT") throw error;
  }
}
