import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { isWaiting } from "../../src/restore/place.ts";
import type { Land } from "../../src/restore/plan.ts";
import { releaseRun } from "../../src/restore/release.ts";
import { restoreInto } from "../../src/restore/restore.ts";
import type { Manifest, MessageEntry } from "../../src/snapshot/manifest.ts";
import { systemClock } from "../../src/system/clock.ts";
import { chooseSeed, fillMixed, mixedSink, Random, randomLetter } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { type Letter, PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";
import { restoreJob } from "./into.ts";

/** `empty` and `stopped` targets don't run while mail is placed; through a `running` one a thousand messages flow meanwhile. */
type State = "empty" | "stopped" | "running";

interface Case {
  readonly state: State;
  readonly ids: "short" | "long";
  readonly land: Land;
}

const whole = (["empty", "stopped", "running"] as const).flatMap((state) =>
  (["short", "long"] as const).flatMap((ids) => (["original", "hold"] as const).map((land) => ({ state, ids, land }))),
);
/** Every state with every landing; the whole product takes twice as long. */
const chosen = whole.filter(
  ({ state, ids, land }) => (ids === "long") === ((state === "stopped") === (land === "original")),
);
const cases: readonly Case[] = process.env.SPOOLSAFE_LONG ? whole : chosen;
const flowing = 1000;

describe.skipIf(!needs("root", "postfix", "flock"))("a mixed snapshot, with short and long ids, restored into", () => {
  let site: Site;
  let source: PrivatePostfix;
  let sourceSink: Sink;
  let taken: Awaited<ReturnType<Site["backup"]>>;
  let manifest: Manifest;

  beforeAll(async () => {
    sourceSink = await mixedSink({ slowMs: 60_000 });
    site = await Site.make();
    source = await PrivatePostfix.start({ sink: sourceSink, longIds: true });
    const random = new Random(chooseSeed("mail with long ids"));
    const to = (at: number) => [`long${at}@defer.test`, ...(at % 2 === 0 ? [`long${at}@good.test`] : [])];
    const long = Array.from({ length: 8 }, (_, at) => randomLetter(random, { recipients: to(at) }));
    const sent = await source.submit(long);
    await until(() => source.files("deferred").length === long.length, { what: "deferred mail with long ids" });
    await source.hold(sent.slice(0, 1).map(({ queueId }) => queueId));
    await source.setParameter("enable_long_queue_ids", "no");
    await source.reload();
    await fillMixed(source, { messages: 50 });
    await source.abort();
    taken = await site.backup(source);
    manifest = await site.manifest(taken);
  });
  afterAll(async () => {
    source?.destroy();
    await site?.[Symbol.asyncDispose]();
    await sourceSink?.[Symbol.asyncDispose]();
  });

  test.concurrent.each(cases)(
    "$state, $ids ids, land $land: everybody gets theirs once",
    {
      timeout: 300_000,
    },
    async ({ state, ids, land }) => {
      await using target = await Target.make(state, ids === "long");
      const { postfix, sink } = target;
      await using made = await restoreJob(site, taken, postfix, land);
      const stateDirectory = join(postfix.directory, "state");
      const choice = { ...made.choice, route: state === "empty" ? ("fresh" as const) : ("merge" as const) };
      const { messages } = manifest;
      const admin = messages.filter(({ queue }) => queue === "hold");

      const [before, heldBefore] = [target.own(), target.own(target.held)];
      const flow = target.flow();
      await until(() => sink.deliveries.length >= (state === "running" ? 20 : 0), { what: "mail that flows" });
      const report = await restoreInto({ ...made, choice, stateDirectory });
      expect(state === "running" && sink.audit(target.letters).lost.length === 0).toBe(false);
      expect(report).toMatchObject({
        ...{ restored: messages.length, skipped: 0, stillQueued: 0, notPlaced: [], unproven: [] },
        awaitingRelease: land === "hold" ? messages.length - admin.length : 0,
      });
      expect(await target.structure()).toEqual([]);
      expect(target.own()).toEqual(before);
      if (land === "hold") {
        expect(target.snapshotMail(manifest, "deferred")).toEqual([]);
        const { instance } = made;
        const job = { instance, run: report.run, stateDirectory, inDoubt: false, claims: [], clock: systemClock };
        expect(await releaseRun(job)).toMatchObject({
          ...{ released: messages.length - admin.length, admin: admin.length },
          ...{
            remaining: 0,
            notFound: [],
            problems: [],
            notWoken: state === "running" ? 0 : messages.length - admin.length,
          },
        });
        expect(target.own()).toEqual(before);
      }
      await flow;

      sink.set("own.test", {});
      if (state !== "running") await postfix.start();
      await allTried(postfix);
      expect(target.delivered(manifest)).toEqual(pairsOf(messages.filter(({ queue }) => queue !== "hold")));
      expect(target.notices(manifest)).toEqual(noticesOf(messages.filter(({ queue }) => queue !== "hold")));
      expect(sink.audit([...target.waiting, ...target.letters])).toEqual({ lost: [], doubled: [] });
      expect(target.own(target.held)).toEqual(heldBefore);
      expect(target.snapshotMail(manifest, "hold")).toEqual(admin.map(({ messageId }) => messageId).sort());
      expect(postfix.files("hold")).toHaveLength(admin.length + target.held.length);
      expect(await target.structure()).toEqual([]);
      expect(postfix.log()).not.toMatch(/panic|fatal|corrupt/);
    },
  );
});

/** `<message-id> recipient` of everybody who is not done. */
function pairsOf(messages: readonly MessageEntry[]): string[] {
  return messages
    .flatMap(({ messageId, recipients }) =>
      recipients.flatMap(({ address, done }) => (done ? [] : [`${messageId} ${address}`])),
    )
    .sort();
}

/** Who is told of what failed, or was delivered on request, before the snapshot. */
function noticesOf(messages: readonly MessageEntry[]): string[] {
  return messages
    .filter(({ logs }) => logs.some(({ log }) => log !== "defer"))
    .map(({ sender }) => sender)
    .sort();
}

/** An instance that receives the snapshot, with mail of its own unless it is to be empty, and the sink that counts. */
class Target implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly sink: Sink;
  /** Its own mail: deferred, or in maildrop; on hold; and what flows through it. */
  waiting: Letter[] = [];
  held: Submitted[] = [];
  letters: Letter[] = [];
  readonly #ids = new Set<string>();

  private constructor(postfix: PrivatePostfix, sink: Sink) {
    this.postfix = postfix;
    this.sink = sink;
  }

  static async make(state: State, longIds: boolean): Promise<Target> {
    const accepting = ["good.test", "src.test", "slow.test", "defer.test", "bounce.test", "flow.test"];
    const sink = await Sink.start({
      domains: {
        ...Object.fromEntries(accepting.map((domain) => [domain, {}])),
        "own.test": { rcpt: "450 4.2.0 try later" },
      },
    });
    const postfix = await PrivatePostfix.create({ sink, longIds });
    const target = new Target(postfix, sink);
    if (state !== "empty") await target.#fill(state);
    return target;
  }

  async #fill(state: "stopped" | "running"): Promise<void> {
    const { postfix } = this;
    await postfix.start();
    const letters = Array.from({ length: 8 }, (_, at) =>
      plainLetter({ recipients: [`own${at}@own.test`, ...(at % 2 === 0 ? [`own${at}@good.test`] : [])] }),
    );
    const sent = await postfix.submit(letters);
    await until(() => postfix.files("deferred").length === sent.length, { what: "mail of its own" });
    this.held = sent.slice(0, 2);
    await postfix.hold(this.held.map(({ queueId }) => queueId));
    this.waiting = sent.slice(2);
    for (const { queueId } of sent) this.#ids.add(queueId);
    if (state === "running") {
      this.letters = Array.from({ length: flowing }, () => plainLetter({ recipients: ["flow@flow.test"] }));
      return;
    }
    await postfix.stop();
    const local = plainLetter({ recipients: ["local@good.test"] });
    await postfix.sendmail(local);
    this.waiting.push(local);
    for (const path of postfix.files("maildrop")) this.#ids.add(basename(path));
  }

  /** Hand in what is to flow through it. */
  async flow(): Promise<void> {
    if (this.letters.length > 0) await this.postfix.submit(this.letters, 2);
  }

  /** Every file of its own mail, or of these messages of it: where it lies and all that can be seen of it. */
  own(messages?: readonly Submitted[]): string[] {
    const ids = messages === undefined ? this.#ids : new Set(messages.map(({ queueId }) => queueId));
    const queues = ["maildrop", "incoming", "active", "deferred", "hold", "defer", "bounce", "trace"];
    return queues
      .flatMap((queue) => this.postfix.files(queue))
      .filter((path) => ids.has(basename(path)))
      .sort()
      .map((path) => {
        const { ino, mode, uid, gid, mtimeMs } = statSync(path);
        const digest = createHash("sha256").update(readFileSync(path)).digest("hex");
        return [path, ino, mode, uid, gid, mtimeMs, digest].join(" ");
      });
  }

  /** Message-IDs of the snapshot's mail in a queue, sorted. */
  snapshotMail({ messages }: Manifest, queue: string): (string | null)[] {
    const known = new Set(messages.map(({ messageId }) => messageId));
    return this.postfix
      .files(queue)
      .map((path) => readQueueFile(bufferSource(readFileSync(path))).messageId)
      .filter((messageId) => known.has(messageId))
      .sort();
  }

  /** `<message-id> recipient` of every delivery of the snapshot's mail, as often as it came. */
  delivered({ messages }: Manifest): string[] {
    const known = new Set(messages.map(({ messageId }) => messageId));
    return this.sink.deliveries
      .filter(({ messageId }) => known.has(messageId))
      .map(({ messageId, recipient }) => `${messageId} ${recipient}`)
      .sort();
  }

  /** Who was sent a notice, sorted. */
  notices({ messages }: Manifest): string[] {
    const known = new Set(messages.map(({ messageId }) => messageId));
    return this.sink.deliveries
      .filter(({ messageId, sender }) => sender === "" && !known.has(messageId))
      .map(({ recipient }) => recipient)
      .sort();
  }

  /** What `postsuper -s` finds to say, but for mail of maildrop that waits under names of ours. */
  async structure(): Promise<string[]> {
    const said = await this.postfix.postsuper(["-s"]);
    return said
      .split("\n")
      .map((line) => line.replace(/^postsuper: /, ""))
      .filter((line) => line !== "" && !isWaiting(line));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
  }
}
