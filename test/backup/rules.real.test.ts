import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, lstatSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { recordPlaced } from "../../src/holds/placed.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { groupId, PrivatePostfix, plainLetter, until, userId } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { SmtpClient } from "../support/smtp.ts";
import { undelivered } from "../support/undelivered.ts";

const root = join(import.meta.dirname, "..", "..");

describe.skipIf(!needs("root", "postfix"))("mail on hold", () => {
  test("keeps its role: the administrator's, that of a restore's run, that of a fence", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await using other = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 40, 1);
    const ids = namesIn(postfix, "deferred").slice(0, 9);
    await postfix.hold(ids);
    const instance = await loadInstance(postfix.configDirectory);
    const since = new Date().toISOString();
    const { stateDirectory } = site;
    recordPlaced(stateDirectory, instance, { kind: "restore", run: "R1", since, ids: ids.slice(0, 2) });
    recordPlaced(stateDirectory, instance, { kind: "restore", run: "R1", since, ids: ids.slice(2, 3) });
    recordPlaced(stateDirectory, instance, { kind: "fence", run: "F1", since, ids: ids.slice(3, 5) });
    // Of another queue directory, though of the same ids: that one speaks for itself.
    const elsewhere = { ...(await loadInstance(other.configDirectory)), name: instance.name };
    recordPlaced(stateDirectory, elsewhere, { kind: "restore", run: "R2", since, ids: ids.slice(5) });
    const expected = Object.fromEntries([
      ...ids.slice(0, 3).map((id) => [id, { kind: "restore", run: "R1" }]),
      ...ids.slice(3, 5).map((id) => [id, { kind: "fence", run: "F1" }]),
      ...ids.slice(5).map((id) => [id, { kind: "admin" }]),
    ]);
    await postfix.start();
    for (const mode of ["hold", "freeze", "live"] as const) {
      const report = await site.backup(postfix, { mode });
      expect(report.problems).toEqual([]);
      expect(report.snapshot.messages).toMatchObject({ total: 40, deferred: 31, hold: 9 });
      const { messages } = await site.manifest(report);
      const roles = messages.filter((one) => one.role !== null).map((one) => [one.queueId, one.role]);
      expect(Object.fromEntries(roles)).toEqual(expected);
      expect(namesIn(postfix, "hold")).toEqual(ids);
    }
  });

  test("is due mail never, and the rest no longer than the limit; longestMs is what really was", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 400, 1);
    const due = namesIn(postfix, "deferred").slice(0, 30);
    // Nobody looks at deferred for five minutes: they stay.
    for (const id of due) utimesSync(postfix.find(id) ?? "", Date.now() / 1000 + 10, Date.now() / 1000 + 10);
    await postfix.start();
    const watch = await HoldWatch.start(postfix);
    const report = await site.backup(postfix, { holdLimitMs: 20_000, holdBatch: 100 });
    const seen = await watch.end();
    expect(report.problems).toEqual([]);
    expect(report.snapshot.hold).toMatchObject({ held: 370, released: 370 });
    expect(report.snapshot.hold.longestMs).toBeGreaterThanOrEqual(Math.floor(seen.longestMs) - 2);
    expect(report.snapshot.hold.longestMs).toBeLessThan(seen.longestMs + 10_000);
    const held = heldByLog(postfix);
    expect(held).toHaveLength(370);
    expect(held.filter((id) => due.includes(id))).toEqual([]);
    expect(report.snapshot.messages).toMatchObject({ total: 400, deferred: 400 });
  });

  test("is given back at once when the limit is over, read in place, and the truth is told", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 120, 1);
    await postfix.start();
    const before = retryTimes(postfix);
    const watch = await HoldWatch.start(postfix);
    const config = site.configure([postfix], { hold_limit: "1ms", hold_batch: 60 });
    const result = await spoolsafe(["backup", "--config", config, "--json"]);
    const seen = await watch.end();
    expect(result.code).toBe(3);
    const summary = result.json.at(-1) as { messages: object; hold: { held: number; longestMs: number } };
    expect(summary.messages).toMatchObject({ total: 120, deferred: 120 });
    expect(summary.hold).toMatchObject({ held: 120, released: 120 });
    expect(summary.hold.longestMs).toBeGreaterThan(1);
    expect(summary.hold.longestMs).toBeGreaterThanOrEqual(Math.floor(seen.longestMs) - 2);
    const problems = result.json.filter((line) => line.type === "problem").map((line) => String(line.problem));
    expect(problems.length).toBeGreaterThan(0);
    for (const problem of problems) expect(problem).toMatch(/were on hold for \d+ ms, longer than the limit of 1 ms$/);
    expect(namesIn(postfix, "hold")).toEqual([]);
    expect(retryTimes(postfix)).toEqual(before);
  });
});

