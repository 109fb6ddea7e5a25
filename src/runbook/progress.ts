import type { JobProcess } from "../jobs/record.ts";
import type { JournalEvent, JournalLine } from "./journal.ts";

export type StartEvent = Extract<JournalEvent, { event: "run.start" }>;

/** `started`: let go, and its end is not known. `failed`: it ended, and its verify did not hold. */
export type StepState = "pending" | "started" | "done" | "failed" | "skipped" | "undone";

export interface StepProgress {
  readonly name: string;
  readonly state: StepState;
  /** Its action was started and has not been undone since, whatever became of the step. */
  readonly ran: boolean;
  /** RFC 3339; of the last start, of its action or its undo. */
  readonly startedAt: string | null;
  /** Of the action that was started last, with the boot it belongs to. */
  readonly process: (JobProcess & { readonly bootId: string }) | null;
  /** Whether that action's end is in the journal. */
  readonly exited: boolean;
  /** Of an undo that was begun and whose end is not known. */
  readonly undoing: StepProgress["process"];
}

/** How far a run is, by its journal. */
export interface Progress {
  readonly start: StartEvent;
  /** RFC 3339. */
  readonly startedAt: string;
  readonly steps: readonly StepProgress[];
  /** Null while it isn't at its end. */
  readonly outcome: "done" | "undone" | null;
  /** The process that worked at it last. */
  readonly runner: JobProcess & { readonly bootId: string };
}

export function progressOf(lines: readonly JournalLine[], start: StartEvent): Progress {
  const steps = new Map<string, StepProgress>(
    start.steps.map(({ name }) => [
      name,
      { name, state: "pending", ran: false, startedAt: null, process: null, exited: false, undoing: null },
    ]),
  );
  let outcome: Progress["outcome"] = null;
  let runner = processOf(start);
  for (const line of lines) {
    if (line.event === "run.resume") runner = processOf(line);
    if (line.event === "run.resume") outcome = null;
    if (line.event === "run.end") outcome = line.outcome;
    const step = "step" in line && line.step !== null ? steps.get(line.step) : undefined;
    if (step !== undefined) steps.set(step.name, after(step, line));
  }
  return { start, startedAt: lines[0]?.time ?? "", steps: [...steps.values()], outcome, runner };
}

function after(step: StepProgress, line: JournalLine): StepProgress {
  switch (line.event) {
    case "step.started":
      return { ...step, state: "started", ran: true, startedAt: line.time, process: processOf(line), exited: false };
    case "step.exit":
      return { ...step, exited: true };
    case "step.done":
      return { ...step, state: "done" };
    case "step.failed":
      return { ...step, state: "failed" };
    case "step.skipped":
      return { ...step, state: "skipped" };
    case "undo.started":
      return { ...step, undoing: processOf(line), startedAt: line.time };
    case "undo.failed":
      return { ...step, undoing: null };
    case "step.undone":
      return { ...step, state: "undone", ran: false, undoing: null };
    default:
      return step;
  }
}

function processOf({ pid, startTicks, bootId }: JobProcess & { readonly bootId: string }) {
  return { pid, startTicks, bootId };
}
