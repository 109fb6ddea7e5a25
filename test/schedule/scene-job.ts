import { appendFileSync, existsSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { type JobName, recordEnd, recordStart } from "../../src/jobs/record.ts";
import { heldFile, readScene, sceneClock } from "./scene.ts";

/* A job that records itself as the real ones do and takes a moment: node scene-job.ts SCENE JOB. */

const [, , file = "", job = ""] = process.argv;
const scene = readScene(file);
const clock = sceneClock(scene);
const due = process.env.SPOOLSAFE_DUE ?? null;
const say = (what: string) => appendFileSync(scene.log, `${what} ${job} ${Date.parse(due ?? "")}\n`);

const run = recordStart(scene.state, { job: job as JobName, now: new Date(clock.now()), due });
say("start");
if (job === "backup") {
  if (existsSync(heldFile(scene))) say("found-held");
  writeFileSync(heldFile(scene), "");
}
await delay(Math.random() * 200);
say("ending");
if (job === "backup") rmSync(heldFile(scene));
recordEnd(scene.state, run, { exit: 0, now: new Date(clock.now()) });
say("end");
