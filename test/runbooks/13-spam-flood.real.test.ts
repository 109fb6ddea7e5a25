import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { expect, test } from "vitest";
import { flood, trustsXclient } from "../support/flood.ts";
import { PrivatePostfix, type Submitted, until } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

const bought = (count: number) => Array.from({ length: count }, (_, n) => `v${n}@bought.test`);

/** Alice's password is stolen; 192.0.2.9 is broken into; Bob and Alice's namesake just send mail. */
class Flood implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  readonly start: StartState;
  readonly spam: readonly Submitted[];
  readonly mail: readonly Submitted[];

  private constructor(
    places: { site: Site; sink: Sink; postfix: PrivatePostfix },
    start: StartState,
    spam: readonly Submitted[],
    mail: readonly Submitted[],
  ) {
    this.site = places.site;
    this.sink = places.sink;
    this.postfix = places.postfix;
    this.start = start;
    this.spam = spam;
    this.mail = mail;
  }

  static async make(): Promise<Flood> {
    const site = await Site.make();
    const later = { rcpt: "450 4.2.0 try later" };
    const sink = await Sink.start({ domains: { "bought.test": later, "slow.test": later } });
    const postfix = await PrivatePostfix.start({ sink, main: { ...trustsXclient, smtpd_sasl_auth_enable: "yes" } });
    const spam = [
      ...(await flood(postfix.port, {
        ...{ login: "alice", address: "192.0.2.7" },
        recipients: ["real@slow.test", "two@bought.test", ...bought(5)],
      })),
      ...(await flood(postfix.port, { address: "192.0.2.9", sender: "web@src.test", recipients: bought(3) })),
      ...(await flood(postfix.port, { sender: "fake@src.test", recipients: bought(2) })),
    ];
    const mail = [
      ...(await flood(postfix.port, { login: "alice2", sender: "alice2@src.test", recipients: bought(1) })),
      ...(await flood(postfix.port, { login: "bob", sender: "bob@src.test", recipients: bought(2) })),
    ];
    await postfix.settled();
    // An administrator holds one of Bob's.
    await postfix.hold([mail.at(-1)?.queueId ?? ""]);
    const start = await StartState.of(postfix, { letters: [...spam, ...mail], sink });
    return new Flood({ site, sink, postfix }, start, spam, mail);
  }

  get scene(): SceneOptions {
    const keep = join(this.site.directory, "keep.ids");
    const who = { LOGIN: "alice", CLIENT: "192.0.2.9", SENDER: "fake@src.test" };
    return {
      postfix: this.postfix,
      config: this.site.configure([this.postfix]),
      set: { ...who, KEEP: keep, REASON: "spam of a test", MESSAGE_RATE: "99" },
      answers: { "close-hole": "yes", judge: "yes" },
      holdsBefore: { "close-hole": "the hole was a password" },
      beforeAction: async (step) => {
        // Alice had real mail among it.
        if (step === "judge") writeFileSync(keep, `${this.spam[0]?.queueId}\n${this.spam[1]?.queueId}\n`);
        if (step === "release-kept") this.sink.set("bought.test", {});
      },
    };
  }

  /** One of Alice's is in an agent's hands, and the other side has not answered yet. */
  async deliverFirst(): Promise<void> {
    this.sink.set("slow.test", { delayMs: 1500 });
    await this.postfix.wake(this.spam[0]?.queueId ?? "");
    await until(() => this.sink.waiting === 1, { what: "a delivery under way", everyMs: 10 });
  }

  get held(): string[] {
    return this.postfix.files("hold").map((path) => basename(path));
  }

  get main(): string {
    return readFileSync(join(this.postfix.configDirectory, "main.cf"), "utf8");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

describeRunbook("13-spam-flood", (scenes) => {
  test("the door is shut, the flood deleted by id, and all other mail goes on", { timeout: 240_000 }, async () => {
    await using scene = await Flood.make();
    const { postfix, start, spam, mail } = scene;
    const main = scene.main;

    // As far as the queue and the configuration are changed, and all of it back.
    const half = await scenes.run({ ...scene.scene, holdsBefore: {}, until: "backup" });
    expect(half.error).toBeUndefined();
    expect(new Set(scene.held)).toEqual(new Set([...spam, ...mail.slice(-1)].map(({ queueId }) => queueId)));
    await scenes.undo(half);
    expect(scene.held).toEqual([mail.at(-1)?.queueId]);
    expect(scene.main).toBe(main);
    await start.expectKept(half);

    const options = scene.scene;
    const run = await scenes.run({
      ...options,
      beforeAction: async (step) => {
        if (step === "hold") await scene.deliverFirst();
        await options.beforeAction?.(step);
      },
    });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 9, skipped: 0 });
    for (const who of [{ login: "alice" }, { address: "192.0.2.9" }, { sender: "fake@src.test" }]) {
      await expect(flood(postfix.port, { ...who, recipients: bought(1) })).rejects.toThrow("locked");
    }
    expect(await flood(postfix.port, { login: "bob", recipients: bought(1) })).toHaveLength(1);
    const gone = spam
      .slice(2)
      .flatMap(({ messageId, recipients }) => recipients.map((address) => `${messageId} ${address}`));
    expect(start.lost(), "deleted").toEqual(gone);
    await until(() => scene.sink.count(spam[1]?.messageId ?? "", "two@bought.test") === 1, {
      what: "Alice's real mail",
    });
    expect(scene.sink.count(spam[0]?.messageId ?? "", "real@slow.test")).toBe(1);
    await until(() => postfix.find(spam[0]?.queueId ?? "") === undefined, {
      what: "the end of what was delivered while it was put on hold",
    });
    await start.expectKept(run, { gone });
    expect(scene.held).toEqual([mail.at(-1)?.queueId]);
  });

  test("without a name it is refused, and nothing is done", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    const start = await StartState.of(postfix);
    const run = await scenes.run({ postfix, config: site.configure([postfix]), set: { REASON: "none" } });
    expect(run.error).toMatchObject({ kind: "failed", message: expect.stringContaining("somebody-is-named") });
    await start.expectKept(run);
    start.expectRestored();
  });
});
