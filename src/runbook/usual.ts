import { OperatorError } from "../errors.ts";
import { loadRun, runNames } from "./run-directory.ts";

/** Runs looked at, newest first. */
const enough = 20;

/** Milliseconds that each step of a runbook took in earlier runs on this host: the median. */
export function usualDurations(places: readonly string[], runbookId: string): Map<string, number> {
  const times = new Map<string, number[]>();
  for (const run of runNames(places).slice(-enough)) {
    for (const { step, ms } of durationsOf(places, run, runbookId)) times.set(step, [...(times.get(step) ?? []), ms]);
  }
  return new Map([...times].map(([step, all]) => [step, median(all)]));
}

function durationsOf(places: readonly string[], run: string, runbookId: string): { step: string; ms: number }[] {
  try {
    const { journal, progress } = loadRun(places, run);
    if (progress.start.runbook.id !== runbookId) return [];
    return journal.lines.flatMap((line) => (line.event === "step.done" ? [{ step: line.step, ms: line.ms }] : []));
  } catch (error) {
    // A journal that can't be read tells nothing of how long a step takes.
    if (error instanceof OperatorError) return [];
    throw error;
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}
