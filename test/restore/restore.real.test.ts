import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { OperatorError } from "../../src/errors.ts";
import { placedHolds } from "../../src/holds/placed.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { readRuns } from "../../src/restore/journal.ts";
import { planOnly, restoreInto } from "../../src/restore/restore.ts";
import { guardMaster } from "../../src/restore/target.ts";
import type { ManifestEntry } from "../../src/snapshot/manifest.ts";
import { tryLock } from "../../src/system/lock.ts";
import { differences, type Fingerprint, fingerprints } from "../support/compare.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { deliverable, fillMixed, type MixedQueue, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import type { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";
import { handMadeJob, restore } from "./into.ts";

/** What a queue is to look like after a restore: mail of active is deferred. */
function afterRestore(source: readonly Fingerprint[]): Fingerprint[] {
  return source.map((one) => (one.queue === "active" ? { ...one, queue: "deferred" } : one));
}

/** Every path below a directory with what can be seen of it: nothing of it may change when a restore refuses. */
function everything(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .map((name) => {
      const { ino, mode, uid, mtimeMs, size } = statSync(join(directory, name));
      return [name, ino, mode, uid, mtimeMs, size].join(" ");
    })
    .sort();
}

describe.skipIf(!needs("root", "postfix", "mount"))("a queue of mixed states, restored on another file system", () => {
  const made: { sink: Sink; site: Site; source: PrivatePostfix; mixed: MixedQueue; before: Fingerprint[] }[] = [];
  afterAll(async () => {
    for (const { source, site, sink } of made.splice(0)) {
      source.destroy();
      await site[Symbol.asyncDispose]();
      await sink[Symbol.asyncDispose]();
    }
  });

  async function fill(longIds: boolean) {
    const sink = await mixedSink({ slowMs: 2000 });
    const site = await Site.make();
    const source = await PrivatePostfix.start({ sink, longIds });
    const mixed = await fillMixed(source, { messages: 80 });
    await source.abort();
    const one = { sink, site, source, mixed, before: fingerprints(source.queueDirectory) };
    made.push(one);
    return { ...one, taken: await site.backup(source) };
  }

  test.each([
    { from: "short", to: "short", depth: 1, names: "deferred, defer" },
    { from: "short", to: "long", depth: 2, names: "deferred, defer, hold, bounce" },
    { from: "long", to: "short", depth: 1, names: "active" },
    { from: "long", to: "long", depth: 1, names: "deferred, defer, trace" },
  ])(
    "$from ids to $to ids, hashed $depth deep ($names): equal by content, then delivered once",
    async ({ from, to, depth, names }) => {
      const { sink, site, taken, mixed, before } = await fill(from === "long");
      await using target = await PrivatePostfix.create({
        ...{ sink, tmpfs: "256m", longIds: to === "long", hashQueueDepth: depth, hashQueueNames: names },
      });
      const report = await restore(site, taken, target);
      expect(report).toMatchObject({
        restored: before.length,
        skipped: 0,
        inDoubtOnHold: 0,
        notPlaced: [],
        unproven: [],
      });
      expect(differences(afterRestore(before), fingerprints(target.queueDirectory))).toEqual([]);
      expect(await target.postsuper(["-s"])).toBe("");
      expect(report.renamed).toHaveLength(before.length);
      for (const { from: old, to: id } of report.renamed) {
        expect(target.find(id)).toBeDefined();
        expect(id.lastIndexOf("z") >= 10).toBe(to === "long" && old.lastIndexOf("z") >= 10);
      }
      expect(
        readdirSync(target.queueDirectory, { recursive: true }).filter((name) => String(name).includes("#")),
      ).toEqual([]);

      const { messages } = await site.manifest(taken);
      const heldBefore = new Set(messages.filter(({ queue }) => queue === "hold").map(({ messageId }) => messageId));
      sink.set("defer.test", {});
      sink.set("bounce.test", {});
      await target.start();
      await allTried(target);
      const held = target.files("hold");
      expect(held).toHaveLength(before.filter(({ queue }) => queue === "hold").length);
      const expected = deliverable(mixed.all).filter(({ messageId }) => !heldBefore.has(messageId));
      expect(sink.audit(expected)).toEqual({ lost: [], doubled: [] });
      expect(target.log()).not.toMatch(/panic|fatal|corrupt/);
    },
  );
});

