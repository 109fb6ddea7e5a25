import { existsSync } from "node:fs";
import { basename, join, posix } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { compiledFiles } from "../postfix/maps.ts";
import { readParameters } from "../postfix/parameters.ts";
import { groupId } from "../system/accounts.ts";
import type { Clock } from "../system/clock.ts";
import { digestOf } from "../system/digest.ts";
import { readRegularFile } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { storedBytes } from "./configuration-bytes.ts";
import { buildTable, type CommandResult, runPostfix, type TableResult } from "./configuration-commands.ts";
import { unifiedDiff } from "./configuration-difference.ts";
import { type ConfigurationRequest, type Gathered, gather, type TableWork, type Work } from "./configuration-gather.ts";
import {
  type After,
  ConfigurationJournal,
  type ConfigurationRun,
  readConfigurationRuns,
  temporaryPrefix,
  writePrivate,
} from "./configuration-journal.ts";
import {
  dressBeside,
  dressDirectory,
  inDirectory,
  inParent,
  isSameDirectory,
  linkBeside,
  lookAt,
  makeDirectory,
  moveIn,
  type Place,
  parentOf,
  pathOf,
  removeDirectory,
  sweepBeside,
  writeBeside,
} from "./configuration-place.ts";
import {
  type ConfigurationPlan,
  modeHere,
  type PlannedCommand,
  parameterChanges,
  placeOf,
} from "./configuration-plan.ts";
import { type ConfigurationEvent, type ConfigurationReport, problemsOf } from "./configuration-report.ts";

export type { ConfigurationPlan } from "./configuration-plan.ts";
export type { ConfigurationEvent, ConfigurationReport } from "./configuration-report.ts";
export { configurationPlanText, configurationReportText } from "./configuration-text.ts";
export { type ConfigurationUndo, undoConfiguration } from "./configuration-undo.ts";

export interface ConfigurationJob extends Omit<ConfigurationRequest, "now"> {
  /** Where the files that are replaced are kept. */
  readonly stateDirectory: string;
  readonly clock: Clock;
  /** Run none of Postfix's own commands: what is placed names queues of another Postfix, and `check` would repair those. */
  readonly withoutCommands?: boolean | undefined;
  /** Let links lead to where what they name is restored: as they were saved they lead to files of this host. */
  readonly linksInside?: boolean | undefined;
  /** Of the plan somebody has seen: a target that has changed since is refused. */
  readonly expectedKey?: string | undefined;
  readonly report?: ((event: ConfigurationEvent) => void) | undefined;
}

/**
 * Make the plan of a restore of configuration, and touch nothing of the target.
 *
 * @throws OperatorError `refused` when another plan than that of `expectedKey` comes out
 */
export async function planConfiguration(
  job: Omit<ConfigurationJob, "stateDirectory" | "report">,
): Promise<ConfigurationPlan> {
  using gathered = await gather({ ...job, now: job.clock.now() });
  refuseOtherPlan(job, gathered.plan);
  return gathered.plan;
}

/**
 * Put the configuration of one instance of a snapshot into a configuration directory, and what it names beside it.
 *
 * First every file that will be replaced is kept, then everything new is written under temporary names, and only then do
 * files get their places, one rename each: main.cf and master.cf last, after the tables they name were compiled. A crash
 * leaves each file old or new; the same call again finishes. Nothing is removed that is only on the target.
 *
 * @throws OperatorError `refused` (another state than the plan that was seen; Postfix runs and its queue directory would
 * change), `locked`, `damaged` or `no-identity` with nothing changed; `failed` when a file can't be written. A hint that
 * names the run to undo says that some files were placed.
 */
