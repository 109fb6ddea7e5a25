import { requireRunbook, requireTrusted } from "../../runbook/catalogue.ts";
import { checkRunbook } from "../../runbook/check.ts";
import { parseSettings } from "../../runbook/values.ts";
import type { Context } from "../context.ts";
import { showRun } from "../runbook-output.ts";
import { runWorld } from "../runbook-world.ts";
import { chooseRunbook } from "../runbooks.ts";
import { requireClean } from "./runbook-run.ts";

export interface RunbookCheckOptions {
  readonly set?: readonly string[] | undefined;
}

/**
 * `spoolsafe runbook check ID`: what a run would meet now. Changes nothing.
 *
 * @returns 0, or 1 when something would be refused
 */
export async function run(context: Context, call: string, options: RunbookCheckOptions): Promise<number> {
  const found = chooseRunbook(context, call);
  const runbook = requireRunbook(found);
  requireTrusted(found);
  requireClean(context, found);
  const set = parseSettings(options.set ?? []);
  const world = await runWorld(context, { mailConfig: set.get("MAIL_CONFIG") }, showRun(context));
  const { counts, ok } = await checkRunbook({ runbook, world, set });
  const { render } = context;
  render.summary({ runbook: runbook.name, ok, steps: counts });
  const told = Object.entries(counts).filter(([, count]) => count > 0);
  render.text(`${runbook.name}: ${told.map(([state, count]) => `${count} ${state}`).join(", ")}; nothing was changed`);
  return ok ? 0 : 1;
}
