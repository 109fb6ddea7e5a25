import { copyFileSync, existsSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Site } from "../support/site.ts";

describeRunbook("05-identity-lost", (scenes) => {
  test("what is stored anew opens with the new identity, from either copy", { timeout: 300_000 }, async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.start();
    const letters = await postfix.submit(
      Array.from({ length: 4 }, (_, n) => plainLetter({ recipients: [`a${n}@elsewhere.test`] })),
    );
    await postfix.settled();
    await postfix.hold(letters.slice(0, 1).map(({ queueId }) => queueId));
    await site.backup(postfix);
    const config = site.configure([postfix]);
    const at = (name: string) => join(site.directory, name);
    renameSync(at("identity.txt"), at("nobody-knows-where.txt"));
    const recipients = readFileSync(at("recipients.txt"), "utf8");
    const start = await StartState.of(postfix, { letters });
    const set = { FOUND: at("found.txt"), NEW: at("new.txt"), COPY_1: at("copy1.txt"), COPY_2: at("copy2.txt") };
    const storing = async (step: string) => {
      if (step === "store") for (const copy of [set.COPY_1, set.COPY_2]) copyFileSync(set.NEW, copy);
    };
    const answers = { search: "skip: not in the safe, not on the standby", store: "the safe, and the bank" };

    const run = await scenes.run({ postfix, config, set, answers, beforeAction: storing });
    expect(run.error).toBeUndefined();
    expect(run.report).toMatchObject({ done: 5, skipped: 1 });
    await start.expectKept(run);
    start.expectRestored();
    expect(existsSync(set.NEW)).toBe(false);
    const command = (...args: string[]) => spoolsafe([...args, "--config", config]);
    expect(await command("ls", "latest", "--identity-file", set.COPY_2)).toMatchObject({ code: 0 });
    expect(await command("ls", "latest~1", "--identity-file", set.COPY_2)).toMatchObject({ code: 12 });
    expect(readFileSync(at("recipients.txt"), "utf8")).toContain(recipients.trim());
    const secret = readFileSync(set.COPY_1, "utf8").match(/AGE-SECRET-KEY-\S+/)?.[0] ?? "none";
    expect(JSON.stringify([run.events, run.story])).not.toContain(secret);

    await scenes.undo({ ...run, options: { ...run.options, answers: { remove: "yes" } } });
    expect(readFileSync(at("recipients.txt"), "utf8")).toBe(recipients);

    // In the end it turns up: then nothing is made.
    renameSync(at("nobody-knows-where.txt"), set.FOUND);
    const found = await scenes.run({
      ...{ postfix, config, set },
      answers: { search: "behind the drawer" },
      holdsBefore: { search: "a person does it, and has" },
    });
    expect(found.error).toMatchObject({ message: expect.stringContaining("nothing-was-found") });
    expect(existsSync(set.NEW)).toBe(false);
  });
});
