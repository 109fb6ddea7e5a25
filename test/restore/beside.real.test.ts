import { chmodSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadInstance } from "../../src/postfix/instance.ts";
import type { Land } from "../../src/restore/plan.ts";
import { releaseRun } from "../../src/restore/release.ts";
import type { RestoreReport } from "../../src/restore/report.ts";
import { type RestoreJob, restoreInto } from "../../src/restore/restore.ts";
import { type Condition, everything } from "../../src/restore/selection.ts";
import { systemClock } from "../../src/system/clock.ts";
import { differences, fingerprints } from "../support/compare.ts";
import { fillMixed, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried, undelivered } from "../support/undelivered.ts";
import { restore, restoreJob } from "./into.ts";

type Taken = Awaited<ReturnType<Site["backup"]>>;

const later = { rcpt: "450 4.2.0 try later" };

describe
  .skipIf(!needs("root", "postfix", "flock"))
  .concurrent("a snapshot merged back into its own running host", () => {
    test.each([
      { ids: "short", land: "original" },
      { ids: "long", land: "hold" },
    ] as const)("with $ids ids, land $land: all of it is still queued", { timeout: 120_000 }, async ({ ids, land }) => {
      await using sink = await mixedSink({ slowMs: 60_000 });
      await using site = await Site.make();
      await using host = await PrivatePostfix.start({ sink, longIds: ids === "long" });
      await fillMixed(host, { messages: 40 });
      const taken = await site.backup(host);
      const { messages } = await site.manifest(taken);
      const before = fingerprints(host.queueDirectory);
      await using made = await restoreJob(site, taken, host, land);
      const report = await restoreInto({ ...made, choice: { ...made.choice, route: "merge" } });
      expect(report).toMatchObject({
        ...{ restored: 0, skipped: 0, stillQueued: messages.length, notSelected: 0 },
        ...{ notPlaced: [], unproven: [], awaitingRelease: 0 },
      });
      expect(differences(before, fingerprints(host.queueDirectory))).toEqual([]);
    });
  });

/*
 * Six letters with three recipients each. Snapshot `one` has all of them waiting. Then those at y.test get theirs, two more
 * letters come, and snapshot `two` is taken. Another host was given the mail of `one`, and `elsewhere` is a snapshot of it.
 */
