import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { fence, sheet } from "../runbook/bench.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { type SceneOptions, Scenes, StartState } from "../support/runbook.ts";

/* The harness of scenarios itself: it must fail where a runbook's checks prove nothing. */

describe.skipIf(!needs("root", "postfix"))("scenarios", async () => {
  const postfix = await PrivatePostfix.create();
  afterAll(() => postfix.destroy());
  const place = join(postfix.directory, "place");

  function scenes(text: string): Scenes {
    writeFileSync(join(postfix.directory, "91-short.md"), text);
    return new Scenes("91-short", postfix.directory);
  }

  const options: SceneOptions = { postfix, config: join(postfix.directory, "none.toml"), set: { PLACE: place } };
  const touch = (name: string, verify: string) =>
    fence(`name=${name} risk=change timeout=20s`, `touch "$PLACE-${name}"`) +
    fence(`name=${name}-verify kind=verify`, verify) +
    fence(`name=${name}-undo kind=undo risk=change timeout=20s excludeFromRunAll=true`, `rm -f "$PLACE-${name}"`);

  test("fail where a verify holds without its action, unless that is declared", async () => {
    const decorative = scenes(sheet([touch("a", "true")]).text);
    await expect(decorative.run(options)).rejects.toThrow("a: its verify holds although nothing was done");
    expect((await decorative.run({ ...options, holdsBefore: { a: "a test" } })).report).toMatchObject({ done: 1 });
    const honest = scenes(sheet([touch("b", 'test -e "$PLACE-b"')]).text);
    await expect(honest.run({ ...options, holdsBefore: { b: "a test" } })).rejects.toThrow(
      "b: declared to hold before",
    );
  });

  test("know which blocks were never executed, stop before a step, and undo to the start", async () => {
    const two = scenes(sheet([touch("c", 'test -e "$PLACE-c"'), touch("d", 'test -e "$PLACE-d"')]).text);
    const start = await StartState.of(postfix);
    const half = await two.run({ ...options, until: "d" });
    expect([half.report, half.error]).toEqual([undefined, undefined]);
    expect(two.missing).toEqual(["c-undo", "d", "d-verify", "d-undo"]);
    await two.undo(half);
    start.expectRestored();
    writeFileSync(join(postfix.queueDirectory, "corrupt", "ABC"), "");
    await expect(start.expectKept(half)).rejects.toThrow("corrupt/");
    two.destroy();
  });
});
