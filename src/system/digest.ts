import { createHash, hash } from "node:crypto";
import { readSync } from "node:fs";

export interface FileDigest {
  /** SHA-256, hexadecimal. */
  readonly digest: string;
  readonly size: number;
}

/** Digest of bytes in memory, in one call: three times as fast for small files as a hash object. */
export function digestOf(bytes: Uint8Array): FileDigest {
  return { digest: hash("sha256", bytes, "hex"), size: bytes.length };
}

/** Digest of an open file from its start to its end, in flat memory; the descriptor's position does not matter. */
export function digestOfDescriptor(fd: number): FileDigest {
  const sha256 = createHash("sha256");
  const chunk = Buffer.allocUnsafe(1024 * 1024);
  let size = 0;
  for (;;) {
    const got = readSync(fd, chunk, 0, chunk.length, size);
    if (got === 0) return { digest: sha256.digest("hex"), size };
    sha256.update(chunk.subarray(0, got));
    size += got;
  }
}
