/** The four ways to capture (docs/DESIGN.md, "Why hold works the way it does"). */
export const captureModes = ["hold", "freeze", "live", "stopped"] as const;
export type CaptureMode = (typeof captureModes)[number];

/** Names as in the interface page; `total` is the sum of the five queues, the last three are not part of it. */
export interface MessageCounts {
  readonly total: number;
  readonly incoming: number;
  readonly active: number;
  readonly deferred: number;
  readonly hold: number;
  readonly maildrop: number;
  /** Part of total; null where it can't be known. */
  readonly inFlight: number | null;
  readonly incomplete: number;
  readonly vanished: number;
  readonly finishedDuringRun: number;
}

/** A sealed object a snapshot refers to. Its id is the SHA-256 of its sealed bytes, so name and content can't part. */
export interface ObjectReference {
  readonly id: string;
  readonly bytes: number;
}

export interface PartReference extends ObjectReference {
  readonly kind: "base" | "increment";
}

export interface SnapshotInstance {
  readonly name: string;
  readonly configDirectory: string;
  readonly queueDirectory: string;
  readonly postfixVersion: string;
  readonly running: boolean;
  readonly mode: CaptureMode;
  readonly messages: MessageCounts;
}

/**
 * The record that makes a snapshot: signed, readable without any key, holding nothing that identifies mail. Format and
 * promises: docs/FORMAT.md.
 */
export interface Snapshot {
  readonly format: 1;
  readonly type: "snapshot";
  readonly repository: string;
  /** Short fingerprint of the signing key; numbers count per writer. */
  readonly writer: string;
  readonly number: number;
  /** Id of this writer's snapshot before, null for its first. */
  readonly previous: string | null;
  readonly host: string;
  /** Start of the capture and end of the run, RFC 3339 in UTC. */
  readonly time: string;
  readonly finished: string;
  readonly mode: CaptureMode;
  readonly tags: readonly string[];
  readonly spoolsafe: string;
  readonly instances: readonly SnapshotInstance[];
  readonly messages: MessageCounts;
  /** Bytes of queue files and logs. */
  readonly bytes: number;
  /** Sealed bytes this run wrote (packs and manifest part). */
  readonly storedBytes: number;
  readonly newMessages: number;
  readonly reusedMessages: number;
  readonly hold: { readonly held: number; readonly longestMs: number; readonly released: number };
  /** Age recipients this run sealed to. */
  readonly recipients: readonly string[];
  readonly parts: readonly PartReference[];
  /** Every pack the manifest refers to, whichever run wrote it. */
  readonly packs: readonly ObjectReference[];
}
