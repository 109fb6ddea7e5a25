import { appendFileSync, chmodSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { FencingClaim } from "../../src/holds/fence-claims.ts";
import { RunJournal, type RunMessage, readRuns } from "../../src/restore/journal.ts";
import { chooseMail, fateOf } from "../../src/restore/release-choice.ts";
import { ReturnedMail } from "../../src/restore/release-log.ts";
import { batchesOf, domainsInTurn, oldestFirst, paceOf } from "../../src/restore/release-order.ts";
import { type Outcomes, type PaceEvent, type Patience, releasePaced } from "../../src/restore/release-pace.ts";
import { chooseRun, requireReleasable } from "../../src/restore/release-run.ts";
import { mostCommonReason } from "../../src/restore/release-watch.ts";
import { type RunFile, whereabouts } from "../../src/restore/whereabouts.ts";
import { claimDigester } from "../../src/snapshot/claim.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import type { Clock } from "../../src/system/clock.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { noon } from "./entries.ts";
import { entryOf, type MadeMessage, type MadeRun, makeRun, makeSpool } from "./made-run.ts";

describe("the order of a release", () => {
  test("gives each domain its turn, oldest first", () => {
    const mail = ["a3", "a1", "b4", "a2", "c6", "b5"].map((name) => ({
      name,
      domain: name.slice(0, 1),
      arrival: Number(name.slice(1)),
    }));
    expect(oldestFirst(mail).map(({ name }) => name)).toEqual(["a1", "a2", "a3", "b4", "b5", "c6"]);
    expect(domainsInTurn(mail).map(({ name }) => name)).toEqual(["a1", "b4", "c6", "a2", "b5", "a3"]);
  });

  test("loses and doubles nothing, keeps each domain's mail in the order of its age, and no domain waits a round", () => {
    const mail = fc.array(fc.record({ domain: fc.constantFrom("a", "b", "c", "d"), arrival: fc.nat(50) }));
    fc.assert(
      fc.property(mail, (some) => {
        const order = domainsInTurn(some);
        expect(new Set(order)).toEqual(new Set(some));
        expect(order).toHaveLength(some.length);
        for (const own of Map.groupBy(order, ({ domain }) => domain).values()) expect(own).toEqual(oldestFirst(own));
        for (const [at, { domain }] of order.entries()) {
          const again = order.findIndex((one, later) => later > at && one.domain === domain);
          const between = order.slice(at + 1, again < 0 ? at + 1 : again).map((one) => one.domain);
          expect(new Set(between).size).toBe(between.length);
        }
      }),
    );
  });

  test("makes batches that let as much go in a minute as was asked for", () => {
    for (const rate of [1, 10, 60, 500, 6000]) {
      const { batch, intervalMs } = paceOf(rate);
      expect((batch / intervalMs) * 60_000).toBeCloseTo(rate);
      expect(batch).toBeGreaterThanOrEqual(10);
      expect(batch).toBeLessThanOrEqual(100);
    }
    expect(batchesOf([1, 2, 3, 4, 5], 2)).toEqual([[1, 2], [3, 4], [5]]);
    expect(batchesOf([], 2)).toEqual([]);
  });
});

describe("what becomes of a message of a run", () => {
  const fate = (message: Partial<RunMessage>, at: RunFile["at"] = "hold", inDoubt = false) =>
    fateOf({ message: { ...held, ...message }, at }, new Set([7]), inDoubt);
  const held: RunMessage = {
    ...{ number: 1, key: "mx/A/1/ab", queue: "hold", mode: 0o700, uid: 1, gid: 1, mtime: 1, role: "restore" },
    ...{ inDoubt: null, recipients: [0], marks: [], served: [], logs: true, waits: false },
  };

  test("depends on why it is on hold", () => {
    expect(fate({})).toBe("release");
    expect(fate({ number: 7 })).toBe("over"); // whoever holds it now is an administrator
    expect(fate({ role: "admin" })).toBe("admin");
    expect(fate({ role: "admin" }, "hold", true)).toBe("admin");
    expect(fate({ role: "fence" }, "hold", true)).toBe("fence");
    expect(fate({ role: "admin" }, "deferred")).toBe("over");
    expect(fate({ inDoubt: "in flight" })).toBe("in-doubt");
    expect(fate({ inDoubt: "in flight" }, "hold", true)).toBe("release");
    expect(fate({ queue: "deferred", role: null })).toBe("over"); // it never waited: an administrator holds it
    expect(fate({ queue: "maildrop", waits: true, role: null }, "waiting")).toBe("release");
    expect(fate({ queue: "maildrop", waits: true, inDoubt: "finished" }, "waiting")).toBe("in-doubt");
    for (const at of ["gone", "deferred", "active"] as const) expect(fate({}, at)).toBe("not-found");
  });
});

describe("the choice of what goes", () => {
  let root = "";
  beforeEach(() => {
    root = makeScratch();
  });
  afterEach(() => destroyScratch(root));

  const bytes = (name: string) => queueFiles.get(name) ?? Buffer.of();
  const state = () => join(root, "state");

  /** @returns what is chosen of a run made by hand, after something was done to it */
  async function choose(
    made: readonly MadeMessage[],
    meanwhile: (run: MadeRun) => void = () => {},
    claims: readonly FencingClaim[] = [],
  ) {
    const instance = makeSpool(root);
    const run = makeRun(instance, state(), made);
    meanwhile(run);
    const record = readRuns(state()).find((one) => one.run === run.run);
    if (record === undefined) throw new Error("there is no run");
    const request = { instance, record, released: record.released, inDoubt: false, claims };
    return { run, choice: await chooseMail(request, whereabouts(instance, record)) };
  }

  test("takes what lies as it was placed, and tells the rest apart", async () => {
    const { choice } = await choose(
      [
        { bytes: bytes("four-recipients") },
        { bytes: bytes("plain"), role: "admin" },
        { bytes: bytes("plain") },
        { bytes: bytes("plain") },
        { bytes: bytes("plain") },
        { bytes: bytes("maildrop-args"), queue: "maildrop", waits: true },
        { bytes: bytes("maildrop-args"), queue: "maildrop", waits: true },
        { bytes: bytes("plain"), queue: "deferred", role: null },
      ],
      (run) => {
        writeFileSync(run.path(2), "no queue file any more");
        rmSync(run.path(3));
        renameSync(
          run.path(4),
          run
            .path(4)
            .replace("/hold/", "/incoming/")
            .replace(/\/.\/(?=[^/]*$)/, "/"),
        );
        chmodSync(run.temporary(6), 0o744);
      },
    );
    expect(choice.release.map(({ number, waits }) => [number, waits])).toEqual([
      [0, false],
      [5, true],
    ]);
    expect(choice.release[0]).toMatchObject({ domain: "dest.test", inDoubt: false });
    expect(choice.admin.map(({ staged }) => staged.number)).toEqual([1]);
    expect(choice.notFound.map(({ number, reason }) => [number, reason])).toEqual([
      [3, "it is in no queue any more, and was not let go by this"],
      [4, "it is in incoming, and was not let go by this"],
    ]);
    expect(choice.unfit.map(({ number }) => number).sort()).toEqual([2, 6]);
    expect(choice.unfit.map(({ reason }) => reason).join()).toContain("has been changed since it was written");
  });

  test("leaves what somebody has released and put on hold again, and other mail that has got its name", async () => {
    const { choice } = await choose(
      [0, 1, 2].map(() => ({ bytes: bytes("four-recipients") })),
      (run) => {
        utimesSync(run.path(0), noon, noon); // as after a delivery that was deferred
        writeFileSync(run.path(1), bytes("plain"));
        utimesSync(run.path(1), noon - 60, noon - 60);
      },
    );
    expect(choice.release.map(({ number }) => number)).toEqual([2]);
    expect(choice.notFound.map(({ number, reason }) => [number, reason])).toEqual([
      [0, "it was released and tried, and somebody has put it on hold again"],
      [1, "another message has its name"],
    ]);
  });

  test("leaves what a claim on mail of that host names, and heeds no other", async () => {
    const made = [0, 1, 2].map(() => ({ bytes: bytes("plain") }));
    const entries = made.map(entryOf);
    const claim = (id: string, host: string, messages: readonly MessageEntry[]): FencingClaim => {
      const taken = { salt: Buffer.alloc(32, id).toString("base64"), host, by: `${id}.test` };
      const digests = new Set(messages.map((message) => claimDigester(taken).of(message)));
      return { id, claim: taken as FencingClaim["claim"], digests };
    };
    const { choice } = await choose(made, undefined, [
      claim("other", "mx9.source.test", entries),
      claim("taker", "mx1.source.test", entries.slice(1, 2)),
    ]);
    expect(choice.release.map(({ number }) => number)).toEqual([0, 2]);
    expect(choice.claimed).toMatchObject([{ number: 1, claim: "taker", by: "taker.test" }]);
  });
});

describe("which run is meant", () => {
  let root = "";
  beforeEach(() => {
    root = makeScratch();
  });
  afterEach(() => destroyScratch(root));

  test("is told by its name or the beginning of it", () => {
    const instance = makeSpool(root);
    const plain = { bytes: queueFiles.get("plain") ?? Buffer.of() };
    const one = makeRun(instance, root, [plain, { ...plain, role: "admin" }]);
    expect(chooseRun(root, one.run)).toMatchObject({ run: one.run });
    expect(chooseRun(root, one.run.slice(0, 12))).toMatchObject({ run: one.run });
    const begun = makeRun(instance, root, [plain], { phase: "visible" });
    const none = makeRun(instance, root, [], { phase: "planned" });
    for (const spec of [one.run.slice(0, 15), "", "latest", "x"]) {
      expect(() => chooseRun(root, spec)).toThrow(
        expect.objectContaining({ kind: "usage", hints: [expect.stringContaining(`${one.run}: 1 messages of mx1`)] }),
      );
    }
    const releasable = (run: string, queueDirectory = instance.queueDirectory) =>
      requireReleasable(chooseRun(root, run), { queueDirectory });
    expect(releasable(one.run).run).toBe(one.run);
    const hint = expect.stringContaining("spoolsafe restore 5a5a5a5a5a5a --instance mx --into ");
    expect(() => releasable(begun.run)).toThrow(expect.objectContaining({ kind: "refused", hints: [hint] }));
    expect(() => releasable(none.run)).toThrow(/placed nothing/);
    expect(() => releasable(one.run, root)).toThrow(/is not the queue that run/);
    RunJournal.reopen(chooseRun(root, one.run)).undoing([0]);
    expect(() => releasable(one.run)).toThrow(/is being taken back/);
  });
});

describe("mail that is let go at a rate", () => {
  const pace = { batch: 10, intervalMs: 1000 };

  test("goes batch by batch, at the pace that was asked for", async () => {
    const site = new Site(35, () => "done");
    expect(await site.release(pace)).toEqual({ released: 35, pauses: 0, gaveUp: false, reason: null });
    expect(site.batches).toEqual([
      [0, 10],
      [1000, 10],
      [2000, 10],
      [3000, 5],
    ]);
    expect(site.now).toBe(3000); // nothing to wait for behind the last
  });

  test("goes on while no more than half of a batch comes back", async () => {
    const site = new Site(40, (number) => (number % 2 === 0 ? "came-back" : "done"));
    expect(await site.release(pace)).toMatchObject({ released: 40, pauses: 0 });
  });

  test("pauses when most of a batch comes back, tries a few, and goes on when they stay away", async () => {
    const site = new Site(60, (_, now) => (now < 10_000 ? "came-back" : "done"));
    expect(await site.release(pace)).toEqual({ released: 60, pauses: 2, gaveUp: false, reason: "450 later" });
    expect(site.events).toEqual([
      { type: "paused", cameBack: 10, returned: 0, of: 10, reason: "450 later", waitMs: 5000 },
      { type: "probe", messages: 4 },
      { type: "paused", cameBack: 4, returned: 0, of: 4, reason: "450 later", waitMs: 10_000 },
      { type: "probe", messages: 4 },
      { type: "resumed" },
    ]);
    expect(site.batches.map(([, size]) => size)).toEqual([10, 4, 4, 10, 10, 10, 10, 2]);
  });

  test("pauses for mail that is returned as for mail that comes back", async () => {
    const site = new Site(20, (number) => (["returned", "came-back", "done"] as const)[number % 3] ?? "done");
    expect(await site.release(pace)).toMatchObject({ pauses: 2, gaveUp: false });
    expect(site.events[0]).toMatchObject({ cameBack: 3, returned: 4, of: 10 });
  });

  test("gives up after a time, with what was not tried where it is", async () => {
    const site = new Site(100, () => "came-back");
    const end = await site.release(pace);
    expect(end).toEqual({ released: 22, pauses: 3, gaveUp: true, reason: "450 later" });
    expect(site.events.flatMap((event) => (event.type === "paused" ? [event.waitMs] : []))).toEqual([
      5000, 10_000, 20_000,
    ]);
  });

  test("sees a batch come back that a slow site refuses later", async () => {
    const site = new Site(60, (number, now, since) => {
      if (number >= 10) return "done";
      return now - since >= 2500 ? "came-back" : "open";
    });
    expect(await site.release(pace)).toMatchObject({ released: 60, pauses: 1 });
    expect(site.batches.map(([, size]) => size)).toEqual([10, 10, 10, 4, 10, 10, 6]);
  });

  test("waits at its end to see what becomes of the last batch, and not for ever", async () => {
    const slow = new Site(5, (_, now, since) => (now - since >= 700 ? "came-back" : "open"));
    expect(await slow.release(pace)).toEqual({ released: 5, pauses: 0, gaveUp: false, reason: "450 later" });
    const silent = new Site(5, () => "open");
    expect(await silent.release(pace)).toMatchObject({ released: 5, pauses: 0 });
    expect(silent.now).toBeLessThanOrEqual(1100);
  });

  test("stops between two batches when it is told to", async () => {
    const site = new Site(60, () => "done");
    const controller = new AbortController();
    const reason = new Error("told to");
    site.onRelease = () => site.batches.length === 2 && controller.abort(reason);
    await expect(site.release(pace, controller.signal)).rejects.toBe(reason);
    expect(site.batches).toHaveLength(2);
  });
});

describe("the reason why mail comes back", () => {
  test("is what most defer logs give, whatever addresses and numbers are in it", () => {
    const log = (...reasons: string[]) => reasons.map((reason) => `\n<a@b.test>: x\nreason=${reason}\n`).join("\n");
    expect(
      mostCommonReason([
        log("host a[10.0.0.1] said: 450 4.2.0 <a@b.test>: later"),
        log("connect to b[10.0.0.2]:25: Connection refused"),
        log("connect to b[10.0.0.3]:25: Connection refused", "connect to b[10.0.0.4]:25: Connection refused"),
        log("host a[10.0.0.1] said: 450 4.2.0 <c@b.test>: later"),
        log("host a[10.0.0.9] said: 451 4.2.0 <d@b.test>: later"),
        "",
      ]),
    ).toBe("host a[10.0.0.1] said: 450 4.2.0 <a@b.test>: later");
    expect(mostCommonReason([])).toBeNull();
  });
});

describe("mail that was returned to its sender", () => {
  let directory = "";
  let log = "";
  beforeEach(() => {
    directory = makeScratch();
    log = join(directory, "mail.log");
  });
  afterEach(() => destroyScratch(directory));

  const line = (id: string, text: string) => `Nov 24 20:00:00 mx postfix/smtp[7]: ${id}: ${text}\n`;
  const bounced = (id: string) => line(id, "to=<a@b.test>, relay=b[10.0.0.1]:25, status=bounced (550 (no) such user)");

  test("is told by what is appended to the log, also when it is rotated", () => {
    writeFileSync(log, bounced("7E48C16210A1"));
    const returned = new ReturnedMail(log);
    expect(returned.update().size).toBe(0);
    appendFileSync(
      log,
      bounced("7E48C16210B1") + line("7E48C16210B2", "to=<c@b.test>, status=sent (250 status=bounced (x))"),
    );
    appendFileSync(log, line("7E48C16210B3", "from=<a@b.test>, status=expired, returned to sender").slice(0, 60));
    expect([...returned.update()]).toEqual([["7E48C16210B1", "550 (no) such user"]]);
    appendFileSync(log, line("7E48C16210B3", "from=<a@b.test>, status=expired, returned to sender").slice(60));
    expect([...returned.update().keys()]).toEqual(["7E48C16210B1", "7E48C16210B3"]);
    renameSync(log, `${log}.1`);
    expect(returned.update().size).toBe(2);
    writeFileSync(log, bounced("7E48C16210B4"));
    expect([...returned.update().keys()]).toEqual(["7E48C16210B1", "7E48C16210B3", "7E48C16210B4"]);
  });
});

type Fate = "done" | "came-back" | "returned" | "open";

/** Mail, and a time of its own: what becomes of each message, by its number, now, and when it was let go. */
class Site {
  now = 0;
  readonly batches: [number, number][] = [];
  readonly events: PaceEvent[] = [];
  onRelease: () => void = () => {};
  readonly #mail: number[];
  readonly #fate: (number: number, now: number, since: number) => Fate;
  readonly #since = new Map<number, number>();
  readonly #ended = new Map<number, Fate>();

  constructor(messages: number, fate: (number: number, now: number, since: number) => Fate) {
    this.#mail = Array.from({ length: messages }, (_, number) => number);
    this.#fate = fate;
  }

  release(pace: { batch: number; intervalMs: number }, signal?: AbortSignal) {
    const clock: Clock = {
      now: () => this.now,
      monotonic: () => this.now,
      sleep: async (ms, stop) => {
        stop?.throwIfAborted();
        this.now += ms;
      },
    };
    return releasePaced({
      ...{ mail: this.#mail, pace, patience, clock, signal },
      outlet: { release: (batch) => this.#take(batch), look: (batch) => this.#look(batch), reason: () => "450 later" },
      report: (event) => this.events.push(event),
    });
  }

  #look(batch: readonly number[]): Outcomes {
    const fates = batch.map((number) => this.#end(number));
    const count = (fate: Fate) => fates.filter((one) => one === fate).length;
    const failed = { cameBack: count("came-back"), returned: count("returned") };
    return { done: count("done"), ...failed, open: count("open") };
  }

  async #take(batch: readonly number[]): Promise<void> {
    this.batches.push([this.now, batch.length]);
    for (const number of batch) this.#since.set(number, this.now);
    this.onRelease();
  }

  #end(number: number): Fate {
    const known = this.#ended.get(number);
    if (known !== undefined) return known;
    const fate = this.#fate(number, this.now, this.#since.get(number) ?? 0);
    if (fate !== "open") this.#ended.set(number, fate);
    return fate;
  }
}

const patience: Patience = {
  ...{ firstMs: 5000, longestMs: 60_000, giveUpMs: 40_000, probe: 4, probeMs: 3000, lookMs: 100 },
};
