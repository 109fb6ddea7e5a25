import { describe, expect, test } from "vitest";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

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

  test.each(["hold", "freeze", "live"] as const)(
    "in mode %s neither loses nor doubles mail that flows meanwhile",
    { timeout: 180_000 },
    async (mode) => {
      await using site = await Site.make();
      await using sink = await Sink.start({
        domains: { "slow.test": { delayMs: 400 }, "defer.test": { rcpt: "450 4.2.0 try later" } },
      });
      await using postfix = await PrivatePostfix.start({ sink, retrySeconds: 2 });
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
      await until(async () => {
        await postfix.hold(heldIds);
        return postfix.counts().hold === 5;
      });
      const flowing = postfix.submit(
        Array.from({ length: 500 }, (_, n) =>
          plainLetter({ sender: "a@source.test", recipients: [`f${n}@slow.test`] }),
        ),
        4,
      );
      const reports = [];
      for (let round = 0; round < 3; round++) reports.push(await site.backup(postfix, { mode, holdLimitMs: 500 }));
      const letters = [...(await flowing), ...retried];
      sink.set("defer.test", {});
      await postfix.flush();
      await until(() => postfix.counts().deferred + postfix.counts().active + postfix.counts().incoming === 0, {
        timeoutMs: 120_000,
        what: () => JSON.stringify(postfix.counts()),
      });
      expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
      expect(postfix.files("hold")).toHaveLength(5);
      expect(postfix.log()).not.toMatch(/panic|fatal/);
      for (const report of reports) {
        expect(report.problems).toEqual([]);
        expect(report.snapshot.mode).toBe(mode);
        const ids = (await site.manifest(report)).messages.map((message) => message.queueId);
        expect(new Set(ids).size).toBe(ids.length);
      }
      console.log(
        mode,
        reports.map((report) => JSON.stringify([report.snapshot.messages, report.snapshot.hold])),
      );
    },
  );
});
