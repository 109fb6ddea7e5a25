import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { buildProgram } from "../../src/cli/program.ts";

const examples = join(import.meta.dirname, "../../examples");

/** Every call of the program in a file, as words; `\,` is how sudoers writes a comma. */
function callsIn(file: string): string[][] {
  const text = readFileSync(join(examples, file), "utf8").replaceAll("\\,", ",").replaceAll(/^#.*$/gm, "");
  const calls = text.matchAll(/\/usr\/local\/bin\/spoolsafe (status(?: (?!2>)(?:--[a-z-]+|[a-z0-9]+(?:,\d+h)?))*)/g);
  return [...calls].map(([, words = ""]) => words.split(" "));
}

test.each([
  ["nagios/spoolsafe-nrpe.cfg", 2],
  ["nagios/sudoers", 4],
  ["zabbix/spoolsafe.conf", 1],
  ["prometheus/spoolsafe-textfile.service", 1],
])("%s calls what there is", async (file, calls) => {
  const found = callsIn(file);
  expect(found).toHaveLength(calls);
  for (const words of found) {
    let taken = false;
    const program = buildProgram(async () => {
      taken = true;
    });
    await program.parseAsync(words, { from: "user" });
    expect(taken, words.join(" ")).toBe(true);
  }
});

test("what zabbix and nagios run through sudo is what sudo lets them", () => {
  const allowed = callsIn("nagios/sudoers").map((words) => words.join(" "));
  for (const file of ["nagios/spoolsafe-nrpe.cfg", "zabbix/spoolsafe.conf"]) {
    for (const words of callsIn(file)) expect(allowed).toContain(words.join(" "));
  }
});
