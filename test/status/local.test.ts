import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { recordPlaced } from "../../src/holds/placed.ts";
import { recordCopy, recordUnsent } from "../../src/jobs/copies.ts";
import { type JobName, recordEnd, recordStart } from "../../src/jobs/record.ts";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { messageQueues, type QueueName } from "../../src/postfix/queue.ts";
import { writeDaemonFaults } from "../../src/status/daemon-faults.ts";
import { type LocalLook, lookAround } from "../../src/status/local.ts";
import { judge } from "../../src/status/problems.ts";
import { processStart } from "../../src/system/processes.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { limits } from "./facts.ts";

const now = Date.parse("2026-11-24T12:00:00Z");
const hour = 3_600_000;
const clock = { now: () => now, monotonic: () => performance.now(), sleep: async () => {} };

let scratch: string;
let stateDirectory: string;
let instance: PostfixInstance;
beforeEach(() => {
  scratch = makeScratch();
  stateDirectory = join(scratch, "state");
  instance = makeInstance("mx");
});
afterEach(() => destroyScratch(scratch));

function makeInstance(name: string): PostfixInstance {
  const queueDirectory = join(scratch, name);
  for (const queue of messageQueues) mkdirSync(join(queueDirectory, queue), { recursive: true });
  return { name, queueDirectory, configDirectory: join(scratch, `${name}-etc`) } as PostfixInstance;
}

/** A file a real Postfix wrote, with another time of creation. */
function put(queue: QueueName, id: string, ageSeconds: number, directory = ""): void {
  const bytes = Buffer.from(queueFiles.get("dsn") ?? "");
  const at = bytes.indexOf("create_time=");
  bytes.write(String(now / 1000 - ageSeconds), at + "create_time=".length);
  mkdirSync(join(instance.queueDirectory, queue, directory), { recursive: true });
  writeFileSync(join(instance.queueDirectory, queue, directory, id), bytes, { mode: 0o700 });
}

/** An id as Postfix makes it of a time, base 52 without vowels. */
function longId(ageSeconds: number): string {
  let digits = "";
  for (let rest = now / 1000 - ageSeconds; rest > 0; rest = Math.floor(rest / 52)) {
    digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz".charAt(rest % 52) + digits;
  }
  return `${digits}0000zBvYj`;
}

function look(over: Partial<LocalLook> = {}) {
  const base = { host: "mx1.test", stateDirectory, instances: [instance], schedule: [], scheduledSince: 0, clock };
  return lookAround({ ...base, ...over });
}

function ran(job: JobName, agoMs: number, exit: number, detail?: Record<string, string | number>): void {
  const run = recordStart(stateDirectory, { job, now: new Date(now - agoMs) });
  recordEnd(stateDirectory, run, { exit, now: new Date(now - agoMs + 60_000), detail });
}

const names = (facts: ReturnType<typeof look>) => judge(facts, limits).map(({ name }) => name);

describe("jobs", () => {
  test("that never ran are null, and no backup at all is a problem", () => {
    const facts = look();
    expect(facts).toMatchObject({ lastBackup: null, lastVerify: null, lastDrill: null, unsentAlerts: [], holds: [] });
    expect(names(facts)).toEqual(["backup-never"]);
  });

  test("tell when they last ended well, and what they left to say", () => {
    ran("backup", 2 * hour, 0, { snapshot: "abc", messages: 12, heldLongestMs: 85 });
    ran("verify", 30 * hour, 0, { level: "deep", snapshot: "def" });
    ran("drill", 700 * hour, 0);
    const facts = look();
    expect(facts.lastBackup).toEqual({
      time: "2026-11-24T10:00:00.000Z",
      ageSeconds: 7200,
      snapshot: "abc",
      messages: 12,
      heldLongestMs: 85,
    });
    expect(facts.lastVerify).toMatchObject({ ageSeconds: 30 * 3600, level: "deep" });
    expect(facts.lastDrill).toMatchObject({ ageSeconds: 700 * 3600 });
    expect(names(facts)).toEqual([]);
  });

  test("that stopped being started alarm by age, without a failure anywhere", () => {
    ran("backup", 27 * hour, 0);
    const facts = look();
    expect(facts.jobs[0]).toMatchObject({ lastExit: 0, died: false });
    expect(names(facts)).toEqual(["backup-age"]);
  });

  test("that fail keep the last success, and alarm at once", () => {
    ran("backup", 9 * hour, 0, { messages: 12 });
    ran("backup", 1 * hour, 1);
    const facts = look();
    expect(facts.lastBackup).toMatchObject({ ageSeconds: 9 * 3600, messages: 12 });
    expect(names(facts)).toEqual(["backup-failed"]);
  });

  test("that find the lock held change nothing", () => {
    ran("backup", 9 * hour, 0);
    ran("backup", 1 * hour, 11);
    expect(names(look())).toEqual([]);
  });

  test("that were killed are told apart from those at work", () => {
    ran("backup", 9 * hour, 0);
    recordStart(stateDirectory, { job: "backup", now: new Date(now), process: { pid: 1, startTicks: "0" } });
    expect(names(look())).toEqual(["backup-died"]);
    const startTicks = processStart(process.pid) ?? "";
    recordStart(stateDirectory, { job: "backup", now: new Date(now), process: { pid: process.pid, startTicks } });
    expect(look().jobs[0]).toMatchObject({ running: true, died: false });
    expect(names(look())).toEqual([]);
  });

  test("a record that can't be read is no success", () => {
    ran("backup", 1 * hour, 0);
    writeFileSync(join(stateDirectory, "jobs/backup.json"), "{");
    expect(names(look())).toEqual(["backup-never"]);
  });
});

