import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
} from "node:fs";
import { posix } from "node:path";
import { errnoOf } from "../errors.ts";
import type { FileArea, Owner } from "../snapshot/manifest.ts";
import { groupName, userName } from "../system/accounts.ts";
import { digestOf } from "../system/digest.ts";
import { readDescriptor } from "../system/files.ts";

/** A file, directory or link of a snapshot, with its bytes, before it has a pack. */
export interface ConfigurationFile {
  /** Null for what belongs to the host and not to one instance. */
  readonly instance: string | null;
  readonly area: FileArea;
  /** Absolute; for a report its name. */
  readonly path: string;
  readonly type: "file" | "directory" | "link";
  /** All twelve permission bits, as on disk. */
  readonly mode: number;
  readonly owner: Owner;
  /** Seconds since 1970 with microseconds. */
  readonly mtime: number;
  /** Of a file, else undefined. */
  readonly bytes?: Buffer | undefined;
  /** SHA-256 of the bytes, hexadecimal; null for a directory and a link. */
  readonly digest: string | null;
  /** Target of a link, else null. */
  readonly target: string | null;
}

/** What collecting configuration has to tell. `isIncomplete` says which of it means that something could not be kept. */
export type ConfigurationEvent =
  /** Named and not there. */
  | { readonly type: "config-missing"; readonly path: string; readonly namedBy: string }
  /** A table has lost its source: `postmap -s` can write it again, but only on a host with the same database library. */
  | { readonly type: "config-compiled-only"; readonly path: string; readonly namedBy: string }
  /** Left out, and it can be made again or was not asked for. */
  | { readonly type: "config-skipped"; readonly path: string; readonly namedBy: string; readonly reason: string }
  /** There, wanted, and not kept. */
  | { readonly type: "config-unreadable"; readonly path: string; readonly namedBy: string; readonly reason: string }
  /** Kept, but it changed again and again while we looked: files kept with it may be older or newer than it. */
  | { readonly type: "config-changing"; readonly path: string };

/** True for what makes a backup incomplete (exit code 3); everything else is a warning. */
export function isIncomplete(event: { readonly type: string }): boolean {
  return event.type === "config-unreadable";
}

/** Why something is collected, and what becomes of it. */
export interface Origin {
  readonly instance: string | null;
  readonly area: FileArea;
  readonly namedBy: string;
  /** Its absence is worth a word. */
  readonly required: boolean;
  /** Put before every path when it is opened, and part of no entry; empty for the real root. */
  readonly root: string;
  /** Changes all the time and is merely nice to have. */
  readonly data: boolean;
}

/** `other`: there, and not kept (said so if it matters). */
export type Taken = "taken" | "missing" | "other";

export interface CollectionOptions {
  readonly instance: string;
  /** Its files are area `config` whoever names them. May be a link. */
  readonly configDirectory: string;
  /** Directories that no walk enters: the queue, and what Postfix keeps for itself. */
  readonly excluded: readonly string[];
  readonly report: (event: ConfigurationEvent) => void;
}

/** Larger files are no configuration that could be held in memory; a table's compiled file of that size is rebuilt from its source. */
export const largestFile = 64 * 1024 * 1024;
const largestScript = 1024 * 1024;
const readAttempts = 5;

interface Kept {
  readonly entry: ConfigurationFile;
  /** Where it was read, and what it was then; of files only. */
  readonly read?: { readonly place: string; readonly stat: BigIntStats; readonly data: boolean };
}

/**
 * Files by path, each kept once: the first origin wins. Nothing is followed silently. A link is an entry of its own, and
 * what it leads to is kept under its real path, so no entry lies below a link and whoever writes them out again never
 * writes through one. The configuration directory alone may itself be a link (Debian's alternatives): its files keep the
 * name Postfix knows them by.
 */
export class FileCollection {
  private readonly kept = new Map<string, Kept>();
  private readonly options: CollectionOptions;
  private readonly realConfigDirectory: string;
  private readonly excluded: ReadonlySet<string>;

  constructor(options: CollectionOptions) {
    this.options = options;
    const real = (path: string) => {
      const found = follow(path, "");
      return "path" in found ? found.path : path;
    };
    this.realConfigDirectory = real(options.configDirectory);
    this.excluded = new Set(options.excluded.flatMap((path) => [path, real(path)]));
  }

  /** Everything kept, in the order it was met. */
  entries(): ConfigurationFile[] {
    return [...this.kept.values()].map((one) => one.entry);
  }

  /** A file kept under this path, or undefined; links that lead there are followed. */
  file(path: string, root: string): ConfigurationFile | undefined {
    const found = follow(path, root);
    return "path" in found ? this.kept.get(this.nameOf(found.path, root))?.entry : undefined;
  }

  /** The files kept below a directory. */
  filesBelow(directory: string): ConfigurationFile[] {
    return this.entries().filter((entry) => entry.type === "file" && isInside(entry.path, directory));
  }

  /** Keep bytes that are in no file, under a name that is no path. */
  add(entry: ConfigurationFile): void {
    if (!this.kept.has(entry.path)) this.kept.set(entry.path, { entry });
  }

