import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { Execution, failureOf } from "./execution.ts";
import { placeOwnCommand } from "./own-command.ts";
import { unmetRequirements, wrongRole } from "./requirements.ts";
import type { Runbook, Step } from "./runbook.ts";
import { Secrets } from "./secrets.ts";
import { effectiveValues } from "./values.ts";
import type { CheckState, RunWorld } from "./world.ts";

export interface CheckRequest {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  readonly set: ReadonlyMap<string, string>;
}

export interface CheckReport {
  /** How many steps are in each state. */
  readonly counts: Readonly<Record<CheckState, number>>;
  /** Nothing would be refused as far as can be known. */
  readonly ok: boolean;
}

/**
 * What a run would meet now. Executes the variables, conditions, verifies and what only reads, in a directory that is removed
 * again; nothing that changes anything is executed or played, so that of a step behind one that would run only what holds
 * without it is known.
 *
 * @throws OperatorError `usage`; `refused` when the variables can't be computed
 */
export async function checkRunbook({ runbook, world, set }: CheckRequest): Promise<CheckReport> {
  const values = effectiveValues(runbook, set, world.environment);
  const troubles = [
    ...unmetRequirements(runbook, world).map(({ fact }) => fact),
    wrongRole(runbook, world) ?? [],
  ].flat();
  for (const text of troubles) world.report({ type: "warning", text });
  const directory = mkdtempSync(join(tmpdir(), "spoolsafe-check-"));
  mkdirSync(join(directory, "work"));
  const command = placeOwnCommand(directory, world.command);
  try {
    const given = new Map(
      [...runbook.secrets, ...values.map(({ name }) => name)].flatMap((name) => {
        const value = set.get(name) || world.environment[name];
        return value ? [[name, value] as const] : [];
      }),
    );
    const secrets = new Secrets(runbook.secrets, { ...world.environment, ...Object.fromEntries(given) });
    using execution = new Execution({
      ...{
        world,
        runbook,
        run: "check",
        directory,
        writable: true,
        workplace: join(directory, "work"),
        bin: command.directory,
        journal: null,
        secrets,
        given,
      },
    });
    await computeVariables(runbook, execution);
    for (const { name, origin } of values) {
      const value = execution.exported.get(name) ?? given.get(name) ?? "";
      world.report({ type: "variable", name, value: runbook.secrets.includes(name) ? null : value, origin });
    }
    const counts = await checkSteps(runbook, world, execution);
    return { counts, ok: counts.refused === 0 && troubles.length === 0 };
  } finally {
    command.remove();
    rmSync(directory, { recursive: true, force: true });
  }
}

async function computeVariables({ vars }: Runbook, execution: Execution): Promise<void> {
  if (vars === null) return;
  const result = await execution.vars(vars);
  if (result.outcome === "ok") return;
  throw new OperatorError("refused", `the variables can't be computed: ${failureOf(result, vars.timeoutMs)}`);
}

async function checkSteps(runbook: Runbook, world: RunWorld, execution: Execution): Promise<CheckReport["counts"]> {
  const counts = { "would-run": 0, satisfied: 0, refused: 0, unknowable: 0 };
  // The first step after which nothing is as it is now.
  let until: Step | null = null;
  for (const [index, step] of runbook.steps.entries()) {
    const finding = await checkStep(step, execution);
    // What doesn't hold now may hold once an earlier step was run; what holds may not.
    const known = until === null || finding.state === "would-run";
    const state = known ? finding.state : "unknowable";
    counts[state] += 1;
    world.report({
      ...{ type: "checked", step: step.name, number: index + 1, state, reason: finding.reason },
      until: state === "unknowable" ? (until?.name ?? null) : null,
    });
    if (state === "refused" || (state === "would-run" && step.action.risk !== "read")) until ??= step;
  }
  return counts;
}

interface StepFinding {
  readonly state: Exclude<CheckState, "unknowable">;
  readonly reason: string | null;
}

async function checkStep(step: Step, execution: Execution): Promise<StepFinding> {
  for (const block of step.pre) {
    const result = await execution.pre(step, block);
    if (result.outcome === "ok" || result.code === 2) continue;
    return { state: "refused", reason: `${block.name}: ${failureOf(result, block.timeoutMs)}` };
  }
  if (step.action.kind === "do" && step.action.risk === "read") {
    const result = await execution.action(step);
    if (result.outcome !== "ok") return { state: "refused", reason: failureOf(result, step.action.timeoutMs) };
  }
  const { ok, problem } = await execution.verify(step, "once");
  return ok ? { state: "satisfied", reason: null } : { state: "would-run", reason: problem };
}
