/** The queues that hold mail, in the order a capture reads them: maildrop first, because pickup empties it all the time. */
export const messageQueues = ["maildrop", "incoming", "active", "deferred", "hold"] as const;
export type QueueName = (typeof messageQueues)[number];

/** The directories with one log per message, named by the message's queue id. */
export const logKinds = ["bounce", "defer", "trace"] as const;
export type LogKind = (typeof logKinds)[number];

/** Directories with damaged or rescued files. They are kept as evidence and never put back into a queue. */
export const evidenceQueues = ["corrupt", "saved"] as const;
export type EvidenceQueue = (typeof evidenceQueues)[number];

export type SpoolDirectory = QueueName | LogKind | EvidenceQueue;

/**
 * A file is a complete, acknowledged message only with all three owner bits set (Postfix `mail_open_ok.c`); cleanup(8)
 * sets them last, after which only marks, mode and times change.
 */
export function isComplete(mode: number): boolean {
  return (mode & 0o700) === 0o700;
}
