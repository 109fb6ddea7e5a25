import { messageQueues } from "../postfix/queue.ts";
import { ago } from "./ago.ts";
import type { InstanceState } from "./queue-state.ts";
import type { StatusLimits, StatusReport } from "./report.ts";
import { heldByUs, unsentCopies } from "./summary.ts";

/** Exit codes of a monitoring plugin (Nagios plugin guidelines; the same for Icinga and Checkmk). */
export const nagiosExit = { ok: 0, warning: 1, critical: 2, unknown: 3 } as const;

/** Problems told in the line; NRPE's packets hold a kilobyte in its oldest version. */
const mostTold = 4;

/** One line: state, what is wrong or how things are, and performance data with thresholds. */
export function nagiosLine(report: StatusReport): { readonly line: string; readonly exit: number } {
  const { problems } = report;
  const state = problems.length === 0 ? "ok" : (problems[0]?.severity ?? "ok");
  const told = problems.slice(0, mostTold).map(({ problem }) => problem);
  const more = problems.length > mostTold ? [`and ${problems.length - mostTold} more`] : [];
  const words = problems.length === 0 ? summary(report) : [...told, ...more].join("; ");
  return {
    line: `SPOOLSAFE ${state.toUpperCase()} - ${oneLine(words)} | ${performanceData(report).join(" ")}`,
    exit: nagiosExit[state],
  };
}

/** The line for a check that could not be made. */
export function nagiosUnknown(problem: string): { readonly line: string; readonly exit: number } {
  return { line: `SPOOLSAFE UNKNOWN - ${oneLine(problem)}`, exit: nagiosExit.unknown };
}

/** `|` begins performance data, and only the first line is shown everywhere. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be in the line
  return text.replaceAll("|", "/").replace(/[\x00-\x1f\x7f]+/g, " ");
}

function summary({ lastBackup, lastVerify, lastDrill, instances, repository }: StatusReport): string {
  const messages = instances.reduce((sum, { total }) => sum + total, 0);
  const told = (what: string, age: number | undefined) => `${what} ${age === undefined ? "never" : `${ago(age)} ago`}`;
  return [
    told("backup", lastBackup?.ageSeconds),
    told("verify", lastVerify?.ageSeconds),
    told("drill", lastDrill?.ageSeconds),
    ...(repository === null ? [] : [`${repository.hosts.length} hosts`]),
    ...(instances.length === 0 ? [] : [`${messages} messages queued`]),
  ].join(", ");
}

function performanceData(report: StatusReport): string[] {
  const { lastBackup, lastVerify, lastDrill, holds, unsentAlerts, copies, limits, repository } = report;
  const unsent = unsentCopies(copies);
  const { warning, critical } = limits.backupAge;
  const hosts = repository?.hosts ?? [];
  return [
    age("backup_age", lastBackup?.ageSeconds, `${warning ?? ""};${critical}`),
    ...(hosts.length > 1
      ? hosts.map(({ host, lastBackup: one }) =>
          age(`${host}_backup_age`, one?.ageSeconds, `${warning ?? ""};${critical}`),
        )
      : []),
    age("verify_age", lastVerify?.ageSeconds, ";"),
    age("drill_age", lastDrill?.ageSeconds, ";"),
    lastBackup?.heldLongestMs == null ? "" : `hold_window=${lastBackup.heldLongestMs / 1000}s;;;0`,
    `held_by_us=${heldByUs(holds)};;;0`,
    `unsent_alerts=${unsentAlerts.length};0;;0`,
    unsent === null ? "" : `unsent_copies=${unsent};0;;0`,
    ...report.instances.flatMap((instance) => instanceData(instance, limits)),
  ].filter((one) => one !== "");
}

/** What never happened has no age, and no value is better than a wrong one. */
function age(name: string, seconds: number | undefined, thresholds: string): string {
  return seconds === undefined ? "" : `${label(name)}=${Math.max(0, seconds)}s;${thresholds};0`;
}

function instanceData({ name, queues, deferredShare, oldest }: InstanceState, limits: StatusLimits): string[] {
  const thresholds = (queue: string) => (queue === "deferred" || queue === "active" ? limits[queue].join(";") : ";");
  const share =
    deferredShare === null ? [] : [`${label(`${name}_deferred_share`)}=${(deferredShare * 100).toFixed(1)}%;;;0;100`];
  return [
    ...messageQueues.map((queue) => `${label(`${name}_${queue}`)}=${queues[queue].messages};${thresholds(queue)};0`),
    ...share,
    age(`${name}_oldest`, oldest?.ageSeconds ?? 0, limits.oldest.join(";")),
  ];
}

/** Quoted where it has to be; a quote within is doubled (plugin guidelines). An equals sign is not allowed at all. */
function label(name: string): string {
  const plain = oneLine(name).replaceAll("=", "_");
  return /^[A-Za-z0-9_./:-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", "''")}'`;
}
