import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A request an HTTP listener got, whole. */
export interface Heard {
  readonly method: string;
  /** Path and query. */
  readonly target: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** Answers with this status; `hang` answers nothing. */
export type Answer = number | "hang";

/** An HTTP server on loopback that writes down what it is told: where alerts and heartbeats go. */
export class Listener implements AsyncDisposable {
  readonly heard: Heard[] = [];
  /** For each request from now on; a function is asked for each. */
  answer: Answer | ((heard: Heard) => Answer | Promise<Answer>) = 200;
  readonly #server = createServer((request, response) => void this.#take(request, response));

  static async start(): Promise<Listener> {
    const listener = new Listener();
    await new Promise<void>((resolve, reject) => {
      listener.#server.once("error", reject);
      listener.#server.listen({ host: "127.0.0.1", port: 0 }, resolve);
    });
    return listener;
  }

  url(path: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}${path}`;
  }

  /** Method and path of each request, without the query. */
  get calls(): string[] {
    return this.heard.map(({ method, target }) => `${method} ${target.split("?")[0]}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((resolve) => this.#server.close(resolve));
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const { method = "", url: target = "", headers } = request;
    const heard = { method, target, headers, body: Buffer.concat(chunks).toString() };
    this.heard.push(heard);
    const answer = typeof this.answer === "function" ? await this.answer(heard) : this.answer;
    if (answer !== "hang") response.writeHead(answer).end("ok");
  }
}

/** A URL on loopback where nobody listens. */
export async function nobodyThere(path: string): Promise<string> {
  await using listener = await Listener.start();
  return listener.url(path);
}
