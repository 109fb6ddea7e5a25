import { createHash, hash } from "node:crypto";
import { closeSync, constants, openSync, readSync, rmSync } from "node:fs";
import { ChunkReader } from "../crypto/chunks.ts";
import type { AgeIdentities, AgeRecipients } from "../crypto/keys.ts";
import { open, openStream } from "../crypto/open.ts";
import { seal, sealStream } from "../crypto/seal.ts";
import { OperatorError } from "../errors.ts";
import { writeAll } from "../system/files.ts";
import {
  readTar,
  readTarStream,
  TarImage,
  type TarStreamEntry,
  tarFileSize,
  tarHeader,
  tarSize,
  tarTail,
} from "./tar.ts";
import { compress, compressStream, decompress, decompressStream } from "./zstd.ts";

/** Bytes of tar up to which a pack is filled, before compression. */
export const packTarget = 8 * 1024 * 1024;

/** A file with more bytes is alone in its pack and goes through a stream and a temporary file. */
export const largeFile = 16 * 1024 * 1024;

/** Tar bytes a pack read in memory may have: four times what we write at most, and far less than a zstd bomb. */
export const packLimit = 64 * 1024 * 1024;

/** A pack in memory, ready to be stored. */
export interface SealedPack {
  /** SHA-256 of the sealed bytes. */
  readonly id: string;
  readonly sealed: Buffer;
  readonly files: number;
  /** Bytes of the files in it, without tar headers. */
  readonly plainBytes: number;
}

/** A pack of one large file, sealed into a temporary file. */
export interface LargePack {
  readonly id: string;
  readonly file: string;
  /** Sealed bytes. */
  readonly bytes: number;
}

export interface PackFile {
  /** SHA-256 of the bytes, hexadecimal. */
  readonly digest: string;
  readonly bytes: Buffer;
}

/** A large file that had other bytes when it was packed than when its digest was made. Nothing was stored: read it again. */
export class SourceChanged extends Error {
  constructor(digest: string) {
    super(`the file with digest ${digest} changed before it was packed`);
    this.name = "SourceChanged";
  }
}

const entryPrefix = "files/sha256-";
const entryPattern = /^files\/sha256-([0-9a-f]{64})$/;

/** Name of a file in a pack. `-` is not legal in a queue id, so Postfix ignores one that gets into a spool. */
export function packEntryName(digest: string): string {
  return entryPrefix + digest;
}

/** Put files into one pack. @throws RangeError for the same digest twice, or more than a pack in memory may hold */
export async function buildPack(files: readonly PackFile[], recipients: AgeRecipients): Promise<SealedPack> {
  const size = files.reduce((sum, file) => sum + tarSize(file.bytes.length), 0) + tarFileSize(0);
  if (size > packLimit) throw new RangeError(`a pack of ${size} bytes could not be read again`);
  if (new Set(files.map((file) => file.digest)).size < files.length)
    throw new RangeError("a digest stands there twice");
  const memory = new ArrayBuffer(size);
  const image = new TarImage(memory);
  for (const file of files) image.add(packEntryName(file.digest), file.bytes);
  const tar = new Uint8Array(memory, 0, image.finish());
  const plainBytes = files.reduce((sum, file) => sum + file.bytes.length, 0);
  return { ...(await sealPack(tar, recipients)), files: files.length, plainBytes };
}

/** Compress and seal a tar archive. */
export async function sealPack(tar: Uint8Array, recipients: AgeRecipients): Promise<{ id: string; sealed: Buffer }> {
  const sealed = await seal(compress(tar), recipients);
  return { id: hash("sha256", sealed), sealed };
}

/**
 * Pack one file of any size, in constant memory, into a temporary sealed file (created, 0600; gone again on failure).
 *
 * @param fd open for reading; it is read by offset and stays the caller's to close
 * @param digest SHA-256 the caller has read
 * @throws SourceChanged when the file does not have this digest or size any more
 */
