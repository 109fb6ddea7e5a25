import { OperatorError } from "../errors.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import { masterState } from "../postfix/control.ts";
import { entryKey, type Manifest, type MessageEntry } from "../snapshot/manifest.ts";
import type { Claiming } from "./claiming.ts";
import { RunJournal, type RunMessage, type RunRecord, type RunStart, toStagedMessage } from "./journal.ts";
import { noteReleased, noteReused, releasedMeanwhile, settleReleases } from "./left-hold.ts";
import { reportOf } from "./outcome.ts";
import { sweepTemporaries, type Work } from "./place.ts";
import { placedIdentity } from "./placed-record.ts";
import { placeRest, recordHolds } from "./placing.ts";
import { choiceOptions, choiceText, type PlannedMessage, type RestorePlan } from "./plan.ts";
import { type PlanRequest, type Prepared, prepare } from "./prepare.ts";
import { remark } from "./remark.ts";
import type { MessageProblem, RestoreReport } from "./report.ts";
import { type Rest, refuseOtherRun, restOf, sweepLitter } from "./resume.ts";
import { readTrusted } from "./source.ts";
import { type StagedMessages, stageMessages } from "./stage-messages.ts";
import {
  guardMaster,
  lockQueue,
  type MasterGuard,
  makeQueueDirectories,
  refuseOccupied,
  refuseRunning,
  refuseWithoutRoom,
} from "./target.ts";

export interface RestoreJob extends PlanRequest {
  readonly reader: PackReader;
  readonly processors: number;
  /** How mail is claimed before it is placed; left out where nobody else can restore it. */
  readonly claiming?: Claiming | undefined;
  /** Called with the plan before anything is touched: a plan somebody has signed off is compared here, and refused. */
  readonly approve?: ((prepared: Prepared) => RestorePlan) | undefined;
}

/** Make the plan of a restore and touch nothing, neither in the target nor in the state directory. */
export async function planOnly(request: PlanRequest): Promise<Prepared> {
  const manifest = await readTrusted(request.source, request.signal);
  const prepared = await prepare(request, manifest);
  const { unfinished } = prepared.remains;
  if (request.choice.route === "fresh") await refuseRunning(request.instance);
  if (unfinished !== undefined) refuseOtherRun(unfinished, prepared.plan);
  else if (request.choice.route === "fresh") refuseOccupied(request.instance);
  return prepared;
}

/**
 * Restore mail of one instance of a snapshot into an instance: stopped and empty, or, with `merge` and `requeue`, as it is.
 *
 * A crash at any point leaves files under names no daemon sees, or whole messages in their place; the same call again
 * finishes what is missing and places nothing twice.
 *
 * @throws OperatorError `refused` (Postfix runs, the queue has mail, too little room, the mail is claimed by another host)
 * with nothing changed, `locked`, `damaged` or `no-identity` with nothing left in the target
 */
export async function restoreInto(job: RestoreJob): Promise<RestoreReport> {
  const manifest = await readTrusted(job.source, job.signal);
  const lock = await lockQueue(job.instance);
  const signal = AbortSignal.any([lock.lost, ...(job.signal === undefined ? [] : [job.signal])]);
  try {
    return await restoreLocked({ ...job, signal }, manifest);
  } finally {
    await lock.release();
  }
}

async function restoreLocked(job: RestoreJob, manifest: Manifest): Promise<RestoreReport> {
  const { instance, choice } = job;
  const made = await prepare(job, manifest);
  const prepared = { ...made, plan: job.approve?.(made) ?? made.plan };
  const running = (await masterState(instance)) !== "stopped";
  if (choice.route === "fresh") await refuseRunning(instance);
  refuseUnready(job, prepared);
  if (!running) await makeQueueDirectories(instance);
  const guard = running ? noGuard : await guardMaster(instance);
  try {
    await clear(job, prepared);
    const run = { prepared, guard, running };
    return prepared.remains.unfinished === undefined
      ? await restoreAnew(job, run)
      : await finish(job, run, prepared.remains.unfinished);
  } finally {
    await guard.release();
  }
}

