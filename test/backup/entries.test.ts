import { describe, expect, test } from "vitest";
import { type PartPlan, planPart } from "../../src/backup/entries.ts";
import { applyPart, entryKey, type ManifestEntry, type MessageEntry } from "../../src/snapshot/manifest.ts";
import type { PartReference } from "../../src/snapshot/snapshot.ts";
import { digestOf } from "../../src/system/digest.ts";
import { chooseSeed, Random } from "../support/random.ts";

describe("the part that turns the last manifest into this one", () => {
  test("is a base where nothing is known of the last", () => {
    const plan = planPart(byKey([message(1), message(2)]), "mx.test", undefined);
    expect(plan).toMatchObject({ kind: "base", follows: [] });
    expect(plan.text.split("\n")).toHaveLength(4);
  });

  test("says only what is new or changed, and what is gone", () => {
    const first = planPart(byKey([message(1), message(2), message(3)]), "mx.test", undefined);
    const second = planPart(
      byKey([message(1), { ...message(2), mtime: 99 }, message(4)]),
      "mx.test",
      known(first, [{ kind: "base", bytes: 100 }]),
    );
    expect(second.kind).toBe("increment");
    const lines = second.text.trim().split("\n").slice(1);
    expect(lines.map((line) => line.split("\t").slice(0, 2))).toEqual([
      ["gone", entryKey(message(3))],
      ["message", entryKey(message(2))],
      ["message", entryKey(message(4))],
    ]);
  });

  test("is a base again after 48 increments, or when they are larger than the base", () => {
    const first = planPart(byKey([message(1)]), "mx.test", undefined);
    const increments = (count: number, bytes: number) =>
      Array.from({ length: count }, () => ({ kind: "increment" as const, bytes }));
    const planAfter = (parts: readonly Pick<PartReference, "kind" | "bytes">[]) =>
      planPart(byKey([message(1)]), "mx.test", known(first, parts));
    expect(planAfter([{ kind: "base", bytes: 1000 }, ...increments(47, 10)])).toMatchObject({ kind: "increment" });
    expect(planAfter([{ kind: "base", bytes: 1000 }, ...increments(48, 10)])).toMatchObject({
      kind: "base",
      follows: [],
    });
    const mebibyte = 1024 * 1024;
    expect(planAfter([{ kind: "base", bytes: 1000 }, ...increments(1, mebibyte + 1000)])).toMatchObject({
      kind: "increment",
    });
    expect(planAfter([{ kind: "base", bytes: 1000 }, ...increments(1, mebibyte + 1001)])).toMatchObject({
      kind: "base",
    });
    expect(planAfter([])).toMatchObject({ kind: "base" });
  });

  test("leads to the same manifest by any chain of parts", () => {
    const random = new Random(chooseSeed("chains of parts"));
    let queue = new Map<number, MessageEntry>();
    let last: PartPlan | undefined;
    let parts: PartReference[] = [];
    let texts: PartPlan[] = [];
    for (let run = 0; run < 120; run++) {
      queue = new Map(queue);
      for (let change = random.below(5); change >= 0; change--) {
        const id = random.below(40);
        if (random.below(3) === 0) queue.delete(id);
        else queue.set(id, { ...message(id), mtime: random.below(1000), inFlight: random.pick([true, false, null]) });
      }
      const entries = byKey([...queue.values()]);
      const plan = planPart(entries, "mx.test", last === undefined ? undefined : { parts, lines: last.lines });
      const part = { kind: plan.kind, id: String(run), bytes: plan.text.length };
      texts = plan.kind === "base" ? [plan] : [...texts, plan];
      parts = [...plan.follows, part];
      last = plan;
      expect(parts).toHaveLength(texts.length);
      const read = new Map<string, ManifestEntry>();
      for (const { text, kind } of texts) applyPart(read, Buffer.from(text), kind);
      expect(new Map([...read].sort())).toEqual(new Map([...entries].sort()));
    }
    expect(texts.length).toBeLessThanOrEqual(49);
  });
});

function byKey(entries: readonly MessageEntry[]): Map<string, ManifestEntry> {
  return new Map(entries.map((entry) => [entryKey(entry), entry]));
}

function known(plan: PartPlan, parts: readonly Pick<PartReference, "kind" | "bytes">[]) {
  return { parts: parts.map((part, at) => ({ ...part, id: String(at) })), lines: plan.lines };
}

function message(id: number): MessageEntry {
  return {
    kind: "message",
    instance: "mx",
    queueId: `ABCDE${id}`,
    created: "1795549009",
    content: hex(`content ${id}`),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 100, gid: 101 },
    mtime: 1795549009.123456,
    file: { digest: hex(`file ${id}`), bytes: 1000, pack: hex("pack") },
    logs: [{ log: "defer", digest: hex(`log ${id}`), bytes: 10, pack: hex("pack"), mode: 0o600, mtime: 1795549009 }],
    sender: "a@source.test",
    recipients: [{ address: `r${id}@target.test`, done: false }],
    size: 500,
    arrival: 1795549009.5,
    messageId: `<${id}@source.test>`,
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
  };
}

function hex(text: string): string {
  return digestOf(Buffer.from(text)).digest;
}
