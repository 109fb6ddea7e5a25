import { describe, expect, test } from "vitest";
import { GapFinder } from "../../src/postfix/log-gaps.ts";

/** Lines every `step` seconds, except between the holes. */
function busy(
  finder: GapFinder,
  from: number,
  to: number,
  step = 0.5,
  holes: readonly (readonly [number, number])[] = [],
): void {
  for (let time = from; time <= to; time += step) {
    if (!holes.some(([start, end]) => time > start && time < end)) finder.line(time);
  }
}

const spans = (finder: GapFinder) => finder.find().map(({ from, to }) => [from, to]);

describe("a silence", () => {
  test("of 30 seconds in a busy log is a gap", () => {
    const finder = new GapFinder();
    busy(finder, 0, 100, 0.5, [[40, 70]]);
    expect(spans(finder)).toEqual([[40, 70]]);
  });

  test("that comes again and again is the log's rhythm", () => {
    const finder = new GapFinder();
    for (let start = 0; start < 2000; start += 40) busy(finder, start, start + 10);
    expect(spans(finder)).toEqual([]);
  });

  test("of a log with few lines says nothing", () => {
    const finder = new GapFinder();
    busy(finder, 0, 10, 1);
    busy(finder, 300, 310, 1);
    expect(spans(finder)).toEqual([]);
  });

  test("after Postfix was stopped is no gap", () => {
    const finder = new GapFinder();
    busy(finder, 0, 40);
    finder.stop();
    busy(finder, 70, 110);
    expect(spans(finder)).toEqual([]);
  });

  test("three times as long as the others stands out, twice does not", () => {
    for (const [length, gaps] of [
      [31, 1],
      [20, 0],
    ] as const) {
      const finder = new GapFinder();
      busy(finder, 0, 50);
      busy(finder, 60, 100);
      busy(finder, 100 + length, 200);
      expect(finder.find()).toHaveLength(gaps);
    }
  });
});

describe("what lines tell of missing ones", () => {
  test("is put into the silence it fits", () => {
    const finder = new GapFinder();
    busy(finder, 0, 100, 0.5, [[40, 45]]);
    finder.missingAt(42, "told");
    expect(finder.find()).toEqual([{ from: 40, to: 45, reason: "told" }]);
  });

  test("is in doubt for a minute where there is no silence", () => {
    const finder = new GapFinder();
    busy(finder, 0, 200);
    finder.missingAt(100, "told");
    expect(spans(finder)).toEqual([[70, 130]]);
  });

  test("proves nothing before the log began", () => {
    const finder = new GapFinder();
    busy(finder, 100, 200);
    finder.missingAt(50, "before");
    finder.missingAt(102, "while it began");
    expect(spans(finder)).toEqual([]);
  });

  test("between two lines is the silence that stands out, or all", () => {
    const finder = new GapFinder();
    busy(finder, 0, 100, 0.5, [[40, 49]]);
    finder.missingBetween(20, 80, "told");
    expect(spans(finder)).toEqual([[40, 49]]);
    const even = new GapFinder();
    busy(even, 0, 100, 4);
    even.missingBetween(20, 80, "told");
    expect(spans(even)).toEqual([[20, 80]]);
  });

  test("is joined where it overlaps", () => {
    const finder = new GapFinder();
    finder.missing(10, 20, "one");
    finder.missing(50, 60, "three");
    finder.missing(15, 30, "two");
    expect(finder.find()).toEqual([
      { from: 10, to: 30, reason: "one" },
      { from: 50, to: 60, reason: "three" },
    ]);
  });

  test("since the last line", () => {
    const finder = new GapFinder();
    finder.missingUntil(5, "nothing before");
    busy(finder, 10, 20);
    finder.missingUntil(80, "told");
    expect(spans(finder)).toEqual([[20, 80]]);
  });
});
