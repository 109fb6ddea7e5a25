import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { Site } from "../support/site.ts";
import { scriptOf, strangersPrograms } from "../support/stranger.ts";

/* Whoever has lost the mail server and has only the repository needs the procedures, too. */

const sample = join(import.meta.dirname, "../fixtures/runbooks/50-sample.md");

describe.skipIf(!needs("root", "postfix", "age", "zstd", "tar", "openssl"))("printed runbooks", () => {
  test("are in every snapshot, stored once, and come back with and without spoolsafe", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    const config = site.configure([postfix]);
    mkdirSync(join(site.directory, "runbooks"), { mode: 0o755 });
    // Whatever the mask of the checkout: what others may write is left out.
    for (const [name, text] of [
      ["50-sample", readFileSync(sample)],
      ["51-broken", "# Not one yet\n"],
    ] as const) {
      writeFileSync(join(site.directory, `runbooks/${name}.md`), text);
      chmodSync(join(site.directory, `runbooks/${name}.md`), 0o644);
    }
    const run = (...args: string[]) => spoolsafe([...args, "--config", config]);

    const paper = (await run("runbook", "paper", "50")).stdout;
    expect(await run("backup")).toMatchObject({ code: 0 });
    const packs = () => readdirSync(join(site.directory, "repository/packs"), { recursive: true });
    const stored = packs();
    expect(await run("backup")).toMatchObject({ code: 0 });
    expect(packs()).toEqual(stored);

    const identity = join(site.directory, "identity.txt");
    const to = join(site.directory, "restored");
    const restored = await run("restore", "latest", "--to", to, "--identity-file", identity);
    expect(restored, restored.stderr).toMatchObject({ code: 0 });
    expect(readdirSync(join(to, "runbooks"))).toEqual(expect.arrayContaining(["50-sample.txt", "51-broken.txt"]));
    expect(readFileSync(join(to, "runbooks/50-sample.txt"), "utf8")).toBe(paper);
    expect(readFileSync(join(to, "runbooks/51-broken.txt"), "utf8")).toBe("# Not one yet\n");

    const programs = join(site.directory, "programs");
    strangersPrograms(programs);
    const repository = join(site.directory, "repository");
    writeFileSync(join(site.directory, "recover.sh"), scriptOf(readFileSync(join(repository, "RECOVER.txt"), "utf8")));
    const env = { PATH: programs, REPOSITORY: repository, IDENTITY: identity, WORK: join(site.directory, "work") };
    for (const step of ["unpack", "config"]) {
      const { status, stderr } = spawnSync("sh", ["recover.sh", step], { cwd: site.directory, env, encoding: "utf8" });
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    }
    expect(readFileSync(join(env.WORK, "config/-/runbook/50-sample.txt"), "utf8")).toBe(paper);
  });

  test("that can't be read don't keep the mail from being backed up", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    const config = site.configure([postfix]);
    writeFileSync(join(site.directory, "runbooks"), "a file, not a directory\n");
    const { code, stderr } = await spoolsafe(["backup", "--config", config]);
    expect(code).toBe(0);
    expect(stderr).toContain("warning: no runbooks are kept with this snapshot");
  });
});
