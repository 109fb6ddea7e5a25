import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const root = join(import.meta.dirname, "../..");
const sample = join(root, "test/fixtures/runbooks/50-sample.md");

let directory: string;
/** The command on a host with a configuration that is broken, and a runbook of its own. */
let run: (...args: string[]) => ReturnType<typeof spoolsafe>;
beforeAll(() => {
  directory = makeScratch();
  mkdirSync(join(directory, "runbooks"), { mode: 0o755 });
  copyFileSync(sample, join(directory, "runbooks/50-sample.md"));
  chmodSync(join(directory, "runbooks/50-sample.md"), 0o644);
  writeFileSync(join(directory, "spoolsafe.toml"), "this is not TOML\n");
  run = (...args) => spoolsafe(["runbook", ...args, "--config", join(directory, "spoolsafe.toml")]);
});
afterAll(() => destroyScratch(directory));

describe("list", () => {
  test("finds by symptom, and has the package's own", async () => {
    const { code, stdout, stderr } = await run("list", "--for", "nobody", "knows", "why");
    expect(code).toBe(0);
    expect(stdout).toContain("50-sample  sev2      10m     any   A sample that touches nothing real\n");
    expect(stderr).toBe("50-sample: the site's own\n");
    const { json } = await run("list", "--json");
    const packaged = readdirSync(join(root, "runbooks")).filter((name) => /^\d\d-.*\.md$/.test(name));
    expect(json.at(-1)).toEqual({ type: "summary", count: packaged.length + 1 });
    expect(json).toContainEqual(
      expect.objectContaining({
        type: "runbook",
        id: "RB-50",
        origin: "site",
        trusted: true,
        mistakes: 0,
        rtoMs: 600_000,
      }),
    );
  });

  test("says what to do when nothing fits", async () => {
    expect(await run("list", "--for", "zebra")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("runbook show 00"),
    });
  });
});

describe("show", () => {
  test("prints the file as it is", async () => {
    expect(await run("show", "50")).toMatchObject({ code: 0, stdout: readFileSync(sample, "utf8") });
  });

  test("writes one, or all with their index, and replaces nothing", async () => {
    const to = join(directory, "written");
    expect(await run("show", "RB-50", "--to", to)).toMatchObject({ code: 0, stdout: `${to}/50-sample.md\n` });
    expect(await run("show", "--all", "--to", to)).toMatchObject({ code: 0 });
    const names = readdirSync(join(root, "runbooks")).filter((name) => name.endsWith(".md"));
    expect(readdirSync(to).sort()).toEqual([...names, "50-sample.md"].sort());
    writeFileSync(join(to, "50-sample.md"), "mine\n");
    const { code, stderr } = await run("show", "--all", "--to", to);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("50-sample.md with another text") });
    expect(readFileSync(join(to, "50-sample.md"), "utf8")).toBe("mine\n");
  });

  test.each([[[]], [["--all"]], [["50", "--all", "--to", "/x"]], [["99"]]])("%j is wrong usage", async (args) => {
    expect(await run("show", ...args)).toMatchObject({ code: 2, stdout: "" });
  });
});

describe("lint", () => {
  test("is silent and 0 where nothing is wrong", async () => {
    expect(await run("lint", sample)).toMatchObject({ code: 0, stdout: "", stderr: "1 runbook read, 0 findings\n" });
  });

  test("names file, line and rule, and is 1", async () => {
    const path = join(directory, "bad.md");
    writeFileSync(
      path,
      readFileSync(sample, "utf8").replace(
        "postfix reload\n```\n\n```sh {name=close-verify",
        "sudo postfix reload\n```\n\n```sh {name=close-verify",
      ),
    );
    const { code, stdout } = await run("lint", path);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^.*\/bad\.md:56: no sudo: .* \(sudo\)$/m);
    const told = await run("lint", path, "--json");
    expect(told.json).toContainEqual(
      expect.objectContaining({ type: "finding", runbook: "bad", line: 56, rule: "sudo" }),
    );
    expect(told.json.at(-1)).toMatchObject({ type: "summary", runbooks: 1 });
  });

  test("of what can't be read is 2", async () => {
    expect(await run("lint", join(directory, "none.md"))).toMatchObject({ code: 2, stdout: "" });
  });
});

