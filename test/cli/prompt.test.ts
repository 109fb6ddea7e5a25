import { expect, test } from "vitest";
import { confirm } from "../../src/cli/prompt.ts";

const { signal } = new AbortController();

test("--yes is the answer", async () => expect(await confirm("Overwrite it?", true, signal)).toBe(true));

test("without a terminal a question is a usage error that names the flag", async () => {
  await expect(confirm("Overwrite it?", false, signal)).rejects.toMatchObject({
    kind: "usage",
    exitCode: 2,
    hints: [expect.stringContaining("--yes")],
  });
});
