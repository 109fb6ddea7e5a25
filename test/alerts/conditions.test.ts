import { describe, expect, test } from "vitest";
import { type BackedUp, conditionsOf, type Situation } from "../../src/alerts/conditions.ts";
import type { JobRecord } from "../../src/jobs/record.ts";

const now = new Date("2026-11-24T12:00:00.000Z");
const hoursAgo = (hours: number) => new Date(now.getTime() - hours * 3_600_000).toISOString();
const never: JobRecord = {
  job: "backup",
  lastStart: null,
  lastEnd: null,
  lastExit: null,
  lastSuccess: null,
  lastLocked: null,
  running: null,
  scheduled: null,
  missedTarget: null,
  detail: null,
};
const good: JobRecord = {
  ...never,
  lastStart: hoursAgo(1),
  lastEnd: hoursAgo(1),
  lastExit: 0,
  lastSuccess: hoursAgo(1),
};

function find(record: Partial<JobRecord>, situation: Partial<Situation> = {}) {
  return conditionsOf({
    records: [{ ...good, ...record }],
    running: () => false,
    limits: [{ job: "backup", maxAgeMs: 26 * 3_600_000 }],
    dueLimits: [],
    schedules: {},
    backups: [],
    reasons: {},
    before: {},
    watchedSince: hoursAgo(1000),
    now,
    ...situation,
  });
}

const keys = (...args: Parameters<typeof find>) => find(...args).map(({ key }) => key);

describe("how a run ended", () => {
  test.each([
    [0, []],
    [3, ["backup-incomplete"]],
    [1, ["backup-failed"]],
    [12, ["backup-failed"]],
    [13, ["backup-failed"]],
    [130, ["backup-failed"]],
    [137, ["backup-failed"]],
    [null, []],
  ])("exit %s: %j", (lastExit, expected) => expect(keys({ lastExit })).toEqual(expected));

  test("is told in its own words, if they are about this run", () => {
    const reasons = { backup: { start: hoursAgo(1), message: "the disk is full" } };
    expect(find({ lastExit: 1 }, { reasons })[0]?.message).toBe("backup failed (exit 1): the disk is full");
    expect(find({ lastExit: 13, lastStart: hoursAgo(0.5) }, { reasons })[0]?.message).toMatch(
      /exit 13\): something is damaged/,
    );
  });

  test("a run that is gone without an end has failed", () => {
    const [one] = find({ running: { pid: 1, startTicks: "0" } });
    expect(one).toMatchObject({ key: "backup-failed", exit: null, severity: "critical" });
    expect(one?.message).toContain("gone without an end");
  });

  test("of a run at work nothing is known: what was wrong stays so, with its time", () => {
    const before = { "backup-failed": { ...onlyOf(find({ lastExit: 1 })), since: hoursAgo(5) } };
    const running = { running: { pid: 1, startTicks: "0" } };
    expect(find(running, { running: () => true, before })).toEqual(Object.values(before));
    expect(find(running, { running: () => true })).toEqual([]);
  });

  test("a failure after an incomplete run does not make that complete", () => {
    const before = { "backup-incomplete": onlyOf(find({ lastExit: 3 })) };
    expect(keys({ lastExit: 1 }, { before })).toEqual(["backup-failed", "backup-incomplete"]);
    expect(keys({ lastExit: 0 }, { before })).toEqual([]);
  });
});

describe("age", () => {
  test.each([
    ["young enough", hoursAgo(25), []],
    ["too old, though the last run is no failure", hoursAgo(27), ["backup-old"]],
    ["of the future", hoursAgo(-5), ["backup-old"]],
    ["a minute ahead", hoursAgo(-1 / 60), []],
    ["never", null, ["backup-old"]],
  ])("%s", (_, lastSuccess, expected) => expect(keys({ lastSuccess })).toEqual(expected));

  test("what never succeeded is as old as the watch", () => {
    expect(keys({ lastSuccess: null }, { watchedSince: hoursAgo(20) })).toEqual([]);
    expect(find({ lastSuccess: null }, { watchedSince: hoursAgo(30) })[0]?.message).toContain(
      "no backup has succeeded since",
    );
  });

  test("only what has a limit", () => expect(keys({ lastSuccess: hoursAgo(999) }, { limits: [] })).toEqual([]));
});

