import { createTwoFilesPatch } from "diff";
import type { Present } from "./configuration-place.ts";

/** How a file that is replaced differs from what replaces it. */
export type Difference =
  | { readonly kind: "text"; readonly diff: string }
  /** Binary, or too large or too different to be shown: SHA-256 of each side. */
  | { readonly kind: "digest"; readonly here: string; readonly saved: string }
  /** Nothing is told of it: not a line, and no digest either, from which a short password could be guessed. */
  | { readonly kind: "secret" }
  | { readonly kind: "link"; readonly here: string; readonly saved: string }
  /** One is a link, the other a file. */
  | { readonly kind: "type"; readonly here: string; readonly saved: string }
  /** The content is the same; mode or owner are not. */
  | { readonly kind: "mode" };

/** What is needed to know whether a file may be shown. */
export interface Sides {
  /** On the target. */
  readonly path: string;
  /** Settings name it as a key, a file of passwords or a table's client with its credentials. */
  readonly namedSecret: boolean;
  readonly savedMode: number;
  /** Null when it is too large to be looked into. */
  readonly saved: Buffer | null;
  readonly here: Present;
}

/**
 * Whether a file must not be shown: somebody may not read it here or could not on the source host, settings use it as a
 * secret, or it looks like one although everybody may read it.
 */
export function isSecret({ path, namedSecret, savedMode, saved, here }: Sides): boolean {
  if (namedSecret || secretPath.test(path) || !isPublic(savedMode)) return true;
  if (here.kind === "file" && !isPublic(here.mode)) return true;
  return [saved, here.kind === "file" ? here.content : null].some((side) => side !== null && holdsSecret(side));
}

function isPublic(mode: number): boolean {
  return (mode & 0o004) !== 0;
}

const secretPath = /passw|secret|sasldb|dkimkeys|\/private\/|\.(key|p12|pfx)$/i;

function holdsSecret(bytes: Buffer): boolean {
  const text = bytes.toString("latin1");
  return text.includes("PRIVATE KEY-----") || text.split("\n").some((line) => credential.test(line));
}

/** A line that is no comment and gives a password: `password = x`, `bindpw: x`, `connect = host=db password=x`. */
const credential =
  /^(?!\s*[#;]).*(?<![\w$-])(pass|passwd|password|passphrase|secret|bind_?pw|dnpass|token|api_?key)["']?\s*[=:]\s*\S/i;

/**
 * Compare a file of the snapshot with the file it replaces. The diff has paths of the target, and never a line of a secret.
 *
 * @param saved null when it is too large to be shown
 */
export function differenceOf(
  path: string,
  here: Extract<Present, { kind: "file" }>,
  saved: { readonly digest: string; readonly content: Buffer | null },
  secret: boolean,
): Difference {
  if (here.digest === saved.digest) return { kind: "mode" };
  if (secret) return { kind: "secret" };
  const diff = unifiedDiff(path, here.content, saved.content);
  return diff === undefined ? { kind: "digest", here: here.digest, saved: saved.digest } : { kind: "text", diff };
}

/** Undefined for what is not text, or differs in more than anybody would read. */
export function unifiedDiff(
  path: string,
  before: Buffer | null,
  after: Buffer | null,
  sides = { before: "here", after: "snapshot" },
): string | undefined {
  const [left, right] = [textOf(before), textOf(after)];
  if (left === undefined || right === undefined) return undefined;
  return createTwoFilesPatch(
    `${path} (${sides.before})`,
    `${path} (${sides.after})`,
    left,
    right,
    undefined,
    undefined,
    {
      context: 3,
      maxEditLength: 2000,
      timeout: 2000,
      headerOptions: { includeIndex: false, includeUnderline: false, includeFileHeaders: true },
    },
  );
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function textOf(bytes: Buffer | null): string | undefined {
  if (bytes === null || bytes.includes(0)) return undefined;
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}
