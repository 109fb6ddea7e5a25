import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { spoolsafe } from "../support/cli.ts";
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

const key = (...args: string[]) => spoolsafe(["key", ...args, "--config", site.config]);
const text = (name: string) => readFileSync(join(directory, name), "utf8");

describe("key show", () => {
  test("shows everything public and nothing secret", async () => {
    const { code, stdout, stderr } = await key("show");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(site.recipient);
    expect(stdout).toContain("(this host's own)");
    expect(stdout).not.toContain("AGE-SECRET-KEY");
    expect(stdout).not.toContain("PRIVATE");
  });

  test("in JSON", async () => {
    const { json } = await key("show", "--json");
    const [fingerprint] = loadTrustedKeys(join(directory, "trusted.pub")).fingerprints;
    expect(json).toMatchObject([
      { type: "recipient", recipient: site.recipient, kind: "x25519" },
      { type: "signing", fingerprint },
      { type: "trusted", fingerprint, own: true },
      { type: "identity", recipient: site.recipient, sealedTo: true },
      { type: "summary", recipients: 1, signing: fingerprint, trusted: 1, identities: 1 },
    ]);
  });
});

describe("key new", () => {
  test("without --out prints what age-keygen would", async () => {
    const { code, stdout, stderr } = await key("new");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^# created: \S+\n# public key: (age1\S+)\nAGE-SECRET-KEY-1\S+\n$/);
    expect(stderr).toContain(`age recipient: ${/age1\S+/.exec(stdout)?.[0]}`);
  });

  test("with --out writes it, 0600, and prints the recipient only; never over a file that is there", async () => {
    const out = join(directory, "new.txt");
    const { code, stdout } = await key("new", "--post-quantum", "--out", out);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^age1pq1\S+\n$/);
    expect(statSync(out).mode & 0o777).toBe(0o600);
    const before = text("new.txt");
    expect(before).toContain(stdout.trim());
    const again = await key("new", "--out", out);
    expect(again).toMatchObject({ code: 1, stdout: "" });
    expect(again.stderr).toContain("is there already, and is not replaced");
    expect(text("new.txt")).toBe(before);
  });
});

describe("key test", () => {
  test("opens the newest snapshot's part", async () => {
    await site.snapshot([], { time: "2026-11-23T02:00:00.000Z" });
    const newest = await site.snapshot([]);
    const { code, stdout } = await key("test");
    expect(code).toBe(0);
    expect(stdout).toContain(`the identity opens ${newest.slice(0, 8)} of mx1.example.org`);
  });

  test("with a wrong identity is exit 12", async () => {
    await site.snapshot([]);
    const { identity } = await makeKeys();
    writeFileSync(join(directory, "wrong.txt"), `${identity}\n`, { mode: 0o600 });
    const { code, json } = await key("test", "--json", "--identity-file", join(directory, "wrong.txt"));
    expect(code).toBe(12);
    expect(json).toMatchObject([{ type: "error", kind: "no-identity", exit: 12 }]);
  });

  test("without any identity is exit 12 with hints, with one that others can read exit 2", async () => {
    await site.snapshot([]);
    writeFileSync(site.config, text("spoolsafe.toml").replace(/, identity_file = "[^"]*"/, ""));
    const none = await key("test");
    expect(none.code).toBe(12);
    expect(none.stderr).toContain("name it with --identity-file FILE or SPOOLSAFE_IDENTITY_FILE");
    writeFileSync(join(directory, "open.txt"), "x", { mode: 0o644 });
    const open = await key("test", "--identity-file", join(directory, "open.txt"));
    expect(open.code).toBe(2);
    expect(open.stderr).toContain(`run: chmod 600 ${join(directory, "open.txt")}`);
  });

  test("without a snapshot says so", async () => {
    expect(await key("test")).toMatchObject({ code: 1, stdout: "" });
  });
});

describe("key add and remove", () => {
  test("an age recipient comes and goes, comments stay", async () => {
    const { recipient } = await makeKeys();
    writeFileSync(join(directory, "recipients.txt"), `# mine\n${site.recipient}`);
    const added = await key("add", recipient);
    expect(added.code).toBe(0);
    expect(added.stderr).toContain(
      "this holds for packs of later backups; what is stored keeps the age recipients it has",
    );
    expect(text("recipients.txt")).toBe(`# mine\n${site.recipient}\n${recipient}\n`);
    expect((await key("add", recipient)).stdout).toContain("has it already");
    const removed = await key("remove", site.recipient);
    expect(removed.code).toBe(0);
    expect(removed.stderr).toContain(
      "this holds for packs of later backups; what is stored keeps the age recipients it has",
    );
    expect(text("recipients.txt")).toBe(`# mine\n${recipient}\n`);
  });

  test("kinds are not mixed, the last one stays, and nothing is changed by a refusal", async () => {
    const before = text("recipients.txt");
    const { recipient } = await makeKeys(true);
    const mixed = await key("add", recipient);
    expect(mixed.code).toBe(2);
    expect(mixed.stderr).toContain("mixes X25519 recipients");
    expect(await key("add", "age1nonsense")).toMatchObject({ code: 2 });
    const last = await key("remove", site.recipient);
    expect(last.code).toBe(1);
    expect(last.stderr).toContain("this is the last age recipient");
    expect(await key("remove", recipient)).toMatchObject({ code: 2 });
    expect(text("recipients.txt")).toBe(before);
  });

  test("public signing keys come from a file and go by fingerprint or file", async () => {
    const own = text("trusted.pub");
    const { publicPem } = createSigningKey();
    const file = join(directory, "other.pub");
    writeFileSync(file, `# of mx2\n${publicPem}`);
    const [fingerprint = ""] = loadTrustedKeys(file).fingerprints;
    const added = await key("add", file);
    expect(added).toMatchObject({ code: 0 });
    expect(added.stdout).toContain(fingerprint);
    expect(text("trusted.pub")).toBe(own + publicPem);
    expect((await key("add", file)).stdout).toContain("has them already");
    expect(text("trusted.pub")).toBe(own + publicPem);
    expect(await key("remove", fingerprint.slice(0, 16))).toMatchObject({ code: 0 });
    expect(text("trusted.pub")).toBe(own);
    expect(await key("remove", file)).toMatchObject({ code: 2 });
  });

  test("what is neither is said to be neither", async () => {
    const { code, stderr } = await key("add", "nothing.pub");
    expect(code).toBe(2);
    expect(stderr).toContain("is neither an age recipient (age1...) nor a file with public keys");
  });
});
