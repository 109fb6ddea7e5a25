import { describe, expect, test, vi } from "vitest";
import {
  deadlineOf,
  ended,
  type Finding,
  type JobPlan,
  type JobState,
  look,
  nextRun,
  readyAt,
  started,
} from "../../src/schedule/engine.ts";
import { expressionProblem, hostTimezone, makeCalendar } from "../../src/schedule/expression.ts";
import { jitterOf } from "../../src/schedule/jitter.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { minute, Wall } from "./wall-clock.ts";

const hour = 60 * minute;
const day = 24 * hour;
const us = { pid: 1, startTicks: "1" };

/** One job of a daemon whose runs take no time, and everything it ran. */
class Simulated {
  readonly plan: JobPlan;
  readonly runs: { due: number; at: number }[] = [];
  readonly findings: Finding[] = [];
  state: JobState | undefined;

  constructor(expression: string, timezone: string, more: Partial<JobPlan> = {}) {
    this.plan = { calendar: makeCalendar(expression, timezone), jitterMs: 0, catchUpMs: day, ...more };
  }

  tick(now: number, exit = 0): void {
    const { state, findings } = look(this.state, this.plan, now);
    this.findings.push(...findings);
    this.state = state;
    const ready = readyAt(state);
    if (state.owed === null || ready === null || ready > now) return;
    if (exit === 0) this.runs.push({ due: state.owed.due, at: now });
    this.state = ended(started(state, us, now), { type: "exited", exit }, now);
  }

  /** A tick in every minute, somewhere in it, from `from` until `to`. */
  live(from: number, to: number, second = 3): void {
    for (let now = from; now < to; now += minute) this.tick(now + second * 1000);
  }

  get due(): string[] {
    return this.runs.map(({ due }) => iso(due));
  }
}

const iso = (time: number) => new Date(time).toISOString().slice(0, 16);
const at = (text: string) => Date.parse(`${text}Z`);

/** Every two hours' times, wall times in gaps and folds, every hour's paces, days of month and week. */
const expressions = [
  "30 2 * * *",
  "0 2,3 * * *",
  "0 0 * * *",
  "15 */2 * * *",
  "*/30 * * * *",
  "15 * * * *",
  "45 1 * * 0",
  "0 5 1 * *",
  "0 6 1,15 * 1",
  "10 0-4 28-31 * *",
];
const year = { from: at("2027-01-01T00:00"), to: at("2028-01-01T00:00") };
// Changes at 02:00 by an hour, at midnight by an hour, and by half an hour.
const zones = ["Europe/Berlin", "America/Santiago", "Australia/Lord_Howe"];

describe.each(zones)("a year in %s", { timeout: 180_000 }, (timezone) => {
  const wall = new Wall(timezone, year.from - 2 * day, year.to + 12 * day);
  const seed = chooseSeed(`schedules in ${timezone}`);

  test.each(expressions)("%s is due when a look at every minute says so", (expression) => {
    const expected = wall.due(expression).filter((due) => due > year.from && due < year.to);
    const calendar = makeCalendar(expression, timezone);
    expect([...calendar.between(year.from, year.to - minute)].map(iso)).toEqual(expected.map(iso));
    const late = year.from + 200 * day + 7 * minute + 1;
    expect(calendar.next(late)).toBe(expected.find((due) => due > late));
  });

  test("ticks by the minute run exactly what is due, in that minute, through both clock changes", () => {
    const jobs = ["30 2 * * *", "*/30 * * * *"].map((expression) => new Simulated(expression, timezone));
    for (const job of jobs) job.live(year.from, year.to);
    for (const job of jobs) {
      const expected = wall.due(job.plan.calendar.expression).filter((due) => due > year.from && due < year.to);
      expect(job.due, job.plan.calendar.expression).toEqual(expected.map(iso));
      expect(job.runs.every((run) => run.at - run.due < minute)).toBe(true);
      expect(job.findings).toEqual([]);
    }
  });

  test("downtime, suspend, clocks set back and forward: what is due once, what was missed made up once", () => {
    const random = new Random(seed);
    for (const expression of expressions) {
      const times = wall.due(expression);
      for (const catchUpMs of [2 * hour, day, 3 * day]) {
        const job = new Simulated(expression, timezone, { catchUpMs });
        const expected = liveThrough(random, job, times, catchUpMs);
        expect(job.due, `${expression}, catch_up ${catchUpMs / hour} h`).toEqual(expected.map(iso));
      }
    }
  });
});

/**
 * Let a job live a year with accidents; what it should have run is counted from the list of due times alone. A daemon that
 * is down, a machine asleep and a clock set forward look the same: time that nobody saw. Time that comes twice brings a run
 * again only as it passes.
 */
