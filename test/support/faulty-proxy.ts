import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What goes wrong between a client and the server behind the proxy. */
export type Fault =
  /** The proxy answers, the server never hears of it. A code makes it an S3 error document with this text. */
  | { readonly kind: "answer"; readonly status: number; readonly code?: string; readonly text?: string | Buffer }
  /** The request is taken and nothing comes back, ever. */
  | { readonly kind: "silence" }
  /** The connection breaks before the server hears of the request. */
  | { readonly kind: "cut" }
  /** The server does what it is asked, and the connection breaks before the client hears of it. */
  | { readonly kind: "lose-answer" }
  /** The answer begins, and after so many bytes of its body the connection breaks, or nothing more comes. */
  | { readonly kind: "cut-body" | "stall-body"; readonly afterBytes: number }
  /** One byte of the answer's body is another. */
  | { readonly kind: "flip-byte"; readonly at: number }
  /** The server answers, then something is done behind the client's back, then the answer goes out with other headers. */
  | {
      readonly kind: "meddle";
      readonly act?: () => Promise<void>;
      readonly headers?: Readonly<Record<string, string>>;
    };

export interface SeenRequest {
  readonly method: string;
  /** Path and query. */
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
}

/**
 * A real HTTP connection to a real server that fails on purpose. Requests pass as they are, so that their signatures
 * stay good: they sign the `Host` the client sees.
 */
export class FaultyProxy {
  /** Decides for each request; none: it passes. */
  fault: (request: SeenRequest) => Fault | undefined = () => undefined;
  /** Every request so far, in order. */
  readonly seen: SeenRequest[] = [];
  readonly #target: URL;
  readonly #server: Server;

  private constructor(target: string) {
    this.#target = new URL(target);
    this.#server = createServer((incoming, outgoing) => this.#handle(incoming, outgoing));
    // A client that waits for "100 Continue" hears of an error first, as from a real server, and else may go on.
    this.#server.on("checkContinue", (incoming, outgoing) => this.#handle(incoming, outgoing, true));
  }

  static async start(target: string): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(target);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #handle(incoming: IncomingMessage, outgoing: ServerResponse, waits = false): void {
    const seen = describe(incoming);
    this.seen.push(seen);
    incoming.on("error", () => {});
    outgoing.on("error", () => {});
    const fault = this.fault(seen);
    switch (fault?.kind) {
      case "cut":
        incoming.socket.destroy();
        return;
      case "silence":
        incoming.resume();
        return;
      case "answer":
        if (waits) answer(outgoing, fault);
        else incoming.resume().on("end", () => answer(outgoing, fault));
        return;
      default:
        if (waits) outgoing.writeContinue();
        this.#forward(incoming, outgoing, fault);
    }
  }

  #forward(incoming: IncomingMessage, outgoing: ServerResponse, fault: Fault | undefined): void {
    const onward = request({
      host: this.#target.hostname,
      port: this.#target.port,
      method: incoming.method,
      path: incoming.url,
      headers: incoming.rawHeaders,
    });
    onward.on("error", () => incoming.socket.destroy());
    onward.on("response", (response) => void respond(response, outgoing, fault));
    incoming.pipe(onward);
  }
}

function describe({ method = "", url = "", headers }: IncomingMessage): SeenRequest {
  return { method, url, headers };
}

function answer(outgoing: ServerResponse, { status, code, text = "" }: Extract<Fault, { kind: "answer" }>): void {
  const document = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${text}</Message></Error>`;
  const body = code === undefined ? text : document;
  outgoing.writeHead(status, { "content-length": Buffer.byteLength(body) }).end(body);
}

async function respond(response: IncomingMessage, outgoing: ServerResponse, fault: Fault | undefined): Promise<void> {
  if (fault?.kind === "lose-answer") {
    await drain(response);
    outgoing.socket?.destroy();
    return;
  }
  const headers = { ...response.headers };
  if (fault?.kind === "meddle") {
    await fault.act?.();
    Object.assign(headers, fault.headers);
  }
  outgoing.writeHead(response.statusCode ?? 502, headers);
  let sent = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    if (fault?.kind === "cut-body" || fault?.kind === "stall-body") {
      outgoing.write(chunk.subarray(0, Math.max(0, fault.afterBytes - sent)));
    } else {
      if (fault?.kind === "flip-byte") flip(chunk, fault.at - sent);
      outgoing.write(chunk);
    }
    sent += chunk.length;
  }
  if (fault?.kind === "stall-body") return;
  if (fault?.kind === "cut-body") setTimeout(() => outgoing.socket?.destroy(), 20);
  else outgoing.end();
}

function flip(chunk: Buffer, at: number): void {
  const byte = chunk[at];
  if (byte !== undefined) chunk[at] = byte ^ 1;
}

async function drain(response: IncomingMessage): Promise<void> {
  for await (const _ of response) {
    // nothing wants it
  }
}
