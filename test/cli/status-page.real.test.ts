import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Chromium } from "../support/chromium.ts";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/wait.ts";

/*
 * The status page of a daemon beside a real Postfix and a repository with the backups of two hosts: as Prometheus and a
 * browser on a phone read it.
 */

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** A Postfix with mail, `mx1` that backs it up, and what `mx2` stored; then the daemon of mx1. */
class Scene implements AsyncDisposable {
  readonly scratch = makeScratch();
  readonly config: string;
  readonly url: string;
  said = "";
  readonly #postfix: PrivatePostfix;
  readonly #site: Site;
  #daemon: ChildProcess | undefined;

  private constructor(postfix: PrivatePostfix, site: Site, port: number) {
    this.#postfix = postfix;
    this.#site = site;
    this.url = `http://127.0.0.1:${port}`;
    this.config = site.configure([postfix]);
    mkdirSync(join(this.scratch, "textfiles"));
    appendFileSync(
      this.config,
      [
        "[schedule]",
        'timezone = "Europe/Paris"',
        'backup = "0 0 1 1 *"',
        "[status]",
        `listen = "127.0.0.1:${port}"`,
        `textfile = ${JSON.stringify(this.textfile)}`,
        "",
      ].join("\n"),
    );
  }

  get textfile(): string {
    return join(this.scratch, "textfiles/spoolsafe.prom");
  }

  static async make(): Promise<Scene> {
    const postfix = await PrivatePostfix.create({ name: "postfix-mx", longIds: true });
    await fillDeferred(postfix, 12);
    await postfix.start();
    const scene = new Scene(postfix, await Site.make(), await freePort());
    await scene.#site.backup(postfix, { host: "mx2.source.test", tags: ["<b>nightly</b>"] });
    for (let run = 0; run < 2; run++) {
      const backup = await spoolsafe(["backup", "--config", scene.config]);
      expect(backup.stderr + backup.code).toMatch(/0$/);
    }
    scene.#start();
    await until(async () => (await scene.get("/")).text.includes("mx2.source.test"), {
      timeoutMs: 60_000,
      what: () => scene.said,
    });
    return scene;
  }

  #start(): void {
    const program = join(builtProgram(), "spoolsafe.js");
    this.#daemon = spawn(process.execPath, [program, "schedule", "run", "--config", this.config], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#daemon.stderr?.on("data", (chunk: Buffer) => {
      this.said += chunk.toString();
    });
  }

  async get(path: string, init: RequestInit = {}) {
    try {
      const response = await fetch(`${this.url}${path}`, init);
      return { status: response.status, type: response.headers.get("content-type"), text: await response.text() };
    } catch {
      return { status: 0, type: null, text: "" };
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const daemon = this.#daemon;
    if (daemon !== undefined && daemon.exitCode === null) {
      const ended = new Promise((resolve) => daemon.on("close", resolve));
      daemon.kill("SIGTERM");
      await ended;
    }
    this.#postfix.destroy();
    await this.#site[Symbol.asyncDispose]();
    destroyScratch(this.scratch);
  }
}

describe.skipIf(!needs("root", "postfix", "flock", "chromium", "promtool"))("the status page of a daemon", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await Scene.make();
  });
  afterAll(() => scene?.[Symbol.asyncDispose]());

  test("is well where all is well, and has what status has", async () => {
    expect(await scene.get("/healthz")).toEqual({ status: 200, type: "text/plain; charset=utf-8", text: "ok\n" });
    const { status, type, text } = await scene.get("/metrics");
    expect([status, type]).toEqual([200, "text/plain; version=0.0.4; charset=utf-8"]);
    const parsed = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
    expect([parsed.status, parsed.stdout + parsed.stderr]).toEqual([0, ""]);
    expect(text).toMatch(/^spoolsafe_queue_messages\{.*queue="deferred"\} 12$/m);
    const told = await spoolsafe(["status", "--format", "prometheus", "--config", scene.config]);
    const names = (metrics: string) => [...metrics.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    expect(names(text)).toEqual(names(told.stdout));
    // Asked again where a minute has begun in between.
    await until(async () => (await scene.get("/metrics")).text === readFileSync(scene.textfile, "utf8"));
    expect((await scene.get("/", { method: "POST" })).status).toBe(405);
    expect((await scene.get("/restore")).status).toBe(404);
  });

  test("answers at once, whatever is going on", async () => {
    const times: number[] = [];
    for (let n = 0; n < 20; n++) {
      const before = performance.now();
      await scene.get("/");
      times.push(performance.now() - before);
    }
    const median = times.sort((a, b) => a - b)[10];
    expect(median).toBeLessThan(100);
  });

  test("fits a phone, light and dark, asks nobody for anything, and breaks none of its own rules", async () => {
    await using chromium = await Chromium.launch();
    const [light, dark] = [
      await chromium.see(`${scene.url}/`, { width: 360, height: 740 }),
      await chromium.see(`${scene.url}/`, { width: 360, height: 740, dark: true }),
    ];
    for (const seen of [light, dark]) {
      expect(seen.title).toBe("mx1.source.test: all is well");
      expect([seen.clientWidth, seen.scrollWidth]).toEqual([360, 360]);
      expect(seen.requests.filter((url) => !url.startsWith("data:"))).toEqual([`${scene.url}/`]);
      expect(seen.complaints).toEqual([]);
      expect(seen.png.subarray(1, 4).toString()).toBe("PNG");
    }
    expect(light.background).toBe("rgb(246, 247, 248)");
    expect(dark.background).toBe("rgb(20, 23, 26)");
    expect(light.text).toMatch(/mx1\.source\.test \(this host\) \d+[sm] ago/);
    expect(light.text).toMatch(/mx2\.source\.test \d+[sm] ago/);
    expect(light.text).toMatch(/7 days: 2 made, 0 failed/);
    expect(light.text).toMatch(/postfix-mx\n+12 messages, 100 % of them deferred/);
    expect(light.text).toContain("(Europe/Paris)");
  });

  test("a second daemon with the same port goes on without the page, and says so", async () => {
    const config = join(scene.scratch, "second.toml");
    const text = readFileSync(scene.config, "utf8");
    const state = JSON.stringify(join(scene.scratch, "second"));
    appendFileSync(config, text.replace(/^state_directory = .*$/m, `state_directory = ${state}`));
    const ended = await spoolsafe(["schedule", "run", "--config", config], {
      meanwhile: (child) => {
        let said = "";
        child.stderr?.on("data", async (chunk: Buffer) => {
          said += chunk.toString();
          if (!said.includes("another program has this port") || child.killed) return;
          const status = await spoolsafe(["status", "--json", "--config", config]);
          names.push(...status.json.map(({ name }) => name));
          child.kill("SIGTERM");
        });
      },
    });
    expect(names).toContain("status-page");
    expect(ended.code).toBe(0);
    expect(ended.stderr).toMatch(/warning: the status page can't be served at 127\.0\.0\.1:\d+: another program/);
    const after = await spoolsafe(["status", "--json", "--config", config]);
    expect(after.json.map(({ name }) => name)).not.toContain("status-page");
  });
  const names: unknown[] = [];
});
