import type { LogKind, QueueName } from "../postfix/queue.ts";

/** Where the bytes of a file are: in which pack, under the digest that is its name there. */
export interface StoredFile {
  /** SHA-256 of the bytes, hexadecimal. */
  readonly digest: string;
  readonly bytes: number;
  /** Id of the pack: SHA-256 of the sealed object. */
  readonly pack: string;
}

export interface Owner {
  /** Names decide at restore; the numbers of the source host are kept for owners without a name. */
  readonly user: string;
  readonly group: string;
  readonly uid: number;
  readonly gid: number;
}

export interface LogEntry extends StoredFile {
  readonly log: LogKind;
  readonly mode: number;
  readonly mtime: number;
}

/** Why a message was on hold at capture; null for mail that was not. From our journals, never from a listing (rule 10). */
export type HoldRole = { readonly kind: "admin" } | { readonly kind: "restore" | "fence"; readonly run: string } | null;

export interface ManifestRecipient {
  readonly address: string;
  readonly done: boolean;
}

/** One message of a snapshot, with its logs (rule 2). Its identity is instance, queueId, created and content (rule 1). */
export interface MessageEntry {
  readonly kind: "message";
  readonly instance: string;
  readonly queueId: string;
  readonly created: string;
  readonly content: string;
  readonly queue: QueueName;
  /** Permission bits as captured (0700 and the group bits that mean something to qmgr; more for maildrop). */
  readonly mode: number;
  readonly owner: Owner;
  /** Seconds since 1970 with microseconds; for deferred mail the next retry. */
  readonly mtime: number;
  readonly file: StoredFile;
  readonly logs: readonly LogEntry[];
  readonly sender: string;
  readonly recipients: readonly ManifestRecipient[];
  readonly size: number;
  readonly arrival: number;
  readonly messageId: string | null;
  readonly contentFilter: string | null;
  readonly sendopts: number;
  /** A delivery agent had it open while it was read; null where locks can't be seen (rule 7). */
  readonly inFlight: boolean | null;
  readonly role: HoldRole;
  /** Captured, and in no queue at the closing listing: in doubt at restore (rule 4). */
  readonly finished: boolean;
}

/**
 * What a file that is not mail was kept for. `config`: below the instance's configuration directory. `named`: named by
 * main.cf or master.cf (maps, aliases, TLS, SASL). `service`: a mail service's. `include`: asked for in our
 * configuration. `report`: what postconf said. `evidence`: corrupt/ and saved/.
 */
export type FileArea = "config" | "named" | "service" | "include" | "report" | "evidence";

/** A file, directory or link kept with the snapshot that is not a message. */
export interface FileEntry {
  readonly kind: "file";
  /** Null for what belongs to the host and not to one instance. */
  readonly instance: string | null;
  readonly area: FileArea;
  /** Absolute on the source host; for `report` the report's name, for `evidence` relative to the queue directory. */
  readonly path: string;
  readonly type: "file" | "directory" | "link";
  readonly mode: number;
  readonly owner: Owner;
  readonly mtime: number;
  /** Null for directories and links. */
  readonly file: StoredFile | null;
  /** Target of a link, else null. */
  readonly target: string | null;
}

/** A message or file of an earlier part that is not in this snapshot any more. */
export interface GoneEntry {
  readonly kind: "gone";
  /** `entryKey` of what is gone. */
  readonly key: string;
}

export type ManifestEntry = MessageEntry | FileEntry;
export type ManifestLine = ManifestEntry | GoneEntry;
