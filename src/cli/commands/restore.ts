import { resolve } from "node:path";
import { OperatorError } from "../../errors.ts";
import { PackReader } from "../../pack/pack-pool.ts";
import { loadInstance } from "../../postfix/instance.ts";
import type { Land, RestorePlan } from "../../restore/plan.ts";
import type { RestoreEvent, RestoreReport } from "../../restore/report.ts";
import { planOnly, restoreInto } from "../../restore/restore.ts";
import { chooseInstance, type RestoreSource } from "../../restore/source.ts";
import { planDirectory, restoreToDirectory, type ToDirectoryReport } from "../../restore/to-directory.ts";
import { chooseSnapshot, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { printable, size, table } from "../table.ts";

export interface RestoreOptions {
  readonly to?: string | undefined;
  readonly into?: string | undefined;
  readonly land?: Land | undefined;
  readonly dryRun?: true | undefined;
}

/** Exit 3 when a message could not be placed, 13 when one was written and could not be proven. */
export async function run(context: Context, spec: string, options: RestoreOptions): Promise<number> {
  if (options.to !== undefined) return await toDirectory(context, spec, options.to, options.dryRun === true);
  if (options.into !== undefined) return await into(context, spec, options.into, options);
  throw new OperatorError("usage", "restore where to?", {
    hints: [
      "--to DIR: plain files, no Postfix needed",
      "--into CONFIG_DIR: into a stopped Postfix with an empty queue",
    ],
  });
}

async function openSource(context: Context, spec: string): Promise<RestoreSource> {
  const identities = await context.identities();
  const repository = await context.openRepository();
  const signed = await chooseSnapshot(context, repository, spec);
  requireInstance(context, signed);
  return { repository, signed, identities, trusted: await context.trustedKeys() };
}

async function toDirectory(context: Context, spec: string, to: string, dryRun: boolean): Promise<number> {
  const { signal, render } = context;
  const source = await openSource(context, spec);
  const directory = resolve(context.cwd, to);
  const job = { source, directory, instance: context.globals.instance, signal };
  if (dryRun) {
    tellDirectory(context, await planDirectory(job), directory, "would be written");
    render.note("Dry run: nothing was written.");
    return 0;
  }
  const { processors } = context.config.limits;
  await using reader = new PackReader({ identities: source.identities, processors });
  const report = await restoreToDirectory({ ...job, reader, processors, report: (event) => tell(context, event) });
  tellDirectory(context, report, directory, "written");
  return 0;
}

function tellDirectory({ render }: Context, report: ToDirectoryReport, directory: string, done: string): void {
  const { messages, queues, files, logs, bytes, renamed, warnings } = report;
  for (const warning of warnings) render.warn(printable(warning));
  for (const { from, to } of renamed) render.warn(`${printable(from)} is named ${printable(to)}: its name was taken`);
  render.summary({
    ...{ run: null, directory, restored: messages, skipped: 0, stillQueued: 0, alreadyDelivered: 0, deleted: 0 },
    ...{ inDoubt: [], renamed, warnings, queues, logs, files, bytes },
  });
  const shares = Object.entries(queues).filter(([, count]) => count > 0);
  const list = shares.map(([queue, count]) => `${count} ${queue}`).join(", ");
  render.text(
    `${messages} messages${list === "" ? "" : ` (${list})`}, ${logs} logs and ${files} other files, ${size(bytes)}, ${done} below ${directory}`,
  );
}

async function into(context: Context, spec: string, configDirectory: string, options: RestoreOptions): Promise<number> {
  requireRoot();
  const { signal, clock, render, stateDirectory } = context;
  const source = await openSource(context, spec);
  const instance = await loadInstance(resolve(context.cwd, configDirectory));
  const choice = {
    instance: chooseInstance(source.signed.snapshot, context.globals.instance),
    land: options.land ?? "original",
  };
  const job = { source, instance, choice, stateDirectory, clock, signal };
  if (options.dryRun === true) {
    tellPlan(context, await planOnly(job));
    return 0;
  }
  const { processors } = context.config.limits;
  await using reader = new PackReader({ identities: source.identities, processors });
  const report = await restoreInto({ ...job, reader, processors, report: (event) => tell(context, event) });
  tellReport(context, report, instance.queueDirectory);
  if (report.unproven.length > 0) return 13;
  if (report.notPlaced.length === 0) render.detail(`the journal of run ${report.run} is in ${stateDirectory}/runs`);
  return report.notPlaced.length > 0 ? 3 : 0;
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can write to a mail queue", {
    hints: ["run it as root", "or get plain files: spoolsafe restore SNAP --to DIR"],
  });
}

