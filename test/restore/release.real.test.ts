import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, chmodSync, renameSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { listHolds } from "../../src/holds/list.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { takeClaim, withdrawClaim } from "../../src/repository/take-claim.ts";
import { readRuns } from "../../src/restore/journal.ts";
import { releaseRun } from "../../src/restore/release.ts";
import type { ReleaseEvent, ReleaseJob } from "../../src/restore/release-job.ts";
import type { Patience } from "../../src/restore/release-pace.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { claimRequest, newSigningKey } from "../support/claims.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { type Letter, PrivatePostfix, plainLetter, until, userId } from "../support/postfix.ts";
import { makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { type HeldRun, heldRun, type Kept, queueFilesOf } from "./held-run.ts";

const later = { rcpt: "450 4.2.0 try later" };
const domains = ["a.test", "b.test", "c.test"];

describe.skipIf(!needs("root", "postfix", "flock")).concurrent("a release", () => {
  test("lets exactly the mail go that was placed to be signed off, once", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(13);
    const { postfix, kept, letters } = bench;
    const [foreign] = await postfix.submit([plainLetter({ recipients: ["x@a.test"] })]);
    await until(() => postfix.files("deferred").length === 1, { what: "an administrator's message" });
    await postfix.hold([foreign?.queueId ?? ""]);
    const run = await bench.place(
      kept.map((one, at) => {
        if (at === 6 || at === 7) return { kept: one, over: { role: "admin" } };
        if (at === 8) return { kept: one, over: { role: "fence" } };
        if (at === 9 || at === 10) return { kept: one, over: { inDoubt: "it was in delivery" } };
        if (at === 11)
          return { kept: one, over: { queue: "maildrop", waits: true, mode: 0o744, uid: userId("games") } };
        return { kept: one };
      }),
    );
    expect(listHolds(bench.state, run.instance)).toHaveLength(9);
    bench.accept();

    const first = await bench.release(run);
    expect(first).toMatchObject({
      ...{ released: 8, before: 0, inDoubt: 2, admin: 2, fence: 1, remaining: 0, notWoken: 0 },
      ...{ claimed: [], notFound: [], problems: [], cameBack: null, running: true },
    });
    expect(bench.events[0]).toMatchObject({ type: "forecast", messages: 8, maildrop: 1, expired: 0 });
    const certain = letters.filter((_, at) => at < 6 || at > 10);
    await until(() => bench.sink.audit(certain).lost.length === 0, { what: "delivery" });
    const held = [...run.ids.slice(6, 11), foreign?.queueId ?? ""];
    expect(postfix.held()).toEqual(held.toSorted());
    const listed = listHolds(bench.state, run.instance).map(({ queueId, kind }) => `${kind} ${queueId}`);
    expect(listed.sort()).toEqual(
      run.ids
        .slice(9, 11)
        .map((queueId) => `restore ${queueId}`)
        .sort(),
    );

    expect(await bench.release(run)).toMatchObject({ released: 0, before: 8, inDoubt: 2, remaining: 0 });
    expect(await bench.release(run, { inDoubt: true })).toMatchObject({ released: 2, inDoubt: 0, admin: 2, fence: 1 });
    await postfix.emptiedBut(4);
    expect(bench.sink.audit(letters.filter((_, at) => at < 6 || at > 8))).toEqual({ lost: [], doubled: [] });
    expect(bench.sink.deliveries).toHaveLength(10);
    expect(postfix.held()).toEqual([...run.ids.slice(6, 9), foreign?.queueId ?? ""].toSorted());
  });

  test("never touches again what has left hold: somebody else holds it now", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(5);
    const { postfix, kept } = bench;
    const run = await bench.place(kept.map((one) => ({ kept: one })));
    const [byHand = "", removed = "", ...rest] = run.ids;
    await postfix.release([byHand]);
    await postfix.postsuper(["-d", "-"], [removed]);
    const report = await bench.release(run);
    expect(report).toMatchObject({ released: 3, remaining: 0, problems: [] });
    expect(report.notFound.map(({ queueId }) => queueId)).toEqual([byHand, removed]);
    // The sink refuses them: they are deferred again, and an administrator holds two, one of them that he released himself.
    await until(() => postfix.files("deferred").length === 4 && postfix.counts().active === 0, {
      what: "deferred mail",
    });
    await postfix.hold([byHand, rest[0] ?? ""]);
    expect(await bench.release(run, { inDoubt: true })).toMatchObject({ released: 0, before: 5, notFound: [] });
    expect(postfix.held()).toEqual([byHand, rest[0] ?? ""].toSorted());
    expect(listHolds(bench.state, run.instance)).toEqual([]);
  });

  test("of a stopped Postfix leaves all to its start, and has no rate", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(4);
    const { postfix, kept, letters } = bench;
    const week = 7 * 86_400_000;
    const run = await bench.place([
      ...kept.slice(0, 3).map((one) => ({ kept: one })),
      ...kept.slice(3).map((one) => ({ kept: one, over: { queue: "maildrop", waits: true, mode: 0o700 } as const })),
    ]);
    bench.accept();
    await postfix.stop();
    const paced = await errorOf(() => bench.release(run, { pace: { batch: 10, intervalMs: 10 } }));
    expect(paced).toMatchObject({ kind: "refused" });
    expect(postfix.held()).toHaveLength(3);
    const then = { ...systemClock, now: () => Date.now() + week };
    expect(await bench.release(run, { clock: then })).toMatchObject({ released: 4, notWoken: 4, running: false });
    expect(bench.events.find(({ type }) => type === "forecast")).toMatchObject({ expired: 3, expiredNotices: 0 });
    expect(postfix.counts()).toMatchObject({ hold: 0, deferred: 3, maildrop: 1 });
    await postfix.start();
    await postfix.flush();
    await postfix.emptied();
    expect(bench.sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("at a rate goes by turns, pauses when most comes back, says why, and goes on", {
    timeout: 120_000,
  }, async () => {
    await using bench = await Bench.make(30);
    const { postfix, kept, letters } = bench;
    const run = await bench.place(kept.map((one) => ({ kept: one })));
    for (const domain of domains.slice(1)) bench.sink.set(domain, {});
    const releasing = bench.release(run, {
      ...{ pace: { batch: 6, intervalMs: 700 }, patience },
      report: (event) => {
        bench.events.push(event);
        if (event.type === "paused") bench.accept();
      },
    });
    // One in three comes back: no reason to pause. Then all do.
    await until(() => bench.sink.deliveries.length >= 3, { what: "first deliveries" });
    bench.refuse();
    const report = await releasing;
    expect(report).toMatchObject({ released: 30, remaining: 0, gaveUp: false });
    expect(report.paused).toBeGreaterThan(0);
    expect(report.cameBack).toBeGreaterThan(5);
    expect(report.reason).toContain("450 4.2.0 try later");
    const batches = bench.events.filter(({ type }) => type === "batch");
    expect(batches[0]).toMatchObject({ batch: 1, released: 6, remaining: 24 });
    expect(bench.events.map(({ type }) => type)).toEqual(expect.arrayContaining(["paused", "probe", "resumed"]));
    expect(bench.sink.deliveries.slice(0, 3).map(({ recipient }) => recipient.slice(-6))).toContain("c.test");
    await postfix.emptiedByFlush();
    expect(bench.sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("at a rate gives up when mail keeps coming back, and is continued", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(16);
    const { postfix, kept, letters } = bench;
    const run = await bench.place(kept.map((one) => ({ kept: one })));
    const report = await bench.release(run, { pace: { batch: 4, intervalMs: 1500 }, patience });
    expect(report).toMatchObject({ gaveUp: true, paused: 2 });
    expect(report.reason).toContain("450 4.2.0 try later");
    expect(report.released + report.remaining).toBe(16);
    expect(postfix.held()).toHaveLength(report.remaining);
    expect(report.remaining).toBeGreaterThan(5);
    bench.accept();
    expect(await bench.release(run)).toMatchObject({ released: report.remaining, before: report.released });
    await postfix.emptiedByFlush();
    expect(bench.sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("at a rate ends where Postfix is stopped under it", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(9);
    const { postfix, kept, letters } = bench;
    const run = await bench.place(kept.map((one) => ({ kept: one })));
    bench.accept();
    const ending = errorOf(() => bench.release(run, { pace: { batch: 3, intervalMs: 2000 }, patience }));
    await until(() => bench.sink.deliveries.length === 3, { what: "the first batch" });
    await postfix.stop();
    expect(await ending).toMatchObject({ kind: "incomplete", exitCode: 3 });
    expect(postfix.held()).toHaveLength(6);
    await postfix.start();
    // An administrator gets ahead of it with one message, and has changed another.
    const releasing = bench.release(run, { pace: { batch: 3, intervalMs: 2000 }, patience });
    await until(() => bench.sink.deliveries.length === 6, { what: "the second batch" });
    const [first = "", second = ""] = postfix.held();
    await postfix.release([first]);
    chmodSync(postfix.find(second) ?? "", 0o700);
    const report = await releasing;
    expect(report).toMatchObject({ released: 4, before: 3, remaining: 1, notFound: [{ queueId: first }] });
    expect(report.problems).toMatchObject([{ queueId: second, reason: expect.stringContaining("by somebody else") }]);
    expect(await bench.release(run)).toMatchObject({ released: 1, remaining: 0 });
    await postfix.wake(first);
    await postfix.emptied();
    expect(bench.sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("at a rate pauses for mail that is returned to its senders", { timeout: 120_000 }, async () => {
    await using bench = await Bench.make(12);
    const run = await bench.place(bench.kept.map((one) => ({ kept: one })));
    for (const domain of domains) bench.sink.set(domain, { rcpt: "550 5.7.1 not from you" });
    const report = await bench.release(run, { pace: { batch: 4, intervalMs: 1500 }, patience });
    expect(report).toMatchObject({ gaveUp: true, paused: 2, cameBack: 0, returned: report.released });
    expect(report.reason).toContain("550 5.7.1 not from you");
    expect(report.remaining).toBeGreaterThan(0);
    expect(bench.postfix.held()).toHaveLength(report.remaining);
  });

  test("says on the command line what it needs, stops at Ctrl-C and is continued", { timeout: 120_000 }, async () => {
    await using site = await Site.make();
    await using bench = await Bench.make(24, site.stateDirectory);
    const config = site.configure([bench.postfix]);
    const { kept, letters, postfix } = bench;
    const some = kept.slice(0, 22).map((one) => ({ kept: one }));
    const doubtful = kept.slice(22).map((one) => ({ kept: one, over: { inDoubt: "it was in delivery" } }));
    const run = await bench.place([...some, ...doubtful]);
    const begun = await heldRun(postfix, site.stateDirectory, [], { unfinished: true, nowMs: 0 });
    const name = run.record.run;
    bench.accept();

    const [unknown, unfinished, unasked] = await Promise.all([
      spoolsafe(config, "release", "2019"),
      spoolsafe(config, "release", begun.record.run),
      spoolsafe(config, "release", name, "--in-doubt"),
    ]);
    expect(unknown).toMatchObject({
      code: 2,
      last: { kind: "usage", hints: [expect.stringContaining(`${name}: 24 `)] },
    });
    expect(unfinished).toMatchObject({ code: 1, last: { kind: "refused" } });
    expect(String(unfinished.last.hints)).toContain(
      `restore 5a5a5a5a5a5a --instance mx --into ${postfix.configDirectory}`,
    );
    expect(unasked).toMatchObject({ code: 2, last: { kind: "usage" } });
    expect(unasked.last.message).toContain("2 messages to 2 recipients");
    expect(postfix.held()).toHaveLength(24);

    const child = start(config, "release", name.slice(0, 15), "--rate", "60/min");
    const ending = answerOf(child);
    await until(() => postfix.held().length < 24, { everyMs: 2, what: "the first batch" });
    // As a terminal does it: postsuper and postqueue get it as well.
    process.kill(-(child.pid ?? 0), "SIGINT");
    const stopped = await ending;
    expect(stopped).toMatchObject({ code: 130, last: { kind: "interrupted", exit: 130 } });
    expect(String(stopped.last.hints)).toContain("12 messages");
    expect(stopped.lines.find(({ type }) => type === "batch")).toMatchObject({ released: 10, remaining: 12 });
    expect(postfix.held()).toHaveLength(14);
    await until(() => bench.sink.deliveries.length === 10, { what: "delivery of what was let go" });

    const rest = await spoolsafe(config, "release", name);
    expect(rest).toMatchObject({ code: 0, last: { type: "summary", run: name, released: 12, before: 10, inDoubt: 2 } });
    expect(rest.stderr).toContain("all are tried at once");
    expect(await spoolsafe(config, "release", name, "--in-doubt", "--yes")).toMatchObject({
      code: 0,
      last: { released: 2, inDoubt: 0, remaining: 0, notFound: 0 },
    });
    await postfix.emptied();
    expect(bench.sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("leaves on hold what another host has taken over", { timeout: 120_000 }, async () => {
    await using site = await Site.make();
    await using bench = await Bench.make(6, site.stateDirectory);
    const { kept, letters, postfix, sink } = bench;
    const config = site.configure([postfix]);
    const trusted = join(site.directory, "trusted.pub");
    const [own, other] = [newSigningKey(site.directory, "own"), newSigningKey(site.directory, "other")];
    renameSync(join(site.directory, "own.key"), join(site.directory, "signing.key"));
    appendFileSync(trusted, own.publicPem + other.publicPem);
    const messages = kept.map(identityOf);
    const wanted = { by: "mx1.source.test", into: "mx" };
    const ourClaim = claimRequest(site.repository, own, trusted, "mx1.source.test", messages, { wanted });
    const ours = await takeClaim(ourClaim);
    const run = await bench.place(
      kept.map((one) => ({ kept: one })),
      { claim: ours.id },
    );
    const name = run.record.run;
    bench.accept();
    const theirClaim = claimRequest(site.repository, other, trusted, "mx3.other.test", messages.slice(0, 2));
    const theirs = await takeClaim({ ...theirClaim, overrule: [ours.id] });

    const claimed = await spoolsafe(config, "release", name);
    expect(claimed).toMatchObject({ code: 3, last: { released: 4, claimed: 2, remaining: 2 } });
    const lines = claimed.lines.filter(({ type }) => type === "not-released");
    expect(lines).toMatchObject([{ cause: "claimed", queueId: run.ids[0], claim: theirs.id }, { queueId: run.ids[1] }]);
    expect(claimed.stderr).toContain("mx3.other.test has taken it over");
    expect(postfix.held()).toEqual(run.ids.slice(0, 2).toSorted());

    const moved = join(site.directory, "moved");
    renameSync(join(site.directory, "repository"), moved);
    const unknown = await spoolsafe(config, "release", name);
    expect(unknown.code).toBe(10);
    expect(String(unknown.last.hints)).toContain("--without-claims");
    renameSync(moved, join(site.directory, "repository"));
    expect(postfix.held()).toHaveLength(2);

    await withdrawClaim(theirClaim, theirs.id, "undone");
    await withdrawClaim(ourClaim, ours.id, "undone");
    const withdrawn = await spoolsafe(config, "release", name);
    expect(withdrawn).toMatchObject({ code: 1, last: { kind: "refused" } });
    expect(withdrawn.last.message).toContain("mx1.source.test delivers its mail itself");
    expect(await spoolsafe(config, "release", name, "--without-claims")).toMatchObject({
      code: 0,
      last: { released: 2 },
    });
    await postfix.emptied();
    expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
  });

  test("waits for no other run of ours", { timeout: 60_000 }, async () => {
    await using bench = await Bench.make(1);
    const run = await bench.place(bench.kept.map((one) => ({ kept: one })));
    const lock = await tryLock(run.instance.queueDirectory);
    expect(await errorOf(() => bench.release(run))).toMatchObject({ kind: "locked", exitCode: 11 });
    await lock?.release();
    expect(readRuns(bench.state)[0]?.releasing.size).toBe(0);
  });
});

const patience: Patience = {
  ...{ firstMs: 300, longestMs: 1000, giveUpMs: 1000, probe: 3, probeMs: 3000, lookMs: 100 },
};

/** A running Postfix, its sink that refuses for now, queue files to place, and where runs are recorded. */
class Bench implements AsyncDisposable {
  readonly postfix: BenchPostfix;
  readonly sink: Sink;
  readonly kept: readonly Kept[];
  readonly letters: readonly Letter[];
  readonly state: string;
  readonly events: ReleaseEvent[] = [];

  private constructor(postfix: PrivatePostfix, sink: Sink, kept: readonly Kept[], state: string) {
    this.postfix = Object.assign(postfix, {
      held: () =>
        postfix
          .files("hold")
          .map((path) => basename(path))
          .sort(),
      emptiedBut: (count: number) =>
        until(() => Object.values(postfix.counts()).reduce((sum, one) => sum + one, 0) === count, {
          what: () => JSON.stringify(postfix.counts()),
        }),
      emptiedByFlush: () =>
        until(
          async () => {
            if (Object.values(postfix.counts()).every((count) => count === 0)) return true;
            await postfix.flush();
            return false;
          },
          { everyMs: 700, timeoutMs: 90_000, what: () => JSON.stringify(postfix.counts()) },
        ),
    });
    this.sink = sink;
    this.kept = kept;
    this.letters = kept.map(({ letter }) => letter);
    this.state = state;
  }

  static async make(messages: number, state = makeScratch()): Promise<Bench> {
    const sink = await Sink.start({ domains: Object.fromEntries(domains.map((domain) => [domain, later])) });
    const postfix = await PrivatePostfix.start({ sink });
    const letters = Array.from({ length: messages }, (_, at) =>
      // Notices go to the sender, and are thrown away.
      plainLetter({ sender: "s@discard.test", recipients: [`r${at}@${domains[at % domains.length]}`] }),
    );
    return new Bench(postfix, sink, await queueFilesOf(postfix, letters), state);
  }

  place(placed: Parameters<typeof heldRun>[2], options: Parameters<typeof heldRun>[3] = {}): Promise<HeldRun> {
    return heldRun(this.postfix, this.state, placed, options);
  }

  release({ record: { run }, instance }: HeldRun, over: Partial<ReleaseJob> = {}) {
    const common = { run, instance, stateDirectory: this.state, inDoubt: false, claims: [], clock: systemClock };
    return releaseRun({ ...common, report: (event) => this.events.push(event), ...over });
  }

  accept(): void {
    for (const domain of domains) this.sink.set(domain, {});
  }

  refuse(): void {
    for (const domain of domains) this.sink.set(domain, later);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
  }
}

type BenchPostfix = PrivatePostfix & {
  /** Ids on hold, sorted. */
  held(): string[];
  emptiedBut(count: number): Promise<unknown>;
  emptiedByFlush(): Promise<unknown>;
};

function identityOf({ bytes, queueId }: Kept) {
  const { created, content } = readQueueFile(bufferSource(bytes));
  return { instance: "mx", queueId, created, content };
}

interface Answer {
  readonly code: number | null;
  readonly lines: readonly Readonly<Record<string, unknown>>[];
  readonly last: Readonly<Record<string, unknown>>;
  readonly stderr: string;
}

function start(config: string, ...args: string[]): ChildProcess {
  return spawn(process.execPath, ["src/main.ts", ...args, "--config", config, "--json"], {
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
}

function spoolsafe(config: string, ...args: string[]): Promise<Answer> {
  return answerOf(start(config, ...args));
}

async function answerOf(child: ChildProcess): Promise<Answer> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.on("data", (chunk) => (stdout += chunk));
  child.stderr?.on("data", (chunk) => (stderr += chunk));
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  const lines = stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  if (lines.length === 0) throw new Error(`no answer: ${stderr}`);
  return { code, lines, last: lines.at(-1) ?? {}, stderr };
}
