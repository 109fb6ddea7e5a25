import { randomBytes } from "node:crypto";
import { Encrypter } from "age-encryption";
import { ChunkReader } from "./chunks.ts";
import type { AgeRecipients } from "./keys.ts";
import { chunkSize, payloadKey, payloadNonceSize, sealChunk, tagSize } from "./payload.ts";

/**
 * Seal bytes to age recipients: one age file (age-encryption.org/v1, binary), which the age program opens.
 *
 * @returns a buffer with memory of its own, so that it can be transferred to another thread
 */
export async function seal(plain: Uint8Array, recipients: AgeRecipients): Promise<Buffer> {
  const start = await startFile(recipients);
  if (start === undefined) return Buffer.from(await encrypterFor(recipients).encrypt(plain));
  const chunks = Math.max(1, Math.ceil(plain.length / chunkSize));
  const sealed = Buffer.allocUnsafeSlow(start.prefix.length + plain.length + chunks * tagSize);
  let at = start.prefix.copy(sealed);
  for (let number = 0; number < chunks; number++) {
    const chunk = plain.subarray(number * chunkSize, (number + 1) * chunkSize);
    for (const piece of sealChunk(start.key, number, number === chunks - 1, chunk)) at += piece.copy(sealed, at);
  }
  return sealed;
}

/** `seal` for what is too large for memory; holds about two chunks of 64 KiB. The consumer's pace is the source's. */
export async function* sealStream(plain: AsyncIterable<Uint8Array>, recipients: AgeRecipients): AsyncIterable<Buffer> {
  const start = await startFile(recipients);
  if (start === undefined) {
    const sealed = await encrypterFor(recipients).encrypt(ReadableStream.from(plain));
    for await (const piece of sealed) yield Buffer.from(piece);
    return;
  }
  const reader = new ChunkReader(plain);
  try {
    yield start.prefix;
    let last = false;
    for (let number = 0; !last; number++) {
      const chunk = await reader.read(chunkSize);
      last = await reader.atEnd();
      yield Buffer.concat(sealChunk(start.key, number, last, chunk), chunk.length + tagSize);
    }
  } finally {
    await reader.close();
  }
}

interface FileStart {
  /** Header and payload nonce: everything before the first chunk. */
  readonly prefix: Buffer;
  readonly key: Buffer;
}

/**
 * Have age-encryption write the header, and take the file key from it for a payload by node:crypto, whose
 * ChaCha20-Poly1305 is ten times as fast as the library's JavaScript. A recipient object of our own is handed the file
 * key and adds no stanza; what the library makes of an empty file is header, nonce and one empty chunk. The nonce is
 * drawn anew: a second payload under the library's nonce would use a key twice.
 *
 * @returns undefined when the library does not play along; it then has to seal by itself
 */
async function startFile(recipients: AgeRecipients): Promise<FileStart | undefined> {
  let fileKey: Uint8Array | undefined;
  const encrypter = encrypterFor(recipients);
  encrypter.addRecipient({
    wrapFileKey: (key) => {
      fileKey = Uint8Array.from(key);
      return [];
    },
  });
  const empty = await encryptEmpty(encrypter);
  const header = empty.subarray(0, empty.length - payloadNonceSize - tagSize);
  if (fileKey === undefined || !/\n--- [A-Za-z0-9+/]{43}\n$/.test(header.toString("latin1"))) return undefined;
  const nonce = randomBytes(payloadNonceSize);
  return { prefix: Buffer.concat([header, nonce]), key: payloadKey(fileKey, nonce) };
}

/** As a stream: what the library does for bytes makes Node load its whole HTTP client, 150 ms in every thread. */
async function encryptEmpty(encrypter: Encrypter): Promise<Buffer> {
  const nothing = new ReadableStream<Uint8Array>({ start: (controller) => controller.close() });
  const pieces: Uint8Array[] = [];
  for await (const piece of await encrypter.encrypt(nothing)) pieces.push(piece);
  return Buffer.concat(pieces);
}

function encrypterFor(recipients: AgeRecipients): Encrypter {
  const encrypter = new Encrypter();
  for (const recipient of recipients.list) encrypter.addRecipient(recipient);
  return encrypter;
}