const steps = {
  stage: "writing",
  sync: "waiting for the disk",
  place: "placing",
  check: "checking with postsuper and postcat",
} as const;

function tell({ render }: Context, event: RestoreEvent): void {
  switch (event.type) {
    case "step":
      render.detail(`${steps[event.step]}: ${event.messages} messages`);
      return;
    case "staged":
      render.progress(`${event.done} of ${event.total} files written`);
      return;
    case "resumed":
      render.event(event, `going on with the interrupted run ${event.run}`);
  }
}

function tellPlan({ render }: Context, plan: RestorePlan): void {
  const { place, skip, warnings, target, needs, choice } = plan;
  for (const { message, queue, mtime, role, inDoubt } of place) {
    const { queueId } = message;
    const retryTime = queue === "deferred" ? new Date(mtime * 1000).toISOString() : null;
    render.line({ type: "planned", queueId, from: message.queue, to: queue, role, retryTime, inDoubt } as never);
  }
  for (const { message, reason } of skip) render.line({ type: "skipped", queueId: message.queueId, reason } as never);
  for (const warning of warnings) render.warn(printable(warning));
  render.summary({
    ...{ dryRun: true, run: null, restored: 0, planned: place.length, skipped: skip.length },
    ...{ stillQueued: 0, alreadyDelivered: 0, deleted: 0, inDoubt: doubtsOf(plan), renamed: [], warnings, needs },
  });
  const rows = (["deferred", "hold", "maildrop"] as const).map((queue) => {
    const here = place.filter((one) => one.queue === queue);
    const doubtful = here.filter(({ inDoubt }) => inDoubt !== null).length;
    return [queue, String(here.length), doubtful === 0 ? "" : `${doubtful} in doubt`];
  });
  render.text(table(["to", "messages", ""], rows));
  for (const { message, reason } of skip) render.text(`not placed: ${message.queueId}: ${printable(reason)}`);
  render.text(
    `instance ${choice.instance} into ${target.queueDirectory}; needs ${size(needs.bytes)} and ${needs.inodes} files, free are ${size(target.freeBytes)}`,
  );
  render.note("Dry run: nothing was touched.");
}

function doubtsOf(plan: RestorePlan): RestoreReport["inDoubt"] {
  return plan.place.flatMap(({ message, recipients, inDoubt }) =>
    inDoubt === null
      ? []
      : recipients.map((index) => ({
          queueId: message.queueId,
          recipient: message.recipients[index]?.address ?? "",
          reason: inDoubt,
        })),
  );
}

/** Findings a person is shown one by one. */
const shown = 20;

function tellReport({ render }: Context, report: RestoreReport, queueDirectory: string): void {
  const { run, restored, skipped, inDoubt, renamed, warnings, notPlaced, unproven } = report;
  for (const warning of warnings) render.warn(printable(warning));
  const findings = [
    ...inDoubt.map(({ queueId, recipient, reason }) => `${queueId} to ${recipient} is in doubt and on hold: ${reason}`),
    ...notPlaced.map(({ queueId, problem }) => `${queueId} was not placed: ${problem}`),
    ...unproven.map(({ queueId, problem }) => (queueId === "" ? problem : `${queueId} is not proven: ${problem}`)),
  ];
  for (const finding of findings.slice(0, shown)) render.warn(printable(finding));
  if (findings.length > shown) render.warn(`and ${findings.length - shown} more: --json lists them all`);
  render.summary({
    ...{ run, restored, skipped, stillQueued: 0, alreadyDelivered: 0, deleted: 0, inDoubt, renamed, warnings },
    ...{ notPlaced, unproven },
  });
  const proof = unproven.length === 0 ? "every one read back and proven" : `${unproven.length} findings`;
  render.text(`${restored} messages restored into ${queueDirectory} (${proof}), ${skipped} not placed; run ${run}`);
}
