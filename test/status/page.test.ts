import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { healthOf } from "../../src/status/health.ts";
import { statusPage, waitingPage } from "../../src/status/page.ts";
import { pageProblems } from "../../src/status/page-facts.ts";
import { pagePolicy, pageStyle } from "../../src/status/page-style.ts";
import type { StoredBackup } from "../../src/status/remote.ts";
import type { HostStatus } from "../../src/status/report.ts";
import { hostLines } from "../../src/status/timeline.ts";
import { instanceOf, jobOf, reportOf } from "./facts.ts";
import { exampleFacts } from "./page-example.ts";

/** As a reader sees it, nearly: without elements and style. */
function textOf(page: string): string {
  return page
    .replace(/<style>.*<\/style>/s, "")
    .replace(/<[^>]*>/g, " ")
    .replace(/\s+/g, " ");
}

describe("the page", () => {
  const page = statusPage(exampleFacts());

  test("tells what is wrong with the runbook to open, then backups, queues, jobs, drills and copies", () => {
    const text = textOf(page);
    expect(text).toMatch(/mx1\.example\.org 3 problems computed at 2026-11-24 10:41 \(Europe\/Paris\)/);
    expect(text).toContain("critical the newest good backup of mx3.example.org is 3d old, more than 26h");
    expect(text).toContain("Runbook 11-deferred-backlog : spoolsafe runbook show 11");
    const order = [
      "What is wrong",
      "Backups",
      "Queues by age",
      "On hold because",
      "Jobs of this host",
      "Drills",
      "Copies",
    ];
    const places = order.map((heading) => text.indexOf(heading));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places).not.toContain(-1);
    expect(text).toContain("14 days: 13 made, 1 failed. Longest a message was on hold");
    expect(text).toMatch(/failed \(exit 1\) - - -/);
    expect(text).toMatch(/deferred~ 748 2\.6k 4\.4k 3\.6k 1\.8k 13140/);
    expect(text).toMatch(/2026-11-01 05:00 mx1\.example\.org , 1644 of 1644 messages passed 3h of 26h 6m of 30m/);
    expect(text).toMatch(/failed ready after 41 minutes, and the target is 30 3h of 26h 41m of 30m missed/);
    expect(text).toContain("As the repository was at 2026-11-24 10:35, 6m ago.");
  });

  test("names nothing a browser would fetch and has no script", () => {
    expect(page).not.toMatch(/<script|javascript:|\son\w+=|@import|url\(|<img|<iframe|<form|style=/i);
    const links = [...page.matchAll(/(?:href|src|action)="([^"]*)"/g)].map(([, target]) => target);
    expect(links).toEqual(["data:,", "/metrics", "/healthz"]);
    expect(page).toContain('<meta http-equiv="refresh" content="60">');
    expect(page).toContain('<meta name="viewport" content="width=device-width, initial-scale=1">');
    const inline = /<style>(.*)<\/style>/s.exec(page)?.[1] ?? "";
    expect(inline).toBe(pageStyle);
    expect(pagePolicy).toContain(`'sha256-${createHash("sha256").update(inline).digest("base64")}'`);
    expect(pagePolicy).toMatch(/^default-src 'none'/);
    expect(pagePolicy).not.toContain("unsafe");
  });

  test("shows as text whatever names, tags and errors say", () => {
    const evil = `"><script>alert('1')</script>\u202e\u0007&lt;`;
    const facts = exampleFacts();
    const backup: StoredBackup = {
      host: `mx9${evil}`,
      snapshot: `${evil}`,
      time: "2026-11-24T01:00:00Z",
      messages: 1,
      heldLongestMs: 1,
      mode: "hold",
      tags: [evil],
    };
    const host: HostStatus = { host: evil, lastBackup: null, queues: null, snapshots: 1, untrusted: 1, future: 0 };
    const report = reportOf({
      host: evil,
      instances: [instanceOf(evil)],
      holds: [{ kind: "restore", instance: evil, run: evil, since: evil, ageSeconds: 9e9, messages: 1 }],
      copies: [{ url: evil, behind: 3, lastSuccess: null, error: evil }],
      unseen: [evil],
      unsentAlerts: [{ time: evil, channel: evil, error: evil }],
    });
    const hostile = statusPage({
      ...facts,
      report,
      stale: evil,
      history: facts.history.map((run) => ({ ...run, snapshot: evil })),
      repository: {
        answer: { time: evil, status: { hosts: [host], faults: [evil] }, backups: [backup] },
        failure: { message: evil, since: evil },
      },
      drills: facts.drills.map((drill) => ({
        ...drill,
        id: evil,
        host: evil,
        started: evil,
        deviations: [evil],
        ok: false,
      })),
      version: evil,
    });
    expect(hostile).not.toContain("<script");
    expect(hostile).not.toContain("alert('1')");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    expect(hostile).not.toMatch(/[\u0007\u202e]/);
    expect(hostile.split("&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;??&amp;lt;").length).toBeGreaterThan(
      15,
    );
    // No element came in and none was broken: the same ones as without.
    const elements = (text: string) => new Set([...text.matchAll(/<(\w+)/g)].map(([, name]) => name));
    expect([...elements(hostile)].filter((name) => !elements(page).has(name))).toEqual([]);
  });

  test("has something to say where nothing is known", () => {
    const nothing = { history: [], repository: null, drills: [] };
    const bare = reportOf({ lastBackup: null, jobs: [], instances: [] });
    const text = textOf(statusPage(exampleFacts({ ...nothing, report: bare })));
    expect(text).toContain("mx1.example.org (this host) none");
    expect(text).toContain("No repository is configured");
    expect(text).toContain("None has run yet.");
    expect(text).toContain("No report of a drill is on this host.");
    const standby = reportOf({ lastBackup: null, jobs: [], instances: [], backupExpected: false });
    expect(textOf(statusPage(exampleFacts({ ...nothing, report: standby })))).toContain("No backup is known");
    expect(textOf(waitingPage(null))).toContain("The first look is under way.");
    expect(textOf(waitingPage("<no>"))).toContain("It has failed: &lt;no&gt;");
  });

  test("a store that fails takes nothing away, and says how old it is", () => {
    const facts = exampleFacts();
    const answer = facts.repository?.answer ?? null;
    const failure = { message: "connect ECONNREFUSED", since: "2026-11-24T08:00:00.000Z" };
    const text = textOf(statusPage({ ...facts, now: facts.now + 3 * 3_600_000, repository: { answer, failure } }));
    expect(text).toContain("mx2.example.org");
    expect(text).toContain(
      "As the repository was at 2026-11-24 10:35, 3h ago. it does not answer now connect ECONNREFUSED",
    );
    expect(text).toContain("the repository does not answer since 2026-11-24T08:00:00.000Z");
    expect(text).toContain("Runbook 06-storage-unreachable");
    const never = textOf(statusPage({ ...facts, repository: { answer: null, failure } }));
    expect(never).toContain("mx1.example.org (this host) 8h ago");
    expect(never).toContain("The repository has not answered yet");
  });

  test("says when it is old itself", () => {
    const facts = exampleFacts();
    const old = { ...facts, now: facts.now + 600_000, stale: "the look does not come to its end" };
    expect(pageProblems(old)[0]).toMatchObject({ name: "status-stale", severity: "critical" });
    expect(textOf(statusPage(old))).toContain("all of this is 10m old");
  });
});

