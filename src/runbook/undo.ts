import { type Execution, failureOf } from "./execution.ts";
import type { Journal } from "./journal.ts";
import type { Step } from "./runbook.ts";
import type { RunWorld } from "./world.ts";

/**
 * Undo one step and say so in the journal. Where its verify still holds afterwards that is told: perhaps what it looks at was
 * so before the step, perhaps the undo did nothing.
 *
 * @returns null when its undo block ended well, else how it failed
 */
export async function undoStep(
  step: Step,
  execution: Execution,
  journal: Journal,
  world: RunWorld,
): Promise<string | null> {
  if (step.undo === null) return "it has no undo";
  const result = await execution.undo(step, step.undo);
  if (result.outcome !== "ok") {
    const reason = failureOf(result, step.undo.timeoutMs);
    journal.append({ event: "undo.failed", step: step.name, reason });
    world.report({ type: "warning", text: `${step.name} could not be undone: ${reason}` });
    journal.sync();
    return reason;
  }
  const stillHolds = (await execution.verify(step, "once")).ok;
  journal.append({ event: "step.undone", step: step.name, stillHolds });
  journal.sync();
  const reason = stillHolds ? "its verify still holds" : null;
  world.report({ type: "step-end", step: step.name, state: "undone", reason });
  return null;
}
