import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { isAlive } from "../../src/jobs/record.ts";
import type { Running } from "../../src/schedule/engine.ts";
import { loadStates } from "../../src/schedule/state.ts";
import { needs } from "../support/needs.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { destroyScratch, killQuietly, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";
import { heldFile, lastTick, logged, type Scene } from "./scene.ts";

const minute = 60_000;
const kills = 20;
const start = Date.UTC(2026, 10, 24, 12, 1);

/** A daemon that is killed and started again on one clock. */
class Killed implements AsyncDisposable {
  readonly directory = makeScratch();
  readonly scene: Scene = {
    state: join(this.directory, "state"),
    log: join(this.directory, "log"),
    jobs: [
      { job: "backup", expression: "5,35 * * * *" },
      { job: "verify", expression: "20,50 * * * *" },
    ],
  };
  #daemon: ChildProcess | undefined;

  constructor() {
    writeFileSync(join(this.directory, "scene.json"), JSON.stringify(this.scene));
    this.sayTime(start);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#daemon?.kill("SIGKILL");
    destroyScratch(this.directory);
  }

  start(): void {
    const program = join(import.meta.dirname, "scene-daemon.ts");
    this.#daemon = spawn(process.execPath, [program, join(this.directory, "scene.json")], {
      cwd: this.directory,
      stdio: ["ignore", "ignore", process.env.SPOOLSAFE_SHOW ? "inherit" : "ignore"],
    });
  }

  async end(signal: "SIGKILL" | "SIGTERM"): Promise<number | null> {
    const daemon = this.#daemon;
    if (daemon === undefined) return null;
    const ended = new Promise<number | null>((resolve) => daemon.on("close", resolve));
    daemon.kill(signal);
    return await ended;
  }

  /** What is at work, by the daemon's own state. */
  get running(): Running[] {
    const { jobs } = loadStates(this.scene.state);
    return Object.values(jobs).flatMap(({ running }) => (running === null ? [] : [running]));
  }

  /** How often it has looked at the clock. Every line of the log is read once. */
  get ticks(): number {
    const text = readFileSync(this.scene.log, "latin1");
    for (let at = text.indexOf("tick ", this.#read); at >= 0; at = text.indexOf("tick ", at + 5)) {
      this.#ticks++;
      this.#read = at + 5;
    }
    return this.#ticks;
  }
  #ticks = 0;
  #read = 0;

  get now(): number {
    return lastTick(this.scene);
  }

  sayTime(now: number): void {
    appendFileSync(this.scene.log, `tick - ${now}\n`);
  }
}

/** Every time of `expression`'s minutes after the start and not after the end. */
function times(offset: number, end: number): number[] {
  const all = Array.from({ length: 200 }, (_, index) => Date.UTC(2026, 10, 24, 12, offset + 30 * index));
  return all.filter((due) => due > start && due <= end);
}

describe.skipIf(!needs("flock"))("the daemon", () => {
  test(`killed at ${kills} moments loses no run, doubles none and leaves no hold`, async () => {
    const random = new Random(chooseSeed("daemon killed"));
    await using one = new Killed();
    const killed = { starting: 0, idle: 0, working: 0, withJob: new Set<string>() };
    // Once undisturbed: what was due before anybody knew of it is nobody's.
    one.start();
    await until(() => one.ticks > 1, { everyMs: 5, what: "a first tick" });
    for (let kill = 0; kill < kills; kill++) {
      const seen = one.ticks;
      const before = one.running.map(({ due }) => due);
      if (kill > 0) one.start();
      const moment = random.pick(["starting", "idle", "working", "working", "working"] as const);
      if (moment !== "starting") await until(() => one.ticks > seen, { everyMs: 5, what: "a tick" });
      const isNew = ({ due }: Running) => !before.includes(due);
      if (moment === "working") await until(() => one.running.some(isNew), { everyMs: 5, what: "a job at work" });
      if (moment === "idle") await until(() => one.ticks > seen + 15, { everyMs: 5, what: "ticks" });
      await delay(random.below(moment === "starting" ? 600 : 400));
      await one.end("SIGKILL");
      killed[moment]++;
      const wanted = random.below(2) === 0;
      for (const { due, process } of one.running) {
        // One that dies again and again is given up in the end; that is another test.
        if (!wanted || killed.withJob.has(`${due}`) || !isAlive(process)) continue;
        killQuietly(process.pid);
        killed.withJob.add(`${due}`);
      }
      // Down for a while, in which at most one time passes for each job: that is made up.
      if (one.running.length === 0 && random.below(2) === 0) one.sayTime(one.now + random.below(25) * minute);
    }
    one.start();
    const seen = one.ticks;
    // Until nothing is due for a while: what it would be told to end belongs to the next start.
    const quiet = () => one.running.length === 0 && [6, 7, 8].includes((one.now / minute) % 15);
    await until(() => one.ticks > seen + 3 && quiet(), { everyMs: 2, what: "the last runs" });
    expect(await one.end("SIGTERM")).toBe(0);
    process.stderr.write(
      `daemon killed: ${killed.starting} starting, ${killed.idle} idle, ${killed.working} at work, ${killed.withJob.size} with the job\n`,
    );
    expect(one.running).toEqual([]);
    expect(existsSync(heldFile(one.scene)), "no hold left").toBe(false);
    expect(logged(one.scene, "found-held", "backup"), "no hold left for the next backup").toEqual([]);
    for (const [job, offset] of [
      ["backup", 5],
      ["verify", 20],
    ] as const) {
      const finished = logged(one.scene, "end", job);
      // Killed between its record and its last line, or just before both: nobody can know.
      const unknown = logged(one.scene, "ending", job).filter((due) => !finished.includes(due));
      expect(new Set(finished).size, `${job}: none doubled`).toBe(finished.length);
      expect([...finished, ...unknown].sort(), `${job}: none lost`).toEqual(times(offset, one.now));
    }
  });
});
