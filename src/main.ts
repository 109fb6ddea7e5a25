import { CommanderError } from "@commander-js/extra-typings";
import { buildProgram, type Perform } from "./cli/program.ts";
import { Render } from "./cli/render.ts";
import { OperatorError } from "./errors.ts";

/*
 * Start, turn the final error into an exit code. The only file that exits: everything else returns or throws, so that
 * what has to be cleared up is cleared up.
 */

// cron and some shells leave out where Postfix's programs are.
process.env.PATH = [process.env.PATH || "/usr/bin:/bin", "/usr/sbin", "/sbin"].join(":");
const interruption = abortOnSignals();
// Until the command line is parsed only its words can tell how an error is to be shown.
let render = makeRender({ json: process.argv.includes("--json"), verbose: process.argv.includes("--verbose") });
for (const event of ["uncaughtException", "unhandledRejection"] as const) {
  process.on(event, (error: unknown) => void end(tell(error)));
}
// Nothing is left that could wake us, and the work is not done: an end without an answer must not look like success.
process.on("beforeExit", () => void end(tell(new Error("the run came to nothing before it was done"))));
void main().then(end);

async function main(): Promise<number> {
  let code = 0;
  const perform: Perform = async (globals, work) => {
    render = makeRender(globals);
    const { createContext } = await import("./cli/context.ts");
    await using context = createContext({
      globals,
      render,
      env: process.env,
      cwd: process.cwd(),
      signal: interruption.signal,
    });
    code = await work(context);
  };
  try {
    await buildProgram(perform).parseAsync(process.argv);
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return usage(error);
    return tell(interruption.signal.aborted ? interrupted(error) : error);
  }
}

async function end(code: number): Promise<void> {
  await render.flush();
  process.exit(code);
}

function makeRender({
  json,
  quiet,
  verbose,
}: { [Option in "json" | "quiet" | "verbose"]?: boolean | undefined }): Render {
  // Of a job of the schedule: its lines go into the log of the daemon.
  const label = process.env.SPOOLSAFE_LABEL || undefined;
  const options = { json: json === true, quiet: quiet === true, verbose: verbose === true, label };
  const logged = label === undefined ? {} : { logMs: 60_000 };
  const made = new Render(options, process.stdout, process.stderr, logged);
  made.surviveClosedPipes();
  return made;
}

/** The parser's own ends: help and version were asked for and printed; all else is wrong usage. */
function usage(error: CommanderError): number {
  if (error.exitCode === 0) return 0;
  const [fact = "", ...hints] = error.message.replace(/^error: /, "").split("\n");
  // No command, or half of one: its help is on standard error by now.
  const noCommand = error.code === "commander.help";
  const told = new OperatorError("usage", noCommand ? "a command is missing" : fact, {
    hints: [...hints.map((hint) => hint.replace(/^\(|\)$/g, "")), "spoolsafe --help lists the commands"],
  });
  return tell(told);
}

/**
 * The final error, and its exit code. To a monitoring plugin 1 and 2 mean that something was found, so there every error is
 * 3, unknown, and its line is on standard output.
 */
function tell(error: unknown): number {
  const code = render.error(error);
  if (!/ status .*--format[= ]nagios /.test(`${process.argv.join(" ")} `)) return code;
  const [fact = ""] = (error instanceof Error ? error.message : String(error)).split("\n");
  render.text(`SPOOLSAFE UNKNOWN - ${fact.replaceAll("|", "/")}`);
  return 3;
}

/** One abort signal for the whole run: the first signal asks for an orderly end, the second ends at once. */
function abortOnSignals(): AbortController {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort(new OperatorError("interrupted", `interrupted by ${name}`));
    });
  }
  return controller;
}

/** What a run that was told to stop throws is the consequence; the signal is the reason. Hints on what is left stay. */
function interrupted(error: unknown): unknown {
  const { reason } = interruption.signal;
  if (!(reason instanceof OperatorError) || !(error instanceof OperatorError) || error === reason) return reason;
  return new OperatorError("interrupted", reason.message, { hints: [error.message, ...error.hints], cause: error });
}
