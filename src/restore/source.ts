import type { AgeIdentities } from "../crypto/keys.ts";
import type { TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { loadManifest } from "../repository/manifest-reader.ts";
import type { Repository, SignedSnapshot } from "../repository/repository.ts";
import type { Manifest } from "../snapshot/manifest.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";

/** A snapshot to restore, and what opens and vouches for it. */
export interface RestoreSource {
  readonly repository: Repository;
  readonly signed: SignedSnapshot;
  readonly identities: AgeIdentities;
  readonly trusted: Pick<TrustedKeys, "check">;
}

/**
 * Read the manifest of a snapshot somebody we trust has signed. Whoever can write to the repository could otherwise have
 * mail of theirs delivered by us.
 *
 * @throws OperatorError `damaged` when the signature is none of a trusted key, or as `loadManifest` does
 */
export async function readTrusted(source: RestoreSource, signal?: AbortSignal): Promise<Manifest> {
  const { id, key, line, signature, snapshot } = source.signed;
  const verdict = source.trusted.check(key, line, signature);
  if (verdict === "forged") {
    throw new OperatorError(
      "damaged",
      `the signature of snapshot ${id.slice(0, 12)} is not its key's: the record was changed`,
      {
        hints: ["restore another snapshot: spoolsafe snapshots", "find out who can write to the repository"],
      },
    );
  }
  if (verdict === "stranger") {
    throw new OperatorError(
      "damaged",
      `snapshot ${id.slice(0, 12)} is signed by a key this host does not trust (${key.slice(0, 16)})`,
      {
        hints: [
          `if it is the key of ${snapshot.host}, trust it: spoolsafe key add FILE.pub`,
          "compare the fingerprint with what `spoolsafe key show` says there",
        ],
      },
    );
  }
  return loadManifest(source.repository, snapshot, source.identities, signal);
}

/**
 * The instance of a snapshot that is meant.
 *
 * @param named from the command line
 * @throws OperatorError `usage` that lists the instances, when none or a wrong one is named and there are several
 */
export function chooseInstance(snapshot: Snapshot, named: string | undefined): string {
  const names = snapshot.instances.map(({ name }) => name);
  const [only] = names;
  if (named === undefined && only !== undefined && names.length === 1) return only;
  if (named !== undefined && names.includes(named)) return named;
  const which = named === undefined ? "several instances" : `no instance ${named}`;
  throw new OperatorError("usage", `the snapshot has ${which}: ${names.join(", ")}`, {
    hints: ["name one: --instance NAME"],
  });
}
