import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";

let directory: string;
let site: StoredSite;
beforeAll(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
});
afterAll(() => destroyScratch(directory));

const commands = [
  "init",
  "doctor",
  "key",
  "backup",
  "schedule",
  "prune",
  "copy",
  "snapshots",
  "ls",
  "show",
  "find",
  "diff",
  "qshape",
  "stats",
  "status",
  "verify",
  "drill",
  "restore",
  "release",
  "undo",
  "holds",
  "triage",
  "runbook",
  "completion",
];

describe("help", () => {
  test("lists the groups and exactly the commands that exist", async () => {
    const { code, stdout, stderr } = await spoolsafe(["--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const groups = ["Set up:", "Protect:", "Look:", "Prove:", "Recover:", "More:"];
    expect(stdout.match(/^[A-Z][a-z ]+:$/gm)).toEqual(["Options:", ...groups]);
    const listed = stdout.slice(stdout.indexOf("Set up:")).match(/^ {2}[a-z]+/gm) ?? [];
    expect(listed.map((name) => name.trim())).toEqual([...commands, "help"]);
  });

  test.each(commands)("%s --help has an example and the global options", async (command) => {
    const { code, stdout } = await spoolsafe([command, "--help"]);
    expect(code).toBe(0);
    expect(stdout).toContain(`  $ spoolsafe ${command}`);
    expect(stdout).toContain("--identity-file <file>");
  });

  test("--version", async () => {
    expect(await spoolsafe(["--version"])).toMatchObject({ code: 0, stdout: "spoolsafe 0.1.0\n", stderr: "" });
  });
});

describe("wrong usage is exit 2, with the nearest right thing", () => {
  test.each([
    [["snapshot"], "spoolsafe: unknown command 'snapshot'\n  Did you mean snapshots?\n"],
    [["snapshots", "--jsn"], "spoolsafe: unknown option '--jsn'\n  Did you mean --json?\n"],
    [["ls"], "spoolsafe: missing required argument 'snap'\n"],
    [
      ["ls", "latest", "more"],
      "spoolsafe: too many arguments for 'ls'. Expected 1 argument but got 2: latest, more.\n",
    ],
    [["backup", "--mode", "fast"], "Allowed choices are hold, freeze, live."],
    [["verify", "--sample", "0%"], "It must be more than 0% and at most 100%."],
    [["restore", "latest", "--to", "/x", "--into", "/y"], "--to and --into exclude each other"],
    [["key"], "a command is missing"],
    [[], "a command is missing"],
  ])("%j", async (args, message) => {
    const { code, stdout, stderr } = await spoolsafe(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("as JSON when asked for, as the only line", async () => {
    const { code, json, stderr } = await spoolsafe(["snapshot", "--json"]);
    expect({ code, stderr }).toEqual({ code: 2, stderr: "" });
    expect(json).toEqual([
      {
        type: "error",
        kind: "usage",
        message: "unknown command 'snapshot'",
        hints: ["Did you mean snapshots?", "spoolsafe --help lists the commands"],
        exit: 2,
      },
    ]);
  });
});

describe("global options", () => {
  test.each([
    ["before", (options: string[]) => [...options, "snapshots"]],
    ["after", (options: string[]) => ["snapshots", ...options]],
  ])("are taken %s the command", async (_, args) => {
    const { code, json } = await spoolsafe(args(["--config", site.config, "--json"]));
    expect(code).toBe(0);
    expect(json).toEqual([{ type: "summary", count: 0 }]);
  });

  test("--repository beats SPOOLSAFE_REPOSITORY beats the file", async () => {
    const none = (name: string) => `file://${directory}/${name}`;
    const args = ["snapshots", "--config", site.config];
    const env = { SPOOLSAFE_REPOSITORY: none("by-env") };
    const byEnv = await spoolsafe(args, { env });
    expect(byEnv).toMatchObject({ code: 10, stdout: "" });
    expect(byEnv.stderr).toContain("by-env");
    const byFlag = await spoolsafe([...args, "--repository", none("by-flag")], { env });
    expect(byFlag.stderr).toContain("by-flag");
    expect(readdirSync(directory)).not.toContain("by-env");
  });

  test("SPOOLSAFE_CONFIG names the file; relative names start where one stands", async () => {
    const env = { SPOOLSAFE_CONFIG: "spoolsafe.toml" };
    expect(await spoolsafe(["snapshots"], { env, cwd: directory })).toMatchObject({
      code: 0,
      stdout: "no snapshots\n",
    });
  });

  test("--quiet leaves the answer and takes the news", async () => {
    await site.snapshot([]);
    const args = ["ls", "latest", "--config", site.config];
    expect((await spoolsafe(args)).stderr).toContain("0 messages in");
    expect(await spoolsafe([...args, "--quiet"])).toMatchObject({ code: 0, stdout: "no messages\n", stderr: "" });
  });
});

describe("configuration errors are exit 2", () => {
  test("every problem at once, for people", async () => {
    const config = join(directory, "bad.toml");
    writeFileSync(config, "hots = 'x'\n[limits]\nprocessors = 0\n");
    const { code, stdout, stderr } = await spoolsafe(["snapshots", "--config", config]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toBe(
      `spoolsafe: 2 problems in the configuration\n  ${config}:1: hots: unknown key; the nearest known one is "host"\n  ${config}:3: limits.processors: must be at least 1\n`,
    );
  });

  test("no repository configured names both ways to set one", async () => {
    const config = join(directory, "empty.toml");
    writeFileSync(config, `[signing]\nkey_file = "${directory}/signing.key"\n`);
    const { code, json } = await spoolsafe(["snapshots", "--config", config, "--json"]);
    expect(code).toBe(2);
    expect(json[0]).toMatchObject({ type: "error", kind: "config", message: "no repository is configured", exit: 2 });
  });

  test("a named file that is not there", async () => {
    const { code, stderr } = await spoolsafe(["snapshots", "--config", join(directory, "none.toml")]);
    expect(code).toBe(2);
    expect(stderr).toContain("none.toml: there is no such configuration file\n  make one with spoolsafe init");
  });
});