describe("a time line", () => {
  test("joins what a host did and what the repository has, and marks what failed", () => {
    const [own, second] = hostLines(exampleFacts());
    expect(own).toMatchObject({ host: "mx1.example.org", own: true, days: 14 });
    expect(own?.marks.map(({ end }) => end.charAt(0)).join("")).toBe("ggggggfgggiggg");
    expect(own?.marks.at(-1)).toMatchObject({ mode: "hold", exit: null });
    expect(second).toMatchObject({ host: "mx2.example.org", own: false });
  });

  test("has the run that died, and leaves out what has no time", () => {
    const facts = exampleFacts();
    const report = reportOf({
      jobs: [jobOf({ died: true, lastStart: { time: "2026-11-24T09:00:00Z", ageSeconds: 1 } })],
    });
    const history = [...facts.history, ...facts.history.slice(0, 1).map((run) => ({ ...run, start: "soon" }))];
    const [own] = hostLines({ ...facts, report, history });
    expect(own?.marks.at(-1)).toMatchObject({ end: "failed", snapshot: null, at: Date.parse("2026-11-24T09:00:00Z") });
    expect(own?.marks).toHaveLength(15);
  });
});

describe("health", () => {
  const well = { report: reportOf(), repository: null, stale: null };

  test("is 200 where nothing is critical, with the warnings", () => {
    expect(healthOf(exampleFacts(well))).toEqual({ status: 200, text: "ok\n" });
    const warned = reportOf({ jobs: [jobOf({ lastExit: 1 })] });
    const { status, text } = healthOf(exampleFacts({ ...well, report: warned }));
    expect(status).toBe(200);
    expect(text).toMatch(/^ok, with warnings\nwarning backup-failed: the last backup .*\n$/);
  });

  test("is 503 with the reasons, each on a line", () => {
    const bad = reportOf({ unseen: ["one\ntwo"], instances: [instanceOf("mx", 30_000)] });
    const { status, text } = healthOf(exampleFacts({ ...well, report: bad }));
    expect(status).toBe(503);
    expect(text).toMatch(
      /^critical\ncritical unseen: one two\ncritical queue-deferred: mx: 30000 messages in deferred.*\n$/,
    );
    expect(healthOf(exampleFacts({ ...well, stale: "gone" }))).toMatchObject({ status: 503 });
  });

  test("tells of other hosts only where no backup is made", () => {
    const report = reportOf();
    expect(healthOf(exampleFacts({ report })).text).not.toContain("mx3");
    const standby = reportOf({ host: "standby", lastBackup: null, jobs: [], backupExpected: false });
    const { status, text } = healthOf(exampleFacts({ report: standby }));
    expect(status).toBe(503);
    expect(text).toContain("critical backup-age: the newest good backup of mx3.example.org");
  });
});
