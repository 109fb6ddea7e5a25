import { OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import { RunJournal, type RunRecord, readRuns } from "./journal.ts";
import { releasedMeanwhile } from "./left-hold.ts";
import { chooseMail, type ReleaseChoice } from "./release-choice.ts";
import { forecastOf, type ReleaseForecast } from "./release-forecast.ts";
import { ReleasingHands } from "./release-hands.ts";
import type { ReleaseJob, ReleaseReport } from "./release-job.ts";
import { mailLogOf, ReturnedMail } from "./release-log.ts";
import { batchesOf, domainsInTurn, oldestFirst } from "./release-order.ts";
import { type PacedRelease, releasePaced, usualPatience } from "./release-pace.ts";
import { requireReleasable } from "./release-run.ts";
import { lockQueue } from "./target.ts";
import { type RunFile, whereabouts } from "./whereabouts.ts";

/** Look at what a release would do. Touches nothing and takes no lock. */
export async function forecastRelease(
  job: Pick<ReleaseJob, "run" | "instance" | "stateDirectory" | "inDoubt" | "claims" | "clock" | "signal">,
): Promise<ReleaseForecast> {
  const record = requireReleasable(recordOf(job), job.instance);
  const files = whereabouts(job.instance, record);
  const released = withLeft(record, releasedMeanwhile(job.instance, record));
  const choice = await chooseMail({ ...job, record, released }, files);
  return forecastOf(job, choice, (await masterState(job.instance)) !== "stopped");
}

/**
 * Let a run's mail go that was put on hold to be signed off, oldest first: exactly the files that were placed, by name and
 * inode. What an administrator held, what a fence held at the source and, unless asked for, what is in doubt stays.
 *
 * Each batch is in the run's journal before its first message moves, and again once it has left hold/. Killed or interrupted at
 * any point, the same call goes on, and what has left hold once is never touched again.
 *
 * @throws OperatorError `locked`; `refused` when the run can't be released, or not at this pace, with nothing changed;
 * `interrupted` between two batches, with the rest on hold; `incomplete` when Postfix stops under a paced release
 */
export async function releaseRun(job: ReleaseJob): Promise<ReleaseReport> {
  const lock = await lockQueue(job.instance);
  const signal = AbortSignal.any([lock.lost, ...(job.signal === undefined ? [] : [job.signal])]);
  try {
    return await releaseLocked({ ...job, signal });
  } finally {
    await lock.release();
  }
}

async function releaseLocked(job: ReleaseJob): Promise<ReleaseReport> {
  const { instance, pace } = job;
  const record = requireReleasable(recordOf(job), instance);
  const running = (await masterState(instance)) !== "stopped";
  if (pace !== undefined && !running) throw nothingToPace(record);
  const files = whereabouts(instance, record);
  const left = releasedMeanwhile(instance, record);
  const journal = RunJournal.reopen(record);
  try {
    const log = pace === undefined ? null : await mailLogOf(instance);
    const hands = new ReleasingHands(job, journal, running, log === null ? null : new ReturnedMail(log));
    await hands.settle(
      left.map(({ staged }) => staged),
      left.some(({ at }) => at === "maildrop"),
    );
    const released = withLeft(record, left);
    const choice = await chooseMail({ ...job, record, released }, files);
    hands.forget(choice.notFound);
    job.report?.({ type: "forecast", ...forecastOf(job, choice, running) });
    const paced = await letGo(job, hands, choice);
    return reportOf({ record, before: released.size, choice, hands, paced, running });
  } finally {
    journal.close();
  }
}

function recordOf({ stateDirectory, run }: Pick<ReleaseJob, "stateDirectory" | "run">): RunRecord {
  const record = readRuns(stateDirectory).find((one) => one.run === run);
  if (record === undefined) throw new OperatorError("usage", `${run} is no run of this host`);
  return record;
}

function withLeft({ released }: RunRecord, left: readonly RunFile[]): ReadonlySet<number> {
  return new Set([...released, ...left.map(({ staged }) => staged.number)]);
}

function nothingToPace({ run }: RunRecord): OperatorError {
  return new OperatorError("refused", "Postfix is stopped: there is no rate to let mail go at, and nothing to watch", {
    hints: ["start Postfix first", `or release all at once, to be tried when it starts: spoolsafe release ${run}`],
  });
}

/** At the pace that was asked for, or one batch behind the other. */
async function letGo(job: ReleaseJob, hands: ReleasingHands, { release: mail }: ReleaseChoice): Promise<PacedRelease> {
  const { pace, patience = usualPatience, clock, signal, report } = job;
  hands.remaining = mail.length;
  try {
    if (pace !== undefined) {
      return await releasePaced({ mail: domainsInTurn(mail), outlet: hands, pace, patience, clock, signal, report });
    }
    for (const batch of batchesOf(oldestFirst(mail), unpacedBatch)) {
      signal?.throwIfAborted();
      await hands.release(batch);
    }
    return { released: mail.length, pauses: 0, gaveUp: false, reason: null };
  } catch (error) {
    const another = error instanceof OperatorError && error !== signal?.reason;
    throw signal?.aborted && !another ? stopped(job, signal.reason, hands.remaining) : error;
  }
}

/** Between two of these the run can be interrupted; waking takes some ten milliseconds a message. */
const unpacedBatch = 300;

function stopped({ run }: ReleaseJob, cause: unknown, remaining: number): OperatorError {
  const kind = cause instanceof OperatorError ? cause.kind : "interrupted";
  const why = cause instanceof OperatorError ? `${cause.message}: ` : "";
  return new OperatorError(kind, `${why}${remaining} messages of run ${run} are still on hold`, {
    hints: ["the same command goes on with them"],
    cause,
  });
}

function reportOf({
  record,
  before,
  choice,
  hands,
  paced,
  running,
}: {
  readonly record: RunRecord;
  readonly before: number;
  readonly choice: ReleaseChoice;
  readonly hands: ReleasingHands;
  readonly paced: PacedRelease;
  readonly running: boolean;
}): ReleaseReport {
  const { inDoubt, admin, fence, claimed, notFound, unfit } = choice;
  const problems = [...unfit, ...hands.problems];
  return {
    run: record.run,
    released: hands.released,
    before,
    ...{ inDoubt: inDoubt.length, admin: admin.length, fence: fence.length },
    remaining: choice.release.length - hands.released - hands.gone.length + claimed.length + unfit.length,
    ...{ claimed, notFound: [...notFound, ...hands.gone], problems },
    ...hands.failures,
    paused: paced.pauses,
    gaveUp: paced.gaveUp,
    reason: paced.reason,
    notWoken: hands.notWoken,
    running,
  };
}
