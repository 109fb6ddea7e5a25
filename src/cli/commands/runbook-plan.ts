import { type FoundRunbook, listRunbooks, requireRunbook } from "../../runbook/catalogue.ts";
import { findingText } from "../../runbook/finding.ts";
import { type Plan, type PlannedStep, planRunbook } from "../../runbook/plan.ts";
import { parseSettings } from "../../runbook/values.ts";
import { confirmWords, durationWords, riskWords } from "../../runbook/words.ts";
import type { Context } from "../context.ts";
import { chooseRunbook, foundJson, remarks, runbookPlaces } from "../runbooks.ts";
import { printable, table } from "../table.ts";
import { lintFound } from "./runbook-lint.ts";

export interface RunbookPlanOptions {
  readonly set?: readonly string[] | undefined;
}

/**
 * `spoolsafe runbook plan ID`: what a run would do, with which values. Executes nothing.
 *
 * @returns 0, or 1 when lint has found something
 * @throws OperatorError `config` when it can't be run at all
 */
export async function run(context: Context, call: string, { set = [] }: RunbookPlanOptions): Promise<number> {
  const { render } = context;
  const found = chooseRunbook(context, call);
  const runbook = requireRunbook(found);
  const plan = planRunbook(runbook, parseSettings(set), context.environment);
  const findings = lintFound(found, listRunbooks(runbookPlaces(context)));

  for (const { name, value, origin, computed } of plan.values)
    render.line({ type: "value", name, value, origin, computed });
  for (const step of plan.steps) render.line({ type: "step", ...step });
  for (const { line, rule, message } of findings) render.line({ type: "finding", line, rule, message });
  const { rtoMs, longestMs } = plan;
  render.summary({ ...foundJson(found), steps: plan.steps.length, rtoMs, longestMs, findings: findings.length });
  render.text(() => planText(found, plan));
  for (const finding of findings) render.warn(findingText(found.path, finding));
  return findings.length === 0 ? 0 : 1;
}

function planText(found: FoundRunbook, { values, steps, rtoMs, longestMs }: Plan): string {
  const told = remarks(found);
  return [
    `${found.reading.title} (${found.path}${told.length === 0 ? "" : `; ${told.join("; ")}`})`,
    `budget ${durationWords(rtoMs)}, all limits together ${longestMs === null ? "as long as people take" : durationWords(longestMs)}`,
    "",
    ...(values.length === 0 ? [] : [table(["VARIABLE", "VALUE", "FROM"], values.map(valueRow)), ""]),
    ...steps.map(stepText),
  ].join("\n");
}

function valueRow({ name, value, origin, computed }: Plan["values"][number]): string[] {
  return [name, value === null ? "(secret)" : value, computed ? `${origin}, computed when it runs` : origin];
}

function stepText({ name, heading, manual, risk, confirm, timeoutMs, script, pre, verify, undo }: PlannedStep): string {
  const what = [
    manual ? "by hand" : risk === null ? "risk not said" : riskWords[risk],
    confirmWords[confirm],
    ...(timeoutMs === null ? [] : [`at most ${durationWords(timeoutMs)}`]),
  ].join("; ");
  return [
    printable(`${heading} [${name}]`),
    `  ${what}`,
    ...script.split("\n").map((line) => `    ${line}`),
    `  ${pre.length === 0 ? "" : `first ${pre.join(", ")}; `}done when ${verify.join(", ")} says so${undo === null ? "; no undo" : `; undo ${undo}`}`,
    "",
  ].join("\n");
}
