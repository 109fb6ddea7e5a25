import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey, type SigningKey } from "../../src/crypto/sign.ts";
import { examineSetup, type SetupToExamine } from "../../src/doctor/doctor.ts";
import type { Finding } from "../../src/doctor/finding.ts";
import { examineHost } from "../../src/doctor/host.ts";
import { OperatorError } from "../../src/errors.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { ObjectRetained, RemovalRefused } from "../../src/repository/object-store.ts";
import { Repository } from "../../src/repository/repository.ts";
import { systemClock } from "../../src/system/clock.ts";
import { newSigningKey } from "../support/claims.ts";
import { spoolsafe } from "../support/cli.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { makeKeys } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";

let directory: string;
let site: StoredSite;
beforeEach(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
});
afterEach(() => destroyScratch(directory));

const path = (name: string) => join(directory, name);

/** The findings about a setup that is sound but for what is put over it, without any Postfix. */
async function examine(over: Partial<SetupToExamine> = {}): Promise<Finding[]> {
  const findings: Finding[] = [];
  const setup: SetupToExamine = {
    role: "primary",
    stateDirectory: path("state"),
    recipientsFile: path("recipients.txt"),
    identityFile: undefined,
    signingKeyFile: path("signing.key"),
    trustedKeysFile: path("trusted.pub"),
    findInstances: async () => [],
    openRepository: () => Repository.open(new DirectoryStore(path("repository"))),
    scope: { host: undefined, ownHost: undefined },
    instance: undefined,
    maxAgeMs: 26 * 3_600_000,
    port25: undefined,
    probe: false,
    clock: systemClock,
    signal: new AbortController().signal,
    ...over,
  };
  await examineSetup(setup, (finding) => findings.push(finding));
  return findings.filter(({ name }) => name !== "postfix instances");
}

async function wrong(over: Partial<SetupToExamine> = {}): Promise<string[]> {
  return (await examine(over))
    .filter(({ ok }) => !ok)
    .map(({ name, message, remedy }) => `${name}: ${message} | ${remedy}`);
}

test("a sound setup has nothing wrong, and looking leaves nothing", async () => {
  expect(await wrong()).toEqual([]);
  expect(existsSync(path("state"))).toBe(false);
});

