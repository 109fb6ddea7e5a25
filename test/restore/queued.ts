import { readFileSync } from "node:fs";
import { basename } from "node:path";
import type { QueueName } from "../../src/postfix/queue.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { message } from "./entries.ts";

/** The manifest's entry of a queue file, as a backup would write it, as far as a message's identity goes. */
export function entryOf(bytes: Buffer, queueId: string, queue: QueueName = "deferred"): MessageEntry {
  const { recipients, ...facts } = readQueueFile(bufferSource(bytes));
  return message({
    ...facts,
    recipients: recipients.map(({ address, done }) => ({ address, done })),
    queueId,
    queue,
  });
}

/** The entries of queue files by their paths; nobody may move them meanwhile. */
export function entriesOf(paths: readonly string[], queue: QueueName = "deferred"): MessageEntry[] {
  return paths.map((path) => entryOf(readFileSync(path), basename(path), queue));
}
