import { describe, expect, test } from "vitest";
import {
  type Candidate,
  type KeepReason,
  planRetention,
  type RetentionPolicy,
  type RetentionRequest,
} from "../../src/prune/retention.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { digestFrom } from "../support/records.ts";

const hour = 3_600_000;
const day = 24 * hour;
const now = Date.parse("2026-11-24T12:00:00Z");
const nothing: RetentionPolicy = { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0 };

function request(over: Partial<RetentionRequest> = {}): RetentionRequest {
  return {
    policy: nothing,
    timeZone: "Europe/Paris",
    now,
    longestRunMs: 2 * day,
    proved: null,
    onlyHost: null,
    ...over,
  };
}

function snapshot(time: number | string, over: Partial<Candidate> = {}): Candidate {
  const at = typeof time === "number" ? time : Date.parse(time);
  return {
    id: digestFrom(`${at} ${JSON.stringify(over)}`),
    host: "mx1",
    number: 1,
    time: at,
    stored: at,
    trusted: true,
    whole: true,
    ...over,
  };
}

/** Times of what stays, with why. */
function kept(snapshots: readonly Candidate[], over: Partial<RetentionRequest> = {}): Record<string, string> {
  const verdicts = planRetention(snapshots, request(over)).filter((one) => one.kept.length > 0);
  return Object.fromEntries(
    verdicts.map((one) => [new Date(one.snapshot.time).toISOString().slice(0, 16), one.kept.map(word).join(" ")]),
  );
}

function word(reason: KeepReason): string {
  return "slot" in reason ? `${reason.kind}:${reason.slot}` : reason.kind;
}

describe("retention", () => {
  test("keeps the newest of each of the last hours, days, weeks and months that have one", () => {
    const times = [
      "2026-09-30T23:30Z",
      "2026-11-01T02:00Z",
      "2026-11-15T02:00Z",
      "2026-11-16T02:00Z",
      "2026-11-16T02:30Z",
    ];
    const all = times.map((time) => snapshot(time));
    const rule = (policy: Partial<RetentionPolicy>) => Object.keys(kept(all, { policy: { ...nothing, ...policy } }));
    expect(rule({ last: 2 })).toEqual(["2026-11-16T02:30", "2026-11-16T02:00"]);
    expect(rule({ hourly: 2 })).toEqual(["2026-11-16T02:30", "2026-11-15T02:00"]);
    expect(rule({ daily: 3 })).toEqual(["2026-11-16T02:30", "2026-11-15T02:00", "2026-11-01T02:00"]);
    // The 15th of November 2026 is a Sunday.
    expect(rule({ weekly: 2 })).toEqual(["2026-11-16T02:30", "2026-11-15T02:00"]);
    // In Paris the last of September is the first of October.
    expect(kept(all, { policy: { ...nothing, monthly: 9 } })).toEqual({
      "2026-11-16T02:30": "monthly:2026-11 newest",
      "2026-09-30T23:30": "monthly:2026-10",
    });
  });

  test("tells the two hours apart that have one name when clocks go back", () => {
    const all = ["2026-10-24T23:30Z", "2026-10-25T00:30Z", "2026-10-25T01:30Z"].map((time) => snapshot(time));
    expect(kept(all, { policy: { ...nothing, hourly: 3 } })).toEqual({
      "2026-10-25T01:30": "hourly:2026-10-25 02h GMT+01:00 newest",
      "2026-10-25T00:30": "hourly:2026-10-25 02h GMT+02:00",
      "2026-10-24T23:30": "hourly:2026-10-25 01h GMT+02:00",
    });
  });

  test("does not go by the time that has passed: after an outage nothing more goes", () => {
    const all = Array.from({ length: 20 }, (_, index) => snapshot(now - (100 + index) * day));
    const policy = { last: 3, hourly: 0, daily: 7, weekly: 0, monthly: 0 };
    expect(Object.keys(kept(all, { policy }))).toHaveLength(7);
    expect(kept(all, { policy, now: now + 3650 * day })).toEqual(kept(all, { policy }));
  });

  test("never lets go what is young, proved by a drill, the newest that is whole, or unsigned", () => {
    const all = [
      snapshot(now - day, { whole: false }),
      snapshot(now - 3 * day, { whole: false }),
      snapshot(now - 4 * day),
      snapshot(now - 5 * day, { trusted: false }),
      snapshot(now - 6 * day),
      snapshot(now - 7 * day),
      // Dated long ago and written just now: the host's clock had stopped.
      snapshot(now - 9000 * day, { stored: now - hour }),
      snapshot(now - 9001 * day),
    ];
    expect(kept(all, { proved: all[4]?.id ?? "" })).toEqual({
      "2026-11-23T12:00": "young",
      "2026-11-20T12:00": "newest",
      "2026-11-19T12:00": "untrusted",
      "2026-11-18T12:00": "proved",
      "2002-04-04T12:00": "newest young",
    });
  });

  test("does not count what is dated in the future, and keeps it", () => {
    const all = [snapshot(now + 300 * day), snapshot(now + 1), snapshot(now - 3 * day), snapshot(now - 4 * day)];
    expect(kept(all, { policy: { ...nothing, last: 1 } })).toEqual({
      "2027-09-20T12:00": "future",
      "2026-11-24T12:00": "future",
      "2026-11-21T12:00": "last:1 newest",
    });
  });

  test("lets a snapshot that lacks something take no whole one's place, nor go for it", () => {
    const all = [snapshot(now - 3 * day, { whole: false }), snapshot(now - 4 * day), snapshot(now - 5 * day)];
    expect(kept(all, { policy: { ...nothing, last: 1 } })).toEqual({
      "2026-11-21T12:00": "last:1",
      "2026-11-20T12:00": "last:1 newest",
    });
  });

  test("counts each host by itself, and touches one only when asked to", () => {
    const all = ["mx1", "mx2"].flatMap((host) => [4, 5, 6].map((days) => snapshot(now - days * day, { host })));
    const policy = { ...nothing, last: 2 };
    const going = (onlyHost: string | null) =>
      planRetention(all, request({ policy, onlyHost }))
        .filter((one) => one.kept.length === 0)
        .map((one) => one.snapshot.host);
    expect(going(null)).toEqual(["mx1", "mx2"]);
    expect(going("mx2")).toEqual(["mx2"]);
    expect(going("mx3")).toEqual([]);
  });
});

