import type { AgeIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { readPart } from "../pack/part.ts";
import { applyPart, type Manifest, type ManifestEntry, toManifest } from "../snapshot/manifest.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";
import type { Repository } from "./repository.ts";

/**
 * Read a snapshot's manifest: fetch its parts in the record's order, check each against its digest, open it, and let the
 * last line of a key win.
 *
 * @throws OperatorError `damaged` for a missing, damaged or unreadable part, `no-identity` when no identity opens one
 */
export async function loadManifest(
  repository: Repository,
  snapshot: Snapshot,
  identities: AgeIdentities,
  signal?: AbortSignal,
): Promise<Manifest> {
  const entries = new Map<string, ManifestEntry>();
  for (const [index, part] of snapshot.parts.entries()) {
    if ((part.kind === "base") !== (index === 0)) {
      throw new OperatorError("damaged", "the record's parts are not one base and then increments");
    }
    const sealed = await repository.object("part", part.id, signal);
    applyPart(entries, await readPart(sealed, identities), part.kind);
  }
  return toManifest(entries);
}
