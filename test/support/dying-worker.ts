import { parentPort } from "node:worker_threads";

/*
 * The real pack worker, which dies at its third job, in the way the query of its URL names: `exit`, `throw` or `memory`.
 */
await import("../../src/pack/pack-worker.ts");

const how = new URL(import.meta.url).search.slice(1);
let jobs = 0;
parentPort?.on("message", () => {
  jobs += 1;
  if (jobs < 3) return;
  if (how === "exit") process.exit(0);
  if (how === "throw") throw new Error("thrown on purpose");
  const eaten: unknown[] = [];
  for (;;) eaten.push(new Array(1_000_000).fill(eaten.length));
});