describe("a drill that is on the schedule", () => {
  const since = { drill: { schedule: "0 5 1 * *", since: hoursAgo(2000) } };
  const due = (hours: number, more: Partial<Situation> = {}): Partial<Situation> => ({
    dueLimits: [
      {
        job: "drill",
        schedule: "0 5 1 * *",
        lastDue: (before) =>
          [hours, hours + 720].map((ago) => now.getTime() - ago * 3_600_000).find((at) => at <= before),
        graceMs: 25 * 3_600_000,
      },
    ],
    limits: [],
    schedules: since,
    ...more,
  });
  const drill = (record: Partial<JobRecord>, situation: Partial<Situation>) =>
    keys({ ...never, job: "drill", ...record }, situation);

  test.each([
    ["never happened", {}, 26, ["drill-overdue"]],
    ["is late, and may still be made up", { lastSuccess: hoursAgo(700) }, 24, []],
    ["did not happen this time", { lastSuccess: hoursAgo(700) }, 26, ["drill-overdue"]],
    ["did not happen last time either", {}, 24, ["drill-overdue"]],
    ["happened", { lastSuccess: hoursAgo(25), lastEnd: hoursAgo(24), lastExit: 0 }, 26, []],
    ["happened and failed", { lastStart: hoursAgo(25), lastEnd: hoursAgo(24), lastExit: 1 }, 26, ["drill-failed"]],
  ])("%s", (_, record, hours, expected) => expect(drill(record, due(hours))).toEqual(expected));

  test("owes nothing of the time before it had these times, and nothing is known while one is at work", () => {
    const young = { drill: { schedule: "0 5 1 * *", since: hoursAgo(20) } };
    expect(drill({}, due(26, { schedules: young }))).toEqual([]);
    const before = { "drill-overdue": onlyOf(find({ ...never, job: "drill" }, due(26))) };
    expect(drill({}, due(26, { running: () => true }))).toEqual([]);
    expect(drill({}, due(26, { running: () => true, before }))).toEqual(["drill-overdue"]);
  });

  test("and missed a target is told as that", () => {
    const missed = { lastStart: hoursAgo(1), lastEnd: hoursAgo(1), lastExit: 1, missedTarget: "ready after 45m" };
    expect(drill(missed, due(26))).toEqual(["drill-target"]);
  });
});

describe("nothing to back up", () => {
  const backups = (...messages: number[]): BackedUp[] =>
    messages.map((each, n) => ({ start: hoursAgo(100 - n), messages: each }));
  const ten = Array.from({ length: 10 }, () => 5);
  const none = (count: number) => Array.from({ length: count }, () => 0);
  test.each([
    ["always something", [...ten, 5], false],
    ["nothing, after ten with something", [...ten, 0], true],
    ["nothing for the ninth time", [...ten, ...none(9)], true],
    ["nothing for the tenth time: that is usual now", [...ten, ...none(10)], false],
    ["one of the ten before had nothing", [5, 0, ...ten.slice(2), 0], false],
    ["nothing eleven backups ago", [0, ...ten, 0], true],
    ["a young host, three with something", [1, 2, 3, 0], true],
    ["too young to say", [1, 2, 0], false],
    ["never anything", none(10), false],
    ["no backup yet", [], false],
  ])("%s", (_, messages, expected) => {
    expect(keys({}, { backups: backups(...messages) })).toEqual(expected ? ["backup-empty"] : []);
  });
});

function onlyOf<T>([one, ...more]: readonly T[]): T {
  if (one === undefined || more.length > 0) throw new Error("not exactly one");
  return one;
}
