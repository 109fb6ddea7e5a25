import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { BlockList, isIP } from "node:net";
import type { Health } from "../status/health.ts";
import { pagePolicy } from "../status/page-style.ts";

/** What is served, made before anybody asks. */
export interface StatusPages {
  readonly page: string;
  readonly metrics: string;
  readonly health: Health;
}

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/**
 * The status page, `/metrics` and `/healthz` over HTTP. It answers from memory, takes nothing but GET and HEAD, and changes
 * nothing. On loopback only those are answered who asked for a name of loopback: else a page of some other site could
 * have its own name lead here (DNS rebinding) and read along.
 */
export class StatusServer {
  readonly #address: ListenAddress;
  readonly #server: Server;
  #pages: StatusPages;
  #state: "closed" | "trying" | "listening" = "closed";

  constructor(address: ListenAddress, pages: StatusPages) {
    this.#address = address;
    this.#pages = pages;
    this.#server = createServer(limits, (request, response) => send(response, request.method, this.#answer(request)));
    this.#server.maxConnections = 64;
    // Without one an error after the start would end the daemon; `listen` is called again as soon as it does not listen.
    this.#server.on("error", () => this.#server.close());
    this.#server.on("close", () => {
      this.#state = "closed";
    });
  }

  /** Neither listening nor about to. */
  get closed(): boolean {
    return this.#state === "closed";
  }

  /** Whether only this machine can connect; known once it listens. */
  get isLoopback(): boolean {
    const bound = this.#server.address();
    return bound !== null && typeof bound === "object" && isLoopbackAddress(bound.address);
  }

  set pages(pages: StatusPages) {
    this.#pages = pages;
  }

  /** @throws Error of the system, when the address is in use or not one of this host */
  async listen(): Promise<void> {
    this.#state = "trying";
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error) => {
        this.#server.off("listening", listening);
        reject(error);
      };
      const listening = () => {
        this.#server.off("error", failed);
        resolve();
      };
      this.#server.once("error", failed).once("listening", listening);
      this.#server.listen({ ...this.#address, exclusive: true });
    });
    this.#state = "listening";
    this.#server.unref();
  }

  async close(): Promise<void> {
    if (this.#state !== "listening") return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #answer({ method = "", url = "", headers }: IncomingMessage): Answer {
    if (method !== "GET" && method !== "HEAD") {
      return { status: 405, type: plain, text: "GET and HEAD are all there is here.\n", more: { Allow: "GET, HEAD" } };
    }
    if (this.isLoopback && !this.#isAskedForUs(headers.host)) {
      return { status: 421, type: plain, text: "Ask by 127.0.0.1, [::1] or localhost.\n" };
    }
    const { page, metrics, health } = this.#pages;
    switch (url.replace(/[?#].*$/s, "")) {
      case "/":
        return { status: 200, type: "text/html; charset=utf-8", text: page, more: { [policy]: pagePolicy } };
      case "/metrics":
        return { status: metrics === "" ? 503 : 200, type: metricsType, text: metrics };
      case "/healthz":
        return { status: health.status, type: plain, text: health.text };
      default:
        return { status: 404, type: plain, text: "There are /, /metrics and /healthz.\n" };
    }
  }

  /** A request of HTTP/1.0 may name nobody; no browser sends one. */
  #isAskedForUs(host: string | undefined): boolean {
    if (host === undefined) return true;
    const name = host
      .replace(/:\d+$/, "")
      .replace(/^\[(.*)\]$/, "$1")
      .toLowerCase();
    return name === "localhost" || name === this.#address.host.toLowerCase() || isLoopbackAddress(name);
  }
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
  /** Further headers. */
  readonly more?: Readonly<Record<string, string>>;
}

const limits = { headersTimeout: 10_000, requestTimeout: 10_000, keepAliveTimeout: 5_000, maxHeaderSize: 8192 };
const policy = "Content-Security-Policy";
const plain = "text/plain; charset=utf-8";
/** Of the text exposition format of Prometheus. */
const metricsType = "text/plain; version=0.0.4; charset=utf-8";

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

/** Of an address, not of a name. */
export function isLoopbackAddress(address: string): boolean {
  return isIP(address) > 0 && loopback.check(address, isIP(address) === 6 ? "ipv6" : "ipv4");
}

function send(response: ServerResponse, method: string | undefined, { status, type, text, more }: Answer): void {
  const body = Buffer.from(text);
  response.writeHead(status, {
    "Content-Type": type,
    "Content-Length": body.length,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    ...more,
  });
  response.end(method === "HEAD" ? undefined : body);
}
