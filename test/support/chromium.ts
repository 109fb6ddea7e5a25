import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { destroyScratch, makeScratch } from "./scratch.ts";
import { until } from "./wait.ts";

export interface View {
  /** Of a phone: 360 to 430. */
  readonly width: number;
  readonly height: number;
  readonly dark?: boolean;
  /** Pixels of the screen for each of CSS; default 1. */
  readonly scale?: number;
}

/** What a browser made of a page. */
export interface Seen {
  readonly title: string;
  /** Widths in CSS pixels: of all there is, and of what can be seen at once. */
  readonly scrollWidth: number;
  readonly clientWidth: number;
  /** As computed: "rgb(20, 23, 26)". */
  readonly background: string;
  /** Text as a reader sees it. */
  readonly text: string;
  /** Every address that was asked, the page itself as well. */
  readonly requests: readonly string[];
  /** What was said on the console, such as a breach of the page's policy. */
  readonly complaints: readonly string[];
  readonly png: Buffer;
}

interface Reply {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

/**
 * Debian's Chromium without a window, led by its DevTools protocol: a window can't be as narrow as a phone, an emulated
 * device can. It reaches loopback and nothing else.
 */
export class Chromium implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #directory: string;
  readonly #port: number;

  private constructor(child: ChildProcess, directory: string, port: number) {
    this.#process = child;
    this.#directory = directory;
    this.#port = port;
  }

  static async launch(): Promise<Chromium> {
    const directory = makeScratch();
    const profile = join(directory, "profile");
    mkdirSync(profile);
    const quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
    const alone = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"];
    const machine = [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--hide-scrollbars",
      "--disable-lcd-text",
    ];
    const child = spawn(
      "chromium",
      [...machine, ...quiet, ...alone, "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"],
      { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, HOME: directory } },
    );
    let said = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    try {
      const port = await until(() => /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)\//.exec(said)?.[1], {
        timeoutMs: 60_000,
        what: () => `Chromium: ${said}`,
      });
      return new Chromium(child, directory, Number(port));
    } catch (error) {
      await end(child);
      destroyScratch(directory);
      throw error;
    }
  }

  /** Open a page in a tab of its own and look at it. */
  async see(url: string, { width, height, dark = false, scale = 1 }: View): Promise<Seen> {
    const made = await fetch(`http://127.0.0.1:${this.#port}/json/new?about:blank`, { method: "PUT" });
    const target = (await made.json()) as { readonly id: string; readonly webSocketDebuggerUrl: string };
    const tab = await Tab.open(target.webSocketDebuggerUrl);
    try {
      for (const domain of ["Page", "Network", "Runtime", "Log"]) await tab.ask(`${domain}.enable`);
      await tab.ask("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: scale, mobile: true });
      const scheme = { name: "prefers-color-scheme", value: dark ? "dark" : "light" };
      await tab.ask("Emulation.setEmulatedMedia", { features: [scheme] });
      await tab.ask("Page.navigate", { url });
      await until(() => tab.events("Page.loadEventFired").length > 0, {
        timeoutMs: 60_000,
        what: `${url} in Chromium`,
      });
      const value = await tab.evaluate(`({
        title: document.title,
        scrollWidth: document.documentElement.scrollWidth,
        clientWidth: document.documentElement.clientWidth,
        background: getComputedStyle(document.body).backgroundColor,
        text: document.body.innerText,
      })`);
      const shot = await tab.ask("Page.captureScreenshot", { format: "png", captureBeyondViewport: false });
      return {
        ...(value as Omit<Seen, "requests" | "complaints" | "png">),
        requests: tab
          .events("Network.requestWillBeSent")
          .map(({ request }) => String((request as { url: string }).url)),
        complaints: [...tab.events("Log.entryAdded"), ...tab.events("Runtime.exceptionThrown")].map((entry) =>
          JSON.stringify(entry),
        ),
        png: Buffer.from(String(shot.data), "base64"),
      };
    } finally {
      tab.close();
      await fetch(`http://127.0.0.1:${this.#port}/json/close/${target.id}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#process);
    destroyScratch(this.#directory);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.on("close", resolve));
  child.kill("SIGTERM");
  const kill = setTimeout(() => child.kill("SIGKILL"), 5000);
  await ended;
  clearTimeout(kill);
}

class Tab {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  readonly #events: Reply[] = [];
  #asked = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      const reply: Reply = JSON.parse(String(data));
      if (reply.id === undefined) this.#events.push(reply);
      else this.#waiting.get(reply.id)?.(reply);
    });
  }

  static async open(url: string): Promise<Tab> {
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve);
      socket.addEventListener("error", () => reject(new Error(`no connection to ${url}`)));
    });
    return new Tab(socket);
  }

  async ask(method: string, params: object = {}): Promise<Readonly<Record<string, unknown>>> {
    const id = ++this.#asked;
    const reply = await new Promise<Reply>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method, params }));
    });
    if (reply.error !== undefined) throw new Error(`${method}: ${reply.error.message}`);
    return reply.result ?? {};
  }

  async evaluate(expression: string): Promise<unknown> {
    const { result } = await this.ask("Runtime.evaluate", { expression, returnByValue: true });
    return (result as { readonly value: unknown }).value;
  }

  events(method: string): Readonly<Record<string, unknown>>[] {
    return this.#events.flatMap((event) => (event.method === method ? [event.params ?? {}] : []));
  }

  close(): void {
    this.#socket.close();
  }
}
