import ms from "ms";
import type { Block, Confirm, Risk } from "./runbook.ts";

/** "30 seconds", "10 minutes"; of a person "as long as it takes". */
export function durationWords(milliseconds: number): string {
  return Number.isFinite(milliseconds) ? ms(milliseconds, { long: true }) : "as long as it takes";
}

export const riskWords: Readonly<Record<Risk, string>> = {
  read: "changes nothing",
  change: "changes something; can be undone or repeated",
  destructive: "CAN'T BE TAKEN BACK",
};

/** What is asked before an action: where its fence says nothing, its risk decides. What a person does is always asked for. */
export function confirmOf({ confirm, risk, kind }: Block): Confirm {
  if (kind === "manual") return confirm === "type" ? "type" : "yes";
  return confirm ?? ({ read: "no", change: "yes", destructive: "type" } as const)[risk ?? "change"];
}

export const confirmWords: Readonly<Record<Confirm, string>> = {
  no: "not asked",
  yes: "asked first",
  type: "the host's name is typed first",
};