/** A running Postfix is a fact and no danger: what it must not deliver goes to hold/, where it does not look. */
const noGuard: MasterGuard = { check: () => {}, release: async () => {} };

function refuseUnready(job: RestoreJob, { plan, remains }: Prepared): void {
  if (remains.unfinished !== undefined) {
    // The queue was empty when the run began. Its names are made of inodes, so mail that came since is in no danger.
    refuseOtherRun(remains.unfinished, plan);
    return;
  }
  if (plan.choice.route === "fresh") refuseOccupied(job.instance);
  refuseWithoutRoom(plan);
}

/** Take away what runs left that never came to placing, and the claims they made. */
async function clear(job: RestoreJob, { remains }: Prepared): Promise<void> {
  for (const record of remains.litter) {
    // Without a way to withdraw its claim its journal has to go on telling of it.
    if (job.claiming === undefined && record.claim !== null) continue;
    await job.claiming?.withdraw(record.run, "the restore never came to placing mail");
    sweepLitter(record, job.instance, job.clock.now());
  }
}

interface Run {
  readonly prepared: Prepared;
  readonly guard: MasterGuard;
  readonly running: boolean;
}

async function restoreAnew(job: RestoreJob, run: Run): Promise<RestoreReport> {
  const { plan, remains } = run.prepared;
  if (plan.choice.route === "fresh") refuseOccupied(job.instance); // again, now that Postfix can't start any more
  const start = startOf(job, run.prepared);
  const journal = RunJournal.begin(job.stateDirectory, start, job.clock.now());
  const work = plan.place.map((planned, number) => ({
    message: toRunMessage(planned, number),
    entry: planned.message,
  }));
  journal.planned(work.map(({ message }) => message));
  const { claimed, staged, unproven } = await claimAndStage(job, journal, plan, work);
  settleReleases(job, remains.ended);
  const marked = remark(job.instance, remains.ended, plan.remark);
  noteReused(job, remains.ended, staged);
  recordHolds({ ...job, route: plan.choice.route, since: start.time }, journal.run, staged);
  journal.placing(staged.map(toStagedMessage));
  const waiting = staged.filter(({ message }) => message.waits);
  const toPlace = staged.filter(({ message }) => !message.waits);
  const rest = { toPlace, waiting, placed: [], left: [], dropped: [], released: new Set<number>() };
  const warnings = [...warningsOf(plan), ...claimed.warnings, ...markedWarning(marked)];
  const record = { run: journal.run, judged: plan.log !== null, claim: claimed.id };
  return place(job, run, { record, journal, rest, unproven, warnings });
}

interface Claimed {
  /** Null when nothing is claimed. */
  readonly id: string | null;
  readonly warnings: readonly string[];
}

/**
 * Claim the messages, and write them under names no daemon sees while the claim settles. When either fails everything is
 * taken away again, the claim too.
 */
async function claimAndStage(
  job: RestoreJob,
  journal: RunJournal,
  plan: RestorePlan,
  work: readonly Work[],
): Promise<StagedMessages & { readonly claimed: Claimed }> {
  const refused = new AbortController();
  const signal = AbortSignal.any([refused.signal, ...(job.signal === undefined ? [] : [job.signal])]);
  const claiming = claim(job, journal, plan).catch((error) => {
    refused.abort(error);
    throw error;
  });
  const [claimed, staged] = await Promise.allSettled([claiming, stageMessages({ ...job, signal }, journal.run, work)]);
  if (claimed.status === "fulfilled" && staged.status === "fulfilled") {
    return { ...staged.value, claimed: claimed.value };
  }
  sweepTemporaries(job.instance, journal.run);
  if (claimed.status === "fulfilled" && claimed.value.id !== null) {
    await job.claiming?.withdraw(journal.run, "the restore failed before it placed any mail");
  }
  journal.end("abandoned", job.clock.now());
  throw [claimed, staged].find((one) => one.status === "rejected")?.reason;
}

