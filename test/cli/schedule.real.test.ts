import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { isAlive, isRunning, readJob } from "../../src/jobs/record.ts";
import { makeCalendar } from "../../src/schedule/expression.ts";
import { loadStates, saveStates } from "../../src/schedule/state.ts";
import { onCalendar } from "../../src/schedule/units.ts";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, killQuietly, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { until } from "../support/wait.ts";

const minute = 60_000;
const hour = 60 * minute;

/** A time half an hour ago, as an expression that is due once a day then. */
function halfAnHourAgo(): { readonly due: number; readonly expression: string } {
  const due = Math.floor((Date.now() - 30 * minute) / minute) * minute;
  const time = new Date(due);
  return { due, expression: `${time.getUTCMinutes()} ${time.getUTCHours()} * * *` };
}

/** A host with `spoolsafe schedule run`, which last ran an hour ago and so has missed a backup. */
class Host implements AsyncDisposable {
  readonly site: Site;
  readonly config: string;
  readonly due: number;
  said = "";
  #daemon: ChildProcess | undefined;

  constructor(site: Site, postfix: PrivatePostfix, more: readonly string[] = []) {
    this.site = site;
    this.config = site.configure([postfix], { hold_batch: 20 });
    const { due, expression } = halfAnHourAgo();
    this.due = due;
    appendFileSync(
      this.config,
      ["[schedule]", 'timezone = "UTC"', `backup = "${expression}"`, 'jitter = "0s"', ...more, ""].join("\n"),
    );
    const backup = {
      expression,
      timezone: "UTC",
      seenUntil: Date.now() - hour,
      lastDone: null,
      owed: null,
      running: null,
    };
    saveStates(site.stateDirectory, { backup });
  }

  start(env: Readonly<Record<string, string>> = {}): void {
    const program = join(builtProgram(), "spoolsafe.js");
    // Daemon and jobs are as many starts of Node.
    const compiled = { NODE_COMPILE_CACHE: join(builtProgram(), "compiled") };
    this.#daemon = spawn(process.execPath, [program, "schedule", "run", "--config", this.config], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...compiled, ...env },
    });
    this.#daemon.stderr?.on("data", (chunk: Buffer) => {
      this.said += chunk.toString();
    });
  }

  /** @returns the exit code */
  async end(signal: "SIGTERM" | "SIGKILL"): Promise<number | null> {
    const daemon = this.#daemon;
    if (daemon === undefined) return null;
    const ended = new Promise<number | null>((resolve) => daemon.on("close", resolve));
    daemon.kill(signal);
    return await ended;
  }

  get job() {
    return readJob(this.site.stateDirectory, "backup");
  }

  get state() {
    return loadStates(this.site.stateDirectory).jobs.backup;
  }

  async snapshots(): Promise<number> {
    return (await this.site.repository.snapshotRefs(new AbortController().signal)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#daemon?.kill("SIGKILL");
    const running = this.state?.running;
    if (running && isAlive(running.process)) killQuietly(running.process.pid);
  }
}

/** A datagram socket as a service manager has it; Node has none. perl-base is on every Debian. */
class NotifySocket implements AsyncDisposable {
  readonly path: string;
  readonly #perl: ChildProcess;
  #said = "";

  constructor(directory: string) {
    this.path = join(directory, "notify");
    const script =
      'use Socket; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die; bind(S, sockaddr_un($ARGV[0])) or die; $| = 1; print "bound\\n"; while (1) { recv(S, $m, 4096, 0); print "$m\\n" }';
    this.#perl = spawn("perl", ["-e", script, this.path], { stdio: ["ignore", "pipe", "inherit"] });
    this.#perl.stdout?.on("data", (chunk: Buffer) => {
      this.#said += chunk.toString();
    });
  }

  async said(what: string): Promise<void> {
    await until(() => this.#said.split("\n").includes(what), { what: () => `${what}, not ${this.#said}` });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#perl.kill("SIGKILL");
  }
}