describe("the daemon", () => {
  const fault = { name: "status-page" as const, problem: "the port is in use", since: "2026-11-24T02:00:00.000Z" };

  test("says what it can't do as long as it lives", () => {
    const process_ = { pid: process.pid, startTicks: processStart(process.pid) ?? "" };
    writeDaemonFaults(stateDirectory, process_, [fault]);
    expect(look().daemonFaults).toEqual([fault]);
    expect(names(look())).toContain("status-page");
    writeDaemonFaults(stateDirectory, { ...process_, startTicks: "0" }, [fault]);
    expect(look().daemonFaults).toEqual([]);
    writeDaemonFaults(stateDirectory, process_, []);
    expect(look().daemonFaults).toEqual([]);
    writeFileSync(join(stateDirectory, "schedule-faults.json"), "{");
    expect(look().daemonFaults).toEqual([]);
  });
});

const of = (job: JobName, due: readonly number[]) => ({ job, due, schedule: "some times", graceMs: 25 * hour });

describe("a schedule", () => {
  const weekly = of("verify", [now - 24 * hour, now - 192 * hour]);

  test("is missed when two runs were due since the last success", () => {
    ran("backup", 1 * hour, 0);
    ran("verify", 361 * hour, 0);
    const facts = look({ schedule: [of("backup", [now - hour, now - 25 * hour]), weekly] });
    expect(facts.jobs[1]).toMatchObject({ missedSince: "2026-11-16T12:00:00.000Z" });
    expect(names(facts)).toEqual(["verify-missed"]);
  });

  test("is not missed by one late run, by a new schedule, or while a run is at work", () => {
    ran("backup", 1 * hour, 0);
    ran("verify", 192 * hour - 60_000, 0);
    expect(names(look({ schedule: [weekly] }))).toEqual([]);
    ran("verify", 361 * hour, 0);
    expect(names(look({ schedule: [weekly], scheduledSince: now - 100 * hour }))).toEqual([]);
    const startTicks = processStart(process.pid) ?? "";
    recordStart(stateDirectory, { job: "verify", now: new Date(now), process: { pid: process.pid, startTicks } });
    expect(names(look({ schedule: [weekly] }))).toEqual([]);
  });

  test("of every ten minutes is not missed by a run of half an hour", () => {
    ran("backup", 35 * 60_000, 0);
    expect(names(look({ schedule: [of("backup", [now, now - 600_000])] }))).toEqual([]);
  });

  test("of every ten minutes is missed after an hour, and by a job that never ran", () => {
    const often = of("prune", [now, now - 600_000]);
    ran("backup", 1 * hour, 0);
    expect(names(look({ schedule: [often] }))).toEqual(["prune-missed"]);
    expect(names(look({ schedule: [often], scheduledSince: now - hour / 2 }))).toEqual([]);
    ran("prune", 2 * hour, 0);
    expect(names(look({ schedule: [often] }))).toEqual(["prune-missed"]);
  });

  test("of drills: one that did not happen counts once nobody makes it up any more, also the first", () => {
    const monthly = (dueAgo: number) => [of("drill", [now - dueAgo, now - dueAgo - 720 * hour])];
    ran("backup", 1 * hour, 0);
    const old = { scheduledSince: now - 5000 * hour };
    expect(names(look({ schedule: monthly(26 * hour), ...old }))).toEqual(["drill-overdue"]);
    ran("drill", 700 * hour, 0);
    expect(names(look({ schedule: monthly(24 * hour), ...old }))).toEqual([]);
    expect(names(look({ schedule: monthly(26 * hour), ...old }))).toEqual(["drill-overdue"]);
    expect(names(look({ schedule: monthly(26 * hour), scheduledSince: now - hour }))).toEqual([]);
    // Since when it is on the schedule is better known to those who alert than by the age of a file that was edited.
    const schedules = { drill: { schedule: "some times", since: new Date(now - 100 * hour).toISOString() } };
    mkdirSync(join(stateDirectory, "alerts"));
    writeFileSync(join(stateDirectory, "alerts/state.json"), JSON.stringify({ conditions: {}, schedules }));
    expect(names(look({ schedule: monthly(26 * hour), scheduledSince: now - hour }))).toEqual(["drill-overdue"]);
    ran("drill", 20 * hour, 1);
    expect(names(look({ schedule: monthly(26 * hour), ...old }))).toEqual(["drill-failed"]);
  });

  test("a drill that missed a target is told as that, until one meets it", () => {
    ran("backup", 1 * hour, 0);
    const run = recordStart(stateDirectory, { job: "drill", now: new Date(now - hour) });
    const detail = { missedTarget: "ready after 45m, the target is 30m" };
    recordEnd(stateDirectory, run, { exit: 1, now: new Date(now), detail });
    expect(names(look())).toEqual(["drill-target"]);
    ran("drill", 1 * hour, 0);
    expect(names(look())).toEqual([]);
  });

  test("a backup that had nothing, where there always was something, is shown as long as those who alert say so", () => {
    ran("backup", 1 * hour, 0);
    const conditions = { "backup-empty": { message: "backup found no message at all", since: "2026-11-24T02:00:00Z" } };
    mkdirSync(join(stateDirectory, "alerts"));
    writeFileSync(join(stateDirectory, "alerts/state.json"), JSON.stringify({ conditions }));
    expect(names(look())).toEqual(["backup-empty"]);
    writeFileSync(join(stateDirectory, "alerts/state.json"), "{");
    expect(names(look())).toEqual([]);
  });

  test("without backup is a standby's, where none is expected", () => {
    expect(names(look({ schedule: [of("drill", [])] }))).toEqual([]);
    expect(names(look({ schedule: [of("backup", [])] }))).toEqual(["backup-never"]);
  });
});

