import { type Finding, good } from "./finding.ts";

export interface AlertsToExamine {
  /** Jobs that the schedule names. */
  readonly scheduled: readonly string[];
  /** What is set of webhook, command and smtp. */
  readonly channels: readonly string[];
  readonly heartbeat: boolean;
  readonly drillHeartbeat: boolean;
}

/**
 * Who hears of it when the schedule stops. Advice only: a host is ready without it, and somebody may watch `status` by Nagios,
 * Munin, Zabbix or Prometheus. Nothing where nothing is on the schedule.
 */
export function examineAlerts({ scheduled, channels, heartbeat, drillHeartbeat }: AlertsToExamine): readonly Finding[] {
  if (scheduled.length === 0) return [];
  const set = [
    ...channels,
    ...(heartbeat ? ["heartbeat_url"] : []),
    ...(drillHeartbeat ? ["drill_heartbeat_url"] : []),
  ];
  if (set.length === 0) {
    const advice = `set one of webhook_url, command and smtp, and heartbeat_url: nobody is told when ${scheduled.join(", ")} fail or stop`;
    return [good("alerts", "[alerts] names nobody", `${advice} (unless monitoring reads spoolsafe status)`)];
  }
  const missing = [
    ...(channels.length === 0 ? ["webhook_url, command or smtp"] : []),
    // What is on this host can't tell that this host is down.
    ...(scheduled.includes("backup") && !heartbeat ? ["heartbeat_url"] : []),
    ...(scheduled.includes("drill") && !drillHeartbeat ? ["drill_heartbeat_url"] : []),
  ];
  if (missing.length === 0) return [good("alerts", set.join(", "))];
  const advice = `set ${missing.join(" and ")} as well: a heartbeat is missed also when this host is down, a message says what is wrong`;
  return [good("alerts", set.join(", "), advice)];
}
