import { spawn } from "node:child_process";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listHolds } from "../../src/holds/list.ts";
import { readRuns } from "../../src/restore/journal.ts";
import { releaseRun } from "../../src/restore/release.ts";
import { systemClock } from "../../src/system/clock.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until, userId } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { type HeldRun, heldRun, type Kept, queueFilesOf } from "./held-run.ts";
import type { DeadlyCall, KilledRelease } from "./killed-release.ts";

const batch = 3;
const moments = process.env.SPOOLSAFE_LONG ? 100 : 8;

describe.skipIf(!needs("root", "postfix", "flock"))("a release that is killed", () => {
  let sink: Sink;
  let postfix: PrivatePostfix;
  let kept: readonly Kept[];
  let state = "";
  let calls: Record<DeadlyCall, number>;

  beforeAll(async () => {
    sink = await Sink.start({ domains: { "a.test": { rcpt: "450 4.2.0 later" } } });
    postfix = await PrivatePostfix.start({ sink });
    const letters = Array.from({ length: 8 }, (_, at) => plainLetter({ recipients: [`r${at}@a.test`] }));
    kept = await queueFilesOf(postfix, letters);
    sink.set("a.test", {});
    state = makeScratch();
    const run = await place();
    const { code, stdout } = await die(run, null);
    expect(code).toBe(0);
    calls = (JSON.parse(stdout) as { calls: typeof calls }).calls;
    await ends(run);
  });
  afterAll(async () => {
    postfix?.destroy();
    await sink?.close();
  });

  /** Five on hold, one of maildrop that waits, one in doubt and one of the administrator's. */
  function place(): Promise<HeldRun> {
    return heldRun(
      postfix,
      state,
      kept.map((one, at) => {
        if (at === 5) return { kept: one, over: { queue: "maildrop", waits: true, mode: 0o744, uid: userId("games") } };
        if (at === 6) return { kept: one, over: { inDoubt: "it was in delivery" } };
        if (at === 7) return { kept: one, over: { role: "admin" } };
        return { kept: one };
      }),
    );
  }

  async function die({ record, instance }: HeldRun, death: KilledRelease["death"]) {
    const job: KilledRelease = {
      ...{ run: record.run, configDirectory: instance.configDirectory, stateDirectory: state, batch, death },
    };
    const child = spawn(process.execPath, [join(import.meta.dirname, "killed-release.ts")], {
      env: { ...process.env, SPOOLSAFE_TEST_KILLED_RELEASE: JSON.stringify(job) },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let stdout = "";
    child.stdout.on("data", (chunk) => (stdout += chunk));
    const code = await new Promise<number | string>((resolve) =>
      child.on("exit", (status, signal) => resolve(signal ?? status ?? -1)),
    );
    return { code, stdout };
  }

  /** The same release again: all of it has gone, once, but what is to stay; and it knows. The queue is empty afterwards. */
  async function ends({ record, instance, ids }: HeldRun): Promise<void> {
    const job = { run: record.run, instance, stateDirectory: state, inDoubt: false, claims: [], clock: systemClock };
    const report = await releaseRun(job);
    expect(report).toMatchObject({ inDoubt: 1, admin: 1, remaining: 0, notFound: [], problems: [], claimed: [] });
    expect(report.released + report.before).toBe(6);
    const after = readRuns(state).find(({ run }) => run === record.run);
    expect([...(after?.released ?? [])].sort()).toEqual([0, 1, 2, 3, 4, 5]);
    expect(after?.releasing.size).toBe(0);
    expect(listHolds(state, instance).map(({ queueId }) => queueId)).toEqual([ids[6]]);
    // Woken, all of them, whatever their retry time: nobody else tries them within the hour.
    await until(() => Object.values(postfix.counts()).reduce((sum, count) => sum + count, 0) === 2, {
      what: () => JSON.stringify(postfix.counts()),
    });
    expect(
      postfix
        .files("hold")
        .map((path) => basename(path))
        .sort(),
    ).toEqual(ids.slice(6).sort());
    expect(postfix.files("defer").filter((path) => path.includes("#"))).toEqual([]);
    const delivered = sink.deliveries.splice(0).map(({ recipient }) => recipient);
    expect(delivered.sort()).toEqual(["r0", "r1", "r2", "r3", "r4", "r5"].map((name) => `${name}@a.test`));
    await postfix.postsuper(["-d", "-"], ids.slice(6));
  }

  async function survives(death: NonNullable<KilledRelease["death"]>): Promise<void> {
    const run = await place();
    const { code } = await die(run, death);
    expect({ death, code }).toEqual({ death, code: "SIGKILL" });
    await ends(run);
  }

  test("before and behind every line it writes is finished by the same call", { timeout: 300_000 }, async () => {
    // Two batches, in the journal when they begin and when they are out, and among the records of holds.
    expect(calls).toMatchObject({ fdatasyncSync: 4, writeSync: 6 });
    for (let nth = 1; nth <= calls.writeSync; nth++) await survives({ call: "writeSync", nth, after: false });
    for (let nth = 1; nth <= calls.fdatasyncSync; nth++) await survives({ call: "fdatasyncSync", nth, after: true });
  });

  test(`at ${moments} seeded moments is finished by the same call`, { timeout: 300_000 }, async () => {
    const random = new Random(chooseSeed("killed release"));
    for (let round = 0; round < moments; round++) {
      const call = random.pick(["spawn", "spawn", "fsyncSync", "renameSync"] as const);
      await survives({ call, nth: 1 + random.below(calls[call]), after: random.below(2) === 0 });
    }
  });

  test("twice is finished all the same", { timeout: 60_000 }, async () => {
    const run = await place();
    expect((await die(run, { call: "spawn", nth: 4, after: true })).code).toBe("SIGKILL");
    expect((await die(run, { call: "fdatasyncSync", nth: 2, after: false })).code).toBe("SIGKILL");
    await ends(run);
  });

  test("does not let go again what somebody put on hold meanwhile", { timeout: 60_000 }, async () => {
    sink.set("a.test", { rcpt: "450 4.2.0 later" });
    const run = await place();
    // In deferred, and not in the journal.
    expect((await die(run, { call: "fsyncSync", nth: 1, after: true })).code).toBe("SIGKILL");
    const [first = ""] = run.ids;
    expect(postfix.find(first)).toContain("/deferred/");
    expect([...(readRuns(state).find((one) => one.run === run.record.run)?.releasing ?? [])]).toContain(0);
    await postfix.hold([first]);
    const { record, instance } = run;
    const job = { run: record.run, instance, stateDirectory: state, inDoubt: true, claims: [], clock: systemClock };
    expect(await releaseRun(job)).toMatchObject({ remaining: 0, problems: [] });
    expect(postfix.find(first)).toContain("/hold/");
    expect(listHolds(state, instance)).toEqual([]);
  });
});
