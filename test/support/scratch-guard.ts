import { existsSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { sweepScratch } from "./scratch.ts";

// Started by scratch.ts when a test process ended without clearing up: `scratch-guard.ts PID DIRECTORY...`.
const [pid, ...parents] = process.argv.slice(2);
// Its files close a moment before it is gone.
for (let round = 0; round < 50; round++) {
  for (const parent of parents) if (existsSync(parent)) sweepScratch(parent);
  if (!existsSync(`/proc/${pid}`)) break;
  await delay(100);
}
