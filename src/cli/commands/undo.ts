import { existsSync } from "node:fs";
import { OperatorError } from "../../errors.ts";
import { loadInstance } from "../../postfix/instance.ts";
import type { StandingClaims } from "../../restore/claiming.ts";
import { type ConfigurationRun, readConfigurationRuns } from "../../restore/configuration-journal.ts";
import { pathOf } from "../../restore/configuration-place.ts";
import { type RunRecord, readRuns } from "../../restore/journal.ts";
import {
  type LeftMessage,
  planUndo,
  type RemovableMessage,
  type UndoPlan,
  type UndoReport,
  undoRun,
} from "../../restore/undo.ts";
import { claimsMade } from "../claims.ts";
import type { Context } from "../context.ts";
import { confirm } from "../prompt.ts";
import { printable, table } from "../table.ts";
import { undoConfigurationRun } from "./restore-configuration.ts";

export interface UndoOptions {
  readonly dryRun?: true | undefined;
}

/** Exit 3 when something the run placed is left; 1 when the question was answered with no. */
export async function run(context: Context, spec: string, options: UndoOptions): Promise<number> {
  const chosen = chooseRun(context.stateDirectory, spec);
  if (chosen.kind === "configuration") return await undoConfiguration(context, chosen.record, options);
  return await undoMail(context, chosen.record, options);
}

type ChosenRun =
  | { readonly kind: "mail"; readonly record: RunRecord }
  | { readonly kind: "configuration"; readonly record: ConfigurationRun };

/** @throws OperatorError `usage` that lists the runs, when the word means none or several of them */
function chooseRun(stateDirectory: string, spec: string): ChosenRun {
  const runs: ChosenRun[] = [
    ...readRuns(stateDirectory).map((record) => ({ kind: "mail", record }) as const),
    ...readConfigurationRuns(stateDirectory).map((record) => ({ kind: "configuration", record }) as const),
  ].sort((one, other) => (one.record.run < other.record.run ? -1 : 1));
  const exact = runs.find(({ record }) => record.run === spec);
  if (exact !== undefined) return exact;
  const meant = runs.filter(({ record }) => spec !== "" && record.run.startsWith(spec));
  const [only, ...others] = meant;
  if (only !== undefined && others.length === 0) return only;
  const what = only === undefined ? "is no run of this host" : "is the beginning of several runs";
  const listed = (only === undefined ? runs : meant).slice(-mostListed).map(descriptionOf);
  throw new OperatorError("usage", `${JSON.stringify(spec)} ${what}`, {
    hints: listed.length === 0 ? [`there is none in ${stateDirectory}`] : listed,
  });
}

/** Runs that are listed, the newest. */
const mostListed = 20;

function descriptionOf({ kind, record }: ChosenRun): string {
  const { run: name, host, time } = record;
  if (kind === "configuration") {
    const undone = record.outcome === "undone" ? ", undone" : "";
    return `${name}: configuration of ${host} into ${record.configDirectory}, at ${time}${undone}`;
  }
  const { messages, undone, phase, target } = record;
  const interrupted = phase === "ended" ? "" : ", interrupted";
  const taken = undone.size === 0 ? "" : `, ${undone.size} of them undone`;
  return `${name}: ${messages.length} messages of ${host} into ${target.queueDirectory}, at ${time}${interrupted}${taken}`;
}

async function undoConfiguration(context: Context, record: ConfigurationRun, options: UndoOptions): Promise<number> {
  const { render, signal, globals } = context;
  const added = record.kept.filter(({ before }) => before.kind === "nothing").length;
  const replaced = record.kept.length - added;
  if (options.dryRun === true) {
    for (const { place, before } of record.kept) {
      const action = before.kind === "nothing" ? "removed" : "put-back";
      render.line({ type: "config-undone", path: pathOf(place), action, problem: null } as never);
      render.text(`${action === "removed" ? "remove" : "put back"} ${printable(pathOf(place))}`);
    }
    render.summary({ dryRun: true, run: record.run, putBack: replaced, removed: added, left: [] });
    render.note("Dry run: nothing was touched. What has been changed since would be left as it is.");
    return 0;
  }
  const question = `put back ${replaced} files in ${record.configDirectory} and remove ${added} that the run added?`;
  if (!(await confirm(question, globals.yes === true, signal))) return 1;
  return await undoConfigurationRun(context, record.run);
}