describe.skipIf(!needs("root", "postfix", "flock", "systemd")).concurrent("spoolsafe schedule run", () => {
  test("makes up a missed backup at once, tells the service manager, and ends with 0 on SIGTERM", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 5);
    const messages = postfix.counts().deferred;
    await postfix.start();
    await using host = new Host(site, postfix);
    await using socket = new NotifySocket(site.directory);
    await socket.said("bound");
    host.start({ NOTIFY_SOCKET: socket.path, WATCHDOG_USEC: "600000" });
    await socket.said("READY=1");
    await until(() => host.job.lastExit !== null, { timeoutMs: 60_000, what: () => host.said });
    await socket.said("WATCHDOG=1");
    await until(() => host.state?.running === null, { what: "the end of the run" });
    const second = await spoolsafe(["schedule", "run", "--config", host.config]);
    expect([second.code, second.stderr]).toEqual([11, expect.stringContaining("another schedule is at work")]);
    const next = await spoolsafe(["schedule", "next", "--json", "--config", host.config]);
    expect(next.json[0]).toMatchObject({
      job: "backup",
      due: new Date(host.due + 24 * hour).toISOString(),
      lastSuccess: host.job.lastSuccess,
    });
    expect(await host.end("SIGTERM")).toBe(0);
    await socket.said("STOPPING=1");
    expect(host.job).toMatchObject({
      lastExit: 0,
      running: null,
      scheduled: { due: new Date(host.due).toISOString(), exit: 0 },
      detail: { messages },
    });
    expect(await host.snapshots()).toBe(1);
    expect(host.said).toMatch(
      /backup of .*: missed by 3\dm, made up now\n.*backup: snapshot .*backup of .*: done after /s,
    );
  });

  test("killed with its backup while mail is on hold: the next one gives it back and runs it again, once", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 300);
    const queued = { deferred: postfix.counts().deferred };
    await postfix.start();
    await using host = new Host(site, postfix);
    host.start();
    await until(() => postfix.counts().hold > 0, { everyMs: 2, timeoutMs: 60_000, what: () => host.said });
    const backup = host.state?.running?.process.pid ?? 0;
    const killed = host.end("SIGKILL");
    killQuietly(backup);
    await killed;
    expect(host.job.lastEnd).toBeNull();
    host.start();
    await until(() => host.job.lastExit === 0 && host.state?.running === null, {
      timeoutMs: 60_000,
      what: () => host.said,
    });
    expect(await host.end("SIGTERM")).toBe(0);
    expect(host.said).toContain("was killed");
    expect(postfix.counts()).toMatchObject({ ...queued, hold: 0 });
    expect(await host.snapshots()).toBe(1);
    expect(host.state).toMatchObject({ owed: null, running: null });
  });

  test("SIGTERM in the middle of a backup: it gives back what it holds, and is made up after the next start", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 300);
    const queued = { deferred: postfix.counts().deferred };
    await postfix.start();
    await using host = new Host(site, postfix);
    host.start();
    await until(() => postfix.counts().hold > 0, { everyMs: 2, timeoutMs: 60_000, what: () => host.said });
    expect(await host.end("SIGTERM")).toBe(0);
    expect(isRunning(host.job)).toBe(false);
    expect(postfix.counts()).toMatchObject({ ...queued, hold: 0 });
    const stopped = host.job.lastExit === 130;
    expect(host.state?.owed?.due).toBe(stopped ? host.due : undefined);
    host.start();
    await until(() => host.job.lastExit === 0 && host.state?.owed === null && host.state.running === null, {
      timeoutMs: 60_000,
      what: () => host.said,
    });
    await host.end("SIGTERM");
    expect(await host.snapshots()).toBe(1);
  });
});

describe.skipIf(!needs("root", "postfix")).concurrent("the jobs", () => {
  test("get what they need under the units' hardening: holds, a reload, locks and files of Postfix's own users", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 20);
    const queued = postfix.counts().deferred;
    await postfix.start();
    const config = site.configure([postfix]);
    const unit = readFileSync(join(import.meta.dirname, "../../examples/systemd/spoolsafe-backup.service"), "utf8");
    const [, named = ""] = /^CapabilityBoundingSet=(.*)$/m.exec(unit) ?? [];
    const kept = named.split(" ").map((name) => `+${name.replace(/^CAP_/, "").toLowerCase()}`);
    const under = ["setpriv", "--no-new-privs", `--bounding-set=-all,${kept.join(",")}`];
    for (const mode of ["hold", "freeze"]) {
      const { code, stderr, json } = await spoolsafe(["backup", "--mode", mode, "--config", config, "--json"], {
        under,
      });
      expect([code, stderr]).toEqual([0, ""]);
      expect(json.at(-1)).toMatchObject({ mode, messages: { deferred: queued, inFlight: 0 }, hold: { held: queued } });
    }
    expect(postfix.counts()).toMatchObject({ deferred: queued, hold: 0 });
    expect(await spoolsafe(["holds", "release", "--config", config], { under })).toMatchObject({ code: 0 });
  });

  test("runs by hand are recorded; of verify those that say something of the newest snapshot", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    const config = site.configure([postfix]);
    const run = (...words: readonly string[]) => spoolsafe([...words, "--config", config, "--json"]);
    const state = site.stateDirectory;
    await run("backup", "--dry-run");
    expect(readJob(state, "backup").lastStart).toBeNull();
    const { json } = await run("backup");
    const { snapshot } = json.at(-1) ?? {};
    expect(readJob(state, "backup")).toMatchObject({
      lastExit: 0,
      running: null,
      scheduled: null,
      detail: { snapshot },
    });
    await run("verify", String(snapshot));
    await run("verify", "--sample", "50%");
    expect(readJob(state, "verify").lastStart).toBeNull();
    expect((await run("verify")).code).toBe(0);
    expect(readJob(state, "verify")).toMatchObject({ lastExit: 0, detail: { level: "sealed", snapshot } });
    await run("verify", "latest", "--repository", join(site.directory, "nowhere"));
    expect(readJob(state, "verify")).toMatchObject({ lastExit: 10, detail: { snapshot } });
  });
});