async function claim({ claiming, report }: RestoreJob, journal: RunJournal, { place }: RestorePlan): Promise<Claimed> {
  if (claiming === undefined || place.length === 0) return { id: null, warnings: [] };
  report?.({ type: "step", step: "claim", messages: place.length });
  const messages = new Map(place.map(({ message }) => [entryKey(message), message]));
  const taken = await claiming.take(journal.run, [...messages.values()]);
  journal.claimed(taken.id);
  return taken;
}

/** Go on with an interrupted run as its journal planned it. */
async function finish(job: RestoreJob, run: Run, record: RunRecord): Promise<RestoreReport> {
  job.report?.({ type: "resumed", run: record.run });
  const { manifest } = run.prepared;
  const byKey = new Map(manifest.messages.map((message) => [entryKey(message), message]));
  const work = record.messages.map((message) => ({ message, entry: known(byKey.get(message.key), record) }));
  const out = releasedMeanwhile(job.instance, record).map(({ staged }) => staged);
  const journal = RunJournal.reopen(record);
  noteReleased({ ...job, journal }, out);
  const released = new Set([...record.released, ...out.map(({ number }) => number)]);
  const rest = { ...restOf(job.instance, record, work, journal), released };
  // Again: what is in doubt now was not to be held before.
  recordHolds({ ...job, route: record.route, since: record.time }, journal.run, rest.toPlace);
  const staged = new Set(record.staged.map(({ number }) => number));
  const unproven = work.flatMap(({ message, entry }) =>
    staged.has(message.number)
      ? []
      : [{ queueId: entry.queueId, problem: "it could not be proven when it was staged" }],
  );
  return place(job, run, { record, journal, rest, unproven, warnings: warningsOf(run.prepared.plan) });
}

function known(entry: MessageEntry | undefined, record: RunRecord): MessageEntry {
  if (entry !== undefined) return entry;
  throw new OperatorError("failed", `the journal of run ${record.run} names a message the snapshot does not have`);
}

function startOf({ clock }: RestoreJob, { plan }: Prepared): RunStart {
  const { configDirectory, queueDirectory, device, inode, born } = plan.target;
  return {
    time: new Date(clock.now()).toISOString(),
    snapshot: plan.source.snapshot,
    host: plan.source.host,
    instance: plan.choice.instance,
    route: plan.choice.route,
    land: plan.choice.land,
    choice: choiceText(plan.choice),
    judged: plan.log !== null,
    options: choiceOptions(plan.choice),
    target: { configDirectory, queueDirectory, device, inode, born },
  };
}

function toRunMessage({ message, ...planned }: PlannedMessage, number: number): RunMessage {
  const { recipients, marks, served, ...rest } = planned;
  return {
    ...{ number, key: entryKey(message), identity: placedIdentity(message), ...rest },
    ...{ recipients: [...recipients], marks: [...marks], served: [...served] },
  };
}

interface Placement {
  readonly record: Pick<RunRecord, "run" | "judged" | "claim">;
  readonly journal: RunJournal;
  readonly rest: Rest;
  readonly unproven: readonly MessageProblem[];
  readonly warnings: readonly string[];
}

async function place(job: RestoreJob, { prepared, guard, running }: Run, placement: Placement): Promise<RestoreReport> {
  const { instance, stateDirectory, clock, report } = job;
  const { record, journal, rest, unproven, warnings } = placement;
  const { route } = prepared.plan.choice;
  const check = () => guard.check();
  const done = await placeRest({ instance, route, running, stateDirectory, journal, rest, clock, report, check });
  const said = reportOf({ run: record, prepared, rest, ...done, unproven, warnings });
  const whole = said.notPlaced.length + said.unproven.length === 0;
  journal.end(whole ? "done" : "incomplete", clock.now());
  return said;
}

/** What a plan has to say beforehand. */
export function warningsOf({ forecasts, log }: RestorePlan): string[] {
  return [...forecasts.map(({ text }) => text), ...(log?.warnings ?? [])];
}

function markedWarning(marked: number): string[] {
  return marked === 0 ? [] : [`${marked} messages on hold since an earlier restore were marked with what is known now`];
}
