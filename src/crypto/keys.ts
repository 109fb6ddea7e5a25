import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import {
  Decrypter,
  Encrypter,
  generateHybridIdentity,
  generateX25519Identity,
  identityToRecipient,
} from "age-encryption";
import { errnoOf, OperatorError } from "../errors.ts";

/** Who can open what is sealed. One kind only: a mix would give the post-quantum promise away. */
export interface AgeRecipients {
  readonly list: readonly string[];
  readonly kind: "x25519" | "post-quantum";
}

export interface AgeIdentities {
  readonly identities: readonly string[];
  /** Their public halves, in the same order. */
  readonly recipients: readonly string[];
}

/**
 * Read age recipients, one per line; blank lines and lines that begin with `#` are skipped, a recipient that stands
 * there twice counts once.
 *
 * @param file where the text is from, for messages
 * @throws OperatorError `config` that names every wrong line: no recipient, malformed, of a kind only the age program
 * knows (ssh keys, plugins), or X25519 and post-quantum mixed
 */
export function parseRecipients(text: string, file: string): AgeRecipients {
  const lines = meaningfulLines(text);
  const problems = lines.flatMap(({ line, number }) => {
    const problem = recipientProblem(line);
    return problem === undefined ? [] : [`${file}:${number}: ${problem}`];
  });
  if (problems.length > 0) {
    throw new OperatorError("config", problems.join("; "), {
      hints: ["write one age recipient per line: age1... or, for all of them, age1pq1..."],
    });
  }
  if (lines.length === 0) {
    throw new OperatorError("config", `${file} names no age recipient`, {
      hints: ["make a key pair with `age-keygen` on the standby and put the line that begins with age1 into this file"],
    });
  }
  const postQuantum = lines.filter(({ line }) => line.startsWith("age1pq1"));
  if (postQuantum.length > 0 && postQuantum.length < lines.length) throw mixed(file, lines, postQuantum);
  return {
    list: [...new Set(lines.map(({ line }) => line))],
    kind: postQuantum.length > 0 ? "post-quantum" : "x25519",
  };
}

/** `parseRecipients` of a file. @throws OperatorError `config`, also when the file can't be read */
export function loadRecipients(path: string): AgeRecipients {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatorError("config", `the recipients file ${path} can't be read: ${errnoOf(cause) ?? String(cause)}`, {
      hints: ["`spoolsafe init --role primary --recipient age1...` writes it"],
      cause,
    });
  }
  return parseRecipients(text, path);
}

/**
 * Read age identities (`AGE-SECRET-KEY-1...`, `AGE-SECRET-KEY-PQ-1...`), one per line with `#` comments, as age-keygen
 * writes them. The file may be a pipe. No message ever quotes a line of it.
 *
 * @throws OperatorError `no-identity` when the file is missing or holds none, `config` when group or others may read
 * it or a line is something else
 */
export async function loadIdentities(path: string): Promise<AgeIdentities> {
  const lines = meaningfulLines(readSecret(path, "identity file", "no-identity"));
  const problems = lines.flatMap(({ line, number }) => {
    const problem = identityProblem(line);
    return problem === undefined ? [] : [`${path}:${number}: ${problem}`];
  });
  if (problems.length > 0) {
    throw new OperatorError("config", problems.slice(0, 5).join("; "), {
      hints: ["an identity file holds lines that begin with AGE-SECRET-KEY-1 or AGE-SECRET-KEY-PQ-1, and # comments"],
    });
  }
  if (lines.length === 0) {
    throw new OperatorError("no-identity", `${path} holds no age identity`, {
      hints: ["name the file age-keygen wrote with --identity-file, or in encryption.identity_file"],
    });
  }
  const identities = [...new Set(lines.map(({ line }) => line))];
  return { identities, recipients: await Promise.all(identities.map(identityToRecipient)) };
}

/** Make a new key pair. Nothing is written: the caller stores the identity where only its owner can read it. */
export async function createIdentity(postQuantum: boolean): Promise<{ identity: string; recipient: string }> {
  const identity = await (postQuantum ? generateHybridIdentity() : generateX25519Identity());
  return { identity, recipient: await identityToRecipient(identity) };
}

