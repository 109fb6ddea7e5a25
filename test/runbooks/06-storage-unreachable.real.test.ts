import { renameSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

describeRunbook("06-storage-unreachable", (scenes) => {
  test("backups go elsewhere, and are handed in when the storage is back", { timeout: 300_000 }, async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { rcpt: "450 4.2.0 try later" } } });
    await using postfix = await PrivatePostfix.start({ sink });
    const letters = await postfix.submit(
      Array.from({ length: 4 }, (_, n) => plainLetter({ recipients: [`a${n}@slow.test`] })),
    );
    await postfix.settled();
    await postfix.hold(letters.slice(0, 1).map(({ queueId }) => queueId));
    await site.backup(postfix);
    const config = site.configure([postfix]);
    const storage = join(site.directory, "repository");
    const command = (...args: string[]) => spoolsafe([...args, "--config", config, "--json"]);
    const copy = `file://${join(site.directory, "copy")}`;
    expect(await command("copy", "--to", copy)).toMatchObject({ code: 0 });
    const start = await StartState.of(postfix, { letters, sink });
    const [away, back] = [() => renameSync(storage, `${storage}.away`), () => renameSync(`${storage}.away`, storage)];

    away();
    const repairing = async (step: string) => {
      if (step === "repair") back();
    };
    const answers = { repair: "somebody had unmounted it" };
    const run = await scenes.run({ postfix, config, set: { FALLBACK: copy }, answers, beforeAction: repairing });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 6, skipped: 0 });
    await start.expectKept(run);
    start.expectRestored();
    const stored = (await command("snapshots")).json.filter(({ type }) => type === "snapshot");
    expect(stored.map(({ tags }) => tags)).toEqual([[], ["storage-unreachable"], ["storage-back"]]);
    expect(await command("verify", "--all", "--level", "sealed")).toMatchObject({ code: 0 });

    // No copy anywhere: a repository of its own, which stays where it is.
    away();
    const fresh = await scenes.run({
      ...{ postfix, config, set: { FALLBACK: `file://${join(site.directory, "fresh")}` }, beforeAction: repairing },
      answers: {
        ...{ ...answers, "fallback-is-there": "yes", "fallback-is-a-copy": "yes" },
        "hand-in": "skip: it is a repository of its own",
      },
      until: "backup-again",
    });
    expect(fresh.error).toBeUndefined();
    const ends = fresh.events.flatMap((event) => (event.type === "step-end" ? [`${event.step} ${event.state}`] : []));
    expect(ends.slice(-2)).toEqual(["repair done", "hand-in skipped"]);
    await start.expectKept(fresh);
  });
});
