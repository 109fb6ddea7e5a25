import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { spoolsafe } from "../support/cli.ts";
import { makeKeys } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

let directory: string;
let config: string;
let repository: string;
beforeEach(() => {
  directory = makeScratch();
  config = join(directory, "etc/spoolsafe.toml");
  repository = `file://${directory}/repository`;
});
afterEach(() => destroyScratch(directory));

const init = (...args: string[]) => spoolsafe(["init", "--config", config, ...args]);
const load = () => loadConfig({ flags: { config }, env: {}, cwd: "/" });
const mode = (name: string) => statSync(join(directory, name)).mode & 0o777;
const content = () =>
  Object.fromEntries(
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((path) => [path, readFileSync(path, "utf8")]),
  );

describe("a primary", () => {
  test("gets repository, keys beside the configuration, and a configuration that is valid", async () => {
    const { recipient } = await makeKeys();
    const { code, stdout, stderr } = await init("--repository", repository, "--recipient", recipient);
    expect(code).toBe(0);
    expect(stdout.match(/^made /gm)).toHaveLength(6);
    expect(stderr).toContain("warning: the identity of the age recipient must be stored elsewhere");
    expect(stderr).toContain("next: `spoolsafe doctor --config");
    expect(existsSync(join(directory, "repository/spoolsafe-repository.json"))).toBe(true);
    expect(readFileSync(join(directory, "etc/recipients.txt"), "utf8")).toContain(`\n${recipient}\n`);
    expect(mode("etc/signing.key")).toBe(0o600);
    expect(loadTrustedKeys(join(directory, "etc/trusted.pub")).fingerprints).toHaveLength(1);
    expect(load()).toMatchObject({
      state_directory: join(directory, "etc/state"),
      repository: { url: repository },
      schedule: { backup: "0 2 * * *", verify: "30 4 * * 0" },
    });
    expect(load().schedule).not.toHaveProperty("drill");
    expect(load().encryption).not.toHaveProperty("identity_file");
  });

  test("with --identity-out gets an identity and is told loudly to take it away", async () => {
    const file = join(directory, "usb/identity.txt");
    const { code, stderr } = await init("--repository", repository, "--identity-out", file, "--post-quantum");
    expect(code).toBe(0);
    expect(stderr).toContain(`warning: ${file} opens every snapshot, and this host does not need it.`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, "utf8")).toMatch(/^# created: .*\n# public key: age1pq1.*\nAGE-SECRET-KEY-PQ-1\S+\n$/);
    expect(readFileSync(join(directory, "etc/recipients.txt"), "utf8")).toContain("\nage1pq1");
    expect(load().encryption.identity_file).toBeUndefined();
  });

  test("run again, everything is left as it is", async () => {
    await init("--repository", repository, "--identity-out", join(directory, "id.txt"));
    const before = content();
    const { code, json } = await init("--identity-out", join(directory, "id.txt"), "--json");
    expect(code).toBe(0);
    expect(json.at(-1)).toMatchObject({ type: "summary", made: [] });
    expect(content()).toEqual(before);
  });

  test("makes only what is missing", async () => {
    const { recipient } = await makeKeys();
    await init("--repository", repository, "--recipient", recipient);
    const before = content();
    rmSync(join(directory, "etc/trusted.pub"));
    const { json } = await init("--json");
    expect(json.at(-1)).toMatchObject({ made: [join(directory, "etc/trusted.pub")] });
    expect(content()).toEqual(before);
  });
});

test("a standby gets deep verify, drill and prune, and its identity", async () => {
  const file = join(directory, "etc/identity.txt");
  const { code, stderr } = await init("--role", "standby", "--repository", repository, "--identity-out", file);
  expect(code).toBe(0);
  expect(stderr).not.toContain("warning:");
  expect(stderr).toContain("next: `spoolsafe key add FILE");
  expect(load()).toMatchObject({
    encryption: { identity_file: file },
    schedule: { verify: "30 4 * * 0", drill: "0 5 1 * *", prune: "0 6 * * *" },
  });
  expect(load().schedule).not.toHaveProperty("backup");
});

describe("what is wrong is found before anything is made", () => {
  const nothing = ["anything"];
  test.each([
    [nothing, ["--repository", "REPOSITORY"], 2, "init needs --recipient or --identity-out"],
    [nothing, ["--repository", "REPOSITORY", "--recipient", "age1abc"], 2, "--recipient:1: not an age recipient"],
    [nothing, ["--repository", "ftp://x", "--identity-out", "DIR/id"], 2, "--repository: repository.url: must be"],
    [nothing, ["--identity-out", "DIR/id"], 2, "no repository is configured"],
    [
      nothing,
      ["--repository", "REPOSITORY", "--recipient", "age1abc", "--identity-out", "DIR/id"],
      2,
      "cannot be used with",
    ],
    [nothing, ["--repository", "REPOSITORY", "--recipient", "age1abc", "--post-quantum"], 2, "not an age recipient"],
  ])("%j %j", async (_, args, expected, message) => {
    const real = args.map((arg) => arg.replace("REPOSITORY", repository).replace("DIR", directory));
    const { code, stdout, stderr } = await init(...real);
    expect({ code, stdout }).toEqual({ code: expected, stdout: "" });
    expect(stderr).toContain(message);
    expect(Object.keys(content()).filter((path) => !path.endsWith("/.owner"))).toEqual([]);
  });

  test("post-quantum and X25519 recipients are not mixed", async () => {
    const [one, other] = [await makeKeys(), await makeKeys(true)];
    const { code, stderr } = await init(
      "--repository",
      repository,
      "--recipient",
      one.recipient,
      "--recipient",
      other.recipient,
    );
    expect(code).toBe(2);
    expect(stderr).toContain("mixes X25519 recipients (line 1) and post-quantum ones (line 2)");
    expect(existsSync(join(directory, "repository"))).toBe(false);
  });

  test("an existing recipients file is not made useless by a new identity", async () => {
    const { recipient } = await makeKeys();
    await init("--repository", repository, "--recipient", recipient);
    const before = content();
    const { code, stderr } = await init("--identity-out", join(directory, "id.txt"));
    expect(code).toBe(1);
    expect(stderr).toContain("recipients.txt is there already, so a new identity would open nothing");
    expect(content()).toEqual(before);
  });

  test("a repository that can't be made leaves no keys behind", async () => {
    writeFileSync(join(directory, "file"), "");
    const { code } = await init(
      "--repository",
      `file://${directory}/file/below`,
      "--identity-out",
      join(directory, "id.txt"),
    );
    expect([1, 10]).toContain(code);
    expect(existsSync(join(directory, "etc"))).toBe(false);
    expect(existsSync(join(directory, "id.txt"))).toBe(false);
  });
});
