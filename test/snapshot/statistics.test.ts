import { describe, expect, test } from "vitest";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import { statisticsOf, totalOf } from "../../src/snapshot/statistics.ts";
import { noMessages, snapshotOf } from "../support/records.ts";

const start = Date.parse("2026-09-01T02:00:00.000Z");

/** A night's snapshot: 1000 bytes of queue, of which it stored 10 (the first 500). */
function night(index: number, over: Partial<Snapshot> = {}): Snapshot {
  const pack = (at: number) => ({ id: `pack${over.host ?? ""}${at}`, bytes: at === 0 ? 400 : 6 });
  const part = (at: number) => ({
    id: `part${over.host ?? ""}${at}`,
    bytes: at === 0 ? 100 : 4,
    kind: at === 0 ? ("base" as const) : ("increment" as const),
  });
  const upTo = Array.from({ length: index + 1 }, (_, at) => at);
  return snapshotOf(
    { writer: "w" },
    {
      number: index + 1,
      time: new Date(start + index * 24 * 3600 * 1000).toISOString(),
      messages: { ...noMessages, total: 50 + index },
      bytes: 1000,
      storedBytes: index === 0 ? 500 : 10,
      packs: upTo.map(pack),
      parts: upTo.map(part),
      ...over,
    },
  );
}

const nights = (count: number, over: Partial<Snapshot> = {}) =>
  Array.from({ length: count }, (_, at) => night(at, over));

describe("statistics", () => {
  test("count what is shared once", () => {
    expect(statisticsOf(nights(3).reverse())).toEqual({
      snapshots: 3,
      oldest: "2026-09-01T02:00:00.000Z",
      newest: "2026-09-03T02:00:00.000Z",
      newestMessages: 52,
      messages: 50 + 51 + 52,
      logicalBytes: 3000,
      storedBytes: 400 + 100 + 2 * (6 + 4),
      packs: 3,
      dedupRatio: 3000 / 520,
      growthPerWeek: 70,
    });
  });

  test("tell growth by the last four weeks, without the first snapshot of all", () => {
    const long = nights(60);
    expect(statisticsOf(long).growthPerWeek).toBe(70);
    const busy = long.map((each, at) => (at > 59 - 28 ? { ...each, storedBytes: 20 } : each));
    expect(statisticsOf(busy).growthPerWeek).toBe(140);
  });

  test("say nothing of growth where too little is known, and nothing is a number without snapshots", () => {
    expect(statisticsOf(nights(1)).growthPerWeek).toBeNull();
    const hourLater = night(1, { time: "2026-09-01T03:00:00.000Z" });
    expect(statisticsOf([night(0), hourLater]).growthPerWeek).toBeNull();
    expect(statisticsOf([])).toMatchObject({
      snapshots: 0,
      oldest: null,
      newest: null,
      dedupRatio: null,
      storedBytes: 0,
    });
  });

  test("of several hosts: each one's newest messages, each one's growth", () => {
    const all = [...nights(3, { host: "mx1" }), ...nights(10, { host: "mx2" })];
    expect(totalOf(all)).toMatchObject({ snapshots: 13, newestMessages: 52 + 59, growthPerWeek: 140, packs: 13 });
    expect(totalOf([])).toMatchObject({ snapshots: 0, growthPerWeek: null });
  });
});
