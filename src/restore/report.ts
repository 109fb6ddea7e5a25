import type { ServedRecipient, SkipKind } from "./plan.ts";
import type { DeliveryBound, LaterMessage } from "./verdict.ts";

/** What a restore tells on its way. */
export type RestoreEvent =
  | {
      readonly type: "step";
      readonly step: "logs" | "twins" | "claim" | "stage" | "sync" | "place" | "check" | "release";
      readonly messages: number;
    }
  /** Files written so far, after each; files and their plain bytes. */
  | {
      readonly type: "staged";
      readonly done: number;
      readonly total: number;
      readonly bytes: number;
      readonly bytesTotal: number;
    }
  | { readonly type: "resumed"; readonly run: string };

/** A message that was not placed, or was placed and not proven. Queue ids are the snapshot's. */
export interface MessageProblem {
  readonly queueId: string;
  readonly problem: string;
}

/** A recipient who may have been served already. Queue ids are the snapshot's. */
export interface DoubtfulRecipient {
  readonly queueId: string;
  readonly recipient: string;
  readonly reason: string;
  /** Whether the message is on hold for it; else it is only that no log tells. */
  readonly held: boolean;
}

/** What can be said of mail beyond what was placed: from logs, or that there was none. */
export interface Bound {
  /** Null without logs. */
  readonly counts: DeliveryBound | null;
  readonly sentence: string;
  /** Accepted after the snapshot and unfinished by the log: no snapshot has these. */
  readonly acceptedLater: readonly LaterMessage[];
}

export interface RestoreReport {
  readonly run: string;
  /** The claim the mail was placed under, null for a run that takes none. */
  readonly claim: string | null;
  readonly restored: number;
  /** Not placed, and not still queued: served, restored before, refused, or impossible here. */
  readonly skipped: number;
  readonly stillQueued: number;
  /** Of the snapshot, and not asked for. */
  readonly notSelected: number;
  /** All that was left out, by kind; what an interrupted run had in maildrop and is not sure of is in `skipped` only. */
  readonly skippedBy: Readonly<Record<SkipKind, number>>;
  /** The runs that had restored mail of this snapshot before, so that it was left out now; oldest first. */
  readonly restoredBy: readonly string[];
  /** On hold for `release`, mail of maildrop that waits for it included. */
  readonly awaitingRelease: number;
  /** On hold because they are in doubt, for `release --in-doubt`. */
  readonly awaitingDecision: number;
  readonly alreadyDelivered: readonly ServedRecipient[];
  readonly deleted: readonly ServedRecipient[];
  readonly inDoubt: readonly DoubtfulRecipient[];
  /** How many of those in doubt are on hold for it. */
  readonly inDoubtOnHold: number;
  readonly bound: Bound;
  readonly renamed: readonly { readonly from: string; readonly to: string }[];
  readonly warnings: readonly string[];
  /** What this target can't have, or this route refuses. */
  readonly notPlaced: readonly MessageProblem[];
  /** What could not be proven after it was written. */
  readonly unproven: readonly MessageProblem[];
}
