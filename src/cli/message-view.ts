import { messageQueues } from "../postfix/queue.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import { localTime, size } from "./table.ts";

/** A message as `ls` and `show` print it in JSON (docs/INTERFACE.md). */
export function messageJson(entry: MessageEntry) {
  return {
    type: "message",
    instance: entry.instance,
    queueId: entry.queueId,
    queue: entry.queue,
    sender: entry.sender,
    recipients: entry.recipients.map(({ address, done }) => ({ address, done })),
    size: entry.size,
    arrivalTime: rfc3339(entry.arrival),
    retryTime: entry.queue === "deferred" ? rfc3339(entry.mtime) : null,
    inFlight: entry.inFlight,
    sha256: entry.file.digest,
  };
}

/** By instance, queue (in the order a capture reads them), arrival. */
export function inListingOrder(entries: readonly MessageEntry[]): MessageEntry[] {
  return [...entries].sort(
    (a, b) =>
      compare(a.instance, b.instance) ||
      messageQueues.indexOf(a.queue) - messageQueues.indexOf(b.queue) ||
      a.arrival - b.arrival ||
      compare(a.queueId, b.queueId),
  );
}

/** Columns that tell what a message is, for `table`; the recipients are the command's. */
export const messageHead = ["QUEUE ID", "QUEUE", "ARRIVED", "SIZE", "SENDER"] as const;

export function messageCells(entry: MessageEntry): string[] {
  const { queueId, queue, arrival, sender } = entry;
  return [queueId, queue, localTime(new Date(arrival * 1000)), size(entry.size), senderText(sender)];
}

/** What is still to be delivered, the first address in full. */
export function recipientsText({ recipients }: MessageEntry): string {
  const open = recipients.filter(({ done }) => !done);
  const more = open.length > 1 ? ` +${open.length - 1}` : "";
  const done = recipients.length - open.length;
  return `${open[0]?.address ?? "none left"}${more}${done > 0 ? ` (${done} done)` : ""}`;
}

/** Envelope senders as mailq shows them. */
export function senderText(sender: string): string {
  return sender === "" ? "<>" : sender;
}

/** @param seconds since 1970, with fraction */
export function rfc3339(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
