import { hostname } from "node:os";
import { Alarm, type HeartbeatResult } from "../alerts/alarm.ts";
import { reasonOf, shortPatience, usualPatience } from "../alerts/attempt.ts";
import type { AlertSettings } from "../alerts/channels.ts";
import type { AgeLimit, DueLimit, Outcome } from "../alerts/conditions.ts";
import { type Heartbeat, startHeartbeat, tellFailure } from "../alerts/heartbeat.ts";
import type { Config } from "../config/schema.ts";
import { type JobName, readJob } from "../jobs/record.ts";
import type { Context } from "./context.ts";
import { graceOf, lastDue } from "./due.ts";

/** The alerts of one run. */
export interface RunAlerts {
  /** Tell of its end. Never rejects: whatever goes wrong with telling is warned of and changes nothing of the job. */
  ended(outcome: Omit<Outcome, "job">): Promise<void>;
}

/** A run begins: its heartbeat, where it has one, is told of it beside the work. */
export function startAlerts(context: Context, job: JobName): RunAlerts {
  const pulse = pulseOf(context.config, job);
  const heartbeat = pulse === undefined ? undefined : startHeartbeat({ url: pulse.url });
  return {
    ended: async (outcome) => {
      const patience = context.signal.aborted ? shortPatience : usualPatience;
      try {
        const told = pulse && heartbeat && (await endHeartbeat(pulse.channel, heartbeat, outcome, patience));
        const alarm = await makeAlarm(context);
        const { conditions, unsent } = await alarm.raiseEnd({
          outcome: { ...outcome, job },
          heartbeat: told,
          patience,
        });
        for (const { kind, message } of conditions)
          if (kind === "empty" && job === "backup") context.render.warn(message);
        for (const { channel, error } of unsent) warnUnsent(context, channel, error);
      } catch (error) {
        context.render.warn(`the alerts of this ${job} can't be seen to: ${reasonOf(error)}`);
      }
    },
  };
}

/** What a daemon adds to the alerts of its runs, as long as it lives. */
export interface AlertWatch {
  /** A run was killed: its heartbeat was told of its start and of nothing more. */
  killed(job: JobName): void;
  /** A run that is due can't be started; that is told when it has lasted for some minutes, until one begins. */
  notStarted(job: JobName, due: number, reason: string): void;
  started(job: JobName): void;
  /** What is being told at this moment may be told again by whoever looks next. */
  stop(): void;
}

const minute = 60_000;
/** A start is tried by the minute. */
const lastingTimes = 3;

/** Look each minute: tell what has become too old, or has failed without being able to say so. */
export async function startAlertWatch(context: Context): Promise<AlertWatch> {
  // One for the daemon's life: it knows what it has told, also while the disk is full.
  const alarm = await makeAlarm(context);
  const unstarted = new Map<JobName, Outcome & { readonly times: number }>();
  let looking = false;
  const look = async () => {
    if (looking) return;
    looking = true;
    const lasting = [...unstarted.values()].filter(({ times }) => times >= lastingTimes);
    await orWarn(context, () => alarm.raiseAges(lasting));
    looking = false;
  };
  const timer = setInterval(() => void look(), minute);
  return {
    killed: (job) => {
      const pulse = pulseOf(context.config, job);
      if (pulse !== undefined) void orWarn(context, () => tellFailure(pulse.url, `${job} was killed`));
      void look();
    },
    notStarted: (job, due, reason) => {
      const times = (unstarted.get(job)?.times ?? 0) + 1;
      const message = `it can't be started: ${reason}`;
      unstarted.set(job, { job, start: new Date(due).toISOString(), exit: null, message, times });
    },
    started: (job) => void unstarted.delete(job),
    stop: () => clearInterval(timer),
  };
}

async function orWarn({ render }: Context, tell: () => Promise<unknown>): Promise<void> {
  try {
    await tell();
  } catch (error) {
    render.warn(`alerts can't be seen to: ${reasonOf(error)}`);
  }
}

async function makeAlarm(context: Context): Promise<Alarm> {
  const { config, stateDirectory, clock } = context;
  return new Alarm({
    stateDirectory,
    settings: settingsOf(config),
    limits: await ageLimits(config, stateDirectory, clock.now()),
    dueLimits: await dueLimits(config),
    host: () => nameOf(context),
    now: () => clock.now(),
  });
}

