import { existsSync, readdirSync } from "node:fs";
import * as z from "zod";
import type { PostfixInstance } from "../postfix/instance.ts";
import { journalDirectory } from "./journal.ts";
import { appendQueueRecord, queueRecords, recordedQueue } from "./queue-records.ts";
import { letGo } from "./released.ts";

const placedLine = z.object({
  kind: z.enum(["restore", "fence"]),
  run: z.string(),
  instance: z.string(),
  queue: recordedQueue,
  /** RFC 3339. */
  since: z.string(),
  ids: z.array(z.string()),
});

/** Messages we put on hold for an operator to release: their kind and run, which a later snapshot keeps as their role. */
export type PlacedHold = Omit<z.infer<typeof placedLine>, "ids" | "queue">;

/**
 * Write down, synced, that these ids of an instance are on hold because of a restore or a fence. To be called before the
 * first of them becomes visible in hold/: an id too many does no harm, a missing one would look like an administrator's.
 */
export function recordPlaced(
  stateDirectory: string,
  instance: PostfixInstance,
  hold: {
    readonly kind: "restore" | "fence";
    readonly run: string;
    readonly since: string;
    readonly ids: readonly string[];
  },
): void {
  appendQueueRecord(stateDirectory, `${hold.kind}-${hold.run}.placed`, instance, { ...hold, instance: instance.name });
}

/**
 * Every id recorded for an instance's queue directory and not let go since; whether it is still in hold/ is for the caller to
 * see. Whoever holds a message that we have let go is an administrator.
 */
export function placedHolds(stateDirectory: string, instance: PostfixInstance): Map<string, PlacedHold> {
  const directory = journalDirectory(stateDirectory);
  const placed = new Map<string, PlacedHold>();
  if (!existsSync(directory)) return placed;
  const gone = letGo(stateDirectory, instance);
  for (const name of readdirSync(directory).sort()) {
    if (!name.endsWith(".placed")) continue;
    for (const { ids, queue: _queue, ...hold } of queueRecords(stateDirectory, name, instance, placedLine)) {
      for (const id of ids) if (!gone.has(hold, id)) placed.set(id, hold);
    }
  }
  return placed;
}
