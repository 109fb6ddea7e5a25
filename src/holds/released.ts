import { existsSync, readdirSync } from "node:fs";
import * as z from "zod";
import type { PostfixInstance } from "../postfix/instance.ts";
import { listQueue, type SpoolFile } from "../postfix/spool.ts";
import { journalDirectory } from "./journal.ts";
import { appendQueueRecord, queueRecords, recordedQueue } from "./queue-records.ts";
import { syncHold } from "./sync-hold.ts";

const releasedFields = {
  queue: recordedQueue,
  /** RFC 3339. */
  time: z.string(),
  ids: z.array(z.string()),
};
const fenceReleased = z.object({ claim: z.string(), ...releasedFields });
const restoreReleased = z.object({ run: z.string(), ...releasedFields });
const fenceFile = "fence.released";
const restoreFile = "restore.released";

/**
 * Write down, synced, that these messages of a fence have been given back: an administrator who holds one of them later is
 * not to be taken for the fence. To be called when they have left hold/, because without the fence's record of them they
 * could not be released any more.
 */
export function recordGivenBack(
  stateDirectory: string,
  instance: PostfixInstance,
  record: { readonly claim: string; readonly time: string; readonly ids: readonly string[] },
): void {
  recordOut(stateDirectory, fenceFile, instance, record);
}

/** The same of what a restore had put on hold. */
export function recordReleased(
  stateDirectory: string,
  instance: PostfixInstance,
  record: { readonly run: string; readonly time: string; readonly ids: readonly string[] },
): void {
  recordOut(stateDirectory, restoreFile, instance, record);
}

function recordOut(
  stateDirectory: string,
  file: string,
  instance: PostfixInstance,
  record: { readonly ids: readonly string[] },
): void {
  if (record.ids.length === 0) return;
  syncHold(instance.queueDirectory);
  appendQueueRecord(stateDirectory, file, instance, record);
}

/** What has been let go of what we had on hold. */
export interface LetGo {
  /** Whether a message was let go after it was put on hold for this reason. */
  has(hold: { readonly kind: "restore" | "fence"; readonly run: string; readonly since: string }, id: string): boolean;
}

export function letGo(stateDirectory: string, instance: PostfixInstance): LetGo {
  const times = new Map<string, string>();
  for (const { claim, time, ids } of queueRecords(stateDirectory, fenceFile, instance, fenceReleased)) {
    for (const id of ids) times.set(`fence/${claim}/${id}`, time);
  }
  for (const { run, time, ids } of queueRecords(stateDirectory, restoreFile, instance, restoreReleased)) {
    for (const id of ids) times.set(`restore/${run}/${id}`, time);
  }
  return { has: ({ kind, run, since }, id) => (times.get(`${kind}/${run}/${id}`) ?? "") >= since };
}

/** A message in hold/ because a fence put it there. */
export interface FencedFile extends SpoolFile {
  readonly claim: string;
  /** RFC 3339. */
  readonly since: string;
}

/**
 * What is in hold/ at this moment because of a fence: what fences recorded and have not given back since. Of several claims
 * the one recorded last counts.
 */
export function fencedMail(stateDirectory: string, instance: PostfixInstance): FencedFile[] {
  const fenced = fencedIds(stateDirectory, instance);
  return listQueue(instance.queueDirectory, "hold").flatMap((file) => {
    const record = fenced.get(file.id);
    return record === undefined ? [] : [{ ...file, ...record }];
  });
}

/** Ids a fence recorded for a claim and has not given back, wherever they are now. */
export function recordedBy(stateDirectory: string, instance: PostfixInstance, claim: string): string[] {
  return recordsOf(stateDirectory, instance, claim).map(({ id }) => id);
}

function fencedIds(
  stateDirectory: string,
  instance: PostfixInstance,
): Map<string, Pick<FencedFile, "claim" | "since">> {
  const fenced = new Map<string, Pick<FencedFile, "claim" | "since">>();
  for (const { id, claim, since } of recordsOf(stateDirectory, instance, undefined)) {
    if ((fenced.get(id)?.since ?? "") <= since) fenced.set(id, { claim, since });
  }
  return fenced;
}

interface FenceRecord extends Pick<FencedFile, "claim" | "since"> {
  readonly id: string;
}

const fencePlaced = z.object({
  kind: z.literal("fence"),
  run: z.string(),
  queue: recordedQueue,
  since: z.string(),
  ids: z.array(z.string()),
});

/**
 * What `recordPlaced` wrote for fences of this queue, but for what was given back since. The lines themselves: `placedHolds`
 * tells one record of each id, and not which was last.
 */
function recordsOf(stateDirectory: string, instance: PostfixInstance, claim: string | undefined): FenceRecord[] {
  const directory = journalDirectory(stateDirectory);
  if (!existsSync(directory)) return [];
  const gone = letGo(stateDirectory, instance);
  const names = readdirSync(directory).filter((name) => /^fence-.*\.placed$/.test(name));
  return names
    .sort()
    .flatMap((name) => queueRecords(stateDirectory, name, instance, fencePlaced))
    .filter(({ run }) => claim === undefined || claim === run)
    .flatMap((hold) =>
      hold.ids.flatMap((id) => (gone.has(hold, id) ? [] : [{ id, claim: hold.run, since: hold.since }])),
    );
}
