import type { Config } from "../config/schema.ts";

const minute = 60 * 1000;
const hour = 60 * minute;
const day = 24 * hour;

/**
 * The last times something was due up to `until`, the newest first. Looked for further and further back: most jobs run every
 * day, and those of a leap day every four years are none.
 */
export function lastDue(
  calendar: { between(from: number, to: number): Iterable<number> },
  until: number,
  count: number,
): readonly number[] {
  let due: number[] = [];
  for (const back of [2, 15, 70, 800]) {
    due = [...calendar.between(until - back * day, until)].slice(-count).reverse();
    if (due.length === count) return due;
  }
  return due;
}

/** Whoever makes up missed runs has done so by then, milliseconds after the time a run was due. */
export function graceOf({ catch_up, jitter }: Config["schedule"]): number {
  return Math.max(catch_up, hour) + jitter + minute;
}
