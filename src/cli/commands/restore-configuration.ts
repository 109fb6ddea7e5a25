import { join, resolve } from "node:path";
import { OperatorError } from "../../errors.ts";
import { PackReader } from "../../pack/pack-pool.ts";
import {
  applyConfiguration,
  type ConfigurationEvent,
  type ConfigurationPlan,
  type ConfigurationReport,
  type ConfigurationUndo,
  configurationPlanText,
  configurationReportText,
  planConfiguration,
  refuseQueueMove,
  undoConfiguration,
} from "../../restore/configuration.ts";
import type { FileAction, PlannedFile } from "../../restore/configuration-plan.ts";
import { problemsOf } from "../../restore/configuration-report.ts";
import type { RestoreSource } from "../../restore/source.ts";
import { planDirectory, restoreToDirectory, type ToDirectoryReport } from "../../restore/to-directory.ts";
import type { Context } from "../context.ts";
import { confirm } from "../prompt.ts";
import { printable, size } from "../table.ts";

/** Whose configuration goes where. */
export interface ConfigurationTarget {
  /** Of the instance in the snapshot. */
  readonly name: string;
  /** Of the target, as the operator wrote it. */
  readonly configDirectory: string;
}

export interface RestoreConfigurationOptions {
  /** Show the plan, touch nothing. */
  readonly dryRun: boolean;
  /** Key of a plan that was written to a file: another one is refused. */
  readonly expectedKey?: string | undefined;
}

export interface RestoredConfiguration {
  /** 0; 1 when the operator's answer was no and nothing was changed; 3 when `report.problems` are left. */
  readonly exit: 0 | 1 | 3;
  /** Null when nothing was changed. */
  readonly run: string | null;
  /** Of the plan; see `ConfigurationPlan`. */
  readonly key: string;
  readonly plan: ConfigurationPlan;
  readonly report: ConfigurationReport | null;
  /** The value of `configuration` in the summary line, which is the caller's to write. */
  readonly summary: ConfigurationSummary;
}

/** Numbers of files by what became of them; lists are as in plan and report. Nothing of it is secret. */
export interface ConfigurationSummary
  extends Pick<
    ConfigurationPlan,
    "instance" | "configDirectory" | "key" | "running" | "lackingTypes" | "moved" | "parameters" | "warnings"
  > {
  readonly run: string | null;
  /** Where what was replaced lies. */
  readonly keptIn: string | null;
  readonly files: Readonly<Record<FileAction, number>>;
  /** Files and links written; 0 in a dry run. */
  readonly written: number;
  /** Of a dry run without `code` and `lines`. */
  readonly commands: ConfigurationReport["commands"] | ConfigurationPlan["commands"];
  readonly tables: ConfigurationReport["tables"];
  readonly edited: ConfigurationReport["edited"];
  /** Of a dry run those that can be foreseen. */
  readonly problems: readonly string[];
}

/**
 * Show what a restore of configuration will do, ask if anything is replaced, do exactly that, and say what was done: as text,
 * or as JSON lines `config-file`, `config-review` and `config-restored`. The summary line is left to the caller.
 *
 * It may change which queue directory the target has: look at the target's queue after it, not before.
 *
 * @throws OperatorError `refused` when the target is not as in the plan that was seen, or a running Postfix would lose its
 * queue directory; `usage` when somebody must be asked and nobody is there; or as `applyConfiguration` does
 */
export async function restoreConfiguration(
  context: Context,
  source: RestoreSource,
  target: ConfigurationTarget,
  { dryRun, expectedKey }: RestoreConfigurationOptions,
): Promise<RestoredConfiguration> {
  requireRoot();
  const { stateDirectory } = context;
  await using reader = readerOf(context, source);
  const job = { ...jobOf(context, source, target), reader, stateDirectory };
  const plan = await planConfiguration({ ...job, expectedKey });
  tellPlan(context, plan);
  refuseQueueMove(plan);
  if (dryRun) return { ...outcomeOf(plan, null), exit: 0 };
  if (!(await mayReplace(context, plan))) {
    context.render.note("Nothing was changed.");
    return { ...outcomeOf(plan, null), exit: 1 };
  }
  const report = await applyConfiguration({
    ...job,
    expectedKey: plan.key,
    report: (event) => tell(context, event),
  });
  tellReport(context, report);
  return { ...outcomeOf(plan, report), exit: report.problems.length > 0 ? 3 : 0 };
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can read and write the configuration of Postfix", {
    hints: ["run it as root", "or get plain files: spoolsafe restore SNAP --to DIR"],
  });
}

