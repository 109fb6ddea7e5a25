import { lackOfRoom } from "../../postfix/room.ts";
import { boundOf, doubtfulOf, skippedOf } from "../../restore/outcome.ts";
import type { PlannedMessage, RestorePlan } from "../../restore/plan.ts";
import type { DoubtfulRecipient } from "../../restore/report.ts";
import { warningsOf } from "../../restore/restore.ts";
import type { Context } from "../context.ts";
import { localTime, printable, size, table } from "../table.ts";
import { boundText, counted, firstOf, leftOut, servedText } from "./restore-text.ts";

/**
 * Show a plan: what is placed where, what is not and why, and what is to be expected.
 *
 * @param more fields of the summary
 */
export function tellPlan({ render }: Context, plan: RestorePlan, more: object = {}): void {
  const inDoubt = doubtfulOf(plan.place, plan.log !== null);
  const bound = boundOf(plan, plan.log !== null, inDoubt.length);
  const { place, skip, target, needs, forecasts } = plan;
  const lack = lackOfRoom(needs, target) ?? null;
  for (const planned of place) render.line(plannedLine(planned));
  for (const { message, kind, reason } of skip) {
    render.line({ type: "skipped", queueId: message.queueId, kind, reason });
  }
  for (const one of forecasts) render.line({ type: "forecast", ...one, forecast: one.kind });
  render.summary({
    ...{ dryRun: true, run: null, restored: 0, planned: place.length, ...skippedOf(plan) },
    ...{ alreadyDelivered: plan.delivered.length, deleted: plan.deleted.length, inDoubt, renamed: [] },
    ...{ warnings: warningsOf(plan), needs, lack, bound, ...more },
  });
  render.text(() =>
    [
      ...headLines(plan),
      ...placeLines(place),
      ...skipLines(plan),
      ...doubtLines(inDoubt),
      ...servedText(plan.delivered.length, plan.deleted.length, plan.choice.restoreDeleted),
      ...expectations(plan),
      ...roomLines(plan, lack),
      ...boundText(bound, plan.source.host, inDoubt.length),
    ].join("\n"),
  );
}

function plannedLine({ message, queue, mtime, role, inDoubt, recipients, waits }: PlannedMessage) {
  const retryTime = queue === "deferred" ? new Date(mtime * 1000).toISOString() : null;
  const to = recipients.map((index) => message.recipients[index]?.address ?? "");
  const { queueId, queue: from } = message;
  return { type: "planned", queueId, from, to: queue, role, retryTime, inDoubt, waits, recipients: to };
}

function headLines({ place, skip, source, choice, target }: RestorePlan): string[] {
  const placed = new Set(place.map(({ message }) => message)).size;
  const all = new Set([...place, ...skip].map(({ message }) => message)).size;
  const from = `snapshot ${source.snapshot.slice(0, 12)} of ${localTime(new Date(source.time))}`;
  const way = { fresh: "", merge: ", beside the mail that is there", requeue: ", through maildrop, as new mail" };
  return [
    `${placed} of ${counted(all, "message")} of ${source.host} (${from}, instance ${choice.instance})`,
    `into ${target.queueDirectory}${way[choice.route]}`,
    `Postfix ${target.postfixVersion} here, ${target.running ? "running" : "stopped"}; ${source.postfixVersion} there`,
  ].map(printable);
}

function placeLines(place: readonly PlannedMessage[]): string[] {
  if (place.length === 0) return ["nothing is placed"];
  const rows = Map.groupBy(place, (one) => JSON.stringify([one.message.queue, one.queue, noteOf(one)]));
  const cells = [...rows].map(([key, same]) => {
    const [from, to, note] = JSON.parse(key) as [string, string, string];
    return [from, to, same.length, note];
  });
  return [table(["FROM", "TO", "MESSAGES", ""], cells)];
}

function noteOf({ role, inDoubt, waits }: PlannedMessage): string {
  if (role === "admin" || role === "fence") {
    const by = role === "admin" ? "held by an administrator" : "held by a fence";
    return inDoubt === null ? by : `${by}, and in doubt`;
  }
  if (inDoubt !== null) return "in doubt: until release --in-doubt";
  if (waits) return "out of sight until its release";
  return role === "restore" ? "until its release" : "";
}

/** What is not asked for is counted; of the rest each kind says how many, and names the first. */
function skipLines(plan: RestorePlan): string[] {
  const { skippedBy, restoredBy } = skippedOf(plan);
  const kinds = Map.groupBy(plan.skip, ({ kind }) => kind);
  return leftOut(skippedBy, restoredBy).flatMap(({ kind, text }) => {
    const named = kind === "unselected" || kind === "restored" ? [] : (kinds.get(kind) ?? []);
    const list = named.map(({ message, reason }) => `  ${message.queueId}: ${printable(reason)}`);
    return [`not placed: ${text}`, ...firstOf(list)];
  });
}

function doubtLines(inDoubt: readonly DoubtfulRecipient[]): string[] {
  const held = inDoubt.filter((one) => one.held);
  return firstOf(
    held.map(
      ({ queueId, recipient, reason }) => `in doubt: ${queueId} to ${printable(recipient)}: ${printable(reason)}`,
    ),
  );
}

function expectations({ forecasts, log }: RestorePlan): string[] {
  return [
    ...forecasts.map(({ text }) => `expect: ${printable(text)}`),
    ...(log?.warnings ?? []).map((text) => `the logs: ${printable(text)}`),
  ];
}

function roomLines({ needs, target }: RestorePlan, lack: string | null): string[] {
  const inodes = target.freeInodes === null ? "" : ` and ${counted(target.freeInodes, "inode")}`;
  const room = `room: ${size(needs.bytes)} and ${counted(needs.inodes, "file")} are needed; ${size(target.freeBytes)}${inodes} are free`;
  return lack === null ? [room] : [room, `too little room: the file system of ${target.queueDirectory} needs ${lack}`];
}
