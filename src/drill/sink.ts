import { createHash, type Hash } from "node:crypto";
import { chownSync, closeSync, openSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { basename, dirname, join } from "node:path";

/** One message as it arrived. */
export interface Delivery {
  /** Unquoted, as a queue file has it. */
  readonly sender: string;
  /** Unquoted, in the order they were named; the same one may be there twice. */
  readonly recipients: readonly string[];
  /**
   * SHA-256 of its text with LF line ends: with the newline at its end, and without (a queue file's text may lack it, and on
   * the wire it can't).
   */
  readonly content: string;
  readonly contentUnended: string;
  /** Its header with LF line ends up to and including the empty line, 1 MiB at most; null for a text that was expected. */
  readonly header: string | null;
  /** SHA-256 of what follows the header. */
  readonly body: string;
}

/**
 * Where all mail of a drill ends: an LMTP server (RFC 2033) on a socket in the file system, which no network leads to. It
 * takes every recipient, with any address Postfix may have in its queue, and keeps of each message what has to be compared.
 *
 * Until it is opened it greets nobody: delivery agents connect and wait, and nothing is delivered.
 */
export class DrillSink {
  readonly deliveries: Delivery[] = [];
  /** Agents that have come to deliver so far. */
  visitors = 0;
  readonly #server: Server;
  readonly #path: string;
  readonly #sessions = new Set<Session>();
  readonly #expected: (content: string) => boolean;
  #open = false;

  private constructor(path: string, expected: (content: string) => boolean) {
    this.#path = path;
    this.#expected = expected;
    this.#server = createServer((socket) => this.#receive(socket));
  }

  /**
   * @param path of the socket; only this user may connect
   * @param expected whether a message's text, by its digest, was promised: then its header need not be kept
   */
  static async listen(path: string, uid: number, expected: (content: string) => boolean): Promise<DrillSink> {
    const sink = new DrillSink(path, expected);
    // The path of a socket may have 107 bytes (unix(7)): the directory goes by its descriptor.
    const fd = openSync(dirname(path), "r");
    try {
      await new Promise<void>((resolve, reject) => {
        sink.#server.once("error", reject);
        sink.#server.listen(`/proc/self/fd/${fd}/${basename(path)}`, resolve);
      });
      chownSync(join(dirname(path), basename(path)), uid, -1);
    } finally {
      closeSync(fd);
    }
    return sink;
  }

  /** Greet those who wait, and from now on everybody. */
  open(): void {
    this.#open = true;
    for (const session of this.#sessions) session.greet();
  }

  async close(): Promise<void> {
    for (const { socket } of this.#sessions) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    rmSync(this.#path, { force: true });
  }

  #receive(socket: Socket): void {
    this.visitors++;
    const session = new Session(socket, this.#expected, (delivery) => this.deliveries.push(delivery));
    this.#sessions.add(session);
    socket.on("error", () => {}); // an agent that was ended: Postfix tries again, or nobody does any more
    socket.on("close", () => this.#sessions.delete(session));
    socket.on("data", (chunk) => session.take(chunk));
    if (this.#open) session.greet();
  }
}

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
const dot = 0x2e;

class Session {
  readonly socket: Socket;
  readonly #expected: (content: string) => boolean;
  readonly #keep: (delivery: Delivery) => void;
  #waiting: Buffer = Buffer.alloc(0);
  #sender: string | undefined;
  #recipients: string[] = [];
  #text: IncomingText | undefined;

  constructor(socket: Socket, expected: (content: string) => boolean, keep: (delivery: Delivery) => void) {
    this.socket = socket;
    this.#expected = expected;
    this.#keep = keep;
  }

  greet(): void {
    this.#say("220 drill LMTP");
  }

  take(chunk: Buffer): void {
    const bytes = this.#waiting.length === 0 ? chunk : Buffer.concat([this.#waiting, chunk]);
    let start = 0;
    // Postfix ends every line with CRLF; a line feed alone does not come (smtp_stream.c).
    for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed, start)) {
      const line = bytes.subarray(start, end > start && bytes[end - 1] === carriageReturn ? end - 1 : end);
      start = end + 1;
      if (this.#text === undefined) this.#command(line.toString("utf8"));
      else this.#textLine(line);
    }
    this.#waiting = bytes.subarray(start);
  }

  #command(line: string): void {
    const verb = line.slice(0, 4).toUpperCase();
    if (verb === "LHLO") this.#say("250-drill", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250 DSN");
    else if (verb === "MAIL") this.#mail(line);
    else if (verb === "RCPT") this.#recipient(line);
    else if (verb === "DATA") this.#data();
    else if (verb === "RSET" || verb === "NOOP") this.#reset("250 2.0.0 Ok");
    else if (verb === "QUIT") this.socket.end("221 2.0.0 Bye\r\n");
    else this.#say("500 5.5.2 Unknown command");
  }

  #reset(answer: string): void {
    this.#sender = undefined;
    this.#recipients = [];
    this.#say(answer);
  }

  #mail(line: string): void {
    this.#recipients = [];
    this.#sender = addressIn(line);
    this.#say(this.#sender === undefined ? "501 5.1.7 No address" : "250 2.1.0 Ok");
  }

  #recipient(line: string): void {
    const address = addressIn(line);
    if (address !== undefined) this.#recipients.push(address);
    this.#say(address === undefined ? "501 5.1.3 No address" : "250 2.1.5 Ok");
  }

  #data(): void {
    if (this.#recipients.length === 0) {
      this.#say("503 5.5.1 No recipients");
      return;
    }
    this.#text = new IncomingText();
    this.#say("354 Go on");
  }

  #textLine(line: Buffer): void {
    if (line[0] !== dot) this.#text?.add(line);
    else if (line.length > 1) this.#text?.add(line.subarray(1));
    else this.#end();
  }

  #end(): void {
    const text = this.#text?.end();
    this.#text = undefined;
    if (text === undefined) return;
    const recipients = this.#recipients;
    const expected = this.#expected(text.content) || this.#expected(text.contentUnended);
    const header = expected ? null : text.header;
    this.#keep({ ...text, header, sender: this.#sender ?? "", recipients });
    this.#sender = undefined;
    this.#recipients = [];
    this.#say(...recipients.map(() => "250 2.0.0 Kept"));
  }

  #say(...lines: string[]): void {
    this.socket.write(lines.map((line) => `${line}\r\n`).join(""));
  }
}

