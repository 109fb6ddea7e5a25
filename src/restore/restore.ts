import { OperatorError } from "../errors.ts";
import { recordPlaced } from "../holds/placed.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { entryKey, type Manifest, type MessageEntry } from "../snapshot/manifest.ts";
import type { Clock } from "../system/clock.ts";
import { RunJournal, type RunMessage, type RunRecord, type RunStart, toStagedMessage } from "./journal.ts";
import { type PlacedMessage, type Placement, Placer, sweepTemporaries, type Work } from "./place.ts";
import { type PlannedMessage, planRestore, type RestoreChoice, type RestorePlan } from "./plan.ts";
import { type PlacementProof, provePlaced } from "./prove.ts";
import type { MessageProblem, RestoreEvent, RestoreReport } from "./report.ts";
import { findRemains, type Remains, type Rest, refuseOtherRun, restOf, sweepLitter } from "./resume.ts";
import { type RestoreSource, readTrusted } from "./source.ts";
import { type StagedMessages, stageMessages } from "./stage-messages.ts";
import {
  gatherTarget,
  guardMaster,
  lockQueue,
  type MasterGuard,
  makeQueueDirectories,
  refuseOccupied,
  refuseRunning,
  refuseWithoutRoom,
} from "./target.ts";

export interface RestoreJob {
  readonly source: RestoreSource;
  /** The instance that receives the mail: stopped, its queue empty. */
  readonly instance: PostfixInstance;
  readonly choice: RestoreChoice;
  /** Where the run's journal is kept. */
  readonly stateDirectory: string;
  readonly reader: PackReader;
  readonly processors: number;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: RestoreEvent) => void) | undefined;
}

/** Make the plan of a restore and touch nothing, neither in the target nor in the state directory. */
export async function planOnly(job: Omit<RestoreJob, "reader" | "processors">): Promise<RestorePlan> {
  const manifest = await readTrusted(job.source, job.signal);
  const plan = await makePlan(job, manifest);
  const { unfinished } = findRemains(job.stateDirectory, plan.target);
  await refuseRunning(job.instance);
  if (unfinished !== undefined) refuseOtherRun(unfinished, plan);
  else refuseOccupied(job.instance);
  return plan;
}

/**
 * Restore the mail of one instance of a snapshot into a stopped instance with an empty queue.
 *
 * A crash at any point leaves files under names no daemon sees, or whole messages in their place; the same call again
 * finishes what is missing and places nothing twice.
 *
 * @throws OperatorError `refused` (Postfix runs, the queue has mail, too little room) with nothing changed, `locked`,
 * `damaged` or `no-identity` with nothing left in the target
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
  const { instance, clock } = job;
  const plan = await makePlan(job, manifest);
  const remains = findRemains(job.stateDirectory, plan.target);
  await refuseRunning(instance);
  refuseUnready(job, plan, remains);
  await makeQueueDirectories(instance);
  const guard = await guardMaster(instance);
  try {
    sweepLitter(remains.litter, instance, clock.now());
    return remains.unfinished === undefined
      ? await restoreAnew(job, plan, remains, guard)
      : await finish(job, plan, remains.unfinished, manifest, guard);
  } finally {
    await guard.release();
  }
}

async function makePlan(job: Omit<RestoreJob, "reader" | "processors">, manifest: Manifest): Promise<RestorePlan> {
  const { id, snapshot } = job.source.signed;
  const instance = snapshot.instances.find(({ name }) => name === job.choice.instance);
  const postfixVersion = instance?.postfixVersion ?? "0";
  const owners = manifest.messages.filter(({ queue }) => queue === "maildrop").map(({ owner }) => owner.user);
  const target = await gatherTarget(job.instance, owners, job.clock.now());
  const source = { snapshot: id, host: snapshot.host, time: snapshot.time, postfixVersion };
  const plan = planRestore(manifest, source, job.choice, target);
  refuseWaitingMaildrop(plan);
  return plan;
}

/** What sendmail(1) left in maildrop can't be put on hold: a file of maildrop in another queue ends in corrupt/. */
function refuseWaitingMaildrop({ place, choice }: RestorePlan): void {
  const waiting = choice.land === "hold" ? place.filter(({ queue }) => queue === "maildrop").length : 0;
  if (waiting === 0) return;
  throw new OperatorError(
    "refused",
    `${waiting} messages of the snapshot are in maildrop, where mail can't be held back`,
    {
      hints: [
        "restore with --land original: they are picked up when Postfix starts",
        "or read them as files: spoolsafe restore SNAP --to DIR",
      ],
    },
  );
}

