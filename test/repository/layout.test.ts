import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  drillKey,
  objectKey,
  packKey,
  parseDrillKey,
  parseObjectKey,
  parseRemovalKey,
  parseSnapshotKey,
  partKey,
  removalKey,
  snapshotKey,
} from "../../src/repository/layout.ts";

const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
const place = fc.record({
  writer: fc.stringMatching(/^[0-9a-f]{16}$/),
  number: fc.integer({ min: 1, max: 9_999_999_999 }),
  id: digest,
});

describe("keys of objects", () => {
  const id = "ab".repeat(32);

  test("are as the format says", () => {
    expect(packKey(id)).toBe(`packs/ab/${id}`);
    expect(partKey(id)).toBe(`parts/ab/${id}`);
    expect(snapshotKey({ writer: "0123456789abcdef", number: 7, id })).toBe(
      `snapshots/0123456789abcdef/0000000007-${id}`,
    );
    expect(removalKey({ writer: "0123456789abcdef", number: 7, id })).toBe(
      `removals/0123456789abcdef/0000000007-${id}`,
    );
  });

  test("parse to what made them", () => {
    fc.assert(
      fc.property(digest, place, fc.constantFrom("pack" as const, "part" as const), (digest, place, kind) => {
        expect(parseObjectKey(kind, objectKey(kind, digest))).toBe(digest);
        expect(parseSnapshotKey(snapshotKey(place))).toEqual(place);
        expect(parseRemovalKey(removalKey(place))).toEqual(place);
        expect(parseDrillKey(drillKey(place))).toEqual(place);
        expect(parseSnapshotKey(drillKey(place))).toBeUndefined();
      }),
    );
  });

  test("sort as their numbers", () => {
    fc.assert(
      fc.property(place, place, (a, b) => {
        const [first, second] = [snapshotKey({ ...a, writer: b.writer }), snapshotKey(b)];
        if (a.number !== b.number) expect(first < second).toBe(a.number < b.number);
      }),
    );
  });

  test.each([
    `packs/ac/${id}`,
    `packs/ab/${id}0`,
    `packs/ab/${id.toUpperCase()}`,
    `packs/ab/x/${id}`,
    `parts/ab/${id}`,
    `packs/ab/.spoolsafe-0123456789ab.tmp`,
    id,
    "",
  ])("%s is no pack's", (key) => {
    expect(parseObjectKey("pack", key)).toBeUndefined();
  });

  test.each([
    `snapshots/0123456789abcdef/7-${id}`,
    `snapshots/0123456789abcdef/0000000000-${id}`,
    `snapshots/0123456789abcde/0000000007-${id}`,
    `snapshots/0123456789abcdef/0000000007-${id}.old`,
    `removals/0123456789abcdef/0000000007-${id}`,
    `0123456789abcdef/0000000007-${id}`,
  ])("%s is no snapshot's", (key) => {
    expect(parseSnapshotKey(key)).toBeUndefined();
  });
});
