import { renderHtml } from "../../drill/html.ts";
import { renderMarkdown } from "../../drill/markdown.ts";
import { renderText } from "../../drill/text.ts";
import { OperatorError } from "../../errors.ts";
import type { Context } from "../context.ts";
import { chooseReport, drillReports, eachReport, tellAway } from "../drills.ts";

export interface DrillShowOptions {
  readonly format: "text" | "md" | "html" | "json";
}

/**
 * `spoolsafe drill show`: a report, drawn from its signed record. `json` is the record itself, its two lines as they are signed
 * and stored.
 *
 * @throws OperatorError `damaged` for one whose signature is not that of the trusted key it names
 */
export async function run(context: Context, spec: string, { format }: DrillShowOptions): Promise<number> {
  const { render, globals } = context;
  const found = await drillReports(context);
  const { signed, bytes, verdict, isStored } = chooseReport(spec, eachReport(context, found));
  if (verdict === "forged") throw forged(signed.drill.id);
  tellAway(context, found);
  if (verdict === "stranger") {
    render.warn(`it is signed by ${signed.key}, a key this host does not trust`);
  }
  if (globals.json) {
    render.line(signed.drill);
    render.summary({
      drill: signed.drill.id,
      signed: verdict === "trusted",
      stored: found.stored === null ? null : isStored,
    });
    return 0;
  }
  switch (format) {
    case "json":
      render.bytes(bytes);
      break;
    case "html":
      render.bytes(Buffer.from(renderHtml(signed)));
      break;
    case "md":
      render.bytes(Buffer.from(renderMarkdown(signed)));
      break;
    case "text":
      render.text(renderText(signed));
  }
  return 0;
}

function forged(id: string): OperatorError {
  return new OperatorError("damaged", `the report of drill ${id} is not what was signed`, {
    hints: ["spoolsafe drill verify --all tells which are; another copy of the repository may have the right one"],
  });
}
