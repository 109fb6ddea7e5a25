import { readFileSync } from "node:fs";
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

/** Times of the log's complete lines of this kind. */
export function logged(scene: Scene, what: string, job: string): number[] {
  const lines = readFileSync(scene.log, "utf8").split("\n").slice(0, -1);
  return lines.flatMap((line) => (line.startsWith(`${what} ${job} `) ? [Number(line.split(" ")[2])] : []));
}

/** A clock that is moved on by ticks alone, so that a loaded machine changes nothing. */
export function sceneClock(scene: Scene): Clock {
  const now = () => logged(scene, "tick", "-").at(-1) ?? 0;
  return { now, monotonic: now, sleep: () => Promise.reject(new Error("nobody sleeps in this scene")) };
}
