import { readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { errnoOf } from "../errors.ts";

/**
 * Pids that have one of these files open (`/proc/PID/fd`, proc(5)), other than our own. Needs root to see other
 * users' processes; one that ends while we look has closed its files.
 */
export function writersOf(paths: readonly string[]): number[] {
  if (paths.length === 0) return [];
  const wanted = new Set(paths.map((path) => realpathSync(path)));
  return pids().filter((pid) => pid !== process.pid && openFiles(pid).some((file) => wanted.has(file)));
}

function pids(): number[] {
  return readdirSync("/proc").flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));
}

function openFiles(pid: number): string[] {
  return vanishing(() => readdirSync(`/proc/${pid}/fd`), []).map((fd) =>
    vanishing(() => readlinkSync(`/proc/${pid}/fd/${fd}`), ""),
  );
}

/** The command name of a process (15 characters at most), or undefined if there is none in our PID namespace. */
export function processName(pid: number): string | undefined {
  return vanishing(() => readFileSync(`/proc/${pid}/comm`, "utf8").trim(), undefined);
}

/**
 * When a process started, in clock ticks after boot (field 22 of /proc/PID/stat, proc(5)): with the pid it names one
 * process of this boot. Undefined if there is none, or only its zombie.
 */
export function processStart(pid: number): string | undefined {
  const stat = vanishing(() => readFileSync(`/proc/${pid}/stat`, "latin1"), "");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
}

/** The arguments a process was started with, its program's name first; empty if there is none. */
export function processArguments(pid: number): string[] {
  return vanishing(() => readFileSync(`/proc/${pid}/cmdline`, "utf8"), "")
    .split("\0")
    .slice(0, -1);
}

/**
 * Processes of a session (field 6 of /proc/PID/stat, proc(5)), zombies left out. The kernel gives the number of a session
 * to no new process while it has members.
 */
export function processesOfSession(session: number): number[] {
  return pids().filter((pid) => {
    const stat = vanishing(() => readFileSync(`/proc/${pid}/stat`, "latin1"), "");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[3] === String(session) && fields[0] !== "Z" && fields[0] !== "X";
  });
}

/**
 * Processes that work in a directory or below it (`/proc/PID/cwd`), or were told to by MAIL_CONFIG, as those of Postfix are,
 * other than our own. Needs root to see other users' processes.
 *
 * @param directory absolute, without links
 */
export function processesIn(directory: string): number[] {
  const inside = (path: string) => path === directory || path.startsWith(`${directory}/`);
  return pids().filter((pid) => {
    if (pid === process.pid || processStart(pid) === undefined) return false;
    if (inside(vanishing(() => readlinkSync(`/proc/${pid}/cwd`), ""))) return true;
    const environment = vanishing(() => readFileSync(`/proc/${pid}/environ`, "latin1"), "");
    return environment.split("\0").some((one) => one.startsWith("MAIL_CONFIG=") && inside(one.slice(12)));
  });
}

/**
 * Whether a process is somebody's at a terminal: it has a controlling terminal (field 7 of /proc/PID/stat, proc(5)) that is not ours,
 * or is the first of its session, as a shell is and nothing that we start.
 */
export function isAtTerminal(pid: number): boolean {
  const [session, terminal] = terminalOf(pid);
  return terminal !== "0" && (session === String(pid) || session !== terminalOf(process.pid)[0]);
}

/** Session and controlling terminal. */
function terminalOf(pid: number): readonly [string, string] {
  const stat = vanishing(() => readFileSync(`/proc/${pid}/stat`, "latin1"), "");
  const [, , , session = "", terminal = "0"] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return [session, terminal];
}

/**
 * Whether the kernel does not tell us where a process works: that takes CAP_SYS_PTRACE for one of another user, and for one that
 * has ever been another (ptrace(2), PTRACE_MODE_READ_FSCREDS).
 */
export function isHidden(pid: number): boolean {
  try {
    readlinkSync(`/proc/${pid}/cwd`);
    return false;
  } catch (error) {
    return errnoOf(error) === "EACCES";
  }
}

function vanishing<T>(look: () => T, otherwise: T): T {
  try {
    return look();
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT" || code === "ESRCH" || code === "EACCES") return otherwise;
    throw error;
  }
}
