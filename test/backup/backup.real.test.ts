import { lstatSync, utimesSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";

describe.skipIf(!needs("root", "postfix"))("a backup", () => {
  test("of a stopped, empty instance holds its configuration", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    const report = await site.backup(postfix);
    expect(report.problems).toEqual([]);
    expect(report.snapshot.mode).toBe("stopped");
    expect(report.snapshot.messages).toMatchObject({ total: 0, inFlight: 0 });
    const manifest = await site.manifest(report);
    expect(manifest.messages).toEqual([]);
    expect(manifest.files.map((file) => file.path)).toContain(`${postfix.configDirectory}/main.cf`);
  });

  // Most of the time these wait for the sink; side by side they take as long as one.
  test.concurrent.each(["hold", "freeze", "live"] as const)(
    "in mode %s neither loses nor doubles mail that flows meanwhile",
    { timeout: 180_000 },
    async (mode) => {
      await using site = await Site.make();
      await using sink = await Sink.start({
        domains: {
          "slow.test": { delayMs: 400 },
          "crawl.test": { delayMs: 400 },
          "defer.test": { rcpt: "450 4.2.0 try later" },
        },
      });
      await using postfix = await PrivatePostfix.start({
        sink,
        retrySeconds: 2,
        // One a second: the others wait in qmgr's memory, whatever becomes of their files meanwhile.
        transports: { "crawl.test": `crawl:[127.0.0.1]:${sink.port("crawl.test")}` },
        master: ["crawl unix - - n - - smtp"],
        main: { crawl_destination_rate_delay: "1s" },
      });
      const crawling = await postfix.submit(
        Array.from({ length: 10 }, (_, n) =>
          plainLetter({ sender: "a@source.test", recipients: [`c${n}@crawl.test`] }),
        ),
      );
      const retried = await postfix.submit(
        Array.from({ length: 100 }, (_, n) =>
          plainLetter({ sender: "a@source.test", recipients: [`r${n}@defer.test`] }),
        ),
      );
      await until(() => postfix.counts().deferred === 100, { what: "100 deferred messages" });
      const held = await postfix.submit(
        Array.from({ length: 5 }, (_, n) => plainLetter({ sender: "a@source.test", recipients: [`h${n}@defer.test`] })),
      );
      const heldIds = held.map((one) => one.queueId);
      const later = await postfix.submit(
        Array.from({ length: 10 }, (_, n) =>
          plainLetter({ sender: "a@source.test", recipients: [`l${n}@defer.test`] }),
        ),
      );
      await holdAll(postfix, [...heldIds, ...later.map((one) => one.queueId)]);
      const laterIds = later.map((one) => one.queueId);
      for (const id of laterIds) setRetryTime(postfix, id, Date.now() / 1000 + 86_400 + Math.random());
      await postfix.release(laterIds);
      const untouched = heldIds.map((id) => statusOf(postfix, id));
      const retryTimes = laterIds.map((id) => retryTimeOf(postfix, id));
      const flowing = postfix.submit(
        Array.from({ length: 500 }, (_, n) =>
          plainLetter({ sender: "a@source.test", recipients: [`f${n}@slow.test`] }),
        ),
        4,
      );
      const reports = [];
      for (let round = 0; round < 3; round++) {
        reports.push(await site.backup(postfix, { mode, holdLimitMs: 500 }));
        expect(laterIds.map((id) => retryTimeOf(postfix, id))).toEqual(retryTimes);
        expect(heldIds.map((id) => statusOf(postfix, id))).toEqual(untouched);
      }
      const letters = [...(await flowing), ...crawling, ...retried, ...later];
      sink.set("defer.test", {});
      await allTried(postfix);
      expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
      expect(postfix.files("hold")).toHaveLength(5);
      expect(postfix.log()).not.toMatch(/panic|fatal/);
      for (const report of reports) {
        // On a machine with other things to do a batch may take longer than half a second; that is said, and no harm.
        expect(report.problems.filter((one) => !one.problem.includes("longer than the limit"))).toEqual([]);
        expect(report.snapshot.mode).toBe(mode);
        const { messages } = await site.manifest(report);
        expect(new Set(messages.map((message) => message.queueId)).size).toBe(messages.length);
        const admins = messages.filter((message) => message.role !== null);
        expect(admins.map((message) => message.queueId).sort()).toEqual([...heldIds].sort());
        if (mode !== "live") expect(report.snapshot.hold.held).toBeGreaterThanOrEqual(laterIds.length);
        expect(report.snapshot.hold.released).toBe(report.snapshot.hold.held);
      }
    },
  );
});

/** Messages that are just being retried slip away from a hold: again, until all are on hold. */
async function holdAll(postfix: PrivatePostfix, ids: readonly string[]): Promise<void> {
  await until(
    async () => {
      await postfix.hold(ids);
      return postfix.counts().hold === ids.length;
    },
    { what: () => `${ids.length} messages on hold, now ${JSON.stringify(postfix.counts())}` },
  );
}

function setRetryTime(postfix: PrivatePostfix, id: string, seconds: number): void {
  utimesSync(pathOf(postfix, id), seconds, seconds);
}

/** In microseconds. */
function retryTimeOf(postfix: PrivatePostfix, id: string): bigint {
  return lstatSync(pathOf(postfix, id), { bigint: true }).mtimeNs / 1000n;
}

/** All that changes when anybody does anything to a file, its name included. */
function statusOf(postfix: PrivatePostfix, id: string): unknown {
  const path = pathOf(postfix, id);
  const { ino, mode, size, mtimeNs, ctimeNs } = lstatSync(path, { bigint: true });
  return { path, ino, mode, size, mtimeNs, ctimeNs };
}

function pathOf(postfix: PrivatePostfix, id: string): string {
  const path = postfix.find(id);
  if (path === undefined) throw new Error(`${id} is in no queue`);
  return path;
}
