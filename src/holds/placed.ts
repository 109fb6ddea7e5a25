import { closeSync, existsSync, fstatSync, fsyncSync, openSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { PostfixInstance } from "../postfix/instance.ts";
import { fsyncDirectory, makePrivateDirectory, writeAll } from "../system/files.ts";
import { journalDirectory } from "./journal.ts";

const placedLine = z.object({
  kind: z.enum(["restore", "fence"]),
  run: z.string(),
  instance: z.string(),
  /** Device and inode of the queue directory: names change, and a list of another queue must never speak for this one. */
  queue: z.object({ dev: z.number(), ino: z.number() }),
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
  const directory = journalDirectory(stateDirectory);
  makePrivateDirectory(directory);
  const fd = openSync(join(directory, `${hold.kind}-${hold.run}.placed`), "a", 0o600);
  try {
    const { dev, ino } = statSync(instance.queueDirectory);
    const line = { ...hold, ids: [...hold.ids], instance: instance.name, queue: { dev, ino } };
    // A newline first: behind a line that a crash has cut off, this one would be lost with it.
    const gap = fstatSync(fd).size > 0 ? "\n" : "";
    writeAll(fd, Buffer.from(`${gap}${JSON.stringify(line)}\n`));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  fsyncDirectory(directory);
}

/** Every id recorded for an instance's queue directory; whether it is still in hold/ is for the caller to see. */
export function placedHolds(stateDirectory: string, instance: PostfixInstance): Map<string, PlacedHold> {
  const directory = journalDirectory(stateDirectory);
  const placed = new Map<string, PlacedHold>();
  if (!existsSync(directory)) return placed;
  const { dev, ino } = statSync(instance.queueDirectory);
  for (const name of readdirSync(directory).sort()) {
    if (!name.endsWith(".placed")) continue;
    for (const text of readFileSync(join(directory, name), "utf8").split("\n")) {
      const line = parsePlaced(text);
      if (line === undefined || line.queue.dev !== dev || line.queue.ino !== ino) continue;
      const { ids, queue: _queue, ...hold } = line;
      for (const id of ids) placed.set(id, hold);
    }
  }
  return placed;
}

/** @returns undefined for a line that was cut off: it was not synced, so nothing of it had become visible in hold/ */
function parsePlaced(text: string): z.infer<typeof placedLine> | undefined {
  try {
    return placedLine.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}