describe.skipIf(!needs("root", "postfix", "flock"))("mail merged into a host that had it before", () => {
  let site: Site;
  let source: PrivatePostfix;
  let sourceSink: Sink;
  let letters: Submitted[];
  let more: Submitted[];
  let one: Taken;
  let two: Taken;
  let elsewhere: Taken;

  beforeAll(async () => {
    site = await Site.make();
    sourceSink = await Sink.start({ domains: { "x.test": later, "y.test": later, "z.test": later } });
    source = await PrivatePostfix.start({ sink: sourceSink });
    const to = (at: number) => ["x", "y", "z"].map((domain) => `r${at}@${domain}.test`);
    letters = await source.submit(Array.from({ length: 6 }, (_, at) => plainLetter({ recipients: to(at) })));
    await until(() => source.files("deferred").length === 6, { what: "deferred mail" });
    await source.stop();
    one = await site.backup(source);

    await using other = await PrivatePostfix.create();
    await restore(site, one, other);
    const stateDirectory = join(site.directory, "other-state");
    elsewhere = await site.backup(other, { host: "mx2.source.test", stateDirectory });

    sourceSink.set("y.test", {});
    await source.start();
    // Once only: qmgr sets aside for a minute what a second flush meets in an agent's hands.
    await source.flush();
    await until(() => sourceSink.deliveries.length === 6 && source.files("deferred").length === 6, {
      what: () => `deliveries to y.test, ${JSON.stringify(source.counts())}`,
    });
    more = await source.submit([0, 1].map((at) => plainLetter({ recipients: [`more${at}@x.test`] })));
    await until(() => source.files("deferred").length === 8, { what: "deferred mail" });
    await source.stop();
    two = await site.backup(source);
  });
  afterAll(async () => {
    source?.destroy();
    await site?.[Symbol.asyncDispose]();
    await sourceSink?.[Symbol.asyncDispose]();
  });

  /** `<message-id> recipient` of letters' recipients at some domains. */
  const pairs = (of: readonly Submitted[], ...domains: string[]) =>
    of
      .flatMap(({ messageId, recipients }) =>
        recipients.filter((address) => domains.includes(address.slice(-6))).map((address) => `${messageId} ${address}`),
      )
      .sort();

  test.concurrent("from a newer snapshot: an older one gives nobody anything", { timeout: 120_000 }, async () => {
    await using target = await Target.make(site);
    expect(await target.merge(two, "original")).toMatchObject({ restored: 8, skipped: 0, stillQueued: 0 });
    expect(await target.delivered()).toEqual(pairs([...letters, ...more], "x.test", "z.test"));
    expect(await target.merge(one, "original")).toMatchObject({ restored: 0, skipped: 6, stillQueued: 0 });
    expect(await target.merge(two, "original")).toMatchObject({ restored: 0, skipped: 8, stillQueued: 0 });
    expect(await target.delivered()).toEqual(pairs([...letters, ...more], "x.test", "z.test"));
  });

  test.concurrent("on hold: takes over the marks of a newer snapshot", { timeout: 120_000 }, async () => {
    await using target = await Target.make(site);
    const first = await target.merge(one, "hold");
    expect(first).toMatchObject({ restored: 6, awaitingRelease: 6 });
    expect(undelivered(target.postfix)).toHaveLength(18);
    const second = await target.merge(two, "hold");
    expect(second).toMatchObject({ restored: 2, stillQueued: 6, skipped: 0 });
    expect(second.warnings.join()).toContain("6 messages on hold since an earlier restore were marked");
    expect(undelivered(target.postfix)).toHaveLength(12 + 2);
    expect(await target.merge(one, "hold")).toMatchObject({ restored: 0, stillQueued: 6, warnings: [] });
    expect(await target.release(first)).toMatchObject({ released: 6, problems: [] });
    expect(await target.release(second)).toMatchObject({ released: 2, problems: [] });
    expect(await target.delivered()).toEqual(pairs([...letters, ...more], "x.test", "z.test"));
  });

  test.concurrent("on hold: takes over the marks that a log proves", { timeout: 120_000 }, async () => {
    await using target = await Target.make(site);
    const first = await target.merge(one, "hold");
    const again = await target.merge(one, "hold", { deliveredLog: [source.logFile] });
    expect(again).toMatchObject({ restored: 0, stillQueued: 6, skipped: 0 });
    expect(again.warnings.join()).toContain("6 messages on hold since an earlier restore were marked");
    expect(undelivered(target.postfix)).toHaveLength(12);
    expect(await target.release(first)).toMatchObject({ released: 6, problems: [] });
    expect(await target.delivered()).toEqual(pairs(letters, "x.test", "z.test"));
  });

  test.concurrent("from another host: gets it once, whether it is delivered or on hold", {
    timeout: 120_000,
  }, async () => {
    await using target = await Target.make(site);
    const first = await target.merge(elsewhere, "hold");
    expect(first).toMatchObject({ restored: 6 });
    expect(await target.merge(one, "hold")).toMatchObject({ restored: 0, stillQueued: 6, skipped: 0 });
    expect(await target.release(first)).toMatchObject({ released: 6 });
    const all = pairs(letters, "x.test", "y.test", "z.test");
    expect(await target.delivered()).toEqual(all);
    expect(await target.merge(one, "original")).toMatchObject({ restored: 0, stillQueued: 0, skipped: 6 });
    expect(await target.merge(elsewhere, "original")).toMatchObject({ restored: 0, stillQueued: 0, skipped: 6 });
    expect(await target.delivered()).toEqual(all);
  });

  test.concurrent.each(["original", "hold"] as const)(
    "by recipient, land %s: each gets theirs once, others nothing",
    {
      timeout: 120_000,
    },
    async (land) => {
      await using target = await Target.make(site);
      const only = (value: string): { conditions: Condition[] } => ({ conditions: [{ key: "recipient", value }] });
      const a = await target.merge(one, land, only("*@x.test"));
      expect(a).toMatchObject({ restored: 6, skipped: 0, notSelected: 0 });
      if (land === "original") expect(await target.delivered()).toEqual(pairs(letters, "x.test"));
      else expect(undelivered(target.postfix)).toHaveLength(6);
      const b = await target.merge(one, land, only("*@Y.TEST"));
      expect(b).toMatchObject({ restored: 6, skipped: 0, notSelected: 0 });
      if (land === "original") expect(await target.delivered()).toEqual(pairs(letters, "x.test", "y.test"));
      for (const value of ["*@x.test", "*@y.test"]) {
        expect(await target.merge(one, land, only(value))).toMatchObject({ restored: 0 });
      }
      if (land === "hold") {
        expect(undelivered(target.postfix)).toHaveLength(12);
        for (const run of [b, a]) expect(await target.release(run)).toMatchObject({ released: 6, problems: [] });
      }
      expect(await target.delivered()).toEqual(pairs(letters, "x.test", "y.test"));
    },
  );

  test.concurrent("and can't be proven there: stays on hold, in doubt, until an operator has looked", {
    timeout: 120_000,
  }, async () => {
    await using target = await Target.make(site);
    const spoil = () => chmodSync(target.postfix.files("hold")[0] ?? "", 0o740);
    const report = await target.merge(one, "original", {
      report: (event) => (event.type === "step" && event.step === "check" ? spoil() : undefined),
      unproven: [{ queueId: expect.any(String), problem: "its mode is 740, not 700" }],
    });
    expect(await target.delivered()).toHaveLength(15);
    expect(target.postfix.files("hold")).toHaveLength(1);
    expect(await target.release(report)).toMatchObject({ released: 0, inDoubt: 1 });
    expect(await target.merge(one, "original")).toMatchObject({ restored: 0, stillQueued: 1, skipped: 5 });
    expect(await target.release(report, true)).toMatchObject({ released: 1, inDoubt: 0, problems: [] });
    expect(await target.delivered()).toEqual(pairs(letters, "x.test", "y.test", "z.test"));
  });
});

