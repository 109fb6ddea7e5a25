import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Alarm, type AlarmOptions } from "../../src/alerts/alarm.ts";
import type { Patience } from "../../src/alerts/attempt.ts";
import type { AlertSettings } from "../../src/alerts/channels.ts";
import { type JobName, recordEnd, recordStart } from "../../src/jobs/record.ts";
import { processStart } from "../../src/system/processes.ts";
import { Listener, nobodyThere } from "../support/listener.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { until } from "../support/wait.ts";

const start = Date.parse("2026-11-24T12:00:00.000Z");
const patience: Patience = { timeoutMs: 5000, tries: 3, pauseMs: 5 };
/** For those who never answer. */
const hasty = { patience: { ...patience, timeoutMs: 200 } };
const minute = 60_000;
const hour = 60 * minute;

let state = "";
let now = start;
beforeEach(() => {
  state = makeScratch();
  now = start;
});
afterEach(() => destroyScratch(state));

function alarm(settings: Partial<AlertSettings>, options: Partial<AlarmOptions> = {}): Alarm {
  return new Alarm({
    stateDirectory: state,
    settings: { command: [], ...settings },
    limits: [{ job: "backup", maxAgeMs: 26 * hour }],
    host: async () => "mx1.test",
    now: () => now,
    patience,
    ...options,
  });
}

/** A run that begins and ends now, and the alerts about its end. */
async function runs(
  from: Alarm,
  exit: number,
  { job = "backup" as JobName, messages = 7, message = null as string | null } = {},
) {
  now += 1000;
  const run = recordStart(state, { job, now: new Date(now) });
  now += 1000;
  recordEnd(state, run, { exit, now: new Date(now), detail: { messages } });
  return await from.raiseEnd({ outcome: { job, start: run.start, exit, message } });
}

function unsent(): unknown {
  return JSON.parse(readFileSync(join(state, "alerts/unsent.json"), "utf8"));
}

function events(webhook: Listener): string[] {
  return webhook.heard.map(({ body }) => JSON.parse(body)).map(({ key, event }) => `${key} ${event}`);
}

describe("webhook", () => {
  test("gets what happened as JSON: once when it begins, daily, and when it is well again", async () => {
    await using webhook = await Listener.start();
    const it = alarm({ webhookUrl: webhook.url("/hook?token=x") });
    await runs(it, 0);
    expect(webhook.heard).toEqual([]);
    await runs(it, 1, { message: "the disk\nis full" });
    await runs(it, 1);
    expect(webhook.heard).toHaveLength(1);
    expect(webhook.heard[0]).toMatchObject({ method: "POST", target: "/hook?token=x" });
    expect(webhook.heard[0]?.headers["content-type"]).toBe("application/json");
    expect(JSON.parse(webhook.heard[0]?.body ?? "")).toMatchObject({
      type: "alert",
      event: "raised",
      key: "backup-failed",
      severity: "critical",
      host: "mx1.test",
      exit: 1,
      text: "mx1.test: backup failed (exit 1): the disk is full",
    });
    now += 24 * hour;
    await runs(it, 1);
    await runs(it, 3);
    await runs(it, 0);
    await runs(it, 0);
    expect(events(webhook)).toEqual([
      "backup-failed raised",
      "backup-failed reminder",
      "backup-incomplete raised",
      "backup-failed resolved",
      "backup-incomplete resolved",
    ]);
    expect(unsent()).toEqual([]);
  });

  test("hears nothing of a run that found the lock held", async () => {
    await using webhook = await Listener.start();
    await runs(alarm({ webhookUrl: webhook.url("/") }), 11);
    expect(webhook.heard).toEqual([]);
  });

  test("hears of each job by itself", async () => {
    await using webhook = await Listener.start();
    const it = alarm({ webhookUrl: webhook.url("/") });
    await runs(it, 13, { job: "verify" });
    await runs(it, 0);
    await runs(it, 1, { job: "drill" });
    expect(events(webhook)).toEqual(["verify-failed raised", "drill-failed raised"]);
  });

  test("hears of nothing to back up where there always was something", async () => {
    await using webhook = await Listener.start();
    const it = alarm({ webhookUrl: webhook.url("/") });
    for (let n = 1; n <= 12; n++) await runs(it, 0, { messages: n });
    const { conditions } = await runs(it, 0, { messages: 0 });
    expect(conditions).toMatchObject([{ kind: "empty", job: "backup" }]);
    await runs(it, 0, { messages: 4 });
    expect(events(webhook)).toEqual(["backup-empty raised", "backup-empty resolved"]);
  });
});

