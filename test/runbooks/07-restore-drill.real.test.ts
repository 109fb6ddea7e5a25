import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { createIdentity } from "../../src/crypto/keys.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

describeRunbook("07-restore-drill", (scenes) => {
  test("a month's drill proves the envelope's identity, and leaves production alone", {
    timeout: 300_000,
  }, async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { rcpt: "450 4.2.0 try later" } } });
    await using postfix = await PrivatePostfix.start({ sink });
    const letters = await postfix.submit(
      Array.from({ length: 6 }, (_, n) => plainLetter({ recipients: [`a${n}@slow.test`, `b${n}@elsewhere.test`] })),
    );
    await postfix.settled();
    await postfix.hold(letters.slice(0, 2).map(({ queueId }) => queueId));
    await site.backup(postfix);
    const start = await StartState.of(postfix, { letters, sink });
    const config = site.configure([postfix]);
    const work = makeScratch();
    const set = { WORK_DIRECTORY: work, IDENTITY: join(site.directory, "identity.txt") };

    const run = await scenes.run({ postfix, config, set });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 4, skipped: 0 });
    await start.expectKept(run);
    start.expectRestored();
    expect(sink.deliveries).toEqual([]);
    expect(readdirSync(work).filter((name) => name.startsWith("spoolsafe-drill-"))).toEqual([]);
    const reports = readdirSync(join(site.directory, "repository", "drills"), { recursive: true, withFileTypes: true });
    expect(reports.filter((entry) => entry.isFile())).toHaveLength(2);
    expect(readFileSync(join(run.found.directory, "work", "drill.html"), "utf8")).toContain("<html");

    // What was put into the envelope long ago opens nothing any more.
    const old = join(work, "old.txt");
    writeFileSync(old, `${(await createIdentity(false)).identity}\n`, { mode: 0o600 });
    const refused = await scenes.run({ postfix, config, set: { ...set, IDENTITY: old } });
    expect(refused.error).toMatchObject({ kind: "failed", message: expect.stringContaining("open") });
    expect(refused.report).toBeUndefined();
    destroyScratch(work);
  });
});
