import { messageQueues } from "../postfix/queue.ts";
import type { JobStatus, StatusReport } from "./report.ts";

interface Sample {
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number;
}

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

/**
 * The exposition format of Prometheus, for `/metrics` and for a file of node_exporter's textfile collector. Base units,
 * no time stamps; what never happened has no sample (`absent()` finds that). Labels avoid `job` and `instance`, which
 * Prometheus sets itself. Times of success stay when a later run fails.
 */
export function prometheusText(report: StatusReport): string {
  return metrics(report)
    .filter(({ samples }) => samples.length > 0)
    .map(metricText)
    .join("");
}

function metricText({ name, help, samples }: Metric): string {
  const lines = samples.map(({ labels = {}, value }) => `${name}${labelText(labels)} ${value}\n`);
  return `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${lines.join("")}`;
}

function labelText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function metrics(report: StatusReport): Metric[] {
  return [
    ...overall(report),
    ...report.jobs.flatMap((job) => jobMetrics(job, report)),
    ...backups(report),
    ...queueMetrics(report),
  ];
}

function overall(report: StatusReport): Metric[] {
  const { host, time, problems, holds, unsentAlerts, copies, limits, repository } = report;
  const count = (severity: string) => problems.filter((one) => one.severity === severity).length;
  const kinds = ["capture", "restore", "fence"] as const;
  return [
    gauge("spoolsafe_ok", "1 when spoolsafe status finds no problem, else 0.", [
      { labels: { host }, value: problems.length === 0 ? 1 : 0 },
    ]),
    gauge(
      "spoolsafe_problems",
      "Problems spoolsafe status finds.",
      ["warning", "critical"].map((severity) => ({ labels: { host, severity }, value: count(severity) })),
    ),
    gauge("spoolsafe_status_timestamp_seconds", "When this status was made.", [
      { labels: { host }, value: seconds(time) },
    ]),
    gauge(
      "spoolsafe_backup_max_age_seconds",
      "Age of the newest good backup that is critical, as configured.",
      (repository?.hosts ?? [{ host }]).map((one) => ({
        labels: { host: one.host },
        value: limits.backupAge.critical,
      })),
    ),
    gauge(
      "spoolsafe_held_messages",
      "Messages on hold because of spoolsafe.",
      kinds.map((kind) => ({
        labels: { host, kind },
        value: holds.filter((hold) => hold.kind === kind).reduce((sum, { messages }) => sum + messages, 0),
      })),
    ),
    gauge("spoolsafe_unsent_alerts", "Alerts that could not be sent.", [
      { labels: { host }, value: unsentAlerts.length },
    ]),
    gauge(
      "spoolsafe_unsent_copies",
      "Snapshots that are not in a further repository yet.",
      copies.map(({ url, behind }) => ({ labels: { host, url }, value: behind })),
    ),
    gauge(
      "spoolsafe_copied_timestamp_seconds",
      "Start of the last copy to a further repository that left nothing to do.",
      copies.flatMap(({ url, lastSuccess }) =>
        lastSuccess === null ? [] : [{ labels: { host, url }, value: seconds(lastSuccess.time) }],
      ),
    ),
  ];
}

function jobMetrics(
  { job, lastSuccess, lastStart, lastExit, missedSince, scheduled }: JobStatus,
  { host, repository }: StatusReport,
): Metric[] {
  const one = (value: number | null | undefined): Sample[] =>
    value === null || value === undefined ? [] : [{ labels: { host }, value }];
  // Asked of the repository, the newest backup of each host is told below.
  const success = job === "backup" && repository !== null ? [] : one(lastSuccess && seconds(lastSuccess.time));
  return [
    gauge(`spoolsafe_${job}_last_success_timestamp_seconds`, `Start of the last ${job} that ended well.`, success),
    gauge(
      `spoolsafe_${job}_last_start_timestamp_seconds`,
      `Start of the last ${job}.`,
      one(lastStart && seconds(lastStart.time)),
    ),
    gauge(`spoolsafe_${job}_last_exit_code`, `Exit code of the last ${job} that ended.`, one(lastExit)),
    gauge(
      `spoolsafe_${job}_missed`,
      `1 when ${job} has missed its schedule, else 0.`,
      scheduled ? one(missedSince === null ? 0 : 1) : [],
    ),
  ];
}

function backups({ host, lastBackup, repository }: StatusReport): Metric[] {
  const all = repository?.hosts.map((one) => ({ host: one.host, backup: one.lastBackup })) ?? [
    { host, backup: lastBackup },
  ];
  const samples = (value: (backup: NonNullable<typeof lastBackup>) => number | null): Sample[] =>
    all.flatMap((one) => {
      const known = one.backup === null ? null : value(one.backup);
      return known === null ? [] : [{ labels: { host: one.host }, value: known }];
    });
  return [
    gauge(
      "spoolsafe_backup_last_success_timestamp_seconds",
      "Start of the last backup that ended well.",
      repository === null ? [] : samples(({ time }) => seconds(time)),
    ),
    gauge(
      "spoolsafe_backup_messages",
      "Messages in the newest good backup.",
      samples(({ messages }) => messages),
    ),
    gauge(
      "spoolsafe_backup_hold_longest_seconds",
      "How long a message was on hold for the newest good backup at most.",
      samples(({ heldLongestMs }) => (heldLongestMs === null ? null : heldLongestMs / 1000)),
    ),
  ];
}

function queueMetrics({ host, instances }: StatusReport): Metric[] {
  const labels = (name: string) => ({ host, postfix_instance: name });
  return [
    gauge(
      "spoolsafe_queue_messages",
      "Messages in a queue.",
      instances.flatMap(({ name, queues }) =>
        messageQueues.map((queue) => ({ labels: { ...labels(name), queue }, value: queues[queue].messages })),
      ),
    ),
    gauge(
      "spoolsafe_queue_oldest_message_age_seconds",
      "Age of the oldest message in a queue, 0 for an empty one.",
      instances.flatMap(({ name, queues }) =>
        messageQueues.map((queue) => ({
          labels: { ...labels(name), queue },
          value: queues[queue].oldest?.ageSeconds ?? 0,
        })),
      ),
    ),
    gauge(
      "spoolsafe_queue_deferred_ratio",
      "Deferred messages as a share of all.",
      instances.map(({ name, deferredShare }) => ({
        labels: labels(name),
        value: Number((deferredShare ?? 0).toFixed(4)),
      })),
    ),
  ];
}

function gauge(name: string, help: string, samples: readonly Sample[]): Metric {
  return { name, help, samples };
}

function seconds(time: string): number {
  return Math.floor(Date.parse(time) / 1000);
}
