import { connect, type Socket } from "node:net";

/** A message to hand in: the envelope, and its text with LF line ends. */
export interface Letter {
  readonly messageId: string;
  /** Empty for the null sender. */
  readonly sender: string;
  readonly recipients: readonly string[];
  readonly text: Buffer;
  /** Parameters behind MAIL FROM, such as `BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x`. */
  readonly mailParameters?: string;
  /** Parameters behind each RCPT TO, such as `NOTIFY=SUCCESS,FAILURE`. */
  readonly rcptParameters?: string;
}

export interface PlainLetter {
  readonly sender?: string;
  readonly recipients: readonly string[];
  /** Bytes of the body, about; default 500. */
  readonly size?: number;
  readonly subject?: string;
}

let lettersMade = 0;

/** A short text letter with a Message-ID nobody else has. */
export function plainLetter(options: PlainLetter): Letter {
  const sender = options.sender ?? "sender@src.test";
  const messageId = `<${++lettersMade}.${process.pid}.${Date.now()}@letters.test>`;
  const size = options.size ?? 500;
  const line = `letter ${lettersMade} says the same thing on every one of its lines, until it is long enough\n`;
  const body = line.repeat(Math.max(1, Math.ceil(size / line.length))).slice(0, Math.max(size - 1, 1));
  const header = [
    `From: <${sender}>`,
    `To: ${options.recipients.map((address) => `<${address}>`).join(",\n\t")}`,
    `Subject: ${options.subject ?? `letter ${lettersMade}`}`,
    `Message-ID: ${messageId}`,
    `Date: ${new Date().toUTCString().replace("GMT", "+0000")}`,
  ];
  return { messageId, sender, recipients: options.recipients, text: Buffer.from(`${header.join("\n")}\n\n${body}\n`) };
}

/** A letter Postfix answered 250 for, with the queue id it named. */
export interface Submitted extends Letter {
  readonly queueId: string;
}

/**
 * Hand letters to an SMTP server on loopback, several connections at a time, many letters over each.
 *
 * @returns the letters in their order, with queue ids
 * @throws Error with the server's answer when it refuses one
 */
export async function submit(port: number, letters: readonly Letter[], connections = 8): Promise<Submitted[]> {
  const done: Submitted[] = [];
  const indexes = letters.keys();
  const workers = Array.from({ length: Math.min(connections, letters.length) }, async () => {
    const client = await SmtpClient.open(port);
    try {
      for (const index of indexes) {
        const letter = letters[index];
        if (letter !== undefined) done[index] = { ...letter, queueId: await client.send(letter) };
      }
      await client.quit();
    } finally {
      client.close();
    }
  });
  await Promise.all(workers);
  return done;
}

/** One SMTP connection as a client. Also for tests that stop half-way through a conversation. */
export class SmtpClient {
  private readonly socket: Socket;
  private buffered = "";
  private readonly answers: string[] = [];
  private waiting: { resolve: (answer: string) => void; reject: (error: Error) => void } | undefined;
  private failed: Error | undefined;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.hear(chunk.toString("latin1")));
    socket.on("error", (error) => this.fail(error));
    socket.on("close", () => this.fail(new Error("the SMTP server closed the connection")));
  }

  static async open(port: number): Promise<SmtpClient> {
    const socket = connect({ port, host: "127.0.0.1" });
    const client = new SmtpClient(socket);
    await client.expect("220");
    await client.command("EHLO client.test", "250");
    return client;
  }

  /** Say a line and wait for the answer; throws when it doesn't start with what is expected. */
  async command(line: string, expected: string): Promise<string> {
    this.write(`${line}\r\n`);
    return this.expect(expected);
  }

  write(bytes: string | Buffer): void {
    this.socket.write(bytes);
  }

  async expect(code: string): Promise<string> {
    const answer = await this.answer();
    if (!answer.startsWith(code)) throw new Error(`the SMTP server answered ${JSON.stringify(answer)}, not ${code}`);
    return answer;
  }

  /** The whole transaction, pipelined; returns the queue id. */
  async send(letter: Letter): Promise<string> {
    const mail = `MAIL FROM:<${letter.sender}>${letter.mailParameters ? ` ${letter.mailParameters}` : ""}\r\n`;
    const rcpts = letter.recipients.map(
      (address) => `RCPT TO:<${address}>${letter.rcptParameters ? ` ${letter.rcptParameters}` : ""}\r\n`,
    );
    this.write(`${mail}${rcpts.join("")}DATA\r\n`);
    await this.expect("250");
    for (const _ of rcpts) await this.expect("250");
    await this.expect("354");
    this.write(onTheWire(letter.text));
    const answer = await this.expect("250");
    return /queued as (\w+)/.exec(answer)?.[1] ?? "";
  }

  async quit(): Promise<void> {
    await this.command("QUIT", "221");
  }

  close(): void {
    this.socket.destroy();
  }

  private answer(): Promise<string> {
    const next = this.answers.shift();
    if (next !== undefined) return Promise.resolve(next);
    if (this.failed !== undefined) return Promise.reject(this.failed);
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
    });
  }

  private hear(text: string): void {
    this.buffered += text;
    for (;;) {
      const whole = /^(?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\n/.exec(this.buffered);
      if (whole === null) return;
      this.buffered = this.buffered.slice(whole[0].length);
      this.tell(whole[0].trimEnd());
    }
  }

  private tell(answer: string): void {
    const { waiting } = this;
    this.waiting = undefined;
    if (waiting === undefined) this.answers.push(answer);
    else waiting.resolve(answer);
  }

  private fail(error: Error): void {
    this.failed ??= error;
    this.waiting?.reject(this.failed);
    this.waiting = undefined;
  }
}

/** CRLF line ends, dots doubled at the start of a line, and the final dot. */
function onTheWire(text: Buffer): Buffer {
  const plain = text.toString("latin1");
  const ended = plain === "" || plain.endsWith("\n") ? plain : `${plain}\n`;
  return Buffer.from(`${ended.replace(/(^|\n)\./g, "$1..").replaceAll("\n", "\r\n")}.\r\n`, "latin1");
}
