import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { planOnly, restoreInto } from "../../src/restore/restore.ts";
import { HandMade, type HandMadeMessage } from "../support/hand-made.ts";
import { makeOlder } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { allTried } from "../support/undelivered.ts";
import { handMadeJob } from "./into.ts";

const later = { rcpt: "450 4.2.0 try later" };
const sixDays = 6 * 86_400;

/** One letter is six days old and half delivered. Of the others each is, for a reason of its own, not to be sent as new mail. */
const reasons = {
  held: /on hold \(admin\)/,
  fenced: /on hold \(fence\)/,
  flying: /in doubt.* it was being delivered/,
  finished: /in doubt.* had left every queue/,
  bouncing: /yet to be told/,
} as const;

describe.skipIf(!needs("root", "postfix", "flock"))("mail that is requeued", () => {
  let made: HandMade;
  let taken: Awaited<ReturnType<HandMade["take"]>>;
  let old: Submitted;

  beforeAll(async () => {
    await using sink = await Sink.start({ domains: { "done.test": {}, "wait.test": later } });
    await using source = await PrivatePostfix.start({ sink });
    const names = ["old", ...Object.keys(reasons)];
    const letters = await source.submit(
      names.map((name) => plainLetter({ recipients: [`${name}@done.test`, `${name}@wait.test`] })),
    );
    await until(() => source.files("deferred").length === letters.length, { what: "deferred mail" });
    await source.stop();
    const [first] = letters;
    if (first === undefined) throw new Error("no letter");
    old = first;
    makeOlder(source, old.queueId, sixDays);
    const fence = { kind: "fence", run: "a claim" } as const;
    const over: Record<string, HandMadeMessage["over"]> = {
      held: { queue: "hold", role: { kind: "admin" } },
      fenced: { queue: "hold", role: fence },
      flying: { queue: "active", inFlight: true },
      finished: { finished: true },
    };
    made = await HandMade.make();
    taken = await made.take({
      messages: letters.map(({ queueId }, at) => ({
        bytes: readFileSync(source.find(queueId) ?? ""),
        logs: { defer: "a log", ...(names[at] === "bouncing" ? { bounce: "a notice to come" } : {}) },
        over: { queueId, ...over[names[at] ?? ""] },
      })),
    });
  });
  afterAll(async () => {
    await made?.[Symbol.asyncDispose]();
  });

  test.concurrent.each(["running", "stopped"])(
    "into a %s instance: as new mail, once, to whom is left",
    {
      timeout: 120_000,
    },
    async (state) => {
      await using sink = await Sink.start({ domains: { "done.test": {}, "wait.test": later } });
      await using target = await PrivatePostfix.create({ sink });
      if (state === "running") await target.start();
      await using job = await handMadeJob(made, taken.signed, target);
      const choice = { ...job.choice, route: "requeue" as const };
      const began = Math.floor(Date.now() / 1000);

      const { plan } = await planOnly({ ...job, choice });
      expect(plan.forecasts.filter(({ kind }) => kind === "expires")).toEqual([]);
      const report = await restoreInto({ ...job, choice });
      expect(report).toMatchObject({ restored: 1, skipped: Object.keys(reasons).length, unproven: [], stillQueued: 0 });
      for (const [index, reason] of Object.values(reasons).entries()) {
        const queueId = taken.manifest.messages[index + 1]?.queueId ?? "";
        expect(report.notPlaced).toContainEqual({ queueId, problem: expect.stringMatching(reason) });
      }
      expect(report.notPlaced).toHaveLength(Object.keys(reasons).length);

      if (state === "stopped") {
        expect(target.counts()).toMatchObject({ maildrop: 1, deferred: 0, hold: 0, corrupt: 0 });
        await target.start();
      }
      await until(() => target.files("deferred").length === 1, { what: () => JSON.stringify(target.counts()) });
      const [path = ""] = target.files("deferred");
      const facts = readQueueFile(bufferSource(readFileSync(path)));
      expect(report.renamed.map(({ to }) => to)).not.toContain(basename(path));
      expect(Number(facts.created)).toBeGreaterThanOrEqual(began);
      expect(facts.recipients.filter(({ done }) => !done).map(({ address }) => address)).toEqual(["old@wait.test"]);
      expect(target.log()).toMatch(new RegExp(`from=<${old.sender}> orig_id=`));

      sink.set("wait.test", {});
      expect(await restoreInto({ ...job, choice })).toMatchObject({ restored: 0, renamed: [] });
      await allTried(target);
      expect(sink.deliveries).toMatchObject([{ messageId: old.messageId, recipient: "old@wait.test" }]);
      expect(await target.postsuper(["-s"])).toBe("");
      expect(target.log()).not.toMatch(/panic|fatal|corrupt|hard links/);
    },
  );
});
