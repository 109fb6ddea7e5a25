import { spawn, spawnSync } from "node:child_process";
import { existsSync, lstatSync, readdirSync, readFileSync, renameSync, utimesSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  checkStructure,
  hold,
  masterState,
  qmgrPid,
  release,
  reload,
  scanDeferred,
  waitForNewQmgr,
  wake,
} from "../../src/postfix/control.ts";
import { loadInstance, type PostfixInstance } from "../../src/postfix/instance.ts";
import { readLocks } from "../../src/postfix/locks.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { idForInode } from "../../src/postfix/queue-id.ts";
import { listQueue, locate } from "../../src/postfix/spool.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { SmtpClient } from "../support/smtp.ts";

describe.skipIf(!needs("root", "postfix", "flock"))("a running instance", () => {
  let sink: Sink;
  let postfix: PrivatePostfix;
  let instance: PostfixInstance;
  let stderr: string;

  beforeAll(async () => {
    sink = await Sink.start({ domains: { "slow.test": { delayMs: 3000 }, "later.test": {} } });
    postfix = await PrivatePostfix.start({ sink });
    instance = await loadInstance(postfix.configDirectory);
    stderr = join(postfix.directory, "postsuper.stderr");
  });

  afterAll(async () => {
    postfix?.destroy();
    await sink?.close();
  });

  afterEach(() => writeFileSync(stderr, ""));

  /** Letters nobody takes now: refused until the sink is told otherwise, with a retry time five minutes ahead. */
  async function deferred(count: number, domain = "nowhere.test"): Promise<string[]> {
    if (domain === "later.test") sink.set(domain, { rcpt: "450 4.2.0 try later" });
    const letters = Array.from({ length: count }, (_, index) => plainLetter({ recipients: [`r${index}@${domain}`] }));
    const ids = (await postfix.submit(letters)).map(({ queueId }) => queueId);
    await until(() => ids.every((id) => queueOf(id) === "deferred"), { what: "letters in deferred" });
    return ids;
  }

  function queueOf(id: string): string | undefined {
    return locate(instance, id)[0]?.queue;
  }

  function fileOf(id: string): string {
    return locate(instance, id)[0]?.path ?? "";
  }

  test("holds and releases exactly what it is told to, and keeps retry times", async () => {
    const [one = "", two = "", other = ""] = await deferred(3);
    const before = lstatSync(fileOf(one));
    expect(before.mtimeMs).toBeGreaterThan(Date.now());

    const held = await hold(instance, [one, "NOSUCHID1", two], ["deferred"], stderr);
    expect(held).toEqual({ ids: [one, two], count: 2, warnings: [] });
    expect([one, two, other].map(queueOf)).toEqual(["hold", "hold", "deferred"]);
    expect(readFileSync(stderr, "utf8")).toContain(`postsuper: ${one}: placed on hold\n`);
    expect(lstatSync(stderr).mode & 0o777).toBe(0o600);

    // What is on hold already isn't held again: it is somebody else's.
    expect(await hold(instance, [one], ["deferred"], stderr)).toEqual({ ids: [], count: 0, warnings: [] });

    expect(await release(instance, [one, other], stderr)).toEqual({ ids: [one], count: 1, warnings: [] });
    expect(await release(instance, [two])).toEqual({ ids: [two], count: 1, warnings: [] });
    expect([one, two, other].map(queueOf)).toEqual(["deferred", "deferred", "deferred"]);
    expect(lstatSync(fileOf(one)).mtimeMs).toBe(before.mtimeMs);
  });

  test("takes mail out of the queues named and no others", async () => {
    const [id = ""] = await deferred(1);
    expect((await hold(instance, [id], ["incoming", "active"], stderr)).ids).toEqual([]);
    expect(queueOf(id)).toBe("deferred");
    await expect(hold(instance, [id], [], stderr)).rejects.toThrow(/can't be put on hold out of no queue/);
    await expect(hold(instance, [id], ["deferred", "maildrop"], stderr)).rejects.toThrow(/can't be put on hold/);
    expect(queueOf(id)).toBe("deferred");
  });

  test("no ids are no postsuper, ALL is an id like any other, and what is no id is refused", async () => {
    const [id = ""] = await deferred(1);
    const nowhere = { configDirectory: "/nowhere", queueDirectory: "/nowhere" };
    expect(await hold(nowhere, [], ["deferred"], stderr)).toEqual({ ids: [], count: undefined, warnings: [] });
    expect(await hold(instance, ["ALL"], ["deferred"], stderr)).toEqual({ ids: [], count: 0, warnings: [] });
    expect(queueOf(id)).toBe("deferred");
    for (const name of ["", "-", "a b", `${id}\n`, "../x"]) {
      await expect(hold(instance, [id, name], ["deferred"], stderr)).rejects.toThrow(/no queue id/);
    }
    expect(queueOf(id)).toBe("deferred");
  });

  test("says why postsuper failed, though its words went to the file", async () => {
    const nowhere = { ...instance, configDirectory: join(postfix.directory, "nowhere") };
    await expect(hold(nowhere, ["ABCDEF1"], ["deferred"], stderr)).rejects.toThrow(
      /postsuper -c .* exited with 1: fatal: .*main\.cf/,
    );
  });

  test("10,000 ids at once: only what is there is reported", async () => {
    const ids = await deferred(20);
    const many = Array.from(
      { length: 10_000 },
      (_, index) => `${index.toString(16).toUpperCase().padStart(5, "0")}FFFFFFFF`,
    );
    const report = await hold(instance, [...many.slice(0, 5000), ...ids, ...many.slice(5000)], ["deferred"], stderr);
    expect(report).toMatchObject({ ids, count: 20 });
    expect((await release(instance, report.ids)).ids).toEqual(ids);
  });

  test("leaves mail alone that is still being received", async () => {
    const client = await SmtpClient.open(postfix.port);
    try {
      await client.command("MAIL FROM:<a@src.test>", "250");
      await client.command("RCPT TO:<b@nowhere.test>", "250");
      await client.command("DATA", "354");
      client.write("Subject: half\r\n\r\nway\r\n");
      const file = await until(() => listQueue(instance.queueDirectory, "incoming")[0], { what: "a file in incoming" });
      expect(lstatSync(file.path).mode & 0o777).toBe(0o600);
      expect((await hold(instance, [file.id], ["incoming", "active", "deferred"], stderr)).ids).toEqual([]);
      expect(existsSync(file.path)).toBe(true);
      client.write(".\r\n");
      await client.expect("250");
      await until(() => queueOf(file.id) === "deferred");
    } finally {
      client.close();
    }
  });

  test("a scan of deferred tries what is due at once, and nothing else", async () => {
    const [due = "", waiting = ""] = await deferred(2, "later.test");
    sink.set("later.test", {});
    const retryTime = lstatSync(fileOf(waiting)).mtimeMs;
    expect(retryTime).toBeGreaterThan(Date.now() + 60_000);
    const past = Date.now() / 1000 - 10;
    utimesSync(fileOf(due), past, past);

    const started = performance.now();
    await scanDeferred(instance);
    await until(() => queueOf(due) === undefined, { timeoutMs: 10_000, what: "delivery of the due letter" });
    expect(performance.now() - started).toBeLessThan(5000);
    // The other was looked at in the same scan; a second one, later, finds it as it was.
    await scanDeferred(instance);
    await systemClock.sleep(1000);
    expect(queueOf(waiting)).toBe("deferred");
    expect(lstatSync(fileOf(waiting)).mtimeMs).toBe(retryTime);
    expect(sink.deliveries.filter(({ recipient }) => recipient.endsWith("@later.test"))).toHaveLength(1);

    await wake(instance, waiting);
    await until(() => queueOf(waiting) === undefined, { timeoutMs: 10_000, what: "delivery of the letter woken" });
    await wake(instance, waiting); // gone: nothing happens
  });

  test("asks for scans again and again without an accident", async () => {
    for (let scan = 0; scan < 40; scan++) await scanDeferred(instance);
  });

  test("a delivery under way holds a lock, also while its message is on hold, and marks it there", async () => {
    const [letter] = await postfix.submit([plainLetter({ recipients: ["x@slow.test"] })]);
    const id = letter?.queueId ?? "";
    await until(() => sink.waiting === 1, { what: "a delivery that waits for the sink" });
    const path = fileOf(id);
    const { dev, ino } = lstatSync(path, { bigint: true });
    expect(path).toContain("/active/");
    expect(readLocks().has(dev, ino)).toBe(true);
    const [idle = ""] = await deferred(1);
    const other = lstatSync(fileOf(idle));
    expect(readLocks().has(other.dev, other.ino)).toBe(false);

    expect((await hold(instance, [id], ["active"], stderr)).ids).toEqual([id]);
    expect(queueOf(id)).toBe("hold");
    expect(readLocks().has(dev, ino)).toBe(true);
    expect(readQueueFile(bufferSource(readFileSync(fileOf(id)))).recipients[0]?.done).toBe(false);
    await until(() => !readLocks().has(dev, ino), { what: "the end of the delivery" });
    expect(readQueueFile(bufferSource(readFileSync(fileOf(id)))).recipients[0]?.done).toBe(true);
    expect(sink.deliveries.filter(({ recipient }) => recipient === "x@slow.test")).toHaveLength(1);
    await release(instance, [id]);
  });

  test("a reload brings a new queue manager, and nothing else does", async () => {
    const old = qmgrPid(instance);
    expect(old).toBe(postfix.daemonPids("qmgr")[0]);
    await expect(waitForNewQmgr(instance, old, 300, systemClock)).rejects.toThrow(
      `no new queue manager within 0.3 s after the reload: process ${old} is still the queue manager`,
    );
    await reload(instance);
    const fresh = await waitForNewQmgr(instance, old, 20_000, systemClock);
    expect(fresh).not.toBe(old);
    expect(fresh).toBe(postfix.daemonPids("qmgr")[0]);
  });

  test("runs, and is seen to", async () => {
    expect(await masterState(instance)).toEqual({ running: true, pid: postfix.masterPid(), visible: true });
  });

  test.skipIf(!needs("pid-namespace"))("runs, though its processes can't be seen from another PID namespace", () => {
    const code = `
      const { masterState, qmgrPid } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/postfix/control.ts"))});
      const instance = ${JSON.stringify(instance)};
      console.log(JSON.stringify({ state: await masterState(instance), qmgr: qmgrPid(instance) ?? null }));`;
    const node = [process.execPath, "--input-type=module", "--eval", code];
    const { stdout, stderr: said } = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", ...node], {
      encoding: "utf8",
    });
    expect(said).toBe("");
    expect(JSON.parse(stdout)).toEqual({
      state: { running: true, pid: postfix.masterPid(), visible: false },
      qmgr: null,
    });
  });
});

