import { expect, test } from "vitest";
import { type AlertsToExamine, examineAlerts } from "../../src/doctor/alerts.ts";

const nobody: AlertsToExamine = {
  scheduled: ["backup", "drill"],
  channels: [],
  heartbeat: false,
  drillHeartbeat: false,
};
const advice = (more: Partial<AlertsToExamine>) =>
  examineAlerts({ ...nobody, ...more }).map(({ ok, remedy }) => [ok, remedy]);

test("a schedule of which nobody hears is worth advice, and so is half of it; a host without one is not", () => {
  expect(advice({ scheduled: [] })).toEqual([]);
  expect(advice({})).toEqual([[true, expect.stringContaining("nobody is told when backup, drill fail or stop")]]);
  expect(advice({ channels: ["smtp"], heartbeat: true })).toEqual([
    [true, expect.stringContaining("set drill_heartbeat_url as well")],
  ]);
  expect(advice({ heartbeat: true, drillHeartbeat: true })).toEqual([
    [true, expect.stringContaining("set webhook_url, command or smtp as well")],
  ]);
  expect(advice({ channels: ["smtp"], heartbeat: true, drillHeartbeat: true })).toEqual([[true, null]]);
  expect(advice({ scheduled: ["verify"], channels: ["command"] })).toEqual([[true, null]]);
});
