import type { AgeIdentities } from "../crypto/keys.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Repository } from "../repository/repository.ts";
import type { Chosen, DrillJob } from "./perform.ts";

/** What a rehearsal of failure works with. */
export interface Rehearsing {
  /** Of a drill like any other; how it chooses and opens is decided here. */
  readonly job: Omit<DrillJob, "choose" | "openReader" | "deliver">;
  /** The repository as it is. */
  readonly repository: Repository;
  /** Choose the snapshot that is meant, as a drill does, in this repository. */
  readonly choose: (repository: Repository, identities: AgeIdentities) => Promise<Chosen>;
  readonly identities: AgeIdentities;
  /** The file they are in, for age. */
  readonly identityFile: string;
  /** The public keys this host believes, in PEM, one after another. */
  readonly trustedPems: string;
  /** A store like that of the repository, at a place where none answers. */
  readonly unreachable: () => Promise<ObjectStore>;
}
