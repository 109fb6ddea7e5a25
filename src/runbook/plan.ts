import type { Block, Confirm, Risk, Runbook } from "./runbook.ts";
import { type EffectiveValue, effectiveValues } from "./values.ts";
import { confirmOf } from "./words.ts";

/** What a step would do, without doing it. */
export interface PlannedStep {
  readonly name: string;
  readonly heading: string;
  /** Of the action's fence. */
  readonly line: number;
  /** A person does it. */
  readonly manual: boolean;
  /** Null where the runbook leaves it open. */
  readonly risk: Risk | null;
  readonly confirm: Confirm;
  /** Null: no limit. */
  readonly timeoutMs: number | null;
  readonly script: string;
  /** Names of the blocks before and after it, in order. */
  readonly pre: readonly string[];
  readonly verify: readonly string[];
  /** The longest that its checks may take, all tries together. */
  readonly verifyMs: number;
  readonly undo: string | null;
}

export interface Plan {
  readonly values: readonly EffectiveValue[];
  readonly steps: readonly PlannedStep[];
  readonly rtoMs: number;
  /** All time limits added up; null where a person takes part. */
  readonly longestMs: number | null;
}

/** The runbook as it would be run with these values. Pure: nothing is executed, not even what computes a default. */
export function planRunbook(
  runbook: Runbook,
  set: ReadonlyMap<string, string>,
  environment: Readonly<Record<string, string | undefined>>,
): Plan {
  const steps = runbook.steps.map(({ name, heading, pre, action, verify, undo }) => ({
    ...{ name, heading, line: action.line, manual: action.kind === "manual" },
    ...{ risk: action.risk, confirm: confirmOf(action), script: action.script },
    timeoutMs: Number.isFinite(action.timeoutMs) ? action.timeoutMs : null,
    pre: pre.map((block) => block.name),
    verify: verify.map((block) => block.name),
    verifyMs: [...pre, ...verify].reduce((sum, block) => sum + longestMs(block), 0),
    undo: undo?.name ?? null,
  }));
  const all = steps.map(({ timeoutMs, verifyMs }) => (timeoutMs === null ? null : timeoutMs + verifyMs));
  return {
    values: effectiveValues(runbook, set, environment),
    steps,
    rtoMs: runbook.rtoMs,
    longestMs: all.reduce((sum, each) => (sum === null || each === null ? null : sum + each), 0 as number | null),
  };
}

function longestMs({ timeoutMs, retry, everyMs }: Block): number {
  return retry * timeoutMs + (retry - 1) * everyMs;
}
