import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { buildProgram } from "../../src/cli/program.ts";
import { expressionProblem } from "../../src/schedule/expression.ts";

test("the crontab has times there are and commands there are, as root", async () => {
  const text = readFileSync(join(import.meta.dirname, "../../examples/cron/spoolsafe"), "utf8");
  const jobs = text.split("\n").filter((line) => /^[@*\d]/.test(line));
  expect(jobs).toHaveLength(3);
  for (const line of jobs) {
    const [, time = "", user, program, words = ""] = /^(@\S+|(?:\S+ +){4}\S+) +(\S+) +(\S+) +(.*)$/.exec(line) ?? [];
    if (time !== "@reboot") expect(expressionProblem(time), line).toBeUndefined();
    expect([user, program]).toEqual(["root", "spoolsafe"]);
    let performed = 0;
    const args = words.replace(/ > .*$/, "").split(" ");
    await buildProgram(async () => void performed++).parseAsync(args, { from: "user" });
    expect(performed, line).toBe(1);
  }
});
