import { existsSync, readFileSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import { OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import { type PostfixParameters, scopes } from "../postfix/parameters.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { readRegularFile } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
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
  isSameDirectory,
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
import { StagedSettings, settingsHere } from "./configuration-settings.ts";

export interface ConfigurationUndo {
  readonly run: string;
  readonly configDirectory: string;
  /** Postfix runs there, and has to be told to read its configuration. */
  readonly running: boolean;
  /** Paths that have again what they had before the run. */
  readonly putBack: readonly string[];
  /** Paths the run had made, gone again. */
  readonly removed: readonly string[];
  /** Not touched: somebody changed them since, or what was there can't be had any more. */
  readonly left: readonly LeftPath[];
}

export interface LeftPath {
  readonly path: string;
  readonly problem: string;
  /** Where the file lies that was there before the run; null when there was none. */
  readonly copy: string | null;
}

/**
 * Put back what a restore of configuration replaced, and remove what it added. A file that is not any more what the restore
 * left is not touched. Owners and modes that `postfix set-permissions` corrected stay corrected, and what
 * `postfix check` made stays there. Can be run again after a crash.
 *
 * @throws OperatorError `usage` when there is no such run; `refused` when it changed nothing, was undone, or Postfix runs
 * with another queue directory than it had before the run; `locked`
 */
export async function undoConfiguration(
  stateDirectory: string,
  run: string,
  clock: Pick<Clock, "now">,
): Promise<ConfigurationUndo> {
  const record = findRun(stateDirectory, run);
  const lock = await lockDirectory(record.configDirectory);
  try {
    const queue = await queueNow(record);
    const running = queue !== undefined && (await isRunning(record, queue));
    if (running) await refuseQueueMove(record, queue);
    const queueLock = queue !== undefined && existsSync(queue) ? await lockDirectory(queue) : undefined;
    try {
      return { ...undoAndRecord(record, clock), running };
    } finally {
      await queueLock?.release();
    }
  } finally {
    await lock.release();
  }
}

/** @throws OperatorError `locked` */
async function lockDirectory(path: string): Promise<HeldLock> {
  const lock = await tryLock(path);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another run works on ${path}`, { hints: ["wait until it has ended"] });
}

/** Undefined where Postfix can't make sense of what the restore put there, which must not be in the way of an undo. */
async function queueNow({ configDirectory }: ConfigurationRun): Promise<string | undefined> {
  return await queueDirectoryOf(() => settingsHere(configDirectory));
}

async function queueDirectoryOf(settings: () => Promise<PostfixParameters>): Promise<string | undefined> {
  try {
    return scopes(await settings())[0]?.value("queue_directory");
  } catch (error) {
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}

async function isRunning({ configDirectory }: ConfigurationRun, queueDirectory: string): Promise<boolean> {
  return (await masterState({ configDirectory, queueDirectory })) !== "stopped";
}

/** As for the restore: `postfix stop` would not find a master(8) whose queue directory main.cf no longer names. */
async function refuseQueueMove(record: ConfigurationRun, now: string): Promise<void> {
  const { configDirectory, run } = record;
  const path = join(realpathSync(configDirectory), "main.cf");
  const main = record.kept.find(({ place }) => pathOf(place) === path);
  if (main === undefined) return;
  const before = await queueBefore(record, main);
  if (before !== undefined && isSameDirectory(before, now)) return;
  throw new OperatorError(
    "refused",
    `Postfix of ${configDirectory} runs with the queue ${now}, and before run ${run} it was ${before ?? "not set up"}`,
    { hints: [`stop it first: postfix -c ${configDirectory} stop`, "nothing was changed"] },
  );
}

/** By main.cf as it was before the run; undefined when there was none that can be read. */
async function queueBefore(record: ConfigurationRun, main: KeptPlace): Promise<string | undefined> {
  const { place, before } = main;
  const target = before.kind === "link" ? resolve(place.base, before.target) : undefined;
  const path = copyOf(record, main) ?? target;
  if (path === undefined || !existsSync(path)) return undefined;
  return await queueDirectoryOf(async () => {
    const files = { main: readFileSync(path), master: Buffer.alloc(0) };
    using staged = await StagedSettings.make(files, record.configDirectory);
    return staged.parameters;
  });
}

function undoAndRecord(record: ConfigurationRun, clock: Pick<Clock, "now">): Omit<ConfigurationUndo, "running"> {
  const undo = undoAll(record);
  if (undo.left.length > 0) return undo;
  const journal = ConfigurationJournal.reopen(record);
  journal.end("undone", clock.now());
  journal.close();
  return undo;
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
function undoAll(record: ConfigurationRun): Omit<ConfigurationUndo, "running"> {
  const putBack: string[] = [];
  const removed: string[] = [];
  const left: LeftPath[] = [];
  const prefix = temporaryPrefix(record.run);
  for (const kept of inOrder(record.kept)) {
    const path = pathOf(kept.place);
    if (kept.place.steps.length > 0) sweepBeside(kept.place, prefix);
    const here = lookAt(kept.place);
    if (isStill(kept.before, here)) continue;
    const problem = isOurs(kept.after, here) ? restoreOne(record, kept, `${prefix}undo`) : "it was changed since";
    if (problem !== null) left.push({ path, problem, copy: copyOf(record, kept) ?? null });
    else (kept.before.kind === "nothing" ? removed : putBack).push(path);
  }
  return { run: record.run, configDirectory: record.configDirectory, putBack, removed, left };
}

function copyOf(record: ConfigurationRun, { before }: KeptPlace): string | undefined {
  return before.kind === "file" ? join(record.directory, before.copy) : undefined;
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
