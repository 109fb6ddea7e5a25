import type { TrustedKeys } from "../crypto/sign.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Repository } from "../repository/repository.ts";
import type { Clock } from "../system/clock.ts";

/** What a copy tells while it runs. */
export type CopyEvent =
  | { readonly type: "planned"; readonly snapshots: number; readonly objects: number; readonly bytes: number }
  | { readonly type: "copied"; readonly objects: number; readonly of: number; readonly bytes: number };

export interface CopyRequest {
  readonly source: Repository;
  /** Where the copy lies, or is going to. */
  readonly target: ObjectStore;
  /** Make the copy where nothing is yet. */
  readonly mayMake: boolean;
  /** Ids of the snapshots that are meant, each with those before it of its writer; null: all. */
  readonly chosen: ReadonlySet<string> | null;
  readonly trusted: Pick<TrustedKeys, "check" | "fingerprints">;
  readonly stateDirectory: string;
  readonly uploadBytesPerSecond: number | undefined;
  /** How long to wait for a prune or copy that is under way on this host. */
  readonly lockWaitMs: number;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly report: (event: CopyEvent) => void;
}

/** What could not be copied. `damaged`: its bytes are wrong or missing, here or there; `untrusted`: no key we trust signed it. */
export interface CopyProblem {
  readonly kind: "damaged" | "untrusted";
  readonly problem: string;
}
