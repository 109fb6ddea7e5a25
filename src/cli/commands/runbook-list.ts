import { listRunbooks } from "../../runbook/catalogue.ts";
import { lookFor } from "../../runbook/search.ts";
import type { Context } from "../context.ts";
import { foundJson, remarks, runbookPlaces } from "../runbooks.ts";
import { span, table } from "../table.ts";

export interface RunbookListOptions {
  readonly for?: readonly string[] | undefined;
}

/** `spoolsafe runbook list`: what there is, or what fits a symptom, an alert or a role best. */
export async function run(context: Context, options: RunbookListOptions): Promise<number> {
  const { render } = context;
  const places = runbookPlaces(context);
  const all = listRunbooks(places);
  const found = options.for === undefined ? all : lookFor(all, options.for, places);

  for (const each of found) {
    const front = each.reading.front;
    const { title, when, impact } = each.reading;
    const { severity = null, rto = null, alerts = [], hosts = null } = front ?? {};
    render.line({ type: "runbook", ...foundJson(each), title, when, impact, severity, rtoMs: rto, alerts, hosts });
  }
  render.summary({ count: found.length });
  render.text(() => {
    if (found.length === 0) return "no runbook speaks of that; `spoolsafe runbook show 00` is where to start";
    const rows = found.map((each) => {
      const { severity = "", rto = 0, hosts = "" } = each.reading.front ?? {};
      return [each.name, severity, rto === 0 ? "" : span(rto), hosts, each.reading.title.replace(/^[A-Z]+-\d+ /, "")];
    });
    return table(["RUNBOOK", "SEVERITY", "BUDGET", "HOST", "TITLE"], rows);
  });
  for (const each of found) {
    const told = remarks(each);
    if (told.length > 0) render.note(`${each.name}: ${told.join("; ")}`);
  }
  return 0;
}
