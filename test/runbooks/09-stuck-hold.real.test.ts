import { expect, test } from "vitest";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Site } from "../support/site.ts";
import { StuckQueue } from "../support/stuck-queue.ts";

describeRunbook("09-stuck-hold", (scenes) => {
  test("what a dead backup held goes on, and what an administrator held stays", { timeout: 240_000 }, async () => {
    await using queue = await StuckQueue.make();
    const start = await StartState.of(queue.postfix, queue);
    const run = await scenes.run(queue.scene);
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 4, skipped: 0 });
    expect(queue.held.filter((id) => queue.ours.includes(id))).toEqual([]);
    await queue.deliver();
    await start.expectKept(run);
    expect(queue.sink.deliveries).toHaveLength(6);
  });

  test("where nothing is ours it is refused, and nothing is released", { timeout: 240_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    const letters = await postfix.submit([plainLetter({ recipients: ["a@elsewhere.test"] })]);
    await postfix.settled();
    await postfix.hold(letters.map(({ queueId }) => queueId));
    const start = await StartState.of(postfix, { letters });
    const run = await scenes.run({ postfix, config: site.configure([postfix]) });
    expect(run.error).toMatchObject({ kind: "failed", message: expect.stringContaining("something-is-ours") });
    await start.expectKept(run);
    start.expectRestored();
  });

  const points = ["started", "let-go", "exited"] as const;
  const random = new Random(chooseSeed("the point at which the runner of 09 is killed"));
  const tried = process.env.SPOOLSAFE_LONG ? points : [random.pick(points)];
  test.each(tried)("a runner killed at every step (%s) comes to the same end", { timeout: 300_000 }, async (point) => {
    await using queue = await StuckQueue.make();
    const start = await StartState.of(queue.postfix, queue);
    const run = await scenes.crash(queue.scene, point);
    expect(run.report).toMatchObject({ done: 4, skipped: 0 });
    expect(queue.held.filter((id) => queue.ours.includes(id))).toEqual([]);
    await queue.deliver();
    await start.expectKept(run);
  });
});
