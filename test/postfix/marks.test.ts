import { copyFileSync, readFileSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { markDone } from "../../src/postfix/marks.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { watchDisk } from "../support/disk-order.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

function copyOf(name: string): { path: string; before: Buffer } {
  const from = join(import.meta.dirname, "../fixtures/queue-files", name);
  const path = join(scratch, name);
  copyFileSync(from, path);
  return { path, before: readFileSync(from) };
}

test.each(["four-recipients", "milter-edited", "dsn", "long-id", "partly-done"])(
  "marking a recipient of %s changes the one byte that delivery agents change",
  (name) => {
    const { path, before } = copyOf(name);
    const facts = readQueueFile(bufferSource(before));
    const index = facts.recipients.findLastIndex(({ done }) => !done);
    markDone(path, [index]);
    const after = readFileSync(path);
    const expected = Buffer.from(before);
    expected[facts.recipients[index]?.offset ?? -1] = "D".charCodeAt(0);
    expect(after.equals(expected)).toBe(true);
    const marks = readQueueFile(bufferSource(after)).recipients.map(({ done }) => done);
    expect(marks).toEqual(facts.recipients.map(({ done }, at) => done || at === index));
    expect(readQueueFile(bufferSource(after)).content).toBe(facts.content);
  },
);

test("the file keeps its time, and both are on disk at once", () => {
  const { path } = copyOf("four-recipients");
  utimesSync(path, 1_600_000_000.25, 1_700_000_000.75);
  using disk = watchDisk();
  markDone(path, [1]);
  expect(disk.calls).toEqual([`write ${path}`, `sync ${path}`]);
  expect(statSync(path)).toMatchObject({ atimeMs: 1_600_000_000_250, mtimeMs: 1_700_000_000_750 });
});

test("a recipient that is done stays so, and one that is not there is an error", () => {
  const { path, before } = copyOf("partly-done");
  const done = readQueueFile(bufferSource(before)).recipients.findIndex((recipient) => recipient.done);
  markDone(path, [done]);
  expect(readFileSync(path).equals(before)).toBe(true);
  expect(() => markDone(path, [99])).toThrow(/no recipient number 100/);
});
