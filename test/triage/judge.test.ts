import { describe, expect, test } from "vitest";
import { LineReader } from "../../src/postfix/mail-log.ts";
import { judge } from "../../src/triage/judge.ts";
import { signsOf } from "../../src/triage/log-signs.ts";
import type { InstanceFacts, Traffic, TriageFacts } from "../../src/triage/report.ts";
import { factsOf, instanceOf, jobOf } from "../status/facts.ts";

const now = Date.parse("2026-11-24T12:00:00Z");

const traffic: Traffic = {
  looked: 1000,
  notices: 10,
  senders: [{ name: "a.test", count: 400 }],
  addresses: [{ name: "x@a.test", count: 400 }],
  destinations: [{ name: "b.test", count: 900 }],
  logins: [{ name: "alice", count: 90 }],
  clients: [{ name: "192.0.2.7", count: 450 }],
  invisible: [],
};

const instance: InstanceFacts = {
  name: "mx",
  configDirectory: "/etc/postfix",
  queueDirectory: "/var/spool/postfix",
  enabled: true,
  running: true,
  locked: false,
  state: instanceOf("mx"),
  corrupt: [],
  disk: {
    directory: "/var/spool/postfix",
    totalBytes: 1e10,
    freeBytes: 5e9,
    usedShare: 0.5,
    freeInodes: 1e6,
    usedInodeShare: 0.1,
    reserveBytes: 15_360_000,
  },
  traffic,
  heldByOthers: 3,
};

function facts(over: Partial<TriageFacts> = {}, own: Partial<InstanceFacts> = {}): TriageFacts {
  const { host, time, holds, jobs, lastBackup } = factsOf();
  return {
    ...{ host, time, holds, jobs, lastBackup },
    backupExpected: true,
    instances: [{ ...instance, ...own }],
    logs: [],
    repository: { url: "file:///srv/repository", problem: null, exit: 0 },
    identity: null,
    unseen: [],
    ...over,
  };
}

function logged(...lines: readonly string[]) {
  const reader = new LineReader({ reference: now / 1000 });
  const records = lines.flatMap((line) => reader.read(`2026-11-24T11:58:00Z mx ${line}`) ?? []);
  expect(records).toHaveLength(lines.length);
  return { logs: [signsOf({ source: "/var/log/mail.log", records }, now)] };
}

const disk = instance.disk as NonNullable<InstanceFacts["disk"]>;
const floodOf = (count: number) => ({ traffic: { ...traffic, logins: [{ name: "alice", count }] } });

/** What each fault is called, and where it leads. */
const faults: readonly (readonly [name: string, runbook: string | null, facts: TriageFacts])[] = [
  ["postfix-down", null, facts({}, { running: false })],
  ["postfix-down", "03-mail-deleted", facts({}, { running: false, state: null })],
  ["disk", "10-spool-disk-full", facts({}, { disk: { ...disk, usedShare: 0.91 } })],
  ["disk", "10-spool-disk-full", facts({}, { disk: { ...disk, freeBytes: 1e7 } })],
  ["inodes", "10-spool-disk-full", facts({}, { disk: { ...disk, usedInodeShare: 0.95 } })],
  ["corrupt", "02-queue-corruption", facts({}, { corrupt: ["4FC2A1B0"] })],
  ["invisible", "02-queue-corruption", facts({}, { traffic: { ...traffic, invisible: ["4FC2A1B0"] } })],
  ["login-flood", "13-spam-flood", facts({}, floodOf(301))],
  [
    "client-flood",
    "13-spam-flood",
    facts({}, { traffic: { ...traffic, clients: [{ name: "192.0.2.7", count: 501 }] } }),
  ],
  ["bounce-storm", "12-bounce-storm", facts({}, { traffic: { ...traffic, notices: 501 } })],
  [
    "log-room",
    "10-spool-disk-full",
    facts(logged("postfix/smtpd[1]: warning: not enough free space in mail queue: 5 bytes < 1.5*message size limit")),
  ],
  [
    "log-corrupt",
    "02-queue-corruption",
    facts(logged('postfix/qmgr[1]: warning: saving corrupt file "4FC2A1B0" from queue "active" to queue "corrupt"')),
  ],
  [
    "log-milter",
    "13-spam-flood",
    facts(logged("postfix/smtpd[1]: warning: connect to Milter service inet:127.0.0.1:11332: Connection refused")),
  ],
  [
    "log-throttled",
    null,
    facts(logged("postfix/master[1]: warning: /usr/lib/postfix/sbin/smtpd: bad command startup -- throttling")),
  ],
  [
    "log-fatal",
    null,
    facts(logged("postfix/trivial-rewrite[1]: fatal: open database /etc/postfix/x.db: No such file")),
  ],
  ["log-deleted", "03-mail-deleted", facts(logged("postfix/postsuper[1]: Deleted: 5000 messages"))],
  ["login-rate", "13-spam-flood", facts(logged(...handedIn(100, ", sasl_method=PLAIN, sasl_username=alice")))],
  ["client-rate", "13-spam-flood", facts(logged(...handedIn(500, "")))],
  [
    "notice-rate",
    "12-bounce-storm",
    facts(
      logged(
        ...Array.from(
          { length: 100 },
          (_, n) => `postfix/bounce[1]: 4FC2A1B0${n}: sender non-delivery notification: 4FC2A1C0${n}`,
        ),
      ),
    ),
  ],
  ["identity", "05-identity-lost", facts({ identity: "/etc/spoolsafe/identity.txt is not there" })],
  ["identity", "05-identity-lost", facts({ jobs: [jobOf({ job: "verify", lastExit: 12 })] })],
  [
    "repository-unreachable",
    "06-storage-unreachable",
    facts({ repository: { url: "s3://b", problem: "no answer within 5 seconds", exit: 1 } }),
  ],
  [
    "hold-fence",
    "14-failback",
    facts({
      holds: [
        { kind: "fence", instance: "mx", run: "c1", since: "2026-11-24T11:00:00Z", ageSeconds: 3600, messages: 4 },
      ],
    }),
  ],
  ["no-instance", null, facts({ instances: [], unseen: ["postconf can't be run"] })],
];

