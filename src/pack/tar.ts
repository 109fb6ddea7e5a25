import { pack } from "tar-stream";
import type { ChunkReader } from "../crypto/chunks.ts";
import { OperatorError } from "../errors.ts";

/** A regular file in a tar archive. */
export interface TarEntry {
  readonly name: string;
  readonly bytes: Buffer;
}

/** What stands in a tar header that we look at; everything else in it says nothing (docs/FORMAT.md). */
export interface TarHeader {
  readonly name: string;
  readonly size: number;
}

const block = 512;
/** Two blocks of zeros end an archive (POSIX ustar). */
const endSize = 2 * block;

/** Bytes a file takes in an archive: its header, its bytes, and zeros up to the next block. */
export function tarSize(bytes: number): number {
  return block + padded(bytes);
}

/** Bytes of a whole archive of one file. */
export function tarFileSize(bytes: number): number {
  return tarSize(bytes) + endSize;
}

/**
 * A tar archive laid out in place in one buffer. tar-stream's own writer costs five times the processor time for small
 * files (15 against 3 microseconds a file of 4 KiB), most of it in its streams; its header is used as it is.
 */
export class TarImage {
  readonly #buffer: Buffer;
  #at = 0;

  /** @param memory holds the archive, and belongs to it from now on; what was in it does not matter */
  constructor(memory: ArrayBuffer) {
    this.#buffer = Buffer.from(memory);
  }

  /** Bytes so far, without the end of the archive. */
  get size(): number {
    return this.#at;
  }

  /** Whether a file of so many bytes still goes in, with the end of the archive after it. */
  fits(bytes: number): boolean {
    return this.#at + tarFileSize(bytes) <= this.#buffer.length;
  }

  add(name: string, bytes: Uint8Array): void {
    writeHeader(this.#buffer, this.#at, { name, size: bytes.length });
    this.#buffer.set(bytes, this.#at + block);
    const end = this.#at + block + bytes.length;
    this.#at += tarSize(bytes.length);
    this.#buffer.fill(0, end, this.#at);
  }

  /** Write the end of the archive. @returns its length in bytes */
  finish(): number {
    this.#buffer.fill(0, this.#at, this.#at + endSize);
    return this.#at + endSize;
  }
}

/** Header block of a file whose bytes follow as a stream. */
export function tarHeader(header: TarHeader): Buffer {
  const bytes = Buffer.alloc(block);
  writeHeader(bytes, 0, header);
  return bytes;
}

/** What follows the bytes of the only file of an archive: zeros up to the next block, and the end. */
export function tarTail(size: number): Buffer {
  return Buffer.alloc(padded(size) - size + endSize);
}

/**
 * Read an archive of regular files that lies in memory. The entries share the archive's memory.
 *
 * Stricter than any tar program and than tar-stream's reader, which takes an archive that stops between two entries,
 * or has more after its end, for whole: entries lie one behind the other from the first byte on, two blocks of zeros
 * end them, and only zeros follow. Links, devices, directories and extended headers are refused.
 *
 * @throws OperatorError `damaged` that names the entry or the offset
 */
export function readTar(tar: Buffer): TarEntry[] {
  const entries: TarEntry[] = [];
  for (let at = 0; ; ) {
    if (tar.length - at < block) throw cutShort(at);
    const header = parseHeader(tar.subarray(at, at + block), at);
    if (header === undefined) {
      checkEnd(tar.subarray(at), at);
      return entries;
    }
    const start = at + block;
    if (start + padded(header.size) > tar.length) throw cutInside(header);
    entries.push({ name: header.name, bytes: tar.subarray(start, start + header.size) });
    at = start + padded(header.size);
  }
}

/** An entry of a stream. What is not read of it is skipped. */
export interface TarStreamEntry extends TarHeader {
  /** The next piece of its bytes; undefined after the last. */
  readonly read: () => Promise<Buffer | undefined>;
}

/** `readTar` of a stream, with the same strictness. */
export async function* readTarStream(reader: ChunkReader): AsyncIterable<TarStreamEntry> {
  for (let at = 0; ; ) {
    const head = await reader.read(block);
    if (head.length < block) throw cutShort(at);
    const header = parseHeader(head, at);
    if (header === undefined) return await checkStreamEnd(reader, at);
    const read = bodyOf(reader, header);
    yield { ...header, read };
    while ((await read()) !== undefined);
    at += tarSize(header.size);
  }
}

function bodyOf(reader: ChunkReader, header: TarHeader): () => Promise<Buffer | undefined> {
  let left = header.size;
  let padding = padded(header.size) - header.size;
  return async () => {
    if (left === 0) {
      if ((await reader.read(padding)).length < padding) throw cutInside(header);
      padding = 0;
      return undefined;
    }
    const piece = await reader.readSome(left);
    if (piece.length === 0) throw cutInside(header);
    left -= piece.length;
    return piece;
  };
}

async function checkStreamEnd(reader: ChunkReader, at: number): Promise<void> {
  let size = block;
  for (;;) {
    const piece = await reader.readSome(64 * 1024);
    if (piece.length === 0) break;
    if (!isZero(piece)) throw afterEnd(at);
    size += piece.length;
  }
  if (size < endSize) throw cutShort(at);
}

function checkEnd(end: Buffer, at: number): void {
  if (!isZero(end)) throw afterEnd(at);
  if (end.length < endSize) throw cutShort(at);
}

// Offsets in a header block (POSIX ustar interchange format).
const nameField = { start: 0, end: 100 };
const sizeField = { start: 124, end: 136 };
const checksumField = { start: 148, end: 156 };
const typeOffset = 156;
const magicField = { start: 257, end: 262 };
const prefixField = { start: 345, end: 500 };

const largestOctalSize = 0o77777777777;

/** Header of an empty file as tar-stream encodes it; a file's own name, size and checksum are put in. */
const template = await encodeTemplate();

async function encodeTemplate(): Promise<Buffer> {
  const archive = pack();
  archive.entry({ name: "-", mode: 0o600, uid: 0, gid: 0, mtime: new Date(0), type: "file", size: 0 }, "");
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).subarray(0, block);
}

