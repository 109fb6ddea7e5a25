import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  futimesSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { dirname, join } from "node:path";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { idForInode, nextMicrosecond } from "../postfix/queue-id.ts";
import { digestOf } from "../system/digest.ts";
import { fsyncDirectory, makePrivateDirectory, readRegularFile, writeAll, writeFileAtomic } from "../system/files.ts";

const asideSchema = z.object({
  format: z.literal(1),
  claim: z.string(),
  instance: z.string(),
  queueDirectory: z.string(),
  /** The name it had in maildrop. */
  queueId: z.string(),
  /** RFC 3339. */
  since: z.string(),
  sha256: z.string(),
  mode: z.number(),
  uid: z.number(),
  gid: z.number(),
  /** Seconds since 1970. */
  mtime: z.number(),
  /** Path of the copy in maildrop that is about to get its name there: once it is gone, the message is back. */
  returning: z.string().nullable(),
});

/** A file of maildrop that a fence moved out of Postfix's reach. Its bytes are in `file`, whole, until it is back. */
export type SetAside = z.infer<typeof asideSchema> & { readonly file: string };

/**
 * Move a claimed file out of maildrop. Postfix must be stopped. Mail in maildrop can't be put on hold (pickup(8) would take it, and
 * in hold/ it would end in corrupt/), so it waits below the state directory.
 *
 * A crash leaves it in maildrop, or in both places, where the next fence removes it from maildrop.
 */
export function setAside(
  stateDirectory: string,
  instance: PostfixInstance,
  { path, id }: { readonly path: string; readonly id: string },
  claim: string,
  since: string,
): SetAside {
  const file = join(asideDirectory(stateDirectory), claim, instance.name.replaceAll("/", "_"), id);
  makePrivateDirectory(dirname(file));
  const { bytes, stat } = readRegularFile(path);
  writeFileAtomic(file, bytes);
  const { mode, uid, gid, mtimeMs } = stat;
  const { name, queueDirectory } = instance;
  const facts = { mode: mode & 0o777, uid, gid, mtime: mtimeMs / 1000, sha256: digestOf(bytes).digest };
  const aside = {
    format: 1,
    claim,
    instance: name,
    queueDirectory,
    queueId: id,
    since,
    ...facts,
    returning: null,
  } as const;
  for (const made of [dirname(file), dirname(dirname(file)), asideDirectory(stateDirectory), stateDirectory]) {
    fsyncDirectory(made);
  }
  save(file, aside);
  rmSync(path);
  fsyncDirectory(dirname(path));
  return { ...aside, file };
}

/** What fences have moved out of an instance's maildrop. One that is back already, but for a crash, is cleared away. */
export function listAside(stateDirectory: string, instance: Pick<PostfixInstance, "name">): SetAside[] {
  const top = asideDirectory(stateDirectory);
  if (!existsSync(top)) return [];
  return readdirSync(top)
    .sort()
    .flatMap((claim) => filesIn(join(top, claim, instance.name.replaceAll("/", "_"))))
    .flatMap((file) => {
      const aside = load(file);
      if (aside.returning === null || existsSync(aside.returning)) return [aside];
      fsyncDirectory(dirname(aside.returning)); // its name there may not be on disk yet
      clear(aside);
      return [];
    });
}

/**
 * Put it back into maildrop, where pickup(8) finds it, under a name made from its inode there.
 *
 * @returns its queue id
 * @throws OperatorError `damaged` when the file is not what was set aside
 */
export function putBack(aside: SetAside, instance: PostfixInstance): string {
  const bytes = readFileSync(aside.file);
  if (digestOf(bytes).digest !== aside.sha256) {
    throw new OperatorError("damaged", `${aside.file} is not the file that was set aside`, {
      hints: ["put it back from a copy, or restore the message from a snapshot"],
    });
  }
  const maildrop = join(instance.queueDirectory, "maildrop");
  // A dot is no character of a queue id: nobody takes it for a message while it has this name.
  const temporary = join(maildrop, `${aside.queueId}.spoolsafe`);
  const inode = writeCopy(temporary, bytes, aside);
  fsyncDirectory(maildrop);
  let id = idForInode(aside.queueId, inode, instance.longIds);
  while (lstatSync(join(maildrop, id), { throwIfNoEntry: false }) !== undefined) id = nextMicrosecond(id);
  save(aside.file, { ...aside, returning: temporary });
  // Nobody else makes a file of this name: it has our inode in it.
  renameSync(temporary, join(maildrop, id));
  fsyncDirectory(maildrop);
  clear(aside);
  return id;
}

function writeCopy(path: string, bytes: Buffer, { mode, uid, gid, mtime }: SetAside): bigint {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o600);
  try {
    writeAll(fd, bytes);
    fchownSync(fd, uid, gid);
    fchmodSync(fd, mode);
    futimesSync(fd, mtime, mtime);
    fsyncSync(fd);
    return fstatSync(fd, { bigint: true }).ino;
  } finally {
    closeSync(fd);
  }
}

function filesIn(directory: string): string[] {
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => name.endsWith(".json"));
  return names.sort().map((name) => join(directory, name.slice(0, -".json".length)));
}

function load(file: string): SetAside {
  const parsed = asideSchema.safeParse(JSON.parse(readFileSync(`${file}.json`, "utf8")));
  if (parsed.success) return { ...parsed.data, file };
  throw new OperatorError("failed", `${file}.json can't be read: it says where the message beside it belongs`, {
    hints: ["a newer spoolsafe may have written it: use that version", "don't remove either: the message is whole"],
  });
}

function save(file: string, { file: _file, ...aside }: z.infer<typeof asideSchema> & { readonly file?: string }): void {
  writeFileAtomic(`${file}.json`, `${JSON.stringify(aside)}\n`);
}

/** The record last: without it nobody would know of the file. */
function clear({ file }: SetAside): void {
  rmSync(file, { force: true });
  rmSync(`${file}.json`, { force: true });
  fsyncDirectory(dirname(file));
}

function asideDirectory(stateDirectory: string): string {
  return join(stateDirectory, "fence");
}
