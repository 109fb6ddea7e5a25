import { OperatorError } from "../../errors.ts";
import { maskAddresses, type RunStory, storyMarkdown, storyOf } from "../../runbook/report.ts";
import { findRun, loadRun, runNames } from "../../runbook/run-directory.ts";
import type { Context } from "../context.ts";
import { placesOfRuns, printableLines } from "../runbook-world.ts";
import { localTime, table } from "../table.ts";

export interface RunbookReportOptions {
  readonly format?: "md" | "json" | undefined;
  readonly unmasked?: true | undefined;
}

/**
 * `spoolsafe runbook report RUN`: what a run did, as Markdown for the post-mortem or as JSON; without RUN, the runs of this
 * host. Mail addresses are masked unless asked for.
 *
 * @throws OperatorError `damaged` when the journal is not as it was written
 */
export async function run(context: Context, call: string | undefined, options: RunbookReportOptions): Promise<number> {
  if (call === undefined) return list(context);
  const told = storyOf(findRun(placesOfRuns(context), call));
  const story = options.unmasked === true ? told : maskAddresses(told);
  const { render } = context;
  const asJson = options.format === "json" || context.globals.json === true;
  if (!asJson) {
    render.text(printableLines(storyMarkdown(story)).trimEnd());
    return 0;
  }
  for (const line of jsonLines(story)) {
    if (context.globals.json === true) render.line(line);
    else render.text(JSON.stringify(line));
  }
  return 0;
}

function jsonLines({ timeline, notes, steps, ...summary }: RunStory) {
  return [
    ...steps.map((step) => ({ type: "step", ...step })),
    ...timeline.map((entry) => ({ type: "timeline", ...entry })),
    ...notes.map((note) => ({ type: "note", ...note })),
    { type: "summary", ...summary },
  ];
}

function list(context: Context): number {
  const { render } = context;
  const places = placesOfRuns(context);
  const rows = runNames(places).map((name) => {
    const found = readable(places, name);
    if (found === undefined)
      return { run: name, runbook: null, host: null, started: null, outcome: "damaged", done: 0, steps: 0 };
    const { start, startedAt, steps, outcome } = found.progress;
    const done = steps.filter(({ state }) => state === "done").length;
    return {
      ...{ run: name, runbook: start.runbook.name, host: start.host, started: startedAt },
      ...{ outcome: outcome ?? "unfinished", done, steps: steps.length },
    };
  });
  for (const row of rows) render.line({ type: "run", ...row });
  render.summary({ count: rows.length });
  render.text(
    rows.length === 0
      ? "no runbook was run on this host"
      : table(
          ["RUN", "RUNBOOK", "STARTED", "OUTCOME", "STEPS DONE"],
          rows.map(({ run: name, runbook, started, outcome, done, steps }) => [
            ...[name, runbook ?? "", started === null ? "" : localTime(new Date(started)), outcome],
            `${done} of ${steps}`,
          ]),
        ),
  );
  return 0;
}

function readable(places: readonly string[], name: string) {
  try {
    return loadRun(places, name);
  } catch (error) {
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}
