import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { isSameQueue, queueIdentity } from "../postfix/queue-identity.ts";
import { type RunRecord, readRuns } from "./journal.ts";
import { awaitsRelease } from "./release-choice.ts";
import { commandOf } from "./resume.ts";

/**
 * The run that a word on the command line means: its name or the beginning of it. There is no word for the newest: what goes
 * out can't be called back, so the run is named.
 *
 * @throws OperatorError `usage` that lists the runs with mail to release, when it means none or several
 */
export function chooseRun(stateDirectory: string, spec: string): RunRecord {
  const runs = readRuns(stateDirectory);
  const exact = runs.find(({ run }) => run === spec);
  const [only, ...others] = runs.filter(({ run }) => spec !== "" && run.startsWith(spec));
  if (exact !== undefined) return exact;
  if (only !== undefined && others.length === 0) return only;
  const what = only === undefined ? "is no run of this host" : "is the beginning of several runs";
  throw new OperatorError("usage", `${spec} ${what}`, { hints: runsToRelease(runs) });
}

function runsToRelease(runs: readonly RunRecord[]): string[] {
  const waiting = runs.map((record) => ({ record, count: waitingIn(record) })).filter(({ count }) => count > 0);
  if (waiting.length === 0) return ["no run has mail that waits for its release"];
  return waiting.map(({ record: { run, host, time, target }, count }) => {
    return `${run}: ${count} messages of ${host} for ${target.queueDirectory}, restored at ${time}`;
  });
}

/** Messages on hold for a release, as far as the journal tells. */
export function waitingIn({ phase, outcome, messages, staged, released, undone }: RunRecord): number {
  if (phase !== "ended" || outcome === "abandoned") return 0;
  return staged.filter(({ number }) => {
    const message = messages[number];
    return message !== undefined && awaitsRelease(message) && !released.has(number) && !undone.has(number);
  }).length;
}

/** @throws OperatorError `refused` for a run that is not over, placed nothing, is half undone, or was into another queue */
export function requireReleasable(record: RunRecord, instance: Pick<PostfixInstance, "queueDirectory">): RunRecord {
  const { run, phase, outcome, target, undoing } = record;
  if (outcome === "abandoned" || phase === "started" || phase === "planned") {
    throw new OperatorError("refused", `run ${run} placed nothing`, {
      hints: [`restore it again: ${commandOf(record)}`],
    });
  }
  if (phase !== "ended") {
    throw new OperatorError("refused", `run ${run} was interrupted while it placed mail`, {
      hints: [`finish it first: ${commandOf(record)}`],
    });
  }
  if (undoing.size > 0) {
    throw new OperatorError("refused", `run ${run} is being taken back: an undo of it was interrupted`, {
      hints: [`finish that first: spoolsafe undo ${run}`],
    });
  }
  if (!isSameQueue(target, queueIdentity(instance.queueDirectory))) {
    throw new OperatorError("refused", `${instance.queueDirectory} is not the queue that run ${run} placed mail in`, {
      hints: ["was its file system replaced, or is it not mounted?"],
    });
  }
  return record;
}