describe.skipIf(!needs("root", "postfix", "flock"))("an instance that doesn't run", () => {
  let postfix: PrivatePostfix;
  let instance: PostfixInstance;

  beforeAll(async () => {
    postfix = await PrivatePostfix.start();
    instance = await loadInstance(postfix.configDirectory);
  });
  afterAll(() => postfix?.destroy());

  test("is stopped: before its first start, after a stop, and after a crash that left its pid file", async () => {
    await using never = await PrivatePostfix.create();
    expect(await masterState(await loadInstance(never.configDirectory))).toBe("stopped");

    await postfix.stop();
    expect(await masterState(instance)).toBe("stopped");
    await postfix.start();
    postfix.kill();
    expect(existsSync(join(instance.queueDirectory, "pid", "master.pid"))).toBe(true);
    expect(await masterState(instance)).toBe("stopped");
    expect(qmgrPid(instance)).toBeUndefined();
    await expect(scanDeferred(instance)).rejects.toThrow(/Cannot contact class public service qmgr/);
    await expect(reload(instance)).rejects.toThrow(/postfix -c .* reload exited with 1/);
  });

  test("is not taken for one that runs because its old pid is somebody else's now", async () => {
    const other = spawn("sleep", ["60"]);
    try {
      writeFileSync(join(instance.queueDirectory, "pid", "master.pid"), `${other.pid}\n`);
      expect(await masterState(instance)).toBe("stopped");
    } finally {
      other.kill("SIGKILL");
    }
  });

  test("counts as running while somebody else has master's lock", async () => {
    const lock = await tryLock(join(instance.queueDirectory, "pid", "master.pid"));
    expect(await masterState(instance)).toMatchObject({ running: true, visible: false });
    await lock?.release();
    expect(await masterState(instance)).toBe("stopped");
  });
});

