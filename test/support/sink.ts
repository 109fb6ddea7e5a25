import { createHash } from "node:crypto";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";

/** How the sink answers for a domain or an address. Everything left out is accepted at once. */
export interface Behaviour {
  /** Milliseconds between the final dot and the answer to it. */
  readonly delayMs?: number;
  /** Answer to RCPT TO, such as `450 4.2.0 try later` or `550 5.1.1 no such user`. */
  readonly rcpt?: string;
  /** Answer to the final dot, such as `451 4.3.0 try later`. */
  readonly dot?: string;
  /** Only the first so many answers to RCPT (per address) or to the final dot (per Message-ID) are `rcpt` and `dot`. */
  readonly firstTimes?: number;
}

/** One (message, recipient) pair the sink took over: it answered 250 to the final dot on an open connection. */
export interface Delivery {
  readonly messageId: string;
  readonly recipient: string;
  readonly sender: string;
  /** SHA-256 of the text as delivered: dots unstuffed, line ends LF. */
  readonly sha256: string;
  /** The text itself, when asked for by `keepBytes`. */
  readonly bytes?: Buffer;
  /** Milliseconds since 1970. */
  readonly at: number;
}

export interface SinkOptions {
  /** Behaviour per domain. Each domain gets a port of its own, so that Postfix sees several next hops. */
  readonly domains: Readonly<Record<string, Behaviour>>;
  readonly keepBytes?: boolean;
}

/** What happened to each (message, recipient) pair that was handed in; texts are `<message-id> recipient`. */
export interface Audit {
  readonly lost: string[];
  readonly doubled: string[];
}

/**
 * An SMTP server on loopback that takes mail and counts it per (Message-ID, recipient): the oracle that tells lost and
 * doubled mail. Speaks enough ESMTP (PIPELINING, SIZE, 8BITMIME, SMTPUTF8, DSN) that Postfix talks to it as to any site.
 */
export class Sink {
  readonly deliveries: Delivery[] = [];
  /** Texts that were complete, but whose sender went away before our 250: a real server may have delivered them. */
  readonly unacknowledged: Delivery[] = [];
  connections = 0;
  /** Connections open now, and transactions whose final dot awaits our answer. */
  open = 0;
  waiting = 0;
  private readonly behaviours = new Map<string, Behaviour>();
  private readonly tries = new Map<string, number>();
  private readonly servers = new Map<string, Server>();
  private readonly sockets = new Set<Socket>();
  private readonly keepBytes: boolean;

  private constructor(options: SinkOptions) {
    this.keepBytes = options.keepBytes ?? false;
    for (const [domain, behaviour] of Object.entries(options.domains)) this.behaviours.set(domain, behaviour);
  }

  /** Start one; it stays until `close`. Its servers don't keep the process alive. */
  static async start(options: SinkOptions): Promise<Sink> {
    const sink = new Sink(options);
    for (const domain of Object.keys(options.domains)) await sink.listen(domain);
    return sink;
  }

  /** Transport map entries for Postfix: domain → `smtp:[127.0.0.1]:port`. */
  get transports(): Record<string, string> {
    return Object.fromEntries(
      [...this.servers.keys()].map((domain) => [domain, `smtp:[127.0.0.1]:${this.port(domain)}`]),
    );
  }

  port(domain: string): number {
    const server = this.servers.get(domain);
    if (server === undefined) throw new Error(`the sink has no domain ${domain}`);
    return (server.address() as AddressInfo).port;
  }

