import { readFileSync } from "node:fs";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import type { PrivatePostfix } from "./postfix.ts";

/**
 * Recipients in any queue that are not done. Empty says that all has been delivered, also while files of messages that
 * are done are still there: qmgr puts one that it meets in an agent's hands aside for a minute.
 */
export function undelivered(postfix: PrivatePostfix): string[] {
  const files = ["maildrop", "incoming", "active", "deferred", "hold"].flatMap((queue) => postfix.files(queue));
  return files.flatMap(waiting);
}

function waiting(path: string): string[] {
  try {
    const { recipients } = readQueueFile(bufferSource(readFileSync(path)));
    return recipients.filter((recipient) => !recipient.done).map((recipient) => recipient.address);
  } catch {
    return [path]; // it has moved, or is being written: to be looked at again
  }
}