function readerOf(context: Context, { identities }: RestoreSource): PackReader {
  return new PackReader({ identities, processors: context.config.limits.processors });
}

function jobOf({ cwd, clock, signal }: Context, source: RestoreSource, { name, configDirectory }: ConfigurationTarget) {
  return { source, instance: name, configDirectory: resolve(cwd, configDirectory), clock, signal };
}

function tellPlan({ render }: Context, plan: ConfigurationPlan): void {
  for (const { type, ...file } of plan.files) render.line({ type: "config-file", kind: type, ...file });
  for (const item of plan.review) render.line({ type: "config-review", ...item });
  render.text(() => configurationPlanText(plan));
}

/** Paths a person is shown one by one. */
const shown = 20;

/** Nothing is asked when all is new or the same. What must be known for the answer stands right above the question. */
async function mayReplace({ render, globals, signal, stateDirectory }: Context, plan: ConfigurationPlan) {
  const replaced = replacedBy(plan);
  const wrong = plan.review.filter(({ level }) => level === "wrong");
  for (const { setting, saved, finding } of wrong) {
    render.warn(printable(`${setting} = ${saved} will not work here as it is: ${finding}`));
  }
  if (replaced.length === 0) return true;
  for (const path of replaced.slice(0, shown)) render.note(`will be replaced: ${printable(path)}`);
  if (replaced.length > shown) render.note(`and ${replaced.length - shown} more`);
  render.note(
    `They are kept in a directory of this run below ${join(stateDirectory, "replaced")}; spoolsafe undo RUN puts them back.`,
  );
  if (plan.running) render.note(`Postfix runs here, and reads some of it at once: stop it first if it must not.`);
  const files = replaced.length === 1 ? "1 file" : `${replaced.length} files`;
  const question = `replace ${files} on this host by what ${plan.host} had on ${plan.time.slice(0, 10)}?`;
  return await confirm(question, globals.yes === true, signal);
}

/** What is here and will have other content: also a compiled table whose source is written. */
function replacedBy({ files, tables }: ConfigurationPlan): string[] {
  const written = new Set(files.filter(({ action }) => action === "new" || action === "changed").map(pathOf));
  const compiled = new Set(tables.filter(({ source }) => written.has(source)).flatMap((table) => table.compiled));
  return files
    .filter(({ action, path, mode }) => {
      return action === "changed" || (action === "rebuilt" && mode.here !== null && compiled.has(path));
    })
    .map(pathOf);
}

function pathOf({ path }: PlannedFile): string {
  return path;
}

const steps = {
  keep: "keeping what will be replaced",
  write: "writing beside it",
  place: "placing",
  tables: "compiling tables",
  check: "running Postfix's own commands",
} as const;

function tell({ render }: Context, event: ConfigurationEvent): void {
  switch (event.type) {
    case "config-step":
      render.detail(`${steps[event.step]}: ${event.files} files`);
      return;
    case "config-resumed":
      render.event(event, `going on with the interrupted run ${event.run}`);
  }
}

/** At once, with the run to undo: what comes after it, a restore of mail, may end in an error. */
function tellReport({ render }: Context, report: ConfigurationReport): void {
  const { run, keptIn, written, problems } = report;
  render.line({ type: "config-restored", run, keptIn, written, problems });
  render.text(() => `\n${configurationReportText(report)}`);
}

