import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  futimesSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  type Stats,
  statSync,
  symlinkSync,
} from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { digestOf, digestOfDescriptor } from "../system/digest.ts";
import { readDescriptor, writeAll } from "../system/files.ts";

/**
 * A name on the target. `base` is a directory the operator named and may be reached through links; every step below it is
 * a real directory, or nothing is read or written there.
 */
export interface Place {
  readonly base: string;
  /** Names below base, none of them empty, `.` or `..`; the base itself when there are none. */
  readonly steps: readonly string[];
}

export interface Dress {
  /** All twelve permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970. */
  readonly mtime: number;
}

/** What lies at a place, looked at without following a link. */
export type Present =
  | { readonly kind: "nothing" }
  | ({
      readonly kind: "file";
      readonly bytes: number;
      /** SHA-256, hexadecimal. */
      readonly digest: string;
      /** The bytes of a file small enough to be compared line by line, else null. */
      readonly content: Buffer | null;
    } & Dress)
  | ({ readonly kind: "link"; readonly target: string } & Dress)
  | ({ readonly kind: "directory" } & Dress)
  /** A device, socket or FIFO. */
  | { readonly kind: "other"; readonly what: string }
  /** A step on the way is a link or no directory. */
  | { readonly kind: "unreachable"; readonly what: string };

/** Files up to this size are compared line by line. */
export const comparable = 1024 * 1024;

export function pathOf({ base, steps }: Place): string {
  return join(base, ...steps);
}

/** Two names, such as `/x/etc/../spool` and `/x/spool`, of one directory that is there. */
export function isSameDirectory(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => statSync(path, { throwIfNoEntry: false }));
  return a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
}

export function lookAt(place: Place): Present {
  try {
    if (place.steps.length === 0) return statusOf(place.base, ".");
    return inParent(place, (at, name) => statusOf(at(name), name));
  } catch (error) {
    if (error instanceof Unreachable) return { kind: "unreachable", what: error.message };
    if (errnoOf(error) === "ENOENT") return { kind: "nothing" };
    throw error;
  }
}

function statusOf(path: string, name: string): Present {
  const stat = lstatSync(name === "." ? `${path}/.` : path);
  const dress = dressOf(stat);
  if (stat.isSymbolicLink()) return { kind: "link", target: readlinkSync(path), ...dress };
  if (stat.isDirectory()) return { kind: "directory", ...dress };
  if (!stat.isFile()) return { kind: "other", what: kindOf(stat) };
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (fstatSync(fd).size > comparable) {
      const { digest, size } = digestOfDescriptor(fd);
      return { kind: "file", bytes: size, digest, content: null, ...dress };
    }
    const { bytes } = readDescriptor(fd);
    return { kind: "file", bytes: bytes.length, digest: digestOf(bytes).digest, content: bytes, ...dress };
  } finally {
    closeSync(fd);
  }
}

function dressOf(stat: Stats): Dress {
  return { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, mtime: stat.mtimeMs / 1000 };
}

function kindOf(stat: Stats): string {
  if (stat.isFIFO()) return "a FIFO";
  return stat.isSocket() ? "a socket" : "a device";
}

