import { isMatch } from "matcher";
import ms from "ms";
import { OperatorError } from "../errors.ts";
import { messageQueues } from "../postfix/queue.ts";
import type { ManifestRecipient, MessageEntry } from "./manifest.ts";

/** One KEY=VALUE that a message must meet: what `find` looks for, and what `restore --only` restores. */
export interface Condition {
  readonly key: keyof typeof tests;
  /** As it was given, for a plan that is shown and signed off. */
  readonly value: string;
}

type RecipientCondition = Condition & { readonly key: keyof typeof addressTests };

/** KEY=VALUE again. */
export function conditionText({ key, value }: Condition): string {
  return `${key}=${value}`;
}

/** Whether a condition is one of recipients; the others are of the message. */
export function ofRecipients(condition: Condition): condition is RecipientCondition {
  return condition.key in addressTests;
}

/**
 * The first condition of the message itself that it does not meet.
 *
 * @param now milliseconds since 1970, for ages
 */
export function unmetCondition(
  message: MessageEntry,
  conditions: readonly Condition[],
  now: number,
): Condition | undefined {
  return conditions.find(
    (condition) => !ofRecipients(condition) && !tests[condition.key](message, condition.value, now),
  );
}

/** Whether one recipient meets every condition of recipients. */
export function meantRecipient({ address }: ManifestRecipient, conditions: readonly Condition[]): boolean {
  return conditions.filter(ofRecipients).every(({ key, value }) => addressTests[key](address, value));
}

/**
 * Whether a message meets every condition: those of recipients with one and the same recipient, done or not.
 *
 * @param now milliseconds since 1970, for ages
 */
export function meets(message: MessageEntry, conditions: readonly Condition[], now: number): boolean {
  if (unmetCondition(message, conditions, now) !== undefined) return false;
  return (
    !conditions.some(ofRecipients) || message.recipients.some((recipient) => meantRecipient(recipient, conditions))
  );
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
  "message-id": ({ messageId }, value) =>
    messageId !== null && glob(bare(messageId), alternatives(value).map(bare).join()),
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

/** A message-id without its angle brackets: some copy them from a log, some do not. */
function bare(messageId: string): string {
  return messageId.replace(/^<(.*)>$/, "$1");
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
 * Read conditions as they were given.
 *
 * @param option what stands before each on the command line, for errors: `--only ` or nothing
 * @throws OperatorError `usage` for an unknown key or an impossible value
 */
export function parseCriteria(given: readonly string[], option: "--only " | ""): Condition[] {
  return given.map((one) => {
    const [, key = "", value = ""] = /^([a-z-]+)=(.+)$/.exec(one) ?? [];
    const known = Object.keys(tests).find((name): name is keyof typeof tests => name === key);
    if (known === undefined) {
      throw new OperatorError("usage", `${option}${one} can't be understood`, {
        hints: [`write KEY=VALUE with one of the keys ${Object.keys(tests).join(", ")}`],
      });
    }
    const wrong = problemOf(known, value);
    if (wrong !== null) throw new OperatorError("usage", `${option}${one}: ${wrong}`);
    return { key: known, value };
  });
}

function problemOf(key: keyof typeof tests, value: string): string | null {
  if (key === "queue") {
    const unknown = alternatives(value).find((one) => !messageQueues.some((queue) => queue === one));
    return unknown === undefined ? null : `${unknown} is not one of the queues ${messageQueues.join(", ")}`;
  }
  if (key === "older-than" || key === "newer-than") {
    // Without a unit it would be milliseconds.
    return duration(value) >= 0 && !/\d$/.test(value) ? null : "must be a duration such as 2d, 26h or 30m";
  }
  if (key === "larger-than" || key === "smaller-than") return /^\d+$/.test(value) ? null : "must be a number of bytes";
  return null;
}
