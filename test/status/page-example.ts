import type { BackupRun } from "../../src/jobs/history.ts";
import type { DrillResult } from "../../src/status/drills.ts";
import { happened } from "../../src/status/local.ts";
import type { PageFacts } from "../../src/status/page-facts.ts";
import { ageLimits, type InstanceState, type QueueState } from "../../src/status/queue-state.ts";
import type { StoredBackup } from "../../src/status/remote.ts";
import { jobOf, reportOf } from "./facts.ts";

/*
 * Three mail servers as a page may show them: one with a backlog and a mail on hold too long, one well, one whose backups
 * stopped. docs/status-page.png is made of it (scripts/status-page.ts).
 */

const now = Date.parse("2026-11-24T09:41:00Z");
const hour = 3_600_000;
const day = 24 * hour;
const iso = (ms: number) => new Date(ms).toISOString();

/** Like a random number and the same every time. */
function noise(seed: number): number {
  const value = Math.sin(seed * 12.9898) * 43_758.5453;
  return value - Math.floor(value);
}

function snapshotId(seed: number): string {
  return Array.from({ length: 64 }, (_, index) => Math.floor(noise(seed * 71 + index) * 16).toString(16)).join("");
}

function nights(host: string, seed: number, last: number): StoredBackup[] {
  return Array.from({ length: 14 }, (_, index): StoredBackup => {
    const time = last - (13 - index) * day;
    return {
      host,
      snapshot: snapshotId(seed + index),
      time: iso(time),
      messages: Math.round(900 + noise(seed + index) * 1400),
      heldLongestMs: Math.round(70 + noise(seed * 3 + index) ** 3 * 1700),
      mode: "hold",
      tags: index === 9 ? ["before-upgrade"] : [],
    };
  });
}

const tonight = Date.parse("2026-11-24T01:02:00Z");
const own = nights("mx1.example.org", 1, tonight);
const others = [
  ...nights("mx2.example.org", 40, tonight + 240_000),
  ...nights("mx3.example.org", 80, tonight - 3 * day),
];

function ownRun({ time, snapshot, messages, heldLongestMs }: StoredBackup, index: number): BackupRun {
  const exit = index === 6 ? 1 : index === 10 ? 3 : 0;
  const end = iso(Date.parse(time) + 41_000);
  const nothing = { snapshot: null, messages: null, heldLongestMs: null };
  return exit === 1
    ? { start: time, end, exit, ...nothing }
    : { start: time, end, exit, snapshot, messages, heldLongestMs };
}

function queue(ages: readonly number[], oldest: number, exact = true): QueueState {
  const messages = ages.reduce((sum, count) => sum + count, 0);
  return { messages, oldest: messages === 0 ? null : { ageSeconds: oldest, exact }, ages };
}

const none = new Array<number>(ageLimits.length + 1).fill(0);

const instances: InstanceState[] = [
  {
    name: "postfix",
    queues: {
      maildrop: queue(none, 0),
      incoming: queue([3, 0, 0, 0, 0, 0], 2),
      active: queue([212, 41, 0, 0, 0, 0], 2100),
      deferred: { ...queue([374, 1280, 2204, 1811, 902, 0], 1.9 * 86_400, false), messages: 13_140 },
      hold: queue([0, 0, 0, 14, 3, 0], 2 * 86_400),
    },
    total: 13_413,
    deferredShare: 13_140 / 13_413,
    oldest: { ageSeconds: Math.round(1.9 * 86_400), exact: false },
  },
  {
    name: "postfix-out",
    queues: {
      maildrop: queue(none, 0),
      incoming: queue(none, 0),
      active: queue([18, 0, 0, 0, 0, 0], 40),
      deferred: queue([4, 22, 61, 12, 0, 0], 60_000),
      hold: queue(none, 0),
    },
    total: 117,
    deferredShare: 99 / 117,
    oldest: { ageSeconds: 60_000, exact: true },
  },
];

function drill(started: number, over: Partial<DrillResult> = {}): DrillResult {
  return {
    type: "drill",
    id: snapshotId(started / hour).slice(0, 12),
    host: "mx1.example.org",
    scenario: null,
    started: iso(started),
    ok: true,
    rpoSeconds: 11_000,
    rtoSeconds: 412,
    targets: { rpo: { seconds: 93_600, met: true }, rto: { seconds: 1800, met: true } },
    messages: { manifest: 1644, identical: 1644 },
    deviations: [],
    ...over,
  };
}

const drills = [
  drill(Date.parse("2026-11-01T04:00:00Z")),
  drill(Date.parse("2026-10-12T13:20:00Z"), { scenario: { name: "damaged-pack" }, rtoSeconds: 655 }),
  drill(Date.parse("2026-10-01T04:00:00Z"), {
    ok: false,
    rtoSeconds: 2460,
    targets: { rpo: { seconds: 93_600, met: true }, rto: { seconds: 1800, met: false } },
    messages: { manifest: 1391, identical: 1391 },
    deviations: ["ready after 41 minutes, and the target is 30"],
  }),
];

/** What the example shows, with what a test cares about put over it. */
export function exampleFacts(over: Partial<PageFacts> = {}): PageFacts {
  const last = own.at(-1);
  const report = reportOf({
    time: iso(now),
    lastBackup: {
      time: last?.time ?? "",
      ageSeconds: (now - tonight) / 1000,
      snapshot: last?.snapshot ?? null,
      messages: last?.messages ?? null,
      heldLongestMs: last?.heldLongestMs ?? null,
    },
    lastDrill: happened(drills[0]?.started, now),
    instances,
    jobs: [
      jobOf({ lastSuccess: happened(last?.time, now), lastStart: happened(last?.time, now), scheduled: true }),
      jobOf({
        job: "verify",
        lastSuccess: happened("2026-11-22T04:30:00Z", now),
        lastStart: happened("2026-11-22T04:30:00Z", now),
        scheduled: true,
      }),
      jobOf({
        job: "copy",
        lastSuccess: happened(iso(tonight + 42_000), now),
        lastStart: happened(iso(tonight + 42_000), now),
      }),
    ],
    holds: [
      {
        kind: "restore",
        instance: "postfix",
        run: "5d1c0f6a2b94",
        since: iso(now - 49 * hour),
        ageSeconds: 49 * 3600,
        messages: 14,
      },
    ],
    copies: [{ url: "s3://backup-b/mx", behind: 0, lastSuccess: happened(iso(tonight + 42_000), now), error: null }],
  });
  const hosts = ["mx1", "mx2", "mx3"].map((name) => {
    const host = `${name}.example.org`;
    const newest = [...own, ...others].findLast((one) => one.host === host);
    return {
      host,
      lastBackup: newest && {
        ...(happened(newest.time, now) ?? { time: "", ageSeconds: 0 }),
        snapshot: newest.snapshot,
        messages: newest.messages,
        heldLongestMs: newest.heldLongestMs,
      },
      queues: null,
      snapshots: 14,
      untrusted: 0,
      future: 0,
    };
  });
  return {
    report,
    stale: null,
    history: own.map(ownRun),
    repository: {
      answer: {
        time: iso(now - 6 * 60_000),
        status: { hosts: hosts.map((one) => ({ ...one, lastBackup: one.lastBackup ?? null })), faults: [] },
        backups: [...own.filter((_, index) => index !== 6), ...others],
      },
      failure: null,
    },
    drills,
    timezone: "Europe/Paris",
    now,
    version: "0.1.0",
    ...over,
  };
}