describe("plan and paper", () => {
  test("show values with their origin and every step, and execute nothing", async () => {
    const canary = join(directory, "executed");
    const path = join(directory, "60-canary.md");
    const text = readFileSync(sample, "utf8")
      .replaceAll("RB-50", "RB-60")
      .replace("$(postconf -h queue_directory)", `$(touch ${canary})`);
    writeFileSync(path, text);
    const { code, stdout, stderr } = await run("plan", path, "--set", "MAIL_CONFIG=/etc/other");
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("(not-read-only)") });
    expect(stdout).toMatch(/^MAIL_CONFIG +\/etc\/other +--set$/m);
    expect(stdout).toMatch(/^QUEUE_DIRECTORY +\$\(touch .*default, computed when it runs$/m);
    expect(stdout).toContain("first count-pre; done when count-verify says so; no undo");
    const paper = await run("paper", path);
    expect(paper).toMatchObject({ code: 0, stdout: expect.stringContaining("IF THIS FAILS") });
    expect(readdirSync(directory)).not.toContain("executed");
  });

  test("of one that lint complains of is 1, of one that can't be run 2", async () => {
    const path = join(directory, "61-bad.md");
    writeFileSync(
      path,
      readFileSync(sample, "utf8").replaceAll("RB-50", "RB-61").replace("risk=read timeout=1m", "risk=read"),
    );
    expect(await run("plan", path)).toMatchObject({ code: 1, stderr: expect.stringContaining("(timeout)") });
    writeFileSync(path, "# Nothing\n");
    for (const verb of ["plan", "paper"]) {
      const { code, stderr } = await run(verb, path);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("61-bad.md:1: no steps") });
    }
  });

  test.each(["X=1", "MAIL_CONFIG"])("--set %s is wrong usage", async (setting) => {
    expect(await run("plan", "50", "--set", setting)).toMatchObject({ code: 2, stdout: "" });
  });
});

describe("the package", () => {
  test("has the runbooks in it", () => {
    const { stdout } = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
      cwd: root,
      encoding: "utf8",
      env: { ...process.env, npm_config_cache: join(directory, "npm-cache") },
    });
    const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
    const packed = files.map(({ path }) => path).filter((path) => path.startsWith("runbooks/"));
    expect(packed.sort()).toEqual(
      readdirSync(join(root, "runbooks"))
        .map((name) => `runbooks/${name}`)
        .sort(),
    );
  });

  test("finds them through a link to the command, as npm makes it", () => {
    const installed = join(directory, "lib/node_modules/spoolsafe");
    mkdirSync(join(installed, "runbooks"), { recursive: true });
    const dist = join(directory, "lib/node_modules/spoolsafe/dist");
    mkdirSync(dist);
    for (const name of readdirSync(builtProgram()).filter((each) => each.endsWith(".js"))) {
      copyFileSync(join(builtProgram(), name), join(dist, name));
    }
    copyFileSync(join(root, "package.json"), join(installed, "package.json"));
    copyFileSync(sample, join(installed, "runbooks/50-sample.md"));
    mkdirSync(join(directory, "bin"));
    symlinkSync("../lib/node_modules/spoolsafe/dist/spoolsafe.js", join(directory, "bin/spoolsafe"));
    const { stdout, status } = spawnSync(
      process.execPath,
      [
        join(directory, "bin/spoolsafe"),
        "runbook",
        "list",
        "--json",
        "--config",
        join(directory, "none/spoolsafe.toml"),
      ],
      { encoding: "utf8" },
    );
    expect(status).toBe(0);
    expect(stdout).toContain(join(installed, "runbooks/50-sample.md"));
    expect(stdout).toContain('{"type":"summary","count":1}');
  });
});
