import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server } from "node:net";
import { join } from "node:path";
import type { Letter } from "../support/smtp.ts";

/** A listener on the host's loopback that the mail and the configuration of a primary lead to. Nobody is to come. */
export class Trap implements AsyncDisposable {
  visitors = 0;
  readonly port: number;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    server.on("connection", (socket) => {
      this.visitors++;
      socket.on("error", () => {});
      socket.destroy();
    });
  }

  static async open(): Promise<Trap> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new Trap(server);
  }

  /** A content filter and a redirection, chosen by a header, and a way out for everything else. */
  leadHere(directory: string): Readonly<Record<string, string>> {
    const checks = join(directory, "header_checks");
    const lines = [`/^X-Filtered:/ FILTER smtp:[127.0.0.1]:${this.port}`, "/^X-Redirected:/ REDIRECT spy@outside.test"];
    writeFileSync(checks, `${lines.join("\n")}\n`);
    return {
      header_checks: `regexp:${checks}`,
      relayhost: `[127.0.0.1]:${this.port}`,
      default_transport: `smtp:[127.0.0.1]:${this.port}`,
      relay_transport: `smtp:[127.0.0.1]:${this.port}`,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** A letter with one more line in its header. */
export function withHeader(letter: Letter, line: string): Letter {
  return { ...letter, text: Buffer.concat([Buffer.from(`${line}\n`), letter.text]) };
}
