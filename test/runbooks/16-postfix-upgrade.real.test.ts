import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";

describeRunbook("16-postfix-upgrade", (scenes) => {
  test("the queue outlives a new version, and all of it can be taken back", { timeout: 300_000 }, async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({
      domains: { "good.test": { rcpt: "450 4.2.0 try later" }, "probe.test": {} },
    });
    await using postfix = await PrivatePostfix.start({ sink });
    const letters = await postfix.submit(
      Array.from({ length: 6 }, (_, n) => plainLetter({ recipients: [`a${n}@good.test`] })),
    );
    await postfix.settled();
    await postfix.hold(letters.slice(0, 2).map(({ queueId }) => queueId));
    const start = await StartState.of(postfix, { letters, sink });
    const run = await scenes.run({
      ...{ postfix, config: site.configure([postfix]) },
      set: { SMTP: `127.0.0.1/${postfix.port}`, PROBE: "me@probe.test" },
      answers: { upgrade: "3.7.12 from the mirror" },
      holdsBefore: { drain: "it waits, and nothing is under way" },
      beforeAction: async (step) => {
        // All that the runbook can tell a new version by.
        if (step === "upgrade") await postfix.setParameter("mail_version", "3.7.12");
      },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 11, skipped: 0 });
    await start.expectKept(run);
    expect(sink.deliveries.map(({ recipient }) => recipient)).toEqual(["me@probe.test"]);
    // What Postfix itself found to be missing.
    expect(readFileSync(join(postfix.configDirectory, "master.cf"), "utf8")).toContain("postscreen");

    await scenes.undo(run);
    start.expectRestored();
    expect(postfix.running()).toBe(true);
    sink.set("good.test", {});
    await allTried(postfix);
    await start.expectKept(run);
    expect(sink.deliveries).toHaveLength(5);
  });
});
