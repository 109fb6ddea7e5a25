import { renameSync, statSync } from "node:fs";
import { release, scanMaildrop } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { idForInode } from "../postfix/queue-id.ts";
import { listQueue } from "../postfix/spool.ts";
import { queueFilePath } from "../restore/place.ts";
import type { Clock } from "../system/clock.ts";
import { run } from "../system/exec.ts";
import type { Placed } from "./placed.ts";
import type { DrillSink } from "./sink.ts";

export interface Delivering {
  readonly instance: PostfixInstance;
  readonly sink: DrillSink;
  readonly placed: readonly Placed[];
  readonly clock: Clock;
  readonly signal: AbortSignal | undefined;
  /** Messages that have come out of the sink, and that are still queued. */
  readonly report: (done: number, left: number) => void;
}

/**
 * Let everything go: what waits for its time, what an administrator held, what is in doubt and mail of maildrop alike. It
 * can go nowhere but into the sink. Postfix runs, and has not seen what is on hold.
 *
 * @returns how many messages are still queued because nothing moved for a minute; 0 when all are out
 */
export async function deliverAll({ instance, sink, placed, clock, signal, report }: Delivering): Promise<number> {
  for (const { path, id, planned } of placed) if (id === null) submit(instance, path, planned.message.queueId);
  await release(
    instance,
    listQueue(instance.queueDirectory, "hold").map(({ id }) => id),
  );
  sink.open();
  await flush(instance);
  let flushed = clock.monotonic();
  let seen = "";
  let since = flushed;
  for (;;) {
    signal?.throwIfAborted();
    const before = clock.monotonic();
    const counts = countQueues(instance);
    const left = counts.busy + counts.deferred;
    if (left === 0) return 0;
    report(sink.deliveries.length, left);
    const now = `${sink.deliveries.length} ${counts.busy} ${counts.deferred}`;
    if (now !== seen) since = clock.monotonic();
    else if (clock.monotonic() - since > patienceMs) return left;
    // All that moves has come to rest, and some is deferred: mail that was released after the last look.
    if (counts.busy === 0 && now === seen && clock.monotonic() - flushed > 1000) {
      await flush(instance);
      flushed = clock.monotonic();
    }
    seen = now;
    // Looking at a large queue takes time: nine tenths of it are left to Postfix.
    await clock.sleep(Math.max(100, 9 * (clock.monotonic() - before)));
  }
}

/** Mail that comes to rest for as long will not come out. */
const patienceMs = 60_000;

async function flush(instance: PostfixInstance): Promise<void> {
  await run("postqueue", ["-c", instance.configDirectory, "-f"]);
  await scanMaildrop(instance);
}

function countQueues({ queueDirectory }: PostfixInstance): { readonly busy: number; readonly deferred: number } {
  const count = (queue: Parameters<typeof listQueue>[1]) => listQueue(queueDirectory, queue).length;
  return { busy: count("maildrop") + count("incoming") + count("active"), deferred: count("deferred") + count("hold") };
}

/** Give mail of maildrop that waits under a temporary name one that pickup(8) takes it by. */
function submit(instance: PostfixInstance, path: string, queueId: string): void {
  const name = idForInode(queueId, statSync(path, { bigint: true }).ino, false);
  renameSync(path, queueFilePath(instance, "maildrop", name));
}