export async function buildLargePack(
  fd: number,
  digest: string,
  bytes: number,
  recipients: AgeRecipients,
  temporaryFile: string,
): Promise<LargePack> {
  const out = openSync(temporaryFile, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    const id = createHash("sha256");
    let sealedBytes = 0;
    const compressed = compressStream(tarOf(fd, digest, bytes), tarFileSize(bytes));
    for await (const piece of sealStream(compressed, recipients)) {
      writeAll(out, piece);
      id.update(piece);
      sealedBytes += piece.length;
    }
    return { id: id.digest("hex"), file: temporaryFile, bytes: sealedBytes };
  } catch (error) {
    rmSync(temporaryFile, { force: true });
    throw error;
  } finally {
    closeSync(out);
  }
}

async function* tarOf(fd: number, digest: string, bytes: number): AsyncGenerator<Buffer> {
  yield tarHeader({ name: packEntryName(digest), size: bytes });
  const read = createHash("sha256");
  const step = 1024 * 1024;
  for (let at = 0; at < bytes; ) {
    const piece = Buffer.allocUnsafeSlow(Math.min(step, bytes - at));
    const got = readSync(fd, piece, 0, piece.length, at);
    if (got === 0) throw new SourceChanged(digest);
    read.update(piece.subarray(0, got));
    yield piece.subarray(0, got);
    at += got;
  }
  if (read.digest("hex") !== digest) throw new SourceChanged(digest);
  yield tarTail(bytes);
}

/**
 * Open a pack in memory. Nothing in it is believed: every entry is a regular file named by a digest, each once, that
 * its bytes have, and the archive is whole. The buffers share the memory of the opened archive.
 *
 * @returns digest → bytes
 * @throws OperatorError `no-identity`, or `damaged` that names what is wrong; also `damaged` for a pack of a large
 * file (over 64 MiB), which `readLargePack` reads
 */
export async function readPack(sealed: Uint8Array, identities: AgeIdentities): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for (const entry of readTar(decompress(await open(sealed, identities), packLimit))) {
    const digest = digestOf(entry.name, files);
    checkDigest(digest, hash("sha256", entry.bytes));
    files.set(digest, entry.bytes);
  }
  return files;
}

/**
 * Open a pack of any size as a stream, in constant memory, with the same checks as `readPack`. A body's digest is
 * checked at its end: use what was read only when the loop over the body, and over the pack, has ended without an error.
 */
export async function* readLargePack(
  sealed: AsyncIterable<Uint8Array>,
  identities: AgeIdentities,
): AsyncIterable<{ readonly digest: string; readonly bytes: number; readonly body: AsyncIterable<Buffer> }> {
  const reader = new ChunkReader(decompressStream(openStream(sealed, identities)));
  const seen = new Map<string, true>();
  try {
    for await (const entry of readTarStream(reader)) {
      const digest = digestOf(entry.name, seen);
      seen.set(digest, true);
      const next = checkedRead(digest, entry);
      yield { digest, bytes: entry.size, body: piecesOf(next) };
      while ((await next()) !== undefined); // what the consumer left is checked as well
    }
  } finally {
    await reader.close();
  }
}

function checkedRead(digest: string, entry: TarStreamEntry): () => Promise<Buffer | undefined> {
  const read = createHash("sha256");
  let checked = false;
  return async () => {
    if (checked) return undefined;
    const piece = await entry.read();
    if (piece === undefined) {
      checked = true;
      checkDigest(digest, read.digest("hex"));
    } else {
      read.update(piece);
    }
    return piece;
  };
}

async function* piecesOf(next: () => Promise<Buffer | undefined>): AsyncGenerator<Buffer> {
  for (let piece = await next(); piece !== undefined; piece = await next()) yield piece;
}

function digestOf(name: string, seen: ReadonlyMap<string, unknown>): string {
  const shown = JSON.stringify(name);
  const digest = entryPattern.exec(name)?.[1];
  if (digest === undefined) {
    if (name.startsWith("/")) throw damaged(`the tar entry ${shown} has an absolute name`);
    if (name.split("/").includes("..")) throw damaged(`the tar entry ${shown} climbs out with ..`);
    throw damaged(`the tar entry ${shown} is not named ${entryPrefix}<digest>`);
  }
  if (seen.has(digest)) throw damaged(`the tar entry ${shown} is there twice`);
  return digest;
}

function checkDigest(digest: string, found: string): void {
  if (found !== digest) throw damaged(`the tar entry "${packEntryName(digest)}" does not have the digest of its name`);
}

function damaged(message: string): OperatorError {
  return new OperatorError("damaged", message);
}