describe.skipIf(!needs("root", "postfix"))("the structure check", () => {
  test.each([
    { longIds: false, hashQueueDepth: 1 },
    { longIds: true, hashQueueDepth: 2 },
  ])("renames what doesn't match its inode as we compute beforehand: %j", async (options) => {
    await using postfix = await PrivatePostfix.start(options);
    const instance = await loadInstance(postfix.configDirectory);
    const [letter] = await postfix.submit([plainLetter({ recipients: ["x@nowhere.test"] })]);
    const id = letter?.queueId ?? "";
    const path = await until(() => locate(instance, id).find(({ queue }) => queue === "deferred")?.path);
    // Postfix down and a log file: postsuper, as the mail owner, writes the log itself.
    await postfix.stop();
    expect(await checkStructure(instance)).toEqual([]);

    // Two short names: of another inode, and in the wrong place. A long one is left alone, except where ids are short.
    const { ino } = lstatSync(path);
    const foreign = options.longIds ? "41D2C162118" : "4jY5j73J8pzBvYj";
    renameSync(path, join(dirname(path), foreign));
    const said = await checkStructure(instance);
    expect(said).toContain("Renamed to match inode number: 1 message");
    const renamed = listQueue(instance.queueDirectory, "deferred");
    expect(renamed.map((file) => file.id)).toEqual([idForInode(foreign, ino, options.longIds)]);
    expect(locate(instance, renamed[0]?.id ?? "")).toEqual(renamed);
    expect(await checkStructure(instance)).toEqual([]);
    expect(readdirSync(instance.queueDirectory)).not.toContain(basename(path));
  });
});