function writeHeader(buffer: Buffer, at: number, { name, size }: TarHeader): void {
  if (name.length > nameField.end) throw new RangeError(`the name ${name} does not fit a tar header`);
  template.copy(buffer, at);
  buffer.write(name, at + nameField.start, "latin1");
  if (size <= largestOctalSize) {
    buffer.write(size.toString(8).padStart(11, "0"), at + sizeField.start, "latin1");
  } else {
    // Base 256, as GNU tar and tar-stream have it: a first byte of 0x80, then a big-endian number.
    buffer.fill(0, at + sizeField.start, at + sizeField.end);
    buffer[at + sizeField.start] = 0x80;
    buffer.writeUIntBE(size, at + sizeField.end - 6, 6);
  }
  buffer.write(`${checksum(buffer, at).toString(8).padStart(6, "0")} `, at + checksumField.start, "latin1");
}

/** Sum of the header's bytes, those of the checksum itself taken as spaces. */
function checksum(buffer: Buffer, at: number): number {
  let sum = 8 * 0x20;
  for (let i = at; i < at + checksumField.start; i++) sum += buffer[i] ?? 0;
  for (let i = at + checksumField.end; i < at + block; i++) sum += buffer[i] ?? 0;
  return sum;
}

const types = new Map(
  Object.entries({
    "1": "a hard link",
    "2": "a symbolic link",
    "3": "a character device",
    "4": "a block device",
    "5": "a directory",
    "6": "a FIFO",
    g: "an extended header",
    x: "an extended header",
    K: "an extended header",
    L: "an extended header",
  }),
);

/** @returns undefined for a block of zeros */
function parseHeader(header: Buffer, at: number): TarHeader | undefined {
  if (isZero(header)) return undefined;
  const size = parseSize(header);
  const wanted = Number.parseInt(text(header, checksumField), 8);
  if (text(header, magicField) !== "ustar" || wanted !== checksum(header, 0) || size === undefined) {
    throw damaged(`no tar header at byte ${at}`);
  }
  const prefix = text(header, prefixField);
  const name = `${prefix}${prefix === "" ? "" : "/"}${text(header, nameField)}`;
  const type = String.fromCharCode(header[typeOffset] ?? 0);
  if (type !== "0" && type !== "\0") {
    throw damaged(`the tar entry ${JSON.stringify(name)} is ${types.get(type) ?? "of an unknown type"}, not a file`);
  }
  return { name, size };
}

function parseSize(header: Buffer): number | undefined {
  const { start, end } = sizeField;
  if (header[start] === 0x80) {
    return isZero(header.subarray(start + 1, end - 6)) ? header.readUIntBE(end - 6, 6) : undefined;
  }
  const octal = text(header, sizeField).trim();
  return /^[0-7]+$/.test(octal) ? Number.parseInt(octal, 8) : undefined;
}

/** A field up to its first NUL. Latin-1, so that a strange name is told apart byte by byte. */
function text(header: Buffer, field: { start: number; end: number }): string {
  const bytes = header.subarray(field.start, field.end);
  const nul = bytes.indexOf(0);
  return bytes.toString("latin1", 0, nul === -1 ? bytes.length : nul);
}

const zeros = Buffer.alloc(64 * 1024);

function isZero(bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const piece = bytes.subarray(at, at + zeros.length);
    if (!piece.equals(zeros.subarray(0, piece.length))) return false;
  }
  return true;
}

function padded(size: number): number {
  return Math.ceil(size / block) * block;
}

function cutShort(at: number): OperatorError {
  return damaged(`the tar archive is cut short at byte ${at}: its end is missing`);
}

function cutInside(header: TarHeader): OperatorError {
  return damaged(`the tar archive is cut short inside ${JSON.stringify(header.name)}`);
}

function afterEnd(at: number): OperatorError {
  return damaged(`something follows the end of the tar archive, which is at byte ${at}`);
}

function damaged(message: string): OperatorError {
  return new OperatorError("damaged", message);
}
