import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packagedRunbooks } from "../../src/runbook/catalogue.ts";

const names = readdirSync(packagedRunbooks())
  .filter((name) => /^\d\d-.*\.md$/.test(name))
  .map((name) => name.replace(/\.md$/, ""));

describe("every runbook of the package", () => {
  test.each(names)("%s has scenarios that run it", (name) => {
    const file = join(import.meta.dirname, `${name}.real.test.ts`);
    expect(existsSync(file), file).toBe(true);
    expect(readFileSync(file, "utf8")).toContain(`describeRunbook("${name}"`);
  });

  test("is more than none", () => {
    expect(names.length).toBeGreaterThan(0);
  });
});
