import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { FoundRunbook, RunbookPlaces } from "./catalogue.ts";

/** The text of the packaged index by symptom, alert and role; null where it is missing. */
export function indexOf({ packaged }: RunbookPlaces): string | null {
  const path = join(packaged, "README.md");
  return existsSync(path) ? readFileSync(path, "utf8") : null;
}

/**
 * The runbooks that have most of the words, in their front matter, title, When and Impact, or in a line of the index that
 * leads to them; best first. None, when no runbook has any.
 */
export function lookFor(all: readonly FoundRunbook[], words: readonly string[], places: RunbookPlaces): FoundRunbook[] {
  const index = (indexOf(places) ?? "").split("\n");
  const wanted = words.flatMap((word) => word.toLowerCase().split(/\s+/)).filter((word) => word !== "");
  const ranked = all.map((found) => {
    const text = searched(found, index);
    // `verify-*` among the alerts of a runbook stands for every end of that job.
    const jobs = (found.reading.front?.alerts ?? []).flatMap((alert) =>
      alert.endsWith("-*") ? [alert.slice(0, -1)] : [],
    );
    const has = (word: string) => text.includes(word) || jobs.some((job) => word.startsWith(job));
    return { found, hits: wanted.filter(has).length };
  });
  const most = Math.max(1, ...ranked.map(({ hits }) => hits));
  return ranked.filter(({ hits }) => hits === most).map(({ found }) => found);
}

function searched({ name, reading }: FoundRunbook, index: readonly string[]): string {
  const { title, when, impact, front } = reading;
  const own = [name, title, when, impact, front?.id, front?.hosts, front?.severity, ...(front?.alerts ?? [])];
  return [...own, ...index.filter((line) => line.includes(`${name}.md`))].join("\n").toLowerCase();
}
