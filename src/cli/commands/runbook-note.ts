import { errnoOf, OperatorError } from "../../errors.ts";
import { leaveNote } from "../../runbook/notes.ts";
import { findRun } from "../../runbook/run-directory.ts";
import { Secrets } from "../../runbook/secrets.ts";
import type { Context } from "../context.ts";
import { personName, placesOfRuns } from "../runbook-world.ts";

/** `spoolsafe runbook note RUN TEXT...`: for the report, from any terminal, while the run goes on or later. */
export async function run(context: Context, call: string, words: readonly string[]): Promise<number> {
  const found = findRun(placesOfRuns(context), call);
  const text = new Secrets([], context.environment).scrub(words.join(" ").trim());
  if (text === "") throw new OperatorError("usage", "the note is empty");
  const by = personName(context);
  try {
    leaveNote(found.directory, { time: new Date(context.clock.now()).toISOString(), by, text });
  } catch (error) {
    throw new OperatorError("failed", `the note can't be written in ${found.directory}: ${errnoOf(error) ?? error}`);
  }
  context.render.summary({ run: found.run, by, text });
  context.render.text(`noted for ${found.run}`);
  return 0;
}