describe.skipIf(!needs("root", "postfix")).concurrent("an interrupted backup", () => {
  test.each([
    ["SIGTERM", false],
    ["SIGINT to the whole process group, as by Ctrl-C", true],
  ])("in mode hold gives its mail back: %s", async (_, group) => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 400, 1);
    await postfix.start();
    const before = retryTimes(postfix);
    const config = site.configure([postfix], { hold_batch: 30 });
    for (let round = 0; round < 2; round++) {
      const run = startBackup(config, "hold");
      await until(() => holding(postfix), { everyMs: 2, timeoutMs: 60_000, what: "mail on hold" });
      process.kill(group ? -(run.pid ?? 0) : (run.pid ?? 0), group ? "SIGINT" : "SIGTERM");
      expect(await endOf(run)).toBe(130);
      expect(namesIn(postfix, "hold")).toEqual([]);
      expect(retryTimes(postfix)).toEqual(before);
      expect(journals(site)).toEqual([]);
    }
    expect(await site.repository.snapshotRefs()).toEqual([]);
  });

  test("in mode freeze gives its mail back behind the barrier", async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 3000 } } });
    await using postfix = await PrivatePostfix.start({
      sink,
      main: { smtp_destination_concurrency_limit: "4", initial_destination_concurrency: "4" },
    });
    const letters = await postfix.submit(
      Array.from({ length: 10 }, (_, n) => plainLetter({ recipients: [`f${n}@slow.test`] })),
    );
    await until(() => sink.waiting === 4, { what: "mail in delivery" });
    const before = postfix.daemonPids("qmgr");
    const run = startBackup(site.configure([postfix]), "freeze");
    await until(() => holding(postfix), { everyMs: 2, timeoutMs: 60_000, what: "mail on hold" });
    run.kill("SIGTERM");
    expect(await endOf(run)).toBe(130);
    expect(namesIn(postfix, "hold")).toEqual([]);
    expect(postfix.daemonPids("qmgr").filter((pid) => before.includes(pid))).toEqual([]);
    expect(journals(site)).toEqual([]);
    expect(await site.repository.snapshotRefs()).toEqual([]);
    // qmgr met those that were in delivery with their agent's lock, and looks at them again after a minute: they are done.
    await until(() => undelivered(postfix).length === 0, {
      timeoutMs: 60_000,
      what: () => JSON.stringify(postfix.counts()),
    });
    expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });
});

describe.skipIf(!needs("root", "postfix"))("mail in delivery", () => {
  test("is told from mail that waits by the agent's lock", async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 8000 } } });
    await using postfix = await PrivatePostfix.start({
      sink,
      main: { smtp_destination_concurrency_limit: "2", initial_destination_concurrency: "2" },
    });
    await postfix.submit(Array.from({ length: 8 }, (_, n) => plainLetter({ recipients: [`s${n}@slow.test`] })));
    await until(() => sink.waiting === 2 && postfix.counts().incoming === 0, { what: "mail in delivery" });
    const locked = lockedIn(postfix, "active");
    expect(locked).toHaveLength(2);
    for (const mode of ["live", "hold"] as const) {
      const report = await site.backup(postfix, { mode });
      expect(report.snapshot.messages).toMatchObject({ total: 8, active: 8, inFlight: 2 });
      const flying = (await site.manifest(report)).messages.filter((message) => message.inFlight);
      expect(flying.map((message) => message.queueId).sort()).toEqual(locked);
    }
    expect(sink.waiting).toBe(2);
  });

  test.skipIf(!needs("pid-namespace", "mount-namespace"))("can't be told in another PID namespace", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    await postfix.submit([plainLetter({ recipients: ["a@refused.test"] })]);
    await postfix.settled();
    const config = site.configure([postfix]);
    for (const mode of ["hold", "freeze", "live"]) {
      const program = [process.execPath, join(builtProgram(), "spoolsafe.js"), "backup", "--config", config];
      const args = ["--pid", "--fork", "--mount-proc", ...program, "--mode", mode, "--json"];
      const { code, stdout } = await postfix.run("unshare", args);
      expect(code).toBe(0);
      const lines = stdout.trim().split("\n");
      const json = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
      expect(json.at(-1)).toMatchObject({ type: "summary", mode: "live", messages: { total: 1, inFlight: null } });
      expect(json.find((line) => line.type === "mode")).toMatchObject({
        mode: "live",
        reasons: mode === "live" ? [] : [expect.stringContaining("another PID namespace")],
      });
    }
    const [ref] = await site.repository.snapshotRefs();
    if (ref === undefined) throw new Error("there is no snapshot");
    const [message] = (await site.manifest(await site.repository.load(ref))).messages;
    expect(message).toMatchObject({ inFlight: null });
    expect(postfix.log()).not.toContain("placed on hold");
  });
});

