import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { JobName } from "../../src/jobs/record.ts";
import { makeCalendar } from "../../src/schedule/expression.ts";
import { daemonUnits, isUnchanged, marked, onCalendar, timerUnits, type UnitsFor } from "../../src/schedule/units.ts";

const examples = join(import.meta.dirname, "../../examples/systemd");

function request(schedule: Partial<Record<JobName, string>>, more: Partial<UnitsFor> = {}): UnitsFor {
  return {
    jobs: Object.entries(schedule).map(([job, expression]) => ({
      job: job as JobName,
      calendar: makeCalendar(expression, "Europe/Paris"),
      jitterMs: 0,
      catchUpMs: 0,
    })),
    jitterMs: 300_000,
    program: ["/usr/bin/env", "spoolsafe"],
    options: [],
    configFile: "/etc/spoolsafe/spoolsafe.toml",
    writes: ["/var/lib/spoolsafe"],
    ...more,
  };
}

const primary = request({ backup: "0 2 * * *", verify: "30 4 * * 0" });

/** Lines that say something. */
const settings = (text: string) => text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));

describe("units", () => {
  test("the examples are what the command writes", async () => {
    const units = [...daemonUnits(primary), ...timerUnits(primary)];
    const shown = units.filter(({ name }) => !name.includes("fence"));
    expect(shown).toHaveLength(7);
    for (const { name, text } of shown) await expect(text).toMatchFileSnapshot(join(examples, name));
    for (const { name, text } of units.filter((unit) => unit.name.includes("fence"))) {
      expect(settings(text), name).toEqual(settings(readFileSync(join(examples, name), "utf8")));
    }
  });

  test("a host that makes no backups gets none for the boot of a mail server, and nothing that needs Postfix", () => {
    const standby = request({ verify: "30 4 * * 0", prune: "0 6 * * *" });
    expect(daemonUnits(standby).map(({ name }) => name)).toEqual(["spoolsafe-schedule.service"]);
    expect(daemonUnits(standby)[0]?.text).not.toContain("holds release");
  });

  test("only what drills may make a network of its own", () => {
    const drilling = request({ verify: "30 4 * * 0", drill: "0 5 1 * *" });
    const [daemon] = daemonUnits(drilling);
    const timers = timerUnits(drilling).filter(({ name }) => name.endsWith(".service"));
    const allowed = [daemon, ...timers].flatMap(
      (unit) => unit?.text.match(/^RestrictNamespaces=.*|CAP_SYS_ADMIN/gm) ?? [],
    );
    expect(allowed).toEqual([
      ...["CAP_SYS_ADMIN", "RestrictNamespaces=net"],
      "RestrictNamespaces=yes",
      ...["CAP_SYS_ADMIN", "RestrictNamespaces=net"],
    ]);
  });

  test("words of a command line arrive as they are, and what is written can be written", () => {
    const [unit] = daemonUnits(
      request(
        { backup: "0 2 * * *" },
        {
          program: ["/opt/no de/node", "/opt/50%/$x/spoolsafe.js"],
          writes: ["/var/lib/spoolsafe", "/home/back up/repository"],
        },
      ),
    );
    expect(unit?.text).toContain('ExecStart="/opt/no de/node" /opt/50%%/$$x/spoolsafe.js schedule run\n');
    expect(unit?.text).toContain('ReadWritePaths="-/home/back up/repository"\n');
  });

  test("one that was changed is not taken for ours", () => {
    const file = marked("[Unit]\nDescription=x\n");
    expect(isUnchanged(file)).toBe(true);
    expect(isUnchanged(file.replace("=x", "=y"))).toBe(false);
    expect(isUnchanged(`${file}#\n`)).toBe(false);
    expect(isUnchanged("[Unit]\nDescription=x\n")).toBe(false);
  });
});

test.each([
  ["30 2 * * *", ["*-*-* 02:30:00 UTC"]],
  ["*/30 * * * *", ["*-*-* *:00,30:00 UTC"]],
  ["0 5 1,15 * *", ["*-*-01,15 05:00:00 UTC"]],
  ["0 4 * * 0", ["Sun *-*-* 04:00:00 UTC"]],
  ["0 6 1 3 MON", ["*-03-01 06:00:00 UTC", "Mon *-03-* 06:00:00 UTC"]],
  ["0 0 L * *", ["*-*~01 00:00:00 UTC"]],
  ["@weekly", ["Sun *-*-* 00:00:00 UTC"]],
])("OnCalendar= of %s", (expression, expected) => {
  expect(onCalendar(expression, "UTC")).toEqual(expected);
});

test("what OnCalendar= can't say is an error", () => {
  for (const expression of ["0 0 15W * *", "0 0 * * 1#2", "0 0 * * 5L"])
    expect(() => onCalendar(expression, "UTC")).toThrow(RangeError);
});
