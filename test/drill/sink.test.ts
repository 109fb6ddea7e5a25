import { createHash } from "node:crypto";
import { mkdirSync, openSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DrillSink } from "../../src/drill/sink.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";

const sha256 = (text: string) => createHash("sha256").update(text, "latin1").digest("hex");

describe("the sink", () => {
  // Longer than the address of a socket may be (108 bytes, unix(7)): the queue of a drill may lie anywhere.
  const directory = join(makeScratch(), "a".repeat(100), "b".repeat(40));
  const known = "Subject: known\r\n\r\nknown\r\n";
  let sink: DrillSink;
  beforeAll(async () => {
    mkdirSync(directory, { recursive: true });
    const expected = sha256(known.replaceAll("\r\n", "\n"));
    sink = await DrillSink.listen(join(directory, "sink"), process.getuid?.() ?? 0, (content) => content === expected);
  });
  afterAll(async () => {
    await sink.close();
    destroyScratch(join(directory, "../.."));
  });

  test("greets nobody until it is opened, and then those who wait", async () => {
    const client = await Client.come(directory);
    await until(() => sink.visitors === 1, { what: "a visitor" });
    expect(client.said).toBe("");
    sink.open();
    await client.hears("220 ");
    client.leave();
  });

  test("takes any recipient as a queue file has it, each as often as it is named, and answers for each", async () => {
    const client = await Client.come(directory);
    const recipients = [
      '"odd one"@a.test',
      "Same@a.test",
      "same@a.test",
      "same@a.test",
      '"a\\"b\\\\>c"@a.test',
      "x@[203.0.113.9]",
    ];
    await client.sends("", recipients, "Subject: x\r\n\r\nx\r\n");
    expect(client.said.match(/^250 2\.0\.0 Kept/gm)).toHaveLength(recipients.length);
    expect(sink.deliveries.at(-1)).toMatchObject({
      sender: "",
      recipients: ["odd one@a.test", "Same@a.test", "same@a.test", "same@a.test", 'a"b\\>c@a.test', "x@[203.0.113.9]"],
    });
    client.leave();
  });

  test.each([
    ["lines that begin with dots", "Subject: x\r\n\r\n..\r\n..two\r\n...\r\n", "Subject: x\n\n.\n.two\n..\n"],
    ["a text without a header", "\r\nonly this\r\n", "\nonly this\n"],
    ["an empty text", "", ""],
    ["carriage returns and bytes of every kind", "A: \xe9\xff\r\n\r\n\ra\r\r\n\0\r\n", "A: \xe9\xff\n\n\ra\r\n\0\n"],
  ])("digests %s, in whatever pieces they come", async (_, wire, text) => {
    for (const size of [1, 7, 100_000]) {
      const client = await Client.come(directory);
      await client.sends("a@b.test", ["c@d.test"], wire, size);
      client.leave();
      const kept = sink.deliveries.at(-1);
      expect(kept?.content).toBe(sha256(text));
      expect(kept?.contentUnended).toBe(sha256(text.replace(/\n$/, "")));
      const end = text.indexOf("\n\n") < 0 ? text.length : text.indexOf("\n\n") + 2;
      if (!text.startsWith("\n")) expect(kept?.header).toBe(text.slice(0, end));
    }
  });

  test("keeps no header of a text it was promised", async () => {
    const client = await Client.come(directory);
    await client.sends("a@b.test", ["c@d.test"], known);
    expect(sink.deliveries.at(-1)?.header).toBeNull();
    client.leave();
  });
});

class Client {
  said = "";
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.said += chunk.toString();
    });
  }

  static async come(directory: string): Promise<Client> {
    const socket = connect(`/proc/self/fd/${openSync(directory, "r")}/sink`);
    await new Promise((resolve) => socket.once("connect", resolve));
    return new Client(socket);
  }

  async hears(text: string): Promise<void> {
    await until(() => this.said.includes(text), { what: () => `${text}, heard ${JSON.stringify(this.said)}` });
  }

  /** All at once, as PIPELINING allows, in pieces of a size; the answers to the text are all that is left in `said`. */
  async sends(sender: string, recipients: readonly string[], text: string, size = 100_000): Promise<void> {
    await this.hears("220 ");
    this.#socket.setNoDelay(true);
    const envelope = [`MAIL FROM:<${sender}> BODY=8BITMIME`, ...recipients.map((one) => `RCPT TO:<${one}>`), "DATA"];
    this.#socket.write(`LHLO x\r\n${envelope.join("\r\n")}\r\n`);
    await this.hears("354 ");
    this.said = "";
    const bytes = Buffer.from(`${text}.\r\n`, "latin1");
    for (let at = 0; at < bytes.length; at += size) {
      this.#socket.write(bytes.subarray(at, at + size));
      if (size < bytes.length) await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => this.said.split("\r\n").length > recipients.length, { what: "an answer for each recipient" });
  }

  leave(): void {
    this.#socket.destroy();
  }
}