function refuseUnready(job: RestoreJob, plan: RestorePlan, remains: Remains): void {
  if (remains.unfinished !== undefined) {
    // The queue was empty when the run began. Its names are made of inodes, so mail that came since is in no danger.
    refuseOtherRun(remains.unfinished, plan);
    return;
  }
  refuseOccupied(job.instance);
  refuseWithoutRoom(plan);
}

async function restoreAnew(
  job: RestoreJob,
  plan: RestorePlan,
  remains: Remains,
  guard: MasterGuard,
): Promise<RestoreReport> {
  refuseOccupied(job.instance); // again, now that Postfix can't start any more
  const journal = RunJournal.begin(job.stateDirectory, startOf(job, plan), job.clock.now());
  const work = plan.place.map((planned, number) => ({
    message: toRunMessage(planned, number),
    entry: planned.message,
  }));
  journal.planned(work.map(({ message }) => message));
  const { staged, unproven } = await stageOrSweep(job, journal, work);
  recordHolds(job, journal.run, staged);
  journal.placing(staged.map(toStagedMessage));
  const warnings = [...plan.warnings, ...placedBefore(remains.ended, plan)];
  return placeRest(
    job,
    { journal, plan, guard, unproven, warnings },
    { toPlace: staged, placed: [], left: [], dropped: [] },
  );
}

/** Go on with an interrupted run as its journal planned it. */
async function finish(
  job: RestoreJob,
  plan: RestorePlan,
  record: RunRecord,
  manifest: Manifest,
  guard: MasterGuard,
): Promise<RestoreReport> {
  job.report?.({ type: "resumed", run: record.run });
  const byKey = new Map(manifest.messages.map((message) => [entryKey(message), message]));
  const work = record.messages.map((message) => ({ message, entry: known(byKey.get(message.key), record) }));
  const journal = RunJournal.reopen(record);
  const rest = restOf(job.instance, record, work, journal);
  recordHolds(job, journal.run, rest.toPlace); // again: what is in doubt now was not to be held before
  const staged = new Set(record.staged.map(({ number }) => number));
  const unproven = work.flatMap(({ message, entry }) =>
    staged.has(message.number)
      ? []
      : [{ queueId: entry.queueId, problem: "it could not be proven when it was staged" }],
  );
  return placeRest(job, { journal, plan, guard, unproven, warnings: plan.warnings }, rest);
}

function known(entry: MessageEntry | undefined, record: RunRecord): MessageEntry {
  if (entry !== undefined) return entry;
  throw new OperatorError("failed", `the journal of run ${record.run} names a message the snapshot does not have`);
}

function startOf(job: RestoreJob, plan: RestorePlan): RunStart {
  const { configDirectory, queueDirectory, device, inode } = plan.target;
  return {
    time: new Date(job.clock.now()).toISOString(),
    snapshot: plan.source.snapshot,
    host: plan.source.host,
    instance: plan.choice.instance,
    land: plan.choice.land,
    target: { configDirectory, queueDirectory, device, inode },
  };
}

function toRunMessage({ message, recipients, ...rest }: PlannedMessage, number: number): RunMessage {
  return { number, key: entryKey(message), recipients: [...recipients], ...rest };
}

/** Until placing begins, a failure takes everything away again. */
async function stageOrSweep(job: RestoreJob, journal: RunJournal, work: readonly Work[]): Promise<StagedMessages> {
  try {
    return await stageMessages(job, journal.run, work);
  } catch (error) {
    sweepTemporaries(job.instance, journal.run);
    journal.end("abandoned", job.clock.now());
    throw error;
  }
}

/** A later backup keeps why a message is on hold; what is in no list of ours counts as an administrator's. */
function recordHolds(job: RestoreJob, run: string, staged: readonly Placement[]): void {
  const since = new Date(job.clock.now()).toISOString();
  const ids = staged.filter(({ message }) => message.role === "restore").map(({ id }) => id);
  if (ids.length > 0) recordPlaced(job.stateDirectory, job.instance, { kind: "restore", run, since, ids });
  const fences = Map.groupBy(staged, ({ entry }) => (entry.role?.kind === "fence" ? entry.role.run : null));
  for (const [fence, held] of fences) {
    if (fence === null) continue;
    recordPlaced(job.stateDirectory, job.instance, { kind: "fence", run: fence, since, ids: held.map(({ id }) => id) });
  }
}