  /** Keep a file; a directory with everything below it if `shape` is `tree`; a `script` if it is a small text. */
  take(path: string, shape: "file" | "tree" | "script", origin: Origin): Taken {
    const found = follow(path, origin.root);
    for (const link of found.links) this.keepLink(link, origin);
    if ("missing" in found) {
      if (origin.required) this.report({ type: "config-missing", path: found.missing, namedBy: origin.namedBy });
      return "missing";
    }
    if ("problem" in found) return this.unreadable(path, origin, found.problem);
    if (found.stat.isFile()) return this.keepFile(found.path, shape === "script", origin);
    if (found.stat.isDirectory() && shape === "tree") return this.walk(found.path, origin);
    if (origin.required && shape !== "script") this.skipped(found.path, origin, "it is not a regular file");
    return "other";
  }

  /** Paths of files that are not any more what was read. */
  changed(): string[] {
    return [...this.kept.values()].flatMap(({ entry, read }) => {
      if (read === undefined || read.data) return [];
      const now = statusOf(read.place);
      return typeof now === "object" && sameFile(read.stat, now) ? [] : [entry.path];
    });
  }

  private walk(path: string, origin: Origin): Taken {
    const place = origin.root + path;
    const stat = statusOf(place);
    if (stat === undefined) return "missing";
    if (typeof stat === "string") return this.unreadable(path, origin, stat);
    const name = this.nameOf(path, origin.root);
    this.keep(name, origin, { type: "directory", stat });
    let children: string[];
    try {
      children = readdirSync(place).sort();
    } catch (error) {
      return this.unreadable(name, origin, describe(error));
    }
    for (const child of children) this.takeChild(posix.join(path, child), origin);
    return "taken";
  }

  private takeChild(path: string, origin: Origin): void {
    const stat = statusOf(origin.root + path);
    if (typeof stat === "string") this.unreadable(path, origin, stat);
    else if (stat === undefined) {
      // Gone since the listing, or Node could not spell its name.
      if (path.includes("\ufffd")) this.unreadable(path, origin, "its name is not UTF-8");
    } else if (stat.isSymbolicLink()) this.takeLinked(path, origin);
    else if (stat.isDirectory()) {
      if (!this.excluded.has(path)) this.walk(path, origin);
    } else if (stat.isFile()) this.keepFile(path, false, origin);
  }

  /**
   * A link met on a walk: what it leads to is kept if it is a file and no package's (as the hundreds in /etc/ssl/certs
   * are). Directories elsewhere must be named to be walked.
   */
  private takeLinked(path: string, origin: Origin): void {
    const found = follow(path, origin.root);
    for (const link of found.links) this.keepLink(link, origin);
    if ("missing" in found || ("path" in found && packageFiles.test(found.path))) return;
    const area = origin.area === "config" ? "named" : origin.area;
    const linked = { ...origin, area, namedBy: path } as const;
    if ("problem" in found) this.unreadable(path, linked, found.problem);
    else if (found.stat.isFile()) this.keepFile(found.path, false, linked);
    else if (found.stat.isDirectory() && !this.kept.has(this.nameOf(found.path, origin.root))) {
      this.skipped(found.path, linked, "it is a directory elsewhere that a link leads to; name it in include");
    }
  }

  private keepFile(path: string, script: boolean, origin: Origin): Taken {
    const name = this.nameOf(path, origin.root);
    if (this.kept.has(name)) return "taken";
    const place = origin.root + path;
    const read = readSteadily(place, script ? largestScript : largestFile);
    if ("gone" in read) return "missing";
    if ("problem" in read)
      return origin.data ? this.skipped(name, origin, read.problem) : this.unreadable(name, origin, read.problem);
    if ("size" in read) return script ? "other" : this.tooLarge(name, read.size, origin);
    if (script && read.bytes.includes(0)) return "other";
    const { bytes, stat } = read;
    this.keep(name, origin, { type: "file", stat, bytes }, { place, stat, data: origin.data });
    return "taken";
  }

  private tooLarge(path: string, size: bigint, origin: Origin): Taken {
    const reason = `it has ${size} bytes, more than the ${largestFile} kept of one file`;
    const source = /^(.+)\.(db|lmdb|cdb|pag|dir)$/.exec(path)?.[1];
    const rebuildable = source !== undefined && lstatSync(origin.root + source, { throwIfNoEntry: false })?.isFile();
    if (rebuildable || origin.data) return this.skipped(path, origin, reason);
    return this.unreadable(path, origin, reason);
  }

  private keepLink(link: Link, origin: Origin): void {
    const name = this.nameOf(link.path, origin.root);
    const { configDirectory } = this.options;
    if (origin.root === "" && (isInside(configDirectory, link.path) || systemLinks.has(link.path))) return;
    this.keep(name, origin, { type: "link", stat: link.stat, target: link.target });
  }

