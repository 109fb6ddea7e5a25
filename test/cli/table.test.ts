import { expect, test } from "vitest";
import { localTime, span, table } from "../../src/cli/table.ts";

test("columns are as wide as their widest cell, numbers at the right, nothing trails", () => {
  expect(
    table(
      ["ID", "COUNT", "TAGS"],
      [
        ["a", 5, "x"],
        ["bcd", 12345, ""],
      ],
    ),
  ).toBe(["ID   COUNT  TAGS", "a        5  x", "bcd  12345"].join("\n"));
});

test("a header stands alone over no rows", () => expect(table(["ID", "COUNT"], [])).toBe("ID  COUNT"));

test("characters two columns wide, and marks that take none, keep the columns", () => {
  expect(
    table(
      ["A", "B"],
      [
        ["日本", "x"],
        ["e\u0301", "y"],
        ["abcd", "z"],
      ],
    ),
  ).toBe("A     B\n日本  x\ne\u0301     y\nabcd  z");
});

test("control characters can't steer a terminal", () => {
  expect(table(["A"], [["\x1b[2J\x07\u009b\n"]])).toBe("A\n?[2J???");
});

test("100,000 rows take a moment", () => {
  const rows = Array.from({ length: 100_000 }, (_, index) => [`7E48C${index}`, "deferred", index, "bob@target.test"]);
  const start = performance.now();
  expect(table(["ID", "QUEUE", "SIZE", "TO"], rows).length).toBeGreaterThan(4_000_000);
  expect(performance.now() - start).toBeLessThan(5000);
});

test("times and spans are short", () => {
  expect(localTime(new Date(2026, 10, 4, 2, 3, 9))).toBe("2026-11-04 02:03:09");
  expect([span(2000), span(93_600_000), span(-5)]).toEqual(["2s", "1d", "0ms"]);
});
