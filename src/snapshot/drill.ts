import type { CaptureMode } from "./snapshot.ts";

/** Failures that can be rehearsed. */
export const drillScenarios = [
  "damaged-pack",
  "missing-pack",
  "wrong-identity",
  "older-snapshot",
  "store-unreachable",
  "no-spoolsafe",
] as const;

export type DrillScenario = (typeof drillScenarios)[number];

/** What a drill spends its time on, in this order. The first six, up to ready, make up the RTO. */
export const drillPhases = ["fetch", "open", "place", "repair", "check", "ready", "deliver"] as const;

export type DrillPhase = (typeof drillPhases)[number];

/** Something that was looked at, and whether it was as it should be. `detail` holds no address and no text of mail. */
export interface DrillCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export interface DrillTarget {
  readonly seconds: number;
  readonly met: boolean;
}

/** What an earlier drill of the same host came to. */
export interface EarlierDrill {
  readonly id: string;
  readonly started: string;
  readonly ok: boolean;
  readonly rpoSeconds: number | null;
  readonly rtoSeconds: number | null;
}

/**
 * All that a drill found out. Times are RFC 3339 in UTC; what never happened, or could not be known, is null. There is no
 * mail address and no content of mail in it: queue ids at most.
 */
export interface DrillFacts {
  /** Of the drill: 12 hexadecimal digits, made at its start. */
  readonly id: string;
  /** Whose mail the snapshot has. */
  readonly host: string;
  /** Null for a drill that is a proof; what was expected and what happened where a failure was rehearsed. */
  readonly scenario: {
    readonly name: DrillScenario;
    readonly expected: string;
    readonly happened: string;
    readonly ok: boolean;
  } | null;
  /** Somebody at a terminal, or by schedule and script; who that was. */
  readonly attended: boolean;
  readonly user: string;
  readonly sudoUser: string | null;
  /** The machine the drill ran on. */
  readonly where: {
    readonly hostname: string;
    /** As `uname -srm` and os-release say: "Debian GNU/Linux 12, Linux 6.1.0 x86_64". */
    readonly system: string;
    readonly postfix: string | null;
    readonly spoolsafe: string;
    readonly node: string;
  };
  /** Where the snapshot came from: no user name or password in the URL; days that its objects are locked for, null where unknown. */
  readonly store: { readonly url: string; readonly objectLockDays: number | null };
  /** Null when none could be read. `signedBy` is the fingerprint of the trusted key, null when no trusted key signed it. */
  readonly snapshot: {
    readonly id: string;
    readonly number: number;
    readonly time: string;
    readonly mode: CaptureMode;
    readonly host: string;
    readonly signedBy: string | null;
    /** The instances that were restored. */
    readonly instances: readonly string[];
  } | null;
  readonly started: string;
  readonly ready: string | null;
  readonly ended: string;
  /** In the order they were gone through; phases that were not reached are left out. */
  readonly phases: readonly { readonly name: DrillPhase; readonly milliseconds: number }[];
  /** From the start of the snapshot's capture to the start of the drill. */
  readonly rpoSeconds: number | null;
  /** From the start of the drill to ready. */
  readonly rtoSeconds: number | null;
  /** What the configuration asks for; null where it asks for nothing. What could not be measured is not met. */
  readonly targets: { readonly rpo: DrillTarget | null; readonly rto: DrillTarget | null };
  readonly isolation: {
    readonly proofs: readonly DrillCheck[];
    /** Tries to connect outside loopback; null where they could not be counted. */
    readonly outsideConnections: number | null;
  };
  readonly messages: {
    /** In the manifest, with mail of maildrop. */
    readonly manifest: number;
    /** Of these: everybody had been served, so that there is nothing to restore. */
    readonly finished: number;
    readonly restored: number;
    /** That postcat -q reads. */
    readonly readable: number;
    /** Whose bytes read back have the digest the manifest has. */
    readonly identical: number;
    /** That postqueue -j lists. */
    readonly inQueue: number;
    readonly heldByAdmin: number;
    readonly maildrop: number;
    readonly inDoubt: number;
  };
  /**
   * Messages by queue and by age at the start of the capture. A row has one count more than there are limits: under the first
   * limit, from each limit to the next, from the last limit on. Limits in seconds, ascending.
   */
  readonly queues: {
    readonly ageLimits: readonly number[];
    readonly rows: readonly { readonly queue: string; readonly counts: readonly number[] }[];
  };
  /** What came out of the sink; null when the mail was not released into it. */
  readonly delivered: {
    /** Messages and recipients that came out, and of the messages those that were byte for byte what the manifest promised. */
    readonly messages: number;
    readonly recipients: number;
    readonly identical: number;
    /** What had to come out. */
    readonly promised: { readonly messages: number; readonly recipients: number };
    /** Messages that stay, on purpose: held by an administrator, in doubt. */
    readonly kept: number;
    /** Queue ids of messages past their lifetime: a real release tries them once and returns them if that fails. */
    readonly expired: readonly string[];
    readonly deviating: readonly { readonly queueId: string; readonly detail: string }[];
  } | null;
  readonly checks: readonly DrillCheck[];
  /** Whatever was not as it should be, each in a sentence. */
  readonly deviations: readonly string[];
  /** The error that ended the drill early; null for one that went to its end. */
  readonly failure: { readonly kind: string; readonly message: string; readonly hints: readonly string[] } | null;
  /** The mail would have been saved, within the targets, without deviations; of a scenario: it ended as documented. */
  readonly ok: boolean;
}

/** The stored record of a drill (docs/FORMAT.md, "Drill"). */
export interface DrillReport extends DrillFacts {
  readonly format: 1;
  readonly type: "drill";
  readonly repository: string;
  /** Short fingerprint of the drilling host's signing key; numbers count per writer. */
  readonly writer: string;
  readonly number: number;
  /** Digest of this writer's drill record before, null for its first. */
  readonly previous: string | null;
  /** The public key whose private half signs, base64 of SubjectPublicKeyInfo (DER). Trust is in its fingerprint, known otherwise. */
  readonly publicKey: string;
  /** The way its pages were drawn: one that is drawn in another way later may look different. */
  readonly drawing: number;
  /** The five drills of the same host and kind before, newest first. */
  readonly before: readonly EarlierDrill[];
}