  /** From now on answer so for an address (`a@slow.test`) or a domain that the sink was started with. */
  set(addressOrDomain: string, behaviour: Behaviour): void {
    this.behaviours.set(addressOrDomain.toLowerCase(), behaviour);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** How often this pair was delivered. */
  count(messageId: string, recipient: string): number {
    return this.tally().get(pair(messageId, recipient)) ?? 0;
  }

  /** Deliveries per `<message-id> recipient`. */
  tally(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { messageId, recipient } of this.deliveries) {
      const key = pair(messageId, recipient);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    return counts;
  }

  /** Which of the letters handed in did not arrive exactly once at each of their recipients. */
  audit(letters: Iterable<{ readonly messageId: string; readonly recipients: readonly string[] }>): Audit {
    const counts = this.tally();
    const pairs = [...letters].flatMap((letter) => letter.recipients.map((address) => pair(letter.messageId, address)));
    return {
      lost: pairs.filter((key) => !counts.has(key)),
      doubled: pairs.filter((key) => (counts.get(key) ?? 0) > 1),
    };
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await Promise.all([...this.servers.values()].map((server) => new Promise((resolve) => server.close(resolve))));
  }

  private async listen(domain: string): Promise<void> {
    const server = createServer((socket) => this.serve(socket));
    server.unref();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: "127.0.0.1", port: 0, backlog: 511 }, resolve);
    });
    this.servers.set(domain, server);
  }

  private serve(socket: Socket): void {
    this.connections++;
    this.open++;
    this.sockets.add(socket);
    socket.setNoDelay(true);
    const session = new Session(
      (line) => {
        if (socket.writable) socket.write(`${line}\r\n`);
      },
      (recipient) => this.answerRcpt(recipient),
      (envelope, text) => this.take(socket, envelope, text),
      () => socket.end(),
    );
    socket.on("data", (chunk: Buffer) => session.feed(chunk));
    socket.on("error", () => {});
    socket.on("close", () => {
      this.open--;
      this.sockets.delete(socket);
    });
    socket.write("220 sink.test ESMTP\r\n");
  }

  private behaviour(recipient: string): Behaviour {
    const address = recipient.toLowerCase();
    return this.behaviours.get(address) ?? this.behaviours.get(address.replace(/^.*@/, "")) ?? {};
  }

  private answerRcpt(recipient: string): string {
    const { rcpt, firstTimes } = this.behaviour(recipient);
    if (rcpt === undefined || this.tried(`rcpt ${recipient}`, firstTimes)) return "250 2.1.5 Ok";
    return rcpt;
  }

  /** Whether the answer was already given as often as it should be; counts this time. */
  private tried(key: string, firstTimes: number | undefined): boolean {
    if (firstTimes === undefined) return false;
    const times = this.tries.get(key) ?? 0;
    this.tries.set(key, times + 1);
    return times >= firstTimes;
  }

  private async take(socket: Socket, envelope: Envelope, text: Buffer): Promise<string> {
    const messageId = messageIdOf(text);
    const behaviours = envelope.recipients.map((recipient) => this.behaviour(recipient));
    const delayMs = Math.max(0, ...behaviours.map((one) => one.delayMs ?? 0));
    this.waiting++;
    if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs).unref());
    this.waiting--;
    const refusing = behaviours.find((one) => one.dot !== undefined);
    if (refusing?.dot !== undefined && !this.tried(`dot ${messageId}`, refusing.firstTimes)) return refusing.dot;
    const sha256 = createHash("sha256").update(text).digest("hex");
    const list = socket.writable && !socket.readableEnded ? this.deliveries : this.unacknowledged;
    for (const recipient of envelope.recipients) {
      const delivery = { messageId, recipient, sender: envelope.sender, sha256, at: Date.now() };
      list.push(this.keepBytes ? { ...delivery, bytes: text } : delivery);
    }
    return "250 2.0.0 Ok: taken";
  }
}

interface Envelope {
  sender: string;
  recipients: string[];
}

const greeting = [
  "250-sink.test",
  "250-PIPELINING",
  "250-SIZE 0",
  "250-8BITMIME",
  "250-SMTPUTF8",
  "250-DSN",
  "250 ENHANCEDSTATUSCODES",
];

/** One SMTP conversation: bytes in, answers out. Commands that come while a final dot is being answered wait. */
class Session {
  private buffered: Buffer = Buffer.alloc(0);
  private text: Buffer[] | undefined;
  private busy = false;
  private envelope: Envelope = { sender: "", recipients: [] };
  private readonly say: (line: string) => void;
  private readonly rcpt: (recipient: string) => string;
  private readonly take: (envelope: Envelope, text: Buffer) => Promise<string>;
  private readonly quit: () => void;

