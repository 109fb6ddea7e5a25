import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { runDaemon } from "../../src/schedule/daemon.ts";
import { makeCalendar, minute } from "../../src/schedule/expression.ts";
import { systemdNotify } from "../../src/schedule/notify.ts";
import { loadStates } from "../../src/schedule/state.ts";
import { heldFile, readScene, sceneClock } from "./scene.ts";

/*
 * The real daemon on the clock of a scene, for a test that kills it: node scene-daemon.ts SCENE. A minute passes with every
 * tick, but time stands still while a job is at work.
 */

const [, , file = ""] = process.argv;
const scene = readScene(file);
const clock = sceneClock(scene);
const controller = new AbortController();
process.on("SIGTERM", () => controller.abort());

await runDaemon({
  jobs: scene.jobs.map(({ job, expression }) => ({
    job,
    lane: job,
    calendar: makeCalendar(expression, "UTC"),
    jitterMs: 0,
    catchUpMs: 24 * 60 * minute,
  })),
  stateDirectory: scene.state,
  clock,
  signal: controller.signal,
  ticks: (tick) => {
    const timer = setInterval(() => {
      const atWork = Object.values(loadStates(scene.state).jobs).some(({ running }) => running !== null);
      appendFileSync(scene.log, `tick - ${clock.now() + (atWork ? 0 : minute)}\n`);
      tick();
    }, 15);
    return { restart: () => {}, stop: () => clearInterval(timer) };
  },
  commandOf: (job) => [process.execPath, join(import.meta.dirname, "scene-job.ts"), file, job],
  recovery: ["rm", "-f", heldFile(scene)],
  notify: systemdNotify(process.env),
  report: (event) => process.stderr.write(`${JSON.stringify(event)}\n`),
});