function handedIn(count: number, login: string): string[] {
  return Array.from(
    { length: count },
    (_, n) => `postfix/smtpd[1]: 4FC2A1B0${n % 10}: client=unknown[192.0.2.7]${login}`,
  );
}

describe("what is found", () => {
  test("is nothing where all is as usual", () => {
    expect(judge(facts(), [])).toEqual({ findings: [], open: [] });
    expect(judge(facts(logged(...handedIn(99, ", sasl_method=PLAIN, sasl_username=bob"))), []).findings).toEqual([]);
    expect(
      judge(facts(logged("postfix/postqueue[1]: fatal: Queue report unavailable - mail system is down")), []).findings,
    ).toEqual([]);
  });

  test.each(faults)("%s leads to %s", (name, runbook, found) => {
    const { findings, open } = judge(found, []);
    expect(findings).toMatchObject([{ name, runbook }]);
    expect(open).toEqual(runbook === null ? [] : [runbook]);
  });

  test("a standby's Postfix may be stopped", () => {
    expect(judge(facts({ backupExpected: false }, { running: false, state: null }), []).findings).toEqual([]);
  });

  test("an instance that is not enabled may be stopped, unless it has mail", () => {
    const off = { enabled: false, running: false } as const;
    expect(judge(facts({}, { ...off, state: null }), []).findings).toEqual([]);
    expect(judge(facts({}, off), []).findings).toMatchObject([{ name: "postfix-down" }]);
  });

  test("the cause comes before what follows from it", () => {
    const backlog = { severity: "critical", name: "queue-deferred", problem: "much", remedy: "qshape" } as const;
    const old = { severity: "critical", name: "backup-age", problem: "old", remedy: "backup" } as const;
    const { findings, open } = judge(facts({}, { ...floodOf(900), corrupt: ["4FC2A1B0"] }), [old, backlog]);
    expect(findings.map(({ name }) => name)).toEqual(["corrupt", "login-flood", "queue-deferred", "backup-age"]);
    expect(open).toEqual(["02-queue-corruption", "13-spam-flood", "11-deferred-backlog"]);
  });

  test("a host that has made no backup for long leads a standby to the takeover", () => {
    const old = { severity: "critical", name: "backup-age", problem: "old", remedy: "backup" } as const;
    const { findings, open } = judge(facts({ backupExpected: false }), [], [old]);
    expect(findings).toMatchObject([{ name: "backup-age", runbook: "01-primary-lost" }]);
    expect(open).toEqual(["01-primary-lost"]);
  });

  test("a host of which no queue could be seen is not well", () => {
    const unseen = ["this user may not read /var/spool/postfix/deferred"];
    const { findings } = judge(facts({ unseen }, { state: null }), []);
    expect(findings).toMatchObject([{ name: "no-instance", evidence: unseen }]);
  });

  test("a backup that is old because its repository is away leads there", () => {
    const old = { severity: "critical", name: "backup-age", problem: "old", remedy: "backup" } as const;
    const jobs = [jobOf({ job: "backup", lastExit: 10 })];
    expect(judge(facts({ jobs }), [old]).findings).toMatchObject([
      { name: "backup-age", runbook: "06-storage-unreachable" },
    ]);
  });
});

test("of a log only the last hour counts, and the same text once", () => {
  const reader = new LineReader({ reference: now / 1000 });
  const lines = [
    "2026-11-24T10:30:00Z mx postfix/smtp[1]: fatal: long ago",
    "2026-11-24T11:30:00Z mx postfix/smtp[1]: warning: host 1 is away",
    "2026-11-24T11:31:00Z mx postfix/smtp[1]: warning: host 2 is away",
    "2026-11-24T11:32:00Z mx postfix/smtp[1]: error: no good",
    "2026-11-24T11:59:00Z mx postfix/cleanup[1]: 4FC2A1B0: message-id=<a@b.test>",
    "2026-11-24T11:59:00Z mx postfix/smtp[1]: 4FC2A1B0: to=<a@b.test>, relay=none, delay=1, status=deferred (later)",
  ];
  const records = lines.flatMap((line) => reader.read(line) ?? []);
  const signs = signsOf({ source: "/var/log/mail.log", records }, now);
  expect(signs.levels).toEqual({ panic: 0, fatal: 0, error: 1, warning: 2 });
  expect(signs.last).toEqual([expect.stringContaining("no good"), expect.stringContaining("host 2")]);
  expect(signs.rates).toMatchObject({ received: 0.1, deferred: 0.1, sent: 0 });
});
