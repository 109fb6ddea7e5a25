import type { AgeIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { readLargePack } from "../pack/pack.ts";
import type { Repository } from "../repository/repository.ts";
import type { StoredFile } from "../snapshot/manifest.ts";

/**
 * The bytes of a few stored files by their digest, each pack read once. They are held in memory: for a message and its
 * logs, not for a queue.
 *
 * @throws OperatorError `damaged` when a pack is missing, damaged, or lacks a file; `no-identity`
 */
export async function readStoredFiles(
  repository: Repository,
  files: readonly StoredFile[],
  identities: AgeIdentities,
  signal: AbortSignal,
): Promise<Map<string, Buffer>> {
  const wanted = new Set(files.map(({ digest }) => digest));
  const found = new Map<string, Buffer>();
  for (const pack of new Set(files.map((file) => file.pack))) {
    for await (const { digest, body } of readLargePack(repository.openObject("pack", pack, signal), identities)) {
      const pieces: Buffer[] = [];
      if (wanted.has(digest)) for await (const piece of body) pieces.push(Buffer.from(piece));
      if (wanted.has(digest)) found.set(digest, Buffer.concat(pieces));
    }
  }
  const missing = files.find(({ digest }) => !found.has(digest));
  if (missing === undefined) return found;
  throw new OperatorError(
    "damaged",
    `pack ${missing.pack} does not hold ${missing.digest}, which the manifest says it does`,
    {
      hints: ["`spoolsafe verify --level deep` shows everything that is damaged"],
    },
  );
}
