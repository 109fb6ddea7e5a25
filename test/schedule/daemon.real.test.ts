import { spawn } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { readJob } from "../../src/jobs/record.ts";
import { type DaemonEvent, type DaemonOptions, runDaemon, type ScheduledJob } from "../../src/schedule/daemon.ts";
import type { JobState } from "../../src/schedule/engine.ts";
import { makeCalendar } from "../../src/schedule/expression.ts";
import { systemdNotify } from "../../src/schedule/notify.ts";
import { loadStates, saveStates, stateFile } from "../../src/schedule/state.ts";
import { processStart } from "../../src/system/processes.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";

const minute = 60_000;
const hour = 60 * minute;
const noon = Date.UTC(2026, 10, 24, 12);

/** The daemon in this process, on a clock that the test sets, with shell commands as jobs. */
class Scene implements AsyncDisposable {
  readonly directory = makeScratch();
  readonly state = join(this.directory, "state");
  readonly events: DaemonEvent[] = [];
  readonly log = join(this.directory, "log");
  readonly controller = new AbortController();
  now = noon;
  monotonic = 1_000_000;
  restarts = 0;
  /** Shell script of a job; it may append to "$LOG". */
  script = 'echo "$SPOOLSAFE_DUE" >> "$LOG"';
  #tick = () => {};
  #running: Promise<void> | undefined;

