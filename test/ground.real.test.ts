import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { differences, fingerprints } from "./support/compare.ts";
import { deliverable, fillDeferred, fillMixed, mixedSink, resumePickup } from "./support/mail.ts";
import { needs } from "./support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "./support/postfix.ts";
import { destroyScratch, killQuietly, makeScratch, processesOf, sweepScratch } from "./support/scratch.ts";
import { Sink } from "./support/sink.ts";

// The tests below ask whether the ground holds that all other tests stand on.
const supported = needs("root", "postfix", "mount");

describe.skipIf(!supported)("a private Postfix", () => {
  test("starts, takes mail, delivers it to the sink once each, stops, and leaves nothing", async () => {
    await using sink = await Sink.start({ domains: { "good.test": {}, "defer.test": { rcpt: "450 4.2.0 later" } } });
    await using postfix = await PrivatePostfix.start({ sink });
    const letters = Array.from({ length: 300 }, (_, at) =>
      plainLetter({ recipients: [`a${at}@good.test`, `b${at}@good.test`, `c${at}@defer.test`] }),
    );
    await postfix.submit(letters, 20);
    await postfix.settled();
    const good = letters.map((letter) => ({ ...letter, recipients: letter.recipients.slice(0, 2) }));
    expect(sink.audit(good)).toEqual({ lost: [], doubled: [] });
    expect(sink.deliveries).toHaveLength(600);
    expect(postfix.counts()).toMatchObject({ deferred: 300, active: 0, incoming: 0 });
    await postfix.stop();
    expect(postfix.running()).toBe(false);
    expect(await postfix.list()).toHaveLength(300);
    postfix.destroy();
    expect(processesOf(postfix.directory)).toEqual([]);
    expect(existsSync(postfix.directory)).toBe(false);
  });

  test("lives on a file system of its own when asked to", async () => {
    await using postfix = await PrivatePostfix.start({ tmpfs: "64m", longIds: true, hashQueueDepth: 2 });
    const [sent] = await postfix.submit([plainLetter({ recipients: ["a@refused.test"] })]);
    await postfix.settled();
    const id = sent?.queueId ?? "";
    expect(id).toMatch(/^\w{10,}z\w+$/);
    const depth = dirname(postfix.find(id) ?? "").split("/deferred/")[1];
    expect(depth).toMatch(/^[0-9A-F]\/[0-9A-F]$/);
    expect(readFileSync("/proc/self/mounts", "utf8")).toContain(postfix.directory);
    postfix.destroy();
    expect(readFileSync("/proc/self/mounts", "utf8")).not.toContain(postfix.directory);
  });

  test.each(["SIGTERM", "SIGKILL"] as const)("is ended with its test process on %s", async (signal) => {
    const { child, directory } = await processWithPostfix();
    child.kill(signal);
    await until(() => !existsSync(directory), { what: "the directory's end" });
    expect(processesOf(directory)).toEqual([]);
  });

  test("is swept by a later run when its test process and the guard of that were killed", async () => {
    const { child, directory } = await processWithPostfix();
    for (const guard of guardsOf(child.pid ?? 0)) killQuietly(guard);
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("close", resolve));
    expect(processesOf(directory).length).toBeGreaterThan(0);
    expect(sweepScratch()).toContain(directory);
    expect(processesOf(directory)).toEqual([]);
    expect(existsSync(directory)).toBe(false);
  });
});