const newline = Buffer.from("\n");
const longestHeader = 1024 * 1024;

/** Digests a text line by line, so that a large one needs no memory. */
class IncomingText {
  readonly #content: Hash = createHash("sha256");
  readonly #body: Hash = createHash("sha256");
  #header: Buffer[] = [];
  #headerSize = 0;
  #inHeader = true;
  #began = false;

  add(line: Buffer): void {
    if (this.#began) this.#content.update(newline);
    this.#began = true;
    this.#content.update(line);
    if (this.#inHeader) this.#addHeader(line);
    else this.#body.update(line).update(newline);
  }

  #addHeader(line: Buffer): void {
    if (this.#headerSize < longestHeader) this.#header.push(Buffer.from(line), newline);
    this.#headerSize += line.length + 1;
    this.#inHeader = line.length > 0;
  }

  end(): Omit<Delivery, "sender" | "recipients" | "header"> & { readonly header: string } {
    const contentUnended = this.#content.copy().digest("hex");
    if (this.#began) this.#content.update(newline);
    return {
      content: this.#content.digest("hex"),
      contentUnended,
      header: Buffer.concat(this.#header).toString("latin1"),
      body: this.#body.digest("hex"),
    };
  }
}

/** What is between `<` and `>`, unquoted; undefined where there is no such thing. */
function addressIn(command: string): string | undefined {
  const start = command.indexOf("<") + 1;
  let quoted = false;
  for (let at = start; at > 0 && at < command.length; at++) {
    const char = command[at];
    if (char === "\\") at++;
    else if (char === '"') quoted = !quoted;
    else if (char === ">" && !quoted) return unquoted(command.slice(start, at));
  }
  return undefined;
}

/** An address in external form as a queue file has it: without the quotes and backslashes of RFC 5321. */
export function unquoted(address: string): string {
  return address.replace(/\\(.)|"/gs, "$1");
}
