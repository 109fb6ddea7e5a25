import type { RestoreEvent, RestoreReport } from "../../restore/report.ts";
import type { Context } from "../context.ts";
import { printable } from "../table.ts";
import { boundText, counted, firstOf, leftOut, servedText } from "./restore-text.ts";

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

/** What takes its time after the files are written. Before that a question may be asked, which nothing may write over. */
const afterWriting: ReadonlySet<string> = new Set<keyof typeof steps>(["sync", "place", "check", "release"]);

/** What a restore tells on its way. */
export function tell({ render }: Context, event: RestoreEvent): void {
  switch (event.type) {
    case "step":
      render.detail(`${steps[event.step]}: ${event.messages} messages`);
      if (afterWriting.has(event.step)) {
        render.progress({ doing: steps[event.step], unit: "messages", done: null, total: event.messages });
      }
      return;
    case "staged": {
      const { done, total, bytes, bytesTotal } = event;
      render.progress({ doing: steps.stage, unit: "files", done, total, bytes, bytesTotal });
      return;
    }
    case "resumed":
      render.event(event, `going on with the interrupted run ${event.run}`);
  }
}

/** What a report says beside what was restored. */
export interface ReportTo {
  readonly queueDirectory: string;
  /** Whose mail it is. */
  readonly host: string;
  /** What to do next, after all else. */
  readonly next: readonly string[];
}

/** @param more fields of the summary */
export function tellReport({ render }: Context, report: RestoreReport, to: ReportTo, more: object = {}): void {
  const { alreadyDelivered, deleted, warnings } = report;
  for (const warning of warnings) render.warn(printable(warning));
  for (const finding of firstOf(findingsOf(report))) render.warn(printable(finding));
  for (const one of alreadyDelivered) render.line({ type: "delivered", ...one });
  for (const one of deleted) render.line({ type: "deleted", ...one });
  render.summary({ ...report, ...{ alreadyDelivered: alreadyDelivered.length, deleted: deleted.length, ...more } });
  render.text(() =>
    [
      resultLine(report, to),
      ...leftOut(report.skippedBy, report.restoredBy).map(({ text }) => `not placed: ${text}`),
      ...servedText(alreadyDelivered.length, deleted.length, false),
      ...boundText(report.bound, to.host, report.inDoubt.length),
      ...nextSteps(report),
      ...to.next,
    ].join("\n"),
  );
}

function findingsOf({ inDoubt, notPlaced, unproven }: RestoreReport): string[] {
  const held = inDoubt.filter((one) => one.held);
  return [
    ...held.map(({ queueId, recipient, reason }) => `${queueId} to ${recipient} is in doubt and on hold: ${reason}`),
    ...notPlaced.map(({ queueId, problem }) => `${queueId} was not placed: ${problem}`),
    ...unproven.map(({ queueId, problem }) => (queueId === "" ? problem : `${queueId} is not proven: ${problem}`)),
  ];
}

function resultLine({ restored, unproven, run }: RestoreReport, { queueDirectory }: ReportTo): string {
  const proof = unproven.length === 0 ? "every one read back and proven" : counted(unproven.length, "finding");
  if (restored === 0 && unproven.length === 0) return `nothing was restored into ${queueDirectory} (run ${run})`;
  return `${counted(restored, "message")} restored into ${queueDirectory}: ${proof} (run ${run})`;
}

function nextSteps({ awaitingRelease, awaitingDecision, run }: RestoreReport): string[] {
  return [
    ...(awaitingRelease === 0
      ? []
      : [`on hold, to let ${awaitingRelease === 1 ? "it" : `the ${awaitingRelease}`} go: spoolsafe release ${run}`]),
    ...(awaitingDecision === 0
      ? []
      : [`on hold in doubt, to let ${awaitingDecision} more go all the same: spoolsafe release ${run} --in-doubt`]),
    ...(awaitingRelease + awaitingDecision === 0 ? [] : [`to take back what is on hold: spoolsafe undo ${run}`]),
  ];
}
