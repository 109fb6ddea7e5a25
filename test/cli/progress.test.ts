import { describe, expect, test } from "vitest";
import { Progress, progressText, type Work } from "../../src/cli/progress.ts";

/** A clock that stands still until it is told to go on. */
class HandClock {
  #ms = 1_000_000;
  monotonic(): number {
    return this.#ms;
  }
  pass(seconds: number): void {
    this.#ms += seconds * 1000;
  }
}

const messages = (done: number, more: Partial<Work> = {}): Work => ({
  ...{ doing: "reading", unit: "messages", done, total: 5000 },
  ...more,
});

function setUp() {
  const clock = new HandClock();
  const progress = new Progress(clock);
  const line = () => {
    const reading = progress.read();
    return reading === undefined ? undefined : progressText(reading);
  };
  /** So many steps of a second each, with so many messages and bytes in each. */
  const work = (from: number, steps: number, each: number, bytesEach: number, more: Partial<Work> = {}) => {
    for (let step = 1; step <= steps; step++) {
      clock.pass(1);
      const done = from + step * each;
      progress.update(messages(done, { bytes: (done / each) * bytesEach, ...more }));
    }
    return from + steps * each;
  };
  return { clock, progress, line, work };
}

describe("rate and time left", () => {
  test("nothing before anything is reported, and no rate in the first second", () => {
    const { clock, progress, line } = setUp();
    expect(line()).toBeUndefined();
    progress.update(messages(0));
    expect(line()).toBe("reading: 0 of 5000 messages");
    clock.pass(0.9);
    progress.update(messages(90));
    expect(line()).toBe("reading: 90 of 5000 messages");
    clock.pass(0.1);
    expect(line()).toBe("reading: 90 of 5000 messages, 90 messages/s");
  });

  test("are those of the last ten seconds", () => {
    const { progress, line, work } = setUp();
    progress.update(messages(0, { bytes: 0, bytesTotal: 5_000_000 }));
    const fast = work(0, 20, 100, 100_000, { bytesTotal: 5_000_000 });
    expect(line()).toBe("reading: 2000 of 5000 messages, 2 MB of 5 MB, 100 kB/s, 30 s left");
    let done = fast;
    for (let second = 0; second < 10; second++) done = work(done, 1, 10, 10_000, { bytesTotal: 5_000_000 });
    expect(line()).toBe("reading: 2100 of 5000 messages, 2.1 MB of 5 MB, 10 kB/s, 5 min left");
  });

  test("time left goes by bytes where their total is known, else by what is counted", () => {
    const { clock, progress, line } = setUp();
    progress.update(messages(0, { bytes: 0, bytesTotal: 1_000_000 }));
    clock.pass(5);
    progress.update(messages(4900, { bytes: 100_000, bytesTotal: 1_000_000 }));
    expect(line()).toMatch(/, 20 kB\/s, 45 s left$/);
    progress.update(messages(4900, { bytes: 100_000 }));
    expect(line()).toMatch(/ 4900 of 5000 messages, 100 kB, 20 kB\/s, 1 s left$/);
  });

  test("sink while nothing comes, and come back", () => {
    const { clock, progress, work } = setUp();
    progress.update(messages(0));
    work(0, 10, 100, 0);
    const rates = [];
    for (const seconds of [0, 5, 15, 40]) {
      clock.pass(seconds);
      rates.push(progress.read()?.unitsPerSecond ?? Number.NaN);
    }
    expect(rates[0]).toBeCloseTo(100);
    expect(rates).toEqual([...rates].sort((a, b) => b - a));
    expect(rates.at(-1)).toBeLessThan(2);
    work(1000, 12, 50, 0);
    expect(progress.read()?.unitsPerSecond).toBeCloseTo(50);
  });

  test("steps longer than ten seconds are measured by themselves", () => {
    const { clock, progress } = setUp();
    for (let pack = 0; pack <= 6; pack++) {
      progress.update(messages(pack, { unit: "packs", total: 10 }));
      if (pack < 6) clock.pass(30);
    }
    expect(progress.read()?.unitsPerSecond).toBeCloseTo(1 / 30);
    expect(progress.read()?.leftMs).toBeCloseTo(120_000);
  });

  test("begin anew with other work", () => {
    const { progress, line, work } = setUp();
    progress.update(messages(0));
    work(0, 10, 100, 0);
    progress.update({ doing: "waiting for the disk", unit: "messages", done: null, total: 5000 });
    expect(line()).toBe("waiting for the disk: 5000 messages");
  });

  test("keep few samples, however many reports there are", () => {
    const { clock, progress, line } = setUp();
    progress.update(messages(0, { total: 1_000_000 }));
    for (let done = 1; done <= 100_000; done++) {
      clock.pass(0.0002);
      progress.update(messages(done, { total: 1_000_000 }));
    }
    expect(line()).toBe("reading: 100000 of 1000000 messages, 5000 messages/s, 3 min left");
  });
});

describe("the line", () => {
  const reading = { bytesPerSecond: null, unitsPerSecond: null, leftMs: null };

  test.each([
    [0, "1 s"],
    [99_400, "99 s"],
    [100_000, "2 min"],
    [5_900_000, "98 min"],
    [6_000_000, "2 h"],
    [400_000_000, "5 days"],
  ])("%d ms are %s", (leftMs, text) => {
    expect(progressText({ ...reading, work: messages(1), leftMs })).toBe(`reading: 1 of 5000 messages, ${text} left`);
  });

  test("slow work is told by the minute, unknown totals are left out, more than there was is the total", () => {
    expect(progressText({ ...reading, work: messages(1), unitsPerSecond: 0.5 })).toMatch(/, 30 messages\/min$/);
    expect(progressText({ ...reading, work: messages(7, { total: null, bytes: 1000 }) })).toBe(
      "reading: 7 messages, 1 kB",
    );
    expect(progressText({ ...reading, work: messages(5001, { more: "2 came back" }) })).toBe(
      "reading: 5001 of 5001 messages, 2 came back",
    );
  });

  test("nothing is left when all is done", () => {
    const { clock, progress, line } = setUp();
    progress.update(messages(0, { bytes: 0, bytesTotal: 100 }));
    clock.pass(5);
    progress.update(messages(5000, { bytes: 100, bytesTotal: 100 }));
    expect(line()).toBe("reading: 5000 of 5000 messages, 100 B of 100 B, 20 B/s");
  });
});
