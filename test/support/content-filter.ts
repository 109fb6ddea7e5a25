import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { type Letter, SmtpClient } from "./smtp.ts";

/** When a filter says 250: `after` with the answer of the server it handed the mail back to, `own` after that but in words of its own, `before` it hands the mail back. */
export type FilterAnswer = "after" | "own" | "before";

/** A content filter on loopback, as amavisd is one: takes mail over SMTP and hands it back to another port, unchanged. */
export class ContentFilter implements AsyncDisposable {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly answer: FilterAnswer;
  /** Where it hands mail back. */
  backTo = 0;
  /** Messages taken and not handed back. */
  waiting = 0;
  /** Milliseconds it looks at a message. */
  lookMs = 0;

  private constructor(answer: FilterAnswer) {
    this.answer = answer;
    this.server = createServer((socket) => this.serve(socket));
    this.server.unref();
  }

  static async start(answer: FilterAnswer): Promise<ContentFilter> {
    const filter = new ContentFilter(answer);
    await new Promise<void>((resolve) => filter.server.listen({ host: "127.0.0.1", port: 0 }, resolve));
    return filter;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private serve(socket: Socket): void {
    this.sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.sockets.delete(socket));
    const say = (line: string) => {
      if (socket.writable) socket.write(`${line}\r\n`);
    };
    say("220 filter.test ESMTP");
    let buffered = "";
    let work = Promise.resolve();
    let [sender, recipients]: [string, string[]] = ["", []];
    let inText = false;
    socket.on("data", (chunk: Buffer) => {
      buffered += chunk.toString("latin1");
      work = work.then(async () => {
        for (;;) {
          const end = buffered.indexOf(inText ? "\r\n.\r\n" : "\r\n");
          if (end < 0) return;
          const said = buffered.slice(0, end);
          buffered = buffered.slice(end + (inText ? 5 : 2));
          if (inText) {
            inText = false;
            await this.take({ messageId: "", sender, recipients, text: unstuffed(said) }, say);
            continue;
          }
          const verb = said.slice(0, 4).toUpperCase();
          if (verb === "MAIL") [sender, recipients] = [addressIn(said), []];
          if (verb === "RCPT") recipients.push(addressIn(said));
          if (verb === "DATA") inText = true;
          say(verb === "DATA" ? "354 go on" : verb === "QUIT" ? "221 bye" : "250 2.1.0 Ok");
        }
      });
    });
  }

  private async take(letter: Letter, say: (line: string) => void): Promise<void> {
    if (this.answer === "before") {
      say("250 2.0.0 taken");
      void this.handBack(letter).catch(() => {});
      return;
    }
    try {
      const id = await this.handBack(letter);
      say(
        this.answer === "own"
          ? "250 2.0.0 looks clean"
          : `250 2.0.0 from MTA(smtp:[127.0.0.1]:${this.backTo}): 250 2.0.0 Ok: queued as ${id}`,
      );
    } catch {
      say("451 4.5.0 not handed back");
    }
  }

  private async handBack(letter: Letter): Promise<string> {
    this.waiting++;
    try {
      if (this.lookMs > 0) await new Promise((resolve) => setTimeout(resolve, this.lookMs));
      const client = await SmtpClient.open(this.backTo);
      try {
        return await client.send(letter);
      } finally {
        client.close();
      }
    } finally {
      this.waiting--;
    }
  }
}

function addressIn(command: string): string {
  return /<(.*?)>/.exec(command)?.[1] ?? "";
}

function unstuffed(text: string): Buffer {
  return Buffer.from(`${text.replaceAll("\r\n", "\n").replace(/(^|\n)\./g, "$1")}\n`, "latin1");
}
