import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { needs } from "./support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "./support/postfix.ts";
import { type Audit, Sink } from "./support/sink.ts";

/*
 * What everybody does who has no better tool: hold everything, copy, release. qmgr still has the messages in memory
 * that waited in active, reads them a second time, merges the two, finds nothing left to do and removes the files. If this
 * stops losing mail, then either Postfix has changed or our oracle is blind, and the tests of our own way prove nothing.
 */
describe.skipIf(!needs("root", "postfix"))("hold, copy, release of all mail", () => {
  test("loses mail, and the sink sees it", { timeout: 300_000 }, async () => {
    let harmed = 0;
    // On a machine that does nothing else it loses 25 of 30 every time; on a busy one deliveries may end before the release.
    for (let attempt = 0; attempt < 5 && harmed === 0; attempt++) {
      const { lost, doubled } = await holdAndRelease(async () => {});
      process.stderr.write(`naive hold and release: 30 sent, ${lost.length} lost, ${doubled.length} doubled\n`);
      harmed = lost.length + doubled.length;
    }
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

/** Thirty letters to a slow site: some in delivery, the others waiting in active when all are held, and released again. */
async function holdAndRelease(barrier: (postfix: PrivatePostfix) => Promise<void>): Promise<Audit> {
  const sink = await Sink.start({ domains: { "slow.test": { delayMs: 4000 } } });
  const postfix = await PrivatePostfix.start({ sink });
  try {
    const letters = Array.from({ length: 30 }, (_, at) => plainLetter({ recipients: [`u${at}@slow.test`] }));
    const sent = await postfix.submit(letters);
    await until(() => sink.waiting > 0 && postfix.counts().incoming === 0, { what: "mail in delivery" });
    const ids = sent.map((letter) => letter.queueId);
    await postfix.hold(ids);
    await delay(1000);
    await barrier(postfix);
    await postfix.release(ids);
    await postfix.flush();
    // Those that were in delivery when qmgr read them again wait for another scan.
    await until(() => sink.waiting === 0, { everyMs: 1000, timeoutMs: 60_000 });
    await postfix.flush();
    await postfix.emptied(60_000);
    return sink.audit(letters);
  } finally {
    postfix.destroy();
    await sink.close();
  }
}
