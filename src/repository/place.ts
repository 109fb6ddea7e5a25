import { realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { errnoOf } from "../errors.ts";
import { parseStoreUrl } from "./store-address.ts";

/** What of a repository's settings says where it lies. */
export interface Place {
  readonly url: string;
  readonly endpoint?: string | undefined;
}

/**
 * How two places for repositories lie to each other: directories by device and inode, whatever they are called; buckets by
 * endpoint, name and prefix. Directories need not be there; S3 is not asked.
 *
 * @returns `inside` when one contains the other
 * @throws OperatorError `config` for a URL that names no store
 */
export function relationOf(one: Place, other: Place): "same" | "inside" | "apart" {
  const [a, b] = [parseStoreUrl(one.url), parseStoreUrl(other.url)];
  if (a.kind === "directory" && b.kind === "directory") return directories(a.path, b.path);
  if (a.kind !== "s3" || b.kind !== "s3") return "apart";
  if (a.bucket !== b.bucket || hostOf(one.endpoint) !== hostOf(other.endpoint)) return "apart";
  if (a.prefix === b.prefix) return "same";
  return isBelow(a.prefix, b.prefix) || isBelow(b.prefix, a.prefix) ? "inside" : "apart";
}

function directories(a: string, b: string): "same" | "inside" | "apart" {
  const [up, upOther] = [waysUp(a), waysUp(b)];
  if (up[0] === upOther[0]) return "same";
  return up.includes(upOther[0] ?? "") || upOther.includes(up[0] ?? "") ? "inside" : "apart";
}

/** A directory and all that contain it, each by device and inode where it is there, else by its name in the one above. */
function waysUp(path: string): string[] {
  const real = realPath(resolve(path));
  const steps: string[] = [];
  for (let at = real; ; at = dirname(at)) {
    steps.push(identityOf(at));
    if (dirname(at) === at) return steps;
  }
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT" || dirname(path) === path) return path;
    return join(realPath(dirname(path)), basename(path));
  }
}

function identityOf(path: string): string {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return path;
  }
}

function hostOf(endpoint: string | undefined): string {
  return endpoint === undefined || endpoint === "" ? "" : new URL(endpoint).host;
}

function isBelow(prefix: string, above: string): boolean {
  return above === "" || prefix.startsWith(`${above}/`);
}
