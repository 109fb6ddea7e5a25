import { appendFileSync, chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readJob } from "../../src/jobs/record.ts";
import { tryLock } from "../../src/system/lock.ts";
import { spoolsafe } from "../support/cli.ts";
import { Listener } from "../support/listener.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/wait.ts";

/*
 * The command as it runs alone at night: what heartbeat, webhook, command and relay hear of each way a backup can end, and
 * that its exit code is the same whatever becomes of them.
 */

/** A stopped Postfix with a little mail, keys and a repository, and everybody who can be told. */
class Night implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly site: Site;
  readonly listener: Listener;
  readonly sink: Sink;
  readonly config: string;

  private constructor(postfix: PrivatePostfix, site: Site, listener: Listener, sink: Sink) {
    this.postfix = postfix;
    this.site = site;
    this.listener = listener;
    this.sink = sink;
    this.config = site.configure([postfix]);
    const alerts = [
      "[alerts]",
      `heartbeat_url = "${listener.url("/beat")}"`,
      `webhook_url = "${listener.url("/hook")}"`,
      `command = ["sh", "-c", "cat >> ${this.out}; echo >> ${this.out}; exit 1"]`,
      `smtp = "smtp://127.0.0.1:${sink.port("ops.test")}"`,
      'smtp_from = "spoolsafe@mx1.source.test"',
      'smtp_to = ["ops@ops.test"]',
    ];
    appendFileSync(this.config, `${alerts.join("\n")}\n`);
  }

  static async fall(): Promise<Night> {
    const sink = await Sink.start({
      domains: { "ops.test": {}, "defer.test": { rcpt: "450 4.2.0 later" } },
      keepBytes: true,
    });
    const postfix = await PrivatePostfix.start({ sink });
    await postfix.submit([plainLetter({ recipients: ["somebody@defer.test"] })]);
    await postfix.settled();
    await postfix.stop();
    return new Night(postfix, await Site.make(), await Listener.start(), sink);
  }

  get out(): string {
    return join(this.site.directory, "out");
  }

  backup(...more: Parameters<typeof spoolsafe>[1][]) {
    return spoolsafe(["backup", "--config", this.config], { ...more[0], timeoutMs: 60_000 });
  }

  /** What was heard since the last time. */
  heard() {
    const heard = this.listener.heard.splice(0);
    const calls = heard.map(({ method, target }) => `${method} ${target.split("?")[0]}`);
    const events = heard.filter(({ target }) => target === "/hook").map(({ body }) => JSON.parse(body));
    const out = existsSync(this.out) ? readFileSync(this.out, "utf8").trim().split(/\n+/) : [];
    rmSync(this.out, { force: true });
    return { heard, calls, events, commanded: out.map((line) => JSON.parse(line)) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.postfix.destroy();
    await this.listener[Symbol.asyncDispose]();
    await this.site[Symbol.asyncDispose]();
    await this.sink.close();
  }
}

describe.skipIf(!needs("root", "postfix"))("who hears of a backup", () => {
  const nights: Night[] = [];
  beforeAll(async () => {
    nights.push(...(await Promise.all([Night.fall(), Night.fall()])));
  });
  afterAll(async () => {
    for (const night of nights) await night[Symbol.asyncDispose]();
  });

  test.concurrent("success, incomplete, failure, a held lock, and well again", async () => {
    const [night] = nights as [Night];
    expect((await night.backup()).code).toBe(0);
    expect(night.heard()).toMatchObject({ calls: ["GET /beat/start", "GET /beat"], commanded: [] });

    const junk = join(night.postfix.queueDirectory, "deferred/0/0123456789");
    const flat = existsSync(join(night.postfix.queueDirectory, "deferred/0")) ? junk : junk.replace("/0/", "/");
    writeFileSync(flat, "no queue file");
    chmodSync(flat, 0o700);
    const incomplete = await night.backup();
    expect(incomplete.code).toBe(3);
    const third = night.heard();
    expect(third.calls).toEqual(["GET /beat/start", "POST /beat/3", "POST /hook"]);
    expect(third.events).toMatchObject([
      { key: "backup-incomplete", event: "raised", exit: 3, host: "mx1.source.test" },
    ]);
    expect(third.commanded).toMatchObject([{ key: "backup-incomplete", event: "raised" }]);
    // The command fails: that is told of, and changes nothing.
    expect(incomplete.stderr).toContain("an alert could not be sent (command): exit 1");
    rmSync(flat);

    const failed = await night.backup({ env: { SPOOLSAFE_REPOSITORY: "file:///nonexistent/repository" } });
    expect(failed.code).toBe(10);
    const fourth = night.heard();
    expect(fourth.calls).toEqual(["GET /beat/start", "POST /beat/fail", "POST /hook"]);
    expect(fourth.heard[1]?.body).toMatch(/^exit 10: .*\/nonexistent\/repository/);
    expect(fourth.events).toMatchObject([{ key: "backup-failed", event: "raised", exit: 10, severity: "critical" }]);

    const lock = await tryLock(night.postfix.queueDirectory);
    const locked = await night.backup();
    await lock?.release();
    expect(locked.code).toBe(11);
    expect(night.heard().calls.filter((call) => call.includes("/beat"))).toEqual([]);

    expect((await night.backup()).code).toBe(0);
    const last = night.heard();
    expect(last.calls.slice(0, 2)).toEqual(["GET /beat/start", "GET /beat"]);
    expect(last.events.map(({ key, event }) => `${key} ${event}`)).toEqual([
      "backup-incomplete resolved",
      "backup-failed resolved",
    ]);

    const mails = night.sink.deliveries.map(({ bytes }) => /^X-Spoolsafe-Alert: (.*)$/m.exec(String(bytes))?.[1]);
    expect(mails).toEqual([
      "backup-incomplete raised",
      "backup-failed raised",
      "backup-incomplete resolved",
      "backup-failed resolved",
    ]);
    expect(JSON.parse(readFileSync(join(night.site.stateDirectory, "alerts/unsent.json"), "utf8"))).toMatchObject([
      { channel: "command", error: "exit 1" },
      { channel: "command", error: "exit 1" },
    ]);
  });

  test.concurrent("SIGTERM, and a heartbeat that answers nothing", async () => {
    const night = nights[1] as Night;
    appendFileSync(night.config, '[limits]\nupload = "100B/s"\n');
    night.listener.answer = ({ target }) => (target.startsWith("/beat") ? "hang" : 200);
    const started = () => night.listener.heard.some(({ target }) => target.startsWith("/beat/start"));
    const { code } = await night.backup({
      meanwhile: (child) => void until(started).then(() => child.kill("SIGTERM")),
    });
    expect(code).toBe(130);
    const { calls, events } = night.heard();
    expect(calls.filter((call) => call !== "GET /beat/start")).toEqual(["POST /beat/fail", "POST /hook"]);
    expect(events).toMatchObject([{ key: "backup-failed", exit: 130, text: expect.stringContaining("SIGTERM") }]);
    expect(readJob(night.site.stateDirectory, "backup")).toMatchObject({ lastExit: 130, running: null });
  });
});
