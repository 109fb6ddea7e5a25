import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import type { Clock } from "../../src/system/clock.ts";

/** What a daemon under test and its jobs need to know; in a file, because they are killed and started again. */
export interface Scene {
  readonly state: string;
  /** Who did what when, a line each: `WHAT JOB TIME`. The last `tick` is the time on the clock. */
  readonly log: string;
  readonly jobs: readonly { readonly job: "backup" | "verify"; readonly expression: string }[];
}

export function readScene(path: string): Scene {
  return JSON.parse(readFileSync(path, "utf8"));
}

/** There while a backup holds something, until it or a recovery gives it back. */
export function heldFile({ log }: Scene): string {
  return `${log}.held`;
}

/** Times of the log's complete lines of this kind. */
export function logged(scene: Scene, what: string, job: string): number[] {
  const lines = readFileSync(scene.log, "utf8").split("\n").slice(0, -1);
  return lines.flatMap((line) => (line.startsWith(`${what} ${job} `) ? [Number(line.split(" ")[2])] : []));
}

/** What the clock says; from the end of a log that grows by fifty lines a second and is asked as often. */
export function lastTick({ log }: Scene): number {
  const fd = openSync(log, "r");
  try {
    const { size } = fstatSync(fd);
    const tail = Buffer.alloc(Math.min(size, 4096));
    readSync(fd, tail, 0, tail.length, size - tail.length);
    const lines = tail
      .toString()
      .split("\n")
      .slice(size > tail.length ? 1 : 0, -1);
    const line = lines.findLast((one) => one.startsWith("tick - "));
    return Number(line?.split(" ")[2] ?? 0);
  } finally {
    closeSync(fd);
  }
}

/** A clock that is moved on by ticks alone, so that a loaded machine changes nothing. */
export function sceneClock(scene: Scene): Clock {
  const now = () => lastTick(scene);
  return { now, monotonic: now, sleep: () => Promise.reject(new Error("nobody sleeps in this scene")) };
}