async function undoMail(context: Context, record: RunRecord, options: UndoOptions): Promise<number> {
  requireRoot();
  const { stateDirectory, clock, signal, render, globals } = context;
  const instance = await loadInstance(record.target.configDirectory);
  const plan = planUndo(instance, record);
  if (options.dryRun === true) {
    tellPlan(context, plan);
    return 0;
  }
  // Before anything is removed: without its claims a run is not undone.
  const claims = await claimsOfRun(context, record);
  if (!(await confirm(questionOf(plan, record), globals.yes === true, signal))) return 1;
  const job = { run: record.run, instance, stateDirectory, claims, clock, signal };
  const report = await undoRun({
    ...job,
    report: ({ done, total }) => render.progress({ doing: "taking back", unit: "messages", done, total }),
  });
  tellReport(context, report, record, claims);
  return report.left.length > 0 ? 3 : 0;
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can take mail back out of a queue", { hints: ["run it as root"] });
}

/**
 * The claims of a run, if it can have any: one that began and got no further may have made one that its journal does not
 * name. A host without a signing key has claimed nothing.
 */
async function claimsOfRun(context: Context, { claim, phase }: RunRecord): Promise<StandingClaims | null> {
  if (claim === null && (phase !== "started" || !existsSync(context.config.signing.key_file))) return null;
  return await claimsMade(context);
}

function questionOf({ run: name, remove, left, interrupted }: UndoPlan, { host, target }: RunRecord): string {
  const rest = left.length === 0 ? "" : `; ${left.length} others stay`;
  if (remove.length > 0) return `remove ${remove.length} messages from ${target.queueDirectory}${rest}?`;
  if (left.length > 0) return `nothing is left to remove: give up the claim on mail of ${host} but for ${left.length}?`;
  return interrupted ? `give up run ${name}?` : `nothing is left to remove: give up its claim on mail of ${host}?`;
}

function tellPlan({ render }: Context, plan: UndoPlan): void {
  const { run: name, remove, left, undoneBefore } = plan;
  tellMessages({ render }, remove, left);
  render.summary({ dryRun: true, run: name, removed: remove.length, left: left.length, undoneBefore });
  render.text(`would remove ${remove.length} messages of run ${name} and leave ${left.length}`);
  render.note("Dry run: nothing was touched.");
}

function tellMessages(
  { render }: Pick<Context, "render">,
  removed: readonly RemovableMessage[],
  left: readonly LeftMessage[],
): void {
  for (const message of removed) render.line({ type: "removed", ...message });
  for (const message of left) render.line({ type: "left", ...message });
  const rows = left.slice(0, shown).map(({ queueId, from, at, reason }) => [queueId, from, at, reason]);
  render.text(rows.length === 0 ? "" : table(["left", "in the snapshot", "now in", "because"], rows));
  if (left.length > shown) render.text(`and ${left.length - shown} more: --json lists them all`);
}

/** Messages a person is shown one by one. */
const shown = 20;

function tellReport(
  { render }: Context,
  { run: name, removed, left, undoneBefore, claim }: UndoReport,
  { host, target }: RunRecord,
  claims: StandingClaims | null,
): void {
  tellMessages({ render }, removed, left);
  const state = claim !== null ? "stands" : claims === null ? "none" : "withdrawn";
  render.summary({
    ...{ run: name, removed: removed.length, left: left.length, undoneBefore },
    claim: { state, id: claim },
  });
  const before = undoneBefore === 0 ? "" : ` (${undoneBefore} were before)`;
  render.text(
    `removed ${removed.length} messages of run ${name} from ${target.queueDirectory}${before}, ${left.length} are left`,
  );
  if (state === "withdrawn") render.text(`nothing of it is claimed any more: ${host} delivers that mail itself`);
  if (state === "stands") {
    render.text(`what is left stays claimed (claim ${claim?.slice(0, 8)}), and nothing else of ${host}`);
  }
}
