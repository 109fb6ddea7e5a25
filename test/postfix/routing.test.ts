import { readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { killRouting } from "../../src/postfix/marks.ts";
import { bufferSource, readQueueFile, routingRecords } from "../../src/postfix/queue-file.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { queueFile, record } from "./records.ts";

const filter = "smtp:[127.0.0.1]:10025";
const whole = queueFile([
  record("T", "1795000000 1"),
  record("S", "a@a.test"),
  record("R", "b@b.test"),
  record("L", filter, true),
  record("M"),
  record("N", "> L is no record here"),
  record("L", "nor is this piece of a line"),
  record("N"),
  record("X"),
  record(">", "c@c.test"),
  record("E"),
]);

describe("where a queue file says its message goes", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));
  const path = join(scratch, "7E48C16210F");

  test("is found in both envelopes, behind pointers as well, and nowhere else", () => {
    const found = routingRecords(bufferSource(whole));
    expect(found.map(({ kind }) => kind)).toEqual(["filter", "redirect"]);
    expect(found.map(({ offset }) => String.fromCharCode(whole[offset] ?? 0))).toEqual(["L", ">"]);
  });

  test("can be killed, which changes those bytes alone and no time", () => {
    writeFileSync(path, whole);
    utimesSync(path, 1_795_000_000, 1_795_000_000);
    expect(killRouting(path)).toBe(2);
    const now = readFileSync(path);
    expect(now.filter((byte, at) => byte !== whole[at]).toString()).toBe("KK");
    expect(statSync(path).mtimeMs).toBe(1_795_000_000_000);
    expect(readQueueFile(bufferSource(now))).toEqual({ ...readQueueFile(bufferSource(whole)), contentFilter: null });
    expect(killRouting(path)).toBe(0);
  });

  test("is nowhere in mail that goes its usual way", () => {
    for (const [name, bytes] of queueFiles) expect(routingRecords(bufferSource(bytes)), name).toEqual([]);
  });
});
