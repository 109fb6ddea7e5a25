import { createHash } from "node:crypto";
import { type BigIntStats, lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";

/**
 * Every path below the directories (and themselves) with all that can be seen of it: inode, mode, owner, links, time, size,
 * content. Two of them are equal when nothing was changed in between; a directory that is not there is a line, too.
 */
export function tree(...directories: readonly string[]): string[] {
  return directories.flatMap((directory) => {
    if (lstatSync(directory, { throwIfNoEntry: false }) === undefined) return [`${directory} is not there`];
    const names = readdirSync(directory, { recursive: true, encoding: "utf8" }).sort();
    return [directory, ...names.map((name) => join(directory, name))].map(described);
  });
}

/** `tree` without the directories, whose times change when a file goes away and comes back. */
export function filesOf(...directories: readonly string[]): string[] {
  return tree(...directories).filter((line) => !/^\S+ \d+ 4\d{4} /.test(line));
}

function described(path: string): string {
  const stat = lstatSync(path, { bigint: true });
  const { ino, mode, uid, gid, nlink, mtimeNs, size } = stat;
  return [path, ino, mode.toString(8), uid, gid, nlink, mtimeNs, size, contentOf(path, stat)].join(" ");
}

function contentOf(path: string, stat: BigIntStats): string {
  if (stat.isSymbolicLink()) return readlinkSync(path);
  return stat.isFile() ? createHash("sha256").update(readFileSync(path)).digest("hex") : "";
}
