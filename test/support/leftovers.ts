import { sweepScratch } from "./scratch.ts";

/**
 * Vitest's global set-up of the real tests: clears up after test processes that were killed earlier, and fails the run
 * if its own left something behind: a test process that ends by itself takes its instances with it.
 */
export default function setUp(): () => void {
  const old = sweepScratch();
  if (old.length > 0) process.stderr.write(`cleared up after an earlier run that was killed: ${old.join(" ")}\n`);
  return () => {
    const left = sweepScratch();
    if (left.length > 0) throw new Error(`this run left behind ${left.join(" ")}`);
  };
}
