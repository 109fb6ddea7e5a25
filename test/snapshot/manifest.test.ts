import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { logKinds, messageQueues } from "../../src/postfix/queue.ts";
import {
  applyPart,
  entryKey,
  type FileEntry,
  formatLine,
  type ManifestEntry,
  type MessageEntry,
  manifestHeader,
  parseLine,
} from "../../src/snapshot/manifest.ts";

const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
const time = fc.integer({ min: 0, max: 4_000_000_000_000_000 }).map((micro) => micro / 1e6);
const mode = fc.integer({ min: 0, max: 0o7777 });
const stored = { digest, bytes: fc.nat(), pack: digest };
const owner = fc.record({
  user: fc.string({ minLength: 1 }),
  group: fc.string({ minLength: 1 }),
  uid: fc.nat(),
  gid: fc.nat(),
});
const message: fc.Arbitrary<MessageEntry> = fc.record({
  kind: fc.constant("message" as const),
  instance: fc.stringMatching(/^[a-z_:% -]{1,20}$/),
  queueId: fc.stringMatching(/^[0-9A-Za-z]{6,20}$/),
  created: fc.stringMatching(/^\d{10}$/),
  content: digest,
  queue: fc.constantFrom(...messageQueues),
  mode,
  owner,
  mtime: time,
  file: fc.record(stored),
  logs: fc.array(fc.record({ log: fc.constantFrom(...logKinds), ...stored, mode, mtime: time }), { maxLength: 3 }),
  sender: fc.string({ unit: "grapheme" }),
  recipients: fc.array(fc.record({ address: fc.string({ unit: "binary" }), done: fc.boolean() })),
  size: fc.nat(),
  arrival: time,
  messageId: fc.option(fc.string()),
  contentFilter: fc.option(fc.string()),
  sendopts: fc.nat({ max: 64 }),
  delayWarning: fc.option(fc.nat()),
  inFlight: fc.option(fc.boolean()),
  role: fc.constantFrom(null, { kind: "admin" as const }, { kind: "restore" as const, run: "r1" }),
  finished: fc.boolean(),
});
const file: fc.Arbitrary<FileEntry> = fc.record({
  kind: fc.constant("file" as const),
  instance: fc.option(fc.stringMatching(/^[a-z_]{1,20}$/)),
  area: fc.constantFrom("config", "named", "service", "include", "report", "evidence"),
  path: fc.string({ unit: "grapheme", minLength: 1 }),
  type: fc.constantFrom("file", "directory", "link"),
  mode,
  owner,
  mtime: time,
  file: fc.option(fc.record(stored)),
  target: fc.option(fc.string()),
});

describe("a manifest line", () => {
  test("says what it was made from, whatever names and addresses hold", () => {
    fc.assert(
      fc.property(fc.oneof(message, file), (entry: ManifestEntry) => {
        const line = formatLine(entry);
        expect(line.endsWith("\n")).toBe(true);
        expect(line.slice(0, -1)).not.toContain("\n");
        expect(line.split("\t")).toHaveLength(11);
        expect(parseLine(line.slice(0, -1), 1)).toEqual(entry);
      }),
    );
  });

  test("that a newer writer made is an error with its number, not skipped", () => {
    for (const text of ["", "message\tx", "link\ta", "gone\t", `${formatLine(sample()).trimEnd()}\textra`]) {
      expect(() => parseLine(text, 7)).toThrow(/line 7/);
    }
  });

  test("with a name that could leave its place is refused", () => {
    const line = formatLine(sample()).replace("/4FA3C1/", "/../etc/");
    expect(() => parseLine(line.trimEnd(), 2)).toThrow(OperatorError);
  });
});

describe("parts", () => {
  const part = (kind: "base" | "increment", ...lines: string[]) =>
    Buffer.from(manifestHeader(kind, "mx1.example.test") + lines.join(""));

  test("read in order: the last line of a key wins, gone takes it out", () => {
    const entries = new Map<string, ManifestEntry>();
    const one = sample();
    const two = { ...sample(), queueId: "4FA3C2" };
    applyPart(entries, part("base", formatLine(one), formatLine(two)), "base");
    const moved = { ...one, queue: "active" as const };
    applyPart(
      entries,
      part("increment", formatLine(moved), formatLine({ kind: "gone", key: entryKey(two) })),
      "increment",
    );
    expect([...entries.values()]).toEqual([moved]);
  });

  test("cut short, without header, of another format or kind are damaged", () => {
    const entries = new Map<string, ManifestEntry>();
    const whole = part("base", formatLine(sample()));
    expect(() => applyPart(entries, whole.subarray(0, -5), "base")).toThrow(/middle of a line/);
    expect(() => applyPart(entries, Buffer.from(formatLine(sample())), "base")).toThrow(/no header/);
    expect(() => applyPart(entries, Buffer.from("#spoolsafe-manifest 2 base h\n"), "base")).toThrow(/format 2/);
    expect(() => applyPart(entries, whole, "increment")).toThrow(/record says increment/);
    expect(() => applyPart(entries, Buffer.alloc(0), "base")).toThrow(/empty/);
  });
});

function sample(): MessageEntry {
  const stored = { digest: "a".repeat(64), bytes: 10, pack: "b".repeat(64) };
  return {
    kind: "message",
    instance: "etc_postfix",
    queueId: "4FA3C1",
    created: "1795438483",
    content: "c".repeat(64),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 102, gid: 106 },
    mtime: 1795438999.25,
    file: stored,
    logs: [{ log: "bounce", ...stored, mode: 0o600, mtime: 1795438999 }],
    sender: "a@source.test",
    recipients: [{ address: "b@target.test", done: false }],
    size: 223,
    arrival: 1795438483.5,
    messageId: "<1@source.test>",
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
  };
}