function liveThrough(random: Random, job: Simulated, times: readonly number[], catchUpMs: number): number[] {
  const correction = job.plan.calendar.everyHour ? hour : 3 * hour;
  const expected: number[] = [];
  let decided = year.from + 3000;
  let done: number | undefined;
  let now = decided;
  job.tick(now);
  const see = () => {
    if (decided - now > correction) decided = now;
    const newest = newestOf(times, now);
    const wasRun = newest === done && now - (newest ?? 0) > 2 * minute;
    if (newest !== undefined && newest > decided && now - newest <= catchUpMs && !wasRun) {
      expected.push(newest);
      done = newest;
    }
    decided = Math.max(decided, now);
    job.tick(now);
  };
  while (now < year.to) {
    const steps = random.below(200);
    // In between nothing is due oftener than every half hour: a tick in every sixth minute would do, and is late.
    for (let step = 0; step < steps; step++) {
      now += minute;
      see();
    }
    const step = random.pick([
      hour * random.below(12),
      day * random.next() * 5,
      day * 10,
      -minute * random.below(50),
      -hour * random.below(3),
      -hour * (4 + random.below(30)),
    ]);
    now = Math.max(year.from, Math.min(Math.floor((now + step) / 1000) * 1000, year.to));
    see();
  }
  return expected;
}

/** The last of sorted times that is not after now. */
function newestOf(times: readonly number[], now: number): number | undefined {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] ?? 0) <= now) low = middle + 1;
    else high = middle;
  }
  return times[low - 1];
}

describe("one job", () => {
  const nightly = (more: Partial<JobPlan> = {}) => new Simulated("0 2 * * *", "UTC", more);

  test("owes nothing when it is seen for the first time, and keeps its old times until its expression changes", () => {
    const job = nightly();
    job.tick(at("2026-11-24T12:00"));
    expect(job.runs).toEqual([]);
    const old = job.plan.calendar;
    const plan = { ...job.plan, calendar: makeCalendar("0 9 * * *", "UTC") };
    const changed = (now: string) => look(job.state, plan, at(now), old).state;
    // Down over 02:00 by the old expression: that is made up; 09:00 by the new one, before anybody knew of it, is not.
    expect(changed("2026-11-25T10:00").owed?.due).toBe(at("2026-11-25T02:00"));
    expect(changed("2026-11-24T18:00").owed).toBeNull();
  });

  test.each([
    { what: "down for an hour", to: "2026-11-25T03:00", runs: ["2026-11-25T02:00"], found: ["made-up"] },
    { what: "down for three days", to: "2026-11-28T03:00", runs: ["2026-11-28T02:00"], found: ["made-up"] },
    { what: "catch_up a minute too short", to: "2026-11-26T01:59", catchUp: 23 * hour, runs: [], found: ["missed"] },
    {
      what: "no catch_up, and late by a tick",
      to: "2026-11-25T02:01",
      catchUp: 0,
      runs: ["2026-11-25T02:00"],
      found: [],
    },
    { what: "no catch_up, and late by five", to: "2026-11-25T02:05", catchUp: 0, runs: [], found: ["missed"] },
  ])("$what", ({ to, catchUp = day, runs, found }) => {
    const job = nightly({ catchUpMs: catchUp });
    job.tick(at("2026-11-24T12:00"));
    for (const again of [0, 1, 2]) job.tick(at(to) + again * 20_000);
    expect(job.due).toEqual(runs);
    expect(job.findings.map(({ type }) => type)).toEqual(found);
  });

  test.each([
    { what: "two hours back: not a second time", to: "2026-11-25T00:30", runs: 1 },
    { what: "four hours back is a correction: 02:00 is still to come", to: "2026-11-24T22:30", runs: 2 },
    { what: "years back, from a clock that was wrong", to: "2016-11-24T22:30", runs: 2 },
  ])("a clock set back, $what", ({ to, runs }) => {
    const job = nightly();
    job.tick(at("2026-11-24T12:00"));
    job.tick(at("2026-11-25T02:30"));
    job.live(at(to), at(to) + 5 * hour);
    expect(job.runs).toHaveLength(runs);
  });

  test.each([
    { what: "a boot without a clock until somebody tells the time", to: "1970-01-01T00:00" },
    { what: "set back by half a day by mistake, and put right", to: "2026-11-24T22:00" },
  ])("a clock that was wrong for a minute, $what: what was run is not made up", ({ to }) => {
    const job = nightly();
    job.live(at("2026-11-24T12:00"), at("2026-11-25T10:00"));
    job.live(at(to), at(to) + minute);
    job.live(at("2026-11-25T10:01"), at("2026-11-26T03:00"));
    expect(job.due).toEqual(["2026-11-25T02:00", "2026-11-26T02:00"]);
  });

  test("a clock that was wrong for a minute while a run was owed or at work: it is still run", () => {
    const job = nightly();
    job.tick(at("2026-11-25T01:59"));
    job.tick(at("2026-11-25T02:00"), 11);
    job.live(at("1970-01-01T00:00"), at("1970-01-01T00:01"));
    job.live(at("2026-11-25T02:05"), at("2026-11-25T04:00"));
    expect(job.due).toEqual(["2026-11-25T02:00"]);
  });

  test("a job of every half hour goes on after a clock was set back by two hours", () => {
    const job = new Simulated("*/30 * * * *", "UTC");
    job.live(at("2026-11-24T12:00"), at("2026-11-24T14:10"));
    job.live(at("2026-11-24T12:10"), at("2026-11-24T13:10"));
    expect(job.due.slice(-3)).toEqual(["2026-11-24T14:00", "2026-11-24T12:30", "2026-11-24T13:00"]);
  });

  test("a held lock: again in the next minute, until it is free; after an hour without catch_up it is missed", () => {
    const job = nightly({ catchUpMs: 0 });
    job.tick(at("2026-11-25T01:59"));
    for (const minutes of [0, 1, 2]) job.tick(at("2026-11-25T02:00") + minutes * minute + 500, 11);
    expect(job.runs).toEqual([]);
    const waiting = job.state;
    job.tick(at("2026-11-25T02:03"));
    expect(job.due).toEqual(["2026-11-25T02:00"]);
    job.state = waiting;
    job.tick(at("2026-11-25T03:01"));
    expect(job.findings).toEqual([{ type: "missed", due: at("2026-11-25T02:00") }]);
  });

  test("a run that died with the daemon is run again, but not for ever; one that failed is not", () => {
    const job = nightly();
    job.tick(at("2026-11-25T01:59"));
    let state: JobState = look(job.state, job.plan, at("2026-11-25T02:00")).state;
    const dueAgain = [];
    for (const _ of [1, 2, 3]) {
      state = ended(started(state, us, at("2026-11-25T02:00")), { type: "died" }, at("2026-11-25T02:10"));
      dueAgain.push(state.owed?.due);
    }
    expect(dueAgain).toEqual([at("2026-11-25T02:00"), at("2026-11-25T02:00"), undefined]);
    const due = look(job.state, job.plan, at("2026-11-25T02:00")).state;
    const working = started(due, us, at("2026-11-25T02:00"));
    expect(readyAt(working)).toBeNull();
    expect(ended(working, { type: "exited", exit: 1 }, at("2026-11-25T02:10")).owed).toBeNull();
    expect(ended(working, { type: "stopped" }, at("2026-11-25T02:10")).owed?.due).toBe(at("2026-11-25T02:00"));
  });

  test("jitter: the same on one host, spread over hosts, and kept", () => {
    const spread = Array.from({ length: 200 }, (_, index) => jitterOf(`mx${index}.test`, "backup", 5 * minute));
    expect(spread).toEqual(spread.map((_, index) => jitterOf(`mx${index}.test`, "backup", 5 * minute)));
    expect(Math.max(...spread)).toBeLessThan(5 * minute);
    expect(new Set(spread).size).toBeGreaterThan(100);
    expect(jitterOf("mx1.test", "backup", 0)).toBe(0);
    const job = nightly({ jitterMs: 90_000 });
    job.live(at("2026-11-25T01:50"), at("2026-11-25T02:10"), 0);
    expect(job.runs).toEqual([{ due: at("2026-11-25T02:00"), at: at("2026-11-25T02:02") }]);
    expect(nextRun(job.state, job.plan, at("2026-11-25T12:00"))).toEqual({
      due: at("2026-11-26T02:00"),
      start: at("2026-11-26T02:00") + 90_000,
      madeUp: false,
    });
  });

  test("a deadline is twice the pace, an hour at least and a day at most", () => {
    const deadline = (expression: string) => deadlineOf(makeCalendar(expression, "UTC"), at("2026-11-25T03:00")) / hour;
    expect(["*/5 * * * *", "0 */3 * * *", "0 2 * * *", "0 2 1 * *"].map(deadline)).toEqual([1, 6, 24, 24]);
  });
});