export async function applyConfiguration(job: ConfigurationJob): Promise<ConfigurationReport> {
  const lock = await lockDirectory(job.configDirectory, job.configDirectory);
  try {
    using gathered = await gather({ ...job, now: job.clock.now() });
    refuseOtherPlan(job, gathered.plan);
    refuseQueueMove(gathered.plan);
    const queue = gathered.queueDirectoryHere;
    const queueLock = existsSync(queue) ? await lockDirectory(queue, job.configDirectory) : undefined;
    try {
      return await new Application(job, gathered).run();
    } finally {
      await queueLock?.release();
    }
  } finally {
    await lock.release();
  }
}

/** @throws OperatorError `locked` */
async function lockDirectory(path: string, configDirectory: string): Promise<HeldLock> {
  if (!existsSync(path)) {
    throw new OperatorError("refused", `the configuration directory ${path} is not there`, {
      hints: ["install Postfix on this host first", "or get plain files: spoolsafe restore SNAP --to DIR"],
    });
  }
  const lock = await tryLock(path);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another run works on ${path}`, {
    hints: [`wait until it has ended, then restore into ${configDirectory} again`],
  });
}

function refuseOtherPlan(
  { expectedKey }: Pick<ConfigurationJob, "expectedKey">,
  { key, configDirectory }: ConfigurationPlan,
): void {
  if (expectedKey === undefined || expectedKey === key) return;
  throw new OperatorError("refused", `${configDirectory} is not as it was when the plan was made`, {
    hints: ["make the plan again and look at it: --dry-run", "nothing was changed"],
  });
}

/**
 * A running master(8) keeps its queue; the commands that speak to it would look for it in the other one.
 *
 * @throws OperatorError `refused` for a plan that `applyConfiguration` will not carry out while Postfix runs
 */
export function refuseQueueMove({ running, configDirectory, review }: ConfigurationPlan): void {
  const moved = review.find(({ setting }) => setting === "main.cf queue_directory");
  if (!running || moved === undefined || isSameDirectory(moved.saved, moved.here ?? "")) return;
  throw new OperatorError(
    "refused",
    `Postfix of ${configDirectory} runs with the queue ${moved.here}, and the snapshot's is ${moved.saved}`,
    { hints: [`stop it first: postfix -c ${configDirectory} stop`, "nothing was changed"] },
  );
}

class Application {
  readonly #job: ConfigurationJob;
  readonly #gathered: Gathered;
  readonly #journal: ConfigurationJournal;
  readonly #resumed: boolean;
  readonly #temporaries = new Map<Work, string>();
  readonly #made: Place[] = [];

  constructor(job: ConfigurationJob, gathered: Gathered) {
    this.#job = job;
    this.#gathered = gathered;
    const { plan } = gathered;
    const { snapshot, host, instance, configDirectory, root } = plan;
    const unfinished = unfinishedRun(job.stateDirectory, plan);
    this.#resumed = unfinished !== undefined;
    this.#journal =
      unfinished === undefined
        ? ConfigurationJournal.begin(
            job.stateDirectory,
            { snapshot, host, instance, configDirectory, root },
            job.clock.now(),
          )
        : ConfigurationJournal.reopen(unfinished);
    if (unfinished !== undefined) job.report?.({ type: "config-resumed", run: unfinished.run });
  }

  async run(): Promise<ConfigurationReport> {
    try {
      this.#sweep();
      const { work } = this.#gathered;
      const written = work.filter(({ planned }) => planned.action === "new" || planned.action === "changed");
      await this.#stageOrSweep(written);
      const report = await this.#placeAll(written);
      this.#journal.end(report.problems.length === 0 ? "done" : "incomplete", this.#job.clock.now());
      return report;
    } finally {
      this.#journal.close();
    }
  }

