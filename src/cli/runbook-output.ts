import type { CheckState, RunEvent } from "../runbook/world.ts";
import type { Context } from "./context.ts";
import { printableLines } from "./runbook-world.ts";
import { printable, span } from "./table.ts";

/**
 * Show what a run tells. With --json every event is a line on standard output; else what its blocks say is there, and what
 * the runner says is on standard error.
 */
export function showRun({ render }: Context): (event: RunEvent) => void {
  return (event) => {
    if (event.type === "warning") {
      render.line(event);
      render.warn(printableLines(event.text));
      return;
    }
    if (event.type === "output") {
      render.line(event);
      if (event.kind !== "verify") render.text(printableLines(event.text.replace(/\n$/, "")));
      return;
    }
    render.event(event, textOf(event));
  };
}

function textOf(event: RunEvent): string | undefined {
  switch (event.type) {
    case "run":
      return runText(event);
    case "variable":
      return `  ${event.name} = ${event.value === null ? "(secret)" : printable(event.value)}  (${event.origin})`;
    case "passed":
      return `[${event.number}/${event.of}] ${event.step}: ${event.state} before`;
    case "step":
      return stepText(event);
    case "block":
      return event.kind === "verify" || event.kind === "vars" ? undefined : `  ${event.kind} ${event.block} ...`;
    case "block-end":
      return event.outcome === "ok" || event.kind === "verify"
        ? undefined
        : `  ${event.block}: ${event.outcome}${event.code === null ? "" : `, exit code ${event.code}`}`;
    case "verify":
      return `  verify ${event.block}: ${event.ok ? "holds" : `does not hold: ${printableLines(event.problem ?? "")}`}`;
    case "waiting":
      return `  ${event.block} (${printableLines(event.reason)}), looking again`;
    case "step-end":
      return `  ${event.step}: ${event.state}${event.reason === null ? "" : `: ${printableLines(event.reason)}`}`;
    case "checked":
      return `[${event.number}] ${event.step}: ${checkText(event.state, event.until)}${event.reason === null ? "" : `: ${printableLines(event.reason)}`}`;
    case "note":
      return printableLines(event.text);
    default:
      return undefined;
  }
}

function runText({ run, runbook, title, when, impact, never, resumed }: Extract<RunEvent, { type: "run" }>): string {
  const first = `${title}\n${resumed ? "Going on with run" : "Run"} ${run} of ${runbook}.`;
  return printableLines(resumed ? first : `${first}\nWhen: ${when}\nImpact: ${impact}\nNever: ${never}`);
}

function stepText(event: Extract<RunEvent, { type: "step" }>): string {
  const { number, of, heading, prose, kind, risk, script, elapsedMs, budgetMs, usuallyMs } = event;
  const usually = usuallyMs === null ? "" : `, usually ${span(usuallyMs)}`;
  const over = elapsedMs > budgetMs ? ", OVER ITS BUDGET" : "";
  const head = `\n[${number}/${of}] ${heading}  (${kind === "manual" ? "by hand" : (risk ?? "change")}; ${clockText(elapsedMs)} of ${clockText(budgetMs)}${over}${usually})`;
  const commands = script
    .split("\n")
    .map((line) => `    ${line}`)
    .join("\n");
  return printableLines([head, ...(prose.trim() === "" ? [] : [prose.trim()]), commands].join("\n"));
}

function checkText(state: CheckState, until: string | null): string {
  const words = { "would-run": "would run", satisfied: "already satisfied", refused: "refused" };
  return state === "unknowable" ? `unknowable until ${until}` : words[state];
}

/** Minutes and seconds, or hours, minutes and seconds: `04:12`, `1:04:12`. */
export function clockText(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  return `${hours > 0 ? `${hours}:` : ""}${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}
