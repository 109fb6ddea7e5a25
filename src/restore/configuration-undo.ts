import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { readRegularFile } from "../system/files.ts";
import { tryLock } from "../system/lock.ts";
import {
  ConfigurationJournal,
  type ConfigurationRun,
  isOurs,
  isStill,
  type KeptPlace,
  readConfigurationRuns,
  temporaryPrefix,
} from "./configuration-journal.ts";
import {
  dressDirectory,
  linkBeside,
  lookAt,
  moveIn,
  type Place,
  pathOf,
  remove,
  removeDirectory,
  sweepBeside,
  writeBeside,
} from "./configuration-place.ts";

export interface ConfigurationUndo {
  readonly run: string;
  /** Paths that have again what they had before the run. */
  readonly putBack: readonly string[];
  /** Paths the run had made, gone again. */
  readonly removed: readonly string[];
  /** Not touched: somebody changed them since, or what was there can't be had any more. */
  readonly left: readonly { readonly path: string; readonly problem: string }[];
}

/**
 * Put back what a restore of configuration replaced, and remove what it added. A file that is not any more what the restore
 * left is not touched. Owners and modes that `postfix set-permissions` corrected stay corrected, and what
 * `postfix check` made stays there. Can be run again after a crash.
 *
 * @throws OperatorError `usage` when there is no such run, `refused` when it changed nothing or was undone, `locked`
 */
export async function undoConfiguration(
  stateDirectory: string,
  run: string,
  clock: Pick<Clock, "now">,
): Promise<ConfigurationUndo> {
  const record = findRun(stateDirectory, run);
  const lock = await tryLock(record.configDirectory);
  if (lock === undefined) throw new OperatorError("locked", `another run works on ${record.configDirectory}`);
  try {
    const undo = undoAll(record);
    if (undo.left.length === 0) {
      const journal = ConfigurationJournal.reopen(record);
      journal.end("undone", clock.now());
      journal.close();
    }
    return undo;
  } finally {
    await lock.release();
  }
}

function findRun(stateDirectory: string, run: string): ConfigurationRun {
  const runs = readConfigurationRuns(stateDirectory);
  const found = runs.find((one) => one.run === run);
  if (found === undefined) {
    const known = runs.map((one) => one.run).join(", ");
    throw new OperatorError("usage", `no restore of configuration is called ${run}`, {
      hints: [known === "" ? `there is none in ${stateDirectory}` : `there are: ${known}`],
    });
  }
  if (found.outcome === "undone" || found.outcome === "abandoned") {
    throw new OperatorError("refused", `run ${run} was ${found.outcome}: there is nothing to put back`);
  }
  return found;
}

/** Files in reverse, so that main.cf is as it was before what it names goes; then directories, the deepest first. */
function undoAll(record: ConfigurationRun): ConfigurationUndo {
  const putBack: string[] = [];
  const removed: string[] = [];
  const left: { path: string; problem: string }[] = [];
  const prefix = temporaryPrefix(record.run);
  for (const kept of inOrder(record.kept)) {
    const path = pathOf(kept.place);
    if (kept.place.steps.length > 0) sweepBeside(kept.place, prefix);
    const here = lookAt(kept.place);
    if (isStill(kept.before, here)) continue;
    const problem = isOurs(kept.after, here) ? restoreOne(record, kept, `${prefix}undo`) : "it was changed since";
    if (problem !== null) left.push({ path, problem });
    else (kept.before.kind === "nothing" ? removed : putBack).push(path);
  }
  return { run: record.run, putBack, removed, left };
}

function inOrder(kept: readonly KeptPlace[]): KeptPlace[] {
  const depth = ({ place, after }: KeptPlace) => (after.kind === "directory" ? place.steps.length : Number.MAX_VALUE);
  return kept.toReversed().sort((a, b) => (depth(a) === depth(b) ? 0 : depth(b) - depth(a)));
}

/** @returns why not, or null when it is done */
function restoreOne(record: ConfigurationRun, { place, before, after }: KeptPlace, temporary: string): string | null {
  switch (before.kind) {
    case "nothing":
      return removeOne(place, after.kind === "directory");
    case "directory":
      dressDirectory(place, { mode: before.mode, uid: before.uid, gid: before.gid });
      return null;
    case "link":
      linkBeside(place, temporary, before.target, before);
      moveIn(place, temporary);
      return null;
    case "file": {
      const { bytes } = readRegularFile(join(record.directory, before.copy));
      if (digestOf(bytes).digest !== before.digest) return `its copy ${join(record.directory, before.copy)} is damaged`;
      writeBeside(place, temporary, bytes, before);
      moveIn(place, temporary);
      return null;
    }
  }
}

function removeOne(place: Place, directory: boolean): string | null {
  if (directory) return removeDirectory(place) ? null : "there are other files in it now";
  remove(place);
  return null;
}
