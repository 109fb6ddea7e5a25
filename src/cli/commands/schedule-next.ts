import { readJob } from "../../jobs/record.ts";
import type { ScheduledJob } from "../../schedule/daemon.ts";
import { type Due, nextRun } from "../../schedule/engine.ts";
import { loadStates } from "../../schedule/state.ts";
import type { Context } from "../context.ts";
import { scheduledJobs } from "../schedule.ts";
import { span, table } from "../table.ts";

/** `spoolsafe schedule next`: what is due when, soonest first; times in the schedule's time zone, in JSON in UTC. */
export async function run(context: Context): Promise<number> {
  const { render, stateDirectory, clock } = context;
  const now = clock.now();
  const states = loadStates(stateDirectory).jobs;
  const runs = scheduledJobs(context)
    .flatMap((each) => {
      const due = nextRun(states[each.job], each, now);
      return due === undefined ? [] : [{ ...each, ...due, running: states[each.job]?.running ?? null }];
    })
    .sort((a, b) => a.start - b.start);
  for (const one of runs) {
    render.line({
      type: "due",
      job: one.job,
      expression: one.calendar.expression,
      timezone: one.calendar.timezone,
      due: utc(one.due),
      start: utc(one.start),
      madeUp: one.madeUp,
      runningSince: one.running === null ? null : utc(one.running.startedAt),
      lastSuccess: readJob(stateDirectory, one.job).lastSuccess,
    });
  }
  render.summary({ count: runs.length });
  if (runs.length === 0) render.note("No job is on the schedule.");
  else render.text(() => text(runs, stateDirectory, now));
  return 0;
}

function text(runs: readonly (ScheduledJob & Due)[], stateDirectory: string, now: number): string {
  const rows = runs.map(({ job, calendar, due, start, madeUp }) => {
    const { lastSuccess } = readJob(stateDirectory, job);
    const success = lastSuccess === null ? "never" : local(Date.parse(lastSuccess), calendar.timezone);
    const when = start <= now ? "now" : `in ${span(start - now)}`;
    return [
      job,
      calendar.expression,
      `${local(due, calendar.timezone)}${madeUp ? " (missed)" : ""}`,
      local(start, calendar.timezone),
      when,
      success,
    ];
  });
  const zone = runs[0]?.calendar.timezone ?? "";
  return `${table(["job", "schedule", "due", "starts", "", "last success"], rows)}\nTimes are those of ${zone}.`;
}

/** `2026-11-24 02:00:00` in that time zone. */
function local(time: number, timeZone: string): string {
  return new Intl.DateTimeFormat("sv-SE", { timeZone, dateStyle: "short", timeStyle: "medium" }).format(time);
}

function utc(time: number): string {
  return new Date(time).toISOString();
}
