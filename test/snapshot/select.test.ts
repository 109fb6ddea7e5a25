import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { selectSnapshot } from "../../src/snapshot/select.ts";

const snapshot = (id: string, host: string, time: string, number = 1, writer = host) => ({
  id: id.padEnd(64, "0"),
  snapshot: { host, time, number, writer },
});
const a = snapshot("aa1", "mx1.test", "2026-11-22T02:00:00.000Z", 1);
const b = snapshot("aa2", "mx1.test", "2026-11-23T02:00:00.000Z", 2);
const c = snapshot("cc3", "mx1.test", "2026-11-24T02:00:00.000Z", 3);
const other = snapshot("dd4", "mx2.test", "2026-11-24T05:00:00.000Z", 1);
const mx1 = { host: undefined, ownHost: "mx1.test" };
const nobody = { host: undefined, ownHost: undefined };
const all = [b, other, c, a];

function refused(spec: string, list = all, scope: Parameters<typeof selectSnapshot>[2] = mx1): OperatorError {
  try {
    selectSnapshot(spec, list, scope);
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error(`${spec} was found`);
}

describe("SNAP", () => {
  test("latest and latest~N count back from the newest of the host", () => {
    expect(selectSnapshot("latest", all, mx1)).toBe(c);
    expect(selectSnapshot("latest~2", all, mx1)).toBe(a);
    expect(refused("latest~3")).toMatchObject({ kind: "failed", hints: ["the oldest is latest~2"] });
  });

  test("a clock that was wrong once does not make latest an older one: numbers tell", () => {
    const ahead = snapshot("ee5", "mx1.test", "2027-11-24T02:00:00.000Z", 4);
    const after = snapshot("ee6", "mx1.test", "2026-11-25T02:00:00.000Z", 5);
    const list = [...all, ahead, after];
    expect(["latest", "latest~1", "latest~2"].map((spec) => selectSnapshot(spec, list, mx1))).toEqual([
      after,
      ahead,
      c,
    ]);
    expect(selectSnapshot("@2026-11-25", list, mx1)).toBe(after);
    // Nothing newer is there, and the one dated years back is the last that was taken.
    expect(selectSnapshot("latest", [...all, ahead], mx1)).toBe(ahead);
    const behind = snapshot("ee7", "mx1.test", "2002-01-01T00:00:00.000Z", 6);
    expect(selectSnapshot("latest", [...list, behind], mx1)).toBe(behind);
    expect(selectSnapshot("@2026-11-25", [...list, behind], mx1)).toBe(after);
    // A host that was made anew has a new key, and begins with 1.
    const anew = snapshot("ff8", "mx1.test", "2026-11-26T02:00:00.000Z", 1, "new key");
    expect(["latest", "latest~1"].map((spec) => selectSnapshot(spec, [...list, anew], mx1))).toEqual([anew, after]);
  });

  test("an id or a unique prefix of one finds it on any host, unless a host is named", () => {
    expect(selectSnapshot("cc", all, mx1)).toBe(c);
    expect(selectSnapshot("DD4", all, mx1)).toBe(other);
    expect(selectSnapshot(a.id, all, nobody)).toBe(a);
    expect(refused("aa")).toMatchObject({ kind: "usage" });
    expect(refused("aa").hints[0]).toContain("aa1");
    expect(refused("dd", all, { host: "mx1.test", ownHost: undefined })).toMatchObject({ kind: "failed" });
    expect(refused("ee")).toMatchObject({ kind: "failed" });
  });

  test("@TIME finds the newest at or before it", () => {
    expect(selectSnapshot("@2026-11-23T02:00:00Z", all, mx1)).toBe(b);
    expect(selectSnapshot("@2026-11-23T01:59:59Z", all, mx1)).toBe(a);
    expect(selectSnapshot("@2026-11-23T02:30+01:00", all, mx1)).toBe(a);
    expect(selectSnapshot("@2030-01-01 00:00", all, mx1)).toBe(c);
    expect(refused("@2026-11-01T00:00Z").hints[0]).toContain("aa1");
  });

  test("@TIME without a zone is local time, and a date alone is the end of that day", () => {
    const at = (hours: number) => new Date(2026, 10, 23, hours).toISOString();
    const local = [snapshot("1", "mx1.test", at(3)), snapshot("2", "mx1.test", at(22), 2)];
    expect(selectSnapshot("@2026-11-23T21:59", local, mx1)).toBe(local[0]);
    expect(selectSnapshot("@2026-11-23", local, mx1)).toBe(local[1]);
  });

  test.each(["newest", "latest~", "latest~-1", "", "@yesterday", "@2026-13-01", "@2026-11-23T25:00", "../x"])(
    "%j is wrong usage",
    (spec) => {
      expect(refused(spec)).toMatchObject({ kind: "usage" });
    },
  );

  test("the host is the one named, else our own, else the only one, else an error that lists them", () => {
    expect(selectSnapshot("latest", all, { host: "mx2.test", ownHost: "mx1.test" })).toBe(other);
    expect(selectSnapshot("latest", [other], mx1)).toBe(other);
    expect(refused("latest", all, nobody)).toMatchObject({
      kind: "usage",
      hints: ["say which with --host: mx1.test, mx2.test"],
    });
    expect(refused("latest", all, { host: "mx9.test", ownHost: undefined })).toMatchObject({ kind: "failed" });
  });

  test("without any snapshot says how to take one", () => {
    expect(refused("latest", [])).toMatchObject({ kind: "failed", hints: ["take one with `spoolsafe backup`"] });
  });
});
