import { expect, test } from "vitest";
import { jobNames } from "../../src/jobs/record.ts";
import { problemNames } from "../../src/status/report.ts";
import { runbookNames, runbookOf } from "../../src/status/runbook-of.ts";

test("every problem and every alert has a runbook, but for those whose remedy is all there is to do", () => {
  const ends = ["died", "failed", "incomplete", "missed", "overdue", "target", "old"] as const;
  const names = [...problemNames, ...jobNames.flatMap((job) => ends.map((end) => `${job}-${end}` as const))];
  const without = names.filter((name) => runbookOf(name) === null);
  expect(without).toEqual(["backup-future", "untrusted", "alerts-unsent", "status-page", "status-stale", "textfile"]);
  for (const name of names) expect([null, ...runbookNames]).toContain(runbookOf(name));
});

test("what is special comes before what a job has in general", () => {
  expect(runbookOf("backup-failed")).toBe("00-triage");
  expect(runbookOf("backup-empty")).toBe("03-mail-deleted");
  expect(runbookOf("hold-capture")).toBe("09-stuck-hold");
  expect(runbookOf("drill-missed")).toBe("07-restore-drill");
});
