import { OperatorError } from "../errors.ts";
import type { Execution } from "./execution.ts";
import { loadRun } from "./run-directory.ts";
import { lockRuns } from "./run-lock.ts";
import type { Runbook, Step } from "./runbook.ts";
import {
  givenValues,
  journalledValues,
  type RunSession,
  refuseChanged,
  refuseRunner,
  resumeSession,
} from "./session.ts";
import { undoStep } from "./undo.ts";
import { confirmOf } from "./words.ts";
import type { RunWorld } from "./world.ts";

export interface UndoRequest {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  /** The run's whole name. */
  readonly run: string;
}

export interface UndoReport {
  readonly run: string;
  readonly undone: number;
  /** Steps that were run and have no undo. */
  readonly withoutUndo: readonly string[];
}

/**
 * Undo a run's steps, newest first, each asked for. A step that was begun counts, whether it was done or not: its undo must
 * find nothing to do where nothing was done.
 *
 * @throws OperatorError `failed` at the first that could not be undone or was refused; those before it stay undone
 */
export async function undoRun({ runbook, world, run }: UndoRequest): Promise<UndoReport> {
  const given = await givenValues(runbook, world, new Map(), journalledValues(loadRun(world.places, run)));
  const lock = await lockRuns(world);
  try {
    const found = loadRun(world.places, run);
    refuseChanged(runbook, found);
    refuseRunner(found);
    if (found.progress.outcome === "undone") throw new OperatorError("refused", `the run ${run} is undone already`);
    using session = resumeSession(runbook, world, found, given);
    return await session.guarded(async () => {
      await settleActions(runbook, found.progress.steps, session.execution);
      const ran = found.progress.steps.filter((step) => step.ran || step.undoing !== null).map(({ name }) => name);
      const report = await undoSteps(
        runbook.steps.filter(({ name }) => ran.includes(name)),
        session,
      );
      session.journal.append({ event: "run.end", outcome: "undone", ms: session.elapsed });
      session.journal.sync();
      return { run, ...report };
    });
  } finally {
    await lock?.release();
  }
}

/** An action that is still at work would do again what its undo takes back. */
async function settleActions(
  { steps }: Runbook,
  progress: readonly Parameters<Execution["settle"]>[1][],
  execution: Execution,
): Promise<void> {
  for (const step of steps) {
    const left = progress.find(({ name }) => name === step.name);
    if (left !== undefined) await execution.settleUndo(step, left);
    if (left?.state === "started" && !left.exited && step.action.kind === "do") await execution.settle(step, left);
  }
}

async function undoSteps(steps: readonly Step[], session: RunSession): Promise<Omit<UndoReport, "run">> {
  const { execution, journal, dialogue, parts } = session;
  const withoutUndo: string[] = [];
  let undone = 0;
  for (const step of steps.toReversed()) {
    execution.throwIfStopped();
    if (step.undo === null) {
      if (step.action.risk === "read" || step.action.kind === "manual") continue;
      const past = await dialogue.confirm(`${step.name} has no undo. Go past it to what was done before?`, step.name);
      if (past === null) throw new OperatorError("failed", `stopped at ${step.name}, which has no undo`);
      withoutUndo.push(step.name);
      continue;
    }
    session.tell(`undo ${step.name}:\n${step.undo.script.replaceAll(/^/gm, "    ")}`);
    const text = `undo ${step.name}?`;
    const typed = confirmOf(step.undo) === "type";
    const by = await (typed ? dialogue.confirmTyped(text, step.undo.name) : dialogue.confirm(text, step.undo.name));
    if (by === null) {
      throw new OperatorError("failed", `stopped at ${step.name}: it is not undone`);
    }
    const failure = await undoStep(step, execution, journal, parts.world);
    if (failure !== null) throw new OperatorError("failed", `${step.name} could not be undone: ${failure}`);
    undone += 1;
  }
  return { undone, withoutUndo };
}
