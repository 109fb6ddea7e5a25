import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { bufferSource, messageText } from "../postfix/queue-file.ts";
import type { Placed } from "./placed.ts";
import type { Delivery } from "./sink.ts";

/** What has to come out of the sink for one message: its text, once for each recipient who had none in the snapshot. */
export interface Promised {
  readonly queueId: string;
  readonly sender: string;
  readonly recipients: readonly string[];
  /** By the manifest. */
  readonly content: string;
  /** Of mail of maildrop, to which cleanup(8) adds header lines: what it was before. */
  readonly submitted: { readonly header: readonly string[]; readonly body: string } | null;
}

export function promiseOf({ planned, queue, facts, path }: Placed): Promised {
  const { message, recipients } = planned;
  const addresses = recipients.map((index) => message.recipients[index]?.address ?? "");
  return {
    queueId: message.queueId,
    sender: message.sender,
    // cleanup(8) delivers to nobody twice who is named twice in what was submitted.
    recipients: queue === "maildrop" ? [...new Set(addresses)] : addresses,
    content: facts.content,
    submitted: queue === "maildrop" ? takeApart(path) : null,
  };
}

/** Header and text of a file of maildrop as cleanup(8) tells them apart: the header ends where no header line follows. */
function takeApart(path: string): NonNullable<Promised["submitted"]> {
  const chunks = [...messageText(bufferSource(readFileSync(path)))].map((chunk) => Buffer.from(chunk));
  const text = Buffer.concat(chunks).toString("latin1");
  const lines = text.endsWith("\n") ? text.slice(0, -1).split("\n") : text.split("\n");
  const end = lines.findIndex((line, at) => !isHeaderLine(line, at));
  const header = end < 0 ? lines : lines.slice(0, end);
  const rest = end < 0 ? [] : lines.slice(lines[end] === "" ? end + 1 : end);
  const body = createHash("sha256");
  for (const line of rest) body.update(line, "latin1").update("\n");
  return { header: fieldsOf(header), body: body.digest("hex") };
}

function isHeaderLine(line: string, at: number): boolean {
  return /^[!-9;-~]+[ \t]*:/.test(line) || (at > 0 && /^[ \t]/.test(line));
}

/** Header fields, each with the lines it goes on in. */
function fieldsOf(lines: readonly string[]): string[] {
  const fields: string[] = [];
  for (const line of lines) {
    if (/^[ \t]/.test(line) && fields.length > 0) fields.push(`${fields.pop()}\n${line}`);
    else fields.push(line);
  }
  return fields;
}

/**
 * Whether a delivered header is the one that was submitted, with no more than cleanup(8) adds to local mail: its `Received`
 * in front, and behind what was missing of `Message-Id`, `Date` and `From` (`cleanup_header_done_callback`).
 */
function isSubmitted(delivered: string, submitted: readonly string[]): boolean {
  const lines = delivered.endsWith("\n") ? delivered.slice(0, -1).split("\n") : delivered.split("\n");
  const [received = "", ...fields] = fieldsOf(lines.at(-1) === "" ? lines.slice(0, -1) : lines);
  if (!/^received:/i.test(received)) return false;
  const added = fields.slice(submitted.length);
  return (
    submitted.every((field, index) => field === fields[index]) &&
    added.every((field) => /^(resent-)?(message-id|date|from):/i.test(field))
  );
}

/** What came out, held against what was promised. */
export interface Reckoning {
  /** Promised messages of which something came out, and recipients who got what they were promised. */
  readonly messages: number;
  readonly recipients: number;
  /** Promised messages that came out whole: every recipient once, byte for byte. */
  readonly identical: number;
  readonly promised: { readonly messages: number; readonly recipients: number };
  readonly deviating: readonly { readonly queueId: string; readonly detail: string }[];
  /** Notices the drill's own Postfix made, for senders whose mail had failed before or who had asked for them. */
  readonly notices: number;
}

