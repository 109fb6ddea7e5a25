import { createHash } from "node:crypto";
import { OperatorError } from "../errors.ts";
import { messageQueues } from "../postfix/queue.ts";
import type { Shard } from "../snapshot/claim.ts";
import {
  type Condition,
  conditionText,
  meantRecipient,
  ofRecipients,
  parseCriteria,
  unmetCondition,
} from "../snapshot/criteria.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";

export type { Condition } from "../snapshot/criteria.ts";

/** What of a snapshot is wanted. Every condition must hold. */
export interface Selection {
  readonly conditions: readonly Condition[];
  readonly shard: Shard | null;
}

export const everything: Selection = { conditions: [], shard: null };

/** The recipients (by index) a selection wants of a message, or why it wants nothing of it. */
export type Selected = { readonly wanted: readonly number[] } | { readonly reason: string };

/**
 * `wanted` holds recipients that are not done only; a message all of whose recipients are done is wanted with none.
 *
 * @param now milliseconds since 1970, for ages
 */
export function select(message: MessageEntry, host: string, { conditions, shard }: Selection, now: number): Selected {
  if (shard !== null && shardOf(host, message, shard.n) !== shard.k)
    return { reason: `not in share ${shard.k} of ${shard.n}` };
  const unmet = unmetCondition(message, conditions, now);
  if (unmet !== undefined) return { reason: `not ${conditionText(unmet)}` };
  const wanted = message.recipients.flatMap((recipient, index) =>
    !recipient.done && meantRecipient(recipient, conditions) ? [index] : [],
  );
  const narrow = conditions.filter(ofRecipients);
  if (narrow.length > 0 && wanted.length === 0)
    return { reason: `no recipient left with ${narrow.map(conditionText).join(" and ")}` };
  return { wanted };
}

/**
 * To which of n shares a message belongs, from 1: by its identity alone, so that n operators need not talk to each
 * other and a message is in exactly one share, whatever is done to its marks and wherever it is renamed.
 */
export function shardOf(
  host: string,
  message: Pick<MessageEntry, "instance" | "queueId" | "created" | "content">,
  n: number,
): number {
  const { instance, queueId, created, content } = message;
  const digest = createHash("sha256").update([host, instance, queueId, created, content].join("\0")).digest();
  return Number(digest.readBigUInt64BE() % BigInt(n)) + 1;
}

/**
 * Read `--only KEY=VALUE` as they were given.
 *
 * @throws OperatorError `usage` for an unknown key, an impossible value, or conditions that nothing meets together
 */
export function parseConditions(given: readonly string[]): Condition[] {
  const conditions = parseCriteria(given, "--only ");
  const queues = conditions.filter(({ key }) => key === "queue");
  const named = queues.map(({ value }) => value.split(",").map((queue) => queue.trim()));
  const common = messageQueues.filter((queue) => named.every((each) => each.includes(queue)));
  if (queues.length > 1 && common.length === 0) {
    const all = [...new Set(named.flat())].join(",");
    throw new OperatorError("usage", `no message is in ${queues.map(({ value }) => value).join(" and in ")}`, {
      hints: [`all of --only must match; any of several queues is one condition: --only queue=${all}`],
    });
  }
  return conditions;
}

/** `K/N`. @throws OperatorError `usage` */
export function parseShard(given: string): Shard {
  const [, k = 0, n = 0] = (/^(\d{1,4})\/(\d{1,4})$/.exec(given) ?? []).map(Number);
  if (k >= 1 && k <= n) return { k, n };
  throw new OperatorError("usage", `--shard ${given} can't be understood`, {
    hints: ["write K/N with K from 1 to N, such as 1/3, 2/3 and 3/3 on three nodes"],
  });
}
