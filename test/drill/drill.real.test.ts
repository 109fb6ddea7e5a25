import { readdirSync, renameSync, statSync, utimesSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fillDeferred, fillMixed, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { destroyScratch, makeScratch, processesOf } from "../support/scratch.ts";
import type { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { drill } from "./drilling.ts";
import { Trap, withHeader } from "./trap.ts";

/*
 * The drill of a thousand messages in every state a queue has, whose configuration and envelopes do their best to lead out.
 */

const total = 1000;

describe.skipIf(!needs("root", "postfix", "flock", "mount-namespace"))("a drill of a thousand messages", () => {
  // A short path: Postfix connects to sockets below it.
  const scratch = makeScratch({ parent: "/var/tmp" });
  let sink: Sink | undefined;
  let trap: Trap | undefined;
  let site: Site | undefined;
  let expired = 0;

  beforeAll(async () => {
    sink = await mixedSink();
    trap = await Trap.open();
    site = await Site.make();
    expired = await backUp(scratch, sink, trap, site);
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await trap?.[Symbol.asyncDispose]();
    await sink?.close();
    destroyScratch(scratch);
  });

  test("brings back and delivers every one, byte for byte, and none of it leaves", async () => {
    if (site === undefined || trap === undefined) throw new Error("nothing was backed up");
    const before = trap.visitors;
    const facts = await drill(site, { workDirectory: scratch, targets: { rpo: 3_600_000, rto: 120_000 } });
    expect(facts.failure).toBeNull();
    expect(facts.deviations).toEqual([]);
    expect(facts.messages).toMatchObject({ manifest: total, restored: total, readable: total, identical: total });
    expect(facts.messages.inDoubt).toBeGreaterThan(0);
    expect(facts.messages.heldByAdmin).toBeGreaterThan(0);
    expect(facts.messages.maildrop).toBeGreaterThan(0);
    expect(facts.messages.inQueue).toBe(total - facts.messages.maildrop);
    expect(facts.delivered).toMatchObject({ messages: total, identical: total, deviating: [] });
    expect(facts.delivered?.recipients).toBe(facts.delivered?.promised.recipients);
    expect(facts.delivered?.expired).toHaveLength(expired);
    expect(facts.queues.rows.every(({ counts }) => counts.some((count) => count > 0))).toBe(true);
    expect(facts.isolation.outsideConnections).toBe(0);
    expect(trap.visitors).toBe(before);
    expect(facts.phases.map(({ name }) => name)).toEqual([
      ...["fetch", "open", "place", "repair", "check", "ready", "deliver"],
    ]);
    expect(facts.targets).toEqual({ rpo: { seconds: 3600, met: true }, rto: { seconds: 120, met: true } });
    expect(facts.total).toBeLessThan(120_000);
    expect(facts.ok).toBe(true);
    expect(readdirSync(scratch).filter((name) => name.startsWith("spoolsafe-drill-"))).toEqual([]);
    expect(processesOf(scratch)).toEqual([]);
    expect(readdirSync(join(site.stateDirectory, "drills"))).toEqual([]);
    process.stderr.write(`a drill of ${total} messages took ${Math.round(facts.total)} ms\n`);
  });
});

/** @returns how many of the messages are past their lifetime */
async function backUp(scratch: string, sink: Sink, trap: Trap, site: Site): Promise<number> {
  const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
  await using postfix = await PrivatePostfix.start({ sink, main: { ...resting, ...trap.leadHere(scratch) } });
  const mixed = await fillMixed(postfix, { messages: 60 });
  const outside = ["one@outside.test", "two@[203.0.113.9]", '"odd <one>"@outside.test', "three@xn--mnchen-3ya.test"];
  const letters = outside.map((address) => plainLetter({ recipients: [address, "keep@defer.test"] }));
  const led = ["X-Filtered: yes", "X-Redirected: yes"].map((line) =>
    withHeader(plainLetter({ recipients: ["someone@defer.test", "Someone@defer.test"] }), line),
  );
  const sent = await postfix.submit([...letters, ...led]);
  await until(() => sent.every(({ queueId }) => postfix.find(queueId)?.includes("/deferred/")), {
    what: "deferred messages that lead out",
  });
  await postfix.setParameter("enable_long_queue_ids", "yes");
  await fillDeferred(postfix, total - mixed.all.length - sent.length);
  await postfix.stop();
  // As they lie there while qmgr is down; later than now, so that none is taken before it is backed up.
  for (const path of postfix.files("deferred").slice(0, 12)) {
    const later = statSync(path).mtimeMs / 1000 + 3600;
    utimesSync(path, later, later);
    renameSync(path, join(postfix.queueDirectory, "incoming", basename(path)));
  }
  await postfix.start();
  await until(() => postfix.files("active").length > 0, { what: "mail in delivery" });
  const { snapshot } = await site.backup(postfix);
  expect(snapshot.messages).toMatchObject({ total, incomplete: 0, vanished: 0 });
  return mixed.expired.length;
}
