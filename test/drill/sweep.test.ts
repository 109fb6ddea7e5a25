import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { sweepDead, workFile, workRecord } from "../../src/drill/sweep.ts";
import { Workplace } from "../../src/drill/workplace.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { processStart } from "../../src/system/processes.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

describe("what drills left", () => {
  const scratch = makeScratch({ parent: "/var/tmp" });
  let drills = "";
  let made = 0;
  beforeEach(() => {
    drills = join(scratch, String(++made), "drills");
    mkdirSync(drills, { recursive: true });
  });
  afterAll(() => destroyScratch(scratch));

  /** A drill's place, with a file that names where it works. */
  const leave = (id: string, directory = join(scratch, `spoolsafe-drill-${id}`)) => {
    mkdirSync(join(directory, "1/spool"), { recursive: true });
    mkdirSync(join(drills, id));
    writeFileSync(join(drills, id, workFile), workRecord(directory));
    return directory;
  };

  test("is taken away when they are dead", async () => {
    const directory = leave("0123456789ab");
    mkdirSync(join(drills, "aaaaaaaaaaaa"));
    expect((await sweepDead(drills, systemClock)).sort()).toEqual(["0123456789ab", "aaaaaaaaaaaa"]);
    expect(existsSync(directory)).toBe(false);
    expect(readdirSync(drills)).toEqual([]);
  });

  test("is left to those that live", async () => {
    const directory = leave("0123456789ab");
    const lock = await tryLock(join(drills, "0123456789ab"));
    try {
      expect(await sweepDead(drills, systemClock)).toEqual([]);
      expect(existsSync(directory)).toBe(true);
    } finally {
      await lock?.release();
    }
  });

  test("is only what a drill can have made, whatever the file says", async () => {
    const directory = leave("0123456789ab", join(scratch, `precious${made}`));
    await sweepDead(drills, systemClock);
    expect(existsSync(directory)).toBe(true);
    expect(readdirSync(drills)).toEqual([]);
  });

  test("does not include reports, nor what is no drill's", async () => {
    const directory = leave("0123456789ab");
    writeFileSync(join(drills, "0123456789ab", "report.json"), "{}");
    mkdirSync(join(drills, "bbbbbbbbbbbb"));
    writeFileSync(join(drills, "bbbbbbbbbbbb", "report.json"), "{}");
    mkdirSync(join(drills, "other"));
    expect(await sweepDead(drills, systemClock)).toEqual(["0123456789ab"]);
    expect(existsSync(directory)).toBe(false);
    expect(readdirSync(drills).sort()).toEqual(["0123456789ab", "bbbbbbbbbbbb", "other"]);
    expect(readdirSync(join(drills, "0123456789ab"))).toEqual(["report.json"]);
  });

  test("is swept by the next drill, which then has a place of its own until it ends", async () => {
    const directory = leave("0123456789ab");
    const state = join(scratch, String(made));
    const place = await Workplace.make("cccccccccccc", state, scratch, systemClock);
    expect(place.swept).toEqual(["0123456789ab"]);
    expect(existsSync(directory)).toBe(false);
    expect(existsSync(place.directory)).toBe(true);
    expect(await sweepDead(drills, systemClock)).toEqual([]);
    await place.remove();
    expect(existsSync(place.directory)).toBe(false);
    expect(readdirSync(drills)).toEqual([]);
  });

  test("a directory Postfix's processes can't pass through won't do", async () => {
    const closed = join(scratch, `c${made}`);
    mkdirSync(join(closed, "in"), { recursive: true, mode: 0o700 });
    const state = join(scratch, String(made));
    await expect(Workplace.make("cccccccccccc", state, join(closed, "in"), systemClock)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("not every user may pass through"),
    });
    await expect(Workplace.make("cccccccccccc", state, join(closed, "out"), systemClock)).rejects.toMatchObject({
      kind: "refused",
    });
    const long = join(scratch, "long".repeat(20));
    mkdirSync(long);
    await expect(Workplace.make("cccccccccccc", state, long, systemClock)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("too long for the sockets of Postfix"),
    });
    expect(readdirSync(drills)).toEqual([]);
  });

  test.each(["a b", "a$b", "a*"])("%j in a path won't do: Postfix would look for its queue elsewhere", async (name) => {
    const parent = join(scratch, `d${made}`, name);
    mkdirSync(parent, { recursive: true });
    const state = join(scratch, String(made));
    await expect(Workplace.make("cccccccccccc", state, parent, systemClock)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("with such characters in its path"),
    });
  });

  test("does not include who looks around in it at a terminal", async () => {
    const directory = leave("0123456789ab");
    const ours = spawn("sleep", ["300"], { cwd: directory, stdio: "ignore" });
    const ended = once(ours, "exit");
    // script(1) gives the shell a terminal.
    const shell = spawn("script", ["-qec", `cd ${directory}; echo $$; read line`, "/dev/null"]);
    try {
      const [pid] = await once(shell.stdout, "data");
      await sweepDead(drills, systemClock);
      expect((await ended)[1]).toBe("SIGKILL");
      expect(processStart(Number(pid))).toBeDefined();
      expect(existsSync(directory)).toBe(false);
    } finally {
      ours.kill("SIGKILL");
      shell.kill("SIGKILL");
    }
  });

  test("a directory nothing can be made in won't do, and nothing is left of the attempt", async () => {
    const state = join(scratch, String(made));
    for (const _ of [1, 2]) {
      await expect(Workplace.make("cccccccccccc", state, "/proc", systemClock)).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringMatching(/^no drill can be done in \/proc: ENOENT/),
      });
      expect(readdirSync(drills)).toEqual([]);
    }
  });
});