describe("looks by the minute", () => {
  test("raise an alarm over age, though no run fails", async () => {
    await using webhook = await Listener.start();
    const it = alarm({ webhookUrl: webhook.url("/") });
    await runs(it, 0);
    for (let minutes = 0; minutes < 28 * 60; minutes += 10, now += 10 * minute) await it.raiseAges();
    expect(events(webhook)).toEqual(["backup-old raised"]);
    expect(JSON.parse(webhook.heard[0]?.body ?? "").text).toContain("26 h ago; the limit is 26 h");
    await runs(it, 0);
    expect(events(webhook)).toEqual(["backup-old raised", "backup-old resolved"]);
  });

  test("find a run that was killed before it could say so", async () => {
    await using webhook = await Listener.start();
    recordStart(state, { job: "backup", now: new Date(now), process: { pid: 1, startTicks: "no such start" } });
    await alarm({ webhookUrl: webhook.url("/") }).raiseAges();
    expect(events(webhook)).toEqual(["backup-failed raised"]);
  });

  test("of two at a time, one tells it", async () => {
    await using webhook = await Listener.start();
    const settings = { webhookUrl: webhook.url("/") };
    await runs(alarm({}), 1);
    // Longer than the others wait.
    webhook.answer = async () => {
      await delay(500);
      return 200;
    };
    await Promise.all([alarm(settings).raiseAges(), alarm(settings).raiseAges(), alarm(settings).raiseAges()]);
    await alarm(settings).raiseAges();
    expect(events(webhook)).toEqual(["backup-failed raised"]);
  });

  test("write nothing when there is nothing new", async () => {
    const it = alarm({});
    await it.raiseAges();
    const file = join(state, "alerts/state.json");
    const before = readFileSync(file, "utf8");
    rmSync(file);
    writeFileSync(file, before);
    now += minute;
    await it.raiseAges();
    expect(readFileSync(file, "utf8")).toBe(before);
    expect(JSON.parse(before).watchedSince).toBe(new Date(start).toISOString());
  });
});

describe("what can't be sent", () => {
  test("is written down for status, doesn't hold up the other channels, and is sent once it can be", async () => {
    await using webhook = await Listener.start();
    webhook.answer = 500;
    const out = join(state, "out");
    const settings = { webhookUrl: webhook.url("/secret"), command: ["sh", "-c", `cat >> ${out}`] };
    const it = alarm(settings);
    const failedAt = new Date(start + 2000).toISOString();
    await runs(it, 1);
    expect(readFileSync(out, "utf8")).toContain("backup-failed");
    expect(unsent()).toEqual([{ time: failedAt, channel: "webhook", error: "answered 500" }]);
    expect(webhook.heard).toHaveLength(3);
    // It rests for a minute, then for two.
    await it.raiseAges();
    expect(webhook.heard).toHaveLength(3);
    now += minute;
    await it.raiseAges();
    expect(webhook.heard).toHaveLength(6);
    now += minute;
    await it.raiseAges();
    expect(webhook.heard).toHaveLength(6);
    webhook.answer = 200;
    now += minute;
    expect(await it.raiseAges()).toMatchObject({ told: 1, unsent: [] });
    expect(unsent()).toEqual([]);
    expect(readFileSync(out, "utf8").trim().split("\n")).toHaveLength(1);
  });

  test("stays written down until the channel works, also when all is well", async () => {
    const it = alarm({ webhookUrl: await nobodyThere("/secret") });
    await runs(it, 1);
    await runs(it, 0);
    expect(unsent()).toMatchObject([{ channel: "webhook", error: expect.stringContaining("ECONNREFUSED") }]);
    expect(JSON.stringify(unsent())).not.toContain("secret");
    await runs(alarm({}), 0);
    expect(unsent()).toEqual([]);
  });

  test("a webhook that hangs is given up in time", async () => {
    await using webhook = await Listener.start();
    webhook.answer = "hang";
    const from = performance.now();
    await runs(alarm({ webhookUrl: webhook.url("/") }, hasty), 1);
    expect(performance.now() - from).toBeLessThan(10_000); // without a limit: for ever
    expect(unsent()).toMatchObject([{ channel: "webhook", error: "no answer within 0.2 s" }]);
  });

  test("a heartbeat counts as well", async () => {
    const it = alarm({ heartbeatUrl: "http://127.0.0.1:1/" });
    const outcome = { job: "backup", start: new Date(now).toISOString(), exit: 0, message: null } as const;
    await it.raiseEnd({ outcome, heartbeat: { channel: "heartbeat", error: "answered 500" } });
    expect(unsent()).toMatchObject([{ channel: "heartbeat", error: "answered 500" }]);
    await it.raiseEnd({ outcome, heartbeat: { channel: "heartbeat", error: null } });
    expect(unsent()).toEqual([]);
  });
});

