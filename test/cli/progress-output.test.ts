import { EventEmitter } from "node:events";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Work } from "../../src/cli/progress.ts";
import { Render, type RenderOptions } from "../../src/cli/render.ts";
import { OperatorError } from "../../src/errors.ts";

beforeEach(() => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] }));
afterEach(() => void vi.useRealTimers());

/** A stream that keeps what is written to it, each write by itself. */
class Screen extends EventEmitter {
  readonly writes: string[] = [];
  columns = 40;
  readonly isTTY: boolean;
  constructor(isTTY: boolean) {
    super();
    this.isTTY = isTTY;
  }
  write(chunk: string | Uint8Array, done?: () => void): boolean {
    if (chunk.length > 0) this.writes.push(chunk.toString());
    done?.();
    return true;
  }
  stream(): NodeJS.WriteStream {
    return this as unknown as NodeJS.WriteStream;
  }
}

function setUp(options: Partial<RenderOptions>, terminal: boolean) {
  const [out, err] = [new Screen(false), new Screen(terminal)];
  const render = new Render({ json: false, quiet: false, verbose: false, ...options }, out.stream(), err.stream());
  return { render, out, err };
}

const work = (done: number): Work => ({ doing: "reading", unit: "messages", done, total: 5000 });
const erase = "\r\x1b[K";

/** So many seconds of work, reported twenty times in each. */
function busy(render: Render, seconds: number, from = 0): void {
  for (let step = 0; step < seconds * 20; step++) {
    render.progress(work(from + step));
    vi.advanceTimersByTime(50);
  }
}

describe("on a terminal", () => {
  test("one line is written over, at once and five times a second at most", () => {
    const { render, err } = setUp({}, true);
    render.progress(work(0));
    expect(err.writes).toEqual([`${erase}reading: 0 of 5000 messages`]);
    busy(render, 10);
    expect(err.writes.length).toBeGreaterThan(20);
    expect(err.writes.length).toBeLessThanOrEqual(51);
    expect(err.writes.every((text) => text.startsWith(erase) && !text.includes("\n"))).toBe(true);
  });

  test("it fits the width, which may change and may be unknown", () => {
    const { render, err } = setUp({}, true);
    const wide = { ...work(0), doing: "x".repeat(100) };
    for (const columns of [40, 20, 0]) {
      err.columns = columns;
      render.progress(wide);
      vi.advanceTimersByTime(200);
    }
    expect(err.writes.map((text) => text.length - erase.length)).toEqual([39, 19, 79]);
  });

  test("it moves while no report comes, and is back after a word between", () => {
    const { render, err } = setUp({}, true);
    render.progress(work(0));
    vi.advanceTimersByTime(1000);
    expect(err.writes.length).toBeGreaterThan(3);
    err.writes.length = 0;
    render.note("careful");
    vi.advanceTimersByTime(250);
    expect(err.writes).toEqual([erase, "careful\n", `${erase}reading: 0 of 5000 messages`]);
  });

  test.each([
    ["the answer", (render: Render) => render.text("all")],
    ["the summary", (render: Render) => render.summary({})],
    ["an error", (render: Render) => void render.error(new OperatorError("failed", "broken"))],
    ["the end", (render: Render) => void render.flush()],
  ])("it is gone with %s, and stays away", (_, end) => {
    const { render, err } = setUp({}, true);
    render.progress(work(0));
    end(render);
    expect(err.writes[1]).toBe(erase);
    expect(vi.getTimerCount()).toBe(0);
    const { length } = err.writes;
    vi.advanceTimersByTime(60_000);
    expect(err.writes.length).toBe(length);
  });
});

describe("in a log", () => {
  test("a line every 30 seconds", () => {
    const { render, err } = setUp({}, false);
    busy(render, 95);
    expect(err.writes).toHaveLength(3);
    expect(err.writes[0]).toBe("reading: 599 of 5000 messages, 20 messages/s, 4 min left\n");
    expect(err.writes.every((text) => /^reading: [ -~]+\n$/.test(text))).toBe(true);
  });

  test("of a job of the schedule with its name before every line, also of its answer", () => {
    const { render, err, out } = setUp({ label: "backup" }, false);
    render.progress(work(0));
    vi.advanceTimersByTime(31_000);
    render.note("one\n\ntwo");
    render.text("all");
    expect(err.writes).toEqual(["backup: reading: 0 of 5000 messages\n", "backup: one\n\nbackup: two\n"]);
    expect(out.writes).toEqual(["backup: all\n"]);
  });

  test("also when the work is silent", () => {
    const { render, err } = setUp({}, false);
    render.progress(work(0));
    vi.advanceTimersByTime(61_000);
    expect(err.writes).toEqual(["reading: 0 of 5000 messages\n", "reading: 0 of 5000 messages\n"]);
  });

  test("nothing of work that ends sooner", () => {
    const { render, out, err } = setUp({}, false);
    busy(render, 29);
    render.text("done");
    vi.advanceTimersByTime(60_000);
    expect(err.writes).toEqual([]);
    expect(out.writes).toEqual(["done\n"]);
  });
});

test.each([true, false])("nothing with --quiet (terminal: %s)", (terminal) => {
  const { render, err } = setUp({ quiet: true }, terminal);
  busy(render, 65);
  expect(err.writes).toEqual([]);
});

describe("with --json", () => {
  test("nothing on a terminal, which may be where the JSON goes", () => {
    const { render, out, err } = setUp({ json: true }, true);
    busy(render, 65);
    expect([...out.writes, ...err.writes]).toEqual([]);
  });

  test("lines in a log, on standard error alone", () => {
    const { render, out, err } = setUp({ json: true }, false);
    busy(render, 65);
    expect(out.writes).toEqual([]);
    expect(err.writes).toHaveLength(2);
  });
});
