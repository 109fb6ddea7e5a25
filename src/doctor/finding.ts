import { errnoOf, OperatorError } from "../errors.ts";

/** What was looked at and what was found. A remedy with `ok` is advice: the host is ready without it. */
export interface Finding {
  readonly type: "finding";
  readonly name: string;
  readonly ok: boolean;
  readonly message: string;
  readonly remedy: string | null;
}

/** Primary: Postfix runs here and is backed up. Standby: backups are read here, and this host can take over. */
export type Role = "primary" | "standby";

export type Report = (finding: Finding) => void;

export function good(name: string, message: string, advice: string | null = null): Finding {
  return { type: "finding", name, ok: true, message, remedy: advice };
}

export function bad(name: string, message: string, remedy: string): Finding {
  return { type: "finding", name, ok: false, message, remedy };
}

/**
 * What a look throws on purpose is its finding: the fact, and its hints as the remedy. So is what the system refuses: a file
 * that can't be read is what somebody runs doctor to hear of.
 *
 * @returns whether it came to its end
 */
export async function look(
  name: string,
  report: Report,
  work: () => Promise<readonly Finding[]> | readonly Finding[],
): Promise<boolean> {
  try {
    for (const finding of await work()) report(finding);
    return true;
  } catch (error) {
    report(failureFinding(name, error));
    return false;
  }
}

function failureFinding(name: string, error: unknown): Finding {
  if (error instanceof OperatorError && error.kind !== "interrupted") {
    return bad(name, error.message, error.hints.join("; ") || "see what the message says");
  }
  const errno = errnoOf(error) ?? "";
  // An aborted signal and an argument that is a mistake of ours have codes as well (ABORT_ERR, ERR_INVALID_ARG_TYPE).
  if (!(error instanceof Error) || !/^E[A-Z0-9]+$/.test(errno)) throw error;
  const denied = errno === "EACCES" || errno === "EPERM";
  return bad(name, error.message, denied ? "run spoolsafe as root" : "see what the message says");
}