  start(jobs: readonly ScheduledJob[], more: Partial<DaemonOptions> = {}): Promise<void> {
    appendFileSync(this.log, "");
    this.#running = runDaemon({
      jobs,
      stateDirectory: this.state,
      clock: { now: () => this.now, monotonic: () => this.monotonic, sleep: () => Promise.reject(new Error("no")) },
      signal: this.controller.signal,
      ticks: (tick) => {
        this.#tick = tick;
        return { restart: () => this.restarts++, stop: () => {} };
      },
      commandOf: () => ["env", `LOG=${this.log}`, "sh", "-c", this.script],
      recovery: ["sh", "-c", `echo recovered >> ${this.log}`],
      notify: systemdNotify({}),
      report: (event) => this.events.push(event),
      ...more,
    });
    return this.#running;
  }

  tickAt(now: number): void {
    this.monotonic += Math.max(0, now - this.now);
    this.now = now;
    this.#tick();
  }

  get runs(): string[] {
    return readFileSync(this.log, "utf8").split("\n").slice(0, -1);
  }

  seen(type: DaemonEvent["type"]): DaemonEvent[] {
    return this.events.filter((event) => event.type === type);
  }

  async ended(count: number): Promise<void> {
    await until(() => this.seen("run-ended").length >= count, { everyMs: 5, what: () => JSON.stringify(this.events) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.controller.abort();
    await this.#running?.catch(() => {});
    destroyScratch(this.directory);
  }
}

function job(name: ScheduledJob["job"], expression: string, lane = "one"): ScheduledJob {
  return { job: name, lane, calendar: makeCalendar(expression, "UTC"), jitterMs: 0, catchUpMs: 24 * hour };
}

const hourly = job("backup", "30 * * * *");
const due = (time: number) => new Date(time).toISOString();

describe.skipIf(!needs("flock"))("the daemon", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] }));
  afterEach(() => void vi.useRealTimers());

  test("a held lock: again in the next minute, and the record shows the run that did it", async () => {
    await using scene = new Scene();
    scene.script = `${scene.script}; exit 11`;
    void scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    scene.tickAt(noon + 30 * minute);
    await scene.ended(1);
    expect(scene.seen("run-ended")).toMatchObject([{ exit: 11, again: true }]);
    expect(readJob(scene.state, "backup")).toMatchObject({ lastStart: null, lastEnd: null });
    scene.tickAt(noon + 30 * minute + 20_000);
    scene.script = 'echo "$SPOOLSAFE_DUE" >> "$LOG"';
    scene.tickAt(noon + 31 * minute);
    await scene.ended(2);
    expect(scene.runs).toEqual([due(noon + 30 * minute), due(noon + 30 * minute)]);
    expect(readJob(scene.state, "backup")).toMatchObject({ lastExit: 0, scheduled: { due: due(noon + 30 * minute) } });
    scene.tickAt(noon + 32 * minute);
    expect(scene.runs).toHaveLength(2);
  });

  test("jobs of one lane one after the other, another lane beside them", async () => {
    await using scene = new Scene();
    scene.script = 'echo start >> "$LOG"; while [ ! -e "$LOG.go" ]; do sleep 0.02; done; echo end >> "$LOG"';
    void scene.start([hourly, job("prune", "30 * * * *"), job("verify", "30 * * * *", "other")]);
    await until(() => loadStates(scene.state).jobs.verify, { what: "the first look" });
    scene.tickAt(noon + 30 * minute);
    await until(() => scene.runs.length === 2, { everyMs: 5 });
    scene.tickAt(noon + 31 * minute);
    expect(scene.seen("run-started").map((event) => "job" in event && event.job)).toEqual(["backup", "verify"]);
    writeFileSync(`${scene.log}.go`, "");
    await scene.ended(3);
    expect(scene.seen("run-started").map((event) => "job" in event && event.job)).toEqual([
      "backup",
      "verify",
      "prune",
    ]);
  });

  test("a clock that is set, or a machine that was asleep: what is due is looked for at once", async () => {
    await using scene = new Scene();
    void scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    scene.now += 3 * hour;
    scene.monotonic += 10_000;
    vi.advanceTimersByTime(10_000);
    await scene.ended(1);
    expect(scene.runs).toEqual([due(noon + 2.5 * hour)]);
    expect(scene.seen("clock-stepped")).toEqual([{ type: "clock-stepped", byMs: 3 * hour - 10_000 }]);
    scene.now -= 2 * hour;
    scene.monotonic += 10_000;
    vi.advanceTimersByTime(10_000);
    expect(scene.seen("clock-set-back")).toMatchObject([{ job: "backup" }]);
    expect(scene.restarts).toBe(2);
    // Its ticks have stopped, for whatever reason.
    scene.now += 31 * minute;
    scene.monotonic += 31 * minute;
    vi.advanceTimersByTime(10_000);
    await scene.ended(2);
    expect(scene.runs.at(-1)).toBe(due(noon + 1.5 * hour));
  });

  test("a run that hangs is ended at its deadline, not run again, and what it held is given back", async () => {
    await using scene = new Scene();
    const child = spawn("sleep", ["600"], { stdio: "ignore" });
    const startTicks = processStart(child.pid ?? 0) ?? "";
    const process = { pid: child.pid ?? 0, startTicks };
    const started = noon - 3 * hour;
    const running = { due: started, deaths: 0, startedAt: started, process };
    const state: JobState = { ...stateOf(hourly), seenUntil: noon, running };
    saveStates(scene.state, { backup: state });
    void scene.start([hourly]);
    await scene.ended(1);
    expect(scene.seen("run-started")).toMatchObject([{ adopted: true }]);
    expect(scene.seen("run-overdue")).toMatchObject([{ afterMs: 3 * hour }]);
    expect(scene.seen("run-ended")).toMatchObject([{ exit: null, again: false }]);
    expect(scene.runs).toEqual(["recovered"]);
    expect(readJob(scene.state, "backup")).toMatchObject({ lastExit: 137, running: null });
  });

  test("a run that began by a clock that was years ahead has its time from now on", async () => {
    await using scene = new Scene();
    const child = spawn("sleep", ["600"], { stdio: "ignore" });
    const process = { pid: child.pid ?? 0, startTicks: processStart(child.pid ?? 0) ?? "" };
    const startedAt = noon + 1000 * 24 * hour;
    const running = { due: startedAt, deaths: 0, startedAt, process };
    saveStates(scene.state, { prune: { ...stateOf(job("prune", "30 * * * *")), running } });
    void scene.start([job("prune", "30 * * * *"), job("verify", "30 * * * *", "other")]);
    await until(() => loadStates(scene.state).jobs.verify, { what: "the first look" });
    scene.tickAt(noon + 30 * minute);
    await scene.ended(1);
    expect(scene.seen("run-ended")).toMatchObject([{ job: "verify", exit: 0 }]);
    expect(scene.seen("run-overdue")).toEqual([]);
    child.kill("SIGKILL");
    await scene.ended(2);
  });

  test("a state directory that can't be written: nothing is started and nothing lost until it can", async () => {
    await using scene = new Scene();
    void scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    // No file can take the place of a directory: as good as a full disk, also for root.
    rmSync(stateFile(scene.state));
    mkdirSync(stateFile(scene.state));
    scene.tickAt(noon + 30 * minute);
    scene.tickAt(noon + 31 * minute);
    expect(scene.seen("not-started")).toHaveLength(2);
    expect(scene.seen("state-unsaved")).toHaveLength(1);
    expect(scene.runs).toEqual([]);
    rmdirSync(stateFile(scene.state));
    scene.script = `${scene.script}; rm ${stateFile(scene.state)}; mkdir ${stateFile(scene.state)}`;
    scene.tickAt(noon + 32 * minute);
    // Its end can't be saved.
    await scene.ended(1);
    expect(scene.runs).toEqual([due(noon + 30 * minute)]);
    expect(scene.seen("state-unsaved")).toHaveLength(2);
    rmdirSync(stateFile(scene.state));
    scene.tickAt(noon + 33 * minute);
    expect(scene.runs).toHaveLength(1);
    expect(loadStates(scene.state).jobs.backup).toMatchObject({ owed: null, running: null });
  });

  test("a recovery that hangs is ended, and the next backup comes", async () => {
    await using scene = new Scene();
    scene.script = 'echo run >> "$LOG"; kill -9 $$';
    void scene.start([hourly], { recovery: ["sleep", "600"], recoveryLimitMs: 50 });
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    scene.tickAt(noon + 30 * minute);
    await scene.ended(1);
    expect(scene.seen("recovered")).toMatchObject([{ exit: null }]);
    scene.tickAt(noon + 90 * minute);
    await scene.ended(2);
    expect(scene.runs).toEqual(["run", "run"]);
  });

  test.each([
    { expression: "30 * * * *", timezone: "Mars/Olympus" },
    { expression: "no such thing", timezone: "UTC" },
  ])("a state with times that nobody knows any more: $timezone, $expression", async (old) => {
    await using scene = new Scene();
    saveStates(scene.state, { backup: { ...stateOf(hourly), ...old, seenUntil: noon - hour } });
    void scene.start([hourly]);
    await scene.ended(1);
    expect(scene.runs).toEqual([due(noon - 30 * minute)]);
  });

  test("SIGTERM goes to its jobs, and what they could not finish stays owed", async () => {
    await using scene = new Scene();
    scene.script = 'trap "echo told >> $LOG; exit 130" TERM; echo start >> "$LOG"; while :; do sleep 0.02; done';
    const living = scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    scene.tickAt(noon + 30 * minute);
    await until(() => scene.runs.length === 1, { everyMs: 5 });
    scene.controller.abort();
    await living;
    expect(scene.runs).toEqual(["start", "told"]);
    expect(loadStates(scene.state).jobs.backup).toMatchObject({ running: null, owed: { due: noon + 30 * minute } });
    // Nobody is at work any more: another may begin.
    expect(existsSync(stateFile(scene.state))).toBe(true);
  });

  test("a state that can't be read is said, and the schedule starts anew", async () => {
    await using scene = new Scene();
    saveStates(scene.state, {});
    writeFileSync(stateFile(scene.state), "{");
    void scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    expect(scene.seen("state-damaged")).toHaveLength(1);
  });

  test("what was taken off the schedule owes nothing when it comes back", async () => {
    await using scene = new Scene();
    saveStates(scene.state, { verify: { ...stateOf(job("verify", "30 * * * *")), seenUntil: noon - 5 * hour } });
    void scene.start([hourly]);
    await until(() => loadStates(scene.state).jobs.backup, { what: "the first look" });
    expect(loadStates(scene.state).jobs.verify).toBeUndefined();
  });
});

function stateOf({ calendar }: ScheduledJob): JobState {
  const { expression, timezone } = calendar;
  return { expression, timezone, seenUntil: noon, lastDone: null, owed: null, running: null };
}
