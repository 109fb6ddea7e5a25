import { isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { OperatorError } from "../errors.ts";

export type StoreAddress =
  | { readonly kind: "directory"; readonly path: string }
  | { readonly kind: "s3"; readonly bucket: string; readonly prefix: string };

/**
 * Take a repository URL apart: `file:///path` with percent-encoding undone (a plain absolute path means the same), or
 * `s3://bucket/prefix`. The prefix comes back without slashes at its ends.
 *
 * @throws OperatorError `config` as `openStore`
 */
export function parseStoreUrl(url: string): StoreAddress {
  if (isAbsolute(url)) return { kind: "directory", path: url };
  if (/^file:/i.test(url)) return { kind: "directory", path: directoryOf(url) };
  if (/^s3:/i.test(url)) return bucketOf(url);
  throw malformed(withoutCredentials(url), "is neither file:///directory nor s3://bucket/prefix");
}

function directoryOf(url: string): string {
  if (!/^file:\/\/\//i.test(url)) throw malformed(url, "must have three slashes: file:///directory");
  if (/[?#]/.test(url)) throw malformed(url, "has a ? or # in it: write %3F or %23");
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw malformed(url, cause instanceof URIError ? "has a % that is not a %XX" : "names no directory", cause);
  }
}

function bucketOf(url: string): StoreAddress {
  const shown = withoutCredentials(url);
  if (shown !== url) throw credentialsInUrl(shown);
  const [, bucket, path = ""] = /^s3:\/\/([A-Za-z0-9][A-Za-z0-9._-]*)(?:\/(.*))?$/i.exec(url) ?? [];
  if (bucket === undefined) throw malformed(shown, "must be s3://bucket/prefix");
  const prefix = path.replace(/^\/+|\/+$/g, "");
  if (!/^[A-Za-z0-9._/-]*$/.test(prefix) || prefix.split("/").some((part) => part === "." || part === "..")) {
    throw malformed(
      shown,
      "has a prefix with something other than letters, digits, dots, dashes, underscores, slashes",
    );
  }
  return { kind: "s3", bucket, prefix };
}

/** The same URL with anything that could be a key or password in front of an `@` masked. */
export function withoutCredentials(url: string): string {
  return url.replace(/^([a-z0-9+.-]*:\/\/)?[^/]*@/i, "$1***@");
}

export function credentialsInUrl(shown: string): OperatorError {
  return new OperatorError("config", `the URL ${shown} has credentials in it`, {
    hints: ["put them into a file of mode 0600 in shared-credentials format and name it as credentials_file"],
  });
}

function malformed(url: string, what: string, cause?: unknown): OperatorError {
  return new OperatorError("config", `the repository URL ${url} ${what}`, {
    hints: ["examples: file:///var/backups/spoolsafe and s3://bucket/prefix"],
    cause,
  });
}
