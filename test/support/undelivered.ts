import { readFileSync } from "node:fs";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import type { PrivatePostfix } from "./postfix.ts";
import { until } from "./wait.ts";

/**
 * Recipients in any queue that are not done. Empty says that all has been delivered, also while files of messages that
 * are done are still there: qmgr puts one that it meets in an agent's hands aside for a minute.
 */
export function undelivered(postfix: PrivatePostfix, queues: readonly string[] = [...onTheirWay, "hold"]): string[] {
  return queues.flatMap((queue) => postfix.files(queue)).flatMap(waiting);
}

/**
 * Flush until every message that is not on hold is done. Once is not enough: qmgr puts a message that it meets in an agent's
 * hands back into incoming, a minute ahead, and nobody looks there again before new mail comes or five minutes have passed.
 */
export async function allTried(postfix: PrivatePostfix, timeoutMs = 120_000): Promise<void> {
  await until(
    async () => {
      if (undelivered(postfix, onTheirWay).length === 0) return true;
      await postfix.flush();
      return false;
    },
    { everyMs: 1000, timeoutMs, what: () => `all delivered, now ${JSON.stringify(postfix.counts())}` },
  );
}

const onTheirWay = ["maildrop", "incoming", "active", "deferred"];

function waiting(path: string): string[] {
  try {
    const { recipients } = readQueueFile(bufferSource(readFileSync(path)));
    return recipients.filter((recipient) => !recipient.done).map((recipient) => recipient.address);
  } catch {
    return [path]; // it has moved, or is being written: to be looked at again
  }
}