describe("where the state directory can't be written", () => {
  test("a failure is told all the same, and by a daemon once", async () => {
    await using webhook = await Listener.start();
    writeFileSync(join(state, "alerts"), "in the way");
    const it = alarm({ webhookUrl: webhook.url("/") });
    const outcome = { job: "backup", start: new Date(now).toISOString(), exit: 1, message: "no room" } as const;
    await expect(it.raiseEnd({ outcome })).rejects.toThrow(/EEXIST/);
    now += minute;
    await it.raiseEnd({ outcome });
    expect(events(webhook)).toEqual(["backup-failed raised"]);
  });

  test("a state that is damaged is as good as none", async () => {
    await using webhook = await Listener.start();
    const it = alarm({ webhookUrl: webhook.url("/") });
    await runs(it, 1);
    writeFileSync(join(state, "alerts/state.json"), '{"version":1');
    await it.raiseAges();
    expect(events(webhook)).toEqual(["backup-failed raised", "backup-failed raised"]);
  });
});

describe("command", () => {
  test("gets the event as JSON on standard input and its fields in the environment", async () => {
    const script = `cat > ${state}/stdin; env | grep ^SPOOLSAFE_ALERT_ | sort > ${state}/env; echo "$1" > ${state}/arg`;
    await runs(alarm({ command: ["sh", "-c", script, "sh", "a b; c"] }), 13);
    expect(JSON.parse(readFileSync(join(state, "stdin"), "utf8"))).toMatchObject({ event: "raised", exit: 13 });
    expect(readFileSync(join(state, "arg"), "utf8")).toBe("a b; c\n");
    const lines = readFileSync(join(state, "env"), "utf8").trim().split("\n");
    expect(lines.map((line) => line.split("=")[0]?.slice(16))).toEqual([
      "EVENT",
      "EXIT",
      "HOST",
      "JOB",
      "KEY",
      "KIND",
      "SEVERITY",
      "SINCE",
      "TEXT",
      "TIME",
    ]);
    expect(lines).toContain("SPOOLSAFE_ALERT_EXIT=13");
  });

  test.each([
    ["fails", ["sh", "-c", "echo first >&2; echo no such pager >&2; exit 4"], "exit 4: no such pager"],
    ["is not there", ["/nonexistent/pager"], "spawn /nonexistent/pager ENOENT"],
    ["is killed", ["sh", "-c", "kill -9 $$"], "ended by SIGKILL"],
    ["hangs", ["sleep", "600"], "no answer within 0.2 s"],
  ])("that %s is written down", async (_, command, error) => {
    await runs(alarm({ command }, error.startsWith("no answer") ? hasty : {}), 1);
    expect(unsent()).toMatchObject([{ channel: "command", error }]);
  });

  test("that hangs is ended with all it has started", async () => {
    const pid = join(state, "pid");
    const { patience } = hasty;
    await runs(
      alarm({ command: ["sh", "-c", `sleep 600 & echo $! > ${pid}; wait`] }, { patience: { ...patience, tries: 1 } }),
      1,
    );
    const started = Number(readFileSync(pid, "utf8"));
    await until(() => processStart(started) === undefined);
  });

  test("that leaves something in the background is not waited for", async () => {
    const from = performance.now();
    await runs(alarm({ command: ["sh", "-c", "sleep 5 & exit 0"] }), 1);
    expect(performance.now() - from).toBeLessThan(2000);
    expect(unsent()).toEqual([]);
  });

  test("that reads nothing of it gets it as well", async () => {
    await runs(alarm({ command: ["true"] }), 1);
    expect(unsent()).toEqual([]);
  });
});

