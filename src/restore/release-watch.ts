import { lstatSync, readFileSync } from "node:fs";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { locate, locateLog } from "../postfix/spool.ts";
import type { Outcomes } from "./release-pace.ts";

/** A message that was let go. */
export interface Watched {
  readonly id: string;
  readonly inode: string;
  /** Its time while it was on hold: a retry time it had already. Milliseconds since 1970. */
  readonly mtimeMs: number;
  /** It went through maildrop and has another id now. */
  readonly waits: boolean;
}

/**
 * What became of released mail, told by the queue: a message that is gone was delivered or returned to its sender; one that is
 * in deferred with a later retry time than it had came back. What has been seen once counts, whatever a later attempt does.
 */
export class ReleaseWatch {
  readonly #instance: PostfixInstance;
  readonly #now: () => number;
  readonly #ended = new Map<string, "done" | "came-back">();

  /** @param now milliseconds since 1970 */
  constructor(instance: PostfixInstance, now: () => number) {
    this.#instance = instance;
    this.#now = now;
  }

  /** Messages seen to have come back. */
  get cameBack(): number {
    return [...this.#ended.values()].filter((end) => end === "came-back").length;
  }

  look(batch: readonly Watched[]): Outcomes {
    const ends = batch.map((one) => this.#endOf(one));
    const count = (end: "done" | "came-back" | undefined) => ends.filter((one) => one === end).length;
    return { done: count("done"), cameBack: count("came-back"), open: count(undefined) };
  }

  /** The reason most of a batch's defer logs give, in the words of one of them. */
  reason(batch: readonly Watched[]): string | null {
    const { queueDirectory, hashDepth } = this.#instance;
    const logs = batch.flatMap(({ id }) => textOf(locateLog(queueDirectory, "defer", id, hashDepth)) ?? []);
    return mostCommonReason(logs);
  }

  #endOf(message: Watched): "done" | "came-back" | undefined {
    if (message.waits) return "done";
    const known = this.#ended.get(message.id);
    if (known !== undefined) return known;
    const end = this.#lookAt(message);
    if (end !== undefined) this.#ended.set(message.id, end);
    return end;
  }

  #lookAt({ id, inode, mtimeMs }: Watched): "done" | "came-back" | undefined {
    // Twice: what moves against the order of the look is seen in no queue.
    const [files = []] = [1, 2].map(() => locate(this.#instance, id)).filter((found) => found.length > 0);
    if (files.length === 0) return "done";
    for (const { queue, path } of files) {
      const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
      if (queue !== "deferred" || String(stat?.ino) !== inode) continue;
      // postqueue -i sets the time to now on its way out of deferred (flush.c): a retry time lies ahead.
      const time = Number(stat?.mtimeNs) / 1e6;
      if (time > this.#now() && Math.abs(time - mtimeMs) > 1) return "came-back";
    }
    return undefined;
  }
}

function textOf(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * The `reason=` that most defer logs (`bounce_log.c`) have among theirs; addresses and numbers are what reasons of one kind
 * differ by. Null without any.
 */
export function mostCommonReason(logs: readonly string[]): string | null {
  const kinds = new Map<string, { readonly example: string; logs: number }>();
  for (const log of logs) {
    const reasons = [...log.matchAll(/^reason=(.+)$/gm)].map(([, reason = ""]) => reason);
    const own = new Map(reasons.map((reason) => [kindOf(reason), reason]));
    for (const [kind, example] of own) {
      const known = kinds.get(kind);
      if (known === undefined) kinds.set(kind, { example, logs: 1 });
      else known.logs++;
    }
  }
  const [most] = [...kinds.values()].sort((a, b) => b.logs - a.logs);
  return most?.example ?? null;
}

function kindOf(reason: string): string {
  return reason.replace(/<[^>]*>/g, "<>").replace(/\d+/g, "0");
}
