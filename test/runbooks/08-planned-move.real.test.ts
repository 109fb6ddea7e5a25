import { expect, test } from "vitest";
import { plainLetter, type Submitted, until } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { describeRunbook, expectWhole, type SceneOptions, StartState } from "../support/runbook.ts";
import { TwoServers } from "../support/two-servers.ts";
import { allTried } from "../support/undelivered.ts";

interface Move {
  readonly servers: TwoServers;
  /** Mail of the new server itself. */
  readonly own: readonly Submitted[];
}

/** An old server with mail, one message on hold, and a new one that has been tried. */
async function beforeTheMove(): Promise<Move> {
  const servers = await TwoServers.make();
  const [first] = await servers.defer(6);
  await servers.old.hold([first?.queueId ?? ""]);
  await servers.site.backup(servers.old);
  await servers.defer(2, "later");
  const own = await servers.fresh.submit([plainLetter({ recipients: ["own@good.test"] })]);
  await servers.fresh.settled();
  return { servers, own };
}

function sceneOf(servers: TwoServers): SceneOptions {
  const { fresh, standby, site, old, values } = servers;
  const { OLD_LOGS, ...set } = values;
  const remote = { REMOTE: servers.remote(old, site.configure([old])), OLD_LOGIN: "root@mx1" };
  return {
    postfix: fresh,
    config: standby.configure(),
    set: { ...set, ...remote },
    answers: { traffic: "the address is here" },
  };
}

describeRunbook("08-planned-move", (scenes) => {
  test("all is taken back on both servers until mail is released", { timeout: 180_000 }, async () => {
    const { servers } = await beforeTheMove();
    await using _ = servers;
    const { old, fresh, sink, letters } = servers;
    const [before, oldBefore] = [await StartState.of(fresh), await StartState.of(old)];
    const stopped = new Error("stopped before the release");
    const beforeAction = async (step: string) => {
      if (step === "traffic") await servers.serve(fresh);
      if (step === "release") throw stopped;
    };
    const run = await scenes.run({ ...sceneOf(servers), beforeAction });
    expect(run.error).toBe(stopped);
    expect(old.running()).toBe(false);
    expect(fresh.counts()).toMatchObject({ hold: 8, deferred: 1 });
    await scenes.undo(run);
    before.expectRestored();
    oldBefore.expectRestored();
    expectWhole(run);
    // The old server serves as before.
    const [more] = await old.submit([plainLetter({ recipients: ["more@good.test"] })]);
    sink.set("good.test", {});
    await allTried(old);
    expect(sink.audit([...letters.slice(1), ...(more === undefined ? [] : [more])])).toEqual({ lost: [], doubled: [] });
  });

  const points = ["started", "let-go", "exited"] as const;
  const random = new Random(chooseSeed("where the runner of 08 is killed"));
  const tried = process.env.SPOOLSAFE_LONG ? points : [random.pick(points)];
  test.each(tried)("mail moves, also by a runner that is killed (%s)", { timeout: 300_000 }, async (point) => {
    const { servers, own } = await beforeTheMove();
    await using _ = servers;
    const { old, fresh, sink, letters } = servers;
    await servers.serve(fresh);
    const slow = await old.submit([plainLetter({ recipients: ["slow@slow.test"] })]);
    await until(() => sink.waiting === 1, { what: "mail in delivery" });
    const start = await StartState.of(fresh, { letters: [...letters, ...slow, ...own], sink });
    const run = await scenes.crash(sceneOf(servers), point, random);
    expect(run.report).toMatchObject({ done: 9, skipped: 0 });
    await start.expectKept(run);
    sink.set("good.test", {});
    await allTried(fresh);
    const [held, ...others] = letters;
    expect(sink.audit([...others, ...slow, ...own])).toEqual({ lost: [], doubled: [] });
    expect(held && servers.onHold(fresh, held), "what an administrator held").toHaveLength(1);
    expect(old.running()).toBe(false);
    expect(await servers.fence(old)).toMatchObject({ onHold: 1, unfenced: 0 });
  });
});
