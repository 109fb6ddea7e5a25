import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access, type FileHandle, link, lstat, mkdir, open, readdir, rename, rm, stat, unlink } from "node:fs/promises";
import { dirname, join, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { errnoOf, OperatorError } from "../errors.ts";
import { joinInside } from "../system/files.ts";
import { bodyBytes, bodyChunks } from "./body.ts";
import { type ObjectBody, ObjectRetained, type ObjectStore, type StoredObject, staleAfterMs } from "./object-store.ts";

export interface DirectoryStoreOptions {
  /** Milliseconds a single system call may take (a network file system whose server is gone); default 2 minutes. */
  readonly limitMs?: number;
  /** More than 0 where locks are wanted, which a directory can't keep: it is read, and not written to. */
  readonly lockDays?: number | undefined;
}

/**
 * Objects as files below a directory, named by their keys, mode 0600 in directories of mode 0700. A file is written
 * under a temporary name beside its own, synced, read back, and gets its name by link(2), which replaces nothing.
 */
export class DirectoryStore implements ObjectStore {
  readonly url: string;
  readonly #root: string;
  readonly #limitMs: number;
  readonly #lockDays: number;
  /** Directories this process has made or found, whose name in their parent is on disk. */
  readonly #durable = new Set<string>();

  constructor(root: string, options: DirectoryStoreOptions = {}) {
    this.#root = root.length > 1 ? root.replace(/\/+$/, "") : root;
    this.#limitMs = options.limitMs ?? 120_000;
    this.#lockDays = options.lockDays ?? 0;
    this.url = pathToFileURL(this.#root).href;
  }

  async prepare(signal?: AbortSignal): Promise<void> {
    const top = await this.#step(`make ${this.#root}`, mkdir(this.#root, { recursive: true, mode: 0o700 }), signal);
    if (top === undefined) return;
    for (let made = this.#root; made.length >= top.length; made = dirname(made)) {
      await this.#syncDirectory(dirname(made), signal);
    }
  }

  async put(key: string, body: ObjectBody, sha256: string, signal?: AbortSignal): Promise<void> {
    this.#refuseLocks();
    const path = joinInside(this.#root, key);
    const bytes = bodyBytes(body);
    signal?.throwIfAborted();
    if (await this.#isThere(path, signal)) return this.#expectSame(key, path, sha256, bytes, signal);
    await this.#makeParents(dirname(path), signal);
    const temporary = join(dirname(path), `.spoolsafe-${randomBytes(6).toString("hex")}.tmp`);
    try {
      await this.#writeTemporary(key, temporary, body, sha256, bytes, signal);
      const placed = await this.#step(`store ${key}`, linkNew(temporary, path), signal);
      await this.#syncDirectory(dirname(path), signal);
      if (!placed) await this.#expectSame(key, path, sha256, bytes, signal);
    } finally {
      // When this fails as well, a later sweep finds the file; the first failure is the one to hear about.
      await this.#step("clear up", rm(temporary, { force: true }), undefined, clearUpMs).catch(() => {});
    }
  }

  async keepLocked(): Promise<void> {
    this.#refuseLocks();
  }

  /** It can be read, which is what a copy on a disk is for when the bucket of the configuration is out of reach. */
  #refuseLocks(): void {
    if (this.#lockDays === 0) return;
    throw new OperatorError("config", `${this.url} is a directory, and those keep no locks for object_lock_days`, {
      hints: ["to write there, set repository.object_lock_days = 0"],
    });
  }

  async get(key: string, signal?: AbortSignal): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.open(key, signal)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async *open(key: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const what = `read ${key}`;
    const file = await this.#openObject(key, signal);
    try {
      const size = (await this.#step(what, file.stat(), signal)).size;
      for (let done = 0; ; ) {
        const chunk = Buffer.allocUnsafe(Math.min(Math.max(size - done, 1), chunkBytes));
        const { bytesRead } = await this.#step(what, file.read(chunk, 0, chunk.length, done), signal);
        if (bytesRead === 0) return;
        done += bytesRead;
        yield chunk.subarray(0, bytesRead);
      }
    } finally {
      closeSoon(file);
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<StoredObject, void, undefined> {
    await this.#requireRoot(signal);
    yield* this.#walk("", prefix, signal);
  }

  async remove(key: string, signal?: AbortSignal): Promise<void> {
    const path = joinInside(this.#root, key);
    await this.#requireRoot(signal);
    if (!(await this.#isThere(path, signal))) return;
    // Not rm(), which takes a file that may not be removed for a directory and says so.
    const removing = unlink(path).catch((error) => {
      if (errnoOf(error) === "ENOENT") return;
      // What root may not do is kept by an attribute (chattr +i or +a), or by a file system that has locks of its own.
      const locked = errnoOf(error) === "EPERM" && process.getuid?.() === 0;
      throw locked ? new ObjectRetained(key, null, error) : error;
    });
    await this.#step(`remove ${key}`, removing, signal);
    await this.#syncDirectory(dirname(path), signal);
  }

  async sweep(signal?: AbortSignal): Promise<number> {
    await this.#requireRoot(signal);
    return this.#sweepBelow("", Date.now() - staleAfterMs, signal);
  }

  async close(): Promise<void> {}

  async #isThere(path: string, signal: AbortSignal | undefined): Promise<boolean> {
    return this.#step(
      `look at ${path}`,
      access(path, constants.F_OK).then(
        () => true,
        (error) => {
          if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return false;
          throw error;
        },
      ),
      signal,
    );
  }

  /** An object of this name is there: right if it has these bytes, and then made durable like one just written. */
  async #expectSame(key: string, path: string, sha256: string, bytes: number, signal: AbortSignal | undefined) {
    const file = await this.#openObject(key, signal);
    try {
      const found = await this.#digestOf(key, file, signal);
      if (found.digest !== sha256 || found.bytes !== bytes) {
        throw new OperatorError("store-failed", `${key} is there already, with other bytes`, {
          hints: ["run spoolsafe verify: an object is never rewritten, so this one is damaged or not ours"],
        });
      }
      await this.#step(`sync ${key}`, file.sync(), signal);
    } finally {
      closeSoon(file);
    }
    await this.#syncDirectory(dirname(path), signal);
  }

  async #makeParents(directory: string, signal: AbortSignal | undefined): Promise<void> {
    const steps = directory.slice(this.#root.length).split(sep).filter(Boolean);
    let current = this.#root;
    for (const step of steps) {
      const parent = current;
      current = join(current, step);
      if (this.#durable.has(current)) continue;
      await this.#step(`make ${current}`, mkdir(current, { mode: 0o700 }).catch(unlessItExists), signal);
      await this.#syncDirectory(parent, signal);
      this.#durable.add(current);
    }
  }

  async #writeTemporary(
    key: string,
    temporary: string,
    body: ObjectBody,
    sha256: string,
    bytes: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const what = `write ${key}`;
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const file = await this.#openFile(what, temporary, flags, signal);
    try {
      for await (const chunk of bodyChunks(body, chunkBytes)) await this.#step(what, writeWhole(file, chunk), signal);
      await this.#step(what, file.sync(), signal);
      const found = await this.#digestOf(key, file, signal);
      if (found.digest !== sha256 || found.bytes !== bytes) {
        throw new OperatorError("store-failed", `${key} read back from ${this.#root} is not what was written`, {
          hints: ["the disk, its controller or this machine's memory is failing: see dmesg"],
        });
      }
    } finally {
      closeSoon(file);
    }
  }

  async #digestOf(key: string, file: FileHandle, signal: AbortSignal | undefined) {
    const sha256 = createHash("sha256");
    const chunk = Buffer.allocUnsafe(chunkBytes);
    for (let bytes = 0; ; ) {
      const { bytesRead } = await this.#step(`read ${key}`, file.read(chunk, 0, chunk.length, bytes), signal);
      if (bytesRead === 0) return { digest: sha256.digest("hex"), bytes };
      sha256.update(chunk.subarray(0, bytesRead));
      bytes += bytesRead;
    }
  }

  async #openFile(what: string, path: string, flags: number, signal: AbortSignal | undefined): Promise<FileHandle> {
    const opening = open(path, flags, 0o600);
    try {
      return await this.#step(what, opening, signal);
    } catch (error) {
      opening.then(closeSoon, () => {});
      throw error;
    }
  }

  async #openObject(key: string, signal: AbortSignal | undefined): Promise<FileHandle> {
    try {
      return await this.#openFile(`read ${key}`, joinInside(this.#root, key), constants.O_RDONLY, signal);
    } catch (error) {
      if (!(error instanceof OperatorError) || !isMissing(error.cause)) throw error;
      await this.#requireRoot(signal);
      throw new OperatorError("damaged", `${key} is missing`, { cause: error.cause });
    }
  }

  /** In the order of whole keys, in which a directory counts as its name with a slash. */
  async *#walk(
    directory: string,
    prefix: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<StoredObject, void, undefined> {
    const entries = (await this.#entries(directory, signal))
      .map((entry) => ({ key: directory + entry.name + (entry.isDirectory() ? "/" : ""), entry }))
      .filter(({ key, entry }) => key.startsWith(prefix) || (entry.isDirectory() && prefix.startsWith(key)))
      .filter(({ entry }) => entry.isDirectory() || (entry.isFile() && !temporaryName.test(entry.name)))
      .sort((a, b) => (a.key < b.key ? -1 : 1));
    const files = entries.filter(({ entry }) => entry.isFile()).map(({ key }) => key);
    const objects = await this.#step("list", Promise.all(files.map((key) => this.#look(key))), signal);
    const found = new Map(objects.filter((object) => object !== undefined).map((object) => [object.key, object]));
    for (const { key, entry } of entries) {
      const object = found.get(key);
      if (entry.isDirectory()) yield* this.#walk(key, prefix, signal);
      else if (object !== undefined) yield object;
    }
  }

  async #entries(directory: string, signal: AbortSignal | undefined) {
    const reading = readdir(join(this.#root, directory), { withFileTypes: true });
    try {
      return await this.#step(`list ${join(this.#root, directory)}`, reading, signal);
    } catch (error) {
      // Removed by somebody since its parent was read.
      if (directory !== "" && error instanceof OperatorError && isMissing(error.cause)) return [];
      throw error;
    }
  }

  /** Undefined for a file removed since its directory was read. */
  async #look(key: string): Promise<StoredObject | undefined> {
    try {
      const { size, mtimeMs } = await lstat(join(this.#root, key));
      return { key, bytes: size, modified: mtimeMs };
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async #sweepBelow(directory: string, before: number, signal: AbortSignal | undefined): Promise<number> {
    let swept = 0;
    for (const entry of await this.#entries(directory, signal)) {
      if (entry.isDirectory()) swept += await this.#sweepBelow(`${directory}${entry.name}/`, before, signal);
      if (!entry.isFile() || !temporaryName.test(entry.name)) continue;
      const found = await this.#step("sweep", this.#look(directory + entry.name), signal);
      if (found === undefined || found.modified >= before) continue;
      await this.#step(`remove ${found.key}`, rm(join(this.#root, found.key), { force: true }), signal);
      swept++;
    }
    return swept;
  }

  async #requireRoot(signal: AbortSignal | undefined): Promise<void> {
    const found = await this.#step(`look at ${this.#root}`, stat(this.#root).catch(undefinedIfMissing), signal);
    if (found?.isDirectory()) return;
    throw new OperatorError(
      "no-repository",
      found === undefined ? `there is no directory ${this.#root}` : `${this.#root} is not a directory`,
      { hints: ["is its disk mounted, and is repository.url right?", "spoolsafe init makes a new repository"] },
    );
  }

  async #syncDirectory(path: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#step(`sync ${path}`, syncDirectory(path), signal);
  }

  /** Await a system call, but no longer than its limit or the signal allow, and word its failure. */
  async #step<T>(what: string, work: Promise<T>, signal: AbortSignal | undefined, limitMs = this.#limitMs): Promise<T> {
    const { promise: ended, reject } = Promise.withResolvers<never>();
    const onAbort = () => reject(signal?.reason);
    const timer = setTimeout(() => reject(new SilentDisk(limitMs)), limitMs);
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    try {
      return await Promise.race([work, ended]);
    } catch (error) {
      if (signal?.aborted || error instanceof OperatorError) throw error;
      if (isMissing(error) && !what.startsWith("look at")) await this.#requireRoot(undefined);
      throw explain(what, error, this.#root);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

const chunkBytes = 1024 * 1024;
/** How long a failed put may take to remove its temporary file. */
const clearUpMs = 2000;
const temporaryName = /^\.spoolsafe-[0-9a-f]{12}\.tmp$/;

class SilentDisk extends Error {
  constructor(limitMs: number) {
    super(`no answer within ${limitMs / 1000} s`);
  }
}

/** Close without waiting: close(2) waits behind a read or write that hangs, and everything that counts was synced. */
function closeSoon(file: FileHandle): void {
  file.close().catch(() => {});
}

async function writeWhole(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, Math.min(bytes.length - done, chunkBytes))).bytesWritten;
  }
}

/**
 * Give a file a name that nobody has, in one step.
 *
 * @returns false when the name is taken
 */
async function linkNew(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === "EEXIST") return false;
    if (!withoutLinks.has(errno)) throw error;
  }
  // FAT, exFAT and some FUSE and SMB mounts know no link(2). Names are made of digests, so between this look and the
  // rename nobody can give the name to other bytes, short of two `init` at one time.
  if ((await lstat(path).catch(undefinedIfMissing)) !== undefined) return false;
  await rename(temporary, path);
  return true;
}

const withoutLinks = new Set<string | undefined>(["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"]);

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await directory.sync();
  } catch (error) {
    // File systems that can't sync a directory (SMB, some FUSE) say so with these and have nothing more to offer.
    if (!["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(errnoOf(error) ?? "")) throw error;
  } finally {
    await directory.close();
  }
}

function unlessItExists(error: unknown): void {
  if (errnoOf(error) !== "EEXIST") throw error;
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
  return undefined;
}

function isMissing(error: unknown): boolean {
  return errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR";
}

function explain(what: string, error: unknown, root: string): OperatorError {
  const errno = errnoOf(error);
  // Bytes a disk can't give back are a damaged object, to be listed by verify like any other.
  const kind = (errno === "EIO" || errno === "EISDIR") && what.startsWith("read ") ? "damaged" : "store-failed";
  const said = error instanceof Error ? error.message.replace(/^E[A-Z]+: /, "") : String(error);
  return new OperatorError(kind, `could not ${what}: ${said}`, { hints: hintsFor(errno, error, root), cause: error });
}

function hintsFor(errno: string | undefined, error: unknown, root: string): string[] {
  switch (errno) {
    case "ENOSPC":
    case "EDQUOT":
      return [`the file system of ${root} is full: make room (df -h, df -i), then run this again`];
    case "EROFS":
      return [`${root} is mounted read-only: see dmesg for a disk error, then mount -o remount,rw`];
    case "EACCES":
    case "EPERM":
      return [`this user may not do that: run as root, or as the owner of ${root}`];
    case "EIO":
      return ["the disk reports errors: see dmesg, and copy the repository to another disk while it can be read"];
    case "ESTALE":
    case "ETIMEDOUT":
    case "EHOSTDOWN":
      return [`${root} is on a network file system that is gone: mount it again`];
    default:
      return error instanceof SilentDisk
        ? [`the file system of ${root} does not answer: is its server or disk gone?`]
        : [];
  }
}
