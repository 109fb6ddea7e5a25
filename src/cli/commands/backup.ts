import { type BackupEvent, type BackupReport, backup } from "../../backup/backup.ts";
import { forecastBackup } from "../../backup/forecast.ts";
import type { PrintedSheet } from "../../backup/sheets.ts";
import { OperatorError } from "../../errors.ts";
import type { PostfixInstance } from "../../postfix/instance.ts";
import { takeoverSheets } from "../../runbook/takeover.ts";
import type { CaptureMode } from "../../snapshot/snapshot.ts";
import type { Context } from "../context.ts";
import { configuredCopies, copyAfterBackup, requireApart } from "../copies.ts";
import { type Leave, recorded } from "../job.ts";
import { runbookPlaces } from "../runbooks.ts";
import { printable, size, span, table } from "../table.ts";
import { version } from "../version.ts";

export interface BackupOptions {
  readonly mode?: Exclude<CaptureMode, "stopped"> | undefined;
  readonly tag?: readonly string[] | undefined;
  readonly dryRun?: true | undefined;
}

/** Exit 3 when something that is still there could not be read, or was held over the limit. */
export async function run(context: Context, options: BackupOptions): Promise<number> {
  requireRoot();
  if (options.dryRun === true) return await forecast(context, await chosenInstances(context));
  // One instance of several, by hand, is not the backup that status and alerts watch.
  const whole = context.globals.instance === undefined || context.scheduledFor !== null;
  let summarize = () => {};
  const work = async (leave: Leave) => {
    await requireApart(context, configuredCopies(context));
    const report = await backUp(context, options, leave);
    summarize = () => context.render.summary(summary(report));
    context.render.text(text(report));
    return report.problems.length > 0 ? 3 : 0;
  };
  const exit = whole ? await recorded(context, "backup", work) : await work(() => {});
  await copyAfterBackup(context);
  summarize();
  return exit;
}

async function backUp(context: Context, options: BackupOptions, leave: Leave): Promise<BackupReport> {
  const instances = await chosenInstances(context);
  const { config, render } = context;
  const report = await backup({
    instances,
    host: await context.host(),
    mode: options.mode ?? config.postfix.mode,
    tags: options.tag ?? [],
    repository: await context.openRepository(),
    recipients: await context.recipients(),
    signingKey: await context.signingKey(),
    trusted: await context.trustedKeys(),
    stateDirectory: context.stateDirectory,
    holdBatch: config.postfix.hold_batch,
    holdLimitMs: config.postfix.hold_limit,
    freezeLimitMs: config.postfix.freeze_limit,
    barrierMs: 30_000,
    drainMs: 60_000,
    include: config.postfix.include,
    sheets: sheets(context),
    mailServices: config.postfix.mail_services,
    processors: config.limits.processors,
    uploadBytesPerSecond: config.limits.upload,
    version,
    clock: context.clock,
    signal: context.signal,
    report: tellingProgress(context, (event) => tell(context, event)),
  });
  for (const { instance, queueId, problem } of report.problems) {
    const what = queueId === null ? problem : `${queueId} ${problem}`;
    render.line({ type: "problem", instance, queueId, problem } as never);
    render.warn(`${instance}: ${printable(what)}`);
  }
  const { messages, hold } = report.snapshot;
  leave({ snapshot: report.id, messages: messages.total, heldLongestMs: hold.longestMs });
  return report;
}

/** The mail matters more: a backup goes on without what can't be printed. */
function sheets(context: Context): readonly PrintedSheet[] {
  try {
    return takeoverSheets(runbookPlaces(context));
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    context.render.warn(`no runbooks are kept with this snapshot: ${error.message}`);
    return [];
  }
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "a backup reads the mail queue, which only root can", {
    hints: ["run it as root: sudo spoolsafe backup", "on a host without Postfix use snapshots, verify or restore --to"],
  });
}

async function chosenInstances(context: Context): Promise<PostfixInstance[]> {
  const all = await context.instances();
  const { instance: name } = context.globals;
  if (name === undefined) return all;
  const chosen = all.filter((one) => one.name === name);
  if (chosen.length > 0) return chosen;
  throw new OperatorError("usage", `there is no Postfix instance ${name} here`, {
    hints: [`instances of this host: ${all.map((one) => one.name).join(", ")}`],
  });
}

