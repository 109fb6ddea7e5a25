import { appendFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { gatherEvidence, type LogEvidence } from "../../src/postfix/log-evidence.ts";
import { loggedForms } from "../../src/postfix/log-facts.ts";
import { readMailLogs } from "../../src/postfix/mail-log-files.ts";
import {
  acceptedLater,
  boundOf,
  type Judgement,
  judge,
  type RecipientVerdict,
  sayBound,
  watchOf,
} from "../../src/restore/verdict.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { ContentFilter, type FilterAnswer } from "../support/content-filter.ts";
import { needs } from "../support/needs.ts";
import { type PostfixOptions, PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { killQuietly, processesOf } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import type { Letter } from "../support/smtp.ts";

interface Taken {
  readonly messages: readonly MessageEntry[];
  readonly time: number;
  readonly finished: number;
}

/** One primary: mail flows, a snapshot is taken, mail flows on, it is killed; its log survives. */
class Primary implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly sink: Sink;
  readonly site: Site;
  readonly random: Random;
  readonly letters: Letter[] = [];
  private filter: ContentFilter | undefined;

  private constructor(postfix: PrivatePostfix, sink: Sink, site: Site, random: Random) {
    this.postfix = postfix;
    this.sink = sink;
    this.site = site;
    this.random = random;
  }

  static async start(seed: number, options: PostfixOptions = {}, answer?: FilterAnswer): Promise<Primary> {
    const sink = await Sink.start({
      keepBytes: true,
      domains: {
        "good.test": {},
        "slow.test": { delayMs: 1200 },
        "later.test": { rcpt: "450 4.2.0 try later", firstTimes: 2 },
        "much-later.test": { rcpt: "450 4.2.0 try later", firstTimes: 5 },
        "defer.test": { rcpt: "450 4.2.0 try later" },
        "bounce.test": { rcpt: "550 5.1.1 no such user" },
      },
    });
    const site = await Site.make();
    const filter = answer === undefined ? undefined : await ContentFilter.start(answer);
    const postfix = await PrivatePostfix.create({ sink, retrySeconds: 3, ...options });
    if (filter !== undefined) await attach(postfix, filter);
    await postfix.start();
    const primary = new Primary(postfix, sink, site, new Random(seed));
    primary.filter = filter;
    return primary;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.filter?.[Symbol.asyncDispose]();
    await this.site[Symbol.asyncDispose]();
    await this.sink[Symbol.asyncDispose]();
  }

  /** Letters to a mix of sites, each with a sender of its own whose notices the sink gets. */
  async send(count: number, domains = ["good", "slow", "later", "much-later", "defer", "bounce"]): Promise<void> {
    const letters = Array.from({ length: count }, () => {
      const to = Array.from({ length: 1 + this.random.below(3) }, () => {
        const domain = this.random.pick(domains);
        if (domain === "local") return this.random.pick([...aliases.keys()]);
        const local = this.random.next() < 0.1 ? `"odd ${this.random.below(1e6)}"` : `u${this.random.below(1e6)}`;
        return `${local}@${domain}.test`;
      });
      return plainLetter({ recipients: to, sender: `s${this.letters.length}.${this.random.below(1e6)}@good.test` });
    });
    this.letters.push(...letters);
    await this.postfix.submit(letters, 4);
  }

  async snapshot(): Promise<Taken> {
    const time = Date.now() / 1000;
    const report = await this.site.backup(this.postfix, { mode: "live" });
    return { messages: (await this.site.manifest(report)).messages, time, finished: Date.now() / 1000 };
  }

  /** SIGKILL for all of it; whoever writes the log has outlived Postfix, as syslog does. */
  async crash(): Promise<void> {
    const log = new Set(this.postfix.daemonPids("postlogd"));
    for (const pid of processesOf(this.postfix.directory)) if (!log.has(pid)) killQuietly(pid);
    await delay(300);
    this.postfix.kill();
    await delay(1500); // what the sink had taken completely it still answers
  }

  /** Read the surviving log, or what `spoil` leaves of it, and judge by it. */
  async judge(
    { messages, time, finished }: Taken,
    spoil: (lines: string[]) => string[] = (lines) => lines,
  ): Promise<{ log: LogEvidence; judgement: Judgement }> {
    const path = join(this.postfix.directory, "log", "surviving.log");
    writeFileSync(path, spoil(this.postfix.log().split("\n")).join("\n"));
    const log = await gatherEvidence(readMailLogs([path], { reference: Date.now() / 1000 }), watchOf(messages));
    const judgement = judge(messages, log, { snapshotTime: time, snapshotFinished: finished });
    const later = acceptedLater(log, time, judgement.followed);
    process.stderr.write(
      `seed ${this.random.seed}: ${JSON.stringify(tally(judgement))}, ${sayBound(boundOf(judgement, later))}\n`,
    );
    for (const { from, to, reason } of log.gaps) process.stderr.write(`gap ${to - from} s: ${reason}\n`);
    return { log, judgement };
  }

  /** Whether the sink has got this, also when Postfix was killed before it heard so. */
  got(messageId: string | null, address: string): boolean {
    return [...this.sink.deliveries, ...this.sink.unacknowledged].some(
      (one) => one.messageId === messageId && loggedForms(address).includes(one.recipient),
    );
  }

  /** Whether a notice has reached the sender of a message. */
  noticed(sender: string): boolean {
    return this.sink.deliveries.some((one) => one.sender === "" && one.recipient === sender);
  }
}

async function attach(postfix: PrivatePostfix, filter: ContentFilter): Promise<void> {
  filter.backTo = postfix.port + 1;
  appendFileSync(
    join(postfix.configDirectory, "master.cf"),
    `127.0.0.1:${filter.backTo} inet n - n - - smtpd -o content_filter= -o syslog_name=postfix/reinject\n`,
  );
  await postfix.setParameter("content_filter", `smtp:[127.0.0.1]:${filter.port}`);
}

/** What aliases of local.test lead to. No address twice: a letter may go to several of them, and each forwards a copy. */
const aliases = new Map([
  ["one@local.test", ["x@good.test"]],
  ["many@local.test", ["y@good.test", "z@slow.test", "w@later.test"]],
  ["stuck@local.test", ["v@good.test", "t@defer.test"]],
  ["more@local.test", ["m@good.test", "n@slow.test", "o@later.test"]],
]);

/** What is wrong with a judgement, by what the sink knows; with aliases, by what it knows of all they lead to. */
function mistakes(primary: Primary, { messages }: Judgement, deleted: ReadonlySet<string> = new Set()): string[] {
  return messages.flatMap(({ message, recipients }) =>
    recipients.flatMap(({ verdict, reason, evidence }, index) => {
      const recipient = message.recipients[index];
      if (recipient === undefined || recipient.done || message.messageId === null) return [];
      const targets = aliases.get(recipient.address) ?? [recipient.address];
      const got = targets.filter((target) => primary.got(message.messageId, target)).length;
      const returned = recipient.address.endsWith("@bounce.test") && primary.noticed(message.sender);
      const others = elsewhere(messages, message, recipient.address);
      const decidedThere = others.some((other) => other !== undefined && other !== "done");
      const wrong =
        (verdict === "deliver" && (got > 0 || deleted.has(message.queueId) || others.includes("deliver"))) ||
        (verdict === "done" && got < targets.length && !returned && !decidedThere) ||
        (verdict === "deleted" && !deleted.has(message.queueId));
      if (!wrong) return [];
      return [`${message.queueId} ${recipient.address} ${verdict}, got ${got}: ${reason}; ${evidence ?? ""}`];
    }),
  );
}

/** What is said of the same mail under other ids: the snapshot may have it from before and from behind a filter. */
function elsewhere(messages: Judgement["messages"], one: MessageEntry, address: string): (string | undefined)[] {
  return messages
    .filter(({ message }) => message.queueId !== one.queueId && message.messageId === one.messageId)
    .flatMap(({ message, recipients }) =>
      message.recipients.flatMap((recipient, index) =>
        recipient.address === address && !recipient.done ? [recipients[index]?.verdict] : [],
      ),
    );
}

function tally({ messages }: Judgement): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { message, recipients } of messages) {
    for (const [index, { verdict }] of recipients.entries()) {
      if (message.recipients[index]?.done === false) counts[verdict] = (counts[verdict] ?? 0) + 1;
    }
  }
  return counts;
}

