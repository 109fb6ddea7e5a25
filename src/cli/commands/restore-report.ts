import { boundOf, doubtfulOf, skippedOf } from "../../restore/outcome.ts";
import type { RestorePlan } from "../../restore/plan.ts";
import type { Bound, RestoreEvent, RestoreReport } from "../../restore/report.ts";
import { warningsOf } from "../../restore/restore.ts";
import type { Context } from "../context.ts";
import { printable, size, table } from "../table.ts";

const steps = {
  logs: "reading the logs",
  twins: "looking for what is still queued here",
  claim: "claiming",
  stage: "writing",
  sync: "waiting for the disk",
  place: "placing",
  check: "checking with postsuper and postcat",
  release: "releasing what Postfix is to deliver",
} as const;

/** What a restore tells on its way. */
export function tell({ render }: Context, event: RestoreEvent): void {
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

/** Findings a person is shown one by one. */
const shown = 20;

/**
 * Show a plan: what is placed where, what is not and why, and what is to be expected.
 *
 * @param more fields of the summary
 */
export function tellPlan({ render }: Context, plan: RestorePlan, more: object = {}): void {
  const { place, skip, target, needs, choice, source, forecasts } = plan;
  for (const { message, queue, mtime, role, inDoubt, recipients, waits } of place) {
    const retryTime = queue === "deferred" ? new Date(mtime * 1000).toISOString() : null;
    const to = recipients.map((index) => message.recipients[index]?.address ?? "");
    const { queueId } = message;
    render.line({
      type: "planned",
      queueId,
      from: message.queue,
      to: queue,
      role,
      retryTime,
      inDoubt,
      waits,
      recipients: to,
    } as never);
  }
  for (const { message, kind, reason } of skip) {
    render.line({ type: "skipped", queueId: message.queueId, kind, reason } as never);
  }
  for (const one of forecasts) render.line({ type: "forecast", ...one, forecast: one.kind } as never);
  const warnings = warningsOf(plan);
  for (const warning of warnings) render.warn(printable(warning));
  const inDoubt = doubtfulOf(place, plan.log !== null);
  const bound = boundOf(plan, plan.log !== null, inDoubt.length);
  const { notPlaced, ...skipped } = skippedOf(plan);
  render.summary({
    ...{ dryRun: true, run: null, restored: 0, planned: place.length, ...skipped },
    ...{ alreadyDelivered: plan.delivered.length, deleted: plan.deleted.length, inDoubt, renamed: [], warnings },
    ...{ needs, notPlaced, bound, ...more },
  });
  render.text(planTable(plan));
  for (const line of skipLines(plan)) render.text(line);
  tellServed({ render } as Context, plan.delivered, plan.deleted);
  render.text(
    `instance ${choice.instance} of snapshot ${source.snapshot.slice(0, 12)} into ${target.queueDirectory}; needs ${size(needs.bytes)} and ${needs.inodes} files, free are ${size(target.freeBytes)}${target.freeInodes === null ? "" : ` and ${target.freeInodes} inodes`}`,
  );
  tellBound({ render } as Context, bound);
}

function planTable({ place }: RestorePlan): string {
  const rows = (["deferred", "hold", "maildrop"] as const).map((queue) => {
    const here = place.filter((one) => one.queue === queue);
    const doubtful = here.filter(({ inDoubt }) => inDoubt !== null).length;
    const admin = here.filter(({ role }) => role === "admin").length;
    const waiting = here.filter(({ waits }) => waits).length;
    const notes = [
      ...(admin === 0 ? [] : [`${admin} held by an administrator`]),
      ...(doubtful === 0 ? [] : [`${doubtful} in doubt`]),
      ...(waiting === 0 ? [] : [`${waiting} wait for release`]),
    ];
    return [queue, String(here.length), notes.join(", ")];
  });
  return table(["to", "messages", ""], rows);
}

/** What is not asked for is counted, everything else is named. */
function skipLines({ skip }: RestorePlan): string[] {
  const unselected = skip.filter(({ kind }) => kind === "unselected").length;
  const others = skip.filter(({ kind }) => kind !== "unselected");
  const lines = others
    .slice(0, shown)
    .map(({ message, reason }) => `not placed: ${message.queueId}: ${printable(reason)}`);
  return [
    ...lines,
    ...(others.length > shown ? [`and ${others.length - shown} more not placed: --json lists them all`] : []),
    ...(unselected === 0 ? [] : [`${unselected} messages of the snapshot are not asked for`]),
  ];
}

function tellServed(
  { render }: Pick<Context, "render">,
  delivered: RestorePlan["delivered"],
  deleted: RestorePlan["deleted"],
): void {
  if (delivered.length > 0) render.text(`${delivered.length} recipients are served by the log: not sent again`);
  if (deleted.length > 0) {
    render.text(`${deleted.length} recipients of mail an administrator deleted: left out (--restore-deleted)`);
  }
}

function tellBound({ render }: Pick<Context, "render">, { sentence, acceptedLater }: Bound): void {
  render.text(sentence);
  for (const { queueId, time, sender, recipients } of acceptedLater.slice(0, shown)) {
    const to = recipients.map(({ address }) => address).join(", ");
    const at = new Date(time * 1000).toISOString();
    render.text(`in no snapshot: ${queueId} of ${at}, from ${printable(sender ?? "?")} to ${printable(to)}`);
  }
  if (acceptedLater.length > shown) render.text(`and ${acceptedLater.length - shown} more: --json lists them all`);
}

/** @param more fields of the summary */
export function tellReport(context: Context, report: RestoreReport, queueDirectory: string, more: object = {}): void {
  const { render } = context;
  const { alreadyDelivered, deleted, inDoubt, notPlaced, unproven, warnings } = report;
  for (const warning of warnings) render.warn(printable(warning));
  const held = inDoubt.filter((one) => one.held);
  const findings = [
    ...held.map(({ queueId, recipient, reason }) => `${queueId} to ${recipient} is in doubt and on hold: ${reason}`),
    ...notPlaced.map(({ queueId, problem }) => `${queueId} was not placed: ${problem}`),
    ...unproven.map(({ queueId, problem }) => (queueId === "" ? problem : `${queueId} is not proven: ${problem}`)),
  ];
  for (const finding of findings.slice(0, shown)) render.warn(printable(finding));
  if (findings.length > shown) render.warn(`and ${findings.length - shown} more: --json lists them all`);
  for (const one of alreadyDelivered) render.line({ type: "delivered", ...one } as never);
  for (const one of deleted) render.line({ type: "deleted", ...one } as never);
  render.summary({
    ...report,
    ...{ alreadyDelivered: alreadyDelivered.length, deleted: deleted.length, ...more },
  });
  const proof = unproven.length === 0 ? "every one read back and proven" : `${unproven.length} findings`;
  render.text(
    `${report.restored} messages restored into ${queueDirectory} (${proof}), ${report.skipped} not placed${also(report)}; run ${report.run}`,
  );
  tellServed(context, alreadyDelivered, deleted);
  tellBound(context, report.bound);
  const { awaitingRelease, awaitingDecision, run } = report;
  if (awaitingRelease > 0) render.text(`${awaitingRelease} messages are on hold until: spoolsafe release ${run}`);
  if (awaitingDecision > 0) {
    render.text(
      `${awaitingDecision} messages in doubt are on hold; to send them all the same: spoolsafe release ${run} --in-doubt`,
    );
  }
}

function also({ stillQueued, notSelected }: RestoreReport): string {
  return [
    ...(stillQueued === 0 ? [] : [`, ${stillQueued} still queued here`]),
    ...(notSelected === 0 ? [] : [`, ${notSelected} not asked for`]),
  ].join("");
}