describe.skipIf(!needs("root", "postfix"))("mail that comes in", () => {
  test.each(["hold", "freeze", "live"] as const)(
    "is not captured before its client has an answer, and gets one, in mode %s",
    async (mode) => {
      await using site = await Site.make();
      await using sink = await Sink.start({ domains: { "good.test": {} } });
      await using postfix = await PrivatePostfix.start({ sink });
      await postfix.submit([plainLetter({ recipients: ["a@refused.test"] })]);
      await postfix.settled();
      const client = await SmtpClient.open(postfix.port);
      try {
        await client.command("MAIL FROM:<a@src.test>", "250");
        await client.command("RCPT TO:<half@good.test>", "250");
        await client.command("DATA", "354");
        client.write("Message-ID: <half@src.test>\r\n\r\nthe first half\r\n");
        await until(() => postfix.counts().incoming === 1, { what: "a file in incoming" });
        const report = await site.backup(postfix, { mode });
        expect(report.snapshot.messages).toMatchObject({ total: 1, deferred: 1, incomplete: 1, vanished: 0 });
        expect(report.problems).toEqual([]);
        client.write("the second half\r\n.\r\n");
        await client.expect("250 2.0.0 Ok: queued");
        await until(() => sink.count("<half@src.test>", "half@good.test") === 1, { what: "its delivery" });
      } finally {
        client.close();
      }
    },
  );

  test("in maildrop keeps its owner and mode", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start({ main: { master_service_disable: "pickup.unix" } });
    await postfix.sendmail(plainLetter({ sender: "root@src.test", recipients: ["a@refused.test"] }));
    await postfix.sendmail(
      plainLetter({ sender: "nobody@src.test", recipients: ["b@refused.test"] }),
      userId("nobody"),
    );
    const report = await site.backup(postfix);
    expect(report.snapshot.messages).toMatchObject({ total: 2, maildrop: 2, inFlight: 0 });
    const stats = new Map(postfix.files("maildrop").map((path) => [basename(path), lstatSync(path)]));
    const { messages } = await site.manifest(report);
    for (const message of messages) {
      const stat = stats.get(message.queueId);
      expect(message).toMatchObject({
        queue: "maildrop",
        mode: (stat?.mode ?? 0) & 0o7777,
        owner: { uid: stat?.uid, gid: groupId("postdrop"), group: "postdrop" },
        role: null,
      });
    }
    expect(messages.map((one) => [one.sender, one.owner.user]).sort()).toEqual([
      ["nobody@src.test", "nobody"],
      ["root@src.test", "root"],
    ]);
  });
});

describe.skipIf(!needs("root", "postfix"))("files in deferred", () => {
  test("that are no messages don't stop a backup: exit 3, named, kept as evidence", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 20, 1);
    await postfix.start();
    const [short = "", unknown = ""] = postfix.files("deferred");
    truncateSync(short, 300);
    const bytes = readFileSync(unknown);
    bytes.write("?", bytes.length - 2);
    writeFileSync(unknown, bytes);
    for (const path of [short, unknown]) utimesSync(path, Date.now() / 1000 + 900, Date.now() / 1000 + 900);
    const result = await spoolsafe(["backup", "--config", site.configure([postfix]), "--json"]);
    expect(result.code).toBe(3);
    const problems = result.json.filter((line) => line.type === "problem");
    expect(problems.map((line) => line.queueId).sort()).toEqual([short, unknown].map((path) => basename(path)).sort());
    for (const path of [short, unknown]) expect(result.stderr).toContain(basename(path));
    expect(result.json.at(-1)).toMatchObject({ type: "summary", messages: { total: 18, deferred: 18, incomplete: 0 } });
    const [ref] = await site.repository.snapshotRefs();
    if (ref === undefined) throw new Error("there is no snapshot");
    const { snapshot } = await site.repository.load(ref);
    const evidence = (await site.manifest({ snapshot })).files.filter((file) => file.area === "evidence");
    expect(evidence.map((file) => file.path).sort()).toEqual(
      [short, unknown].map((path) => `deferred/${basename(path)}`).sort(),
    );
    await using packs = new PackReader({ identities: site.identities, processors: 1 });
    for (const { file, path } of evidence) {
      const pack = await packs.read(await site.repository.object("pack", file?.pack ?? ""));
      const original = path.endsWith(basename(short)) ? short : unknown;
      expect(pack.get(file?.digest ?? "")).toEqual(readFileSync(original));
    }
  });

  test("of 40 MB are alone in their pack, in flat memory", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start({ main: { message_size_limit: "60000000" } });
    const letters = [40_000_000, 1000, 1000].map((size) => plainLetter({ recipients: ["a@refused.test"], size }));
    await postfix.submit(letters);
    await postfix.settled();
    const report = await site.backup(postfix);
    expect(report.problems).toEqual([]);
    expect(report.snapshot.messages).toMatchObject({ total: 3, deferred: 3, inFlight: 0 });
    const { messages, files } = await site.manifest(report);
    const large = messages.find((message) => message.file.bytes > 40_000_000);
    const packs = [...messages, ...files].flatMap((one) => (one.file === null ? [] : [one.file.pack]));
    expect(packs.filter((pack) => pack === large?.file.pack)).toHaveLength(1);
    expect(readdirSync(site.stateDirectory).filter((name) => name.endsWith(".pack"))).toEqual([]);
    const again = await site.backup(postfix);
    expect(again.snapshot).toMatchObject({ newMessages: 0, reusedMessages: 3 });
    expect(again.storedBytes).toBeLessThan(20_000);
  });
});

