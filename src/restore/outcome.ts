import { entryKey } from "../snapshot/manifest.ts";
import type { RunRecord } from "./journal.ts";
import type { PlacedMessage } from "./place.ts";
import type { PlannedMessage, RestorePlan } from "./plan.ts";
import type { Prepared } from "./prepare.ts";
import type { PlacementProof } from "./prove.ts";
import type { Bound, DoubtfulRecipient, MessageProblem, RestoreReport } from "./report.ts";
import type { Rest } from "./resume.ts";

/** What happened while mail was placed. */
export interface Outcome {
  readonly run: Pick<RunRecord, "run" | "judged" | "claim">;
  readonly prepared: Prepared;
  readonly rest: Rest;
  readonly placed: readonly PlacedMessage[];
  readonly proof: PlacementProof;
  readonly unproven: readonly MessageProblem[];
  readonly warnings: readonly string[];
  readonly movedAside: readonly string[];
}

/** The report of a restore, from what was seen and not from what was planned. */
export function reportOf(outcome: Outcome): RestoreReport {
  const { run, prepared, rest, placed, proof, unproven, warnings, movedAside } = outcome;
  const { plan } = prepared;
  const inPlace = inOrder([...rest.placed, ...placed, ...rest.left]);
  const all = inOrder([...inPlace, ...rest.waiting]);
  const dropped = rest.dropped.map(({ entry }) => ({ queueId: entry.queueId, problem: droppedReason }));
  const wrong = inPlace.flatMap(({ id, entry }) => {
    const problem = proof.messages.get(id);
    return problem === undefined ? [] : [{ queueId: entry.queueId, problem }];
  });
  const ours = all.filter(({ message }) => message.role === "restore");
  const inDoubt = doubtfulOf(
    all.map(({ entry, message }) => ({ message: entry, ...message })),
    run.judged,
  );
  return {
    run: run.run,
    claim: run.claim,
    restored: new Set(all.map(({ entry }) => entryKey(entry))).size,
    ...skippedOf(plan, dropped),
    awaitingRelease: ours.filter(({ message }) => message.inDoubt === null).length,
    awaitingDecision: ours.filter(({ message }) => message.inDoubt !== null).length,
    alreadyDelivered: plan.delivered,
    deleted: plan.deleted,
    inDoubt,
    inDoubtOnHold: all.flatMap(({ message }) => (message.inDoubt === null ? [] : message.recipients)).length,
    bound: boundOf(plan, run.judged, inDoubt.length),
    renamed: inPlace.flatMap(({ id, entry }) => (id === entry.queueId ? [] : [{ from: entry.queueId, to: id }])),
    warnings: [...warnings, ...proof.changed, ...leftWarning(rest.left.length), ...asideWarning(movedAside)],
    unproven: [...unproven, ...wrong, ...proof.queue.map((problem) => ({ queueId: "", problem }))],
  };
}

function inOrder<T extends Pick<PlacedMessage, "message">>(messages: readonly T[]): T[] {
  return messages.toSorted((a, b) => a.message.number - b.message.number);
}

/** How many messages a plan leaves out, by what that means for whoever reads the report. */
export function skippedOf(
  { skip }: Pick<RestorePlan, "skip">,
  dropped: readonly MessageProblem[] = [],
): Pick<RestoreReport, "skipped" | "stillQueued" | "notSelected" | "skippedBy" | "restoredBy" | "notPlaced"> {
  const skippedBy = { impossible: 0, refused: 0, queued: 0, restored: 0, served: 0, unselected: 0 };
  for (const { kind } of skip) skippedBy[kind]++;
  const { queued: stillQueued, unselected: notSelected } = skippedBy;
  const failed = skip.filter(({ kind }) => kind === "impossible" || kind === "refused");
  return {
    skipped: skip.length - stillQueued - notSelected + dropped.length,
    stillQueued,
    notSelected,
    skippedBy,
    restoredBy: [...new Set(skip.flatMap(({ runs }) => runs ?? []))].sort(),
    notPlaced: [...failed.map(({ message, reason }) => ({ queueId: message.queueId, problem: reason })), ...dropped],
  };
}

type Doubtful = Pick<PlannedMessage, "message" | "inDoubt" | "recipients">;

/**
 * Every recipient who may have been served already. Without a log that is everybody who is not done in the snapshot: the
 * host may have gone on after it.
 */
export function doubtfulOf(placed: readonly Doubtful[], judged: boolean): DoubtfulRecipient[] {
  return placed.flatMap(({ message, inDoubt, recipients }) => {
    const reason = inDoubt ?? (judged ? null : unknown);
    if (reason === null) return [];
    const address = (index: number) => message.recipients[index]?.address ?? "";
    return recipients.map((index) => ({
      queueId: message.queueId,
      recipient: address(index),
      reason,
      held: inDoubt !== null,
    }));
  });
}

const unknown = "no log tells whether it was delivered after the snapshot";

/** @param inDoubt recipients */
export function boundOf({ log }: Pick<RestorePlan, "log">, judged: boolean, inDoubt: number): Bound {
  if (log !== null) return { counts: log.bound, sentence: log.sentence, acceptedLater: log.later };
  const later = judged ? "as its first call said" : "unknown without a log";
  return {
    counts: null,
    sentence: `lost 0 of the snapshot; accepted later and unfinished: ${later}; possibly twice: ${inDoubt}`,
    acceptedLater: [],
  };
}

const droppedReason =
  "it waited in maildrop for an interrupted restore, and Postfix may have taken it since; the snapshot still has it";

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