/** A running Postfix that mail is merged into, with a sink that takes all of it. */
class Target implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly #sink: Sink;
  readonly #site: Site;

  private constructor(postfix: PrivatePostfix, sink: Sink, site: Site) {
    this.postfix = postfix;
    this.#sink = sink;
    this.#site = site;
  }

  static async make(site: Site): Promise<Target> {
    const sink = await Sink.start({ domains: { "x.test": {}, "y.test": {}, "z.test": {} } });
    return new Target(await PrivatePostfix.start({ sink }), sink, site);
  }

  async merge(
    taken: Taken,
    land: Land,
    more: {
      readonly conditions?: Condition[];
      readonly deliveredLog?: string[];
      readonly report?: RestoreJob["report"];
      readonly unproven?: unknown[];
    } = {},
  ): Promise<RestoreReport> {
    const { conditions = [], deliveredLog, unproven = [] } = more;
    await using made = await restoreJob(this.#site, taken, this.postfix, land);
    const choice = { ...made.choice, route: "merge" as const, selection: { ...everything, conditions } };
    const job = { ...made, choice, deliveredLog, stateDirectory: this.#state, report: more.report };
    const report = await restoreInto(job);
    expect(report).toMatchObject({ notPlaced: [], unproven });
    return report;
  }

  async release({ run }: RestoreReport, inDoubt = false) {
    const instance = await loadInstance(this.postfix.configDirectory);
    const job = { instance, stateDirectory: this.#state, claims: [], clock: systemClock };
    return await releaseRun({ ...job, run, inDoubt });
  }

  /** `<message-id> recipient` of every delivery, as often as it came, once nothing waits that is not on hold. */
  async delivered(): Promise<string[]> {
    await allTried(this.postfix);
    return this.#sink.deliveries.map(({ messageId, recipient }) => `${messageId} ${recipient}`).sort();
  }

  get #state(): string {
    return join(this.postfix.directory, "state");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.#sink.close();
  }
}
