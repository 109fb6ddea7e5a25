import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  arrivalOfLong,
  hashDirectories,
  idForInode,
  isLongId,
  isQueueId,
  nextMicrosecond,
} from "../../src/postfix/queue-id.ts";

// Ids and inodes below were seen on real Postfix 3.7 files.
const long = "4jY5j73J8pzBvYj";

describe("isQueueId", () => {
  test("takes what mail_queue_id_ok takes", () => {
    for (const name of ["7E48C16210F", long, "A", "x_y", "a".repeat(255)]) expect(isQueueId(name)).toBe(true);
  });

  test("refuses temporary names, paths and everything else", () => {
    for (const name of [
      "",
      ".",
      "..",
      "123456.789",
      "7E48C16210F#FIX",
      "a-b",
      "a/b",
      "a b",
      "ä",
      "a\n",
      "a".repeat(256),
    ]) {
      expect(isQueueId(name)).toBe(false);
    }
  });
});

test("a long id has its z after ten characters of time or more", () => {
  expect(isLongId(long)).toBe(true);
  expect(isLongId("7E48C16210F")).toBe(false);
  expect(isLongId("123456789zB")).toBe(false);
  expect(isLongId("1234567890z")).toBe(true);
});

test("a long id tells the second its message came, a short one does not", () => {
  // Seconds and microseconds in base 52 (postconf(5), enable_long_queue_ids), as mail_queue.h decodes them.
  const digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
  const seconds = [...long.slice(0, 6)].reduce((sum, digit) => sum * 52 + digits.indexOf(digit), 0);
  expect(arrivalOfLong(long)).toBe(seconds);
  expect(arrivalOfLong("7E48C16210F")).toBeUndefined();
  expect(arrivalOfLong("aaaaaaaaaazB")).toBeUndefined();
});

describe("hashDirectories", () => {
  test("of a short id are its first characters", () => {
    expect(hashDirectories("7E48C16210F", 1)).toEqual(["7"]);
    expect(hashDirectories("7E48C16210F", 3)).toEqual(["7", "E", "4"]);
    expect(hashDirectories("7E48C16210F", 0)).toEqual([]);
  });

  test("of a long id are those of its microseconds in hexadecimal", () => {
    expect(hashDirectories(long, 2)).toEqual(["7", "1"]);
  });

  test("are _ where a name is shorter than the depth", () => {
    expect(hashDirectories("AB", 3)).toEqual(["A", "B", "_"]);
  });
});

describe("idForInode", () => {
  test("keeps the microseconds of a short id", () => {
    expect(idForInode("41D2C162118", 0x1e8004, false)).toBe("41D2C1E8004");
    expect(idForInode("51125162125", 0x18a002n, true)).toBe("5112518A002");
  });

  test("keeps the time of a long id", () => {
    expect(idForInode(long, 1450273, true)).toBe(long);
    expect(idForInode(long, 51, true)).toBe("4jY5j73J8pz10");
  });

  test("shortens a long id for an instance that makes short ones", () => {
    expect(idForInode(long, 0x19e006, false)).toBe("71A8A19E006");
  });

  test("gives names that are no ids of Postfix's making a time of zero", () => {
    expect(idForInode("zz", 255, false)).toBe("00000FF");
  });

  test("is a fixed point: a name made for an inode stays for that inode", () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[0-9A-F]{6,12}$/),
        fc.bigInt(1n, 2n ** 63n),
        fc.boolean(),
        (id, inode, longIds) => {
          const name = idForInode(id, inode, longIds);
          expect(isQueueId(name)).toBe(true);
          expect(idForInode(name, inode, longIds)).toBe(name);
          expect(BigInt(`0x${name.slice(5)}`)).toBe(inode);
        },
      ),
    );
  });
});

describe("nextMicrosecond", () => {
  test("adds one and wraps at the second", () => {
    expect(nextMicrosecond("7E48C16210F")).toBe("7E48D16210F");
    expect(nextMicrosecond("F423F16210F")).toBe("0000016210F");
    expect(nextMicrosecond(long)).toBe("4jY5j73J8qzBvYj");
  });

  test("of a long id keeps four digits and all around them", () => {
    const last = idOfMicrosecond(999_999);
    expect(nextMicrosecond(last)).toBe("4jY5j70000zBvYj");
    expect(hashDirectories(nextMicrosecond(last), 1)).toEqual(["0"]);
  });

  test("comes back to where it began after every name of a second, and never meets another inode's", () => {
    let id = "0000016210F";
    for (let step = 0; step < 1000; step++) {
      id = nextMicrosecond(id);
      expect(id).toMatch(/^[0-9A-F]{5}16210F$/);
    }
    expect(id).toBe("003E816210F");
  });
});

function idOfMicrosecond(microsecond: number): string {
  const digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
  let text = "";
  for (let rest = microsecond; text.length < 4; rest = Math.floor(rest / 52)) text = digits[rest % 52] + text;
  return `4jY5j7${text}zBvYj`;
}
