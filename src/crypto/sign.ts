import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";
import { readFileSync } from "node:fs";
import { errnoOf, OperatorError } from "../errors.ts";
import { readSecret } from "./keys.ts";

export interface SigningKey {
  /** SHA-256 of the public half (SubjectPublicKeyInfo, DER), 64 hexadecimal digits. */
  readonly fingerprint: string;
  /** Its first 16 digits, under which this key's records lie in a repository. */
  readonly writer: string;
  readonly publicPem: string;
  /** Ed25519 signature, base64. */
  sign(bytes: Uint8Array): string;
}

/** The public keys a host believes. */
export interface TrustedKeys {
  readonly fingerprints: readonly string[];
  /**
   * What a signature is worth. `stranger`: made (or so it says) by a key that is not trusted, so it was not looked at.
   * `forged`: it names a trusted key and is not that key's signature of these bytes.
   */
  check(fingerprint: string, bytes: Uint8Array, signature: string): "trusted" | "stranger" | "forged";
}

/** Make a new Ed25519 key pair as PEM (PKCS #8 and SubjectPublicKeyInfo), as openssl reads and writes them. */
export function createSigningKey(): { privatePem: string; publicPem: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return { privatePem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(), publicPem: pemOf(publicKey) };
}

/** @throws OperatorError `config`: missing, open to others, or not an Ed25519 private key without passphrase in PEM */
export function loadSigningKey(path: string): SigningKey {
  const pem = readSecret(path, "signing key", "config");
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (cause) {
    throw notSigningKey(path, cause);
  }
  if (key.asymmetricKeyType !== "ed25519") throw notSigningKey(path);
  const publicKey = createPublicKey(key);
  const fingerprint = fingerprintOf(publicKey);
  return {
    fingerprint,
    writer: writerOf(fingerprint),
    publicPem: pemOf(publicKey),
    sign: (bytes) => sign(null, bytes, key).toString("base64"),
  };
}

/** The name of a key in a repository: the first 16 digits of its fingerprint. */
export function writerOf(fingerprint: string): string {
  return fingerprint.slice(0, 16);
}

/**
 * Read public keys, one PEM after another; text between them must be blank or `#` comments. A file that is not there
 * trusts nobody.
 *
 * @throws OperatorError `config` that names the line of what is not an Ed25519 public key
 */
export function loadTrustedKeys(path: string): TrustedKeys {
  const keys = new Map(readPublicKeys(path).map((key) => [fingerprintOf(key), key]));
  return {
    fingerprints: [...keys.keys()],
    check: (fingerprint, bytes, signature) => {
      const key = keys.get(fingerprint);
      if (key === undefined) return "stranger";
      const raw = Buffer.from(signature, "base64");
      // Buffer.from skips what is not base64; one signature has one spelling.
      if (raw.toString("base64") !== signature) return "forged";
      return verify(null, bytes, key, raw) ? "trusted" : "forged";
    },
  };
}

function readPublicKeys(path: string): KeyObject[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return [];
    throw new OperatorError("config", `the trusted keys ${path} can't be read: ${errnoOf(cause) ?? String(cause)}`, {
      hints: ["check signing.trusted_keys_file in the configuration"],
      cause,
    });
  }
  const keys: KeyObject[] = [];
  const lines = text.split("\n").map((line) => line.trim());
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? "";
    if (line === "" || line.startsWith("#")) continue;
    const end = lines.indexOf("-----END PUBLIC KEY-----", at);
    if (line !== "-----BEGIN PUBLIC KEY-----" || end === -1) throw notPublicKey(path, at, line);
    keys.push(parsePublicKey(path, at, `${lines.slice(at, end + 1).join("\n")}\n`));
    at = end;
  }
  return keys;
}

function parsePublicKey(path: string, at: number, pem: string): KeyObject {
  let key: KeyObject | undefined;
  try {
    key = createPublicKey(pem);
  } catch {
    // Said below: what OpenSSL says of a broken key helps nobody.
  }
  if (key?.asymmetricKeyType !== "ed25519") throw notPublicKey(path, at, "");
  return key;
}

/** The fingerprint of a public key in PEM. @throws Error when it is none */
export function fingerprintOfPem(pem: string): string {
  return fingerprintOf(createPublicKey(pem));
}

function fingerprintOf(key: KeyObject): string {
  return createHash("sha256")
    .update(key.export({ type: "spki", format: "der" }))
    .digest("hex");
}

function pemOf(key: KeyObject): string {
  return key.export({ type: "spki", format: "pem" }).toString();
}

function notSigningKey(path: string, cause?: unknown): OperatorError {
  return new OperatorError("config", `${path} is not an Ed25519 private key in PEM without a passphrase`, {
    hints: ["`spoolsafe init` makes one where there is none; so does `openssl genpkey -algorithm ed25519`"],
    cause,
  });
}

function notPublicKey(path: string, at: number, line: string): OperatorError {
  const secret = /PRIVATE KEY/.test(line);
  return new OperatorError(
    "config",
    `${path}:${at + 1}: ${secret ? "this is a private key" : "not an Ed25519 public key in PEM"}`,
    {
      hints: [
        secret
          ? "take it out, and put what `openssl pkey -in signing.key -pubout` prints there"
          : "this file holds public keys in PEM, one after another, and # comments",
      ],
    },
  );
}
