import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { listHolds } from "../../src/holds/list.ts";
import { recoverHolds } from "../../src/holds/recover.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { systemClock } from "../../src/system/clock.ts";
import { builtProgram } from "../support/cli.ts";
import { chooseSeed, fillDeferred, Random } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

const rounds = process.env.SPOOLSAFE_LONG ? 60 : 8;

// Most of the time each of these waits; side by side they take as long as the longest.
describe.skipIf(!needs("root", "postfix")).concurrent("killed between the first hold and the last release", () => {
  test(`spoolsafe, ${rounds} times in mode hold: the next start gives exactly our mail back`, {
    timeout: 300_000,
  }, async () => {
    const random = new Random(chooseSeed("kill spoolsafe, hold"));
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 400);
    await postfix.start();
    const admin = await holdSome(postfix, 7);
    const before = retryTimes(postfix);
    const config = site.configure([postfix], { hold_batch: 40 });
    let caught = 0;
    for (let round = 0; round < rounds || (caught === 0 && round < 60); round++) {
      const run = startBackup(config, "hold");
      await journalAppears(site, run);
      await delay(random.below(600));
      await killed(run);
      const kept = holds(postfix).filter((id) => !admin.has(id));
      if (kept.length > 0) caught++;
      const listed = listHolds(site.stateDirectory, await loadInstance(postfix.configDirectory));
      const [recovery] = await recover(site, postfix);
      // A postsuper that outlived its spoolsafe may have held more, or given them back, while we looked.
      expect(listed.filter((hold) => hold.kind !== "capture" || admin.has(hold.queueId))).toEqual([]);
      expect(recovery?.stillHeld ?? []).toEqual([]);
      expect(new Set(holds(postfix))).toEqual(admin);
      expect(retryTimes(postfix)).toEqual(before);
    }
    process.stderr.write(`mail was on hold at ${caught} of ${rounds} kills\n`);
    expect(caught).toBeGreaterThan(0);
    const report = await site.backup(postfix);
    expect(report.snapshot.messages).toMatchObject({ deferred: 393, hold: 7 });
  });

  test(`postsuper, ${rounds} times: exactly our mail is given back by the same run`, { timeout: 300_000 }, async () => {
    const random = new Random(chooseSeed("kill postsuper"));
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 600);
    await postfix.start();
    const admin = await holdSome(postfix, 7);
    const before = retryTimes(postfix);
    let killedOnes = 0;
    for (let round = 0; round < rounds; round++) {
      const running = site.backup(postfix, { holdBatch: 593, holdLimitMs: 5000 });
      const action = random.pick(["-h", "-H"]);
      const pid = await newPostsuper(postfix, action, running);
      await delay(random.below(30));
      if (pid !== undefined && killQuietly(pid)) killedOnes++;
      const report = await running;
      expect(report.snapshot.messages).toMatchObject({ total: 600, deferred: 593, hold: 7 });
      expect(report.problems.filter((one) => !one.problem.includes("limit"))).toEqual([]);
      expect(new Set(holds(postfix))).toEqual(admin);
      expect(retryTimes(postfix)).toEqual(before);
    }
    process.stderr.write(`postsuper was killed in ${killedOnes} of ${rounds} rounds\n`);
    expect(killedOnes).toBeGreaterThan(rounds / 2);
  });

  test(`spoolsafe, ${rounds} times in mode freeze: released only behind the barrier, delivered once`, {
    timeout: 400_000,
  }, async () => {
    const random = new Random(chooseSeed("kill spoolsafe, freeze"));
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 800 } } });
    await using postfix = await PrivatePostfix.start({
      sink,
      main: { smtp_destination_concurrency_limit: "5", initial_destination_concurrency: "5" },
    });
    const config = site.configure([postfix]);
    const letters = [];
    let caught = 0;
    for (let round = 0; round < rounds || (caught === 0 && round < 60); round++) {
      letters.push(
        ...(await postfix.submit(
          Array.from({ length: 10 }, (_, n) =>
            plainLetter({ sender: "a@source.test", recipients: [`f${round}-${n}@slow.test`] }),
          ),
        )),
      );
      const run = startBackup(config, "freeze");
      await journalAppears(site, run);
      await delay(random.below(700));
      await killed(run);
      const before = postfix.daemonPids("qmgr");
      const kept = holds(postfix);
      if (kept.length > 0) caught++;
      const recoveries = await recover(site, postfix);
      expect(recoveries.flatMap((one) => one.stillHeld)).toEqual([]);
      expect(holds(postfix)).toEqual([]);
      if (kept.length > 0) expect(postfix.daemonPids("qmgr").filter((pid) => before.includes(pid))).toEqual([]);
    }
    process.stderr.write(`mail was on hold at ${caught} of ${rounds} kills\n`);
    expect(caught).toBeGreaterThan(0);
    // What qmgr found "still being delivered" waits in incoming, a minute ahead, until it is looked at again.
    const left = () => postfix.counts().deferred + postfix.counts().active + postfix.counts().incoming;
    const flushed = async () => {
      await postfix.flush();
      return left() === 0;
    };
    await until(flushed, { everyMs: 2000, timeoutMs: 240_000, what: () => JSON.stringify(postfix.counts()) });
    expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });
});