  async #placeAll(written: readonly Work[]): Promise<ConfigurationReport> {
    try {
      const [last, first] = partition(written, isMainOrMaster(this.#gathered.realDirectory));
      this.#job.report?.({ type: "config-step", step: "place", files: written.length });
      for (const one of first) this.#place(one);
      const tables = await this.#buildTables();
      for (const one of last) this.#place(one);
      this.#dressNewDirectories(written);
      return await this.#finish(written, tables);
    } catch (error) {
      throw this.#halfDone(error);
    }
  }

  /** What interrupted runs left beside the places they had begun to write. */
  #sweep(): void {
    const { configDirectory, root } = this.#gathered.plan;
    for (const run of readConfigurationRuns(this.#job.stateDirectory)) {
      if (run.outcome !== null || run.configDirectory !== configDirectory || run.root !== root) continue;
      for (const { place } of run.kept) if (place.steps.length > 0) sweepBeside(place, temporaryPrefix(run.run));
    }
  }

  /** Until the first file gets its place, a failure takes everything away again. */
  async #stageOrSweep(written: readonly Work[]): Promise<void> {
    try {
      this.#keep(written);
      this.#makeDirectories(written);
      await this.#stage(written);
      this.#job.signal?.throwIfAborted();
    } catch (error) {
      for (const { place } of written)
        if (place.steps.length > 0) sweepBeside(place, temporaryPrefix(this.#journal.run));
      if (!this.#resumed) {
        for (const place of this.#made.reverse()) removeDirectory(place);
        this.#journal.end("abandoned", this.#job.clock.now());
      }
      throw this.#wordFailure(error);
    }
  }

  #keep(written: readonly Work[]): void {
    this.#job.report?.({ type: "config-step", step: "keep", files: written.length });
    for (const { place, here, entry } of written) {
      this.#job.signal?.throwIfAborted();
      this.#journal.keep(place, here, afterOf(entry.type, entry.file?.digest ?? "", entry.target ?? ""));
    }
    for (const { compiled } of this.#gathered.tables) {
      for (const { place, here } of compiled) this.#journal.keep(place, here, { kind: "pending" });
    }
  }

  #makeDirectories(written: readonly Work[]): void {
    const named = written.filter(({ entry }) => entry.type === "directory").sort((a, b) => depth(a) - depth(b));
    for (const one of named) {
      this.#makeParents(one.place, false);
      if (lookAt(one.place).kind === "nothing") this.#makeDirectory(one.place, dressOf(one));
    }
    for (const { place, planned, entry } of written)
      if (entry.type !== "directory") this.#makeParents(place, planned.secret);
  }

  /** Directories on the way that the snapshot does not have: root's, and 0755 unless they are there to hide keys. */
  #makeParents(place: Place, secret: boolean): void {
    if (place.steps.length < 2) return;
    const parent = parentOf(place);
    const kind = lookAt(parent).kind;
    if (kind !== "nothing") return;
    this.#makeParents(parent, false);
    const sslCert = groupId("ssl-cert");
    const hides = secret && basename(pathOf(parent)) === "private";
    const open = { mode: 0o755, uid: 0, gid: 0 };
    const closed = sslCert === undefined ? { mode: 0o700, uid: 0, gid: 0 } : { mode: 0o710, uid: 0, gid: sslCert };
    this.#makeDirectory(parent, hides ? closed : open);
  }

