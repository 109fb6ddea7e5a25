import { statSync } from "node:fs";
import { type FoundRunbook, listRunbooks, type RunbookPlaces, trustFault } from "./catalogue.ts";
import { paperText } from "./paper.ts";
import { effectiveValues } from "./values.ts";

/** What somebody needs who has lost a mail server and has only the repository; and the site's own, which are nowhere else. */
const needed = [
  "00-triage",
  "01-primary-lost",
  "02-queue-corruption",
  "04-clean-room",
  "05-identity-lost",
  "06-storage-unreachable",
  "14-failback",
  "15-merge-dead-node",
];

export interface TakeoverSheet {
  readonly name: string;
  readonly text: string;
  /** Seconds since 1970. */
  readonly mtime: number;
}

/**
 * The sheets to keep with every snapshot, by name: the same bytes as long as runbooks and program are the same. Values are
 * the runbooks' own defaults, whatever the environment of the backup. One that can't be executed is kept as it is written;
 * one that others may have written is left out.
 */
export function takeoverSheets(places: RunbookPlaces): TakeoverSheet[] {
  return listRunbooks(places, needed)
    .filter((found) => trustFault(found) === null)
    .map((found) => ({
      name: `${found.name}.txt`,
      text: sheetOf(found),
      mtime: Math.floor(statSync(found.path).mtimeMs / 1000),
    }));
}

function sheetOf({ reading: { runbook }, text }: FoundRunbook): string {
  return runbook === null ? text : paperText(runbook, effectiveValues(runbook, new Map(), {}));
}
