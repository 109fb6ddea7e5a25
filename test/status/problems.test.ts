import { describe, expect, test } from "vitest";
import type { HostStatus, StatusFacts } from "../../src/status/report.ts";
import { statusSummary } from "../../src/status/summary.ts";
import { factsOf, instanceOf, jobOf, limits, reportOf } from "./facts.ts";

const old = { time: "2026-08-01T02:00:00.000Z", ageSeconds: 115 * 86_400 };
const backup = factsOf().lastBackup;
const host: HostStatus = {
  host: "mx2.example.org",
  lastBackup: backup,
  queues: null,
  snapshots: 3,
  untrusted: 0,
  future: 0,
};
const hold = { instance: "mx", run: "20261124T020000-5f3a9c01", since: "2026-11-24T02:00:00.000Z", messages: 7 };
const copy = {
  url: "s3://other/mx1",
  behind: 2,
  lastSuccess: { time: "2026-11-24T02:00:00.000Z", ageSeconds: 36_000 },
  error: "no answer",
};
const alert = { time: "2026-11-24T02:00:00.000Z", channel: "webhook", error: "connection refused" };

/** Everything status may find, what it is called, and what it says of it. */
const kinds: readonly (readonly [name: string, severity: string, facts: Partial<StatusFacts>, says: RegExp])[] = [
  ["backup-never", "critical", { lastBackup: null }, /no backup has ever ended well/],
  [
    "backup-age",
    "critical",
    { lastBackup: { ...backup, ...old } as never },
    /newest good backup is 115d old, more than 26h/,
  ],
  ["backup-future", "critical", { lastBackup: { ...backup, ageSeconds: -7200 } as never }, /dated 2h in the future/],
  [
    "backup-failed",
    "warning",
    { jobs: [jobOf({ lastExit: 1 })] },
    /last backup at .* failed with exit 1; the last good one/,
  ],
  ["backup-incomplete", "warning", { jobs: [jobOf({ lastExit: 3 })] }, /incomplete \(exit 3\)/],
  ["backup-died", "warning", { jobs: [jobOf({ died: true })] }, /ended without a word/],
  ["verify-failed", "warning", { jobs: [jobOf({ job: "verify", lastExit: 13 })] }, /last verify at .* exit 13/],
  [
    "drill-failed",
    "warning",
    { jobs: [jobOf({ job: "drill", lastExit: 1, lastSuccess: null })] },
    /none has ever ended well/,
  ],
  [
    "prune-missed",
    "warning",
    { jobs: [jobOf({ job: "prune", missedSince: "2026-11-22T06:00:00.000Z" })] },
    /prune has missed its schedule: due 2026-11-22T06/,
  ],
  [
    "hold-capture",
    "critical",
    { holds: [{ ...hold, kind: "capture", ageSeconds: 31 }] },
    /mx: 7 messages have been on hold for 31s because of backup 20261124T02/,
  ],
  [
    "hold-capture",
    "critical",
    { holds: [{ ...hold, kind: "capture", ageSeconds: 301 }], jobs: [jobOf({ running: true })] },
    /mx: 7 messages have been on hold for 5m because of backup 20261124T02/,
  ],
  [
    "hold-restore",
    "warning",
    { holds: [{ ...hold, kind: "restore", ageSeconds: 3 * 86_400 }] },
    /7 messages of restore 20261124T02.* have waited on hold for 3d/,
  ],
  [
    "copies-unsent",
    "warning",
    { copies: [copy] },
    /2 snapshots are not in s3:\/\/other\/mx1 yet \(whole 10h ago\): no answer/,
  ],
  ["copies-unsent", "critical", { copies: [{ ...copy, lastSuccess: old }] }, /2 snapshots .*whole 115d ago/],
  ["copies-unsent", "critical", { copies: [{ ...copy, lastSuccess: null }] }, /nothing was ever copied there whole/],
  [
    "copies-unsent",
    "critical",
    { copies: [{ ...copy, lastSuccess: old }], jobs: [jobOf({ job: "copy", running: true, lastStart: old })] },
    /2 snapshots .*whole 115d ago/,
  ],
  [
    "copies-unsent",
    "warning",
    { copies: [{ ...copy, behind: 0, lastSuccess: old, error: null }], backupExpected: false },
    /nobody has copied to s3:\/\/other\/mx1 for 115d/,
  ],
  ["alerts-unsent", "warning", { unsentAlerts: [alert] }, /1 alerts could not be sent by webhook: connection refused/],
  ["unseen", "critical", { unseen: ["mx: /var/spool/postfix/deferred is not there"] }, /deferred is not there/],
  [
    "queue-deferred",
    "warning",
    { instances: [instanceOf("mx", 5001)] },
    /mx: 5001 messages in deferred, more than 5000/,
  ],
  [
    "queue-deferred",
    "critical",
    { instances: [instanceOf("mx", 20_001)] },
    /20001 messages in deferred, more than 20000/,
  ],
  [
    "status-page",
    "warning",
    { daemonFaults: [{ name: "status-page", problem: "127.0.0.1:9625 is in use", since: "2026-11-24T02:00:00.000Z" }] },
    /127.0.0.1:9625 is in use \(since 2026-11-24T02/,
  ],
  ["queue-active", "warning", { instances: [crowded(2001)] }, /2001 messages in active, more than 2000/],
  ["queue-active", "critical", { instances: [crowded(10_001)] }, /10001 messages in active/],
  [
    "queue-oldest",
    "warning",
    { instances: [instanceOf("mx", 9, { ageSeconds: 3 * 86_400, exact: true })] },
    /oldest message is 3d old, more than 2d/,
  ],
  [
    "queue-oldest",
    "critical",
    { instances: [instanceOf("mx", 9, { ageSeconds: 5 * 86_400, exact: false })] },
    /oldest message is at least 5d old, more than 4d/,
  ],
  [
    "backup-never",
    "critical",
    { repository: { hosts: [], faults: [] } },
    /no good snapshot of mx1.example.org in the repository/,
  ],
  [
    "backup-age",
    "critical",
    { repository: { hosts: [{ ...host, lastBackup: { ...backup, ...old } as never }], faults: [] } },
    /newest good backup of mx2.example.org is 115d old/,
  ],
  [
    "backup-never",
    "critical",
    { repository: { hosts: [{ ...host, lastBackup: null }], faults: [] } },
    /no good snapshot of mx2.example.org/,
  ],
  [
    "untrusted",
    "warning",
    { repository: { hosts: [{ ...host, untrusted: 2 }], faults: [] } },
    /2 snapshots of mx2.* not signed by a key this host trusts/,
  ],
  [
    "backup-future",
    "warning",
    { repository: { hosts: [{ ...host, future: 1 }], faults: [] } },
    /1 snapshots of mx2.* dated in the future/,
  ],
  [
    "repository",
    "critical",
    { repository: { hosts: [host], faults: ["number 4 is missing of writer x"] } },
    /number 4 is missing/,
  ],
];

function crowded(active: number) {
  const instance = instanceOf("mx");
  return { ...instance, queues: { ...instance.queues, active: { messages: active, oldest: null, ages: [] } } };
}

describe("a problem", () => {
  test.each(kinds)("%s (%s) is told, with what to do", (name, severity, facts, says) => {
    const report = reportOf(facts);
    expect(report.problems).toHaveLength(1);
    expect(report.problems[0]).toMatchObject({ name, severity });
    expect(report.problems[0]?.problem).toMatch(says);
    expect(report.problems[0]?.remedy).not.toBe("");
    const { ok, problems } = statusSummary(report);
    expect(ok).toBe(false);
    expect(problems).toEqual([report.problems[0]?.problem]);
  });

  test("that is critical comes first", () => {
    const { problems } = reportOf({ jobs: [jobOf({ lastExit: 1 })], copies: [copy], unseen: ["mx: gone"] });
    expect(problems.map(({ severity }) => severity)).toEqual(["critical", "warning", "warning"]);
  });
});

describe("no problem", () => {
  test("is where all is well", () => {
    const report = reportOf();
    expect(report.problems).toEqual([]);
    expect(statusSummary(report)).toMatchObject({
      ok: true,
      problems: [],
      lastDrill: null,
      unsentCopies: null,
      hosts: null,
    });
  });

  test.each<[string, Partial<StatusFacts>]>([
    ["no backup on a host that is to make none", { lastBackup: null, backupExpected: false }],
    ["a run at work, whatever the one before", { jobs: [jobOf({ running: true, lastExit: 1 })] }],
    ["a backup that holds mail at this moment", { holds: [{ ...hold, kind: "capture", ageSeconds: 29 }] }],
    ["a copy that is behind while a backup is at work", { copies: [copy], jobs: [jobOf({ running: true })] }],
    [
      "a copy that is whole since the last backup, however long ago",
      { copies: [{ ...copy, behind: 0, lastSuccess: old }] },
    ],
    [
      "a freeze that takes its time",
      { holds: [{ ...hold, kind: "capture", ageSeconds: 299 }], jobs: [jobOf({ running: true })] },
    ],
    ["a restore of today that waits to be signed off", { holds: [{ ...hold, kind: "restore", ageSeconds: 3600 }] }],
    ["mail that a fence holds, however long", { holds: [{ ...hold, kind: "fence", ageSeconds: 90 * 86_400 }] }],
    [
      "what is at a threshold and not above",
      { instances: [instanceOf("mx", 5000, { ageSeconds: 2 * 86_400, exact: true })] },
    ],
    ["a clock that is two minutes ahead", { lastBackup: { ...backup, ageSeconds: -120 } as never }],
    [
      "a local record of long ago where the repository has a new one",
      { lastBackup: { ...backup, ...old } as never, repository: { hosts: [host], faults: [] } },
    ],
  ])("is %s", (_, facts) => {
    expect(reportOf(facts).problems).toEqual([]);
  });
});

test("an age may be warned of before it is critical", () => {
  const early = { ...limits, backupAge: { warning: 9 * 3600, critical: 26 * 3600 } };
  expect(reportOf({}, early).problems).toMatchObject([{ severity: "warning", name: "backup-age" }]);
  const later = { ...limits, backupAge: { warning: 11 * 3600, critical: 26 * 3600 } };
  expect(reportOf({}, later).problems).toEqual([]);
});
