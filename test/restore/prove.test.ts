import { chmodSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunMessage } from "../../src/restore/journal.ts";
import { proveMessage } from "../../src/restore/prove.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { digestOf } from "../../src/system/digest.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const bytes = queueFiles.get("partly-done") ?? Buffer.of();

describe("the proof of a staged message", () => {
  let scratch = "";
  let entry: MessageEntry;
  beforeAll(async () => {
    scratch = makeScratch();
    await using made = await HandMade.make();
    const { manifest } = await made.take({ messages: [{ bytes }] });
    const [only] = manifest.messages;
    if (only === undefined) throw new Error("no message");
    entry = only;
  });
  afterAll(() => destroyScratch(scratch));

  function staged(content: Buffer = bytes): { path: string; message: RunMessage } {
    const path = join(scratch, "staged");
    writeFileSync(path, content);
    chmodSync(path, 0o700);
    utimesSync(path, entry.mtime, entry.mtime);
    const { uid, gid } = statSync(path);
    const message: RunMessage = {
      ...{ number: 0, key: "k", queue: "deferred", mode: 0o700, uid, gid, mtime: entry.mtime },
      ...{ role: null, inDoubt: null, recipients: [1], marks: [], served: [], logs: true, waits: false },
    };
    return { path, message };
  }

  test("finds nothing wrong with what is as it should be, and says when the inode last changed", () => {
    const { path, message } = staged();
    const { ctimeNs } = statSync(path, { bigint: true });
    expect(proveMessage(path, { entry, message })).toEqual({
      problem: null,
      changed: ctimeNs,
      digest: entry.file.digest,
    });
  });

  test.each([
    ["a byte of the text", (copy: Buffer) => copy.writeUInt8(0x21, copy.length - 100), /do not have the digest/],
    [
      "a recipient's mark",
      (copy: Buffer) => copy.write("D", copy.indexOf("R\x10second@dest.test")),
      /do not have the digest/,
    ],
  ])("finds %s changed on the disk", (_, spoil, problem) => {
    const copy = Buffer.from(bytes);
    spoil(copy);
    expect(copy.equals(bytes)).toBe(false);
    const { path, message } = staged(copy);
    expect(proveMessage(path, { entry, message }).problem).toMatch(problem);
  });

  test("finds a file that is longer or shorter", () => {
    const { path, message } = staged(bytes.subarray(1));
    expect(proveMessage(path, { entry, message }).problem).toBe(
      `it has ${bytes.length - 1} bytes, not ${bytes.length}`,
    );
  });

  test.each([
    ["sender", { sender: "x@src.test" }, /sender/],
    ["mark", { recipients: [{ address: "first@good.test", done: false }] }, /recipients/],
    ["text", { content: "0".repeat(64) }, /text/],
  ])("finds a manifest that says another %s than the bytes it names", (_, over, problem) => {
    const { path, message } = staged();
    expect(proveMessage(path, { entry: { ...entry, ...over }, message }).problem).toMatch(problem);
  });

  test("finds bytes that are as stored and that Postfix could not read", () => {
    const cut = bytes.subarray(0, -1);
    const { path, message } = staged(cut);
    const file = { ...entry.file, digest: digestOf(cut).digest, bytes: cut.length };
    expect(proveMessage(path, { entry: { ...entry, file }, message }).problem).toMatch(/the file ends/);
  });

  test.each([
    ["mode", { mode: 0o740 }, "its mode is 700, not 740"],
    ["time", { mtime: 1_795_000_060 }, "its time is 1795000000, not 1795000060"],
    ["owner", { uid: 4711 }, /its owner is \d+:\d+, not 4711:\d+/],
  ])("finds another %s than was planned", (_, over, problem) => {
    const { path, message } = staged();
    const found = proveMessage(path, { entry, message: { ...message, ...over } }).problem;
    expect(found).toMatch(problem);
  });
});