  private keep(
    path: string,
    origin: Origin,
    what: { type: ConfigurationFile["type"]; stat: BigIntStats; bytes?: Buffer; target?: string },
    read?: Kept["read"],
  ): void {
    if (this.kept.has(path)) return;
    const { type, stat, bytes, target = null } = what;
    const own = origin.root === "" && isInside(path, this.options.configDirectory);
    const entry: ConfigurationFile = {
      instance: own ? this.options.instance : origin.instance,
      area: own ? "config" : origin.area,
      path,
      type,
      mode: Number(stat.mode) & 0o7777,
      owner: ownerOf(stat),
      mtime: Number(stat.mtimeNs / 1000n) / 1e6,
      bytes,
      digest: bytes === undefined ? null : digestOf(bytes).digest,
      target,
    };
    this.kept.set(path, read === undefined ? { entry } : { entry, read });
  }

  /** The path of an entry: below the configuration directory by that directory's own name, even if it is a link. */
  private nameOf(path: string, root: string): string {
    if (root !== "" || !isInside(path, this.realConfigDirectory)) return path;
    return this.options.configDirectory + path.slice(this.realConfigDirectory.length);
  }

  private unreadable(path: string, origin: Origin, reason: string): Taken {
    this.report({ type: "config-unreadable", path, namedBy: origin.namedBy, reason });
    return "other";
  }

  private skipped(path: string, origin: Origin, reason: string): Taken {
    this.report({ type: "config-skipped", path, namedBy: origin.namedBy, reason });
    return "other";
  }

  private report(event: ConfigurationEvent): void {
    this.options.report(event);
  }
}

/** True for the directory itself and everything below it. */
export function isInside(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory === "/" ? "/" : `${directory}/`);
}

interface Link {
  readonly path: string;
  readonly stat: BigIntStats;
  readonly target: string;
}

type Followed = { readonly links: readonly Link[] } & (
  | { readonly path: string; readonly stat: BigIntStats }
  | { readonly missing: string }
  | { readonly problem: string }
);

// Part of the system (merged /usr, /run), the same on every host, and no host's configuration.
const systemLinks = new Set(["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/var/run", "/var/lock"]);
const packageFiles = /^\/usr\/(?!local\/)/;
// As the kernel (MAXSYMLINKS).
const mostLinks = 40;

/** Walk a path component by component inside a root, noting every link on the way, to where no link is left. */
function follow(path: string, root: string): Followed {
  const links: Link[] = [];
  let at = "/";
  let stat = lstatSync(`${root}/`, { bigint: true });
  const ahead = path.split("/").filter(Boolean);
  for (let name = ahead.shift(); name !== undefined; name = ahead.shift()) {
    // `..` after a link is its target's parent, and `at` never holds a link.
    const next = posix.join(at, name);
    const found = statusOf(root + next);
    if (typeof found === "string") return { links, problem: found };
    if (found === undefined) return { links, missing: posix.join(next, ...ahead) };
    if (!found.isSymbolicLink()) {
      at = next;
      stat = found;
      continue;
    }
    let target: string;
    try {
      target = readlinkSync(root + next);
    } catch (error) {
      return { links, problem: describe(error) };
    }
    if (links.push({ path: next, stat: found, target }) > mostLinks) return { links, problem: "too many links" };
    if (target.startsWith("/")) at = "/";
    ahead.unshift(...target.split("/").filter(Boolean));
  }
  return { links, path: at, stat };
}

/** What is there, following no link; undefined for nothing, the error's name for what can't be looked at. */
function statusOf(place: string): BigIntStats | string | undefined {
  try {
    return lstatSync(place, { bigint: true, throwIfNoEntry: false });
  } catch (error) {
    return errnoOf(error) === "ENOTDIR" ? undefined : describe(error);
  }
}

type SteadyRead =
  | { readonly stat: BigIntStats; readonly bytes: Buffer }
  | { readonly size: bigint }
  | { readonly gone: true }
  | { readonly problem: string };

/** Read a file until it is the same before and after the reading. A replaced file (rename) is opened anew the next time. */
function readSteadily(place: string, limit: number): SteadyRead {
  try {
    for (let attempt = 0; attempt < readAttempts; attempt++) {
      const fd = openSync(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY);
      try {
        const stat = fstatSync(fd, { bigint: true });
        if (!stat.isFile()) return { gone: true };
        if (stat.size > limit) return { size: stat.size };
        const { bytes } = readDescriptor(fd);
        if (BigInt(bytes.length) === stat.size && sameFile(stat, fstatSync(fd, { bigint: true })))
          return { stat, bytes };
      } finally {
        closeSync(fd);
      }
    }
    return { problem: `it changed during each of ${readAttempts} readings` };
  } catch (error) {
    return errnoOf(error) === "ENOENT" ? { gone: true } : { problem: describe(error) };
  }
}

function sameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs;
}

function ownerOf(stat: BigIntStats): Owner {
  const uid = Number(stat.uid);
  const gid = Number(stat.gid);
  return { user: userName(uid), group: groupName(gid), uid, gid };
}

function describe(error: unknown): string {
  return errnoOf(error) ?? (error instanceof Error ? error.message : String(error));
}
