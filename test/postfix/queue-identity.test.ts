import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isSameQueue, queueIdentity } from "../../src/postfix/queue-identity.ts";

let directory = "";
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "queue-identity-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe("the identity of a queue directory", () => {
  test("stays through another name and other contents", () => {
    mkdirSync(join(directory, "a"));
    const before = queueIdentity(join(directory, "a"));
    writeFileSync(join(directory, "a", "file"), "");
    renameSync(join(directory, "a"), join(directory, "b"));
    expect(isSameQueue(before, queueIdentity(join(directory, "b")))).toBe(true);
  });

  test("is another for a directory made later, whatever its inode", () => {
    mkdirSync(join(directory, "a"));
    const before = queueIdentity(join(directory, "a"));
    rmSync(join(directory, "a"), { recursive: true });
    mkdirSync(join(directory, "a"));
    expect(isSameQueue(before, { ...queueIdentity(join(directory, "a")), inode: before.inode })).toBe(false);
  });

  test("outlives another device number where the birth is known, and only there", () => {
    const here = { device: "1", inode: "2", born: "3" };
    expect(isSameQueue(here, { ...here, device: "7" })).toBe(true);
    expect(isSameQueue(here, { ...here, device: "7", born: null })).toBe(false);
    expect(isSameQueue(here, { ...here, born: null })).toBe(true);
    expect(isSameQueue(here, { ...here, inode: "9" })).toBe(false);
  });
});