/** Names in a directory; none when there is no such directory. */
export function namesIn(place: Place): string[] {
  try {
    return inDirectory(place, (at) => readdirSync(at(".")).sort());
  } catch (error) {
    if (error instanceof Unreachable || errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}

/**
 * Write a new file beside a place: private until its bytes are in it, then with its owner, mode and time, and on disk. An
 * older one of that name, of an interrupted run, is replaced.
 */
export function writeBeside(place: Place, temporary: string, bytes: Uint8Array, dress: Dress): void {
  inParent(place, (at) => {
    const path = at(temporary);
    rmSync(path, { force: true });
    const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
    try {
      writeAll(fd, bytes);
      putOn(fd, dress);
      fsyncSync(fd);
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      closeSync(fd);
    }
  });
}

/** Owner before mode, because chown(2) clears the set-id bits; time last. */
function putOn(fd: number, { uid, gid, mode, mtime }: Dress): void {
  fchownSync(fd, uid, gid);
  fchmodSync(fd, mode);
  futimesSync(fd, mtime, mtime);
}

export function linkBeside(place: Place, temporary: string, target: string, dress: Dress): void {
  inParent(place, (at) => {
    const path = at(temporary);
    rmSync(path, { force: true });
    symlinkSync(target, path);
    lchownSync(path, dress.uid, dress.gid);
    lutimesSync(path, dress.mtime, dress.mtime);
  });
}

/** Give what lies at a place a second name beside it. */
export function nameBeside(place: Place, temporary: string): void {
  inParent(place, (at, name) => {
    rmSync(at(temporary), { force: true });
    linkSync(at(name), at(temporary));
  });
}

/** Make a file or link that was written beside a place the one that lies there. */
export function moveIn(place: Place, temporary: string): void {
  inParent(place, (at, name, fd) => {
    renameSync(at(temporary), at(name));
    fsyncSync(fd);
  });
}

/** Give a file beside a place the owner, mode and (kept when undefined) time it is to have; on disk afterwards. */
export function dressBeside(place: Place, temporary: string, dress: Omit<Dress, "mtime">): void {
  inParent(place, (at) => {
    const fd = openSync(at(temporary), constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      fchownSync(fd, dress.uid, dress.gid);
      fchmodSync(fd, dress.mode);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  });
}

/** Remove every file whose name begins so, in the directory a place is in: what an interrupted run left there. */
export function sweepBeside(place: Place, prefix: string): void {
  for (const name of namesIn(parentOf(place))) {
    if (name.startsWith(prefix)) inParent(place, (at) => rmSync(at(name), { force: true }));
  }
}

export function remove(place: Place): void {
  inParent(place, (at, name, fd) => {
    rmSync(at(name), { force: true });
    fsyncSync(fd);
  });
}

/** @returns false when it has something in it */
export function removeDirectory(place: Place): boolean {
  try {
    inParent(place, (at, name) => rmdirSync(at(name)));
    return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return true;
    if (errnoOf(error) === "ENOTEMPTY") return false;
    throw error;
  }
}

/** Make one directory whose parent exists; private until it has its owner. */
export function makeDirectory(place: Place, dress: Omit<Dress, "mtime">): void {
  inParent(place, (at, name, fd) => {
    mkdirSync(at(name), { mode: 0o700 });
    lchownSync(at(name), dress.uid, dress.gid);
    chmodSync(at(name), dress.mode);
    fsyncSync(fd);
  });
}

export function dressDirectory(place: Place, dress: Omit<Dress, "mtime"> & Partial<Pick<Dress, "mtime">>): void {
  inDirectory(place, (_, fd) => {
    fchownSync(fd, dress.uid, dress.gid);
    fchmodSync(fd, dress.mode);
    if (dress.mtime !== undefined) futimesSync(fd, dress.mtime, dress.mtime);
  });
}

export function parentOf({ base, steps }: Place): Place {
  return { base, steps: steps.slice(0, -1) };
}

/**
 * Open the directory a place is in, step by step, and act on names in it through its descriptor: whoever owns a directory
 * on the way can't put a link in its place between our look and our write (Node has no openat(2); /proc/self/fd does the
 * same).
 *
 * @throws OperatorError `refused` when a step is a link or no directory; `ENOENT` when one is missing
 */
export function inParent<T>(place: Place, act: (at: (name: string) => string, name: string, fd: number) => T): T {
  const name = place.steps.at(-1);
  if (name === undefined) throw new Unreachable(`${place.base} itself can't be replaced`);
  return inDirectory(parentOf(place), (at, fd) => act(at, name, fd));
}

export function inDirectory<T>({ base, steps }: Place, act: (at: (name: string) => string, fd: number) => T): T {
  let fd = openSync(base, directoryOnly);
  try {
    for (const [index, step] of steps.entries()) {
      const next = openStep(fd, step, join(base, ...steps.slice(0, index + 1)));
      closeSync(fd);
      fd = next;
    }
    const here = fd;
    return act((name) => `/proc/self/fd/${here}/${name}`, here);
  } finally {
    closeSync(fd);
  }
}

const directoryOnly = constants.O_RDONLY | constants.O_DIRECTORY;

function openStep(fd: number, step: string, path: string): number {
  try {
    return openSync(`/proc/self/fd/${fd}/${step}`, directoryOnly | constants.O_NOFOLLOW);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === "ELOOP" || errno === "ENOTDIR") throw new Unreachable(`${path} is a link or no directory here`);
    throw error;
  }
}

class Unreachable extends OperatorError {
  constructor(fact: string) {
    super("refused", fact, { hints: ["nothing is written through a link: put a directory there, and run it again"] });
  }
}
