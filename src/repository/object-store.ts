import { OperatorError } from "../errors.ts";

/** What is stored: bytes in memory, or a sealed file that is too large for that. */
export type ObjectBody = Uint8Array | { readonly file: string; readonly bytes: number };

export interface StoredObject {
  readonly key: string;
  readonly bytes: number;
  /** When the store says it was written, milliseconds since 1970. */
  readonly modified: number;
}

/**
 * The port behind which a repository's objects lie. One contract suite (test/contract/object-store.ts) holds every
 * adapter to these promises:
 *
 * - `put` resolves only when the object is durable and was compared with its digest; until then no other reader sees
 *   it, not even in part. It never replaces an object: a second put of the same key with the same bytes is a success,
 *   with other bytes an error.
 * - `get` and `open` throw OperatorError `damaged` ("... is missing") for a key that is not there.
 * - `list` yields every object below a prefix, in the order of the keys' bytes, none twice.
 * - Every other failure (refused, full, read-only, unreachable, timed out after retries) is OperatorError
 *   `store-failed` with the store's own words and a hint; a missing bucket or directory is `no-repository`.
 * - Every call ends: a store that stops answering is an error after a time limit, and an aborted signal ends it at once
 *   with the signal's reason.
 *
 * Keys are ASCII letters, digits, `.`, `-`, `_` and `/`.
 */
export interface ObjectStore {
  /** For people: the URL without credentials. */
  readonly url: string;
  /**
   * Make the place objects go to, where that is ours to make: a directory with its parents; a bucket must exist. Only
   * `init` calls this, for everybody else a place that is not there is an error (a disk that is not mounted).
   */
  prepare(signal?: AbortSignal): Promise<void>;
  /** @param sha256 hexadecimal digest of the body, which the caller has computed from the bytes it hands over */
  put(key: string, body: ObjectBody, sha256: string, signal?: AbortSignal): Promise<void>;
  get(key: string, signal?: AbortSignal): Promise<Buffer>;
  /** Stream an object; for those that may be larger than memory. */
  open(key: string, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  list(prefix: string, signal?: AbortSignal): AsyncIterable<StoredObject>;
  /**
   * See to it that an object which is there stays locked for as long as one written now would, where objects are written
   * with a lock; otherwise nothing is done.
   *
   * @throws OperatorError `damaged` for an object that is not there, `store-failed` when the store does not keep the lock
   */
  keepLocked(key: string, signal?: AbortSignal): Promise<void>;
  /**
   * Remove an object; one that is not there is a success.
   *
   * @throws ObjectRetained for one the store keeps for now, RemovalRefused where these credentials may remove nothing
   */
  remove(key: string, signal?: AbortSignal): Promise<void>;
  /**
   * Remove what interrupted writers left that is no object: temporary files, multipart uploads. Only what is older than
   * 48 hours, because another writer may be at work.
   *
   * @returns how many
   */
  sweep(signal?: AbortSignal): Promise<number>;
  /** Free sockets and temporary files. */
  close(): Promise<void>;
}

/**
 * The store refuses to remove an object because it is locked: by a retention time that has not passed, a legal hold, or an
 * attribute of the file system. Nothing is wrong; it goes when the lock is over.
 */
export class ObjectRetained extends OperatorError {
  readonly key: string;
  /** When the lock ends, milliseconds since 1970; null where the store does not say. */
  readonly until: number | null;

  constructor(key: string, until: number | null, cause?: unknown) {
    super(
      "store-failed",
      `${key} is locked by the store${until === null ? "" : ` until ${new Date(until).toISOString()}`}`,
      {
        hints: ["it can be removed when its lock has ended"],
        cause,
      },
    );
    this.key = key;
    this.until = until;
  }
}

/** These credentials may not remove the object: on a host that only backs up that is as it should be. */
export class RemovalRefused extends OperatorError {
  /** @param said the store's answer, in words */
  constructor(key: string, said: unknown) {
    const known = said instanceof OperatorError ? said : undefined;
    super("store-failed", known?.message ?? `could not remove ${key}`, { hints: known?.hints ?? [], cause: said });
  }
}

/**
 * No run takes longer, in milliseconds; a backup that did ends without a snapshot. What is older than this in the store and
 * belongs to nothing is nobody's work under way.
 */
export const longestRunMs = 48 * 60 * 60 * 1000;

/** Age from which an unfinished upload counts as abandoned. */
export const staleAfterMs = longestRunMs;
