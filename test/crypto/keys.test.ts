import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createIdentity, loadIdentities, loadRecipients, parseRecipients } from "../../src/crypto/keys.ts";
import { OperatorError } from "../../src/errors.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const directory = makeScratch();
afterAll(() => destroyScratch(directory));

const one = await makeKeys();
const two = await makeKeys();
const quantum = await makeKeys(true);

describe("recipients", () => {
  test("one per line, with comments, blank lines, CRLF and repetitions", () => {
    const text = `# standby\r\n${one.recipient}\r\n\n  ${two.recipient}  \n# again\n${one.recipient}\n`;
    expect(parseRecipients(text, "r.txt")).toEqual({ list: [one.recipient, two.recipient], kind: "x25519" });
  });

  test("post-quantum ones are a kind of their own", () => {
    expect(parseRecipients(quantum.recipient, "r.txt")).toEqual({ list: [quantum.recipient], kind: "post-quantum" });
  });

  test("a mix of the two kinds is refused with file and lines", async () => {
    const text = `${one.recipient}\n# pq\n${quantum.recipient}\n${two.recipient}\n`;
    const error = await errorOf(() => parseRecipients(text, "/etc/spoolsafe/recipients.txt"));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toBe(
      "/etc/spoolsafe/recipients.txt mixes X25519 recipients (line 1, 4) and post-quantum ones (line 3)",
    );
  });

  test.each([
    ["nothing", "# only a comment\n\n", "r.txt names no age recipient"],
    ["a word", "hello", "r.txt:1: not an age recipient"],
    ["one cut short", one.recipient.slice(0, -1), "r.txt:1: not an age recipient: mistyped or cut short"],
    ["one letter wrong", flipLetter(one.recipient), "r.txt:1: not an age recipient: mistyped or cut short"],
    ["a post-quantum one cut short", quantum.recipient.slice(0, 900), "mistyped or cut short"],
    ["upper case", one.recipient.toUpperCase(), "r.txt:1: not an age recipient"],
    ["an ssh key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@host", "r.txt:1: ssh keys can't be recipients here"],
    ["an ssh RSA key", "ssh-rsa AAAAB3NzaC1yc2E", "r.txt:1: ssh keys can't be recipients here"],
    ["a plugin", "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "(age1yubikey1...)"],
    ["a tag recipient", `age1tag1${"q".repeat(60)}`, "age plugins (age1tag1...) are not supported"],
  ])("%s is a config error", async (_, text, message) => {
    const error = await errorOf(() => parseRecipients(text, "r.txt"));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(message);
  });

  test("every wrong line is named at once, and a secret among them is not repeated", async () => {
    const error = await errorOf(() => parseRecipients(`x\n${one.recipient}\n${one.identity}\n`, "r.txt"));
    expect(error.message).toMatch(/^r\.txt:1: .*; r\.txt:3: this is a secret identity/);
    expect(error.message).not.toContain(one.identity.slice(16));
  });

  test("a missing file is a config error that names it", async () => {
    const path = join(directory, "none.txt");
    const error = await errorOf(() => loadRecipients(path));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(path);
  });
});

describe("identities", () => {
  function identityFile(text: string, mode = 0o600): string {
    const path = join(directory, `identity-${Math.random().toString(36).slice(2)}`);
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  }

  test("as age-keygen writes them, both kinds, with their public halves", async () => {
    const path = identityFile(`# created: today\n# public key: x\n${one.identity}\n${quantum.identity}\n`);
    expect(await loadIdentities(path)).toEqual({
      identities: [one.identity, quantum.identity],
      recipients: [one.recipient, quantum.recipient],
    });
  });

  test("a link to one is followed", async () => {
    const link = join(directory, "link");
    symlinkSync(identityFile(one.identity), link);
    expect((await loadIdentities(link)).recipients).toEqual([one.recipient]);
  });

  test.each([0o640, 0o604, 0o620, 0o602, 0o644])("mode %o is refused", async (mode) => {
    const error = await errorOf(() => loadIdentities(identityFile(one.identity, mode)));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(`is open to others (mode 0${mode.toString(8)})`);
    expect((error as OperatorError).hints[0]).toMatch(/^run: chmod 0600 /);
  });

  test.each([
    ["a recipient", one.recipient, "this is a recipient"],
    ["a plugin", "AGE-PLUGIN-YUBIKEY-1QQQQ", "plugins are not supported"],
    ["an encrypted file", "age-encryption.org/v1\n-> scrypt", "itself encrypted"],
    ["an ssh key", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh and PEM keys can't be identities"],
    ["one cut short", one.identity.slice(0, -2), "mistyped or cut short"],
    ["junk", "secret words", "not an age identity"],
  ])("%s is a config error that quotes nothing", async (_, text, message) => {
    const path = identityFile(`# x\n${text}\n`);
    const error = await errorOf(() => loadIdentities(path));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(`${path}:2: `);
    expect(error.message).toContain(message);
    expect(error.message).not.toContain(text.slice(20, 60) || "\0");
  });

  test("a missing file and an empty one are no identity", async () => {
    expect(await errorOf(() => loadIdentities(join(directory, "none")))).toMatchObject({ kind: "no-identity" });
    expect(await errorOf(() => loadIdentities(identityFile("# nothing\n")))).toMatchObject({ kind: "no-identity" });
  });

  test("a directory is a config error", async () => {
    const path = join(directory, "directory");
    mkdirSync(path, { mode: 0o700 });
    expect(await errorOf(() => loadIdentities(path))).toMatchObject({ kind: "config" });
  });
});

test("new identities are of the kind that was asked for", async () => {
  expect((await createIdentity(false)).recipient).toMatch(/^age1[a-z0-9]{58}$/);
  expect((await createIdentity(true)).recipient).toMatch(/^age1pq1/);
  expect(await errorOf(() => loadRecipients(directory))).toBeInstanceOf(OperatorError);
});

function flipLetter(text: string): string {
  return text.slice(0, 20) + (text[20] === "q" ? "p" : "q") + text.slice(21);
}
