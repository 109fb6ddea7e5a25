import { OperatorError } from "../errors.ts";

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
 * What a look throws on purpose is its finding: the fact, and its hints as the remedy.
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
    if (!(error instanceof OperatorError) || error.kind === "interrupted") throw error;
    report(bad(name, error.message, error.hints.join("; ") || "see what the message says"));
    return false;
  }
}
