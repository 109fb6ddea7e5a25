import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { type JournalRead, journalFile, readJournal } from "./journal.ts";
import { type Progress, progressOf } from "./progress.ts";

/** Where runs are kept: on a disk that survives a reboot, else where it can be written at all. */
export function runPlaces(stateDirectory: string): string[] {
  return [join(stateDirectory, "runbooks"), "/run/spoolsafe/runbooks"];
}

/** Sortable by time, and legal in file names. */
export function newRunName(nowMs: number): string {
  const stamp = new Date(nowMs).toISOString().slice(0, 19).replaceAll(/[-:]/g, "");
  return `${stamp}-${randomBytes(4).toString("hex")}`;
}

/** Where the blocks of a run work. Theirs alone: a file of a block must not take the place of one of ours. */
export function workplaceIn(runDirectory: string): string {
  return join(runDirectory, "work");
}

/**
 * Make the directory of a run, with a copy of its runbook, in the first place where that is possible.
 *
 * @returns null where it is in none; `failures` say why
 */
export function makeRunDirectory(
  places: readonly string[],
  run: string,
  text: string,
): { readonly directory: string | null; readonly failures: readonly string[] } {
  const failures: string[] = [];
  for (const place of places) {
    const directory = join(place, run);
    try {
      makePrivateDirectory(place);
      mkdirSync(directory, { mode: 0o700 });
      mkdirSync(workplaceIn(directory), { mode: 0o700 });
      writeFileAtomic(join(directory, "runbook.md"), text);
      return { directory, failures };
    } catch (error) {
      rmSync(directory, { recursive: true, force: true });
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  return { directory: null, failures };
}

/** A run as it was left. */
export interface FoundRun {
  readonly run: string;
  /** Where its blocks work: where it began. */
  readonly directory: string;
  readonly journal: JournalRead;
  readonly progress: Progress;
}

/**
 * The run of this name, or whose name begins so. Of a journal that went on elsewhere, the longest counts: it has all lines.
 *
 * @throws OperatorError `usage` when there is none or several, `damaged` when its journal is not as it was written
 */
export function findRun(places: readonly string[], call: string): FoundRun {
  const names = runNames(places);
  const exact = names.filter((name) => name === call);
  const found = exact.length > 0 ? exact : names.filter((name) => name.startsWith(call));
  const [only] = found;
  if (only !== undefined && found.length === 1) return loadRun(places, only);
  throw new OperatorError("usage", found.length === 0 ? `there is no run ${call}` : `${call} may be several runs`, {
    hints: [
      ...(found.length === 0 ? names.slice(-5) : found).map((name) => `there is ${name}`),
      "`spoolsafe runbook report` lists the runs of this host",
    ],
  });
}

/** Names of the runs that have a journal, oldest first; none of a place that we may not look into. */
export function runNames(places: readonly string[]): string[] {
  const names = places.flatMap((place) => namesIn(place).filter((name) => existsSync(journalFile(join(place, name)))));
  return [...new Set(names)].sort();
}

function namesIn(place: string): string[] {
  try {
    return readdirSync(place);
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EACCES"].includes(errnoOf(error) ?? "")) return [];
    throw error;
  }
}

/** @throws OperatorError `damaged` */
export function loadRun(places: readonly string[], run: string): FoundRun {
  const homes = places.map((place) => join(place, run)).filter((home) => existsSync(home));
  const journals = homes.map(journalFile).filter(existsSync).map(readJournal);
  const [journal] = journals.sort((a, b) => b.lines.length - a.lines.length);
  const [directory] = homes;
  const start = journal?.lines[0];
  if (journal === undefined || directory === undefined || start?.event !== "run.start") {
    throw new OperatorError("damaged", `the run ${run} has no first line: it did nothing`);
  }
  return { run, directory, journal, progress: progressOf(journal.lines, start) };
}
