import { readdirSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { placedHolds } from "../../src/holds/placed.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { isQueueId } from "../../src/postfix/queue-id.ts";
import { readRuns } from "../../src/restore/journal.ts";
import type { RestoreReport } from "../../src/restore/report.ts";
import { differences, type Fingerprint, fingerprints } from "../support/compare.ts";
import { HandMade, type HandMadeMessage, queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { Sink } from "../support/sink.ts";
import { allTried } from "../support/undelivered.ts";
import { type DeadlyCall, type KilledJob, runKilled } from "./killed-restore.ts";

const long = Boolean(process.env.SPOOLSAFE_LONG);

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

/** Real queue files with made-up logs; one is on hold by an administrator. */
function messagesOf(chosen: readonly string[], mtime?: number): HandMadeMessage[] {
  return chosen.map((name, index) => ({
    bytes: queueFiles.get(name) ?? Buffer.of(),
    logs: { defer: `log of ${name}`, ...(index % 3 === 0 ? { bounce: `notice of ${name}` } : {}) },
    over: {
      ...(mtime === undefined ? {} : { mtime }),
      ...(name.startsWith("maildrop") ? { queue: "maildrop" as const, mode: 0o744 } : {}),
      ...(name === "dsn" ? { queue: "hold" as const, role: { kind: "admin" as const } } : {}),
    },
  }));
}

const random = new Random(chooseSeed("killed restore"));

/** Moments anywhere in the work of a restore. */
function moments({ calls }: Bench, count: number): NonNullable<KilledJob["death"]>[] {
  return Array.from({ length: count }, () => {
    const call = random.pick(["linkSync", "linkSync", "unlinkSync", "unlinkSync", "fsyncSync", "openSync"] as const);
    return { call, nth: 1 + random.below(calls[call] ?? 1), after: random.below(2) === 0 };
  });
}

/** Before or after each sync of its journal, one of the two by turns; both in a long run. */
function boundaries(syncs: number): NonNullable<KilledJob["death"]>[] {
  const both = [false, true];
  return Array.from({ length: syncs }, (_, at) => at + 1).flatMap((nth) =>
    (long ? both : [nth % 2 === 0]).map((after) => ({ call: "fdatasyncSync" as const, nth, after })),
  );
}

describe.skipIf(!needs("root", "postfix"))("a restore into a stopped and empty instance that is killed", () => {
  let bench: Bench;
  beforeAll(async () => {
    bench = await Bench.make(messagesOf(names), { route: "fresh" });
    bench.live();
  });
  afterAll(() => bench?.[Symbol.asyncDispose]());

  /** Start Postfix, let it deliver what it sees, and stop it. A delivery that times out on a busy machine is tried again. */
  async function deliverAll(): Promise<void> {
    await bench.target.start();
    await allTried(bench.target);
    await bench.target.stop();
  }

  test("at every sync of its journal: the same call again ends in the same state", { timeout: 300_000 }, () => {
    // start, planned, placing, visible, end
    expect(bench.calls.fdatasyncSync).toBe(5);
    for (const death of boundaries(5)) {
      bench.dies(death);
      // Written and not synced is over as well, unless the machine dies with us.
      if (death.nth < 5) bench.endsWhole();
    }
  });

  test("at seeded moments: the same call again ends in the same state", { timeout: 600_000 }, () => {
    for (const death of moments(bench, long ? 20 : 2)) {
      bench.dies(death);
      if (readRuns(bench.state).every(({ phase }) => phase !== "ended")) bench.endsWhole();
    }
  });

  test("twice in a row, the second time while it finishes", { timeout: 300_000 }, () => {
    bench.dies({ call: "linkSync", nth: 5, after: true });
    expect(bench.start({ call: "linkSync", nth: 3, after: true }).signal).toBe("SIGKILL");
    bench.onlyWholeMessages();
    bench.endsWhole();
  });

  test("while mail becomes visible, and Postfix then started and stopped: nothing is delivered twice", {
    timeout: 300_000,
  }, async () => {
    const { target, sink } = bench;
    const links = bench.calls.linkSync ?? 0;
    for (const [at, nth] of (long ? [links, links - 4, links - 8] : [links - 4]).entries()) {
      for (const after of long ? [false, true] : [at === 1]) {
        const before = sink.deliveries.length;
        bench.dies({ call: "linkSync", nth, after });
        const placed = target.files("deferred").filter((path) => !path.includes("#")).length;
        await deliverAll();
        const { report } = bench.run();
        expect(report).toMatchObject({ restored: names.length, notPlaced: [], unproven: [] });
        if (placed > 0) expect(report.warnings.join()).toContain("Postfix was started");
        expect(bench.temporaries()).toEqual([]);
        await deliverAll();
        expect(target.files("hold")).toHaveLength(1); // the administrator's
        bench.expectAllOnce(before);
      }
    }
  });
});

describe.skipIf(!needs("root", "postfix"))("a merge into a running Postfix that is killed", () => {
  let bench: Bench;
  beforeAll(async () => {
    // Not due before the test is over, so that Postfix leaves it where it is put until it is told to.
    const mtime = Math.floor(Date.now() / 1000) + 3000;
    const ownNames = names.filter((name) => !name.startsWith("maildrop"));
    bench = await Bench.make(messagesOf(ownNames, mtime), { route: "merge" });
    await bench.target.start();
    bench.live();
  });
  afterAll(() => bench?.[Symbol.asyncDispose]());

  /** Lines of its journal in their order, each synced. */
  const lines = ["start", "planned", "placing", "visible", "releasing", "released", "end"];
  const at = (line: string) => lines.indexOf(line) + 1;

  test("at every sync of its journal: the same call again ends in the same state", { timeout: 300_000 }, () => {
    expect(bench.calls.fdatasyncSync).toBe(lines.length);
    for (const death of boundaries(lines.length)) {
      bench.dies(death);
      if (death.nth < lines.length) bench.endsWhole();
    }
  });

  test("at seeded moments: the same call again ends in the same state", { timeout: 600_000 }, () => {
    for (const death of moments(bench, long ? 20 : 2)) {
      bench.dies(death);
      if (readRuns(bench.state).every(({ phase }) => phase !== "ended")) bench.endsWhole();
    }
  });

  test("twice in a row, the second time between proof and release: then all is delivered once", {
    timeout: 300_000,
  }, async () => {
    const before = bench.sink.deliveries.length;
    bench.dies({ call: "linkSync", nth: 5, after: true });
    // Its journal goes on with: visible, releasing.
    expect(bench.start({ call: "fdatasyncSync", nth: 2, after: false }).signal).toBe("SIGKILL");
    bench.onlyWholeMessages();
    expect(bench.target.files("deferred")).toEqual([]);
    bench.endsWhole();
    expect(bench.sink.deliveries).toHaveLength(before);
    await allTried(bench.target);
    bench.expectAllOnce(before);
    expect(bench.target.files("hold")).toHaveLength(1);
  });

  test("when its mail is out, some delivered and some on hold by an administrator: none is touched again", {
    timeout: 300_000,
  }, async () => {
    const { target, sink } = bench;
    const before = sink.deliveries.length;
    bench.dies({ call: "fdatasyncSync", nth: at("released"), after: false });
    const [first = "", ...rest] = target.files("deferred").filter((path) => !path.includes("#"));
    expect(rest.length).toBeGreaterThan(2);
    const id = basename(first);
    await target.hold([id]);
    await allTried(target);
    const { report } = bench.run();
    expect(report).toMatchObject({ restored: bench.taken.manifest.messages.length, notPlaced: [], unproven: [] });
    expect(report.warnings.join()).toContain("left the queue");
    expect(target.files("hold")).toHaveLength(2);
    expect(placedHolds(bench.state, await loadInstance(target.configDirectory)).has(id)).toBe(false);
    await target.release([id]);
    await allTried(target);
    bench.expectAllOnce(before);
  });
});

describe.skipIf(!needs("root", "postfix"))("a requeue that is killed", () => {
  let bench: Bench;
  const requeued = ["plain", "partly-done", "four-recipients"];
  beforeAll(async () => {
    const messages = requeued.map((name) => ({ bytes: queueFiles.get(name) ?? Buffer.of() }));
    bench = await Bench.make(messages, { route: "requeue" });
    bench.live();
  });
  afterAll(() => bench?.[Symbol.asyncDispose]());

  test.each([
    { moment: "between its journal and the first name", call: "fdatasyncSync", nth: 4, taken: 0 },
    { moment: "when one message has its name", call: "renameSync", nth: 1, taken: 1 },
    { moment: "when all have their names", call: "renameSync", nth: 3, taken: 3 },
  ] as const)(
    "$moment, and pickup ran: everybody gets theirs once",
    {
      timeout: 120_000,
    },
    async ({ call, nth, taken }) => {
      const { target, sink } = bench;
      const before = sink.deliveries.length;
      bench.dies({ call, nth, after: true });
      await target.start();
      try {
        await allTried(target);
        expect(new Set(sink.deliveries.slice(before).map(({ messageId }) => messageId)).size).toBe(taken);
        const { report } = bench.run();
        expect(report).toMatchObject({ restored: requeued.length, skipped: 0, notPlaced: [], unproven: [] });
        expect(report.warnings.join().includes("left the queue")).toBe(taken > 0);
        expect(bench.temporaries()).toEqual([]);
        await allTried(target);
        bench.expectAllOnce(before);
        expect(bench.run().report).toMatchObject({ restored: 0, skipped: requeued.length });
      } finally {
        await target.stop();
      }
    },
  );

  test("and no pickup ran: the same call again ends in the same state", { timeout: 300_000 }, () => {
    expect(bench.calls.fdatasyncSync).toBe(5);
    for (const death of [...boundaries(4).slice(long ? 0 : 2), { call: "renameSync" as const, nth: 2, after: true }]) {
      bench.dies(death);
      bench.endsWhole();
    }
  });
});

/** A restore that can be killed at any of its calls, its target, and what the target looks like when nothing kills it. */
class Bench implements AsyncDisposable {
  readonly target: PrivatePostfix;
  readonly sink: Sink;
  readonly taken: Awaited<ReturnType<HandMade["take"]>>;
  whole: Fingerprint[] = [];
  calls: Partial<Record<DeadlyCall, number>> = {};
  readonly #made: HandMade;
  readonly #choice: KilledJob["choice"];

  private constructor(
    made: HandMade,
    taken: Bench["taken"],
    target: PrivatePostfix,
    sink: Sink,
    choice: KilledJob["choice"],
  ) {
    this.#made = made;
    this.taken = taken;
    this.target = target;
    this.sink = sink;
    this.#choice = choice;
  }

  static async make(messages: readonly HandMadeMessage[], choice: KilledJob["choice"]): Promise<Bench> {
    const made = await HandMade.make();
    const taken = await made.take({ messages });
    const sink = await Sink.start({
      domains: { "dest.test": {}, "other.test": {}, "good.test": {}, "milter.test": {}, "src.test": {} },
    });
    return new Bench(made, taken, await PrivatePostfix.create({ sink }), sink, choice);
  }

  /** Restore once without a death, and remember how that looks. */
  live(): void {
    const { report, calls } = this.run();
    expect(report).toMatchObject({ restored: this.taken.manifest.messages.length, unproven: [], notPlaced: [] });
    this.whole = fingerprints(this.target.queueDirectory);
    this.calls = calls;
  }

  get state(): string {
    return join(this.target.directory, "state");
  }

  start(death: KilledJob["death"]) {
    const { writer, number } = this.taken.signed.snapshot;
    return runKilled({
      repository: join(this.#made.directory, "repository"),
      identityFile: join(this.#made.directory, "identity.txt"),
      trustedKeysFile: join(this.#made.directory, "trusted.pub"),
      snapshot: { id: this.taken.signed.id, writer, number },
      configDirectory: this.target.configDirectory,
      stateDirectory: this.state,
      death,
      ...(this.#choice === undefined ? {} : { choice: this.#choice }),
    });
  }

  run(): { report: RestoreReport; calls: Record<DeadlyCall, number> } {
    const { stdout, stderr, status } = this.start(null);
    if (status !== 0) throw new Error(`the restore failed: ${stderr}`);
    return JSON.parse(stdout);
  }

  /** Die there in an empty queue, and see that what can be seen of it is whole. */
  dies(death: NonNullable<KilledJob["death"]>): void {
    this.empty();
    expect({ death, signal: this.start(death).signal }).toEqual({ death, signal: "SIGKILL" });
    this.onlyWholeMessages();
  }

  empty(): void {
    for (const directory of ["maildrop", "incoming", "active", "deferred", "hold", "defer", "bounce", "trace"]) {
      for (const name of readdirSync(join(this.target.queueDirectory, directory))) {
        rmSync(join(this.target.queueDirectory, directory, name), { recursive: true });
      }
    }
    rmSync(this.state, { recursive: true, force: true });
  }

  temporaries(): string[] {
    return readdirSync(this.target.queueDirectory, { recursive: true, encoding: "utf8" }).filter((name) =>
      name.includes("#"),
    );
  }

  /**
   * What Postfix would see now is whole: each file under a legal name is one of the messages, and no two are the same. Mail
   * that is merged is on hold at first.
   */
  onlyWholeMessages(): void {
    const visible = fingerprints(this.target.queueDirectory);
    const without = this.#choice?.route === "merge" ? (["queue"] as const) : [];
    expect(differences(this.whole, visible, { without }).filter((line) => line.startsWith("+"))).toEqual([]);
    for (const name of this.temporaries()) expect(isQueueId(name.split("/").at(-1) ?? "")).toBe(false);
  }

  endsWhole(): void {
    const { report } = this.run();
    expect(report).toMatchObject({
      ...{ restored: this.taken.manifest.messages.length, skipped: 0, stillQueued: 0, inDoubtOnHold: 0 },
      ...{ notPlaced: [], unproven: [], warnings: [] },
    });
    expect(differences(this.whole, fingerprints(this.target.queueDirectory))).toEqual([]);
    expect(this.temporaries()).toEqual([]);
    const runs = readRuns(this.state);
    expect(runs.length).toBeGreaterThan(0);
    expect(runs.every(({ phase }) => phase === "ended")).toBe(true);
  }

  /** Everybody in the snapshot who is to get a message: all that are not done, but those of what an administrator held. */
  toDeliver(): number {
    return this.taken.manifest.messages
      .filter(({ queue }) => queue !== "hold")
      .reduce((sum, { recipients }) => sum + recipients.filter(({ done }) => !done).length, 0);
  }

  /** Everybody got theirs once since so many deliveries ago; the sender of a message may have been told of failures. */
  expectAllOnce(before: number): void {
    const pairs = this.sink.deliveries.slice(before).map(({ messageId, recipient }) => `${messageId} ${recipient}`);
    expect(pairs.length).toBe(new Set(pairs).size);
    expect(pairs.filter((pair) => !pair.endsWith("src.test"))).toHaveLength(this.toDeliver());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.target.destroy();
    await this.sink.close();
    await this.#made[Symbol.asyncDispose]();
  }
}
