/** What a restore tells on its way. */
export type RestoreEvent =
  | { readonly type: "step"; readonly step: "stage" | "sync" | "place" | "check"; readonly messages: number }
  | { readonly type: "staged"; readonly done: number; readonly total: number }
  | { readonly type: "resumed"; readonly run: string };

/** A message that was not placed, or was placed and not proven. Queue ids are the snapshot's. */
export interface MessageProblem {
  readonly queueId: string;
  readonly problem: string;
}

export interface RestoreReport {
  readonly run: string;
  readonly restored: number;
  readonly skipped: number;
  /** Recipients that may have been served already; their messages are on hold. Queue ids are the snapshot's. */
  readonly inDoubt: readonly { readonly queueId: string; readonly recipient: string; readonly reason: string }[];
  readonly renamed: readonly { readonly from: string; readonly to: string }[];
  readonly warnings: readonly string[];
  readonly notPlaced: readonly MessageProblem[];
  /** What could not be proven after it was written. */
  readonly unproven: readonly MessageProblem[];
}
