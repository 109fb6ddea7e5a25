import { closeSync, fsyncSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { fsyncDirectory, writeAll, writeFileAtomic } from "../system/files.ts";

/**
 * Make a file that is not there yet; whatever goes wrong, no half of it stays.
 *
 * @throws OperatorError `refused` when something of that name is there: it may be the only copy of a key
 */
export function createFile(path: string, text: string, mode: number): void {
  let fd: number;
  try {
    fd = openSync(path, "wx", mode);
  } catch (cause) {
    const there = errnoOf(cause) === "EEXIST";
    throw new OperatorError(
      there ? "refused" : "failed",
      there
        ? `${path} is there already, and is not replaced`
        : `${path} can't be made: ${errnoOf(cause) ?? String(cause)}`,
      {
        hints: [
          there ? "name another file, or move that one away" : "check the directory, and that you may write there",
        ],
        cause,
      },
    );
  }
  try {
    writeAll(fd, Buffer.from(text));
    fsyncSync(fd);
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  fsyncDirectory(dirname(path));
}

/** Replace a file's text, keeping its permission bits; a file that was not there gets `mode`. */
export function replaceText(path: string, text: string, mode: number): void {
  const before = statSync(path, { throwIfNoEntry: false });
  writeFileAtomic(path, text, before === undefined ? mode : before.mode & 0o777);
}

/** The text of a file, empty when it is not there. */
export function textIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return "";
    throw new OperatorError("config", `${path} can't be read: ${errnoOf(error) ?? String(error)}`, { cause: error });
  }
}

/** A text with a line added at its end. */
export function withLine(text: string, line: string): string {
  return `${text === "" || text.endsWith("\n") ? text : `${text}\n`}${line}\n`;
}

/** An identity file as age-keygen writes it. */
export function identityText(identity: string, recipient: string, now: Date): string {
  return `# created: ${now.toISOString()}\n# public key: ${recipient}\n${identity}\n`;
}

/** The public keys (PEM) in a text, in their order, and what stands around them. */
export function splitPems(text: string): { readonly pems: readonly string[]; readonly pattern: RegExp } {
  const pattern = /-----BEGIN PUBLIC KEY-----[\s\S]*?-----END PUBLIC KEY-----\r?\n?/g;
  return { pems: text.match(pattern) ?? [], pattern };
}
