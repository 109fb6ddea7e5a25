import { createHash } from "node:crypto";
import { isMatch } from "matcher";
import ms from "ms";
import { OperatorError } from "../errors.ts";
import { messageQueues } from "../postfix/queue.ts";
import type { Shard } from "../snapshot/claim.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";

/** What of a snapshot is wanted. Every condition must hold. */
export interface Selection {
  readonly conditions: readonly Condition[];
  readonly shard: Shard | null;
}

export interface Condition {
  readonly key: keyof typeof tests;
  /** As it was given, for a plan that is shown and signed off. */
  readonly value: string;
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
  const failed = conditions.find(
    (condition) => !ofRecipients(condition) && !tests[condition.key](message, condition.value, now),
  );
  if (failed !== undefined) return { reason: `not ${failed.key}=${failed.value}` };
  const left = message.recipients.flatMap(({ done }, index) => (done ? [] : [index]));
  const narrow = conditions.filter(ofRecipients);
  const wanted = left.filter((index) => {
    const address = message.recipients[index]?.address ?? "";
    return narrow.every(({ key, value }) => addressTests[key](address, value));
  });
  if (narrow.length > 0 && wanted.length === 0)
    return { reason: `no recipient left with ${narrow.map(text).join(" and ")}` };
  return { wanted };
}

type RecipientCondition = Condition & { readonly key: keyof typeof addressTests };

function ofRecipients(condition: Condition): condition is RecipientCondition {
  return condition.key in addressTests;
}

function text({ key, value }: Condition): string {
  return `${key}=${value}`;
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

type MessageTest = (message: MessageEntry, value: string, now: number) => boolean;

const addressTests = {
  recipient: (address: string, value: string) => glob(address, value),
  domain: (address: string, value: string) => glob(domainOf(address), value),
};

/** `*` stands for anything; several alternatives are separated by commas; addresses are compared without regard to case. */
const tests = {
  queue: (message, value) => alternatives(value).includes(message.queue),
  sender: (message, value) => glob(message.sender, value),
  id: (message, value) => alternatives(value).includes(message.queueId),
  "older-than": (message, value, now) => now - Number(message.created) * 1000 > duration(value),
  "newer-than": (message, value, now) => now - Number(message.created) * 1000 <= duration(value),
  "larger-than": (message, value) => message.size > Number(value),
  "smaller-than": (message, value) => message.size < Number(value),
  recipient: () => true,
  domain: () => true,
} as const satisfies Record<string, MessageTest>;

function glob(address: string, value: string): boolean {
  const patterns = alternatives(value);
  // The null sender is written <> as in the log.
  if (address === "") return patterns.includes("<>") || patterns.includes("*");
  return patterns.some(
    (pattern) => pattern !== "<>" && isMatch(address, pattern.startsWith("!") ? `\\${pattern}` : pattern),
  );
}

function domainOf(address: string): string {
  return address.slice(address.lastIndexOf("@") + 1);
}

function alternatives(value: string): string[] {
  return value.split(",").map((one) => one.trim());
}

function duration(value: string): number {
  return ms(value as ms.StringValue) ?? Number.NaN;
}

/**
 * Read `--only KEY=VALUE` as they were given.
 *
 * @throws OperatorError `usage` for an unknown key or an impossible value
 */
export function parseConditions(given: readonly string[]): Condition[] {
  return given.map((one) => {
    const [, key = "", value = ""] = /^([a-z-]+)=(.+)$/.exec(one) ?? [];
    const known = Object.keys(tests).find((name): name is keyof typeof tests => name === key);
    if (known === undefined) {
      throw new OperatorError("usage", `--only ${one} can't be understood`, {
        hints: [`write KEY=VALUE with one of the keys ${Object.keys(tests).join(", ")}`],
      });
    }
    const wrong = problemOf(known, value);
    if (wrong !== null) throw new OperatorError("usage", `--only ${one}: ${wrong}`);
    return { key: known, value };
  });
}

function problemOf(key: keyof typeof tests, value: string): string | null {
  if (key === "queue") {
    const unknown = alternatives(value).find((one) => !messageQueues.some((queue) => queue === one));
    return unknown === undefined ? null : `${unknown} is not one of the queues ${messageQueues.join(", ")}`;
  }
  if (key === "older-than" || key === "newer-than") {
    return duration(value) >= 0 ? null : "must be a duration such as 2d, 26h or 30m";
  }
  if (key === "larger-than" || key === "smaller-than") return /^\d+$/.test(value) ? null : "must be a number of bytes";
  return null;
}

/** `K/N`. @throws OperatorError `usage` */
export function parseShard(given: string): Shard {
  const [, k = 0, n = 0] = (/^(\d{1,4})\/(\d{1,4})$/.exec(given) ?? []).map(Number);
  if (k >= 1 && k <= n) return { k, n };
  throw new OperatorError("usage", `--shard ${given} can't be understood`, {
    hints: ["write K/N with K from 1 to N, such as 1/3, 2/3 and 3/3 on three nodes"],
  });
}
