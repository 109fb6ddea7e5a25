import { OperatorError } from "../errors.ts";
import { type JobDetail, type JobName, recordEnd, recordStart, type StartedRun } from "../jobs/record.ts";
import { startAlerts } from "./alerting.ts";
import type { Context } from "./context.ts";
import { refreshTextfile } from "./status-textfile.ts";

/** Leave small facts about this run for status and alerts; but for `missedTarget` they are kept if it ends well. */
export type Leave = (detail: JobDetail) => void;

/**
 * Do the work of an unattended job, whoever started it (daemon, timer, cron, a person), record its start, end and exit
 * code in the state directory, alert people to what that changes, and renew the file for Prometheus where there is one. A
 * record or file that can't be written and an alert that can't be sent are told of and change neither work nor exit
 * code: what the job did stays true.
 */
export async function recorded(
  context: Context,
  job: JobName,
  work: (leave: Leave) => Promise<number>,
): Promise<number> {
  let detail: JobDetail | undefined;
  const start = new Date(context.clock.now()).toISOString();
  const alerts = startAlerts(context, job);
  const run = begin(context, job);
  try {
    const exit = await work((facts) => {
      detail = facts;
    });
    end(context, run, exit, detail);
    await alerts.ended({ start: run?.start ?? start, exit, message: null });
    await refreshTextfile(context);
    return exit;
  } catch (error) {
    const exit = exitOf(context, error);
    end(context, run, exit);
    await alerts.ended({ start: run?.start ?? start, exit, message: messageOf(context, error) });
    await refreshTextfile(context);
    throw error;
  }
}

function begin(context: Context, job: JobName): StartedRun | undefined {
  const { stateDirectory, scheduledFor: due } = context;
  return orTell(context, job, () => recordStart(stateDirectory, { job, due, now: new Date(context.clock.now()) }));
}

function end(context: Context, run: StartedRun | undefined, exit: number, detail?: JobDetail): void {
  if (run === undefined) return;
  const now = new Date(context.clock.now());
  orTell(context, run.job, () => recordEnd(context.stateDirectory, run, { exit, now, detail }));
}

function orTell<T>({ render, stateDirectory }: Context, job: JobName, write: () => T): T | undefined {
  try {
    return write();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    render.warn(`this ${job} can't be recorded in ${stateDirectory}, so status will not know of it: ${reason}`);
    return undefined;
  }
}

/** The exit code this error will end the program with. */
function exitOf({ signal }: Context, error: unknown): number {
  if (signal.aborted) return 130;
  return error instanceof OperatorError ? error.exitCode : 1;
}

function messageOf({ signal }: Context, error: unknown): string {
  const told: unknown = signal.aborted ? signal.reason : error;
  return told instanceof Error ? told.message : String(told);
}
