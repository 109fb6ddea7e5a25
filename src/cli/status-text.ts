import { messageQueues } from "../postfix/queue.ts";
import { ago } from "../status/ago.ts";
import type { InstanceState, Oldest } from "../status/queue-state.ts";
import type { Happened, HostStatus, JobStatus, StatusReport } from "../status/report.ts";
import { runbookOf } from "../status/runbook-of.ts";
import { heldByUs } from "../status/summary.ts";
import type { Render } from "./render.ts";
import { localTime, printable, table } from "./table.ts";

/** `status` for people: how things are, then what is wrong with remedy and runbook, the worst last, where the eye is. */
export function statusText(report: StatusReport, render: Pick<Render, "colour">): string {
  const { problems, instances, repository } = report;
  const critical = problems.some(({ severity }) => severity === "critical");
  const colour = problems.length === 0 ? "green" : critical ? "red" : "yellow";
  const verdict = problems.length === 0 ? "OK" : `${problems.length} ${problems.length === 1 ? "problem" : "problems"}`;
  const parts = [
    `${report.host}: ${render.colour(colour, verdict)}`,
    happenings(report),
    ...(repository !== null && repository.hosts.length > 1 ? [hostTable(repository.hosts)] : []),
    ...(instances.length > 0 ? [queueTable(instances)] : []),
    ...[...problems].reverse().map(({ severity, name, problem, remedy }) => {
      const word = render.colour(severity === "critical" ? "red" : "yellow", severity);
      const runbook = runbookOf(name);
      const open = runbook === null ? "" : `\n    runbook ${runbook}: spoolsafe runbook show ${runbook.slice(0, 2)}`;
      return `${word}: ${printable(problem)}\n    ${printable(remedy)}${open}`;
    }),
  ];
  return parts.join("\n");
}

function happenings(report: StatusReport): string {
  const { lastBackup, lastVerify, lastDrill, jobs, holds, copies, unsentAlerts } = report;
  const window = lastBackup?.heldLongestMs == null ? "" : `none on hold longer than ${lastBackup.heldLongestMs} ms`;
  const size = lastBackup?.messages == null ? "" : `${lastBackup.messages} messages`;
  const prune = jobs.find(({ job }) => job === "prune");
  const rows = [
    happening("newest backup", lastBackup, jobs, "backup", shortId(lastBackup?.snapshot), size, window),
    happening("newest verify", lastVerify, jobs, "verify", lastVerify?.level ?? ""),
    happening("newest drill", lastDrill, jobs, "drill"),
    ...(prune?.lastStart === null || prune === undefined
      ? []
      : [happening("newest prune", prune.lastSuccess, jobs, "prune")]),
    ["on hold by us", String(heldByUs(holds)), holds.map(({ kind, messages }) => `${kind}: ${messages}`).join(", ")],
    ...copies.map(({ url, behind, lastSuccess }) => [
      "newest copy",
      lastSuccess === null ? "never" : `${ago(lastSuccess.ageSeconds)} ago`,
      [printable(url), behind === 0 ? "" : `${behind} snapshots behind`].filter((part) => part !== "").join(", "),
    ]),
    ["alerts not sent", String(unsentAlerts.length), ""],
  ];
  return table(["", "", ""], rows).replace(/^\n/, "");
}

function happening(
  what: string,
  event: Happened | null,
  jobs: readonly JobStatus[],
  name: string,
  ...more: readonly string[]
): string[] {
  const running = jobs.some(({ job, running: runs }) => job === name && runs) ? "running now" : "";
  const said = [event === null ? "" : localTime(new Date(event.time)), ...more, running].filter((part) => part !== "");
  return [what, event === null ? "never" : `${ago(event.ageSeconds)} ago`, said.join(", ")];
}

function shortId(id: string | null | undefined): string {
  return id == null ? "" : `snapshot ${id.slice(0, 8)}`;
}

function hostTable(hosts: readonly HostStatus[]): string {
  const head = ["HOST", "NEWEST BACKUP", "AGE", "MESSAGES", "SNAPSHOTS", "NOT COUNTED"];
  const rows = hosts.map(({ host, lastBackup, snapshots, untrusted, future }) => [
    host,
    lastBackup === null ? "none" : localTime(new Date(lastBackup.time)),
    lastBackup === null ? "-" : ago(lastBackup.ageSeconds),
    lastBackup?.messages ?? 0,
    snapshots,
    untrusted + future,
  ]);
  return table(head, rows);
}

function queueTable(instances: readonly InstanceState[]): string {
  const head = ["INSTANCE", ...messageQueues.map((queue) => queue.toUpperCase()), "TOTAL", "DEFERRED %", "OLDEST"];
  const rows = instances.map(({ name, queues, total, deferredShare, oldest }) => [
    name,
    ...messageQueues.map((queue) => queues[queue].messages),
    total,
    Number(((deferredShare ?? 0) * 100).toFixed(1)),
    oldestText(oldest),
  ]);
  return table(head, rows);
}

function oldestText(oldest: Oldest | null): string {
  if (oldest === null) return "-";
  return oldest.exact ? ago(oldest.ageSeconds) : `at least ${ago(oldest.ageSeconds)}`;
}