/**
 * The instance's next postsuper with this action, met within a millisecond or two of its start; undefined when the run
 * ends before.
 */
async function newPostsuper(
  { configDirectory }: PrivatePostfix,
  action: string,
  running: Promise<unknown>,
): Promise<number | undefined> {
  let ended = false;
  void running.then(
    () => (ended = true),
    () => (ended = true),
  );
  for (let seen = newestPid(); !ended; await delay(1)) {
    for (const newest = newestPid(); seen <= newest; seen++) {
      const [program = "", ...args] = argumentsOf(seen);
      if (basename(program) === "postsuper" && args.includes(action) && args.includes(configDirectory)) return seen;
    }
    seen = Math.max(0, seen - 8); // one that was still another program when we looked
  }
  return undefined;
}

/** The pid the kernel gave out last (proc_loadavg(5)). */
function newestPid(): number {
  return Number(readFileSync("/proc/loadavg", "utf8").trim().split(" ")[4]);
}

function argumentsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}

function killQuietly(pid: number): boolean {
  try {
    return process.kill(pid, "SIGKILL");
  } catch {
    return false; // it had ended
  }
}

function startBackup(config: string, mode: string): ChildProcess {
  const program = join(builtProgram(), "spoolsafe.js");
  return spawn(process.execPath, [program, "backup", "--config", config, "--mode", mode, "--quiet"], {
    stdio: "ignore",
  });
}

async function journalAppears(site: Site, run: ChildProcess): Promise<void> {
  const directory = join(site.stateDirectory, "holds");
  await until(() => run.exitCode !== null || (existsSync(directory) && readdirSync(directory).length > 0), {
    everyMs: 5,
    timeoutMs: 60_000,
    what: "a hold journal",
  });
}

async function killed(run: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => run.once("exit", resolve));
  if (run.exitCode !== null || run.signalCode !== null) return;
  run.kill("SIGKILL");
  await ended;
}

async function recover(site: Site, postfix: PrivatePostfix) {
  const instance = await loadInstance(postfix.configDirectory);
  return recoverHolds({ instance, stateDirectory: site.stateDirectory, clock: systemClock });
}

async function holdSome(postfix: PrivatePostfix, count: number): Promise<Set<string>> {
  const ids = postfix
    .files("deferred")
    .slice(0, count)
    .map((path) => basename(path));
  await postfix.hold(ids);
  expect(holds(postfix)).toHaveLength(count);
  return new Set(ids);
}

function holds(postfix: PrivatePostfix): string[] {
  return postfix.files("hold").map((path) => basename(path));
}

function retryTimes(postfix: PrivatePostfix): Map<string, number> {
  return new Map(
    postfix
      .files("deferred")
      .map((path) => [basename(path), lstatSync(path).mtimeMs] as const)
      .sort(),
  );
}
