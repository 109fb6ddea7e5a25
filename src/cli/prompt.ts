import { createInterface } from "node:readline/promises";
import { OperatorError } from "../errors.ts";

/**
 * Ask a question that is answered by yes or no; anything but "y" or "yes" is no.
 *
 * @param yes the --yes flag: the answer is given
 * @throws OperatorError `usage`, naming the flag, when nobody is there to answer
 */
export async function confirm(question: string, yes: boolean, signal: AbortSignal): Promise<boolean> {
  if (yes) return true;
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new OperatorError("usage", `${question} can't be asked without a terminal`, {
      hints: ["give the answer with --yes, once you have read what it means"],
    });
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await terminal.question(`${question} [y/N] `, { signal });
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}
