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

/** What will be asked before a block; where its fence says nothing, its risk decides. */
export function confirmOf({ confirm, risk, kind }: Block): Confirm {
  if (confirm !== null) return confirm;
  if (risk === "destructive") return "type";
  return risk === "read" && kind === "do" ? "no" : "yes";
}

export const confirmWords: Readonly<Record<Confirm, string>> = {
  no: "not asked",
  yes: "asked first",
  type: "the host's name is typed first",
};
