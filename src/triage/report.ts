import type { InstanceState } from "../status/queue-state.ts";
import type { HoldStatus, JobStatus, LastBackup } from "../status/report.ts";
import type { RunbookName } from "../status/runbook-of.ts";

/** Something and how often it was seen. */
export interface Count {
  readonly name: string;
  readonly count: number;
}

/** What the files of a queue say of where mail comes from and goes to. */
export interface Traffic {
  /** Messages that were looked at, spread evenly over incoming, active and deferred; fewer than there are where time ran out. */
  readonly looked: number;
  /** Messages of the null sender among them: notices of failed delivery, mostly. */
  readonly notices: number;
  /** Most frequent first, a handful of each. Domains of senders; `MAILER-DAEMON` is the null sender. */
  readonly senders: readonly Count[];
  /** Whole addresses of senders. */
  readonly addresses: readonly Count[];
  /** Domains of recipients, each once for a message. */
  readonly destinations: readonly Count[];
  /** Names that were used to log in (SMTP AUTH). */
  readonly logins: readonly Count[];
  /** Addresses of hosts that handed mail in, but for this one. */
  readonly clients: readonly Count[];
  /** Files of deferred and hold that are not 0700: Postfix neither lists nor delivers them, and says nothing. */
  readonly invisible: readonly string[];
}

/** A file system with a queue on it. */
export interface DiskState {
  readonly directory: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** 0 to 1, of what others than root may use. */
  readonly usedShare: number;
  /** Null where inodes are made as they are needed. */
  readonly freeInodes: number | null;
  readonly usedInodeShare: number | null;
  /** Free bytes below which Postfix refuses mail; null where its configuration couldn't be read. */
  readonly reserveBytes: number | null;
}

export type LogLevel = "panic" | "fatal" | "error" | "warning";

/** What the end of a mail log says. */
export interface LogSigns {
  /** The file, or `journal`. */
  readonly source: string;
  /** Of the first and last line read, RFC 3339 in UTC; null without lines. */
  readonly from: string | null;
  readonly to: string | null;
  readonly lines: number;
  /** Seconds before now that count: what is older is not looked at. */
  readonly windowSeconds: number;
  /** Within the window. */
  readonly levels: Readonly<Record<LogLevel, number>>;
  /** The last of them, panic and fatal before the others, each text once. */
  readonly last: readonly string[];
  /** Per minute, over the last minutes (`rateSeconds`). */
  readonly rates: Readonly<Record<"received" | "sent" | "deferred" | "bounced" | "rejected" | "notices", number>>;
  readonly rateSeconds: number;
  /** Who handed in most messages within `rateSeconds`. */
  readonly logins: readonly Count[];
  readonly clients: readonly Count[];
  /** Lines within the window that have a meaning of their own, newest last, a few of each. */
  readonly signs: Readonly<Record<LogSign, { readonly count: number; readonly lines: readonly string[] }>>;
  /** Messages that postsuper -d removed within the window. */
  readonly deleted: number;
}

/**
 * No room in the spool; a damaged queue file; a filter that doesn't answer; a daemon that dies again and again; postsuper -d;
 * a panic or fatal error of a daemon (a command that a person mistyped is none).
 */
export type LogSign = "room" | "corrupt" | "milter" | "throttled" | "deleted" | "fatal";

export interface InstanceFacts {
  readonly name: string;
  readonly configDirectory: string;
  readonly queueDirectory: string;
  /** False for one that is not meant to run. */
  readonly enabled: boolean;
  /** Null where it couldn't be told. */
  readonly running: boolean | null;
  /** A backup, a restore or a runbook has the lock of this queue; null where it couldn't be told. */
  readonly locked: boolean | null;
  /** Null where the queue couldn't be looked at. */
  readonly state: InstanceState | null;
  /** Files in corrupt/. */
  readonly corrupt: readonly string[];
  readonly disk: DiskState | null;
  readonly traffic: Traffic | null;
  /** Messages on hold that are not on hold because of us. */
  readonly heldByOthers: number | null;
}

/** How the repository answered; null: none is configured. */
export type RepositoryAnswer = { readonly url: string; readonly problem: string | null; readonly exit: number } | null;

export interface TriageFacts {
  readonly host: string;
  /** RFC 3339 in UTC. */
  readonly time: string;
  /** Whether mail of this host is backed up; a standby is not expected to run Postfix. */
  readonly backupExpected: boolean;
  readonly instances: readonly InstanceFacts[];
  readonly holds: readonly HoldStatus[];
  readonly jobs: readonly JobStatus[];
  readonly lastBackup: LastBackup | null;
  readonly logs: readonly LogSigns[];
  readonly repository: RepositoryAnswer;
  /** What a configured identity that can't be used says. */
  readonly identity: string | null;
  /** What should have been looked at and couldn't be, with the reason. */
  readonly unseen: readonly string[];
}

export interface TriageFinding {
  readonly severity: "critical" | "warning";
  /** A word that stays the same. */
  readonly name: string;
  readonly instance: string | null;
  readonly problem: string;
  /** What was measured, and lines of the log. */
  readonly evidence: readonly string[];
  readonly remedy: string;
  /** Null where the remedy is all there is to do. */
  readonly runbook: RunbookName | null;
}

export interface TriageReport extends TriageFacts {
  /** The one to begin with first. */
  readonly findings: readonly TriageFinding[];
  /** Runbooks to open, in this order. */
  readonly open: readonly RunbookName[];
}
