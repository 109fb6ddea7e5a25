import { existsSync, readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter, type Submitted } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

/** A port of this machine that refuses everybody until it is opened, and then leads to another. */
class Gate implements AsyncDisposable {
  readonly port: number;
  #server: Server | undefined;

  private constructor(port: number) {
    this.port = port;
  }

  static async make(): Promise<Gate> {
    const server = await listening(createServer(), 0);
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    return new Gate(port);
  }

  async open(to: number): Promise<void> {
    const server = createServer((socket) => {
      const behind = connect({ port: to, host: "127.0.0.1" });
      socket.pipe(behind).pipe(socket);
      for (const each of [socket, behind]) each.on("error", () => {});
    });
    this.#server = await listening(server, this.port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server?.close();
  }
}

function listening(server: Server, port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.unref().listen({ host: "127.0.0.1", port }, () => resolve(server));
  });
}

describeRunbook("11-deferred-backlog", (scenes) => {
  test("a site that was down gets its mail by a lane of its own, and the way back is one", {
    timeout: 180_000,
  }, async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": {} } });
    await using gate = await Gate.make();
    const transports = { "slow.test": `smtp:[127.0.0.1]:${gate.port}` };
    await using postfix = await PrivatePostfix.start({ sink, transports });
    const slow = await postfix.submit(lettersTo("slow.test", 24));
    const others = await postfix.submit(lettersTo("elsewhere.test", 2));
    const [held] = await postfix.submit(lettersTo("slow.test", 1));
    await postfix.settled();
    const letters: Submitted[] = [...slow, ...others, ...(held === undefined ? [] : [held])];
    await postfix.hold([held?.queueId ?? ""]);
    const config = site.configure([postfix]);
    const configured = configurationOf(postfix);
    const start = await StartState.of(postfix, { letters, sink });

    const run = await scenes.run({
      postfix,
      config,
      set: {
        SITE_HOST: "127.0.0.1",
        SITE_PORT: String(gate.port),
        HOP: `[127.0.0.1]:${gate.port}`,
        RUN_DELAY: "200s",
        MINIMAL_BACKOFF: "250s",
        PROCESSES: "50",
        PAUSE: "0",
      },
      answers: { mend: "yes" },
      beforeAction: async (step) => {
        if (step === "mend") await gate.open(sink.port("slow.test"));
      },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 7, skipped: 0 });
    expect(sink.deliveries).toHaveLength(24);
    // A service's processes lock a file of its name: deliveries went by the lane.
    expect(existsSync(join(postfix.queueDirectory, "pid", "unix.lane"))).toBe(true);
    await start.expectKept(run);
    expect(configurationOf(postfix)).not.toEqual(configured);

    await scenes.undo(run);
    expect(configurationOf(postfix)).toEqual(configured);
    await start.expectKept(run);
  });
});

function lettersTo(domain: string, count: number) {
  return Array.from({ length: count }, (_, n) => plainLetter({ recipients: [`a${n}@${domain}`] }));
}

function configurationOf({ configDirectory }: PrivatePostfix): string[] {
  return ["main.cf", "master.cf"].map((name) => readFileSync(join(configDirectory, name), "utf8"));
}
