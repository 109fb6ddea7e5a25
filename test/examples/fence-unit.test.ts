import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { buildProgram } from "../../src/cli/program.ts";

const examples = join(import.meta.dirname, "../../examples/systemd");

/** Values of a unit's key, words of all its lines. */
function valuesOf(file: string, key: string): string[] {
  const lines = readFileSync(join(examples, file), "utf8").split("\n");
  return lines.flatMap((line) => (line.startsWith(`${key}=`) ? line.slice(key.length + 1).split(" ") : []));
}

describe("the unit of the fence", () => {
  test("comes before Postfix, whichever unit starts it, and its failure keeps Postfix from starting", () => {
    const unit = "spoolsafe-fence.service";
    for (const key of ["Before", "RequiredBy"]) {
      expect(valuesOf(unit, key)).toEqual(expect.arrayContaining(["postfix.service", "postfix@-.service"]));
    }
    const dropIn = "postfix@.service.d/spoolsafe-fence.conf";
    for (const key of ["Requires", "After"]) expect(valuesOf(dropIn, key)).toContain(unit);
    // Once more before every start: a unit that stays active would run after a boot only.
    expect(valuesOf(unit, "RemainAfterExit")).toEqual([]);
    expect(valuesOf(unit, "ConditionPathExists")).toEqual(["/etc/spoolsafe/spoolsafe.toml"]);
  });

  test("runs a command there is", async () => {
    const [program, command, ...args] = valuesOf("spoolsafe-fence.service", "ExecStart");
    expect([program, command]).toEqual(["/usr/bin/env", "spoolsafe"]);
    let performed = 0;
    await buildProgram(async () => void performed++).parseAsync(args, { from: "user" });
    expect(performed).toBe(1);
  });
});