describe("spoolsafe schedule", () => {
  test("an expression that never comes, an unknown zone, a drill without an identity: errors that name file and key", async () => {
    const directory = makeScratch();
    try {
      const file = join(directory, "spoolsafe.toml");
      const refused = async (lines: readonly string[]) => {
        writeFileSync(file, ["[schedule]", ...lines, ""].join("\n"));
        const { code, stderr } = await spoolsafe(["schedule", "run", "--config", file]);
        return [code, stderr.replaceAll(file, "FILE")];
      };
      expect(await refused(['backup = "0 0 31 2 *"', 'timezone = "Mars/Olympus"'])).toEqual([
        2,
        expect.stringMatching(
          /FILE:2: schedule.backup: never comes.*\n.*FILE:3: schedule.timezone: must be a time zone/,
        ),
      ]);
      expect(await refused(['backup = "0 2 * * * *"'])).toEqual([2, expect.stringContaining("leave out the seconds")]);
      expect(await refused([])).toEqual([2, expect.stringContaining("FILE: schedule: names no job")]);
      expect(await refused(['drill = "0 5 1 * *"'])).toEqual([
        2,
        expect.stringMatching(/FILE:2: schedule.drill: .*identity/),
      ]);
    } finally {
      destroyScratch(directory);
    }
  });
});

describe.skipIf(!needs("systemd"))("spoolsafe schedule install", () => {
  test("writes units that systemd takes, again and again, and replaces nothing of anybody else", async () => {
    const directory = makeScratch();
    try {
      const config = join(directory, "spoolsafe.toml");
      const expressions = ['backup = "0 2 * * *"', 'verify = "30 4 * * 0"', 'prune = "0 6 1,15 * MON"'];
      writeFileSync(
        config,
        ['state_directory = "/home/a b/state"', "[schedule]", 'timezone = "Europe/Paris"', ...expressions, ""].join(
          "\n",
        ),
      );
      const install = (units: string, ...options: readonly string[]) =>
        spoolsafe(["schedule", "install", "--config", config, "--directory", join(directory, units), ...options]);
      for (const [units, ...options] of [["daemon"], ["timers", "--timers"]] as const) {
        mkdirSync(join(directory, units));
        expect((await install(units, ...options)).code).toBe(0);
        // Files are loaded one by one here: they name each other, and programs of this checkout.
        expect(verifyUnits(join(directory, units))).toEqual({ status: 0, stderr: "" });
        expect((await install(units, ...options)).stdout).not.toMatch(/made|replaced/);
      }
      const unit = join(directory, "daemon/spoolsafe-schedule.service");
      writeFileSync(config, readFileSync(config, "utf8").replace("/home/a b", "/home/other"));
      expect((await install("daemon")).stdout).toContain(`replaced  ${unit}`);
      expect(readFileSync(unit, "utf8")).toContain("/home/other/state");

      expect(await install("daemon", "--timers")).toMatchObject({ code: 1, stderr: expect.stringContaining("twice") });
      appendFileSync(unit, "# edited\n");
      rmSync(join(directory, "daemon/spoolsafe-recover.service"));
      const refused = await install("daemon");
      expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining(`changed since: ${unit}`)]);
      expect(existsSync(join(directory, "daemon/spoolsafe-recover.service"))).toBe(false);
      expect(readFileSync(unit, "utf8")).toMatch(/# edited\n$/);
    } finally {
      destroyScratch(directory);
    }
  });

  test("timers come when the schedule says so", () => {
    const from = Date.parse("2027-01-15T10:00Z");
    for (const expression of ["30 2 * * *", "*/30 * * * *", "0 6 1,15 * MON", "0 0 L * *", "15 4 * 2-3 SUN"]) {
      const calendar = makeCalendar(expression, "Europe/Paris");
      const expected = Array.from(calendar.between(from, from + 700 * 24 * hour)).slice(0, 4);
      const times = onCalendar(expression, "Europe/Paris").flatMap((time) => elapses(time, from, 4));
      expect([...new Set(times)].sort().slice(0, 4).map(iso), expression).toEqual(expected.map(iso));
    }
  });
});

const iso = (time: number) => new Date(time).toISOString();

function verifyUnits(directory: string): { status: number | null; stderr: string } {
  const units = readdirSync(directory).filter((name) => /\.(service|timer)$/.test(name));
  const { status, stderr } = spawnSync("systemd-analyze", ["verify", ...units.map((name) => join(directory, name))], {
    encoding: "utf8",
  });
  return { status, stderr };
}

/** When systemd would start it. */
function elapses(time: string, from: number, count: number): number[] {
  const args = [
    "calendar",
    `--iterations=${count}`,
    `--base-time=${iso(from).slice(0, 19).replace("T", " ")} UTC`,
    time,
  ];
  const { stdout } = spawnSync("systemd-analyze", args, { encoding: "utf8", env: { ...process.env, TZ: "UTC" } });
  return [...stdout.matchAll(/(?:Next elapse|Iter. #\d+|Iteration #\d+): \w+ (\S+) (\S+) UTC/g)].map(([, day, clock]) =>
    Date.parse(`${day}T${clock}Z`),
  );
}
