import { findRun } from "../../runbook/run-directory.ts";
import { undoRun } from "../../runbook/undo-run.ts";
import type { Context } from "../context.ts";
import { showRun } from "../runbook-output.ts";
import { placesOfRuns, runWorld } from "../runbook-world.ts";
import { runbookOf } from "./runbook-resume.ts";

export interface RunbookUndoOptions {
  readonly answers?: string | undefined;
}

/** `spoolsafe runbook undo RUN`: newest step first, each asked for. */
export async function run(context: Context, call: string, { answers }: RunbookUndoOptions): Promise<number> {
  const found = findRun(placesOfRuns(context), call);
  const runbook = runbookOf(found);
  const mailConfig = found.progress.start.configDirectory ?? undefined;
  const world = await runWorld(context, { answers, mailConfig }, showRun(context));
  const { undone, withoutUndo } = await undoRun({ runbook, world, run: found.run });
  const { render } = context;
  render.summary({ run: found.run, outcome: "undone", undone, withoutUndo });
  render.text(`undone: ${undone} steps of ${found.run}`);
  if (withoutUndo.length > 0) render.warn(`${withoutUndo.join(", ")} stay as they are: they have no undo`);
  return 0;
}
