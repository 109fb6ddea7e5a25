import { generateKeyPairSync } from "node:crypto";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { errorOf } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const directory = makeScratch();
afterAll(() => destroyScratch(directory));

let count = 0;
function file(text: string, mode = 0o600): string {
  const path = join(directory, `file-${count++}`);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

const pair = createSigningKey();
const key = loadSigningKey(file(pair.privatePem));
const other = createSigningKey();
const record = Buffer.from('{"format":1}\n');

describe("signing key", () => {
  test("has a fingerprint of 64 digits and a writer name of 16", () => {
    expect(key.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(key.writer).toBe(key.fingerprint.slice(0, 16));
    expect(key.publicPem).toBe(pair.publicPem);
    expect(Buffer.from(key.sign(record), "base64")).toHaveLength(64);
  });

  test.each([0o640, 0o604])("mode %o is refused", async (mode) => {
    const error = await errorOf(() => loadSigningKey(file(pair.privatePem, mode)));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain("is open to others");
  });

  test.each([
    ["a missing file", () => join(directory, "none"), "can't be read: ENOENT"],
    ["an empty file", () => file(""), "is not an Ed25519 private key"],
    ["a public key", () => file(pair.publicPem), "is not an Ed25519 private key"],
    ["an RSA key", () => file(rsa().privateKey), "is not an Ed25519 private key"],
    ["a key with a passphrase", () => file(encrypted()), "is not an Ed25519 private key"],
  ])("%s is a config error", async (_, path, message) => {
    const error = await errorOf(() => loadSigningKey(path()));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(message);
  });
});

describe("trusted keys", () => {
  const trusted = loadTrustedKeys(file(`# mx1\n${pair.publicPem}\n\n# mx1 again\n${pair.publicPem}`, 0o644));

  test("a signature of a trusted key is trusted, also by a key among several", () => {
    expect(trusted.fingerprints).toEqual([key.fingerprint]);
    expect(trusted.check(key.fingerprint, record, key.sign(record))).toBe("trusted");
    const both = loadTrustedKeys(file(other.publicPem + pair.publicPem));
    expect(both.fingerprints).toHaveLength(2);
    expect(both.check(key.fingerprint, record, key.sign(record))).toBe("trusted");
  });

  test("a key that is not there is a stranger", () => {
    const stranger = loadSigningKey(file(other.privatePem));
    expect(trusted.check(stranger.fingerprint, record, stranger.sign(record))).toBe("stranger");
  });

  test("other bytes, another key's signature and a malformed one are forged", () => {
    const signature = key.sign(record);
    const forgeries: [Buffer, string][] = [
      [Buffer.from('{"format":2}\n'), signature],
      [record.subarray(0, -1), signature],
      [record, loadSigningKey(file(other.privatePem)).sign(record)],
      [record, ""],
      [record, "AAAA"],
      [record, signature.slice(0, -4)],
      [record, `${signature}\n`],
      [record, `*${signature}`],
    ];
    for (const [bytes, forged] of forgeries) expect(trusted.check(key.fingerprint, bytes, forged)).toBe("forged");
  });

  test("a missing file trusts nobody", () => {
    const nobody = loadTrustedKeys(join(directory, "none"));
    expect(nobody.fingerprints).toEqual([]);
    expect(nobody.check(key.fingerprint, record, key.sign(record))).toBe("stranger");
  });

  test.each([
    ["junk", `# x\njunk\n${pair.publicPem}`, 2, "not an Ed25519 public key"],
    ["a private key", pair.privatePem, 1, "this is a private key"],
    ["a key without end", pair.publicPem.replace(/-----END.*\n/, ""), 1, "not an Ed25519 public key"],
    ["a broken key", pair.publicPem.replace("MCow", "MCoX"), 1, "not an Ed25519 public key"],
    ["an RSA key behind a good one", pair.publicPem + rsa().publicKey, 4, "not an Ed25519 public key"],
  ])("%s is a config error that names the line", async (_, text, line, message) => {
    const path = file(text);
    const error = await errorOf(() => loadTrustedKeys(path));
    expect(error).toMatchObject({ kind: "config" });
    expect(error.message).toContain(`${path}:${line}: ${message}`);
  });
});

function rsa(): { publicKey: string; privateKey: string } {
  return generateKeyPairSync("rsa", {
    modulusLength: 1024,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
}

function encrypted(): string {
  return generateKeyPairSync("ed25519").privateKey.export({
    type: "pkcs8",
    format: "pem",
    cipher: "aes-256-cbc",
    passphrase: "x",
  }) as string;
}
