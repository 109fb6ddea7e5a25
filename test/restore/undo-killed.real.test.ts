import { spawn } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { listClaims, readDigests } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { claimsOf, standingClaims } from "../../src/restore/claiming.ts";
import { RunJournal, type RunRecord, readRuns } from "../../src/restore/journal.ts";
import { queueFilePath } from "../../src/restore/place.ts";
import { type UndoReport, undoRun } from "../../src/restore/undo.ts";
import { claimDigester } from "../../src/snapshot/claim.ts";
import { systemClock } from "../../src/system/clock.ts";
import { newSigningKey, trustFile } from "../support/claims.ts";
import { queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { noon } from "./entries.ts";
import type { DeadlyCall, KilledUndoJob } from "./killed-undo.ts";
import { filesOf, type MadeExtent, type MadeMessage, type MadeRun, makeRun, makeSpool } from "./made-run.ts";

const bytes = queueFiles.get("partly-done") ?? Buffer.of();
const held: MadeMessage = { bytes, logs: { defer: "why", bounce: "a notice" } };
/** Message 1 is released, 2 delivered, 3 released and held again; an interrupted run has 9 and 10 in deferred. */
const messages: readonly MadeMessage[] = [
  ...[0, 1, 2, 3, 4].map(() => held),
  { ...held, role: "admin" },
  { ...held, role: "fence", logs: {} },
  { bytes, queue: "maildrop", waits: true },
  held,
  ...[9, 10].map((): MadeMessage => ({ ...held, queue: "deferred" })),
];
const lefts = { ended: [1, 2, 3, 9, 10], visible: [1, 2, 3, 9] } as const;

type Extent = keyof typeof lefts;

/** A restored queue, and a repository with the claim of the run. */
interface Round {
  readonly extent: Extent;
  readonly made: MadeRun;
  readonly directory: string;
  readonly repository: Repository;
  readonly job: Omit<KilledUndoJob, "death">;
}

const moments = process.env.SPOOLSAFE_LONG ? 60 : 8;

describe.skipIf(!needs("flock"))("an undo that is killed", () => {
  const scratch = makeScratch();
  let key: SigningKey;
  let trustedFile = "";
  const calls = {} as Record<Extent, Record<DeadlyCall, number>>;
  let rounds = 0;

  beforeAll(async () => {
    key = newSigningKey(scratch, "own");
    trustedFile = trustFile(scratch, "trusted", [key]);
    for (const extent of ["ended", "visible"] as const) {
      const round = await begin(extent);
      const { stdout } = await start(round, null);
      calls[extent] = JSON.parse(stdout).calls;
      await endsWell(round, JSON.parse(stdout).report);
    }
  });
  afterAll(() => destroyScratch(scratch));

  async function begin(extent: Extent): Promise<Round> {
    const directory = join(scratch, `round${++rounds}`);
    mkdirSync(join(directory, "repository"), { recursive: true });
    const repository = await Repository.create(new DirectoryStore(join(directory, "repository")));
    const instance = makeSpool(directory);
    const stateDirectory = join(directory, "state");
    const how: MadeExtent = extent === "ended" ? { phase: "ended" } : { phase: "visible", placed: 10, linked: 8 };
    const made = makeRun(instance, stateDirectory, messages, how);
    const trusted = loadTrustedKeys(trustedFile);
    const claims = claimsOf({
      ...{ repository, key, trusted, clock: systemClock, settleMs: 20, host: "mx1.source.test", shard: null },
      ...{ snapshot: "5a".repeat(32), by: "mx2.test", into: "mx" },
    });
    const { id } = await claims.take(
      made.run,
      made.placements.map(({ entry }) => entry),
    );
    const journal = RunJournal.reopen(recordOf(stateDirectory));
    journal.claimed(id);
    journal.releasing([1, 2, 3]);
    journal.released([1, 2, 3], noon * 1000);
    journal.close();
    renameSync(made.path(1), join(instance.queueDirectory, "deferred", made.placements[1]?.id ?? ""));
    rmSync(made.path(2));
    const keyFile = join(scratch, "own.key");
    const paths = { repository: join(directory, "repository"), keyFile, trustedKeysFile: trustedFile };
    return { extent, made, directory, repository, job: { run: made.run, instance, stateDirectory, ...paths } };
  }

  function recordOf(stateDirectory: string): RunRecord {
    const [record] = readRuns(stateDirectory);
    if (record === undefined) throw new Error("no run");
    return record;
  }

  async function start({ job }: Round, death: KilledUndoJob["death"]) {
    const child = spawn(process.execPath, [join(import.meta.dirname, "killed-undo.ts")], {
      env: { ...process.env, SPOOLSAFE_TEST_KILLED_JOB: JSON.stringify({ ...job, death }) },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (chunk) => (stdout += chunk));
    child.stderr.on("data", (chunk) => (stderr += chunk));
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
      child.on("close", (...end) => resolve(end)),
    );
    if (code !== 0 && signal !== "SIGKILL") throw new Error(`the undo failed: ${stderr}`);
    return { stdout, signal };
  }

  async function claimed({ made, repository }: Round): Promise<number[]> {
    const { standing } = await listClaims(repository, loadTrustedKeys(trustedFile));
    const lists = await Promise.all(standing.map(({ claim }) => readDigests(repository, claim)));
    return made.placements
      .filter(({ entry }) => standing.some(({ claim }, at) => lists[at]?.has(claimDigester(claim).of(entry))))
      .map(({ number }) => number);
  }

  /** What is not noted as undone is still there, under its name or where only we look, and claimed. */
  async function nothingIsLost(round: Round): Promise<void> {
    const { made, job } = round;
    const { undone } = recordOf(job.stateDirectory);
    const pending = made.placements.map(({ number }) => number).filter((number) => !undone.has(number) && number !== 2);
    const deferred = queueFilePath(job.instance, "deferred", made.placements[1]?.id ?? "");
    for (const number of pending) {
      const path = number === 1 ? join(job.instance.queueDirectory, "deferred", deferred.split("/").at(-1) ?? "") : "";
      const places = [made.path(number), made.temporary(number), path];
      expect(
        places.some((place) => place !== "" && existsSync(place)),
        `message ${number}`,
      ).toBe(true);
    }
    expect(await claimed(round)).toEqual(expect.arrayContaining([...pending, 2]));
  }

  /** The same call again, wherever the first was killed. */
  async function finish({ job }: Round): Promise<UndoReport> {
    const repository = await Repository.open(new DirectoryStore(job.repository));
    const trusted = loadTrustedKeys(trustedFile);
    const claims = standingClaims({ repository, key, trusted, clock: systemClock, settleMs: 20, waitMs: 5000 });
    return await undoRun({ ...job, claims, clock: systemClock });
  }

  async function endsWell(round: Round, report: UndoReport): Promise<void> {
    const { extent, made, job } = round;
    const left = lefts[extent];
    expect(report.left.map(({ queueId }) => queueId)).toEqual(left.map((number) => made.placements[number]?.id));
    const inQueue = left.filter((number) => number !== 2);
    // Message 1 was moved without its hash directory's name; each has two logs; those of 2 are nobody's any more.
    expect([...filesOf(job.instance).keys()].filter((name) => name.includes("#"))).toEqual([]);
    expect(filesOf(job.instance).size).toBe(inQueue.length * 3 + 2);
    const record = recordOf(job.stateDirectory);
    const undone = made.placements.map(({ number }) => number).filter((number) => !left.some((one) => one === number));
    expect(record).toMatchObject({ phase: "ended", undone: new Set(undone), claim: report.claim });
    expect(await claimed(round)).toEqual(left);
    expect((await listClaims(round.repository, loadTrustedKeys(trustedFile))).standing).toHaveLength(1);
    destroyScratch(round.directory);
  }

  async function dies(extent: Extent, death: NonNullable<KilledUndoJob["death"]>): Promise<void> {
    const round = await begin(extent);
    const { signal } = await start(round, death);
    expect({ death, signal }).toEqual({ death, signal: "SIGKILL" });
    await nothingIsLost(round);
    await endsWell(round, await finish(round));
  }

  test.concurrent.each(["ended", "visible"] as const)(
    "at every sync of the journal (%s): the same call again ends in the same state",
    { timeout: 120_000 },
    async (extent) => {
      // undoing, undone, the narrower claim; and the end of an interrupted run
      const syncs = calls[extent].fdatasyncSync;
      expect(syncs).toBe(extent === "ended" ? 3 : 4);
      for (let nth = 1; nth <= syncs; nth++) {
        await Promise.all([false, true].map((after) => dies(extent, { call: "fdatasyncSync", nth, after })));
      }
    },
  );

  test.concurrent(`at ${moments} seeded moments: the same call again ends in the same state`, {
    timeout: 180_000,
  }, async () => {
    const random = new Random(chooseSeed("killed undo"));
    const deaths = Array.from({ length: moments }, () => {
      const extent = random.pick(["ended", "visible"] as const);
      const call = random.pick(["renameSync", "renameSync", "unlinkSync", "unlinkSync", "fsyncSync", "put"] as const);
      const nth = 1 + random.below(calls[extent][call]);
      return { extent, death: { call, nth, after: random.below(2) === 0 } };
    });
    const next = deaths.values();
    const worker = async () => {
      for (const { extent, death } of next) await dies(extent, death);
    };
    await Promise.all([worker(), worker()]);
  });
});
