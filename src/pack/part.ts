import { createHash } from "node:crypto";
import type { AgeIdentities, AgeRecipients } from "../crypto/keys.ts";
import { open } from "../crypto/open.ts";
import { seal } from "../crypto/seal.ts";
import { compress, decompress } from "./zstd.ts";

/** Content a part may have; 100,000 messages take some 60 MB. */
const partLimit = 1024 * 1024 * 1024;

/** Compress and seal the lines of a manifest part. `id` is the SHA-256 of the sealed bytes, the object's name. */
export async function buildPart(
  text: string | Uint8Array,
  recipients: AgeRecipients,
): Promise<{ readonly id: string; readonly sealed: Buffer }> {
  const sealed = await seal(compress(typeof text === "string" ? Buffer.from(text) : text), recipients);
  return { id: createHash("sha256").update(sealed).digest("hex"), sealed };
}

/** Open a part. @throws OperatorError `no-identity` or `damaged` */
export async function readPart(sealed: Uint8Array, identities: AgeIdentities): Promise<Buffer> {
  return decompress(await open(sealed, identities), partLimit);
}
