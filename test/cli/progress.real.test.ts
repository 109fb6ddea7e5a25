import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { builtProgram, type CliResult, spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { Site } from "../support/site.ts";

const columns = 50;
const messages = 600;
const erase = "\r\x1b[K";

describe.skipIf(!needs("root", "postfix", "script")).concurrent("progress of real work", () => {
  let site: Site;
  let postfix: PrivatePostfix;
  let config: string;
  beforeAll(async () => {
    [site, postfix] = [await Site.make(), await PrivatePostfix.create()];
    await fillDeferred(postfix, messages, 1);
    config = site.configure([postfix]);
    await site.backup(postfix);
  });
  afterAll(async () => {
    await postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
  });

  const options = () => ["--config", config, "--identity-file", join(site.directory, "identity.txt")];

  /** Everything a command writes to a terminal of so many columns. */
  async function onTerminal(...args: readonly string[]): Promise<{ readonly shown: string; readonly code: number }> {
    const words = [process.execPath, join(builtProgram(), "spoolsafe.js"), ...args, ...options()];
    const line = `stty cols ${columns}; exec ${words.map((word) => `'${word}'`).join(" ")}`;
    const child = spawn("script", ["--quiet", "--return", "--command", line, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, SHELL: "/bin/sh" },
    });
    try {
      const code = new Promise<number>((resolve) => child.on("close", (status) => resolve(status ?? -1)));
      const shown = await text(child.stdout);
      return { shown, code: await code };
    } finally {
      child.kill("SIGKILL");
    }
  }

  /** The lines that were written over, and what was left on the screen. */
  function screenOf(shown: string): { readonly moving: string[]; readonly left: string } {
    const moving = shown.split(erase).slice(1, -1);
    const left = shown.split("\n").map((line) => line.split(erase).at(-1)?.trimEnd());
    return { moving: moving.filter((line) => line !== ""), left: left.join("\n") };
  }

  test("a terminal shows backup, verify and restore in one line that is gone in the end", async () => {
    const directory = join(site.directory, "plain");
    mkdirSync(directory);
    const works = [
      { args: ["backup"], moving: /^reading: \d+ of 600 messages/, left: /^snapshot \w+ of .*: 600 messages/m },
      { args: ["verify"], moving: /^opening: \d of \d packs, .* of .*B/, left: /^deep: 1 snapshots.* nothing wrong/m },
      { args: ["restore", "latest", "--to", directory], moving: /^writing: \d+ of \d+ files/, left: /^600 messages/m },
    ];
    for (const work of works) {
      const { shown, code } = await onTerminal(...work.args);
      const { moving, left } = screenOf(shown);
      expect(code, shown).toBe(0);
      expect(
        moving.some((line) => work.moving.test(line)),
        shown,
      ).toBe(true);
      expect(Math.max(...moving.map((line) => line.length))).toBeLessThan(columns);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: colours
      expect(left.replace(/\x1b\[\d+m/g, "")).toMatch(work.left);
      expect(left).not.toMatch(/^(reading|opening|writing):/m);
    }
  });

  test("a terminal shows nothing that moves with --quiet and with --json", async () => {
    const [quiet, json] = await Promise.all([onTerminal("verify", "--quiet"), onTerminal("verify", "--json")]);
    expect(quiet.code + json.code).toBe(0);
    expect(quiet.shown + json.shown).not.toContain(erase);
  });

  test("a pipe gets nothing of work that ends soon", async () => {
    const results: CliResult[] = await Promise.all([
      spoolsafe(["verify", ...options()]),
      spoolsafe(["verify", "--json", ...options()]),
    ]);
    for (const { code, stderr } of results) expect([code, stderr]).toEqual([0, ""]);
  });
});

/** Work of one and a half seconds that keeps its process alive, with lines every half; nothing else would. */
const program = `
  import { Render } from "${join(import.meta.dirname, "../../src/cli/render.ts")}";
  const options = { json: process.argv[2] === "--json", quiet: process.argv[2] === "--quiet", verbose: false };
  const render = new Render(options, process.stdout, process.stderr, { logMs: 500 });
  const [start, seconds] = [performance.now(), 1.8];
  const work = setInterval(() => {
    const done = Math.round(performance.now() - start);
    render.progress({ doing: "reading", unit: "messages", done, total: seconds * 1000 });
    if (done < seconds * 1000) return;
    clearInterval(work);
    render.summary({});
    render.text("done");
  }, 10);
`;

async function piped(flag: string): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, ["--input-type=module", "-", flag], { stdio: ["pipe", "pipe", "pipe"] });
  child.stdin.end(program);
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { stdout, stderr };
}

describe.concurrent("a pipe", () => {
  // A busy machine may swallow intervals.
  const lines = /^(reading: \d+ of \d+ messages(, \d+ messages\/s)?(, \d+ s left)?\n){1,3}$/;

  test("gets a line per interval, the answer is elsewhere, and the process ends with the work", async () => {
    const { stdout, stderr } = await piped("--text");
    expect(stdout).toBe("done\n");
    expect(stderr).toMatch(lines);
  });

  test("with --json gets them beside the JSON", async () => {
    const { stdout, stderr } = await piped("--json");
    expect(stdout).toBe('{"type":"summary"}\n');
    expect(stderr).toMatch(lines);
  });

  test("with --quiet gets none", async () => {
    expect(await piped("--quiet")).toEqual({ stdout: "done\n", stderr: "" });
  });
});
