import { describe, expect, test } from "vitest";
import { ageShape, qshapeDefaults, type ShapeOptions } from "../../src/snapshot/age-shape.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";

const now = 1_795_500_000;

function message(minutes: number, recipients: readonly string[], over: Partial<MessageEntry> = {}): MessageEntry {
  return {
    kind: "message",
    instance: "mx",
    queueId: "4FA3C1",
    created: "1795400000",
    content: "c".repeat(64),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 1, gid: 1 },
    mtime: 1,
    file: { digest: "a".repeat(64), bytes: 900, pack: "b".repeat(64) },
    logs: [],
    sender: "alice@a.test",
    recipients: recipients.map((address) => ({ address, done: false })),
    size: 700,
    arrival: now - minutes * 60,
    messageId: null,
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...over,
  };
}

const shape = (messages: readonly MessageEntry[], options: Partial<ShapeOptions> = {}) =>
  ageShape(messages, now, { ...qshapeDefaults, ...options });
const columnOf = (minutes: number, options: Partial<ShapeOptions> = {}) =>
  shape([message(minutes, ["x@b.test"])], options).total.buckets.indexOf(1);

describe("the columns of age", () => {
  test("are up to 5, 10, 20, ... 1280 minutes, and beyond; a limit itself belongs to the next", () => {
    expect(shape([]).limits).toEqual([5, 10, 20, 40, 80, 160, 320, 640, 1280]);
    const limits = [0, 4.9, 5, 9.9, 10, 19.9, 20, 639, 640, 1279, 1280, 100_000];
    expect(limits.map((minutes) => columnOf(minutes))).toEqual([0, 0, 1, 1, 2, 2, 3, 7, 8, 8, 9, 9]);
  });

  test("have mail from the future, of a clock that was set back, as the youngest", () => {
    expect(columnOf(-60)).toBe(0);
  });

  test("are as many and as wide as was asked for", () => {
    expect(shape([], { buckets: 4, minutes: 60 }).limits).toEqual([60, 120, 240]);
    expect(columnOf(500, { buckets: 4, minutes: 60 })).toBe(3);
    expect(shape([], { buckets: 4, minutes: 60, linear: true }).limits).toEqual([60, 120, 180]);
    expect([59, 60, 179, 180, 999].map((at) => columnOf(at, { buckets: 4, minutes: 60, linear: true }))).toEqual([
      0, 1, 2, 3, 3,
    ]);
    expect(columnOf(7, { buckets: 1 })).toBe(0);
  });
});

describe("the rows", () => {
  test("count recipients that are left, the largest domain first, the shorter name before the longer", () => {
    const done = { recipients: [{ address: "x@done.test", done: true }] };
    const found = shape([
      message(1, ["a@B.test", "b@b.TEST", "c@longer.test"]),
      message(1, ["d@c.test"]),
      message(1, [], done),
    ]);
    expect(found.domains.map(({ domain, total }) => [domain, total])).toEqual([
      ["b.test", 2],
      ["c.test", 1],
      ["longer.test", 1],
    ]);
    expect(found.total.total).toBe(4);
  });

  test("of senders count messages with a recipient left; the null sender is MAILER-DAEMON", () => {
    const found = shape(
      [
        message(1, ["a@b.test", "b@b.test"], { sender: "" }),
        message(1, ["a@b.test"], { sender: "x@Y@.a..test." }),
        message(1, [], { recipients: [{ address: "x@done.test", done: true }] }),
      ],
      { senders: true },
    );
    expect(found.domains.map(({ domain, total }) => [domain, total])).toEqual([
      ["a.test", 1],
      ["MAILER-DAEMON", 1],
    ]);
  });
});
