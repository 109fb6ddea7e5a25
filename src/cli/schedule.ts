import { hostname } from "node:os";
import { resolve } from "node:path";
import { ConfigFault } from "../config/load.ts";
import type { JobName } from "../jobs/record.ts";
import type { ScheduledJob } from "../schedule/daemon.ts";
import { hostTimezone, makeCalendar } from "../schedule/expression.ts";
import { jitterOf } from "../schedule/jitter.ts";
import type { Context } from "./context.ts";

/** Jobs a schedule can name, in the order they are shown. */
export const schedulable = ["backup", "verify", "drill", "prune"] as const satisfies readonly JobName[];

/** Those that write to queue or repository would wait for one lock; those that read would load the host together. */
const lanes: Readonly<Record<(typeof schedulable)[number], string>> = {
  backup: "writing",
  prune: "writing",
  verify: "reading",
  drill: "reading",
};

/** The jobs that [schedule] names, each with its times. */
export function scheduledJobs(context: Context): ScheduledJob[] {
  const { schedule, host } = context.config;
  const named = schedulable.filter((job) => schedule[job] !== undefined);
  return named.map((job) => ({
    job,
    lane: lanes[job],
    calendar: makeCalendar(schedule[job] ?? "", schedule.timezone ?? hostTimezone()),
    jitterMs: jitterOf(host ?? hostname(), job, schedule.jitter),
    catchUpMs: schedule.catch_up,
  }));
}

/** @throws ConfigFault when there is nothing to run */
export function someJobs(context: Context): ScheduledJob[] {
  const jobs = scheduledJobs(context);
  if (jobs.length > 0) return jobs;
  const message = `names no job: set one of ${schedulable.join(", ")} to a cron expression, such as backup = "0 2 * * *"`;
  throw new ConfigFault([{ where: context.configFile, key: "schedule", message }]);
}

/** Global options, but for --config, as words of a command line: what was asked of the schedule is asked of its jobs. */
export function givenOptions({ globals, cwd }: Context): readonly string[] {
  const { repository, host, instance, identityFile } = globals;
  const identity = identityFile === undefined ? undefined : resolve(cwd, identityFile);
  return Object.entries({ repository, host, instance, "identity-file": identity }).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}`, value],
  );
}