  #makeDirectory(place: Place, dress: { mode: number; uid: number; gid: number }): void {
    this.#journal.keep(place, { kind: "nothing" }, { kind: "directory" });
    makeDirectory(place, dress);
    this.#made.push(place);
  }

  async #stage(written: readonly Work[]): Promise<void> {
    this.#job.report?.({ type: "config-step", step: "write", files: written.length });
    for (const [number, one] of written.entries()) {
      if (one.entry.type === "directory") continue;
      const temporary = `${temporaryPrefix(this.#journal.run)}${number}`;
      this.#temporaries.set(one, temporary);
      if (one.entry.type === "link") linkBeside(one.place, temporary, this.#linkTarget(one), dressOf(one));
    }
    const files = written.filter(({ entry }) => entry.file !== null);
    const byDigest = Map.groupBy(files, ({ entry }) => entry.file?.digest);
    const stored = files.flatMap(({ entry }) => entry.file ?? []);
    for await (const [digest, bytes] of storedBytes(stored, this.#job)) {
      for (const one of byDigest.get(digest) ?? []) {
        writeBeside(one.place, this.#temporaries.get(one) ?? "", bytes, dressOf(one));
      }
    }
  }

  #linkTarget({ entry: { path, target } }: Work): string {
    if (target === null || this.#job.linksInside !== true) return target ?? "";
    const { plan, realDirectory } = this.#gathered;
    const named = posix.resolve(posix.dirname(path), target);
    if (named === "/") return plan.root;
    return pathOf(
      placeOf({ path: named }, { from: plan.savedDirectory, to: realDirectory, root: plan.root, queues: [] }),
    );
  }

  #place(one: Work): void {
    this.#job.signal?.throwIfAborted();
    const { place, here, entry } = one;
    if (entry.type !== "directory") moveIn(place, this.#temporaries.get(one) ?? "");
    else if (here.kind === "directory") dressDirectory(place, { mode: modeHere(entry, one.owner), ...ids(one) });
  }

  #dressNewDirectories(written: readonly Work[]): void {
    const fresh = written.filter(({ entry, here }) => entry.type === "directory" && here.kind === "nothing");
    for (const one of fresh.sort((a, b) => depth(b) - depth(a))) dressDirectory(one.place, dressOf(one));
  }

  async #buildTables(): Promise<TableResult[]> {
    const { tables } = this.#gathered;
    this.#job.report?.({ type: "config-step", step: "tables", files: tables.length });
    const results: TableResult[] = [];
    for (const [number, table] of tables.entries()) {
      this.#job.signal?.throwIfAborted();
      // By our pid, because a postmap that outlived the run we go on with may still write under its own name.
      const temporary = `${temporaryPrefix(this.#journal.run)}${process.pid}-t${number}`;
      results.push(await this.#buildTable(table, temporary));
    }
    return results;
  }

  async #buildTable(table: TableWork, temporary: string): Promise<TableResult> {
    const { planned, source, ownDirectory, compiled } = table;
    const settings = this.#gathered.staged.programsDirectory;
    const result = await buildTable(planned, source, settings, temporary, ownDirectory);
    if (result.problem !== null) return result;
    for (const [index, suffix] of compiledFiles(planned.type, "").entries()) {
      const target = compiled[index];
      if (target === undefined) continue;
      const made = `${temporary}${suffix}`;
      const { bytes } = inDirectory(parentOf(source), (at) => readRegularFile(at(made)));
      dressBeside(target.place, made, target.dress);
      this.#journal.placed(target.place, { kind: "file", digest: digestOf(bytes).digest });
      moveIn(target.place, made);
    }
    return result;
  }

  async #finish(written: readonly Work[], tables: readonly TableResult[]): Promise<ConfigurationReport> {
    const { plan, parametersHere } = this.#gathered;
    this.#job.report?.({ type: "config-step", step: "check", files: plan.files.length });
    const commands: CommandResult[] = [];
    const edited: ConfigurationReport["edited"][number][] = [];
    for (const planned of this.#job.withoutCommands === true ? [] : plan.commands) {
      const before = planned.runs ? this.#keepBeforeEdits() : [];
      commands.push(await runPostfix(plan.configDirectory, planned));
      edited.push(...before.flatMap((one) => this.#editOf(planned.command, one)));
    }
    const now = await readParameters(plan.configDirectory, this.#job.signal, this.#gathered.staged.programsDirectory);
    return {
      ...{ run: this.#journal.run, keptIn: this.#journal.directory, plan, tables, commands, edited },
      written: written.filter(({ entry }) => entry.type !== "directory").length,
      parameters: parameterChanges(parametersHere.explicit, now.explicit, !plan.mainSecret),
      problems: problemsOf(plan, tables, commands, now.explicit.get("compatibility_level") ?? null),
    };
  }

  /**
   * Postfix's own commands edit main.cf and master.cf in place: `upgrade-configuration` on purpose, and every one of them,
   * `check` too, writes the directories main.cf sets through `$name` into it as they are then (`conf/post-install`). What the
   * snapshot had stays with the run.
   */
  #keepBeforeEdits(): { place: Place; bytes: Buffer }[] {
    const base = this.#gathered.realDirectory;
    return ["main.cf", "master.cf"].flatMap((name) => {
      const place = { base, steps: [name] };
      const here = lookAt(place);
      if (here.kind !== "file") return [];
      this.#journal.keep(place, here, { kind: "any" });
      const { bytes } = inParent(place, (at) => readRegularFile(at(name)));
      const asSaved = join(this.#journal.directory, `${name}.as-saved`);
      if (!existsSync(asSaved)) writePrivate(asSaved, bytes);
      return [{ place, bytes }];
    });
  }

  #editOf(
    command: PlannedCommand["command"],
    { place, bytes }: { place: Place; bytes: Buffer },
  ): ConfigurationReport["edited"] {
    const path = pathOf(place);
    const here = lookAt(place);
    if (here.kind !== "file") return [];
    this.#journal.placed(place, { kind: "file", digest: here.digest });
    if (digestOf(bytes).digest === here.digest) return [];
    const secret = this.#gathered.plan.files.find((one) => one.path === path)?.secret !== false;
    return [{ command, path, diff: secret ? null : (unifiedDiff(path, bytes, here.content, editedSides) ?? null) }];
  }

  /** Some files may have their places and others not: how to get out of that is what somebody needs to know. */
  #halfDone(error: unknown): unknown {
    const worded = this.#wordFailure(error);
    if (!(worded instanceof OperatorError)) return worded;
    const { run } = this.#journal;
    const hints = ["to finish it, run the same restore again", `to put back what was there: spoolsafe undo ${run}`];
    return new OperatorError(worded.kind, `the restore of configuration ${run} was not finished: ${worded.message}`, {
      hints: [...hints, ...worded.hints.filter((hint) => hint !== "run the restore again")],
      cause: error,
    });
  }

  #wordFailure(error: unknown): unknown {
    const errno = errnoOf(error);
    if (errno === undefined || error instanceof OperatorError) return error;
    const full = errno === "ENOSPC" || errno === "EDQUOT";
    const message = error instanceof Error ? error.message.replaceAll(/\/proc\/self\/fd\/\d+\//g, "") : errno;
    return new OperatorError("failed", `the configuration could not be written: ${message}`, {
      hints: [full ? "make room on its file system and run the restore again" : "run the restore again"],
      cause: error,
    });
  }
}

