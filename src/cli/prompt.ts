import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
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

export interface LineQuestion {
  readonly text: string;
  /** What is typed is not shown. */
  readonly secret: boolean;
  /** The question is out of date. */
  readonly signal?: AbortSignal;
}

/**
 * Ask for a line. Null when nobody is there, the terminal is lost meanwhile, or the signal aborts; `interrupt` at Ctrl-C.
 */
export async function askLine({ text, secret, signal }: LineQuestion): Promise<string | null> {
  if (!process.stdin.isTTY || !process.stderr.isTTY || process.stdin.readableEnded) return null;
  if (secret) process.stderr.write(text);
  const output = secret ? new Writable({ write: (_chunk, _encoding, done) => done() }) : process.stderr;
  const terminal = createInterface({ input: process.stdin, output, terminal: true });
  try {
    return await new Promise<string | null>((resolve) => {
      terminal.on("SIGINT", () => resolve("interrupt"));
      terminal.on("close", () => resolve(null));
      // Of a terminal that is gone; readline hands on what its input tells, and its mode can't be set back any more.
      terminal.on("error", () => resolve(null));
      terminal.question(secret ? "" : text, signal === undefined ? {} : { signal }).then(resolve, () => resolve(null));
    });
  } finally {
    if (process.stdin.listenerCount("error") === 0) process.stdin.on("error", () => {});
    terminal.close();
    if (secret) process.stderr.write("\n");
  }
}
