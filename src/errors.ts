/**
 * What can go wrong, as a word a program can branch on. The exit codes are a contract (docs/INTERFACE.md): scripts
 * and cron jobs read them.
 */
export type ErrorKind =
  | "failed" // the operation did not happen and left nothing half-done
  | "refused" // a precondition does not hold; nothing was changed
  | "program-failed" // a program we ran (postsuper, postconf, ...) ended badly
  | "store-failed" // the object store answered with an error, or not at all
  | "usage" // wrong command line
  | "config" // wrong configuration, keys file or secret's mode
  | "incomplete" // done, but something that is still there could not be read or placed
  | "no-repository"
  | "locked"
  | "no-identity" // no identity given, or none opens this
  | "damaged" // verification failed: damaged, missing, or not signed by a trusted key
  | "interrupted";

const exitCodes: Record<ErrorKind, number> = {
  failed: 1,
  refused: 1,
  "program-failed": 1,
  "store-failed": 1,
  usage: 2,
  config: 2,
  incomplete: 3,
  "no-repository": 10,
  locked: 11,
  "no-identity": 12,
  damaged: 13,
  interrupted: 130,
};

export interface OperatorErrorOptions {
  /** Next actions for the person reading, most useful first; each a sentence without a full stop. */
  readonly hints?: readonly string[];
  readonly cause?: unknown;
}

/**
 * An error meant for the person at the terminal: a lower-case fact, then hints that name the next step. Everything
 * thrown on purpose is one of these; anything else that surfaces is a defect and is shown as such.
 */
export class OperatorError extends Error {
  readonly kind: ErrorKind;
  readonly hints: readonly string[];

  constructor(kind: ErrorKind, message: string, options: OperatorErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "OperatorError";
    this.kind = kind;
    this.hints = options.hints ?? [];
  }

  /** The process exit code of the interface page that belongs to this kind. */
  get exitCode(): number {
    return exitCodes[this.kind];
  }
}

/** The errno name (`ENOENT`, ...) of a failed system call, or undefined for any other value. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
