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

/** When a process started, milliseconds since 1970 (to 10 ms: field 22 of `/proc/PID/stat` in clock ticks of 1/100 s after boot). */
export function processStartedAt(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The command (field 2) is in parentheses and may hold anything; the fields after it are counted from there.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = Number(fields[19]);
  const uptimeMs = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000;
  return Date.now() - uptimeMs + ticks * 10;
}

/** The command name of a process (15 characters at most), or undefined if there is none in our PID namespace. */
export function processName(pid: number): string | undefined {
  return vanishing(() => readFileSync(`/proc/${pid}/comm`, "utf8").trim(), undefined);
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
