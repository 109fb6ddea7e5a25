import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { type PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { describeRunbook, expectWhole, type SceneOptions, StartState } from "../support/runbook.ts";
import { TwoServers } from "../support/two-servers.ts";
import { allTried, undelivered } from "../support/undelivered.ts";

interface Served {
  readonly servers: TwoServers;
  /** Accepted by the primary after its last backup: nobody else has it. */
  readonly late: readonly Submitted[];
  /** Of the standby's own time. */
  readonly own: readonly Submitted[];
}

/** A primary that died, and a standby that has taken over and delivered a part. */
async function whileTheStandbyServes(): Promise<Served> {
  const servers = await TwoServers.make();
  const { old, fresh, site, sink, standby } = servers;
  const [held, delivered] = await servers.defer(6);
  await old.hold([held?.queueId ?? ""]);
  await site.backup(old);
  const late = await servers.defer(2, "late");
  old.kill();
  const into = ["restore", "latest", "--host", "mx1.source.test", "--into", fresh.configDirectory, "--merge"];
  const restored = await spoolsafe([...into, "--land", "original", "--config", standby.configure(), "--json"]);
  expect(restored.json.at(-1)).toMatchObject({ restored: 6 });
  for (const address of delivered?.recipients ?? []) sink.set(address, {});
  await fresh.flush();
  await until(() => sink.deliveries.length === 1 && fresh.counts().active === 0, { what: "a delivery of the standby" });
  const own = await fresh.submit([plainLetter({ recipients: ["own@good.test"] })]);
  await fresh.settled();
  return { servers, late, own };
}

function sceneOf(servers: TwoServers): SceneOptions {
  const { fresh, standby, site, old, values } = servers;
  const { RATE = "", SERVICE_HOST = "", SERVICE_PORT = "" } = values;
  const there = { STANDBY_HOST: "mx2.standby.test", STANDBY_LOGIN: "root@mx2", STANDBY_ADDRESS: "127.0.0.1" };
  const remote = { REMOTE: servers.remote(fresh, standby.configure()), STANDBY_PORT: String(fresh.port) };
  return {
    postfix: old,
    config: site.configure([old]),
    set: { ...there, ...remote, RATE, SERVICE_HOST, SERVICE_PORT, SPOOLSAFE_IDENTITY_FILE: standby.identityFile },
    answers: { traffic: "the address is back" },
  };
}

const waiting = (postfix: PrivatePostfix) => undelivered(postfix).sort();

describeRunbook("14-failback", (scenes) => {
  test("mail of both comes together at the primary, once it was taken back on the way", {
    timeout: 240_000,
  }, async () => {
    const { servers, late, own } = await whileTheStandbyServes();
    await using _ = servers;
    const { old, fresh, sink, letters } = servers;
    const atStandby = await StartState.of(fresh);
    const [standbyHas, onlyHere] = [waiting(fresh), late.flatMap(({ recipients }) => recipients)];
    const [held, , ...taken] = letters;
    const stopped = new Error("stopped before the point of no return");
    const beforeAction = async (step: string) => {
      if (step === "traffic") await servers.serve(old);
    };
    const first = await scenes.run({
      ...sceneOf(servers),
      beforeAction: async (step) => {
        if (step === "withdraw") throw stopped;
        await beforeAction(step);
      },
    });
    expect(first.error).toBe(stopped);
    expect(old.log()).toMatch(/postsuper.*: removed/);
    expect(fresh.running()).toBe(false);
    await expect(scenes.undo(first)).rejects.toThrow("stopped at drop, which has no undo");
    expect(old.running()).toBe(false);
    expect(fresh.running()).toBe(true);
    atStandby.expectRestored();
    expect(waiting(fresh)).toEqual(standbyHas);
    expect(waiting(old)).toEqual([...onlyHere, ...(held?.recipients ?? [])].sort());
    expectWhole(first);

    const start = await StartState.of(old, { letters: [...letters, ...own], sink });
    const holdsBefore = { traffic: "it leads here" };
    const run = await scenes.run({ ...sceneOf(servers), holdsBefore, beforeAction });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 12, skipped: 0 });
    expect(readFileSync(join(run.found.directory, "work", "claims.ids"), "utf8")).toMatch(/^[0-9a-f]+\n$/);
    await start.expectKept(run);
    // A restart goes by no claim of the standby any more.
    await old.stop();
    expect(await servers.fence(old)).toMatchObject({ held: 0, onHold: 0, unfenced: 0 });
    await old.start();
    sink.set("good.test", {});
    await allTried(old);
    expect(sink.audit([...taken, ...late, ...own])).toEqual({ lost: [], doubled: [] });
    expect(sink.deliveries).toHaveLength(letters.length - 1 + own.length);
    expect(held && servers.onHold(old, held), "what an administrator held").toHaveLength(1);
  });
});
