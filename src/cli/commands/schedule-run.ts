import { OperatorError } from "../../errors.ts";
import type { JobName } from "../../jobs/record.ts";
import { type DaemonEvent, runDaemon, type ScheduledJob } from "../../schedule/daemon.ts";
import { systemdNotify } from "../../schedule/notify.ts";
import { everyMinute } from "../../schedule/ticks.ts";
import type { Context } from "../context.ts";
import { givenOptions, someJobs } from "../schedule.ts";
import { StatusWatch } from "../status-watch.ts";
import { localTime, span } from "../table.ts";

/** `spoolsafe schedule run`: until SIGTERM or SIGINT, which it ends well on. */
export async function run(context: Context): Promise<number> {
  const jobs = someJobs(context);
  requireRoot(jobs);
  let runs = 0;
  const { startAlertWatch } = await import("../alerting.ts");
  const alerts = await startAlertWatch(context);
  const status = new StatusWatch(context);
  await runDaemon({
    jobs,
    stateDirectory: context.stateDirectory,
    clock: context.clock,
    signal: context.signal,
    ticks: everyMinute,
    commandOf: (job) => ourselves(context, [job, ...(context.globals.quiet === true ? ["--quiet"] : [])]),
    recovery: ourselves(context, ["holds", "release", "--quiet"]),
    notify: systemdNotify(process.env),
    report: (event) => {
      if (event.type === "run-ended") runs++;
      if (event.type === "not-started") alerts.notStarted(event.job, event.due, event.reason);
      if (event.type === "run-started") alerts.started(event.job);
      tell(context, event);
      // Not before: another daemon may be at work with this state directory.
      if (event.type === "started") status.start();
      if (event.type === "run-ended") status.jobEnded();
      // It could not raise an alarm itself.
      if (event.type === "run-ended" && event.exit === null && !event.again) alerts.killed(event.job);
    },
  }).finally(async () => {
    alerts.stop();
    await status.stop();
  });
  context.render.summary({ runs });
  return 0;
}

/** Now, and not every night from now on. */
function requireRoot(jobs: readonly ScheduledJob[]): void {
  if (process.getuid?.() === 0 || !jobs.some(({ job }) => job === "backup")) return;
  throw new OperatorError("refused", "a backup reads the mail queue, which only root can", {
    hints: ["run it as root, or by systemd: sudo spoolsafe schedule install"],
  });
}

/** The same spoolsafe with the same global options. */
function ourselves(context: Context, words: readonly string[]): readonly string[] {
  const { globals, configFile } = context;
  const named = globals.config === undefined ? [] : ["--config", configFile];
  const verbose = globals.verbose === true ? ["--verbose"] : [];
  return [process.execPath, process.argv[1] ?? "", ...words, ...named, ...givenOptions(context), ...verbose];
}

function tell({ render }: Context, event: DaemonEvent): void {
  render.line("due" in event ? { ...event, due: new Date(event.due).toISOString() } : event);
  const { text, warn } = wording(event);
  if (text === "") return;
  if (warn) render.warn(text);
  else render.note(text);
}

interface Wording {
  readonly text: string;
  readonly warn: boolean;
}

/** One line for a run, when it has ended; and what an administrator would want to know. */
function wording(event: DaemonEvent): Wording {
  const news = (text: string): Wording => ({ text, warn: false });
  const warning = (text: string): Wording => ({ text, warn: true });
  const which = "due" in event && "job" in event ? `${event.job} of ${when(event.due)}` : "";
  switch (event.type) {
    case "started":
      return news(`schedule started: ${event.jobs.join(", ")}`);
    case "state-damaged":
      return warning(`${event.file} can't be read: the schedule starts anew, and what was missed is not made up`);
    case "state-unsaved":
      return warning(`the state of the schedule can't be saved, tried again each minute: ${event.reason}`);
    case "clock-stepped":
      return news(
        `the clock was set by ${signed(event.byMs)}, or this machine was asleep: looking again at what is due`,
      );
    case "clock-set-back":
      return warning(`${event.job}: the clock was set back by ${span(event.byMs)}: it goes by the new time`);
    case "missed":
      return warning(`${which}: missed by more than schedule.catch_up, and not made up`);
    case "made-up":
      return news(`${which}: missed by ${span(event.lateMs)}, made up now`);
    case "run-started":
      return news(event.adopted ? `${which}: still at work since an earlier start of the schedule` : "");
    case "run-overdue":
      return warning(`${which}: not through after ${span(event.afterMs)}, ended`);
    case "not-started":
      return warning(`${which}: not started, tried again in a minute: ${event.reason}`);
    case "run-ended":
      return ending(which, event);
    case "recovered":
      return event.exit === 0
        ? news("gave back what a backup that was killed had put on hold")
        : warning("mail that a backup had put on hold may still be there: spoolsafe holds list");
    case "stopping":
      return news(event.running.length === 0 ? "schedule stopped" : `schedule stops: ending ${names(event.running)}`);
  }
}

function ending(which: string, event: DaemonEvent & { type: "run-ended" }): Wording {
  const took = `after ${span(event.tookMs)}`;
  const again = event.again ? ", to be run again" : "";
  if (event.exit === 0) return { text: `${which}: done ${took}`, warn: false };
  if (event.exit === 3) return { text: `${which}: done ${took}, but incomplete (exit 3)`, warn: true };
  if (event.exit === 11) return { text: `${which}: another run holds the lock${again}`, warn: false };
  const how = event.exit === null ? "was killed" : `failed with exit ${event.exit}`;
  return { text: `${which}: ${how} ${took}${again}`, warn: true };
}

function names(jobs: readonly JobName[]): string {
  return jobs.join(", ");
}

function when(time: number): string {
  return localTime(new Date(time)).slice(0, 16);
}

function signed(milliseconds: number): string {
  return `${milliseconds < 0 ? "-" : "+"}${span(Math.abs(milliseconds))}`;
}