async function forecast(context: Context, instances: readonly PostfixInstance[]): Promise<number> {
  const { render } = context;
  const forecasts = await forecastBackup(instances);
  for (const one of forecasts) render.line(one);
  const total = forecasts.reduce((sum, one) => sum + one.messages.total, 0);
  render.summary({ dryRun: true, messages: total, bytes: forecasts.reduce((sum, one) => sum + one.bytes, 0) });
  const rows = forecasts.map(({ instance, running, messages, bytes }) => [
    instance,
    running ? (context.config.postfix.mode as string) : "stopped",
    ...[messages.incoming, messages.active, messages.deferred, messages.hold, messages.maildrop],
    size(bytes),
  ]);
  render.text(table(["instance", "mode", "incoming", "active", "deferred", "hold", "maildrop", "bytes"], rows));
  render.note("Dry run: nothing was held, read or stored.");
  return 0;
}

/** Instances are captured one after another, and each tells of itself: people want to know of all. */
function tellingProgress({ render }: Context, tellRest: (event: OtherEvent) => void): (event: BackupEvent) => void {
  let total: number | null = null;
  let stored = 0;
  const read = new Map<string, { readonly messages: number; readonly bytes: number }>();
  const sum = (of: "messages" | "bytes") => read.values().reduce((all, one) => all + one[of], 0);
  return (event) => {
    if (event.type === "listed") total = event.messages;
    else if (event.type === "captured") read.set(event.instance, event);
    else tellRest(event);
    if (event.type === "stored") stored += event.bytes;
    const more = stored === 0 ? "" : `${size(stored)} stored`;
    render.progress({ doing: "reading", unit: "messages", done: sum("messages"), total, bytes: sum("bytes"), more });
  };
}

type OtherEvent = Exclude<BackupEvent, { readonly type: "listed" | "captured" }>;

function tell({ render }: Context, event: OtherEvent): void {
  switch (event.type) {
    case "stored":
      render.detail(`stored a pack of ${event.files} files, ${size(event.bytes)}`);
      return;
    case "repacking":
      render.line(event);
      render.detail(`${event.packs} packs hold little that is still wanted: up to ${size(event.bytes)} stored anew`);
      return;
    case "mode":
      for (const reason of event.reasons)
        render.warn(`${event.instance}: captured in mode ${event.mode}, because ${reason}`);
      render.line(event);
      return;
    case "holds-recovered":
      render.event(event);
      if (event.released.length > 0) {
        render.warn(
          `${event.instance}: released ${event.released.length} messages that run ${event.run} had left on hold`,
        );
      }
      if (event.stillHeld.length > 0) {
        render.warn(
          `${event.instance}: ${event.stillHeld.length} messages stay on hold because of us: ${event.reason}`,
        );
      }
      return;
    case "not-swept":
      render.line(event);
      render.detail(`left-overs of interrupted uploads could not be looked for: ${event.reason}`);
      return;
    case "index-not-saved":
      render.line(event);
      render.warn(
        `what is stored could not be remembered, so the next backup stores everything again: ${event.reason}`,
      );
      return;
    case "holds-given-up":
      render.event(event);
      render.warn(`${event.instance}: holding mail failed, the rest was read in place: ${event.reason}`);
      return;
    default:
      render.line(event);
      if ("path" in event) render.detail(`${event.type}: ${printable(String(event.path))}`);
  }
}

function summary({ id, snapshot, storedBytes, durationMs }: BackupReport): object {
  const { host, mode, messages, bytes, newMessages, reusedMessages, hold } = snapshot;
  return { snapshot: id, host, mode, messages, bytes, storedBytes, newMessages, reusedMessages, hold, durationMs };
}

function text({ id, snapshot, storedBytes, durationMs }: BackupReport): string {
  const { messages, hold } = snapshot;
  const queues = (["incoming", "active", "deferred", "hold", "maildrop"] as const)
    .filter((queue) => messages[queue] > 0)
    .map((queue) => `${messages[queue]} ${queue}`);
  const lines = [
    `snapshot ${id.slice(0, 12)} of ${snapshot.host}: ${messages.total} messages${queues.length > 0 ? ` (${queues.join(", ")})` : ""}`,
    `stored ${size(storedBytes)} in ${span(durationMs)}; ${snapshot.newMessages} messages new, ${snapshot.reusedMessages} already stored`,
  ];
  if (hold.held > 0)
    lines.push(
      `on hold for the copy: ${hold.held} messages, none longer than ${hold.longestMs} ms; released: ${hold.released}`,
    );
  const noted = [
    messages.inFlight === null
      ? "deliveries under way could not be seen"
      : messages.inFlight > 0
        ? `${messages.inFlight} in delivery`
        : "",
    messages.incomplete > 0 ? `${messages.incomplete} still being received (not acknowledged, not captured)` : "",
    messages.vanished > 0 ? `${messages.vanished} left the queue before they were read` : "",
    messages.finishedDuringRun > 0 ? `${messages.finishedDuringRun} finished during the run` : "",
  ].filter((one) => one !== "");
  if (noted.length > 0) lines.push(`noted: ${noted.join("; ")}`);
  return lines.join("\n");
}
