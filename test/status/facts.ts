import { judge } from "../../src/status/problems.ts";
import type { InstanceState, Oldest, QueueState } from "../../src/status/queue-state.ts";
import type { JobStatus, StatusFacts, StatusLimits, StatusReport } from "../../src/status/report.ts";

/** How things are where all is well, with what a test cares about put over it. */
export function factsOf(over: Partial<StatusFacts> = {}): StatusFacts {
  return {
    host: "mx1.example.org",
    time: "2026-11-24T12:00:00.000Z",
    backupExpected: true,
    lastBackup: {
      time: "2026-11-24T02:00:00.000Z",
      ageSeconds: 36_000,
      snapshot: "ab".repeat(32),
      messages: 1284,
      heldLongestMs: 143,
    },
    lastVerify: { time: "2026-11-22T04:30:00.000Z", ageSeconds: 199_800, level: "sealed", snapshot: null },
    lastDrill: null,
    jobs: [jobOf()],
    holds: [],
    copies: [],
    unsentAlerts: [],
    emptyBackup: null,
    daemonFaults: [],
    instances: [instanceOf("mx")],
    unseen: [],
    repository: null,
    ...over,
  };
}

export function jobOf(over: Partial<JobStatus> = {}): JobStatus {
  const began = { time: "2026-11-24T02:00:00.000Z", ageSeconds: 36_000 };
  return {
    job: "backup",
    lastSuccess: began,
    lastStart: began,
    lastExit: 0,
    running: false,
    died: false,
    scheduled: false,
    missedSince: null,
    missedTarget: null,
    ...over,
  };
}

export function instanceOf(name: string, deferred = 1200, oldest: Oldest | null = { ageSeconds: 3600, exact: true }) {
  const queue = (messages: number): QueueState => ({
    messages,
    oldest: messages === 0 ? null : oldest,
    ages: [0, messages, 0, 0, 0, 0],
  });
  const state: InstanceState = {
    name,
    queues: { maildrop: queue(0), incoming: queue(3), active: queue(41), deferred: queue(deferred), hold: queue(5) },
    total: deferred + 49,
    deferredShare: deferred / (deferred + 49),
    oldest,
  };
  return state;
}

export const limits: StatusLimits = {
  backupAge: { warning: null, critical: 26 * 3600 },
  deferred: [5000, 20_000],
  active: [2000, 10_000],
  oldest: [2 * 86_400, 4 * 86_400],
  captureHold: 300,
};

export function reportOf(over: Partial<StatusFacts> = {}, limit: StatusLimits = limits): StatusReport {
  const facts = factsOf(over);
  return { ...facts, limits: limit, problems: judge(facts, limit) };
}
