import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { resumeRun, runRunbook } from "../../src/runbook/run.ts";
import type { RunHooks, RunWorld } from "../../src/runbook/world.ts";
import { systemClock } from "../../src/system/clock.ts";
import type { RunnerOrder } from "./runbook.ts";

// Started by runbook.ts: runs or resumes a runbook, and kills itself at one point of the next step.
const order = JSON.parse(await text(process.stdin)) as RunnerOrder;
const runbook = parseRunbook(readFileSync(order.runbook, "utf8"), order.runbook);
const tell = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
const host = "mx.queue.test";

const hooks: RunHooks = {
  reached: async (point, { name }) => {
    if (point !== order.point || order.killed.includes(name)) return;
    if (point === "let-go") await delay(30);
    tell({ type: "killed", step: name });
    process.kill(process.pid, "SIGKILL");
    await delay(10_000);
  },
};
const typed = runbook.steps.filter(({ action }) => action.confirm === "type").map(({ name }) => [name, host] as const);
const world: RunWorld = {
  ...{ places: order.places, command: order.command, configFile: order.config, host, version: "test", uid: 0 },
  roles: ["primary", "standby"],
  environment: {
    HOME: "/root",
    MAIL_CONFIG: order.postfix.configDirectory,
    ...Object.fromEntries(runbook.secrets.map((name) => [name, "hunter2-canary"])),
    ...order.environment,
  },
  instance: { ...order.postfix, version: "3.7.11" },
  clock: systemClock,
  people: {
    ...{ ask: async () => null, name: "tester", account: "root", sudoUser: null, terminal: null, yes: true },
    answers: new Map([...typed, ...Object.entries(order.answers)]),
    onInterrupt: () => () => {},
    terminated: new AbortController().signal,
  },
  report: tell,
  hooks,
};
const report =
  order.run === null
    ? await runRunbook({ runbook, world, set: new Map(Object.entries(order.set)), from: null })
    : await resumeRun({ runbook, world, run: order.run });
tell({ type: "report", report });