describe("queues", () => {
  test("are counted flat and hashed, without what Postfix ignores", () => {
    put("deferred", "7E48C16210F", 60, "7");
    put("deferred", "4Z5j73J8pzBvYj", 60, "1/A");
    put("active", "41D2C162118", 60);
    put("hold", "51125162125", 60);
    writeFileSync(join(instance.queueDirectory, "active", "123456.789"), "");
    const [state] = look().instances;
    expect(state?.queues).toMatchObject({ deferred: { messages: 2 }, active: { messages: 1 }, hold: { messages: 1 } });
    expect(state).toMatchObject({ total: 4, deferredShare: 0.5 });
  });

  test("tell the age of the oldest by creation, of short and long ids, and not of what is on hold", () => {
    put("deferred", "7E48C16210F", 3600, "7");
    put("deferred", "41D2C162118", 7200, "4");
    put("hold", "51125162125", 30 * 86_400);
    put("active", longId(5400), 60);
    expect(look().instances[0]).toMatchObject({
      oldest: { ageSeconds: 7200, exact: true },
      queues: { hold: { oldest: { ageSeconds: 30 * 86_400 } }, active: { oldest: { ageSeconds: 5400 } } },
    });
    expect(look().instances[0]?.queues).toMatchObject({
      deferred: { ages: [0, 0, 2, 0, 0, 0] },
      active: { ages: [0, 0, 1, 0, 0, 0] },
      hold: { ages: [0, 0, 0, 0, 0, 1] },
      incoming: { ages: [0, 0, 0, 0, 0, 0] },
    });
  });

  test("of 5,000 messages take less than half a second of work", () => {
    for (const digit of "0123456789ABCDEF") mkdirSync(join(instance.queueDirectory, "deferred", digit));
    for (let n = 0; n < 5000; n++) {
      const id = `${((n * 7919) % 1_000_000).toString(16).padStart(5, "0")}${n.toString(16)}`.toUpperCase();
      writeFileSync(join(instance.queueDirectory, "deferred", id.charAt(0), id), "");
    }
    const before = process.cpuUsage();
    const [state] = look().instances;
    const { user, system } = process.cpuUsage(before);
    expect(state?.queues.deferred.messages).toBe(5000);
    expect((user + system) / 1000).toBeLessThan(500);
  });

  test("too large for the time there is say that the oldest is at least so old", () => {
    for (let n = 0; n < 150; n++) put("deferred", `7E48C${n.toString(16).toUpperCase().padStart(4, "0")}`, 600 + n);
    const [state] = look({ budgetMs: -1 }).instances;
    const oldest = state?.oldest;
    // Those that were looked at, 100 of 150.
    expect(state?.queues.deferred.ages).toEqual([0, 100, 0, 0, 0, 0]);
    expect(oldest?.exact).toBe(false);
    expect(oldest?.ageSeconds).toBeGreaterThanOrEqual(600 + 99);
  });

  test("that are not there are a problem, and the other instance is still told of", () => {
    const other = makeInstance("out");
    rmSync(join(instance.queueDirectory, "deferred"), { recursive: true });
    ran("backup", 1 * hour, 0);
    const facts = look({ instances: [instance, other] });
    expect(facts.instances.map(({ name }) => name)).toEqual(["out"]);
    expect(names(facts)).toEqual(["unseen"]);
  });
});

