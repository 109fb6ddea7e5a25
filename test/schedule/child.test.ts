import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isAlive, type JobProcess } from "../../src/jobs/record.ts";
import { adoptChild, startChild } from "../../src/schedule/child.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";

let directory = "";
beforeEach(() => {
  directory = makeScratch();
});
afterEach(() => destroyScratch(directory));

const mark = () => join(directory, "mark");
const touch = (script = "") => ["sh", "-c", `echo "$WORD" $$ > ${mark()}; ${script}`];

test("it does nothing before it is let go, and then is the program, with the same pid and our environment", async () => {
  const child = startChild({ command: touch("exit 7"), env: { WORD: "a b" } });
  await delay(100);
  expect(existsSync(mark())).toBe(false);
  expect(isAlive(child.process)).toBe(true);
  child.go();
  expect(await child.ended).toBe(7);
  expect(readFileSync(mark(), "utf8")).toBe(`a b ${child.process.pid}\n`);
});

test("it never does anything when its daemon dies before it is let go", async () => {
  const program = join(import.meta.dirname, "../../src/schedule/child.ts");
  const script = `import { startChild } from ${JSON.stringify(program)};
    const child = startChild({ command: ${JSON.stringify(touch())}, env: {} });
    process.stdout.write(JSON.stringify(child.process), () => process.kill(process.pid, "SIGKILL"));`;
  const { stdout } = spawnSync(process.execPath, ["--input-type=module-typescript", "-e", script], {
    encoding: "utf8",
  });
  const started: JobProcess = JSON.parse(stdout);
  await until(() => !isAlive(started), { what: "the end of the child" });
  expect(existsSync(mark())).toBe(false);
});

test("one that was started by another is watched until it ends, and can be told to", async () => {
  const other = startChild({ command: ["sleep", "600"], env: {} });
  other.go();
  const adopted = adoptChild(other.process, 20);
  adopted.kill("SIGTERM");
  expect(await adopted.ended).toBeNull();
  expect(await other.ended).toBeNull();
  adopted.kill("SIGTERM");
});
