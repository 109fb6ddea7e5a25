import { expect, test } from "vitest";
import { lackOfRoom, reserveBytes, roomFor } from "../../src/postfix/room.ts";

test("files take whole blocks, and an inode each", () => {
  expect(roomFor([{ bytes: 1 }, { bytes: 4096 }, { bytes: 4097 }, { bytes: 0 }], 4096)).toEqual({
    bytes: 16384,
    inodes: 4,
  });
});

test("Postfix keeps the larger of queue_minfree and one and a half messages free", () => {
  const values = (queue_minfree: string, message_size_limit: string) =>
    reserveBytes((name) => ({ queue_minfree, message_size_limit })[name] ?? "");
  expect(values("0", "10240000")).toBe(15_360_000);
  expect(values("20000000", "10240000")).toBe(20_000_000);
});

test("room is there for the mail, what Postfix keeps free, and directories", () => {
  const needs = { bytes: 8192, inodes: 2 };
  const there = { freeBytes: 18_192, freeInodes: 302, reserveBytes: 10_000 };
  expect(lackOfRoom(needs, there)).toBeUndefined();
  expect(lackOfRoom(needs, { ...there, freeBytes: 18_191 })).toBe(
    "18192 bytes (8192 for the mail and 10000 that Postfix keeps free), and has 18191",
  );
  expect(lackOfRoom(needs, { ...there, freeInodes: 301 })).toBe("302 inodes, and has 301");
  expect(lackOfRoom(needs, { ...there, freeInodes: null })).toBeUndefined();
});
