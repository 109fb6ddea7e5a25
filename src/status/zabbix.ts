import { messageQueues } from "../postfix/queue.ts";
import type { Happened, StatusReport } from "./report.ts";
import { heldByUs, unsentCopies } from "./summary.ts";

/**
 * One JSON document for a master item: dependent items take their values from it by JSONPath, `discovery` is what low-level
 * discovery reads (examples/zabbix). What never happened is null, which a dependent item discards.
 */
export function zabbixDocument(report: StatusReport): string {
  const { lastBackup, lastVerify, lastDrill, problems, limits } = report;
  return JSON.stringify({
    host: report.host,
    time: seconds(report.time),
    ok: problems.length === 0 ? 1 : 0,
    problems: problems.length,
    critical: problems.filter(({ severity }) => severity === "critical").length,
    text: problems.length === 0 ? "OK" : problems.map(({ severity, problem }) => `${severity}: ${problem}`).join("\n"),
    backup: {
      ...happening(lastBackup),
      messages: lastBackup?.messages ?? null,
      hold_window_seconds: lastBackup?.heldLongestMs == null ? null : lastBackup.heldLongestMs / 1000,
      max_age_seconds: limits.backupAge.critical,
    },
    verify: happening(lastVerify),
    drill: happening(lastDrill),
    held_by_us: heldByUs(report.holds),
    unsent_alerts: report.unsentAlerts.length,
    unsent_copies: unsentCopies(report.copies),
    instances: report.instances.map(({ name, queues, total, deferredShare, oldest }) => ({
      name,
      total,
      ...Object.fromEntries(messageQueues.map((queue) => [queue, queues[queue].messages])),
      deferred_percent: Number(((deferredShare ?? 0) * 100).toFixed(1)),
      oldest_seconds: oldest?.ageSeconds ?? 0,
    })),
    hosts: (report.repository?.hosts ?? []).map(({ host, lastBackup: newest, snapshots }) => ({
      name: host,
      ...happening(newest),
      snapshots,
    })),
    discovery: report.instances.map(({ name }) => ({ "{#INSTANCE}": name })),
    host_discovery: (report.repository?.hosts ?? []).map(({ host }) => ({ "{#BACKUP_HOST}": host })),
  });
}

function happening(event: Happened | null) {
  return { last_success: event === null ? null : seconds(event.time), age_seconds: event?.ageSeconds ?? null };
}

function seconds(time: string): number {
  return Math.floor(Date.parse(time) / 1000);
}
