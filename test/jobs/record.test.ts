import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isRunning, readJob, recordEnd, recordStart } from "../../src/jobs/record.ts";
import { processStart } from "../../src/system/processes.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

let state = "";
beforeEach(() => {
  state = makeScratch();
});
afterEach(() => destroyScratch(state));

const at = (minute: number) => new Date(Date.UTC(2026, 10, 24, 2, minute));
const text = (minute: number) => at(minute).toISOString();

test("a job that never ran has a record of nulls, and so has one whose file is not a record", () => {
  const never = readJob(state, "backup");
  expect(never).toMatchObject({ job: "backup", lastStart: null, lastExit: null, lastSuccess: null, detail: null });
  mkdirSync(join(state, "jobs"));
  for (const damaged of ["", "{", '{"job":"backup"}', "null"]) {
    writeFileSync(join(state, "jobs", "backup.json"), damaged);
    expect(readJob(state, "backup")).toEqual(never);
  }
});

test("success, failure and success again", () => {
  const first = recordStart(state, { job: "backup", now: at(0) });
  expect(isRunning(readJob(state, "backup"))).toBe(true);
  recordEnd(state, first, { exit: 0, now: at(1), detail: { snapshot: "abc", messages: 7 } });
  const second = recordStart(state, { job: "backup", now: at(10) });
  recordEnd(state, second, { exit: 1, now: at(11) });
  expect(readJob(state, "backup")).toMatchObject({
    lastStart: text(10),
    lastEnd: text(11),
    lastExit: 1,
    lastSuccess: text(0),
    running: null,
    detail: { snapshot: "abc", messages: 7 },
  });
  recordEnd(state, recordStart(state, { job: "backup", now: at(20) }), { exit: 3, now: at(21) });
  expect(readJob(state, "backup")).toMatchObject({ lastExit: 3, lastSuccess: text(20), detail: null });
  expect(readdirSync(join(state, "jobs"))).toEqual(["backup-history.json", "backup.json"]);
});

test("a run that finds the lock held leaves the one that holds it in its place", () => {
  const long = recordStart(state, { job: "backup", now: at(0), due: text(0) });
  const refused = recordStart(state, { job: "backup", now: at(5) });
  recordEnd(state, refused, { exit: 11, now: at(5) });
  expect(readJob(state, "backup")).toMatchObject({ lastStart: text(0), lastEnd: null, lastLocked: text(5) });
  expect(isRunning(readJob(state, "backup"))).toBe(true);
  recordEnd(state, long, { exit: 0, now: at(9) });
  expect(readJob(state, "backup")).toMatchObject({ lastStart: text(0), lastExit: 0, lastSuccess: text(0) });
});

test("a run that finds the lock held while the one that holds it ends does not bring that back as a dead one", () => {
  const long = recordStart(state, { job: "backup", now: at(0) });
  const refused = recordStart(state, { job: "backup", now: at(5) });
  recordEnd(state, long, { exit: 0, now: at(6) });
  recordEnd(state, refused, { exit: 11, now: at(6) });
  expect(readJob(state, "backup")).toMatchObject({ lastStart: text(0), lastSuccess: text(0), running: null });
});

test("a run by hand beside a scheduled one does not hide how that ended", () => {
  const scheduled = recordStart(state, { job: "verify", now: at(0), due: text(0) });
  const byHand = recordStart(state, { job: "verify", now: at(1) });
  recordEnd(state, byHand, { exit: 13, now: at(2) });
  recordEnd(state, scheduled, { exit: 0, now: at(3) });
  expect(readJob(state, "verify").scheduled).toEqual({ due: text(0), start: text(0), end: text(3), exit: 0 });
});

test("a run whose process is gone is not running", async () => {
  const child = spawn("sleep", ["60"]);
  const started = processStart(child.pid ?? 0) ?? "";
  recordStart(state, { job: "prune", now: at(0), process: { pid: child.pid ?? 0, startTicks: started } });
  expect(isRunning(readJob(state, "prune"))).toBe(true);
  child.kill("SIGKILL");
  await new Promise((resolve) => child.on("close", resolve));
  expect(isRunning(readJob(state, "prune"))).toBe(false);
  recordStart(state, { job: "prune", now: at(1), process: { pid: process.pid, startTicks: started } });
  expect(isRunning(readJob(state, "prune"))).toBe(false);
});
