import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { chooseSeed, Random } from "../support/random.ts";
import { describeRunbook, expectWhole, type SceneOptions, StartState } from "../support/runbook.ts";
import { TwoServers } from "../support/two-servers.ts";
import { allTried } from "../support/undelivered.ts";

/** A primary whose backup has eight messages; one of them it delivers afterwards, one was on hold. */
async function primaryBeforeItsEnd(): Promise<TwoServers> {
  const servers = await TwoServers.make();
  const letters = await servers.defer(8);
  await servers.old.hold(letters.slice(0, 1).map(({ queueId }) => queueId));
  await servers.site.backup(servers.old);
  const [, delivered] = letters;
  if (delivered !== undefined) await servers.deliverAtOld(delivered);
  return servers;
}

function sceneOf(servers: TwoServers): SceneOptions {
  const { fresh, standby, values } = servers;
  const answers = { "cut-off": "powered off", "old-logs": "from its disk", traffic: "the address is here" };
  return { postfix: fresh, config: standby.configure(), set: values, answers };
}

/** What people do in steps by hand. */
function byHand(servers: TwoServers): (step: string) => Promise<void> {
  return async (step) => {
    if (step === "cut-off") servers.old.kill();
    if (step === "old-logs") servers.saveLogs();
    if (step === "traffic") await servers.serve(servers.fresh);
  };
}

async function expectServed(servers: TwoServers): Promise<void> {
  const { fresh, sink, letters } = servers;
  const [held, ...others] = letters;
  sink.set("good.test", {});
  await allTried(fresh);
  expect(sink.audit(others)).toEqual({ lost: [], doubled: [] });
  if (held === undefined) throw new Error("nothing was sent");
  expect(servers.onHold(fresh, held), "what an administrator held").toHaveLength(1);
}

describeRunbook("01-primary-lost", (scenes) => {
  test("all is taken back until mail is released", { timeout: 180_000 }, async () => {
    await using servers = await primaryBeforeItsEnd();
    const { fresh } = servers;
    const before = await StartState.of(fresh);
    const act = byHand(servers);
    const stopped = new Error("stopped before the release");
    const beforeAction = async (step: string) => {
      if (step === "release") throw stopped;
      await act(step);
    };
    const run = await scenes.run({ ...sceneOf(servers), beforeAction });
    expect(run.error).toBe(stopped);
    expect(fresh.counts()).toMatchObject({ hold: 7, deferred: 0 });
    expect(readFileSync(join(run.found.directory, "work", "in-doubt.txt"), "utf8")).toContain("lost 0 of the snapshot");
    await scenes.undo(run);
    before.expectRestored();
    expect(fresh.running()).toBe(true);
    expectWhole(run);
    expect(await servers.fence(servers.old)).toMatchObject({ held: 0, onHold: 0 });
  });

  const points = ["started", "let-go", "exited"] as const;
  const random = new Random(chooseSeed("where the runner of 01 is killed"));
  const tried = process.env.SPOOLSAFE_LONG ? points : [random.pick(points)];
  test.each(tried)(
    "the standby takes over, and a runner that is killed (%s) goes on",
    { timeout: 300_000 },
    async (point) => {
      await using servers = await primaryBeforeItsEnd();
      const { fresh, sink, letters } = servers;
      servers.old.kill();
      servers.saveLogs();
      await servers.serve(fresh);
      const start = await StartState.of(fresh, { letters, sink });
      const run = await scenes.crash(sceneOf(servers), point, random);
      expect(run.report).toMatchObject({ done: 11, skipped: 0 });
      await start.expectKept(run);
      await expectServed(servers);
      expect(await servers.fence(servers.old)).toMatchObject({ held: 6, onHold: 1, unfenced: 0 });
    },
  );
});
