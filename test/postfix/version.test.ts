import { expect, test } from "vitest";
import { compareVersions } from "../../src/postfix/version.ts";

test("versions are ordered by their numbers, not as text", () => {
  const sorted = ["3.10.1", "3.7.11", "3.12-20260821", "3.7", "3.11.0"].sort(compareVersions);
  expect(sorted).toEqual(["3.7", "3.7.11", "3.10.1", "3.11.0", "3.12-20260821"]);
  expect(compareVersions("3.7", "3.7.0")).toBe(0);
  expect(compareVersions("", "0")).toBe(0);
});
