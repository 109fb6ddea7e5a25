import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { basename } from "node:path";
import { errnoOf } from "../errors.ts";
import { isComplete, type QueueName } from "../postfix/queue.ts";
import { peekEnvelope } from "../postfix/queue-file.ts";
import { listQueue } from "../postfix/spool.ts";
import type { Clock } from "../system/clock.ts";
import { Tally } from "./counts.ts";
import type { Traffic } from "./report.ts";

/*
 * What is in the way, from the first bytes of queue files: as many as there is time for, spread evenly. Of 100,000 messages
 * some ten thousand tell who floods as well as all would.
 */

export interface TrafficLook {
  readonly clock: Clock;
  /** Milliseconds that may go into opening files. */
  readonly budgetMs: number;
}

const queues: readonly QueueName[] = ["incoming", "active", "deferred", "hold"];

/** @throws OperatorError when a queue is not there */
export function lookAtTraffic(queueDirectory: string, { clock, budgetMs }: TrafficLook): Traffic {
  const files = queues.flatMap((queue) => listQueue(queueDirectory, queue));
  const until = clock.monotonic() + budgetMs;
  const found = new Findings();
  for (const [looked, index] of spread(files.length)) {
    if (looked > fewest && clock.monotonic() > until) break;
    const file = files[index];
    if (file !== undefined) found.see(file.path, file.queue);
  }
  return found.traffic();
}

/** However slow the machine is: shares of less say little. */
const fewest = 1000;

/** Every index once, in steps near the golden section, so that wherever one stops they are spread evenly. */
function* spread(length: number): Generator<readonly [looked: number, index: number]> {
  let step = Math.max(1, Math.floor(length * 0.618));
  while (divisor(step, length) > 1) step++;
  for (let looked = 0, index = 0; looked < length; looked++, index = (index + step) % length) yield [looked, index];
}

function divisor(a: number, b: number): number {
  return b === 0 ? a : divisor(b, a % b);
}

const head = Buffer.allocUnsafe(4096);
const shown = 5;

class Findings {
  #looked = 0;
  #notices = 0;
  readonly #senders = new Tally();
  readonly #addresses = new Tally();
  readonly #destinations = new Tally();
  readonly #logins = new Tally();
  readonly #clients = new Tally();
  readonly #invisible: string[] = [];

  see(path: string, queue: QueueName): void {
    const read = readFirst(path);
    if (read === undefined) return;
    // In incoming and active a message may be on its way in; what was put aside is complete.
    if (!isComplete(read.mode) && (queue === "deferred" || queue === "hold")) this.#invisible.push(basename(path));
    const { sender, recipients, attributes } = peekEnvelope(head.subarray(0, read.length), read.size);
    // What is on hold is in nobody's way any more.
    if (sender === undefined || queue === "hold") return;
    this.#looked++;
    if (sender === "") this.#notices++;
    this.#senders.add(sender === "" ? "MAILER-DAEMON" : domainOf(sender));
    if (sender !== "") this.#addresses.add(sender.toLowerCase());
    for (const domain of new Set(recipients.map(domainOf))) this.#destinations.add(domain);
    const login = attributes.get("sasl_username");
    if (login !== undefined) this.#logins.add(login);
    const client = attributes.get("log_client_address") ?? attributes.get("client_address");
    if (client !== undefined && !isOwnClient(client)) this.#clients.add(client);
  }

  traffic(): Traffic {
    return {
      looked: this.#looked,
      notices: this.#notices,
      senders: this.#senders.top(shown),
      addresses: this.#addresses.top(shown),
      destinations: this.#destinations.top(shown),
      logins: this.#logins.top(shown),
      clients: this.#clients.top(shown),
      invisible: this.#invisible,
    };
  }
}

/** Content filters hand mail in from here. */
export function isOwnClient(address: string): boolean {
  return address.startsWith("127.") || address === "::1" || address === "unknown" || address === "";
}

function domainOf(address: string): string {
  return address.slice(address.lastIndexOf("@") + 1).toLowerCase();
}

/** The first bytes, in `head`; undefined for a file that has moved on. */
function readFirst(path: string): { mode: number; size: number; length: number } | undefined {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
  try {
    const { mode, size } = fstatSync(fd);
    return { mode, size, length: readSync(fd, head, 0, head.length, 0) };
  } finally {
    closeSync(fd);
  }
}
