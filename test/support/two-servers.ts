import { appendFileSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { Standby } from "../doctor/standby.ts";
import { spoolsafe } from "./cli.ts";
import { type Letter, PrivatePostfix, plainLetter, type Submitted, until } from "./postfix.ts";
import { ownProgram } from "./runbook.ts";
import { Sink } from "./sink.ts";
import { Site } from "./site.ts";

/**
 * A mail server with mail in its queue, another host that is to take it over, and the repository between them. Both deliver
 * to one sink, which counts. The keys of each are trusted by the other.
 */
export class TwoServers implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly old: PrivatePostfix;
  readonly fresh: PrivatePostfix;
  readonly standby: Standby;
  /** All that was ever handed in at the old server and belongs to its snapshot. */
  readonly letters: Submitted[] = [];
  readonly #service: Service;

  private constructor(site: Site, sink: Sink, old: PrivatePostfix, fresh: PrivatePostfix, service: Service) {
    this.site = site;
    this.sink = sink;
    this.old = old;
    this.fresh = fresh;
    this.#service = service;
    this.standby = new Standby(site, [fresh]);
    appendFileSync(join(site.directory, "trusted.pub"), this.standby.key.publicPem);
  }

  /** Both run; the sink refuses good.test for now. */
  static async make(): Promise<TwoServers> {
    const site = await Site.make();
    const sink = await Sink.start({
      domains: { "good.test": { rcpt: "450 4.2.0 try later" }, "probe.test": {}, "slow.test": { delayMs: 5000 } },
    });
    const [old, fresh] = await Promise.all([
      PrivatePostfix.start({ sink, main: { defer_transports: "uucp", master_service_disable: "relay.unix" } }),
      PrivatePostfix.start({ sink, main: { myhostname: "mx2.standby.test", maximal_queue_lifetime: "3d" } }),
    ]);
    return new TwoServers(site, sink, old, fresh, await Service.reserve());
  }

  /** Values that runbooks of a takeover want. */
  get values(): Record<string, string> {
    return {
      ...{ OLD_HOST: "mx1.source.test", OLD_ADDRESS: "127.0.0.1", OLD_PORT: String(this.old.port) },
      ...{ OLD_LOGS: join(this.site.directory, "old-logs"), PROBE: "somebody@probe.test", RATE: "6000/min" },
      ...{ SERVICE_HOST: "127.0.0.1", SERVICE_PORT: String(this.#service.port) },
    };
  }

  /** Hand mail for good.test in at the old server and wait until it is deferred. */
  async defer(count: number, name = "a"): Promise<Submitted[]> {
    const letters = Array.from(
      { length: count },
      (_, n): Letter => plainLetter({ recipients: [`${name}${n}@good.test`] }),
    );
    const sent = await this.old.submit(letters);
    await this.old.settled();
    this.letters.push(...sent);
    return sent;
  }

  /** The sink takes this one, and the old server delivers it. */
  async deliverAtOld({ queueId, recipients }: Submitted): Promise<void> {
    for (const address of recipients) this.sink.set(address, {});
    await this.old.wake(queueId);
    await until(() => this.old.find(queueId) === undefined, { what: "its delivery" });
  }

  /** Mail logs of the old server, where a runbook looks for them. */
  saveLogs(): void {
    const directory = join(this.site.directory, "old-logs");
    mkdirSync(directory, { recursive: true });
    copyFileSync(this.old.logFile, join(directory, "mail.log"));
  }

  /** What clients send to leads to this instance from now on. */
  async serve(postfix: PrivatePostfix): Promise<void> {
    await this.#service.lead(postfix.port);
  }

  /**
   * A program that is called as ssh is, `REMOTE LOGIN COMMAND...`, and reaches this instance.
   *
   * @param config of its spoolsafe
   * @returns its path
   */
  remote(postfix: PrivatePostfix, config: string): string {
    const bin = join(postfix.directory, "bin");
    mkdirSync(bin, { recursive: true });
    const spoolsafe = ownProgram()
      .map((word) => `'${word}'`)
      .join(" ");
    const script = (name: string, text: string): string => {
      writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
      return join(bin, name);
    };
    script("spoolsafe", `exec ${spoolsafe} --config '${config}' "$@"`);
    const environment = `MAIL_CONFIG='${postfix.configDirectory}' PATH='${bin}':/usr/sbin:/usr/bin:/sbin:/bin`;
    // As ssh, it reads all of its input.
    return script("remote", `shift\ncat > /dev/null\nexec env ${environment} sh -c "$*"`);
  }

  /** What is to be done on the old server before its Postfix starts again; its summary. */
  async fence(postfix: PrivatePostfix): Promise<unknown> {
    const { code, json } = await spoolsafe(["holds", "fence", "--json", "--config", this.site.configure([postfix])]);
    if (code !== 0) throw new Error(`the fence ended with ${code}`);
    return json.at(-1);
  }

  /** Paths of files on hold that have this letter. */
  onHold(postfix: PrivatePostfix, { messageId }: Letter): string[] {
    return postfix.files("hold").filter((path) => readFileSync(path).includes(messageId));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#service.close();
    for (const postfix of [this.old, this.fresh]) postfix.destroy();
    await this.sink.close();
    await this.standby[Symbol.asyncDispose]();
    await this.site[Symbol.asyncDispose]();
  }
}

/** An address that leads nowhere first, and then to a server. */
class Service {
  readonly port: number;
  #server: Server | undefined;

  private constructor(port: number) {
    this.port = port;
  }

  static async reserve(): Promise<Service> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return new Service(port);
  }

  async lead(to: number): Promise<void> {
    this.close();
    const server = createServer((client) => {
      const there = connect(to, "127.0.0.1");
      for (const end of [client, there]) end.on("error", () => {});
      client.pipe(there).pipe(client);
    });
    this.#server = server.unref();
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject).listen(this.port, "127.0.0.1", resolve);
    });
  }

  close(): void {
    this.#server?.close();
  }
}
