import { type FoundRunbook, listRunbooks, requireRunbook, requireTrusted } from "../../runbook/catalogue.ts";
import { RunbookFault } from "../../runbook/finding.ts";
import { type RunReport, runRunbook } from "../../runbook/run.ts";
import { parseSettings } from "../../runbook/values.ts";
import type { Context } from "../context.ts";
import { clockText, showRun } from "../runbook-output.ts";
import { runWorld } from "../runbook-world.ts";
import { chooseRunbook, runbookPlaces } from "../runbooks.ts";
import { lintFound } from "./runbook-lint.ts";

export interface RunbookRunOptions {
  readonly set?: readonly string[] | undefined;
  readonly answers?: string | undefined;
  readonly from?: string | undefined;
}

/** `spoolsafe runbook run ID`. */
export async function run(context: Context, call: string, options: RunbookRunOptions): Promise<number> {
  const found = chooseRunbook(context, call);
  const runbook = requireRunbook(found);
  requireTrusted(found);
  requireClean(context, found);
  const set = parseSettings(options.set ?? []);
  const world = await runWorld(
    context,
    { answers: options.answers, mailConfig: set.get("MAIL_CONFIG") },
    showRun(context),
  );
  return tellEnd(context, await runRunbook({ runbook, world, set, from: options.from ?? null }));
}

/** @throws RunbookFault with what lint has found */
export function requireClean(context: Context, found: FoundRunbook): void {
  const findings = lintFound(found, listRunbooks(runbookPlaces(context)));
  if (findings.length > 0) throw new RunbookFault(found.path, findings);
}

/** The answer of a run that came to its end. */
export function tellEnd({ render }: Context, report: RunReport): number {
  const { run: name, directory, done, skipped, steps, ms, budgetMs } = report;
  render.summary({ run: name, outcome: "done", steps, done, skipped, durationMs: ms, budgetMs, directory });
  const over = ms > budgetMs ? ", over its budget" : "";
  const left = skipped === 0 ? "" : `, ${skipped} skipped`;
  render.text(`done: ${done} of ${steps} steps${left}, in ${clockText(ms)} of ${clockText(budgetMs)}${over}`);
  render.note(`The report: spoolsafe runbook report ${name}`);
  return 0;
}
