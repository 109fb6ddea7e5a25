import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { placedHolds, recordPlaced } from "../../src/holds/placed.ts";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { listClaims, readDigests } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { claimsOf, standingClaims } from "../../src/restore/claiming.ts";
import { RunJournal, type RunRecord, readRuns } from "../../src/restore/journal.ts";
import { queueFilePath } from "../../src/restore/place.ts";
import { PlacedRecord } from "../../src/restore/placed-record.ts";
import { choiceText, type RestorePlan } from "../../src/restore/plan.ts";
import { refuseOtherRun } from "../../src/restore/resume.ts";
import { planUndo, type UndoReport, undoRun } from "../../src/restore/undo.ts";
import { claimDigester } from "../../src/snapshot/claim.ts";
import { entryKey } from "../../src/snapshot/manifest.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { newSigningKey, trustFile } from "../support/claims.ts";
import { queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { choice, noon } from "./entries.ts";
import { filesOf, type MadeExtent, type MadeMessage, type MadeRun, makeRun, makeSpool } from "./made-run.ts";

const bytes = queueFiles.get("partly-done") ?? Buffer.of();
const held: MadeMessage = { bytes, logs: { defer: "why it waits", bounce: "a notice to come" } };

const keys = makeScratch();
let key: SigningKey;
let trustedFile = "";
beforeAll(() => {
  key = newSigningKey(keys, "own");
  trustedFile = trustFile(keys, "trusted", [key]);
});
afterAll(() => destroyScratch(keys));

let root = "";
let state = "";
let instance: PostfixInstance;
let repository: Repository;
beforeEach(async () => {
  root = makeScratch();
  state = join(root, "state");
  instance = makeSpool(root);
  mkdirSync(join(root, "repository"));
  repository = await Repository.create(new DirectoryStore(join(root, "repository")));
  // Mail and a log of the target itself.
  writeFileSync(join(instance.queueDirectory, "hold", "4Z5j73J8pzBvYj"), "held by an administrator");
  writeFileSync(join(instance.queueDirectory, "defer", "4Z5j73J8pzBvYj"), "its log");
});
afterEach(() => destroyScratch(root));

const access = () => {
  const trusted = loadTrustedKeys(trustedFile);
  return { repository, key, trusted, clock: systemClock, settleMs: 20, waitMs: 2000 };
};

async function undo(run: string): Promise<UndoReport> {
  const claims = standingClaims(access());
  return await undoRun({ run, instance, stateDirectory: state, claims, clock: systemClock });
}

function record(run: string): RunRecord {
  const found = readRuns(state).find((one) => one.run === run);
  if (found === undefined) throw new Error(`no run ${run}`);
  return found;
}

/** A run by hand, with a claim on all it places. */
async function restored(messages: readonly MadeMessage[], extent?: MadeExtent): Promise<MadeRun> {
  const made = makeRun(instance, state, messages, extent);
  const claims = claimsOf({ ...access(), host: "mx1.source.test", snapshot: "5a".repeat(32), ...here });
  const { id } = await claims.take(
    made.run,
    made.placements.map(({ entry }) => entry),
  );
  const journal = RunJournal.reopen(record(made.run));
  journal.claimed(id);
  journal.close();
  return made;
}

const here = { by: "mx2.test", into: "mx", shard: null };

/** Numbers of the messages of a run that are claimed. */
async function claimed({ placements }: MadeRun): Promise<number[]> {
  const { standing } = await listClaims(repository, loadTrustedKeys(trustedFile));
  const lists = await Promise.all(standing.map(({ claim }) => readDigests(repository, claim)));
  return placements
    .filter(({ entry }) => standing.some(({ claim }, at) => lists[at]?.has(claimDigester(claim).of(entry))))
    .map(({ number }) => number);
}

const temporaries = () => [...filesOf(instance).keys()].filter((name) => name.includes("#"));
const targetsOwn = ["defer/4Z5j73J8pzBvYj", "hold/4Z5j73J8pzBvYj"];

function journaled({ run }: MadeRun, change: (journal: RunJournal) => void): void {
  const journal = RunJournal.reopen(record(run));
  change(journal);
  journal.close();
}

describe("an undo of a run that has ended", () => {
  test("removes what is as it was placed, whatever its role, with its logs, and withdraws the claim", async () => {
    const made = await restored([
      held,
      { ...held, role: "admin" },
      { ...held, role: "fence", logs: {} },
      { bytes, queue: "maildrop", waits: true },
    ]);
    expect(filesOf(instance).size).toBe(2 + 2 * 3 + 1 + 1);
    const report = await undo(made.run);
    expect(report).toMatchObject({ run: made.run, interrupted: false, left: [], undoneBefore: 0, claim: null });
    expect(report.removed.map(({ from, at }) => [from, at])).toEqual([
      ["7E48C16210F", "hold"],
      ["7E48C162110", "hold"],
      ["7E48C162111", "hold"],
      ["7E48C162112", "waiting"],
    ]);
    expect(report.removed[0]?.queueId).toBe(made.placements[0]?.id);
    expect([...filesOf(instance).keys()]).toEqual(targetsOwn);
    expect(record(made.run)).toMatchObject({ phase: "ended", undoing: new Set(), undone: new Set([0, 1, 2, 3]) });
    expect(await claimed(made)).toEqual([]);
    expect(await undo(made.run)).toMatchObject({ removed: [], left: [], undoneBefore: 4, claim: null });
  });

  test("lets the same mail be restored again: what was taken back does not count as placed", async () => {
    const made = await restored([held, { ...held, bytes: queueFiles.get("plain") ?? bytes }]);
    renameSync(made.path(1), join(instance.queueDirectory, "deferred", basename(made.path(1))));
    await undo(made.run);
    const entries = made.placements.map(({ entry }) => entry);
    const placed = new PlacedRecord(readRuns(state)).of("mx1.source.test", entries);
    const isPlaced = entries.map((entry) => placed.has(entryKey(entry)));
    expect(isPlaced).toEqual([false, true]);
  });

  test("lists what is not as it was placed, touches none of it, and keeps exactly that claimed", async () => {
    const made = await restored(Array.from({ length: 11 }, () => held));
    const id = (number: number) => made.placements[number]?.id ?? "";
    const to = (number: number, queue: string) =>
      renameSync(made.path(number), join(instance.queueDirectory, queue, id(number)));
    to(0, "deferred");
    rmSync(made.path(1));
    appendFileSync(made.path(2), "more");
    utimesSync(made.path(2), noon - 60, noon - 60);
    chmodSync(made.path(3), 0o710);
    utimesSync(made.path(4), noon, noon);
    const other = join(root, "another file");
    writeFileSync(other, bytes);
    renameSync(other, made.path(5));
    journaled(made, (journal) => {
      journal.releasing([6, 7]);
      journal.released([6], noon * 1000);
    });
    await delay(20); // the clock of a file's times goes in steps
    const moved = join(instance.queueDirectory, "deferred", id(7));
    renameSync(made.path(7), moved);
    renameSync(moved, made.path(7));
    to(8, "active");
    const lock = await tryLock(made.path(9));
    const before = filesOf(instance);
    const plan = planUndo(instance, record(made.run));
    expect(filesOf(instance)).toEqual(before);

    const report = await undo(made.run);
    await lock?.release();
    expect(report.removed.map(({ queueId }) => queueId)).toEqual([id(10)]);
    expect(report.left.map(({ queueId, at, reason }) => [queueId, at, reason])).toEqual([
      [id(0), "deferred", expect.stringContaining("Postfix has it")],
      [id(1), "gone", expect.stringContaining("left the queue")],
      [id(2), "hold", expect.stringContaining("marks")],
      [id(3), "hold", expect.stringContaining("mode is 710")],
      [id(4), "hold", expect.stringContaining("another time")],
      [id(5), "gone", expect.stringContaining("left the queue")],
      [id(6), "hold", expect.stringContaining("on hold again")],
      [id(7), "hold", expect.stringContaining("on hold again")],
      [id(8), "active", expect.stringContaining("may be delivering")],
      [id(9), "hold", expect.stringContaining("lock")],
    ]);
    expect(report.left[0]?.path).toBe(join(instance.queueDirectory, "deferred", id(0)));
    expect(plan).toMatchObject({ remove: report.removed, left: report.left });
    const gone = ["hold", "defer", "bounce"].map((queue) => {
      const path = queueFilePath(instance, queue as "hold", id(10));
      return path.slice(instance.queueDirectory.length + 1);
    });
    expect([...before.keys()].filter((name) => !filesOf(instance).has(name)).sort()).toEqual(gone.sort());
    expect(await claimed(made)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(record(made.run)).toMatchObject({ claim: report.claim, released: new Set([6, 7]), releasing: new Set() });

    // Somebody sorts one of them out, and undoes again.
    chmodSync(made.path(3), 0o700);
    const again = await undo(made.run);
    expect(again).toMatchObject({ removed: [{ queueId: id(3) }, { queueId: id(9) }], undoneBefore: 1 });
    expect(await claimed(made)).toEqual([0, 1, 2, 4, 5, 6, 7, 8]);
  });

  test("after a release that died takes back what that had announced and not let go", async () => {
    const made = await restored([held, held, { bytes, queue: "maildrop", waits: true }]);
    journaled(made, (journal) => journal.releasing([0, 1, 2]));
    await delay(20);
    renameSync(made.path(1), join(instance.queueDirectory, "deferred", basename(made.path(1))));
    const report = await undo(made.run);
    expect(report.removed.map(({ from, at }) => [from, at])).toEqual([
      ["7E48C16210F", "hold"],
      ["7E48C162111", "waiting"],
    ]);
    expect(report.left).toMatchObject([{ from: "7E48C162110", at: "deferred" }]);
    expect(record(made.run)).toMatchObject({ released: new Set([1]), undone: new Set([0, 2]) });
    expect(await claimed(made)).toEqual([1]);
  });

  test("that died as well, after a release that died, is finished", async () => {
    const made = await restored([held]);
    journaled(made, (journal) => {
      journal.releasing([0]);
      journal.undoing([0]);
    });
    await delay(20);
    renameSync(made.path(0), made.temporary(0));
    const report = await undo(made.run);
    expect(report).toMatchObject({ removed: [{ from: "7E48C16210F" }], left: [], claim: null });
    expect([...filesOf(instance).keys()]).toEqual(targetsOwn);
  });

  test("takes for an administrator's what has been put on hold again after a release that died", async () => {
    const made = await restored([held]);
    const id = made.placements[0]?.id ?? "";
    const since = new Date(noon * 1000).toISOString();
    recordPlaced(state, instance, { kind: "restore", run: made.run, since, ids: [id] });
    journaled(made, (journal) => journal.releasing([0]));
    await delay(20);
    const deferred = join(instance.queueDirectory, "deferred", id);
    renameSync(made.path(0), deferred);
    renameSync(deferred, made.path(0));
    expect(await undo(made.run)).toMatchObject({ removed: [], left: [{ queueId: id, at: "hold" }] });
    expect([...placedHolds(state, instance).keys()]).toEqual([]);
  });

  test("leaves a log that Postfix has written since under the name of a message", async () => {
    const made = await restored([held]);
    const log = queueFilePath(instance, "bounce", made.placements[0]?.id ?? "");
    writeFileSync(`${log}.new`, "another notice");
    renameSync(`${log}.new`, log);
    expect(await undo(made.run)).toMatchObject({ left: [] });
    expect(readFileSync(log, "utf8")).toBe("another notice");
    expect(filesOf(instance).size).toBe(3);
  });

  test("refuses a queue directory that is another than the run's", async () => {
    const made = await restored([held]);
    const { queueDirectory } = instance;
    renameSync(queueDirectory, `${queueDirectory}.old`);
    instance = makeSpool(root);
    const error = await errorOf(() => undo(made.run));
    expect(error).toMatchObject({ kind: "refused", message: expect.stringContaining("not the queue directory") });
    expect(await claimed(made)).toEqual([0]);
  });

  test("keeps out while another run works on the queue", async () => {
    const made = await restored([held]);
    const lock = await tryLock(instance.queueDirectory);
    expect(await errorOf(() => undo(made.run))).toMatchObject({ kind: "locked" });
    await lock?.release();
    expect(existsSync(made.path(0))).toBe(true);
  });
});

describe("an undo of a run that was interrupted", () => {
  test.each([
    ["placing", 2, 2],
    ["visible", 3, 4],
  ] as const)("while it was %s takes everything back, wherever a message was", async (phase, placed, linked) => {
    const made = await restored(
      [held, held, held, { ...held, queue: "deferred" }, { ...held, queue: "deferred" }, { bytes, waits: true }],
      { phase, placed, linked },
    );
    const report = await undo(made.run);
    const left = phase === "visible" ? [4] : [];
    expect(report.interrupted).toBe(true);
    expect(report.left.map(({ queueId }) => queueId)).toEqual(left.map((number) => made.placements[number]?.id));
    expect(temporaries()).toEqual([]);
    expect(await claimed(made)).toEqual(left);
    expect(filesOf(instance).size).toBe(2 + left.length);
    expect(record(made.run)).toMatchObject({
      ...{ phase: "ended", outcome: left.length > 0 ? "incomplete" : "abandoned" },
      undone: new Set([0, 1, 2, 3, 4, 5].filter((number) => !left.includes(number))),
    });
  });

  test("takes a message that Postfix had, and whose temporary name is left, for delivered", async () => {
    const made = await restored([held, { ...held, queue: "deferred" }], { phase: "visible", placed: 0, linked: 1 });
    rmSync(made.path(1));
    const report = await undo(made.run);
    expect(report.left).toMatchObject([{ queueId: made.placements[1]?.id, at: "gone" }]);
    expect(temporaries()).toEqual([]);
    expect(await claimed(made)).toEqual([1]);
  });

  test.each(["started", "planned"] as const)(
    "before it placed anything (%s) sweeps, and withdraws a claim that its journal does not name",
    async (phase) => {
      const made = makeRun(instance, state, [held, held], { phase });
      const claims = claimsOf({ ...access(), host: "mx1.source.test", snapshot: "5a".repeat(32), ...here });
      await claims.take(made.run, []);
      expect(temporaries()).toHaveLength(phase === "planned" ? 6 : 0);
      expect(await undo(made.run)).toMatchObject({ interrupted: true, removed: [], left: [], claim: null });
      expect([...filesOf(instance).keys()]).toEqual(targetsOwn);
      expect((await listClaims(repository, loadTrustedKeys(trustedFile))).standing).toEqual([]);
      expect(record(made.run)).toMatchObject({ phase: "ended", outcome: "abandoned" });
    },
  );
});

describe("an undo that was interrupted itself", () => {
  /** What Postfix, or an administrator, does to a message before the undo is called again. */
  const deliver = (made: MadeRun, number: number) => rmSync(made.path(number));

  test("tells what it took itself from what Postfix took", async () => {
    const made = await restored([held, held, held]);
    // As after a crash: all announced, the first moved away; and the second released and delivered before the next call.
    journaled(made, (journal) => journal.undoing([0, 1, 2]));
    renameSync(made.path(0), made.temporary(0));
    deliver(made, 1);
    const report = await undo(made.run);
    expect(report.removed.map(({ from }) => from)).toEqual(["7E48C16210F", "7E48C162111"]);
    expect(report.left).toMatchObject([{ from: "7E48C162110", at: "gone" }]);
    expect(await claimed(made)).toEqual([1]);
    expect(temporaries()).toEqual([]);
    // Over: what is left could be released.
    expect(record(made.run).undoing).toEqual(new Set());
  });

  test("deletes what it had noted as undone and not yet deleted", async () => {
    const made = await restored([held, held]);
    journaled(made, (journal) => journal.undoing([0]));
    renameSync(made.path(0), made.temporary(0));
    journaled(made, (journal) => journal.undone([0], noon * 1000));
    expect(await undo(made.run)).toMatchObject({ removed: [{ from: "7E48C162110" }], undoneBefore: 1, left: [] });
    expect([...filesOf(instance).keys()]).toEqual(targetsOwn);
  });

  test("keeps the restore from being finished, which would take for delivered what was taken back", async () => {
    const made = await restored([held, held], { phase: "placing", placed: 1 });
    const same = { source: { snapshot: made.start.snapshot }, choice: choice() } as RestorePlan;
    const asIt = (run: RunRecord) => ({ ...run, choice: choiceText(same.choice) });
    expect(() => refuseOtherRun(asIt(record(made.run)), same)).not.toThrow();
    journaled(made, (journal) => journal.undoing([0]));
    expect(() => refuseOtherRun(asIt(record(made.run)), same)).toThrow("is being undone");
  });

  test("makes the directory again that messages wait in", async () => {
    const made = await restored([held]);
    const room = dirname(made.temporary(0));
    rmSync(room, { recursive: true });
    expect(readdirSync(join(instance.queueDirectory, "defer"))).not.toContain(basename(room));
    expect(await undo(made.run)).toMatchObject({ removed: [{ at: "hold" }], left: [] });
    expect(statSync(room).isDirectory()).toBe(true);
  });
});
