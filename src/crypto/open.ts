import { Decrypter, type Stanza } from "age-encryption";
import { OperatorError } from "../errors.ts";
import { ChunkReader } from "./chunks.ts";
import type { AgeIdentities } from "./keys.ts";
import { chunkSize, openChunk, payloadKey, payloadNonceSize, sealedChunkSize, tagSize } from "./payload.ts";

/**
 * Open an age file (age-encryption.org/v1, binary).
 *
 * @returns a buffer with memory of its own
 * @throws OperatorError `no-identity` when none of the identities matches a stanza of the header (a damaged stanza
 * can't be told from one for somebody else: compare the file's digest first), `damaged` for anything that does not
 * authenticate or is cut short
 */
export async function open(sealed: Uint8Array, identities: AgeIdentities): Promise<Buffer> {
  const file = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
  const headerSize = headerEnd(file);
  if (headerSize === undefined) throw notAge(file);
  const fileKey = await openHeader(file.subarray(0, headerSize), identities);
  const payload = file.subarray(headerSize + payloadNonceSize);
  const count = Math.max(1, Math.ceil(payload.length / sealedChunkSize));
  const key = payloadKey(fileKey, file.subarray(headerSize, headerSize + payloadNonceSize));
  const plain = Buffer.allocUnsafeSlow(Math.max(0, payload.length - count * tagSize));
  let at = 0;
  for (let number = 0; number < count; number++) {
    const chunk = payload.subarray(number * sealedChunkSize, (number + 1) * sealedChunkSize);
    at += openOne(key, number, number === count - 1, chunk).copy(plain, at);
  }
  return plain;
}

/**
 * `open` for what is too large for memory; holds about two chunks of 64 KiB. What it yields is authentic, but only its
 * normal end proves that nothing is missing: a file that is cut short throws there.
 */
export async function* openStream(sealed: AsyncIterable<Uint8Array>, identities: AgeIdentities): AsyncIterable<Buffer> {
  const reader = new ChunkReader(sealed);
  try {
    const fileKey = await openHeader(await readHeader(reader), identities);
    const key = payloadKey(fileKey, await reader.read(payloadNonceSize));
    let last = false;
    for (let number = 0; !last; number++) {
      const chunk = await reader.read(sealedChunkSize);
      last = await reader.atEnd();
      yield openOne(key, number, last, chunk);
    }
  } finally {
    await reader.close();
  }
}

const version = "age-encryption.org/v1\n";

/** Room for some 600 post-quantum recipients; what has no end by then is no header. */
const headerLimit = 1024 * 1024;

async function readHeader(reader: ChunkReader): Promise<Buffer> {
  let header = await reader.read(version.length);
  if (header.toString("latin1") !== version) throw notAge(header);
  for (;;) {
    const end = headerEnd(header);
    if (end !== undefined) {
      reader.unread(header.subarray(end));
      return header.subarray(0, end);
    }
    const more = await reader.readSome(4096);
    if (more.length === 0 || header.length > headerLimit) throw notAge(header);
    header = Buffer.concat([header, more]);
  }
}

/** Offset after the newline of the header's last line (`--- ` and its MAC). */
function headerEnd(file: Buffer): number | undefined {
  const lastLine = file.subarray(0, headerLimit).indexOf("\n--- ");
  if (lastLine === -1) return undefined;
  const newline = file.indexOf("\n", lastLine + 1);
  return newline === -1 ? undefined : newline + 1;
}

/** File key of a header whose MAC is right. */
async function openHeader(header: Buffer, identities: AgeIdentities): Promise<Uint8Array> {
  const decrypter = new Decrypter();
  for (const identity of identities.identities) decrypter.addIdentity(identity);
  let kinds: string[] | undefined;
  decrypter.addIdentity({
    // Asked last, and only when none of the others matched.
    unwrapFileKey: (stanzas: Stanza[]) => {
      kinds = stanzas.map((stanza) => stanza.args[0] ?? "");
      return null;
    },
  });
  try {
    return await decrypter.decryptHeader(header);
  } catch (cause) {
    if (kinds === undefined) {
      throw new OperatorError("damaged", "the age header is damaged", { hints: damagedHints, cause });
    }
    throw new OperatorError("no-identity", `no identity opens this: it is sealed to ${describe(kinds)}`, {
      hints: ["name the identity file that belongs to one of the snapshot's recipients with --identity-file"],
      cause,
    });
  }
}

const damagedHints = ["run `spoolsafe verify` to see which snapshots are affected"];

function openOne(key: Buffer, number: number, last: boolean, sealed: Buffer): Buffer {
  const plain = openChunk(key, number, last, sealed);
  // A last chunk without content is only right in an empty file (the age specification); age refuses it too.
  if (plain !== undefined && (plain.length > 0 || number === 0)) return plain;
  const what = last ? "damaged there, or cut short" : "damaged there";
  throw new OperatorError(
    "damaged",
    `the sealed content does not authenticate from byte ${number * chunkSize}: ${what}`,
    {
      hints: damagedHints,
    },
  );
}

function notAge(file: Buffer): OperatorError {
  const age = file.subarray(0, version.length).toString("latin1") === version;
  return new OperatorError("damaged", age ? "the age header is cut short" : "this is not an age file", {
    hints: damagedHints,
  });
}

/** "2 X25519 recipients", "1 mlkem768x25519 recipient and 1 ssh-ed25519 recipient". */
function describe(kinds: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const kind of kinds) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const parts = [...counts].map(([kind, count]) => `${count} ${kind} recipient${count === 1 ? "" : "s"}`);
  return parts.join(" and ") || "nobody";
}
