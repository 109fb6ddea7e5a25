import { styleText } from "node:util";
import { OperatorError } from "../errors.ts";
import type { Work } from "./progress.ts";
import { type ProgressOptions, ProgressOutput } from "./progress-output.ts";

/** How answers and news are shown; from the global options. */
export interface RenderOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;
  /** Put before every line of text, for a log that several write into. */
  readonly label?: string | undefined;
}

/** An event or a record of an answer: what it is, and its fields. */
export interface Typed {
  readonly type: string;
}

/**
 * Answers go to standard output, news to standard error. A command states both views of its answer, the JSON lines
 * (`line`, `summary`) and the text (`text`), and only this class knows which of them was asked for.
 */
export class Render {
  readonly #options: RenderOptions;
  readonly #stdout: NodeJS.WriteStream;
  readonly #stderr: NodeJS.WriteStream;
  readonly #closed = new Set<NodeJS.WriteStream>();
  readonly #progress: ProgressOutput;

  constructor(
    options: RenderOptions,
    stdout: NodeJS.WriteStream = process.stdout,
    stderr: NodeJS.WriteStream = process.stderr,
    progress: ProgressOptions = {},
  ) {
    this.#options = options;
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#progress = new ProgressOutput(stderr, (text) => this.#write(stderr, text), progress);
  }

  /**
   * A reader that closes the pipe (`| head`) has seen enough; that must neither end nor fail a run that is at work.
   */
  surviveClosedPipes(): void {
    for (const stream of [this.#stdout, this.#stderr]) {
      stream.on("error", (error: NodeJS.ErrnoException) => {
        this.#closed.add(stream);
        // EIO: the terminal was closed.
        if (error.code !== "EPIPE" && error.code !== "EIO") throw error;
      });
    }
  }

  /** One record of the answer as a JSON line. Undefined fields are left out; what never happened is to be null. */
  line<Record extends Typed>(record: Record): void {
    if (this.#options.json) this.#write(this.#stdout, `${JSON.stringify(record)}\n`);
  }

  /** The last JSON line of an answer. */
  summary(fields: object): void {
    this.#progress.end();
    this.line({ type: "summary", ...fields });
  }

  /** The answer for people, made only if it is shown; ends with a newline of its own. Nothing for an empty text. */
  text(text: string | (() => string)): void {
    this.#progress.end();
    if (this.#options.json) return;
    const made = typeof text === "string" ? text : text();
    if (made !== "") this.#write(this.#stdout, `${made}\n`);
  }

  /** Bytes as they are, whatever the options: the text of a message. */
  bytes(chunk: Uint8Array): void {
    this.#write(this.#stdout, chunk);
  }

  /** What an operation reports on its way: a JSON line, or news for people when it has a text. */
  event<Event extends Typed>(event: Event, text?: string): void {
    this.line(event);
    if (text !== undefined && !this.#options.json) this.note(text);
  }

  /** News on standard error; not with --quiet. */
  note(text: string): void {
    if (!this.#options.quiet) this.#say(text);
  }

  /** News only with --verbose. */
  detail(text: string): void {
    if (this.#options.verbose) this.#say(text);
  }

  /** What must be read even with --quiet. */
  warn(text: string): void {
    this.#say(`${styleText("yellow", "warning:", { stream: this.#stderr })} ${text}`);
  }

  /**
   * How far the work is, on standard error: a line that moves on a terminal, one line per 30 seconds elsewhere. Nothing with
   * --quiet, and with --json nothing that moves, as the terminal may be where the JSON goes. It ends with the answer or the
   * error; a question is not to be asked before.
   */
  progress(work: Work): void {
    const { json, quiet } = this.#options;
    if (quiet || (json && this.#stderr.isTTY === true)) return;
    this.#progress.show(work);
  }

  /** A word in a colour, where standard output is a terminal and NO_COLOR does not forbid it. */
  colour(style: "green" | "red" | "yellow" | "bold", text: string): string {
    return styleText(style, text, { stream: this.#stdout });
  }

  /**
   * The final error: a fact and its hints for people, or the last JSON line.
   *
   * @returns the exit code
   */
  error(error: unknown): number {
    this.#progress.end();
    const told = error instanceof OperatorError ? error : defect(error);
    const { kind, message, hints, exitCode } = told;
    this.line({ type: "error", kind, message, hints, exit: exitCode });
    if (!this.#options.json) this.#say(errorText(told));
    if (this.#options.verbose) this.#say(stacks(error));
    return exitCode;
  }

  /** Resolves when everything written has been handed to the system. */
  async flush(): Promise<void> {
    this.#progress.end();
    for (const stream of [this.#stdout, this.#stderr]) {
      if (!this.#closed.has(stream)) await new Promise<void>((resolve) => stream.write("", () => resolve()));
    }
  }

  #say(text: string): void {
    this.#progress.clear();
    this.#write(this.#stderr, `${text}\n`);
  }

  #write(stream: NodeJS.WriteStream, chunk: string | Uint8Array): void {
    if (this.#closed.has(stream)) return;
    const { label } = this.#options;
    stream.write(label !== undefined && typeof chunk === "string" ? chunk.replace(/^(?=.)/gm, `${label}: `) : chunk);
  }
}

/** `spoolsafe: <fact>`, then what goes with the fact and the hints, indented. */
export function errorText(error: OperatorError): string {
  const [fact = "", ...more] = error.message.split("\n");
  return [`spoolsafe: ${fact}`, ...more.map((line) => `  ${line}`), ...error.hints.map((hint) => `  ${hint}`)].join(
    "\n",
  );
}

/** Whatever is thrown on purpose is an OperatorError; anything else means that spoolsafe is wrong. */
function defect(error: unknown): OperatorError {
  const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return new OperatorError("failed", `this is a defect of spoolsafe: ${what}`, {
    hints: [
      "please report it, with the output of the same command under --verbose and of spoolsafe --version",
      "spoolsafe doctor shows whether something of this run is left to clear up",
    ],
    cause: error,
  });
}

function stacks(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by ${stacks(error.cause)}`;
}
