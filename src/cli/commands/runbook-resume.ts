import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../../errors.ts";
import { parseRunbook } from "../../runbook/parse.ts";
import { resumeRun } from "../../runbook/run.ts";
import { type FoundRun, findRun } from "../../runbook/run-directory.ts";
import type { Runbook } from "../../runbook/runbook.ts";
import type { Context } from "../context.ts";
import { showRun } from "../runbook-output.ts";
import { placesOfRuns, runWorld } from "../runbook-world.ts";
import { tellEnd } from "./runbook-run.ts";

export interface RunbookResumeOptions {
  readonly answers?: string | undefined;
}

/** `spoolsafe runbook resume RUN`. */
export async function run(context: Context, call: string, options: RunbookResumeOptions): Promise<number> {
  const found = findRun(placesOfRuns(context), call);
  const runbook = runbookOf(found);
  const mailConfig = found.progress.start.configDirectory ?? undefined;
  const world = await runWorld(context, { answers: options.answers, mailConfig }, showRun(context));
  return tellEnd(context, await resumeRun({ runbook, world, run: found.run }));
}

/**
 * The runbook of a run: as it is now, so that a change is noticed; where its file is gone, as it was.
 *
 * @throws OperatorError `refused` when neither can be read
 */
export function runbookOf({ run: name, directory, progress }: FoundRun): Runbook {
  const { path } = progress.start.runbook;
  const kept = join(directory, "runbook.md");
  const readable = [path, kept].find((file) => existsSync(file));
  if (readable === undefined) {
    throw new OperatorError("refused", `the runbook of ${name} is gone: there is no ${path}`, {
      hints: ["begin again with another one, at the step you are at: spoolsafe runbook run, with --from STEP"],
    });
  }
  return parseRunbook(readFileSync(readable, "utf8"), path);
}
