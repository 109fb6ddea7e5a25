import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const examples = join(import.meta.dirname, "../../examples/prometheus");

test.skipIf(!needs("systemd"))("systemd takes the timer for the textfile, and the service it starts", () => {
  const directory = makeScratch();
  try {
    const units = ["spoolsafe-textfile.service", "spoolsafe-textfile.timer"].map((name) => {
      // The command needs to be there, and may not be on this machine; a path with a space would be two words.
      const text = readFileSync(join(examples, name), "utf8").replace("/usr/local/bin/spoolsafe", "/bin/true");
      writeFileSync(join(directory, name), text);
      return join(directory, name);
    });
    const verified = spawnSync("systemd-analyze", ["verify", ...units], { encoding: "utf8" });
    expect([verified.status, verified.stderr]).toEqual([0, ""]);
  } finally {
    destroyScratch(directory);
  }
});