/** Another test process, with a Postfix on a file system of its own. */
async function processWithPostfix(): Promise<{ child: ChildProcess; directory: string }> {
  const support = join(dirname(fileURLToPath(import.meta.url)), "support", "postfix.ts");
  const program = `const { PrivatePostfix } = await import(${JSON.stringify(support)});
    const postfix = await PrivatePostfix.start({ tmpfs: "16m" });
    console.log(postfix.directory); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const directory = await new Promise<string>((resolve) => {
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
  });
  return { child, directory };
}

function guardsOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((guard) => {
      try {
        return readFileSync(`/proc/${guard}/cmdline`, "latin1").includes(`scratch-guard.ts\0${pid}\0`);
      } catch {
        return false;
      }
    });
}

describe.skipIf(!supported).concurrent("filling a queue", () => {
  test.each([{}, { longIds: true, hashQueueDepth: 2 }])("mixed states, all of it real mail: %o", async (options) => {
    await using sink = await mixedSink({ slowMs: 8000 });
    await using postfix = await PrivatePostfix.start({ ...options, sink });
    const mixed = await fillMixed(postfix, { messages: 60 });
    expect(mixed.all).toHaveLength(60);
    const { maildrop, active, hold, deferred, corrupt } = postfix.counts();
    expect({ maildrop, active, corrupt }).toEqual({ maildrop: 3, active: 7, corrupt: 1 });
    expect(hold).toBe(mixed.held.length + 1);
    expect(deferred).toBe(60 - maildrop - active - hold);
    expect(postfix.files("bounce")).toHaveLength(mixed.bouncing.length);
    expect(postfix.files("trace")).toHaveLength(mixed.traced.length);
    const marks = fingerprints(postfix.queueDirectory).map((one) => one.recipients.map((text) => text[0]).join(""));
    expect(marks.filter((text) => text.includes("D") && text.includes("R")).length).toBeGreaterThan(8);

    for (const domain of ["defer.test", "slow.test"]) sink.set(domain, {});
    await resumePickup(postfix);
    await postfix.release(postfix.files("hold").map((file) => basename(file)));
    await postfix.flush();
    await until(() => sink.audit(deliverable(mixed.all)).lost.length === 0, { timeoutMs: 30_000 });
    expect(sink.audit(deliverable(mixed.all)).doubled).toEqual([]);
  });

  test("thousands of deferred messages that Postfix finds nothing wrong with", async () => {
    await using postfix = await PrivatePostfix.create({ tmpfs: "128m" });
    await fillDeferred(postfix, 1500, 7);
    expect(await postfix.postsuper(["-s"])).toBe("");
    expect(await postfix.list()).toHaveLength(1500);
    expect(fingerprints(postfix.queueDirectory)).toHaveLength(1500);
    await postfix.start();
    expect(postfix.log()).not.toMatch(/warning|error:|fatal/);
    expect(postfix.counts().deferred).toBe(1500);
  });
});

describe.skipIf(!supported)("comparing queues", () => {
  test("sees a mark, a time, a mode, a log and a letter, and not an id", async () => {
    await using postfix = await PrivatePostfix.create({ tmpfs: "32m" });
    await fillDeferred(postfix, 12, 3);
    const before = fingerprints(postfix.queueDirectory);
    const [file = ""] = postfix.files("deferred");
    const compared = () => differences(before, fingerprints(postfix.queueDirectory));
    expect(compared()).toEqual([]);

    const bytes = readFileSync(file);
    const changed = Buffer.from(bytes);
    changed[bytes.lastIndexOf("R", bytes.indexOf("Received: ") - 10)] = "D".charCodeAt(0);
    writeFileSync(file, changed);
    expect(compared().length).toBe(2);
    writeFileSync(file, bytes);
    utimesSync(file, new Date(), new Date());
    expect(compared().length).toBe(2);
    expect(differences(before, fingerprints(postfix.queueDirectory), { without: ["mtime"] })).toEqual([]);
    const log = postfix.files("defer").find((path) => basename(path) === basename(file)) ?? "";
    truncateSync(log, 10);
    expect(differences(before, fingerprints(postfix.queueDirectory), { without: ["mtime"] }).length).toBe(2);
    expect(differences(before, fingerprints(postfix.queueDirectory), { without: ["mtime", "logs"] })).toEqual([]);
  });
});

describe("a scratch directory", () => {
  test("is left alone by a sweep while its owner lives, and when it names nobody", () => {
    const mine = makeScratch();
    try {
      expect(sweepScratch()).not.toContain(mine);
      expect(readdirSync(tmpdir())).toContain(basename(mine));
    } finally {
      destroyScratch(mine);
    }
  });
});
