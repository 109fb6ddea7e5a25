import { expect, test } from "vitest";
import { plainLetter, type Submitted } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { describeRunbook, expectWhole, type SceneOptions, StartState } from "../support/runbook.ts";
import { TwoServers } from "../support/two-servers.ts";
import { allTried } from "../support/undelivered.ts";

interface Cluster {
  readonly servers: TwoServers;
  /** The living node's own; the first is on hold. */
  readonly own: readonly Submitted[];
}

/** A node with mail, of which a snapshot knows a part, and a living one with mail of its own. */
async function cluster(): Promise<Cluster> {
  const servers = await TwoServers.make();
  const [first] = await servers.defer(6, "dead");
  await servers.old.hold([first?.queueId ?? ""]);
  await servers.site.backup(servers.old);
  const [delivered] = (await servers.defer(3, "later")).slice(-1);
  if (delivered !== undefined) await servers.deliverAtOld(delivered);
  const own = await servers.fresh.submit(
    Array.from({ length: 3 }, (_, n) => plainLetter({ recipients: [`own${n}@good.test`] })),
  );
  await servers.fresh.settled();
  await servers.fresh.hold(own.slice(0, 1).map(({ queueId }) => queueId));
  return { servers, own };
}

function sceneOf({ fresh, standby, values, old }: TwoServers): SceneOptions {
  const { OLD_LOGS = "", RATE = "" } = values;
  const set = { DEAD_HOST: "mx1.source.test", DEAD_ADDRESS: "127.0.0.1", DEAD_PORT: String(old.port), OLD_LOGS, RATE };
  const answers = { "cut-off": "powered off", "last-backup": "from a rescue system", "old-logs": "from its disk" };
  return { postfix: fresh, config: standby.configure(), set, answers };
}

/** What people do in steps by hand. */
async function byHand(servers: TwoServers, step: string): Promise<void> {
  if (step === "cut-off") servers.old.kill();
  if (step === "last-backup") await servers.site.backup(servers.old, { tags: ["last-of-disk"] });
  if (step === "old-logs") servers.saveLogs();
}

describeRunbook("15-merge-dead-node", (scenes) => {
  test("all is taken back until mail is released", { timeout: 180_000 }, async () => {
    const { servers } = await cluster();
    await using _ = servers;
    const { fresh } = servers;
    const before = await StartState.of(fresh);
    const stopped = new Error("stopped before the release");
    const beforeAction = async (step: string) => {
      if (step === "release") throw stopped;
      await byHand(servers, step);
    };
    const run = await scenes.run({ ...sceneOf(servers), beforeAction });
    expect(run.error).toBe(stopped);
    expect(fresh.counts()).toMatchObject({ hold: 1 + 8, deferred: 2 });
    await scenes.undo(run);
    before.expectRestored();
    expectWhole(run);
  });

  const points = ["started", "let-go", "exited"] as const;
  const random = new Random(chooseSeed("where the runner of 15 is killed"));
  const tried = process.env.SPOOLSAFE_LONG ? points : [random.pick(points)];
  test.each(tried)(
    "mail of both is served once, also by a runner that is killed (%s)",
    { timeout: 300_000 },
    async (point) => {
      const { servers, own } = await cluster();
      await using _ = servers;
      const { fresh, sink, letters } = servers;
      for (const step of ["cut-off", "last-backup", "old-logs"]) await byHand(servers, step);
      const start = await StartState.of(fresh, { letters: [...letters, ...own], sink });
      const run = await scenes.crash(sceneOf(servers), point, random);
      expect(run.report).toMatchObject({ done: 8, skipped: 0 });
      await start.expectKept(run);
      sink.set("good.test", {});
      await allTried(fresh);
      const [theirs, ...others] = letters;
      const [ours, ...rest] = own;
      expect(sink.audit([...others, ...rest])).toEqual({ lost: [], doubled: [] });
      for (const held of [theirs, ours])
        expect(held && servers.onHold(fresh, held), "what was on hold").toHaveLength(1);
    },
  );
});
