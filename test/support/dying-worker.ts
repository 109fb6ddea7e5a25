import { parentPort, workerData } from "node:worker_threads";

/*
 * The real pack worker, which dies at its third job, in the way its data names: `exit`, `throw` or `memory`.
 */
await import("../../src/pack/pack-worker.ts");

let jobs = 0;
parentPort?.on("message", () => {
  jobs += 1;
  if (jobs < 3) return;
  if (workerData === "exit") process.exit(0);
  if (workerData === "throw") throw new Error("thrown on purpose");
  const eaten: unknown[] = [];
  while (workerData === "memory") eaten.push(new Array(1_000_000).fill(eaten.length));
});
