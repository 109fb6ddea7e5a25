import { lstatSync, readFileSync } from "node:fs";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { locate, locateLog } from "../postfix/spool.ts";
import type { ReturnedMail } from "./release-log.ts";
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

type End = "done" | "came-back" | "returned";

/**
 * What became of released mail. The queue tells: a message that is gone is done; one that is in deferred with a later retry time
 * than it had came back. Of those that are gone the mail log tells which were returned to their senders. What has been seen once
 * counts, whatever a later attempt does.
 */
export class ReleaseWatch {
  readonly #instance: PostfixInstance;
  readonly #now: () => number;
  readonly #log: Pick<ReturnedMail, "update"> | null;
  readonly #ended = new Map<string, End>();
  #returned: ReadonlyMap<string, string> = new Map();

  /**
   * @param now milliseconds since 1970
   * @param log null where there is none to be read
   */
  constructor(instance: PostfixInstance, now: () => number, log: Pick<ReturnedMail, "update"> | null) {
    this.#instance = instance;
    this.#now = now;
    this.#log = log;
  }

  /** Messages seen to have come back, or been returned. */
  count(end: "came-back" | "returned"): number {
    return [...this.#ended.values()].filter((one) => one === end).length;
  }

  look(batch: readonly Watched[]): Outcomes {
    this.#returned = this.#log?.update() ?? this.#returned;
    const ends = batch.map((one) => this.#endOf(one));
    const count = (end: End | undefined) => ends.filter((one) => one === end).length;
    return {
      ...{ done: count("done"), cameBack: count("came-back"), returned: count("returned"), open: count(undefined) },
    };
  }

  /** The reason most of a batch's defer logs and returns give, in the words of one of them. */
  reason(batch: readonly Watched[]): string | null {
    const { queueDirectory, hashDepth } = this.#instance;
    return mostCommonReason(
      batch.flatMap(({ id }) => {
        const returned = this.#returned.get(id);
        if (returned !== undefined) return [`reason=${returned}`];
        return textOf(locateLog(queueDirectory, "defer", id, hashDepth)) ?? [];
      }),
    );
  }

  /** The log may tell a moment after the queue. */
  #endOf(message: Watched): End | undefined {
    if (message.waits) return "done";
    const known = this.#ended.get(message.id);
    if (known === "returned" || (known !== undefined && !this.#returned.has(message.id))) return known;
    const end = this.#returned.has(message.id) ? "returned" : this.#lookAt(message);
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