/** Reckon with every copy: one that was not promised, or comes a second time, deviates like one that is missing. */
export function reckon(promises: readonly Promised[], deliveries: readonly Delivery[]): Reckoning {
  const due = promises.filter(({ recipients }) => recipients.length > 0);
  const open = new OpenPromises(due);
  const strays: { delivery: Delivery; recipient: string }[] = [];
  let notices = 0;
  for (const delivery of deliveries) {
    if (isOwnNotice(delivery)) {
      notices++;
      continue;
    }
    for (const recipient of delivery.recipients) {
      if (!open.keep(delivery, recipient)) strays.push({ delivery, recipient });
    }
  }
  const unkept = due.flatMap((promise, number) => {
    const left = open.left(number);
    return left.length === 0 ? [] : [{ promise, left }];
  });
  const came = new Set(strays.map(({ delivery, recipient }) => pairKey(delivery.sender, recipient)));
  const count = (each: readonly Promised[]) => each.reduce((sum, { recipients }) => sum + recipients.length, 0);
  const missing = unkept.reduce((sum, { left }) => sum + left.length, 0);
  return {
    messages: due.length - unkept.filter(({ promise, left }) => left.length === promise.recipients.length).length,
    recipients: count(due) - missing,
    identical: due.length - unkept.length,
    promised: { messages: due.length, recipients: count(due) },
    deviating: [...unkept.map((one) => unkeptDetail(one, came)), ...strayDetails(strays, unkept)],
    notices,
  };
}

/** bounce(8) writes as MAILER-DAEMON, and this Postfix has a name nobody else has. */
function isOwnNotice({ sender, header }: Delivery): boolean {
  if (sender !== "" || header === null) return false;
  return /^From: .*MAILER-DAEMON/m.test(header) && /^Message-Id: <.*@drill\.invalid>$/m.test(header);
}

class OpenPromises {
  readonly #promises: readonly Promised[];
  readonly #left: (string[] | undefined)[];
  readonly #byCopy = new Map<string, number[]>();

  constructor(promises: readonly Promised[]) {
    this.#promises = promises;
    this.#left = promises.map(({ recipients }) => [...recipients]);
    for (const [number, { sender, recipients, content, submitted }] of promises.entries()) {
      for (const recipient of recipients) {
        const key = copyKey(submitted?.body ?? content, sender, recipient);
        const before = this.#byCopy.get(key);
        if (before === undefined) this.#byCopy.set(key, [number]);
        else before.push(number);
      }
    }
  }

  left(number: number): readonly string[] {
    return this.#left[number] ?? [];
  }

  /** Take a copy off a promise it keeps. @returns whether there was one */
  keep({ content, contentUnended, body, header, sender }: Delivery, recipient: string): boolean {
    const numbers = [content, contentUnended, body].flatMap(
      (digest) => this.#byCopy.get(copyKey(digest, sender, recipient)) ?? [],
    );
    const number = numbers.find((each) => {
      const { submitted } = this.#promises[each] ?? { submitted: null };
      if (!this.left(each).includes(recipient)) return false;
      return submitted === null || (header !== null && isSubmitted(header, submitted.header));
    });
    const left = number === undefined ? undefined : this.#left[number];
    left?.splice(left.indexOf(recipient), 1);
    return left !== undefined;
  }
}

function copyKey(digest: string, sender: string, recipient: string): string {
  return `${digest}\0${sender}\0${recipient}`;
}

type Stray = { readonly delivery: Delivery; readonly recipient: string };
type Unkept = { readonly promise: Promised; readonly left: readonly string[] };

/** @param came whom something came out for, by sender and recipient, that kept no promise */
function unkeptDetail({ promise, left }: Unkept, came: ReadonlySet<string>): Reckoning["deviating"][number] {
  const of = `${left.length} of ${promise.recipients.length} recipients`;
  const changed = left.some((recipient) => came.has(pairKey(promise.sender, recipient)));
  return {
    queueId: promise.queueId,
    detail: changed ? `${of} got another text than it has` : `${of} got nothing`,
  };
}

/** What came out and was promised to nobody, or had come before. */
function strayDetails(strays: readonly Stray[], unkept: readonly Unkept[]): Reckoning["deviating"] {
  const missed = new Set(
    unkept.flatMap(({ promise, left }) => left.map((recipient) => pairKey(promise.sender, recipient))),
  );
  const alone = strays.filter(({ delivery, recipient }) => !missed.has(pairKey(delivery.sender, recipient)));
  if (alone.length === 0) return [];
  return [{ queueId: "", detail: `${alone.length} copies came out that were not promised, or twice` }];
}

function pairKey(sender: string, recipient: string): string {
  return `${sender}\0${recipient}`;
}
