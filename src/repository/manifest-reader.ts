import type { AgeIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { readPart } from "../pack/part.ts";
import { applyPart, type Manifest, type ManifestEntry, toManifest } from "../snapshot/manifest.ts";
import type { PartReference, Snapshot } from "../snapshot/snapshot.ts";
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
  return await new ManifestReader(repository, identities, signal).read(snapshot);
}

/**
 * `loadManifest` for many snapshots, one after another: when one goes on where the one before ended, as the nights of a host
 * do, only the parts that are new are read. One call at a time.
 */
export class ManifestReader {
  readonly #repository: Repository;
  readonly #identities: AgeIdentities;
  readonly #signal: AbortSignal | undefined;
  #read: readonly PartReference[] = [];
  #entries = new Map<string, ManifestEntry>();

  constructor(repository: Repository, identities: AgeIdentities, signal?: AbortSignal) {
    this.#repository = repository;
    this.#identities = identities;
    this.#signal = signal;
  }

  /** @throws as `loadManifest`; the next call then starts from the first part */
  async read({ parts }: Snapshot): Promise<Manifest> {
    const goesOn = this.#read.every(({ id }, index) => parts[index]?.id === id);
    const read = goesOn ? this.#read : [];
    const entries = goesOn ? this.#entries : new Map<string, ManifestEntry>();
    // A part that can't be read leaves half of its lines behind.
    this.#read = [];
    this.#entries = new Map();
    for (const [index, part] of parts.entries()) {
      if ((part.kind === "base") !== (index === 0)) {
        throw new OperatorError("damaged", "the record's parts are not one base and then increments");
      }
      if (index < read.length) continue;
      const sealed = await this.#repository.object("part", part.id, this.#signal);
      applyPart(entries, await readPart(sealed, this.#identities), part.kind);
    }
    this.#read = parts;
    this.#entries = entries;
    return toManifest(entries);
  }
}
