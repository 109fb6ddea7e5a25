import { closeSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { isLocked, parseLocks } from "../../src/postfix/locks.ts";
import { tryLock } from "../../src/system/lock.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

// Lines as Linux prints them; the waiter's fields are shifted by its arrow.
const table = parseLocks(`1: FLOCK  ADVISORY  READ 11506 fe:00:1450259 0 EOF
2: FLOCK  ADVISORY  WRITE 11022 fe:00:5334121 0 EOF
2: -> FLOCK  ADVISORY  WRITE 11023 fe:00:77 0 EOF
3: POSIX  ADVISORY  WRITE 400 fe:00:99 0 EOF
4: FLOCK  ADVISORY  READ 400 103:05:12345678901 0 EOF
5: OFDLCK ADVISORY  READ -1 00:06:1060 0 0
`);

/** st_dev as makedev(3) makes it. */
function device(major: bigint, minor: bigint): bigint {
  return ((major & 0xfffff000n) << 32n) | ((major & 0xfffn) << 8n) | ((minor & 0xffffff00n) << 12n) | (minor & 0xffn);
}

test("a flock is held, shared or exclusive, by whichever process", () => {
  expect(table.has(0xfe00, 1450259)).toBe(true);
  expect(table.has(0xfe00n, 5334121n)).toBe(true);
});

test("a waiter holds nothing, nor do other kinds of lock", () => {
  expect(table.has(0xfe00, 77)).toBe(false);
  expect(table.has(0xfe00, 99)).toBe(false);
  expect(table.has(device(0n, 6n), 1060)).toBe(false);
});

test("another device with the same inode is another file", () => {
  expect(table.has(0xfe01, 1450259)).toBe(false);
  expect(table.has(device(0x103n, 5n), 12345678901n)).toBe(true);
  expect(table.has(device(0x3n, 0x105n), 12345678901n)).toBe(false);
});

test("no locks at all", () => {
  expect(parseLocks("").has(1, 1)).toBe(false);
});

test("where the table tells nothing, a lock is found by trying", async () => {
  const scratch = makeScratch();
  const path = join(scratch, "message");
  writeFileSync(path, "");
  const open = <T>(look: (fd: number) => T): T => {
    const fd = openSync(path, "r");
    try {
      return look(fd);
    } finally {
      closeSync(fd);
    }
  };
  try {
    expect(open(isLocked)).toBe(false);
    const lock = await tryLock(path);
    expect(open(isLocked)).toBe(true);
    await lock?.release();
    expect(open(isLocked)).toBe(false);
  } finally {
    destroyScratch(scratch);
  }
});
