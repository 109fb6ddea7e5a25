import { describe, expect, test } from "vitest";
import { compareOutput, readExpectLine } from "../../src/runbook/expect.ts";
import type { ExpectLine } from "../../src/runbook/runbook.ts";

function expected(...lines: readonly string[]): ExpectLine[] {
  return lines.map((line, index) => {
    const read = readExpectLine(line, index + 1);
    if (typeof read === "string") throw new Error(read);
    return read;
  });
}

describe("a line of expectation", () => {
  test.each([
    ["0", "equal", "0", ""],
    ["a (glob)", "glob", "a", ""],
    ["a (gl+)", "glob", "a", "+"],
    ["a (re)", "regex", "a", ""],
    ["a (regex*)", "regex", "a", "*"],
    ["a (equal)", "equal", "a", ""],
    ["a (?)", "equal", "a", "?"],
    ["a (*)", "equal", "a", "*"],
    ["a ()", "equal", "a ()", ""],
    ["a (b)", "equal", "a (b)", ""],
    ["a(re)", "equal", "a(re)", ""],
    ["a (re) ", "equal", "a (re) ", ""],
    ["a (constructor)", "equal", "a (constructor)", ""],
    [" (glob)", "glob", "", ""],
  ])("%j", (line, rule, text, quantifier) => {
    expect(readExpectLine(line, 7)).toEqual({ rule, text, quantifier, line: 7 });
  });

  test("that is a bad regular expression is told in words", () => {
    expect(readExpectLine("a( (re)", 1)).toMatch(/^invalid regular expression/);
  });
});

describe("output fits", () => {
  test.each<[string[], string]>([
    [[], ""],
    [["0"], "0\n"],
    [["0"], "0"],
    [["a", "b"], "a\nb\n"],
    [[""], "\n"],
    [["a.c"], "a.c\n"],
    [["* of ? (glob)"], "3 of 4\n"],
    [["/var/* (glob)"], "/var/spool/postfix\n"],
    [["[a] (glob)"], "[a]\n"],
    [["[0-9]+ (re)"], "123\n"],
    [["a|bc (re)"], "bc\n"],
    [["a (?)", "b"], "b\n"],
    [["a (?)", "b"], "a\nb\n"],
    [["* (glob*)"], ""],
    [["* (glob*)", "end"], "1\n2\n3\nend\n"],
    [["* (glob*)", "end", "* (glob*)"], "1\nend\nend\n2\n"],
    [["x (re+)"], "x\nx\n"],
    [["a"], "a\r\n"],
  ])("%j: %j", (lines, output) => {
    expect(compareOutput(expected(...lines), output)).toBeNull();
  });
});

describe("output differs, and is shown beside what was expected", () => {
  test.each<[string[], string, string]>([
    [["0"], "4\n", "- 0\n+ 4"],
    [["0"], "", "- 0"],
    [[], "noise\n", "+ noise"],
    [["a", "b"], "a\nc\n", "  a\n- b\n+ c"],
    [["[0-9] (re)"], "12\n", "- [0-9] (re)\n+ 12"],
    [["a (re+)"], "", "- a (re+)"],
    [["a.c (glob)"], "abc\n", "- a.c (glob)\n+ abc"],
    [["a"], "a \n", "- a\n+ a "],
    [["a"], "a\n\n", "  a\n+ "],
  ])("%j: %j", (lines, output, difference) => {
    expect(compareOutput(expected(...lines), output)).toBe(difference);
  });

  test("at most ten lines of each", () => {
    const told = compareOutput(expected("0"), Array.from({ length: 1000 }, (_, n) => `${n + 1}`).join("\n")) ?? "";
    expect(told.split("\n")).toHaveLength(12);
    expect(told).toMatch(/^\+ \.\.\. 990 more$/m);
  });
});

test("many quantifiers over much output take no time to speak of", () => {
  // Tried one after another, the ways to share these lines out would take for ever.
  const lines = Array.from({ length: 20 }, () => "* (glob*)");
  const output = "a\n".repeat(2_000);
  expect(compareOutput(expected(...lines), output)).toBeNull();
  expect(compareOutput(expected(...lines, "b"), output)).not.toBeNull();
});