function warnUnsent({ render }: Context, channel: string, error: string): void {
  render.warn(`an alert could not be sent (${channel}): ${error}`);
}

/** Postfix may be what is broken: an alert needs a name, whatever it is. */
async function nameOf(context: Context): Promise<string> {
  try {
    return await context.host();
  } catch {
    return hostname();
  }
}

async function endHeartbeat(
  channel: HeartbeatResult["channel"],
  heartbeat: Heartbeat,
  { exit, message }: Omit<Outcome, "job">,
  patience: typeof usualPatience,
): Promise<HeartbeatResult | undefined> {
  try {
    return (await heartbeat.end(exit, message, patience)) ? { channel, error: null } : undefined;
  } catch (error) {
    return { channel, error: reasonOf(error) };
  }
}

function pulseOf({ alerts }: Config, job: JobName): { url: string; channel: HeartbeatResult["channel"] } | undefined {
  const { heartbeat_url, drill_heartbeat_url } = alerts;
  if (job === "backup" && heartbeat_url !== undefined) return { url: heartbeat_url, channel: "heartbeat" };
  if (job === "drill" && drill_heartbeat_url !== undefined) {
    return { url: drill_heartbeat_url, channel: "drill heartbeat" };
  }
  return undefined;
}

function settingsOf({ alerts }: Config): AlertSettings {
  const { heartbeat_url, drill_heartbeat_url, webhook_url, command, smtp, smtp_from, smtp_to } = alerts;
  return {
    heartbeatUrl: heartbeat_url,
    drillHeartbeatUrl: drill_heartbeat_url,
    webhookUrl: webhook_url,
    command,
    mail: smtp === undefined || smtp_from === undefined ? undefined : { url: smtp, from: smtp_from, to: smtp_to },
  };
}

/**
 * How old the last success of each job may be. A backup: `alerts.max_age`, where backups are taken here at all. Verify and
 * prune, where they are on the schedule: twice the longest time between two runs of it.
 */
async function ageLimits({ alerts, schedule }: Config, stateDirectory: string, now: number): Promise<AgeLimit[]> {
  const limits: AgeLimit[] = [];
  if (schedule.backup !== undefined || readJob(stateDirectory, "backup").lastStart !== null) {
    limits.push({ job: "backup", maxAgeMs: alerts.max_age });
  }
  const others = (["verify", "prune"] as const).flatMap((job) => {
    const expression = schedule[job];
    return expression === undefined ? [] : [{ job, expression }];
  });
  if (others.length === 0) return limits;
  const { expressionProblem, hostTimezone, makeCalendar } = await import("../schedule/expression.ts");
  for (const { job, expression } of others) {
    if (expressionProblem(expression) !== undefined) continue;
    const calendar = makeCalendar(expression, schedule.timezone ?? hostTimezone());
    limits.push({ job, maxAgeMs: 2 * longestGap((after) => calendar.next(after), now) });
  }
  return limits;
}

/** A drill is the one job whose absence nothing else shows: each time it is due counts. */
async function dueLimits({ schedule }: Config): Promise<DueLimit[]> {
  if (schedule.drill === undefined) return [];
  const { expressionProblem, hostTimezone, makeCalendar } = await import("../schedule/expression.ts");
  if (expressionProblem(schedule.drill) !== undefined) return [];
  const calendar = makeCalendar(schedule.drill, schedule.timezone ?? hostTimezone());
  return [
    {
      job: "drill",
      schedule: `${calendar.expression} ${calendar.timezone}`,
      lastDue: (before) => lastDue(calendar, before, 1)[0],
      graceMs: graceOf(schedule),
    },
  ];
}

/** Between the next runs, a few of them: "on working days" has a longer gap than most. */
function longestGap(next: (after: number) => number | undefined, now: number): number {
  let [longest, before] = [0, next(now)];
  for (let run = 0; run < 8 && before !== undefined; run++) {
    const after = next(before);
    longest = Math.max(longest, (after ?? before) - before);
    before = after;
  }
  return longest;
}
