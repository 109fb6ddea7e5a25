import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { OperatorError } from "../errors.ts";
import type { ObjectBody } from "./object-store.ts";

/** Number of bytes of a body, as its maker says. */
export function bodyBytes(body: ObjectBody): number {
  return body instanceof Uint8Array ? body.length : body.bytes;
}

/**
 * A body in pieces of `size` bytes, the last one shorter; none for an empty one. Each is memory of its own, so that
 * several may be on their way at a time.
 *
 * @throws OperatorError `failed` when the sealed file can't be read
 */
export async function* bodyChunks(body: ObjectBody, size: number): AsyncGenerator<Buffer, void, undefined> {
  if (body instanceof Uint8Array) {
    for (let start = 0; start < body.length; start += size) yield viewOf(body, start, start + size);
    return;
  }
  const file = await open(body.file, constants.O_RDONLY).catch((cause) => unreadable(body.file, cause));
  try {
    for (;;) {
      const chunk = await readWhole(file, size).catch((cause) => unreadable(body.file, cause));
      if (chunk.length > 0) yield chunk;
      if (chunk.length < size) return;
    }
  } finally {
    await file.close();
  }
}

function viewOf(bytes: Uint8Array, start: number, end: number): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, Math.min(end, bytes.length) - start);
}

/** The next bytes of a file, short only at its end. */
async function readWhole(file: FileHandle, size: number): Promise<Buffer> {
  const chunk = Buffer.allocUnsafe(size);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await file.read(chunk, done, size - done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return chunk.subarray(0, done);
}

function unreadable(path: string, cause: Error): never {
  throw new OperatorError("failed", `the sealed file ${path} can't be read: ${cause.message}`, { cause });
}
