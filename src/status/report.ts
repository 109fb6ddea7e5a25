import type { HoldKind } from "../holds/journal.ts";
import type { JobName } from "../jobs/record.ts";
import type { QueueName } from "../postfix/queue.ts";
import type { InstanceState } from "./queue-state.ts";

/** Something that happened: when it began, RFC 3339 in UTC, and how long that is ago. */
export interface Happened {
  readonly time: string;
  readonly ageSeconds: number;
}

export interface LastBackup extends Happened {
  /** Null where the record does not say. */
  readonly snapshot: string | null;
  readonly messages: number | null;
  /** How long a message was on hold for its copy at most. */
  readonly heldLongestMs: number | null;
}

export interface LastVerify extends Happened {
  readonly level: string | null;
  readonly snapshot: string | null;
}

/** What is known of one unattended job of this host. */
export interface JobStatus {
  readonly job: JobName;
  /** The last run that ended well. */
  readonly lastSuccess: Happened | null;
  readonly lastStart: Happened | null;
  readonly lastExit: number | null;
  readonly running: boolean;
  /** The run that started last is gone, and nobody recorded its end: it was killed, or the host went down. */
  readonly died: boolean;
  /** The schedule names this job. */
  readonly scheduled: boolean;
  /**
   * A run that was due and did not succeed, and neither did the one due after it; a drill that was due and did not happen;
   * RFC 3339. Null: all is well.
   */
  readonly missedSince: string | null;
  /** The target that the last run missed, in words; null when it missed none. */
  readonly missedTarget: string | null;
}

/** Messages on hold because of us, of one kind, run and instance. */
export interface HoldStatus {
  readonly kind: HoldKind;
  readonly instance: string;
  readonly run: string;
  readonly since: string;
  readonly ageSeconds: number;
  readonly messages: number;
}

/** An alert or heartbeat that could not be sent. */
export interface UnsentAlert {
  /** Of what could not be told, RFC 3339. */
  readonly time: string;
  /** `webhook`, `smtp`, ... */
  readonly channel: string;
  readonly error: string;
}

/** What `schedule run` can't do beside its jobs, found by itself. */
export interface DaemonFault {
  readonly name: "status-page" | "textfile";
  /** In its own words, with the place it is about. */
  readonly problem: string;
  /** RFC 3339 in UTC. */
  readonly since: string;
}

/** A further repository that snapshots are copied to. */
export interface CopyStatus {
  readonly url: string;
  /** Snapshots that should be there and are not. */
  readonly behind: number;
  /** The last copy that left nothing to do. */
  readonly lastSuccess: Happened | null;
  /** Why the last one did leave something, in its own words. */
  readonly error: string | null;
}

/** The newest good snapshot of a host, as the repository has it. */
export interface HostStatus {
  readonly host: string;
  /** Signed by a key that is trusted here, and not dated in the future; null when there is none. */
  readonly lastBackup: LastBackup | null;
  /** As they were in that snapshot; null without one. */
  readonly queues: Readonly<Record<QueueName, number>> | null;
  readonly snapshots: number;
  /** Snapshots that were not counted, because no key that is trusted here has signed them. */
  readonly untrusted: number;
  /** Snapshots that were not counted, because they are dated in the future. */
  readonly future: number;
}

export interface RepositoryStatus {
  readonly hosts: readonly HostStatus[];
  /** What is missing, damaged or replaced. */
  readonly faults: readonly string[];
}

/** Everything that was found, before anybody judges it. */
export interface StatusFacts {
  readonly host: string;
  /** RFC 3339 in UTC. */
  readonly time: string;
  /** Whether this host is one whose mail is backed up: its schedule or its past says so, or nothing says otherwise. */
  readonly backupExpected: boolean;
  readonly lastBackup: LastBackup | null;
  readonly lastVerify: LastVerify | null;
  readonly lastDrill: Happened | null;
  readonly jobs: readonly JobStatus[];
  readonly holds: readonly HoldStatus[];
  /** Further repositories by how they stand; none where nothing is copied anywhere. */
  readonly copies: readonly CopyStatus[];
  readonly unsentAlerts: readonly UnsentAlert[];
  /** The newest backup had no message, and all before it had some; null otherwise. */
  readonly emptyBackup: { readonly message: string; readonly since: string } | null;
  readonly daemonFaults: readonly DaemonFault[];
  readonly instances: readonly InstanceState[];
  /** What should have been looked at and could not be. */
  readonly unseen: readonly string[];
  /** Null when the repository was not asked. */
  readonly repository: RepositoryStatus | null;
}

/** Values above the first are a warning, above the second critical. */
export type Threshold = readonly [warning: number, critical: number];

export interface StatusLimits {
  /** Seconds; a backup that is older is critical. The first is for those who want to be warned before. */
  readonly backupAge: { readonly warning: number | null; readonly critical: number };
  readonly deferred: Threshold;
  readonly active: Threshold;
  /** Seconds. */
  readonly oldest: Threshold;
  /** Seconds a message may be on hold for its copy before that is a problem. */
  readonly captureHold: number;
}

/** What a problem is called: words that stay the same, for those who sort, silence, or look for the runbook. */
export const problemNames = [
  "backup-never",
  "backup-age",
  "backup-future",
  "backup-empty",
  "repository",
  "repository-unreachable",
  "untrusted",
  "hold-capture",
  "hold-restore",
  "copies-unsent",
  "alerts-unsent",
  "unseen",
  "queue-deferred",
  "queue-active",
  "queue-oldest",
  "status-page",
  "status-stale",
  "textfile",
] as const;

export type ProblemName =
  | (typeof problemNames)[number]
  | `${JobName}-${"died" | "failed" | "incomplete" | "missed" | "overdue" | "target"}`;

export interface StatusProblem {
  readonly severity: "warning" | "critical";
  readonly name: ProblemName;
  readonly problem: string;
  /** The next step. */
  readonly remedy: string;
}

/** The answer of `status`, whatever its format. */
export interface StatusReport extends StatusFacts {
  readonly limits: StatusLimits;
  /** The critical ones first. */
  readonly problems: readonly StatusProblem[];
}
