import { requireRunbook } from "../../runbook/catalogue.ts";
import { paperText } from "../../runbook/paper.ts";
import { effectiveValues, parseSettings } from "../../runbook/values.ts";
import type { Context } from "../context.ts";
import { chooseRunbook, foundJson } from "../runbooks.ts";

export interface RunbookPaperOptions {
  readonly set?: readonly string[] | undefined;
}

/** `spoolsafe runbook paper ID`: a sheet to print, with values filled in. Executes nothing. */
export async function run(context: Context, call: string, { set = [] }: RunbookPaperOptions): Promise<number> {
  const { render } = context;
  const found = chooseRunbook(context, call);
  const runbook = requireRunbook(found);
  const text = paperText(runbook, effectiveValues(runbook, parseSettings(set), context.environment));
  render.line({ type: "paper", ...foundJson(found), text });
  render.summary({ lines: text.split("\n").length - 1 });
  render.text(text.trimEnd());
  return 0;
}
