import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isQueueId } from "../../src/postfix/queue-id.ts";
import { readRuns } from "../../src/restore/journal.ts";
import type { RestoreReport } from "../../src/restore/report.ts";
import { differences, type Fingerprint, fingerprints } from "../support/compare.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { Sink } from "../support/sink.ts";
import { allTried } from "../support/undelivered.ts";
import type { DeadlyCall, KilledJob } from "./killed-restore.ts";

const names = [
  "plain",
  "partly-done",
  "null-sender",
  "dsn",
  "milter-edited",
  "four-recipients",
  "maildrop-args",
  "verbose",
];

describe.skipIf(!needs("root", "postfix"))("a restore that is killed", () => {
  let made: HandMade;
  let taken: Awaited<ReturnType<HandMade["take"]>>;
  let target: PrivatePostfix;
  let sink: Sink;
  let whole: { fingerprints: Fingerprint[]; calls: Record<DeadlyCall, number> };

  beforeAll(async () => {
    made = await HandMade.make();
    const messages = names.map((name, index) => ({
      bytes: queueFiles.get(name) ?? Buffer.of(),
      logs: { defer: `log of ${name}`, ...(index % 3 === 0 ? { bounce: `notice of ${name}` } : {}) },
      over: {
        ...(name.startsWith("maildrop") ? { queue: "maildrop" as const, mode: 0o744 } : {}),
        ...(name === "dsn" ? { queue: "hold" as const, role: { kind: "admin" as const } } : {}),
      },
    }));
    taken = await made.take({ messages });
    sink = await Sink.start({
      domains: { "dest.test": {}, "other.test": {}, "good.test": {}, "milter.test": {}, "src.test": {} },
    });
    target = await PrivatePostfix.create({ sink });
    const { report, calls } = run(null);
    expect(report).toMatchObject({ restored: names.length, unproven: [], notPlaced: [] });
    whole = { fingerprints: fingerprints(target.queueDirectory), calls };
  });
  afterAll(async () => {
    target?.destroy();
    await sink?.[Symbol.asyncDispose]();
    await made?.[Symbol.asyncDispose]();
  });

  const state = () => join(target.directory, "state");

  function start(death: KilledJob["death"]) {
    const { writer, number } = taken.signed.snapshot;
    const job: KilledJob = {
      repository: join(made.directory, "repository"),
      identityFile: join(made.directory, "identity.txt"),
      trustedKeysFile: join(made.directory, "trusted.pub"),
      snapshot: { id: taken.signed.id, writer, number },
      configDirectory: target.configDirectory,
      stateDirectory: state(),
      death,
    };
    return spawnSync(process.execPath, [join(import.meta.dirname, "killed-restore.ts")], {
      env: { ...process.env, SPOOLSAFE_TEST_KILLED_JOB: JSON.stringify(job) },
      encoding: "utf8",
      timeout: 60_000,
    });
  }

  function run(death: null): { report: RestoreReport; calls: Record<DeadlyCall, number> } {
    const { stdout, stderr, status } = start(death);
    if (status !== 0) throw new Error(`the restore failed: ${stderr}`);
    return JSON.parse(stdout);
  }

  function empty(): void {
    for (const directory of ["maildrop", "incoming", "active", "deferred", "hold", "defer", "bounce", "trace"]) {
      for (const name of readdirSync(join(target.queueDirectory, directory))) {
        rmSync(join(target.queueDirectory, directory, name), { recursive: true });
      }
    }
    rmSync(state(), { recursive: true, force: true });
  }

  const temporaries = () =>
    readdirSync(target.queueDirectory, { recursive: true, encoding: "utf8" }).filter((name) => name.includes("#"));

  /** What Postfix would see now is whole: each file under a legal name is one of the messages, and no two are the same. */
  function onlyWholeMessages(): void {
    const visible = fingerprints(target.queueDirectory);
    expect(differences(whole.fingerprints, visible).filter((line) => line.startsWith("+"))).toEqual([]);
    for (const name of temporaries()) expect(isQueueId(name.split("/").at(-1) ?? "")).toBe(false);
  }

  function endsWhole(): void {
    const { report } = run(null);
    expect(report).toMatchObject({
      restored: names.length,
      skipped: 0,
      inDoubtOnHold: 0,
      notPlaced: [],
      unproven: [],
      warnings: [],
    });
    expect(differences(whole.fingerprints, fingerprints(target.queueDirectory))).toEqual([]);
    expect(temporaries()).toEqual([]);
    expect(readRuns(state()).map(({ phase }) => phase)).toEqual(expect.arrayContaining(["ended"]));
    expect(readRuns(state()).every(({ phase }) => phase === "ended")).toBe(true);
  }

  /** Start Postfix, let it deliver what it sees, and stop it. A delivery that times out on a busy machine is tried again. */
  async function deliverAll(): Promise<void> {
    await target.start();
    await allTried(target);
    await target.stop();
  }

  /** Recipients that are to get a message: all that are not done, but those of the one an administrator held. */
  const toDeliver = () =>
    taken.manifest.messages
      .filter(({ queue }) => queue !== "hold")
      .reduce((sum, { recipients }) => sum + recipients.filter(({ done }) => !done).length, 0);

  test("at every sync of its journal: the same call again ends in the same state", { timeout: 300_000 }, () => {
    // start, planned, placing, visible, end
    expect(whole.calls.fdatasyncSync).toBe(5);
    for (let nth = 1; nth <= 5; nth++) {
      for (const after of [false, true]) {
        empty();
        expect(start({ call: "fdatasyncSync", nth, after }).signal).toBe("SIGKILL");
        onlyWholeMessages();
        // Written and not synced is over as well, unless the machine dies with us.
        if (nth === 5) continue;
        endsWhole();
      }
    }
  });

  test("at 20 seeded moments: the same call again ends in the same state", { timeout: 600_000 }, () => {
    const random = new Random(chooseSeed("killed restore"));
    for (let round = 0; round < 20; round++) {
      const call = random.pick(["linkSync", "linkSync", "unlinkSync", "unlinkSync", "fsyncSync", "openSync"] as const);
      const death = { call, nth: 1 + random.below(whole.calls[call]), after: random.below(2) === 0 };
      empty();
      expect({ death, signal: start(death).signal }).toEqual({ death, signal: "SIGKILL" });
      onlyWholeMessages();
      if (readRuns(state()).some(({ phase }) => phase === "ended")) continue;
      endsWhole();
    }
  });

  test("twice in a row, the second time while it finishes", { timeout: 300_000 }, () => {
    empty();
    expect(start({ call: "linkSync", nth: 5, after: true }).signal).toBe("SIGKILL");
    expect(start({ call: "linkSync", nth: 3, after: true }).signal).toBe("SIGKILL");
    onlyWholeMessages();
    endsWhole();
  });

  test("while mail becomes visible, and Postfix then started and stopped: nothing is delivered twice", {
    timeout: 300_000,
  }, async () => {
    const links = whole.calls.linkSync;
    for (const nth of [links, links - 4, links - 8]) {
      for (const after of [false, true]) {
        empty();
        const before = sink.deliveries.length;
        expect(start({ call: "linkSync", nth, after }).signal).toBe("SIGKILL");
        const placed = target.files("deferred").filter((path) => !path.includes("#")).length;
        await deliverAll();
        const { report } = run(null);
        expect(report).toMatchObject({ restored: names.length, notPlaced: [], unproven: [] });
        if (placed > 0) expect(report.warnings.join()).toContain("Postfix was started");
        expect(temporaries()).toEqual([]);
        await deliverAll();
        expect(target.files("hold")).toHaveLength(1); // the administrator's
        const pairs = sink.deliveries.slice(before).map(({ messageId, recipient }) => `${messageId} ${recipient}`);
        expect(pairs.length).toBe(new Set(pairs).size);
        expect(pairs.filter((pair) => !pair.endsWith("src.test"))).toHaveLength(toDeliver());
      }
    }
  });
});
