import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  writeSync,
} from "node:fs";
import { dirname, join, resolve, sep } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";

/**
 * Replace a file so that a reader, or we after a crash, see the old bytes or the new ones and nothing between:
 * temporary name in the same directory, write, fsync, rename, fsync of the directory.
 *
 * @param mode permission bits of the new file; the umask does not weaken or widen them
 */
export function writeFileAtomic(path: string, data: string | Uint8Array, mode = 0o600): void {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  const fd = openSync(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode);
  try {
    fchmodSync(fd, mode);
    writeAll(fd, typeof data === "string" ? Buffer.from(data) : data);
    fsyncSync(fd);
    closeSync(fd);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  fsyncDirectory(dirname(path));
}

/** Write every byte; a short write (disk almost full) is continued until the system call fails. */
export function writeAll(fd: number, data: Uint8Array): void {
  for (let done = 0; done < data.length; ) done += writeSync(fd, data, done, data.length - done);
}

/** Make names created, renamed or removed in a directory durable. */
export function fsyncDirectory(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Make a directory and its parents, private to us (0700) unless they exist. */
export function makePrivateDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
}

export interface FileRead {
  readonly stat: Stats;
  readonly bytes: Buffer;
}

/** Read a whole open file by descriptor, from its start, as long as fstat says it is. */
export function readDescriptor(fd: number): FileRead {
  const stat = fstatSync(fd);
  const bytes = Buffer.allocUnsafe(stat.size);
  let done = 0;
  while (done < stat.size) {
    const got = readSync(fd, bytes, done, stat.size - done, done);
    if (got === 0) break;
    done += got;
  }
  return { stat, bytes: bytes.subarray(0, done) };
}

/** The text of a file that may not be there, or not any more: then undefined. */
export function textIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Read a regular file in one open, following no link in its last component. Throws as `openSync` does. */
export function readRegularFile(path: string): FileRead {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    return readDescriptor(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Join a name that came from outside (a tar entry, a manifest) to a root it must not leave.
 *
 * @throws OperatorError `damaged` for an absolute name, a `..` component, a NUL or an empty name
 */
export function joinInside(root: string, name: string): string {
  const parts = name.split("/");
  if (name === "" || name.startsWith("/") || name.includes("\0") || parts.includes("..")) {
    throw new OperatorError("damaged", `the name ${JSON.stringify(name)} would leave ${root}`);
  }
  const path = resolve(join(root, name));
  if (path !== resolve(root) && !path.startsWith(resolve(root) + sep)) {
    throw new OperatorError("damaged", `the name ${JSON.stringify(name)} would leave ${root}`);
  }
  return path;
}