describe.skipIf(!needs("root", "postfix"))("a restore into an instance", () => {
  let target: PrivatePostfix;
  let handMade: HandMade;
  let taken: Awaited<ReturnType<HandMade["take"]>>;
  beforeAll(async () => {
    handMade = await HandMade.make();
    const messages = ["plain", "partly-done", "milter-edited", "long-id"].map((name) => ({
      bytes: queueFiles.get(name) ?? Buffer.of(),
    }));
    taken = await handMade.take({ messages });
    target = await PrivatePostfix.create();
  });
  afterAll(async () => {
    target?.destroy();
    await handMade?.[Symbol.asyncDispose]();
  });

  /** The error of a restore, which must not have changed a thing. */
  async function refusal(of = taken.signed, into = target, more: object = {}): Promise<OperatorError> {
    await using job = await handMadeJob(handMade, of, into);
    const before = everything(into.queueDirectory);
    const error = await errorOf(() => restoreInto({ ...job, ...more }));
    expect(everything(into.queueDirectory)).toEqual(before);
    return error as OperatorError;
  }

  test("that is running: refuses with the pid, and changes nothing", async () => {
    await target.start();
    try {
      const error = await refusal();
      expect(error).toMatchObject({ kind: "refused" });
      expect(error.message).toContain(`process ${target.masterPid()}`);
    } finally {
      await target.stop();
    }
  });

  test.each(["maildrop", "incoming", "active", "deferred", "hold"])(
    "with mail in %s: refuses with the count, and changes nothing",
    async (queue) => {
      const path = join(target.queueDirectory, queue, "12345ABCDE");
      writeFileSync(path, queueFiles.get("plain") ?? "", { mode: 0o700 });
      chownSync(path, statSync(join(target.queueDirectory, "deferred")).uid, -1);
      try {
        const error = await refusal();
        expect(error).toMatchObject({ kind: "refused", message: expect.stringContaining(`1 in ${queue}`) });
      } finally {
        await target.postsuper(["-d", "ALL"]);
      }
    },
  );

  test("another run works on: says so, and changes nothing", async () => {
    const lock = await tryLock(target.queueDirectory);
    try {
      expect(await refusal()).toMatchObject({ kind: "locked" });
    } finally {
      await lock?.release();
    }
  });

  test("from a snapshot a stranger signed: refuses, and says how a key is trusted", async () => {
    const trusted = { check: () => "stranger" as const };
    await using job = await handMadeJob(handMade, taken.signed, target);
    const error = await refusal(taken.signed, target, { source: { ...job.source, trusted } });
    expect(error).toMatchObject({
      kind: "damaged",
      hints: [expect.stringContaining("key add FILE.pub"), expect.anything()],
    });
  });

  test("without the room: refuses before a byte is written", { skip: !needs("mount") }, async () => {
    await using small = await PrivatePostfix.create({ tmpfs: "12m" });
    const error = await refusal(taken.signed, small);
    expect(error).toMatchObject({ kind: "refused", message: expect.stringMatching(/file system .* needs \d+ bytes/) });
  });

  test("whose disk fills up meanwhile: leaves nothing in the queue", { skip: !needs("mount") }, async () => {
    await using small = await PrivatePostfix.create({ tmpfs: "12m", main: { message_size_limit: "1000" } });
    await using job = await handMadeJob(handMade, taken.signed, small);
    const filler = join(small.directory, "filler");
    const fill = () => {
      for (let size = 1 << 20; size >= 4096; size /= 2) {
        try {
          for (;;) writeFileSync(filler, Buffer.alloc(size), { flag: "a" });
        } catch {
          // smaller pieces then
        }
      }
    };
    const error = await errorOf(() =>
      restoreInto({
        ...job,
        report: (event) => (event.type === "step" && event.step === "stage" ? fill() : undefined),
      }),
    );
    expect(error).toMatchObject({ kind: "failed", message: expect.stringContaining("ENOSPC") });
    expect(Object.values(small.counts())).toEqual([0, 0, 0, 0, 0, 0]);
    expect(readdirSync(small.queueDirectory, { recursive: true }).filter((name) => String(name).includes("#"))).toEqual(
      [],
    );
  });

  test("from damaged packs: leaves nothing in the queue", async () => {
    const broken = await HandMade.make();
    await using _broken = broken;
    const { signed } = await broken.take({ messages: [{ bytes: queueFiles.get("plain") ?? Buffer.of() }] });
    const [pack] = signed.snapshot.packs;
    const path = broken.path(`packs/${pack?.id.slice(0, 2)}/${pack?.id}`);
    const bytes = readFileSync(path);
    bytes[300] = (bytes[300] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    await using job = await handMadeJob(broken, signed, target);
    const error = await errorOf(() => restoreInto(job));
    expect(error).toMatchObject({ kind: "damaged" });
    expect(Object.values(target.counts())).toEqual([0, 0, 0, 0, 0, 0]);
    expect(
      readdirSync(target.queueDirectory, { recursive: true }).filter((name) => String(name).includes("#")),
    ).toEqual([]);
  });

  test("as a dry run prints the plan and touches neither queue nor state directory", async () => {
    await using job = await handMadeJob(handMade, taken.signed, target);
    const before = everything(target.queueDirectory);
    const elsewhere = { ...job, stateDirectory: join(target.directory, "never-made") };
    const { plan } = await planOnly(elsewhere);
    expect(plan.place.map(({ message, queue }) => `${message.queueId} ${queue}`)).toEqual(
      taken.manifest.messages.map(({ queueId }) => `${queueId} deferred`),
    );
    expect(everything(target.queueDirectory)).toEqual(before);
    expect(existsSync(elsewhere.stateDirectory)).toBe(false);
  });

  test("keeps Postfix from starting while it places", async () => {
    const guard = await guardMaster(await loadInstance(target.configDirectory));
    try {
      await expect(target.postfix("start")).rejects.toThrow(/already running/);
      guard.check();
    } finally {
      await guard.release();
    }
    await target.start();
    await target.stop();
  });

  test("notices when its guard is taken away", async () => {
    const instance = await loadInstance(target.configDirectory);
    const guard = await guardMaster(instance);
    await target.run("rm", [join(instance.queueDirectory, "pid", "master.pid")]);
    expect(() => guard.check()).toThrow(/lock .* was lost/);
    await guard.release();
  });

  /** Restore a hand-made snapshot into an instance of its own. */
  async function restored(
    spoil: (entries: ManifestEntry[]) => ManifestEntry[],
    land: "original" | "hold" = "original",
  ) {
    const one = await HandMade.make();
    await using _one = one;
    const names = ["plain", "partly-done", "null-sender", "dsn", "maildrop-args"];
    const messages = names.map((name) => ({
      bytes: queueFiles.get(name) ?? Buffer.of(),
      logs: { defer: `log of ${name}` },
      over: name.startsWith("maildrop") ? { queue: "maildrop" as const, mode: 0o744 } : {},
    }));
    const { signed, manifest } = await one.take({ messages, spoil });
    const into = await PrivatePostfix.create();
    await using job = await handMadeJob(one, signed, into, land);
    const report = await errorOfOr(() => restoreInto(job));
    const holds = placedHolds(job.stateDirectory, job.instance);
    const find = (index: number) => {
      const id = manifest.messages[index]?.queueId;
      const to = "renamed" in report ? (report.renamed.find(({ from }) => from === id)?.to ?? id ?? "") : "";
      return {
        id: to,
        queue: into
          .find(to)
          ?.slice(into.queueDirectory.length + 1)
          .split("/")[0],
        hold: holds.get(to)?.kind,
      };
    };
    return { report, into, find, manifest };
  }

  const change = (index: number, over: object) => (entries: ManifestEntry[]) =>
    entries.map((entry, at) => (at === index ? ({ ...entry, ...over } as ManifestEntry) : entry));

  test("puts mail that may have been delivered on hold, lists its recipients, and remembers why it is there", async () => {
    const { report, into, find } = await restored((entries) =>
      change(0, { inFlight: true, queue: "active" })(
        change(1, { finished: true })(change(2, { queue: "hold", role: { kind: "admin" } })(entries)),
      ),
    );
    await using _into = into;
    expect(report).toMatchObject({ restored: 5, skipped: 0 });
    expect([0, 1, 2, 3].map((index) => find(index))).toMatchObject([
      { queue: "hold", hold: "restore" },
      { queue: "hold", hold: "restore" },
      { queue: "hold", hold: undefined },
      { queue: "deferred", hold: undefined },
    ]);
    // Without a log nobody knows what happened to the others after the snapshot either; they are not held for that.
    const nobodyKnows = "no log tells whether it was delivered after the snapshot";
    expect("inDoubt" in report && new Set(report.inDoubt.map(({ reason }) => reason))).toEqual(
      new Set([
        "it was being delivered while it was read",
        "it had left every queue of its host when the backup ended",
        nobodyKnows,
      ]),
    );
    expect(report).toMatchObject({ inDoubtOnHold: 2 });
  });

  test("places maildrop mail of users who are here, and lists that of others", async () => {
    const owner = { user: "games", group: "postdrop", uid: 4711, gid: 1 };
    const { report, into, find } = await restored(change(4, { owner }));
    await using _into = into;
    expect(report).toMatchObject({ restored: 5, notPlaced: [] });
    expect(find(4)).toMatchObject({ queue: "maildrop" });
    const path = into.find(find(4).id) ?? "";
    expect(statSync(path)).toMatchObject({
      mode: 0o100744,
      uid: Number((await into.run("id", ["-u", "games"])).stdout),
    });

    const other = await restored(change(4, { owner: { ...owner, user: "nobody-here" } }));
    await using _other = other.into;
    expect(other.report).toMatchObject({
      restored: 4,
      skipped: 1,
      notPlaced: [{ problem: expect.stringContaining("nobody-here") }],
    });
  });

  test("with land hold puts all on hold, and keeps mail of maildrop out of sight until it is released", async () => {
    const owner = { user: "games", group: "postdrop", uid: 4711, gid: 1 };
    const { report, into, find } = await restored(change(4, { owner }), "hold");
    await using _into = into;
    expect(report).toMatchObject({ restored: 5, awaitingRelease: 5, unproven: [] });
    expect(into.counts()).toMatchObject({ hold: 4, maildrop: 0, deferred: 0 });
    const waiting = readdirSync(join(into.queueDirectory, "defer"), { recursive: true }).map(String);
    expect(waiting.filter((name) => /\.message\..*#/.test(name))).toHaveLength(1);
    expect([0, 1, 2, 3].map((index) => find(index))).toMatchObject(Array(4).fill({ queue: "hold", hold: "restore" }));
  });

  test.each([
    ["is gone", (path: string) => rmSync(path), /not where it was put/],
    [
      "is another file",
      (path: string) => {
        copyFileSync(path, `${path}.x`);
        renameSync(`${path}.x`, path);
      },
      /another file has its name/,
    ],
    ["has a second name", (path: string) => linkSync(path, join(target.directory, `second-${Date.now()}`)), /2 names/],
    ["has another mode", (path: string) => chmodSync(path, 0o600), /mode/],
    [
      "can't be read by postcat",
      (path: string) => {
        const { atime, mtime } = statSync(path);
        truncateSync(path, 100);
        utimesSync(path, atime, mtime);
      },
      /postcat/,
    ],
  ])("claims nothing for a message that %s when it is looked at again", async (_, spoil, problem) => {
    const into = await PrivatePostfix.create();
    await using _into = into;
    await using job = await handMadeJob(handMade, taken.signed, into);
    let id = "";
    const report = await restoreInto({
      ...job,
      report: (event) => {
        if (event.type !== "step" || event.step !== "check") return;
        const [path = ""] = into.files("deferred").sort();
        id = path.split("/").at(-1) ?? "";
        spoil(path);
      },
    });
    const { from = "" } = report.renamed.find(({ to }) => to === id) ?? {};
    expect(report.unproven).toContainEqual({ queueId: from, problem: expect.stringMatching(problem) });
    expect(report.unproven.filter(({ queueId }) => queueId !== from && queueId !== "")).toEqual([]);
    expect(readRuns(job.stateDirectory)).toMatchObject([{ phase: "ended", outcome: "incomplete" }]);
  });

  test("gives nobody a second time what was restored into this queue before, unless it is asked for", async () => {
    const into = await PrivatePostfix.create();
    await using _into = into;
    await using job = await handMadeJob(handMade, taken.signed, into);
    expect(await restoreInto(job)).toMatchObject({ restored: 4, skipped: 0 });
    await into.postsuper(["-d", "ALL"]);
    expect(await restoreInto(job)).toMatchObject({ restored: 0, skipped: 4, notPlaced: [] });
    expect(await restoreInto({ ...job, choice: { ...job.choice, again: true } })).toMatchObject({ restored: 4 });
  });
});

async function errorOfOr<T>(attempt: () => Promise<T>): Promise<T | Error> {
  try {
    return await attempt();
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
}
