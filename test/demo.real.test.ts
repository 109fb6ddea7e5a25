import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { builtProgram } from "./support/cli.ts";
import { needs } from "./support/needs.ts";
import { destroyScratch, makeScratch } from "./support/scratch.ts";
import { tree } from "./support/tree.ts";

describe.skipIf(!needs("root", "postfix", "age", "zstd", "tar", "flock"))("the demonstration", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));

  test("shows that both queues say the same, and leaves nothing but its directory", async () => {
    const directory = join(scratch, "demo");
    const machine = tree("/etc/postfix", "/var/spool/postfix/deferred", "/var/spool/postfix/hold");
    const demo = spawn(process.execPath, [join(import.meta.dirname, "../scripts/demo.ts")], {
      cwd: scratch,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        SPOOLSAFE_DEMO_DIRECTORY: directory,
        SPOOLSAFE_DEMO_PROGRAM: join(builtProgram(), "spoolsafe.js"),
      },
    });
    let said = "";
    for (const stream of [demo.stdout, demo.stderr]) {
      stream.on("data", (chunk: Buffer) => {
        said += chunk.toString();
      });
    }
    try {
      const [code] = await once(demo, "close");
      expect({ code, said }).toMatchObject({ code: 0, said: expect.stringContaining("\nBoth queues say the same.\n") });
    } finally {
      demo.kill("SIGKILL");
    }
    expect(said).toMatch(/^resting in the first queue: +(\d+)\nthe same in the second: +\1$/m);
    expect(said).toMatch(/^byte for byte as in the snapshot: +(\d+) of \1$/m);
    expect(Number(/^resting in the first queue: +(\d+)$/m.exec(said)?.[1])).toBeGreaterThan(150);
    // What it prints can be done: where the snapshot is, how stock tools open it, how they rebuild the queue.
    expect(existsSync(join(directory, "repository/RECOVER.txt"))).toBe(true);
    expect(said).toContain(`age -d -i ${directory}/identity.txt ${directory}/repository/packs/`);
    expect(processesThatName(scratch)).toEqual([]);
    expect(processesThatName(`spoolsafe-test-${demo.pid}-`)).toEqual([]);
    expect(readdirSync(tmpdir()).filter((name) => name.startsWith(`spoolsafe-test-${demo.pid}-`))).toEqual([]);
    expect(tree("/etc/postfix", "/var/spool/postfix/deferred", "/var/spool/postfix/hold")).toEqual(machine);
  });
});

/** Processes with a text in their arguments, their environment or the name of the directory they work in. */
function processesThatName(text: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && name !== String(process.pid))
    .filter((pid) => ["cmdline", "environ"].some((file) => contentOf(`/proc/${pid}/${file}`).includes(text)))
    .map((pid) => `${pid} ${contentOf(`/proc/${pid}/cmdline`).replaceAll("\0", " ")}`);
}

/** Empty for a process that is gone. */
function contentOf(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