test("mail on hold because of us is told by kind and run, an administrator's is not", () => {
  ran("backup", 1 * hour, 0);
  for (const id of ["51125162125", "51125162126", "51125162127"]) put("hold", id, 60);
  const since = new Date(now - 72 * hour).toISOString();
  recordPlaced(stateDirectory, instance, { kind: "restore", run: "R1", since, ids: ["51125162125", "51125162126"] });
  const facts = look();
  expect(facts.holds).toEqual([
    { kind: "restore", instance: "mx", run: "R1", since, ageSeconds: 72 * 3600, messages: 2 },
  ]);
  expect(names(facts)).toEqual(["hold-restore"]);
});

test("alerts that could not be sent are told by channel, and so is a list that can't be read", () => {
  ran("backup", 1 * hour, 0);
  mkdirSync(join(stateDirectory, "alerts"));
  const file = join(stateDirectory, "alerts/unsent.json");
  writeFileSync(file, "[]");
  expect(names(look())).toEqual([]);
  const unsent = ["webhook", "smtp", "webhook"].map((channel) => ({ time: since(1), channel, error: "timed out" }));
  writeFileSync(file, JSON.stringify(unsent));
  expect(look().unsentAlerts).toHaveLength(3);
  expect(names(look())).toEqual(["alerts-unsent", "alerts-unsent"]);
  writeFileSync(file, "{");
  expect(names(look())).toEqual(["alerts-unsent"]);
});

test("further repositories are told by how far they are behind", () => {
  ran("backup", 1 * hour, 0);
  const name = { url: "s3://other/mx1", endpoint: null };
  recordUnsent(stateDirectory, [name]);
  expect(look().copies).toEqual([{ url: name.url, behind: 1, lastSuccess: null, error: null }]);
  expect(names(look())).toEqual(["copies-unsent"]);
  recordCopy(stateDirectory, name, { behind: 0, lastSuccess: since(1) });
  expect(look().copies).toMatchObject([{ behind: 0, lastSuccess: { ageSeconds: 3600 } }]);
  expect(names(look())).toEqual([]);
});

function since(hours: number): string {
  return new Date(now - hours * hour).toISOString();
}

test.skipIf(process.getuid?.() !== 0)("an ordinary user is told how to be let in", () => {
  mkdirSync(stateDirectory, { mode: 0o700 });
  process.seteuid?.(65_534);
  try {
    expect(() => look()).toThrow(OperatorError);
    expect(() => look()).toThrow(/this user may not read .*state/);
  } finally {
    process.seteuid?.(0);
  }
});