test("what is wrong with an expression", () => {
  const wrong = ["0 0 31 2 *", "0 0 31W 2 *", "61 * * * *", "0 2 * *", "nightly", "@reboot", "*/10 * * * * *", ""];
  expect(wrong.map(expressionProblem)).toMatchInlineSnapshot(`
    [
      "never comes: there is no such day in those months",
      "never comes",
      "is no cron expression: "61" is no minute",
      "must be a cron expression with five fields, such as "0 2 * * *"",
      "must be a cron expression with five fields, such as "0 2 * * *"",
      "must be a cron expression with five fields, such as "0 2 * * *"",
      "has six fields: runs are started by the minute, so leave out the seconds",
      "must be a cron expression with five fields, such as "0 2 * * *"",
    ]
  `);
  expect(["0 2 * * *", "@daily", "0 0 29 2 *", "0 0 L * *", "0 3 * * MON-FRI"].map(expressionProblem)).toEqual(
    Array(5).fill(undefined),
  );
});

test.each([
  ["Europe/Paris", "Europe/Paris"],
  ["", "UTC"],
  ["Foo/Bar", "UTC"],
])("the host's time zone with TZ=%j", (name, expected) => {
  vi.stubEnv("TZ", name);
  expect(hostTimezone()).toBe(expected);
  expect(makeCalendar("0 2 * * *", hostTimezone()).timezone).toBe(expected);
  vi.unstubAllEnvs();
});
