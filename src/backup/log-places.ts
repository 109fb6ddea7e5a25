import { type Dirent, readdirSync } from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type LogKind, logKinds } from "../postfix/queue.ts";
import { hashDirectories } from "../postfix/queue-id.ts";

/**
 * Where the logs of messages lie. Postfix's programs write and look for them at the configured hash depth only, so that is
 * where a new one appears; other depths are looked at where something lies there when this is made, left from before
 * `hash_queue_depth` was changed. So a log that isn't there costs one look and not one per depth.
 */
export class LogPlaces {
  readonly #queueDirectory: string;
  readonly #depths: Readonly<Record<LogKind, readonly number[]>>;

  constructor({
    queueDirectory,
    hashQueues,
    hashDepth,
  }: Pick<PostfixInstance, "queueDirectory" | "hashQueues" | "hashDepth">) {
    this.#queueDirectory = queueDirectory;
    const depths = logKinds.map((log) => {
      const configured = hashQueues.includes(log) ? hashDepth : 0;
      return [log, [...new Set([configured, ...usedDepths(join(queueDirectory, log), 0)])]] as const;
    });
    this.#depths = Object.fromEntries(depths) as Record<LogKind, readonly number[]>;
  }

  /** Paths a message's log may have, the likely one first. */
  paths(log: LogKind, id: string): string[] {
    return this.#depths[log].map((depth) => [this.#queueDirectory, log, ...hashDirectories(id, depth), id].join("/"));
  }
}

/** Depths at which files lie below a directory of logs. */
function usedDepths(directory: string, depth: number): Set<number> {
  const used = new Set<number>();
  for (const entry of entriesOf(directory)) {
    if (entry.isFile()) used.add(depth);
    else if (entry.isDirectory() && entry.name.length === 1) {
      for (const deeper of usedDepths(join(directory, entry.name), depth + 1)) used.add(deeper);
    }
  }
  return used;
}

function entriesOf(directory: string): Dirent[] {
  try {
    return readdirSync(directory, { withFileTypes: true });
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}