/*
 * The same rules written down another way: slots are told by asking, for every pair of snapshots, whether a clock on the wall
 * of that zone shows the same hour, day, week or month; nothing is walked in order and nothing is counted down.
 */
describe("retention and a model that tries every pair", () => {
  const seed = chooseSeed("retention");

  test("agree on random histories", () => {
    for (let round = 0; round < 200; round++) {
      const random = new Random(seed + round);
      const { all, asked } = randomHistory(random);
      const found = planRetention(all, asked);
      const message = `seed ${random.seed}`;
      expect(found.map((one) => one.snapshot.id).sort(), message).toEqual(all.map(({ id }) => id).sort());
      const stays = found.filter((one) => one.kept.length > 0).map((one) => one.snapshot.id);
      expect(stays.sort(), message).toEqual(modelOf(all, asked).sort());
      const again = planRetention(
        all.filter(({ id }) => stays.includes(id) || random.next() < 0.5),
        asked,
      );
      const staysAgain = again.filter((one) => one.kept.length > 0).map((one) => one.snapshot.id);
      expect(staysAgain.sort(), `a prune that was killed half-way ends elsewhere: ${message}`).toEqual(stays.sort());
    }
  });
});

function randomHistory(random: Random): { all: Candidate[]; asked: RetentionRequest } {
  const span = random.pick([3 * day, 40 * day, 500 * day]);
  const all = Array.from({ length: random.below(60) }, (_, index): Candidate => {
    const time = Math.floor(now - span + random.next() * span * random.pick([1, 1, 1, 1.1]));
    // Some hours on the dot, and some twice.
    const rounded = random.next() < 0.5 ? Math.floor(time / hour) * hour : time;
    return {
      id: digestFrom(`${random.seed} ${index}`),
      host: random.pick(["mx1", "mx2"]),
      number: index + 1,
      time: rounded,
      stored: random.next() < 0.1 ? Math.floor(now - random.next() * span) : rounded,
      trusted: random.next() < 0.95,
      whole: random.next() < 0.9,
    };
  });
  const some = () => random.pick([0, 0, 1, 2, 5, 30]);
  const policy = { last: some(), hourly: some(), daily: some(), weekly: some(), monthly: some() };
  const timeZone = random.pick(["UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]);
  const longestRunMs = random.pick([0, hour, 2 * day]);
  const proved = random.next() < 0.5 && all.length > 0 ? random.pick(all).id : null;
  return { all, asked: request({ policy, timeZone, longestRunMs, proved }) };
}

function modelOf(all: readonly Candidate[], asked: RetentionRequest): string[] {
  const later = (one: Candidate, other: Candidate) =>
    one.time > other.time || (one.time === other.time && one.number > other.number);
  const clocks = new Map(all.map(({ time }) => [time, wallClock(time, asked.timeZone)]));
  const clock = (time: number) => clocks.get(time) ?? wallClock(time, asked.timeZone);
  const stays = (one: Candidate): boolean => {
    const past = all.filter(({ host, trusted, time }) => host === one.host && trusted && time <= asked.now);
    if (!one.trusted || one.time > asked.now || one.id === asked.proved) return true;
    if (one.time > asked.now - asked.longestRunMs || one.stored > asked.now - asked.longestRunMs) return true;
    const whole = past.filter((other) => other.whole);
    if (one.whole && !whole.some((other) => later(other, one))) return true;
    const firstStored = (other: Candidate) =>
      other.stored > one.stored || (other.stored === one.stored && later(other, one));
    if (one.whole && !whole.some((other) => other !== one && firstStored(other))) return true;
    return [past, whole].some((group) => group.includes(one) && byRules(one, group));
  };
  const byRules = (one: Candidate, group: readonly Candidate[]): boolean => {
    const newer = group.filter((other) => later(other, one));
    if (newer.length < asked.policy.last) return true;
    return (["hourly", "daily", "weekly", "monthly"] as const).some((rule) => {
      const same = (other: Candidate) => clock(other.time)[rule] === clock(one.time)[rule];
      if (newer.some(same)) return false;
      return new Set(newer.map((other) => clock(other.time)[rule])).size < asked.policy[rule];
    });
  };
  return all.filter(stays).map(({ id }) => id);
}

/** Numbers of the hour, day, week and month, from how far the zone's wall clock is from UTC at that moment. */
function wallClock(time: number, timeZone: string) {
  const shown = new Date(time).toLocaleString("sv-SE", { timeZone });
  const wall = Date.parse(`${shown.replace(" ", "T")}Z`);
  const days = Math.floor(wall / day);
  const offset = wall - Math.floor(time / 1000) * 1000;
  return {
    hourly: `${Math.floor(wall / hour)} ${offset}`,
    daily: days,
    // 1970 began on a Thursday.
    weekly: Math.floor((days + 3) / 7),
    monthly: shown.slice(0, 7),
  };
}
