import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, type SceneRun, StartState } from "../support/runbook.ts";
import { Site } from "../support/site.ts";
import { tree } from "../support/tree.ts";

describeRunbook("00-triage", (scenes) => {
  test("a damaged message is found, its runbook named, and nothing changed", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    const letters = await postfix.submit([
      plainLetter({ recipients: ["a@elsewhere.test"] }),
      plainLetter({ recipients: ["b@elsewhere.test"] }),
    ]);
    await postfix.settled();
    await postfix.hold([letters[0]?.queueId ?? ""]);
    const config = site.configure([postfix]);
    const start = await StartState.of(postfix, { letters });
    writeFileSync(join(postfix.queueDirectory, "corrupt", "4FC2A1B0"), "no queue file");
    // showq(8) keeps a lock file of its own in pid/.
    const queues = ["maildrop", "incoming", "active", "deferred", "hold", "corrupt", "defer", "bounce"];
    const places = [...queues.map((queue) => join(postfix.queueDirectory, queue)), postfix.configDirectory];
    const before = tree(...places);
    const run = await scenes.run({ postfix, config });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 3, skipped: 0 });
    expect(tree(...places)).toEqual(before);
    expect(written(run, "open.txt").split("\n")[0]).toBe("02-queue-corruption");
    expect(written(run, "queues.txt")).toMatch(/1 deferred\n +1 hold\n/);
    expect(start.lost()).toEqual([]);
    start.expectRestored();
  });

  test("it works with Postfix stopped and a configuration that is wrong", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    const config = site.configure([postfix]);
    writeFileSync(config, `${readFileSync(config, "utf8")}nonsense = 1\n`);
    const start = await StartState.of(postfix);
    const run = await scenes.run({ postfix, config });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 3, skipped: 0 });
    expect(written(run, "triage.jsonl")).toContain("postfix-down");
    await start.expectKept(run);
  });
});

function written({ found }: SceneRun, name: string): string {
  return readFileSync(join(found.directory, "work", name), "utf8");
}
