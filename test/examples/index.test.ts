import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const examples = join(import.meta.dirname, "../../examples");

test("the index names every directory, and no other", () => {
  const named = [...readFileSync(join(examples, "README.md"), "utf8").matchAll(/^\| `(\w+)\/` \|/gm)];
  const there = readdirSync(examples).filter((name) => name !== "README.md");
  expect(named.map(([, name]) => name).sort()).toEqual(there.sort());
});
