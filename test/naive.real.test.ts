import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { needs } from "./support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "./support/postfix.ts";
import { type Audit, Sink } from "./support/sink.ts";
import { allTried } from "./support/undelivered.ts";

/*
 * What everybody does who has no better tool: hold everything, copy, release. qmgr still has the messages in memory
 * that waited in active, reads them a second time, merges the two, finds nothing left to do and removes the files. If this
 * stops losing mail, then either Postfix has changed or our oracle is blind, and the tests of our own way prove nothing.
 */
describe.skipIf(!needs("root", "postfix"))("hold, copy, release of all mail", () => {
  test("loses mail, and the sink sees it", { timeout: 300_000 }, async () => {
    const { lost, doubled } = await holdAndRelease(async () => {});
    process.stderr.write(`naive hold and release: 20 sent, ${lost.length} lost, ${doubled.length} doubled\n`);
    const harmed = lost.length + doubled.length;
    expect(harmed).toBeGreaterThan(0);
  });

  test("loses none behind a reload that was waited for", async () => {
    const audit = await holdAndRelease(async (postfix) => {
      const before = postfix.daemonPids("qmgr");
      await postfix.reload();
      await until(() => postfix.daemonPids("qmgr").some((pid) => !before.includes(pid)), { what: "a new qmgr" });
    });
    expect(audit).toEqual({ lost: [], doubled: [] });
  });
});

/**
 * Twenty letters to a slow site that takes two at a time: some in delivery, the others waiting in active when all are held,
 * and released again. However long the machine takes to accept them, most are still waiting then.
 */
async function holdAndRelease(barrier: (postfix: PrivatePostfix) => Promise<void>): Promise<Audit> {
  await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 2000 } } });
  await using postfix = await PrivatePostfix.start({ sink, main: { smtp_destination_concurrency_limit: "2" } });
  const letters = Array.from({ length: 20 }, (_, at) => plainLetter({ recipients: [`u${at}@slow.test`] }));
  const sent = await postfix.submit(letters);
  await until(() => sink.waiting > 0 && postfix.counts().incoming === 0, { what: "mail in delivery" });
  expect(postfix.counts().active).toBeGreaterThan(5);
  const ids = sent.map((letter) => letter.queueId);
  await postfix.hold(ids);
  await delay(1000);
  await barrier(postfix);
  await postfix.release(ids);
  await allTried(postfix);
  return sink.audit(letters);
}
