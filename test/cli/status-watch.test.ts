import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createContext } from "../../src/cli/context.ts";
import { Render } from "../../src/cli/render.ts";
import { StatusWatch } from "../../src/cli/status-watch.ts";
import { daemonFaults } from "../../src/status/daemon-faults.ts";
import { HandMade } from "../support/hand-made.ts";
import { until } from "../support/wait.ts";

/** What a daemon says, in place of its terminal. */
class News extends Render {
  readonly said: string[] = [];

  constructor() {
    super({ json: false, quiet: true, verbose: false });
  }

  override note(text: string): void {
    this.said.push(text);
  }

  override warn(text: string): void {
    this.said.push(`warning: ${text}`);
  }
}

let made: HandMade;
let other: Server;
let port: number;
let state: string;
beforeEach(async () => {
  made = await HandMade.make();
  state = join(made.directory, "state");
  other = createServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  port = (other.address() as AddressInfo).port;
});
afterEach(async () => {
  await new Promise((resolve) => other.close(resolve));
  await made[Symbol.asyncDispose]();
});

/** A standby whose Postfix is not there, so that this machine's own is left alone. */
function configure(): string {
  const file = join(made.directory, "spoolsafe.toml");
  const path = (name: string) => JSON.stringify(join(made.directory, name));
  const lines = [
    'host = "standby.test"',
    `state_directory = ${path("state")}`,
    `repository.url = ${JSON.stringify(made.repository.store.url)}`,
    `signing.trusted_keys_file = ${path("trusted.pub")}`,
    `postfix.config_directories = [${path("no-postfix")}]`,
    'schedule.verify = "0 4 * * 0"',
    `status.listen = "127.0.0.1:${port}"`,
    `status.textfile = ${path("textfiles/spoolsafe.prom")}`,
  ];
  writeFileSync(file, `${lines.join("\n")}\n`);
  return file;
}

async function get(path: string): Promise<string> {
  return await (await fetch(`http://127.0.0.1:${port}${path}`)).text();
}

test("what can't be done is told of once, shown by status, and done when it can be", { timeout: 180_000 }, async () => {
  await made.take({ over: { host: "mx1.test", time: new Date().toISOString() } });
  const news = new News();
  const globals = { config: configure() };
  const signal = new AbortController().signal;
  const context = createContext({ globals, render: news, env: {}, cwd: made.directory, signal });
  const watch = new StatusWatch(context, { hostMs: 250, repositoryMs: 100, retryMs: 100 });
  watch.start();
  try {
    const faults = () => daemonFaults(state).map(({ name }) => name);
    await until(() => faults().length === 2, { what: () => news.said.join("\n") });
    expect(faults().sort()).toEqual(["status-page", "textfile"]);
    expect(news.said).toEqual([
      `warning: the status page can't be served at 127.0.0.1:${port}: another program has this port`,
      expect.stringMatching(/^warning: the textfile .* can't be written/),
    ]);

    await new Promise((resolve) => other.close(resolve));
    mkdirSync(join(made.directory, "textfiles"));
    await until(() => faults().length === 0, { what: () => news.said.join("\n") });
    expect(news.said.slice(2)).toEqual([`the status page is served at 127.0.0.1:${port}`]);
    expect(readFileSync(join(made.directory, "textfiles/spoolsafe.prom"), "utf8")).toContain("spoolsafe_ok{");
    await until(async () => (await get("/")).includes("mx1.test"));
    await until(async () => /^critical\ncritical unseen: /.test(await get("/healthz")));

    // The store goes: what it said stays, with its age.
    renameSync(join(made.directory, "repository"), join(made.directory, "gone"));
    await until(async () => (await get("/")).includes("it does not answer now"), { what: () => "a failing store" });
    expect(await get("/")).toContain("mx1.test");
    renameSync(join(made.directory, "gone"), join(made.directory, "repository"));
    await until(async () => !(await get("/")).includes("it does not answer now"));

    // So does the configuration.
    writeFileSync(globals.config, "nonsense = 1\n");
    await until(async () => (await get("/")).includes("nonsense"), { timeoutMs: 60_000 });
    await until(async () => (await get("/healthz")).includes("status-stale"), { timeoutMs: 60_000 });
  } finally {
    await watch.stop();
  }
  await expect(get("/")).rejects.toThrow();
  expect(existsSync(join(state, "schedule-faults.json"))).toBe(false);
});

test("does nothing where nothing is asked for", async () => {
  const file = join(made.directory, "bare.toml");
  writeFileSync(file, "");
  const news = new News();
  const signal = new AbortController().signal;
  const watch = new StatusWatch(createContext({ globals: { config: file }, render: news, env: {}, cwd: "/", signal }));
  watch.start();
  watch.jobEnded();
  await watch.stop();
  expect(news.said).toEqual([]);
});
