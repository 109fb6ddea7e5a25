import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";

/**
 * The payload of an age file as age-encryption.org/v1 has it (C2SP age.md, "Payload"): a nonce of 16 bytes, then chunks
 * of 64 KiB, each sealed with ChaCha20-Poly1305 under a key derived from file key and nonce. A chunk's nonce is its
 * number in 11 bytes, big-endian, and one byte that is 1 for the last chunk.
 */
export const payloadNonceSize = 16;
export const chunkSize = 64 * 1024;
export const tagSize = 16;
export const sealedChunkSize = chunkSize + tagSize;

const algorithm = "chacha20-poly1305";
const options = { authTagLength: tagSize } as const;

export function payloadKey(fileKey: Uint8Array, nonce: Uint8Array): Buffer {
  return Buffer.from(hkdfSync("sha256", fileKey, nonce, "payload", 32));
}

/** Seal one chunk; ciphertext and tag as two buffers, to be written one after the other. */
export function sealChunk(key: Buffer, number: number, last: boolean, plain: Uint8Array): [Buffer, Buffer] {
  const cipher = createCipheriv(algorithm, key, chunkNonce(number, last), options);
  const sealed = cipher.update(plain);
  cipher.final();
  return [sealed, cipher.getAuthTag()];
}

/** Open one chunk (ciphertext and tag); undefined when it does not authenticate. */
export function openChunk(key: Buffer, number: number, last: boolean, sealed: Uint8Array): Buffer | undefined {
  if (sealed.length < tagSize) return undefined;
  const decipher = createDecipheriv(algorithm, key, chunkNonce(number, last), options);
  decipher.setAuthTag(sealed.subarray(sealed.length - tagSize));
  const plain = decipher.update(sealed.subarray(0, sealed.length - tagSize));
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return plain;
}

function chunkNonce(number: number, last: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(number, 5, 6);
  nonce[11] = last ? 1 : 0;
  return nonce;
}