const editedSides = { before: "as saved", after: "now" };

/** An interrupted run of the same snapshot into the same place: its journal goes on. */
function unfinishedRun(stateDirectory: string, plan: ConfigurationPlan): ConfigurationRun | undefined {
  return readConfigurationRuns(stateDirectory).findLast(
    (run) =>
      run.outcome === null &&
      run.snapshot === plan.snapshot &&
      run.instance === plan.instance &&
      run.configDirectory === plan.configDirectory &&
      run.root === plan.root,
  );
}

function afterOf(type: Work["entry"]["type"], digest: string, target: string): After {
  if (type === "link") return { kind: "link", target };
  return type === "file" ? { kind: "file", digest } : { kind: "directory" };
}

function partition<T>(items: readonly T[], first: (item: T) => boolean): [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))];
}

function isMainOrMaster(configDirectory: string): (one: Work) => boolean {
  const names = ["main.cf", "master.cf"].map((name) => join(configDirectory, name));
  return ({ planned }) => names.includes(planned.path);
}

function depth({ place }: Work): number {
  return place.steps.length;
}

function ids({ owner: { uid, gid } }: Work): { uid: number; gid: number } {
  return { uid, gid };
}

function dressOf(one: Work): { mode: number; uid: number; gid: number; mtime: number } {
  return { mode: modeHere(one.entry, one.owner), ...ids(one), mtime: one.entry.mtime };
}