describe("the host", () => {
  test.each([
    ["24.21.0", 0, "primary", []],
    ["26.0.0", 0, "standby", []],
    ["24.10.9", 0, "primary", ["node"]],
    ["20.20.2", 0, "primary", ["node"]],
    ["24.21.0", 1000, "primary", ["root"]],
    ["24.21.0", 1000, "standby", ["root"]],
  ] as const)("Node %s, uid %i, %s", async (nodeVersion, uid, role, names) => {
    const findings: Finding[] = [];
    await examineHost({ nodeVersion, uid, role }, (finding) => findings.push(finding));
    const about = findings.filter(({ name }) => name === "node" || name === "root");
    expect(about.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(names);
    for (const { ok, remedy } of about) if (!ok) expect(remedy).toBeTruthy();
  });
});

test("a prune by a key that this host does not trust", async () => {
  const repository = await Repository.open(new DirectoryStore(path("repository")));
  const prune = async (key: SigningKey) =>
    await repository.announce({ snapshots: [], packs: [], parts: [] }, new Date(), key);
  await prune(loadSigningKey(path("signing.key")));
  expect(await wrong()).toEqual([]);
  const pruner = newSigningKey(directory, "pruner");
  await prune(pruner);
  expect(await wrong()).toEqual([
    `prunes: ${pruner.writer} prunes this repository, and this host does not trust its key: a backup here may build upon what it removes, and verify sees gaps | \`spoolsafe key add FILE\` with the trusted.pub of the host that prunes; if none should, find out who can write to the repository`,
  ]);
  appendFileSync(path("trusted.pub"), pruner.publicPem);
  expect(await wrong()).toEqual([]);
});

describe("keys", () => {
  test("no recipients file", async () => {
    rmSync(path("recipients.txt"));
    expect((await wrong())[0]).toMatch(
      /^age recipients: the recipients file .* can't be read: ENOENT \| .*spoolsafe init/,
    );
  });

  test("mixed recipients", async () => {
    const { recipient } = await makeKeys(true);
    writeFileSync(path("recipients.txt"), `${site.recipient}\n${recipient}\n`);
    expect((await wrong())[0]).toContain("mixes X25519 recipients");
  });

  test("one recipient only is advice", async () => {
    const finding = (await examine()).find(({ name }) => name === "age recipients");
    expect(finding).toMatchObject({ ok: true, remedy: expect.stringContaining("a second one") });
  });

  test("a signing key open to others", async () => {
    chmodSync(path("signing.key"), 0o640);
    expect((await wrong())[0]).toContain("is open to others (mode 0640) | run: chmod 0600");
  });

  test("an own key that this host does not trust", async () => {
    writeFileSync(path("trusted.pub"), createSigningKey().publicPem);
    expect((await wrong())[0]).toContain("does not have this host's own key | `spoolsafe init` adds it");
  });

  test("an identity on a primary is advice; none on a standby is wrong", async () => {
    const primary = (await examine({ identityFile: site.identityFile })).find(({ name }) => name === "identity");
    expect(primary).toMatchObject({ ok: true, remedy: expect.stringContaining("keep it elsewhere") });
    expect((await wrong({ role: "standby" })).slice(0, 2)).toEqual([
      "identity: none is configured: snapshots can't be opened here | set encryption.identity_file",
      expect.stringContaining("has no key of a primary | `spoolsafe key add FILE`"),
    ]);
  });
});

describe("the state directory", () => {
  test("is below something that is no directory", async () => {
    writeFileSync(path("file"), "");
    expect((await wrong({ stateDirectory: path("file/state") }))[0]).toContain(
      "is not a directory | set state_directory",
    );
  });

  test("in memory forgets what we hold", async () => {
    if (!readFileSync("/proc/mounts", "utf8").includes(" /dev/shm tmpfs ")) return;
    expect((await wrong({ stateDirectory: "/dev/shm/spoolsafe-none" }))[0]).toContain("is in memory");
  });

  test("with a journal left over names the command, and does not touch it", async () => {
    mkdirSync(path("state/holds"), { recursive: true });
    writeFileSync(path("state/holds/run1.etc_postfix.jsonl"), "");
    expect(await wrong()).toEqual([
      "holds: an interrupted backup may have left mail on hold: run1.etc_postfix.jsonl | `spoolsafe holds release` gives it back",
    ]);
    expect(readdirSync(path("state/holds"))).toEqual(["run1.etc_postfix.jsonl"]);
  });
});

describe("the repository", () => {
  test("is not there", async () => {
    const missing = new DirectoryStore(path("nowhere"));
    expect((await wrong({ openRepository: () => Repository.open(missing) }))[0]).toMatch(/^repository: /);
    expect(existsSync(path("nowhere"))).toBe(false);
  });

  test("is looked at without writing, and with --probe written to and left as it was", async () => {
    const content = () =>
      readdirSync(path("repository"), { recursive: true }).filter((name) => !String(name).startsWith("probes"));
    const before = content();
    const findings = await examine({ probe: true });
    expect(findings.find(({ name }) => name === "repository probe")).toMatchObject({ ok: true });
    expect(content()).toEqual(before);
    expect(
      readdirSync(path("repository"), { recursive: true, withFileTypes: true }).filter(
        (entry) => entry.isFile() && entry.parentPath.includes("probes"),
      ),
    ).toEqual([]);
  });

  test("takes a probe that can't be removed: locked, or by who may not", async () => {
    const until = Date.UTC(2027, 0, 5);
    const refusals = [
      { refusal: (key: string) => new ObjectRetained(key, until), says: "is locked until 2027-01-05T00:00:00.000Z" },
      { refusal: (key: string) => new RemovalRefused(key, null), says: "not removed: these credentials may not" },
    ];
    for (const { refusal, says } of refusals) {
      const store = new FaultyStore(new DirectoryStore(path("repository")), {
        before: ({ name, key }) => {
          if (name === "remove") throw refusal(key);
        },
      });
      const findings = await examine({ probe: true, openRepository: () => Repository.open(store) });
      expect(findings.find(({ name }) => name === "repository probe")).toMatchObject({
        ok: true,
        message: `an object was written and read, and ${says}`,
      });
    }
    // Once it may go, so do those of earlier times.
    await examine({ probe: true });
    expect(readdirSync(path("repository/probes"), { withFileTypes: true }).filter((one) => one.isFile())).toEqual([]);
  });

  test("an interruption is no finding", async () => {
    const reason = new OperatorError("interrupted", "interrupted by SIGTERM");
    await expect(
      examine({
        openRepository: async () => {
          throw reason;
        },
      }),
    ).rejects.toBe(reason);
  });
});

describe("spoolsafe doctor", () => {
  test("in JSON: one line per finding, and a summary; exit 1 when not ready", async () => {
    const { code, json } = await spoolsafe(["doctor", "--json", "--config", site.config]);
    expect(code).toBe(1);
    expect(json.at(-1)).toEqual({ type: "summary", ok: false });
    for (const line of json.slice(0, -1)) {
      expect(Object.keys(line)).toEqual(["type", "name", "ok", "message", "remedy"]);
    }
    expect(json).toContainEqual(expect.objectContaining({ name: "postfix instances", ok: false }));
  });

  test("shows every problem of the configuration as a finding", async () => {
    writeFileSync(site.config, "hots = 'x'\n[limits]\nprocessors = 0\n");
    const { code, stdout } = await spoolsafe(["doctor", "--config", site.config]);
    expect(code).toBe(1);
    expect(stdout).toContain(
      `FAIL  configuration: ${site.config}:1: hots: unknown key; the nearest known one is "host"\n      correct it`,
    );
    expect(stdout).toContain(`FAIL  configuration: ${site.config}:3: limits.processors: must be at least 1`);
    expect(stdout).toMatch(/this host is not ready\n$/);
  });
});
