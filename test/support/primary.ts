import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { BackupReport } from "../../src/backup/backup.ts";
import { loggedForms } from "../../src/postfix/log-facts.ts";
import type { CaptureMode } from "../../src/snapshot/snapshot.ts";
import { ContentFilter, type FilterAnswer } from "./content-filter.ts";
import { type PostfixOptions, PrivatePostfix, plainLetter } from "./postfix.ts";
import type { Random } from "./random.ts";
import { killQuietly, processesOf } from "./scratch.ts";
import { type Delivery, Sink } from "./sink.ts";
import { Site } from "./site.ts";
import type { Letter } from "./smtp.ts";
import { until } from "./wait.ts";

/** A primary that is killed while mail flows: its snapshots and its log are what is left of it. */
export class Primary implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly sink: Sink;
  readonly site: Site;
  readonly random: Random;
  readonly filter: ContentFilter | undefined;
  readonly letters: Letter[] = [];

  private constructor(
    postfix: PrivatePostfix,
    sink: Sink,
    site: Site,
    random: Random,
    filter: ContentFilter | undefined,
  ) {
    this.postfix = postfix;
    this.sink = sink;
    this.site = site;
    this.random = random;
    this.filter = filter;
  }

  /** @param answer of a content filter on loopback that all mail goes through; undefined: there is none */
  static async start(random: Random, options: PostfixOptions = {}, answer?: FilterAnswer): Promise<Primary> {
    const sink = await Sink.start({
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
    if (filter !== undefined) {
      comeBack(postfix, filter);
      await postfix.setParameter("content_filter", `smtp:[127.0.0.1]:${filter.port}`);
    }
    await postfix.start();
    return new Primary(postfix, sink, site, random, filter);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.filter?.[Symbol.asyncDispose]();
    await this.site[Symbol.asyncDispose]();
    await this.sink[Symbol.asyncDispose]();
  }

  /** Letters to one to three recipients, each with a sender of its own whose notices the sink gets. */
  async send(count: number, domains = ["good", "slow", "later", "much-later", "defer", "bounce"]): Promise<void> {
    const letters = Array.from({ length: count }, () => {
      const recipients = Array.from({ length: 1 + this.random.below(3) }, () => {
        const local = this.random.next() < 0.1 ? `"odd ${this.random.below(1e6)}"` : `u${this.random.below(1e6)}`;
        return `${local}@${this.random.pick(domains)}.test`;
      });
      return plainLetter({ recipients, sender: `s${this.letters.length}.${this.random.below(1e6)}@good.test` });
    });
    this.letters.push(...letters);
    await this.postfix.submit(letters, 4);
  }

  async snapshot(mode: CaptureMode): Promise<BackupReport> {
    return this.site.backup(this.postfix, { mode });
  }

  /** SIGKILL for all of it; whoever writes the log has outlived Postfix, as syslog does. Resolves when the sink is quiet. */
  async crash(): Promise<void> {
    const log = new Set(this.postfix.daemonPids("postlogd"));
    for (const pid of processesOf(this.postfix.directory)) if (!log.has(pid)) killQuietly(pid);
    await delay(300);
    this.postfix.kill();
    // What the sink had taken completely it still answers.
    await until(() => this.sink.waiting === 0, { what: "the sink's last answers" });
  }

  /** What the sink has got, also when Postfix was killed before it heard so. */
  got(messageId: string | null, address: string): readonly Delivery[] {
    const forms = loggedForms(address);
    return [...this.sink.deliveries, ...this.sink.unacknowledged].filter(
      (one) => one.messageId === messageId && forms.includes(one.recipient),
    );
  }

  /** How often a notice has reached the sender of a message. */
  noticed(sender: string): number {
    return this.sink.deliveries.filter((one) => one.sender === "" && one.recipient === sender).length;
  }
}

/** Let an instance, not yet started, take back what a content filter hands on. */
export function comeBack(postfix: PrivatePostfix, filter: ContentFilter): void {
  filter.backTo = postfix.port + 1;
  appendFileSync(
    join(postfix.configDirectory, "master.cf"),
    `127.0.0.1:${filter.backTo} inet n - n - - smtpd -o content_filter= -o syslog_name=postfix/reinject\n`,
  );
}
