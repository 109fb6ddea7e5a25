import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseConditions, parseShard, select, shardOf } from "../../src/restore/selection.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";

const now = Date.parse("2026-11-24T12:00:00Z");
const hour = 3600;

function message(more: Partial<MessageEntry> = {}): MessageEntry {
  const file = { digest: "a".repeat(64), bytes: 900, pack: "b".repeat(64) };
  return {
    kind: "message",
    instance: "etc_postfix",
    queueId: "4FA3C1",
    created: String(now / 1000 - 30 * hour),
    content: "c".repeat(64),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 1, gid: 1 },
    mtime: 1,
    file,
    logs: [],
    sender: "Alice@a.test",
    recipients: [
      { address: "bob@b.test", done: false },
      { address: "carol@c.test", done: false },
      { address: "dave@b.test", done: true },
    ],
    size: 700,
    arrival: 1,
    messageId: null,
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...more,
  };
}

const wanted = (only: string[], more: Partial<MessageEntry> = {}) =>
  select(message(more), "mx1.test", { conditions: parseConditions(only), shard: null }, now);

describe("--only", () => {
  test.each([
    [["queue=deferred"], [0, 1]],
    [["queue=active,deferred"], [0, 1]],
    [["sender=*@a.test"], [0, 1]],
    [["sender=alice@A.TEST"], [0, 1]],
    [["id=4FA3C1"], [0, 1]],
    [["id=X,4FA3C1"], [0, 1]],
    [["older-than=1d"], [0, 1]],
    [["newer-than=2d"], [0, 1]],
    [["larger-than=699"], [0, 1]],
    [["smaller-than=701"], [0, 1]],
    [["recipient=bob@b.test"], [0]],
    [["recipient=*@c.test"], [1]],
    [["domain=b.test"], [0]],
    [["domain=x.test,c.*"], [1]],
    [["domain=b.test", "recipient=bob*"], [0]],
  ])("%j wants recipients %j", (only, indexes) => {
    expect(wanted(only)).toEqual({ wanted: indexes });
  });

  test.each([
    [["queue=hold"]],
    [["sender=*@b.test"]],
    [["sender=<>"]],
    [["id=4FA3C"]],
    [["older-than=2d"]],
    [["newer-than=1d"]],
    [["larger-than=700"]],
    [["recipient=dave@b.test"]],
    [["domain=b.test", "recipient=carol*"]],
    [["queue=deferred", "sender=nobody"]],
  ])("%j wants nothing", (only) => {
    expect(wanted(only)).toHaveProperty("reason");
  });

  test("<> is the null sender, which no other pattern but * means", () => {
    expect(wanted(["sender=<>"], { sender: "" })).toHaveProperty("wanted");
    expect(wanted(["sender=*"], { sender: "" })).toHaveProperty("wanted");
    expect(wanted(["sender=*@a.test"], { sender: "" })).toHaveProperty("reason");
  });

  test("a message whose recipients are all done is wanted with none, unless a recipient is asked for", () => {
    const done = { recipients: [{ address: "bob@b.test", done: true }] };
    expect(wanted([], done)).toEqual({ wanted: [] });
    expect(wanted(["recipient=bob@b.test"], done)).toHaveProperty("reason");
  });

  test.each([
    "queue",
    "queue=",
    "queue=outgoing",
    "colour=red",
    "older-than=soon",
    "larger-than=1MB",
    "=x",
    "older-than=5",
  ])("%j is wrong usage", (only) => {
    expect(() => parseConditions([only])).toThrow(expect.objectContaining({ kind: "usage" }));
  });
});

describe("several --only", () => {
  test("that no message can meet together are wrong usage, with what was meant instead", () => {
    expect(() => parseConditions(["queue=hold", "queue=deferred,active"])).toThrow(
      expect.objectContaining({
        kind: "usage",
        message: "no message is in hold and in deferred,active",
        hints: [expect.stringContaining("--only queue=hold,deferred,active")],
      }),
    );
    expect(parseConditions(["queue=hold,deferred", "queue=deferred"])).toHaveLength(2);
  });
});

describe("--shard", () => {
  test("puts every message into exactly one share, about as many into each, whatever its marks", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.stringMatching(/^[0-9A-F]{8,12}$/), (n, queueId) => {
        const one = message({ queueId });
        const shares = Array.from({ length: n }, (_, at) =>
          select(one, "mx1.test", { conditions: [], shard: { k: at + 1, n } }, now),
        );
        expect(shares.filter((share) => "wanted" in share)).toHaveLength(1);
        expect(shardOf("mx1.test", { ...one, ...{ queue: "active", mtime: 5 } }, n)).toBe(shardOf("mx1.test", one, n));
      }),
    );
    const counts = [0, 0, 0];
    for (let i = 0; i < 3000; i++) {
      const share = shardOf("mx1.test", message({ queueId: `4FA3C${i}` }), 3) - 1;
      counts[share] = (counts[share] ?? 0) + 1;
    }
    for (const count of counts) expect(count).toBeGreaterThan(900);
  });

  test("is K/N with K from 1 to N", () => {
    expect(parseShard("2/3")).toEqual({ k: 2, n: 3 });
    for (const wrong of ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
      expect(() => parseShard(wrong)).toThrow(expect.objectContaining({ kind: "usage" }));
  });
});
