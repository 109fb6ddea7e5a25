import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BackupReport } from "../../src/backup/backup.ts";
import { snapshotKey } from "../../src/repository/layout.ts";
import { run } from "../../src/system/exec.ts";
import { differences, type Fingerprint, fingerprints } from "../support/compare.ts";
import { deliverable, fillMixed, type MixedQueue, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, until } from "../support/postfix.ts";
import type { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { scriptOf, strangersPrograms } from "../support/stranger.ts";

const supported = needs("root", "postfix", "age", "zstd", "tar", "openssl", "mount");

describe.skipIf(!supported).concurrent("a queue of mixed states", () => {
  let sink: Sink;
  let site: Site;
  let source: PrivatePostfix;
  let mixed: MixedQueue;
  let first: BackupReport;
  let before: Fingerprint[];
  const script = () => join(site.directory, "recover.sh");

  beforeAll(async () => {
    sink = await mixedSink({ slowMs: 6000 });
    site = await Site.make();
    source = await PrivatePostfix.start({ sink });
    mixed = await fillMixed(source, { messages: 60 });
    first = await site.backup(source); // of this one, packs with older versions of messages stay
    await source.abort();
    before = fingerprints(source.queueDirectory);
    await site.backup(source);
    const page = readFileSync(join(site.directory, "repository", "RECOVER.txt"), "utf8");
    writeFileSync(script(), scriptOf(page));
    strangersPrograms(join(site.directory, "programs"), ["postfix", "postconf", "postsuper"]);
  });
  afterAll(async () => {
    source?.destroy();
    await site?.[Symbol.asyncDispose]();
    await sink?.[Symbol.asyncDispose]();
  });

  /** Run a step of the script with nothing in PATH but what the page names: neither spoolsafe nor Node. */
  async function recover(step: string, work: string, env: Record<string, string> = {}): Promise<string> {
    const PATH = join(site.directory, "programs");
    const variables = { PATH, REPOSITORY: "repository", IDENTITY: "identity.txt", WORK: work, ...env };
    const named = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
    const { stdout } = await run("env", ["-i", ...named, join(PATH, "sh"), script(), step], { cwd: site.directory });
    return stdout.toString();
  }

  test("refuses a Postfix that runs, and one that has mail", async () => {
    await recover("unpack", "work-refused", { TRUSTED: "trusted.pub" });
    await using target = await PrivatePostfix.start({ sink });
    const there = { CONFIG: target.configDirectory };
    await expect(recover("spool", "work-refused", there)).rejects.toThrow("Postfix runs");
    await target.stop();
    writeFileSync(join(target.queueDirectory, "hold", "12345ABCDE"), "", { mode: 0o700 });
    await expect(recover("spool", "work-refused", there)).rejects.toThrow("is not empty");
    expect(target.counts()).toMatchObject({ deferred: 0, incoming: 0, active: 0, maildrop: 0 });
  });

  test.each([
    { longIds: false, hashQueueDepth: 1, hashQueueNames: "deferred, defer" },
    { longIds: true, hashQueueDepth: 2, hashQueueNames: "deferred, defer, hold, bounce" },
  ])("comes back whole on another file system without spoolsafe ($longIds, $hashQueueNames)", async (options) => {
    await using target = await PrivatePostfix.create({ sink, tmpfs: "256m", ...options });
    const work = `work-${options.hashQueueDepth}`;
    await recover("unpack", work, { TRUSTED: "trusted.pub" });
    const said = await recover("spool", work, { CONFIG: target.configDirectory });
    expect(said).toContain("0 on hold because they may have been delivered already");
    expect(said).not.toContain("not placed");
    expect(differences(before, fingerprints(target.queueDirectory))).toEqual([]);
    expect(await target.postsuper(["-s"])).toBe("");
  });

  test("taken while mail was delivered: what is in doubt waits on hold, and is listed by its new name", async () => {
    const { messages } = await site.manifest(first);
    const doubtful = messages.filter(({ inFlight, finished, queue }) => queue !== "hold" && (inFlight || finished));
    expect(doubtful.length).toBeGreaterThan(0);
    await using target = await PrivatePostfix.create({ sink, tmpfs: "256m" });
    await recover("unpack", "work-first", { RECORD: snapshotKey({ ...first.snapshot, id: first.id }) });
    const said = await recover("spool", "work-first", { CONFIG: target.configDirectory });
    expect(said).toContain(`${doubtful.length} on hold because they may have been delivered already`);
    const ids = readFileSync(join(site.directory, "work-first", "in-doubt.ids"), "utf8")
      .trim()
      .split("\n");
    expect(ids).toHaveLength(doubtful.length);
    const held = target.files("hold").map((path) => basename(path));
    expect(held).toEqual(expect.arrayContaining(ids));
    const texts = ids.map((id) => readFileSync(join(target.queueDirectory, "hold", id), "latin1"));
    for (const { messageId } of doubtful) expect(texts.some((text) => text.includes(messageId ?? "-"))).toBe(true);
    await target.release(ids);
    expect(target.files("hold")).toHaveLength(held.length - ids.length);
  });

  test("arrives once each when Postfix is started", async () => {
    await using target = await PrivatePostfix.create({ sink, tmpfs: "256m" });
    await recover("unpack", "work-start");
    await recover("spool", "work-start", { CONFIG: target.configDirectory });
    const held = before.filter(({ queue }) => queue === "hold").length;
    for (const domain of ["defer.test", "bounce.test", "slow.test"]) sink.set(domain, {});
    await target.start();
    await target.flush();
    await until(
      () => ["deferred", "incoming", "active", "maildrop"].every((queue) => target.files(queue).length === 0),
      {
        timeoutMs: 90_000,
        what: () => JSON.stringify(target.counts()),
      },
    );
    expect(target.files("hold")).toHaveLength(held);
    await target.postsuper(["-H", "ALL"]);
    await target.flush();
    await until(() => target.files("deferred").length + target.files("active").length === 0, { timeoutMs: 60_000 });
    expect(sink.audit(deliverable(mixed.all))).toEqual({ lost: [], doubled: [] });
    expect(target.log()).not.toMatch(/panic|fatal|corrupt/);
  });
});
