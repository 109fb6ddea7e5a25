import { OperatorError } from "../errors.ts";

/** Something wrong in a runbook's file: where, by which rule, what. */
export interface Finding {
  /** In the file, from 1. */
  readonly line: number;
  /** A word such as `unknown-attribute`, for those who look for it. */
  readonly rule: string;
  /** A lower-case fact, then what to do. */
  readonly message: string;
}

/** `path:line: message (rule)`, as compilers write it, so that editors find the place. */
export function findingText(path: string, { line, rule, message }: Finding): string {
  return `${path}:${line}: ${message} (${rule})`;
}

/** By line, as a reader meets them. */
export function inFileOrder(findings: readonly Finding[]): Finding[] {
  return [...findings].sort((a, b) => a.line - b.line);
}

/** A file that can't be executed as it stands: every mistake at once. */
export class RunbookFault extends OperatorError {
  readonly findings: readonly Finding[];

  constructor(path: string, findings: readonly Finding[]) {
    const lines = findings.map((finding) => findingText(path, finding));
    super(
      "config",
      lines.length === 1 ? (lines[0] ?? "") : `${path} is no runbook: ${lines.length} mistakes\n${lines.join("\n")}`,
    );
    this.findings = findings;
  }
}