/**
 * Read a file that only its owner may read, following links and taking pipes.
 *
 * @param what for the message, as in "the signing key"
 * @param missing the kind of error a file that is not there is
 * @throws OperatorError `config` when group or others may read it (or `missing`)
 */
export function readSecret(path: string, what: string, missing: "config" | "no-identity"): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    const mode = fstatSync(fd).mode & 0o777;
    if ((mode & 0o077) !== 0) {
      throw new OperatorError(
        "config",
        `the ${what} ${path} is open to others (mode ${mode.toString(8).padStart(4, "0")})`,
        { hints: [`run: chmod 0600 ${path}`, "if others may have read it, make a new one"] },
      );
    }
    return readFileSync(fd, "utf8");
  } catch (cause) {
    if (cause instanceof OperatorError) throw cause;
    const errno = errnoOf(cause) ?? String(cause);
    const kind = errno === "ENOENT" ? missing : "config";
    throw new OperatorError(kind, `the ${what} ${path} can't be read: ${errno}`, {
      hints: [
        errno === "EACCES" ? "run this as the file's owner (usually root)" : "check the path in the configuration",
      ],
      cause,
    });
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

interface NumberedLine {
  readonly line: string;
  readonly number: number;
}

function meaningfulLines(text: string): NumberedLine[] {
  return text
    .replace(/^\uFEFF/, "")
    .split("\n")
    .map((line, index) => ({ line: line.trim(), number: index + 1 }))
    .filter(({ line }) => line !== "" && !line.startsWith("#"));
}

/** Characters of Bech32 data (BIP 173): no `1`, so `age1NAME1...` is a plugin's. */
const bech32Data = "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]+";
const nativeRecipient = new RegExp(`^age1(pq1)?${bech32Data}$`);

function recipientProblem(line: string): string | undefined {
  if (/^AGE-SECRET-KEY-/i.test(line)) return "this is a secret identity; only its recipient (age1...) belongs here";
  if (/^(ssh-|ecdsa-|sk-)/.test(line)) return "ssh keys can't be recipients here; make an age key with age-keygen";
  if (/^age1[a-z0-9-]+1/.test(line) && !line.startsWith("age1pq1")) {
    return `recipients of age plugins (${line.slice(0, line.lastIndexOf("1") + 1)}...) are not supported`;
  }
  if (!nativeRecipient.test(line)) return "not an age recipient";
  try {
    new Encrypter().addRecipient(line);
    return undefined;
  } catch {
    return "not an age recipient: mistyped or cut short";
  }
}

function identityProblem(line: string): string | undefined {
  if (/^age1/.test(line)) return "this is a recipient, the public half of an identity";
  if (/^AGE-PLUGIN-/i.test(line)) return "identities of age plugins are not supported";
  if (line.startsWith("age-encryption.org/") || line.startsWith("-----BEGIN AGE")) {
    return "the identity file is itself encrypted; decrypt it with `age -d` first";
  }
  if (line.startsWith("-----BEGIN")) return "ssh and PEM keys can't be identities here";
  if (!/^AGE-SECRET-KEY-(PQ-)?1/.test(line)) return "not an age identity";
  try {
    new Decrypter().addIdentity(line);
    return undefined;
  } catch {
    return "not an age identity: mistyped or cut short";
  }
}

function mixed(file: string, lines: readonly NumberedLine[], postQuantum: readonly NumberedLine[]): OperatorError {
  const numbers = (of: readonly NumberedLine[]) => of.map(({ number }) => number).join(", ");
  const classical = lines.filter((line) => !postQuantum.includes(line));
  return new OperatorError(
    "config",
    `${file} mixes X25519 recipients (line ${numbers(classical)}) and post-quantum ones (line ${numbers(postQuantum)})`,
    {
      hints: [
        "keep one kind: a file sealed to both is only as strong as X25519, and the age program refuses to make one",
      ],
    },
  );
}
