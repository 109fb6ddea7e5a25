import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { groupId, groupName, userId, userName } from "../../src/system/accounts.ts";

test("root and daemon are known by name and number", () => {
  expect(userName(0)).toBe("root");
  expect(groupName(0)).toBe("root");
  expect(userId("daemon")).toBe(Number(execFileSync("id", ["-u", "daemon"], { encoding: "utf8" })));
  expect(groupId("daemon")).toBe(Number(execFileSync("id", ["-g", "daemon"], { encoding: "utf8" })));
});

test("a number without an account is kept as its digits, a name without one is undefined", () => {
  expect(userName(3_999_999_001)).toBe("3999999001");
  expect(groupName(3_999_999_001)).toBe("3999999001");
  expect(userId("no-such-account-here")).toBeUndefined();
  expect(groupId("no-such-group-here")).toBeUndefined();
});

test("a numeric text is not taken for the account with that number", () => {
  expect(userId("0")).toBeUndefined();
  expect(groupId("0")).toBeUndefined();
});

test("a name that looks like an option is a name", () => {
  expect(userId("--help")).toBeUndefined();
});
