import { appendFileSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { plainLetter, type Submitted } from "../support/postfix.ts";
import { describeRunbook, type SceneOptions, StartState } from "../support/runbook.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { TwoServers } from "../support/two-servers.ts";
import { allTried } from "../support/undelivered.ts";

/** A server with eight messages in the last backup before an intruder sends mail of their own, which is backed up as well. */
class Intrusion implements AsyncDisposable {
  readonly servers: TwoServers;
  /** Of this case: what people write, and what they bring. */
  readonly directory = makeScratch();
  intrudedAt = "";
  readonly malicious: Submitted[] = [];

  private constructor(servers: TwoServers) {
    this.servers = servers;
  }

  static async make(): Promise<Intrusion> {
    const servers = await TwoServers.make();
    const intrusion = new Intrusion(servers);
    const letters = await servers.defer(6);
    const virus = plainLetter({ recipients: ["virus@good.test"], subject: "a virus that scanners know" });
    intrusion.malicious.push(...(await servers.old.submit([virus])));
    await servers.old.settled();
    await servers.old.hold(letters.slice(0, 1).map(({ queueId }) => queueId));
    await servers.site.backup(servers.old);
    intrusion.intrudedAt = new Date().toISOString();
    const [, delivered] = letters;
    if (delivered !== undefined) await servers.deliverAtOld(delivered);
    intrusion.malicious.push(...(await servers.old.submit([plainLetter({ recipients: ["intruder@good.test"] })])));
    await servers.old.settled();
    await servers.site.backup(servers.old);
    return intrusion;
  }

  get scene(): SceneOptions {
    const { fresh, standby, values } = this.servers;
    const set = { ...values, CASE: this.directory, INTRUDED_AT: this.intrudedAt, SCAN: "! grep -q 'a virus'" };
    const known = Object.fromEntries(Object.entries(set).filter(([name]) => name !== "OLD_LOGS" && name !== "PROBE"));
    return {
      ...{ postfix: fresh, config: standby.configure(), set: known },
      answers: {
        ...{
          isolate: "port 7 of the switch",
          revoke: "all",
          configure: "of commit 1",
          "trusted-logs": "from the log server",
        },
        ...{ review: "looked at all", traffic: "the address is here" },
      },
      beforeAction: (step) => this.byHand(step),
    };
  }

  async byHand(step: string): Promise<void> {
    const { old, fresh } = this.servers;
    const path = (name: string) => join(this.directory, name);
    if (step === "isolate") old.kill();
    if (step === "revoke") {
      const lines = ["repository", "ssh", "tls", "dkim", "sasl"].map((what) => `${what}: revoked, 02:10, Ada\n`);
      writeFileSync(path("revoked.txt"), lines.join(""));
    }
    if (step === "configure") {
      mkdirSync(path("postfix"), { recursive: true });
      for (const name of ["main.cf", "master.cf"])
        copyFileSync(join(fresh.configDirectory, name), path(`postfix/${name}`));
    }
    if (step === "trusted-logs") {
      mkdirSync(path("logs"), { recursive: true });
      copyFileSync(old.logFile, path("logs/mail.log"));
    }
    if (step === "review") appendFileSync(path("suspects.ids"), "# reviewed by Ada\n");
    if (step === "traffic") await this.servers.serve(fresh);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    destroyScratch(this.directory);
    await this.servers[Symbol.asyncDispose]();
  }
}

describeRunbook("04-clean-room", (scenes) => {
  test("the mail of before goes on from a clean host, and what is suspicious stays", { timeout: 300_000 }, async () => {
    await using intrusion = await Intrusion.make();
    const { servers } = intrusion;
    const [virus, ofIntruder] = intrusion.malicious;
    const { fresh, sink, letters } = servers;
    if (virus === undefined || ofIntruder === undefined) throw new Error("nothing was sent");
    const before = await StartState.of(fresh);
    // With a scanner that finds nothing, and no log.
    const { set, answers, ...scene } = intrusion.scene;
    const first = await scenes.run({
      ...{ ...scene, set: { ...set, SCAN: "true" }, until: "backup" },
      answers: { ...answers, "trusted-logs": "skip: there is no log server" },
    });
    expect(first.error).toBeUndefined();
    expect(fresh.counts()).toMatchObject({ hold: 7, deferred: 0 });
    expect(readFileSync(join(intrusion.directory, "suspects.ids"), "utf8")).toBe("# reviewed by Ada\n");
    await scenes.undo(first);
    before.expectRestored();
    expect(fresh.running()).toBe(true);

    const start = await StartState.of(fresh, { letters: [...letters, virus], sink });
    const done = ["isolate", "revoke", "configure", "traffic"];
    const holdsBefore = Object.fromEntries(done.map((step) => [step, "somebody did it in the first run"]));
    const run = await scenes.run({ ...intrusion.scene, holdsBefore });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 15, skipped: 0 });
    expect(readFileSync(join(intrusion.directory, "suspects.ids"), "utf8")).toContain(virus.queueId);
    sink.set("good.test", {});
    await allTried(fresh);
    await start.expectKept(run);
    const [held, ...others] = letters;
    expect(sink.audit(others)).toEqual({ lost: [], doubled: [] });
    expect(held && servers.onHold(fresh, held), "what an administrator held").toHaveLength(1);
    expect(servers.onHold(fresh, virus), "what is suspicious").toHaveLength(1);
    expect(sink.count(ofIntruder.messageId, "intruder@good.test")).toBe(0);
  });
});
