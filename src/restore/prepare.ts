import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { entryKey, type Manifest } from "../snapshot/manifest.ts";
import type { Clock } from "../system/clock.ts";
import { type Deliveries, judgeDeliveries } from "./deliveries.ts";
import type { RunRecord } from "./journal.ts";
import { PlacedRecord } from "./placed-record.ts";
import { planRestore, type RestoreChoice, type RestorePlan } from "./plan.ts";
import type { RestoreEvent } from "./report.ts";
import { findRemains, type Remains } from "./resume.ts";
import type { RestoreSource } from "./source.ts";
import { gatherTarget } from "./target.ts";
import { findTwins, type Twin } from "./twins.ts";

/** What a plan is made of. */
export interface PlanRequest {
  readonly source: RestoreSource;
  /** The instance that receives the mail. */
  readonly instance: PostfixInstance;
  readonly choice: RestoreChoice;
  /** Where the journals of runs are kept. */
  readonly stateDirectory: string;
  /** Surviving mail logs of the host the snapshot is of, in any order. */
  readonly deliveredLog?: readonly string[] | undefined;
  /** Time zone of the logs' host, where neither they nor the snapshot name it. */
  readonly logZone?: string | undefined;
  /** Milliseconds since 1970 by which ages are told; default now. */
  readonly now?: number | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: RestoreEvent) => void) | undefined;
}

/** A plan, and what it was made from. */
export interface Prepared {
  readonly manifest: Manifest;
  readonly plan: RestorePlan;
  readonly remains: Remains;
}

/** Look at target, logs and journals, and plan. Touches nothing. */
export async function prepare(request: PlanRequest, manifest: Manifest): Promise<Prepared> {
  const { source, instance, choice, clock } = request;
  const messages = manifest.messages.filter((message) => message.instance === choice.instance);
  const owners = messages.filter(({ queue }) => queue === "maildrop").map(({ owner }) => owner.user);
  const target = await gatherTarget(instance, owners, request.now ?? clock.now());
  const remains = findRemains(request.stateDirectory, target);
  for (const record of remains.ended) refuseHalfUndone(record);
  const deliveries = await deliveriesOf(request, manifest);
  const twins = await twinsOf(request, messages, remains);
  const { id, snapshot } = source.signed;
  const from = snapshot.instances.find(({ name }) => name === choice.instance);
  const plan = planRestore(
    manifest,
    { snapshot: id, host: snapshot.host, time: snapshot.time, postfixVersion: from?.postfixVersion ?? "0" },
    choice,
    target,
    { deliveries, twins, placed: new PlacedRecord(remains.ended) },
  );
  return { manifest, plan, remains };
}

/** What an interrupted undo has taken away would count as delivered. */
function refuseHalfUndone({ run, undoing, target }: RunRecord): void {
  if (undoing.size === 0) return;
  throw new OperatorError("refused", `run ${run} into ${target.queueDirectory} is being taken back`, {
    hints: [`if that was interrupted, finish it first: spoolsafe undo ${run}`],
  });
}

async function deliveriesOf(request: PlanRequest, manifest: Manifest): Promise<Deliveries | null> {
  const { source, choice, deliveredLog: files = [], clock, signal, report } = request;
  if (files.length === 0) return null;
  report?.({ type: "step", step: "logs", messages: manifest.messages.length });
  const { logZone: zone } = request;
  const given = { ...(signal === undefined ? {} : { signal }), ...(zone === undefined ? {} : { zone }) };
  return judgeDeliveries({ source, manifest, instance: choice.instance, files, clock, ...given });
}

/** What an interrupted run of this very restore has placed is no twin, but itself. */
async function twinsOf(
  { instance, choice, signal, report }: PlanRequest,
  messages: Manifest["messages"],
  { unfinished }: Remains,
): Promise<Map<string, Twin>> {
  if (choice.route === "fresh") return new Map();
  report?.({ type: "step", step: "twins", messages: messages.length });
  const twins = await findTwins(instance, messages, signal);
  const own = new Set(unfinished?.staged.map(({ inode }) => inode));
  for (const message of messages) {
    const twin = twins.get(entryKey(message));
    if (twin !== undefined && own.has(twin.inode)) twins.delete(entryKey(message));
  }
  return twins;
}