describe("mail", () => {
  const from = "Spoolsafe <spoolsafe@mx1.test>";
  test("goes to the relay, well-formed, each receiver once", async () => {
    await using sink = await Sink.start({ domains: { "ops.test": {} }, keepBytes: true });
    const to = ["a@ops.test", "B <b@ops.test>"];
    await runs(alarm({ mail: { url: `smtp://127.0.0.1:${sink.port("ops.test")}`, from, to } }), 1, {
      message: "der Plattenplatz für Größeres fehlt",
    });
    expect(sink.deliveries.map(({ recipient, sender }) => [sender, recipient])).toEqual([
      ["spoolsafe@mx1.test", "a@ops.test"],
      ["spoolsafe@mx1.test", "b@ops.test"],
    ]);
    const text = sink.deliveries[0]?.bytes?.toString("latin1") ?? "";
    const [head = "", body = ""] = text.split("\n\n");
    const headers = head.replace(/\n[ \t]+/g, " ").split("\n");
    expect(headers.map((line) => line.split(":")[0]?.toLowerCase()).toSorted()).toEqual(
      [
        "auto-submitted",
        "content-transfer-encoding",
        "content-type",
        "date",
        "from",
        "message-id",
        "mime-version",
        "subject",
        "to",
        "x-spoolsafe-alert",
      ].toSorted(),
    );
    expect(headers).toContain("From: Spoolsafe <spoolsafe@mx1.test>");
    expect(headers).toContain("Auto-Submitted: auto-generated");
    expect(headers.find((line) => line.startsWith("Subject:"))).toMatch(/^Subject: (\[spoolsafe\]|=\?UTF-8\?)/);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that there are none is the point
    expect(text).toMatch(/^[\x00-\x7f]*$/);
    expect(body).not.toBe("");
    expect(unsent()).toEqual([]);
  });

  test.each([
    ["refuses a receiver", { rcpt: "550 5.1.1 no such user" }, /550/],
    ["refuses the mail", { dot: "554 5.7.1 no" }, /554/],
    ["takes too long", { delayMs: 5000 }, /no answer within 0\.2 s/],
  ])("to a relay that %s is written down", async (_, behaviour, error) => {
    await using sink = await Sink.start({ domains: { "ops.test": behaviour } });
    const url = `smtp://127.0.0.1:${sink.port("ops.test")}`;
    const options = "delayMs" in behaviour ? hasty : {};
    await runs(alarm({ mail: { url, from, to: ["a@ops.test"] } }, options), 1);
    expect(unsent()).toMatchObject([{ channel: "smtp", error: expect.stringMatching(error) }]);
    expect(sink.deliveries).toEqual([]);
  });

  test("to a relay that passes for a moment is tried again", async () => {
    await using sink = await Sink.start({ domains: { "ops.test": { rcpt: "450 4.2.0 later", firstTimes: 2 } } });
    const url = `smtp://127.0.0.1:${sink.port("ops.test")}`;
    await runs(alarm({ mail: { url, from, to: ["a@ops.test"] } }), 1);
    expect(sink.deliveries).toHaveLength(1);
  });

  test("never through this host's own Postfix, under whatever name", async () => {
    await runs(alarm({ mail: { url: "smtp://127.0.0.1:25", from, to: ["a@ops.test"] } }), 1);
    expect(unsent()).toMatchObject([{ channel: "smtp", error: expect.stringContaining("this host itself") }]);
  });

  test("a password is not sent where the connection can't be encrypted", async () => {
    await using sink = await Sink.start({ domains: { "ops.test": {} } });
    const url = `smtp://me:secret@127.0.0.1:${sink.port("ops.test")}`;
    await runs(alarm({ mail: { url, from, to: ["a@ops.test"] } }), 1);
    expect(unsent()).toMatchObject([{ channel: "smtp", error: expect.stringMatching(/TLS/i) }]);
    expect(JSON.stringify(unsent())).not.toContain("secret");
    expect(sink.deliveries).toEqual([]);
  });
});

test("nothing configured: what is wrong is known, and nobody told", async () => {
  const { conditions, told } = await runs(alarm({}), 1);
  expect(conditions).toMatchObject([{ key: "backup-failed" }]);
  expect(told).toBe(0);
  expect(existsSync(join(state, "alerts/unsent.json"))).toBe(true);
});

test("a run that can't be started is told as failed, until it begins", async () => {
  await using webhook = await Listener.start();
  const it = alarm({ webhookUrl: webhook.url("/hook") });
  await runs(it, 0);
  const start = new Date(now).toISOString();
  const unstarted = [{ job: "backup" as const, start, exit: null, message: "it can't be started: the disk is full" }];
  now += minute;
  await it.raiseAges(unstarted);
  now += minute;
  await it.raiseAges(unstarted);
  await runs(it, 0);
  expect(events(webhook)).toEqual(["backup-failed raised", "backup-failed resolved"]);
  expect(webhook.heard[0]?.body).toContain("it can't be started: the disk is full");
});

test("since when a drill has its times is remembered, and begins anew with others", async () => {
  await using webhook = await Listener.start();
  const due = start + hour;
  const at = (schedule: string) => {
    const lastDue = (before: number) => (before >= due ? due : undefined);
    return alarm(
      { webhookUrl: webhook.url("/hook") },
      { limits: [], dueLimits: [{ job: "drill", schedule, lastDue, graceMs: hour }] },
    );
  };
  await at("monthly").raiseAges();
  now = due + 2 * hour;
  await at("daily").raiseAges();
  expect(events(webhook)).toEqual([]);
  await at("monthly").raiseAges();
  expect(events(webhook)).toEqual([]);
  rmSync(join(state, "alerts/state.json"));
  now = start;
  await at("monthly").raiseAges();
  now = due + 2 * hour;
  await at("monthly").raiseAges();
  expect(events(webhook)).toEqual(["drill-overdue raised"]);
  await runs(at("monthly"), 1, { job: "drill" });
  expect(events(webhook).slice(1).sort()).toEqual(["drill-failed raised", "drill-overdue resolved"]);
});
