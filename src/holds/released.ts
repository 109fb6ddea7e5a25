import { closeSync, existsSync, fstatSync, fsyncSync, openSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { PostfixInstance } from "../postfix/instance.ts";
import { listQueue, type SpoolFile } from "../postfix/spool.ts";
import { fsyncDirectory, makePrivateDirectory, writeAll } from "../system/files.ts";
import { journalDirectory, textIfThere } from "./journal.ts";

const releasedLine = z.object({
  claim: z.string(),
  queue: z.object({ dev: z.number(), ino: z.number() }),
  /** RFC 3339. */
  time: z.string(),
  ids: z.array(z.string()),
});

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
  if (record.ids.length === 0) return;
  const directory = journalDirectory(stateDirectory);
  makePrivateDirectory(directory);
  const fd = openSync(releasedFile(stateDirectory), "a", 0o600);
  try {
    const { dev, ino } = statSync(instance.queueDirectory);
    const line = { ...record, ids: [...record.ids], queue: { dev, ino } };
    // A newline first: behind a line that a crash has cut off, this one would be lost with it.
    const gap = fstatSync(fd).size > 0 ? "\n" : "";
    writeAll(fd, Buffer.from(`${gap}${JSON.stringify(line)}\n`));
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  fsyncDirectory(directory);
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

const placedLine = z.object({
  kind: z.literal("fence"),
  run: z.string(),
  queue: z.object({ dev: z.number(), ino: z.number() }),
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
  const given = givenBack(stateDirectory, instance);
  const names = readdirSync(directory).filter((name) => /^fence-.*\.placed$/.test(name));
  return names
    .sort()
    .flatMap((name) =>
      linesOf(join(directory, name), placedLine, instance).flatMap(({ run, since, ids }) =>
        claim === undefined || claim === run
          ? ids.flatMap((id) => ((given.get(`${run}/${id}`) ?? "") >= since ? [] : [{ id, claim: run, since }]))
          : [],
      ),
    );
}

/** When each message was last given back, RFC 3339, by claim and queue id. */
function givenBack(stateDirectory: string, instance: PostfixInstance): Map<string, string> {
  const lines = linesOf(releasedFile(stateDirectory), releasedLine, instance);
  return new Map(lines.flatMap(({ claim, time, ids }) => ids.map((id) => [`${claim}/${id}`, time] as const)));
}

/** The lines that speak of this queue directory. One that was cut off was not synced, and counts for nothing. */
function linesOf<Line extends { readonly queue: { dev: number; ino: number } }>(
  path: string,
  schema: z.ZodType<Line>,
  instance: PostfixInstance,
): Line[] {
  const { dev, ino } = statSync(instance.queueDirectory);
  return (textIfThere(path) ?? "").split("\n").flatMap((text) => {
    const line = schema.safeParse(parseJson(text));
    return line.success && line.data.queue.dev === dev && line.data.queue.ino === ino ? [line.data] : [];
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function releasedFile(stateDirectory: string): string {
  return join(journalDirectory(stateDirectory), "fence.released");
}