// They mostly wait, for retries and for the sink: all at once, the longest first.
describe.skipIf(!needs("root", "postfix"))("verdicts from the log of a killed primary", { concurrent: true }, () => {
  const seed = chooseSeed("verdicts");
  // Longer than the ten seconds from which on a silence alone tells of a hole.
  const hole = process.env.SPOOLSAFE_LONG === "1" ? 30 : 14;

  test(`a hole of ${hole} seconds in the log: what was delivered in it is in doubt`, async () => {
    await using primary = await Primary.start(seed);
    primary.sink.set("slow.test", { rcpt: "450 4.2.0 closed" });
    await primary.send(60, ["slow", "defer", "good", "much-later"]);
    await delay(1500);
    const taken = await primary.snapshot();
    const start = Math.ceil(Date.now() / 1000) + 5;
    const end = start + hole;
    while (Date.now() / 1000 < end + 8) {
      // Half of what waits is let through and delivered inside the hole.
      if (Date.now() / 1000 > start + 3) primary.sink.set("slow.test", {});
      await primary.send(1);
      await delay(300 + primary.random.below(600));
    }
    await primary.crash();
    const whole = await primary.judge(taken);
    expect(mistakes(primary, whole.judgement)).toEqual([]);
    expect(whole.log.gaps).toEqual([]);

    const cut = await primary.judge(taken, (lines) => lines.filter((line) => !isWithin(line, start, end)));
    expect(mistakes(primary, cut.judgement)).toEqual([]);
    const delivered = verdictsOf(
      whole.judgement,
      ({ evidence = "" }) => /status=sent/.test(evidence) && isWithinIso(evidence, start, end),
    );
    expect(delivered.length).toBeGreaterThan(5);
    const later = verdictsOf(cut.judgement, ({ verdict }) => verdict === "in-doubt");
    expect(delivered.filter((one) => !later.includes(one))).toEqual([]);
    expect(cut.log.gaps.some(({ from, to }) => from <= start + 1 && to >= end - 1)).toBe(true);
  });

  test.each([
    { ids: "short", answer: undefined },
    { ids: "long", answer: undefined },
    { ids: "short", answer: "after" as const },
    { ids: "short", answer: "own" as const },
    { ids: "long", answer: "before" as const },
  ])("$ids ids, content filter that answers $answer: nobody twice, nobody left out", async ({ ids, answer }) => {
    await using primary = await Primary.start(seed, { longIds: ids === "long" }, answer);
    await primary.send(60);
    await delay(primary.random.below(1500));
    const taken = await primary.snapshot();
    expect(taken.messages.length).toBeGreaterThan(10);
    await primary.send(20);
    await delay(2000 + primary.random.below(4000));
    const sending = primary.send(30).catch(() => {});
    await delay(200 + primary.random.below(800));
    await primary.crash();
    await sending;

    const { judgement } = await primary.judge(taken);
    expect(mistakes(primary, judgement)).toEqual([]);
    expectBoth(judgement);
  });

  test("aliases that forward, and a copy of everything", async () => {
    const main = {
      mydestination: "local.test",
      alias_maps: `inline:{${[...aliases].map(([from, to]) => `{${from.split("@")[0]}=${to.join(", ")}}`).join(" ")}}`,
      always_bcc: "archive@slow.test",
    };
    await using primary = await Primary.start(seed, { main });
    for (let round = 0; round < 20; round++) await primary.send(2, ["good", "later", "slow", "local", "local"]);
    await delay(primary.random.below(1500));
    const taken = await primary.snapshot();
    await primary.send(20, ["local"]);
    await delay(1000 + primary.random.below(3000));
    await primary.crash();
    const { judgement } = await primary.judge(taken);
    expect(mistakes(primary, judgement)).toEqual([]);
    expect(tally(judgement).done ?? 0).toBeGreaterThan(0);
  });

  test.each([undefined, "after" as const])(
    "mail that is requeued and mail that is deleted, filter: %s",
    async (answer) => {
      await using primary = await Primary.start(seed, {}, answer);
      await primary.send(60, ["later", "much-later", "defer"]);
      await until(() => primary.postfix.files("deferred").length > 20, { what: "deferred mail" });
      const taken = await primary.snapshot();
      const queued = taken.messages.map(({ queueId }) => queueId);
      const requeued = queued.filter(() => primary.random.next() < 0.3);
      const deleted = queued.filter((id) => !requeued.includes(id) && primary.random.next() < 0.2);
      await primary.postfix.postsuper(["-r", "-"], requeued);
      const said = await primary.postfix.postsuper(["-d", "-"], deleted);
      await delay(1000 + primary.random.below(6000));
      await primary.crash();
      const { judgement } = await primary.judge(taken);
      const gone = new Set(deleted.filter((id) => said.includes(`${id}: removed`)));
      expect(gone.size).toBeGreaterThan(0);
      expect(mistakes(primary, judgement, gone)).toEqual([]);
      expect(tally(judgement).deleted ?? 0).toBeGreaterThan(0);
      expectBoth(judgement);
    },
  );
});

function expectBoth(judgement: Judgement): void {
  expect(judgement.warnings).toEqual([]);
  expect(tally(judgement).done ?? 0).toBeGreaterThan(0);
  // All that is left may happen to be in an attempt when Postfix is killed.
  expect((tally(judgement).deliver ?? 0) + (tally(judgement)["in-doubt"] ?? 0)).toBeGreaterThan(0);
}

function verdictsOf({ messages }: Judgement, which: (verdict: RecipientVerdict) => boolean): string[] {
  return messages.flatMap(({ message, recipients }) =>
    recipients.flatMap((verdict, index) =>
      which(verdict) && message.recipients[index]?.done === false ? [`${message.queueId}/${index}`] : [],
    ),
  );
}

/** Whether a line of the log, written by this host in its zone and this year, is from that time. */
function isWithin(line: string, start: number, end: number): boolean {
  const time = new Date(`${line.slice(0, 6)} ${new Date().getFullYear()} ${line.slice(7, 15)}`).getTime() / 1000;
  return time >= start && time < end;
}

function isWithinIso(line: string, start: number, end: number): boolean {
  const time = new Date(line.split(" ")[0] ?? "").getTime() / 1000;
  return time >= start && time < end;
}