  constructor(
    say: (line: string) => void,
    rcpt: (recipient: string) => string,
    take: (envelope: Envelope, text: Buffer) => Promise<string>,
    quit: () => void,
  ) {
    this.say = say;
    this.rcpt = rcpt;
    this.take = take;
    this.quit = quit;
  }

  feed(chunk: Buffer): void {
    this.buffered = this.buffered.length === 0 ? chunk : Buffer.concat([this.buffered, chunk]);
    while (!this.busy && this.step());
  }

  private step(): boolean {
    if (this.text !== undefined) return this.readText(this.text);
    const end = this.buffered.indexOf("\r\n");
    if (end < 0) return false;
    const line = this.buffered.subarray(0, end).toString("utf8");
    this.buffered = this.buffered.subarray(end + 2);
    this.command(line);
    return true;
  }

  /** Lines of the text, taken over whole lines at a time; the line with a single dot ends it. */
  private readText(lines: Buffer[]): boolean {
    const last = this.buffered.lastIndexOf("\r\n");
    if (last < 0) return false;
    const whole = this.buffered.subarray(0, last + 2);
    // What was taken so far ended with a line end, so a dot line is at the start or after a line end of this piece.
    const dot = whole.indexOf("\r\n.\r\n");
    const end = whole.subarray(0, 3).equals(Buffer.from(".\r\n")) ? 0 : dot < 0 ? -1 : dot + 2;
    lines.push(end < 0 ? whole : whole.subarray(0, end));
    this.buffered = this.buffered.subarray(end < 0 ? last + 2 : end + 3);
    if (end >= 0) this.endOfText(lines);
    return true;
  }

  private endOfText(lines: Buffer[]): void {
    this.text = undefined;
    this.busy = true;
    const { envelope } = this;
    this.envelope = { sender: "", recipients: [] };
    void this.take(envelope, unstuffed(Buffer.concat(lines))).then((answer) => {
      this.say(answer);
      this.busy = false;
      while (!this.busy && this.step());
    });
  }

  private command(line: string): void {
    const verb = line.slice(0, 4).toUpperCase();
    if (verb === "EHLO") for (const one of greeting) this.say(one);
    else if (verb === "HELO") this.say("250 sink.test");
    else if (verb === "MAIL") this.mail(line);
    else if (verb === "RCPT") this.recipient(line);
    else if (verb === "DATA") this.data();
    else if (verb === "RSET" || verb === "NOOP") this.reset(verb);
    else if (verb === "QUIT") this.bye();
    else this.say("502 5.5.2 Error: command not recognized");
  }

  private mail(line: string): void {
    this.envelope = { sender: addressIn(line), recipients: [] };
    this.say("250 2.1.0 Ok");
  }

  private recipient(line: string): void {
    const address = addressIn(line);
    const answer = this.rcpt(address);
    if (answer.startsWith("2")) this.envelope.recipients.push(address);
    this.say(answer);
  }

  private data(): void {
    if (this.envelope.recipients.length === 0) {
      this.say("554 5.5.1 Error: no valid recipients");
      return;
    }
    this.text = [];
    this.say("354 End data with <CR><LF>.<CR><LF>");
  }

  private reset(verb: string): void {
    if (verb === "RSET") this.envelope = { sender: "", recipients: [] };
    this.say("250 2.0.0 Ok");
  }

  private bye(): void {
    this.say("221 2.0.0 Bye");
    this.quit();
  }
}

function addressIn(line: string): string {
  return /<([^>]*)>/.exec(line)?.[1] ?? "";
}

function unstuffed(text: Buffer): Buffer {
  const plain = text.toString("latin1").replaceAll("\r\n", "\n");
  return Buffer.from(plain.replace(/(^|\n)\./g, "$1"), "latin1");
}

function messageIdOf(text: Buffer): string {
  const end = text.indexOf("\n\n");
  const header = text.subarray(0, end < 0 ? text.length : end + 1).toString("latin1");
  return /^message-id:\s*(<[^>\n]*>)/im.exec(header)?.[1] ?? "";
}

function pair(messageId: string, recipient: string): string {
  return `${messageId} ${recipient}`;
}
