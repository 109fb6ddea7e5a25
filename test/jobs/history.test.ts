import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readBackupHistory, runsKept } from "../../src/jobs/history.ts";
import { recordEnd, recordStart } from "../../src/jobs/record.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

let state: string;
beforeEach(() => {
  state = makeScratch();
});
afterEach(() => destroyScratch(state));

const at = (minute: number) => new Date(Date.UTC(2026, 10, 24, 2, minute));

function ran(minute: number, exit: number, job: "backup" | "verify" = "backup"): void {
  const detail = { snapshot: "abc", messages: minute, heldLongestMs: 85, mode: "hold" };
  recordEnd(state, recordStart(state, { job, now: at(minute) }), { exit, now: at(minute + 1), detail });
}

test("backups that ended are kept with their end, good or not; other jobs and refused runs are not", () => {
  expect(readBackupHistory(state)).toEqual([]);
  ran(0, 0);
  ran(5, 1);
  ran(6, 11);
  ran(7, 0, "verify");
  expect(readBackupHistory(state)).toMatchObject([
    { start: at(0).toISOString(), end: at(1).toISOString(), exit: 0, snapshot: "abc", messages: 0, heldLongestMs: 85 },
    { exit: 1 },
  ]);
});

test("so many of them, and a file that is none is written anew", () => {
  const file = join(state, "jobs/backup-history.json");
  mkdirSync(join(state, "jobs"), { recursive: true });
  writeFileSync(file, "{");
  ran(0, 0);
  const [run] = readBackupHistory(state);
  writeFileSync(file, JSON.stringify({ format: 1, runs: new Array(runsKept).fill(run) }));
  ran(1, 1);
  const runs = readBackupHistory(state);
  expect(runs).toHaveLength(runsKept);
  expect(runs.at(-1)).toMatchObject({ start: at(1).toISOString(), exit: 1 });
});