/** Whether anything is on hold at this moment. */
function holding(postfix: PrivatePostfix): boolean {
  return readdirSync(join(postfix.queueDirectory, "hold")).length > 0;
}

function namesIn(postfix: PrivatePostfix, queue: string): string[] {
  return postfix
    .files(queue)
    .map((path) => basename(path))
    .sort();
}

function retryTimes(postfix: PrivatePostfix): Map<string, number> {
  const files = postfix.files("deferred").map((path) => [basename(path), lstatSync(path).mtimeMs] as const);
  return new Map(files.sort());
}

function journals(site: Site): string[] {
  const directory = join(site.stateDirectory, "holds");
  return existsSync(directory) ? readdirSync(directory) : [];
}

/** Ids that postsuper told the mail log it had placed on hold. */
function heldByLog(postfix: PrivatePostfix): string[] {
  return [...postfix.log().matchAll(/postsuper\[\d+\]: (\w+): placed on hold/g)].map(([, id = ""]) => id);
}

/** Ids of a queue whose files somebody has a shared flock on, as the kernel lists it (proc_locks(5)). */
function lockedIn(postfix: PrivatePostfix, queue: string): string[] {
  const inodes = new Set(
    readFileSync("/proc/locks", "utf8")
      .split("\n")
      .flatMap((line) => /FLOCK\s+ADVISORY\s+READ\s+\d+\s+[0-9a-f]+:[0-9a-f]+:(\d+)/.exec(line)?.[1] ?? []),
  );
  const locked = postfix.files(queue).filter((path) => inodes.has(String(lstatSync(path).ino)));
  return locked.map((path) => basename(path)).sort();
}

/** A backup as a shell starts it: in a process group of its own. */
function startBackup(config: string, mode: string): ChildProcess {
  const program = join(builtProgram(), "spoolsafe.js");
  return spawn(process.execPath, [program, "backup", "--config", config, "--mode", mode, "--quiet"], {
    cwd: root,
    stdio: "ignore",
    detached: true,
  });
}

async function endOf(run: ChildProcess): Promise<number | null> {
  if (run.exitCode !== null || run.signalCode !== null) return run.exitCode;
  const timer = setTimeout(() => run.kill("SIGKILL"), 60_000);
  const code = await new Promise<number | null>((resolve) => run.once("exit", resolve));
  clearTimeout(timer);
  return code;
}

/** Looks at hold/ all the time, from a process of its own, and tells how long a message was there at most. */
class HoldWatch {
  readonly #child: ChildProcess;
  #said = "";

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on("data", (chunk: Buffer) => {
      this.#said += chunk.toString();
    });
  }

  static async start(postfix: PrivatePostfix): Promise<HoldWatch> {
    const script = `
      const { readdirSync } = require("node:fs");
      const first = new Map();
      let longestMs = 0;
      process.stdout.write("watching\\n");
      process.on("SIGTERM", () => { process.stdout.write(JSON.stringify({ longestMs, messages: first.size })); process.exit(); });
      setInterval(() => {
        // Both times on the safe side: it was there after the one and before the other.
        const before = performance.now();
        const ids = readdirSync(process.argv[1]);
        const after = performance.now();
        for (const id of ids) {
          if (!first.has(id)) first.set(id, after);
          longestMs = Math.max(longestMs, before - first.get(id));
        }
      }, 1);`;
    const watch = new HoldWatch(
      spawn(process.execPath, ["-e", script, join(postfix.queueDirectory, "hold")], {
        stdio: ["ignore", "pipe", "inherit"],
      }),
    );
    await until(() => watch.#said.includes("watching"), { what: "the watch's start" });
    return watch;
  }

  async end(): Promise<{ longestMs: number; messages: number }> {
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.kill("SIGTERM");
    await closed;
    return JSON.parse(this.#said.replace("watching\n", ""));
  }
}
