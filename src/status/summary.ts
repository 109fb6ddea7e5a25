import { messageQueues } from "../postfix/queue.ts";
import type { InstanceState } from "./queue-state.ts";
import type { CopyStatus, HoldStatus, StatusReport } from "./report.ts";

/** The fields of the JSON summary (docs/INTERFACE.md). What never happened is null. */
export function statusSummary(report: StatusReport) {
  const { host, time, lastBackup, lastVerify, lastDrill, jobs, copies, unsentAlerts, repository } = report;
  return {
    ok: report.problems.length === 0,
    host,
    time,
    lastBackup,
    lastVerify,
    lastDrill,
    heldByUs: heldByUs(report.holds),
    holds: report.holds,
    unsentCopies: unsentCopies(copies),
    copies,
    unsentAlerts: unsentAlerts.length,
    jobs,
    instances: report.instances.map(instanceSummary),
    hosts: repository?.hosts ?? null,
    problems: report.problems.map(({ problem }) => problem),
  };
}

/** Snapshots that are missing in further repositories, each counted where it is missing; null where nothing is copied. */
export function unsentCopies(copies: readonly CopyStatus[]): number | null {
  return copies.length === 0 ? null : copies.reduce((sum, { behind }) => sum + behind, 0);
}

/** Messages, of every kind of hold. */
export function heldByUs(holds: readonly HoldStatus[]): number {
  return holds.reduce((sum, { messages }) => sum + messages, 0);
}

function instanceSummary({ name, queues, total, deferredShare, oldest }: InstanceState) {
  return {
    name,
    messages: { total, ...Object.fromEntries(messageQueues.map((queue) => [queue, queues[queue].messages])) },
    deferredShare: deferredShare === null ? null : Number(deferredShare.toFixed(4)),
    oldest,
    oldestInQueue: Object.fromEntries(messageQueues.map((queue) => [queue, queues[queue].oldest])),
  };
}
