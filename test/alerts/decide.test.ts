import { expect, test } from "vitest";
import type { Condition } from "../../src/alerts/conditions.ts";
import { afterTelling, dueFor, eventOf, type Told } from "../../src/alerts/decide.ts";

const start = Date.parse("2026-11-24T12:00:00.000Z");
const at = (minutes: number) => new Date(start + minutes * 60_000);
const failed: Condition = {
  key: "backup-failed",
  kind: "failed",
  job: "backup",
  severity: "critical",
  message: "backup failed (exit 1)",
  exit: 1,
  since: at(0).toISOString(),
};

test("a week of a failure, seen every minute: told once, each day again, and when it is well", () => {
  let told: Record<string, Told> = {};
  const heard: [number, string][] = [];
  for (let minutes = 0; minutes < 7 * 1440; minutes++) {
    const wrong = minutes < 3 * 1440 + 60;
    for (const due of dueFor(told, wrong ? [failed] : [], at(minutes))) {
      heard.push([minutes, due.event]);
      told = afterTelling(told, due, at(minutes));
    }
  }
  expect(heard).toEqual([
    [0, "raised"],
    [1440, "reminder"],
    [2880, "reminder"],
    [4320, "reminder"],
    [4380, "resolved"],
  ]);
  expect(told).toEqual({});
});

test("what could not be told is due until it is, and forgotten when it is well before", () => {
  expect(dueFor({}, [failed], at(0))).toHaveLength(1);
  expect(dueFor({}, [failed], at(500))).toEqual([{ event: "raised", condition: failed }]);
  expect(dueFor({}, [], at(501))).toEqual([]);
});

test("a clock that was set back does not silence it", () => {
  const told = { "backup-failed": { at: at(0).toISOString(), condition: failed } };
  expect(dueFor(told, [failed], at(-60))).toEqual([]);
  expect(dueFor(told, [failed], at(-3000))).toMatchObject([{ event: "reminder" }]);
});

test("the event says what, where, since when", () => {
  expect(eventOf({ event: "raised", condition: failed }, "mx1", at(1))).toEqual({
    type: "alert",
    event: "raised",
    key: "backup-failed",
    kind: "failed",
    job: "backup",
    severity: "critical",
    host: "mx1",
    time: at(1).toISOString(),
    since: at(0).toISOString(),
    exit: 1,
    text: "mx1: backup failed (exit 1)",
  });
  const resolved = eventOf({ event: "resolved", condition: failed }, "mx1", at(1));
  expect(resolved).toMatchObject({ event: "resolved", severity: "ok", exit: null });
  expect(resolved.text).toMatch(/^mx1: well again: backup did not fail any more \(since .*: backup failed/);
});