/** Same host, instance and identity: a message this queue was given before. */
function placedBefore(ended: readonly RunRecord[], { source, place }: RestorePlan): string[] {
  const before = new Set(ended.filter(didPlace).flatMap((run) => run.messages.map(({ key }) => `${run.host}/${key}`)));
  const again = place.filter(({ message }) => before.has(`${source.host}/${entryKey(message)}`)).length;
  if (again === 0) return [];
  return [`${again} messages were restored into this queue before: what was delivered since is delivered again`];
}

function didPlace({ outcome }: RunRecord): boolean {
  return outcome === "done" || outcome === "incomplete";
}

interface Placing {
  readonly journal: RunJournal;
  readonly plan: RestorePlan;
  readonly guard: MasterGuard;
  readonly unproven: readonly MessageProblem[];
  readonly warnings: readonly string[];
}

/**
 * What stays on hold first, then what Postfix may deliver; prove where everything lies; close the journal. Nothing in here
 * waits for a signal between two names, so an interrupted run stops before or after the whole of it.
 */
async function placeRest(job: RestoreJob, placing: Placing, rest: Rest): Promise<RestoreReport> {
  const { journal, guard } = placing;
  guard.check();
  job.report?.({ type: "step", step: "place", messages: rest.toPlace.length });
  const placer = new Placer(job.instance, journal, (placement, id) => {
    recordHolds(job, journal.run, [{ ...placement, id }]);
    journal.renamed(placement.number, id);
  });
  const [held, live] = partition(rest.toPlace, ({ message }) => message.queue === "hold");
  const placed = held.map((placement) => placer.place(placement));
  placer.sync();
  journal.visible();
  placed.push(...live.map((placement) => placer.place(placement)));
  placer.sync();
  sweepTemporaries(job.instance, journal.run); // of messages that were not proven
  job.report?.({ type: "step", step: "check", messages: placed.length });
  const proof = await provePlaced(job.instance, placed, rest.placed);
  guard.check();
  const report = reportOf(placing, rest, placed, proof, placer.movedAside);
  journal.end(report.notPlaced.length + report.unproven.length > 0 ? "incomplete" : "done", job.clock.now());
  return report;
}

function partition<T>(items: readonly T[], first: (item: T) => boolean): [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))];
}

function reportOf(
  { journal, plan, unproven, warnings }: Placing,
  rest: Rest,
  placed: readonly PlacedMessage[],
  proof: PlacementProof,
  movedAside: readonly string[],
): RestoreReport {
  const all = [...rest.placed, ...placed, ...rest.left].sort((a, b) => a.message.number - b.message.number);
  const dropped = rest.dropped.map(({ entry }) => ({ queueId: entry.queueId, problem: droppedReason }));
  const skipped = plan.skip.map(({ message, reason }) => ({ queueId: message.queueId, problem: reason }));
  const wrong = all.flatMap(({ id, entry }) => {
    const problem = proof.messages.get(id);
    return problem === undefined ? [] : [{ queueId: entry.queueId, problem }];
  });
  const queue = proof.queue.map((problem) => ({ queueId: "", problem }));
  const notPlaced = [...skipped, ...dropped];
  return {
    run: journal.run,
    restored: all.length,
    skipped: notPlaced.length,
    inDoubt: all.flatMap(doubtsOf),
    renamed: all.flatMap(({ id, entry }) => (id === entry.queueId ? [] : [{ from: entry.queueId, to: id }])),
    warnings: [...warnings, ...proof.changed, ...leftWarning(rest.left.length), ...asideWarning(movedAside)],
    notPlaced,
    unproven: [...unproven, ...wrong, ...queue],
  };
}

const droppedReason =
  "it waited in maildrop for an interrupted restore, and Postfix may have taken it since; the snapshot still has it";

function doubtsOf({ message, entry }: PlacedMessage): RestoreReport["inDoubt"] {
  const { inDoubt } = message;
  if (inDoubt === null) return [];
  return message.recipients.map((index) => ({
    queueId: entry.queueId,
    recipient: entry.recipients[index]?.address ?? "",
    reason: inDoubt,
  }));
}

function leftWarning(count: number): string[] {
  if (count === 0) return [];
  return [
    `${count} messages have left the queue since they were placed: Postfix was started before the restore was finished`,
  ];
}

function asideWarning(paths: readonly string[]): string[] {
  if (paths.length === 0) return [];
  return [
    `${paths.length} logs without a message had the name of a restored one and were moved aside: ${paths.join(", ")}`,
  ];
}