function outcomeOf(plan: ConfigurationPlan, report: ConfigurationReport | null): Omit<RestoredConfiguration, "exit"> {
  const { instance, configDirectory, key, running, lackingTypes, moved, warnings } = plan;
  const run = report?.run ?? null;
  const summary = {
    ...{ instance, configDirectory, key, running, run, keptIn: report?.keptIn ?? null },
    ...{ files: countsOf(plan), written: report?.written ?? 0, lackingTypes, moved, warnings },
    ...{ tables: report?.tables ?? [], edited: report?.edited ?? [] },
    parameters: report?.parameters ?? plan.parameters,
    commands: report?.commands ?? plan.commands,
    problems: report?.problems ?? problemsOf(plan, [], [], plan.compatibilityLevel),
  };
  return { run, key, plan, report, summary };
}

function countsOf({ files }: ConfigurationPlan): Record<FileAction, number> {
  const counts = { new: 0, changed: 0, same: 0, rebuilt: 0, kept: 0, left: 0 };
  for (const { action } of files) counts[action]++;
  return counts;
}

/**
 * Put back what a restore of configuration replaced and remove what it added, as a whole command: with JSON lines
 * `config-undone` and the summary.
 *
 * @returns 0, or 3 when something was changed since and was left as it is
 * @throws OperatorError as `undoConfiguration` does
 */
export async function undoConfigurationRun(context: Context, run: string): Promise<number> {
  requireRoot();
  const { stateDirectory, clock } = context;
  const undo = await undoConfiguration(stateDirectory, run, clock);
  tellUndo(context, undo);
  return undo.left.length > 0 ? 3 : 0;
}

function tellUndo({ render }: Context, { run, configDirectory, running, putBack, removed, left }: ConfigurationUndo) {
  for (const path of putBack) render.line({ type: "config-undone", path, action: "put-back", problem: null });
  for (const path of removed) render.line({ type: "config-undone", path, action: "removed", problem: null });
  for (const { path, problem, copy } of left) {
    render.line({ type: "config-undone", path, action: "left", problem, copy });
    const before = copy === null ? "it was not there before the run" : `as it was before the run it lies in ${copy}`;
    render.warn(printable(`${path} was left as it is: ${problem}; ${before}`));
  }
  render.summary({ run, configDirectory, running, putBack: putBack.length, removed: removed.length, left });
  for (const path of putBack) render.detail(`put back: ${printable(path)}`);
  for (const path of removed) render.detail(`removed: ${printable(path)}`);
  const counts = `${putBack.length} put back, ${removed.length} removed that it had added`;
  const stay = left.length === 0 ? "" : `, ${left.length} left as they are`;
  render.text(`undid run ${run} in ${configDirectory}: ${counts}${stay}`);
  if (running) render.text(`Postfix runs: postfix -c ${configDirectory} reload`);
}

/**
 * Write the configuration alone as plain files, `DIR/<instance>/config/...` and what it names beside it, as a whole command
 * with its summary. Needs no Postfix, and no root.
 *
 * @param instance only this one's, and nothing of the host's; undefined: everything
 * @throws OperatorError as `restoreToDirectory` does
 */
export async function configurationToDirectory(
  context: Context,
  source: RestoreSource,
  to: string,
  { instance, dryRun }: { readonly instance: string | undefined; readonly dryRun: boolean },
): Promise<number> {
  const { cwd, signal, render } = context;
  const directory = resolve(cwd, to);
  const job = { source, directory, instance, configurationOnly: true, signal };
  if (dryRun) {
    tellDirectory(context, await planDirectory(job), directory, "would be written");
    render.note("Dry run: nothing was written.");
    return 0;
  }
  await using reader = readerOf(context, source);
  const { processors } = context.config.limits;
  tellDirectory(context, await restoreToDirectory({ ...job, reader, processors }), directory, "written");
  return 0;
}

function tellDirectory({ render }: Context, report: ToDirectoryReport, directory: string, done: string): void {
  const { files, bytes, renamed, warnings } = report;
  for (const warning of warnings) render.warn(printable(warning));
  for (const { from, to } of renamed) render.warn(`${printable(from)} is named ${printable(to)}: its name was taken`);
  render.summary({
    ...{ run: null, directory, restored: 0, skipped: 0, stillQueued: 0, alreadyDelivered: 0, deleted: 0 },
    ...{ inDoubt: [], renamed, warnings, files, bytes },
  });
  render.text(`${files} files of configuration, ${size(bytes)}, ${done} below ${directory}`);
}
