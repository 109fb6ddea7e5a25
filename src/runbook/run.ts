import { readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { OperatorError } from "../errors.ts";
import { currentBootId } from "../holds/journal.ts";
import { isAlive } from "../jobs/record.ts";
import { writeFileAtomic } from "../system/files.ts";
import { processStart } from "../system/processes.ts";
import { askSecrets, type Choice, Dialogue } from "./dialogue.ts";
import { Execution, failureOf, type Verdict } from "./execution.ts";
import { Journal } from "./journal.ts";
import { takeNotes } from "./notes.ts";
import { type OwnCommand, placeOwnCommand } from "./own-command.ts";
import type { StepProgress } from "./progress.ts";
import { unmetRequirements, wrongRole } from "./requirements.ts";
import { type FoundRun, makeRunDirectory, newRunName } from "./run-directory.ts";
import { lockRuns, refuseLeftAction } from "./run-lock.ts";
import type { Block, Runbook, Step } from "./runbook.ts";
import { Secrets } from "./secrets.ts";
import { undoStep } from "./undo.ts";
import { usualDurations } from "./usual.ts";
import { type EffectiveValue, effectiveValues, type Origin } from "./values.ts";
import { confirmOf } from "./words.ts";
import type { RunWorld } from "./world.ts";

export interface RunRequest {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  /** --set. */
  readonly set: ReadonlyMap<string, string>;
  /** Name of the step to begin with, or its number; null: the first. */
  readonly from: string | null;
}

export interface RunReport {
  readonly run: string;
  readonly directory: string;
  readonly done: number;
  readonly skipped: number;
  readonly steps: number;
  readonly ms: number;
  readonly budgetMs: number;
}

/**
 * Run a runbook from its first step to its last. Every step is journalled, and the journal is on disk, before it is begun;
 * it is done when its verify says so, and not before.
 *
 * @throws OperatorError `refused` (nothing was done, or a step's condition does not hold), `failed` (a step), `usage` (an
 * answer is needed and nobody is there), `locked`, `interrupted`. Once a run has begun the hints say how to go on with it.
 */
export async function runRunbook({ runbook, world, set, from }: RunRequest): Promise<RunReport> {
  const first = firstStep(runbook, from);
  const values = effectiveValues(runbook, set, world.environment);
  refuseUnmet(runbook, world);
  await acknowledgeRole(runbook, world);
  const given = await givenValues(runbook, world, set, values);
  const lock = await lockRuns(world);
  try {
    refuseLeftAction(world);
    using running = begin(runbook, world, given);
    return await running.guarded(async () => {
      if (!(await running.prepare(values))) throw new OperatorError("refused", "nothing was done");
      return await running.steps(first);
    });
  } finally {
    await lock?.release();
  }
}

export interface ResumeRequest {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  readonly found: FoundRun;
}

/**
 * Go on with a run that was stopped, killed, or lost with its machine. What was begun is verified before it is run again, and
 * an action that is still at work is waited for.
 *
 * @throws OperatorError as `runRunbook`; `refused` when the runbook is no longer the one that was begun
 */
export async function resumeRun({ runbook, world, found }: ResumeRequest): Promise<RunReport> {
  refuseChanged(runbook, found);
  refuseEnded(found);
  refuseUnmet(runbook, world);
  const given = await givenValues(runbook, world, new Map(), journalledValues(found));
  const lock = await lockRuns(world);
  try {
    refuseRunner(found);
    using running = goOn(runbook, world, found, given);
    return await running.guarded(async () => {
      if (!found.journal.lines.some(({ event }) => event === "variables")) {
        await running.prepare(effectiveValues(runbook, new Map(), world.environment));
      }
      return await running.steps(0);
    });
  } finally {
    await lock?.release();
  }
}

function firstStep({ steps, name }: Runbook, from: string | null): number {
  if (from === null) return 0;
  const index = /^\d+$/.test(from) ? Number(from) - 1 : steps.findIndex((step) => step.name === from);
  if (index >= 0 && index < steps.length) return index;
  throw new OperatorError("usage", `${name} has no step ${from}`, {
    hints: steps.map((step, number) => `${number + 1}  ${step.name}`),
  });
}

function refuseUnmet(runbook: Runbook, world: RunWorld): void {
  const unmet = unmetRequirements(runbook, world);
  const [first] = unmet;
  if (first === undefined) return;
  throw new OperatorError("refused", `${runbook.name} can't be run here: ${unmet.map(({ fact }) => fact).join("; ")}`, {
    hints: [...new Set(unmet.map(({ remedy }) => remedy))],
  });
}

/** A takeover has no time for a configuration to be mended: who types the host's name knows where they are. */
async function acknowledgeRole(runbook: Runbook, world: RunWorld): Promise<void> {
  const why = wrongRole(runbook, world);
  if (why === null) return;
  const { people, host } = world;
  const said =
    people.answers.get("host") ?? (await people.ask({ text: `${why}\ntype ${host} to go on all the same: ` }));
  if (said?.trim() === host) return;
  throw new OperatorError("refused", why, {
    hints: [
      "run it on the host it is for",
      `or say that this is the one: type the name of this host, or give --answers FILE with host = "${host}" in it`,
    ],
  });
}

/** What blocks get of variables and secrets that were given a value. */
async function givenValues(
  runbook: Runbook,
  world: RunWorld,
  set: ReadonlyMap<string, string>,
  values: readonly EffectiveValue[],
): Promise<Map<string, string>> {
  const given = new Map<string, string>();
  for (const { name, value, origin } of values) {
    if (value !== null && origin !== "default") given.set(name, value);
  }
  const { environment, people } = world;
  const asked = await askSecrets(runbook.secrets, (name) => Boolean(set.get(name) || environment[name]), people);
  for (const name of runbook.secrets) {
    const value = set.get(name) || environment[name] || asked.get(name);
    if (value !== undefined && value !== "") given.set(name, value);
  }
  return given;
}

function secretsOf(runbook: Runbook, world: RunWorld, given: ReadonlyMap<string, string>): Secrets {
  return new Secrets(runbook.secrets, { ...world.environment, ...Object.fromEntries(given) });
}

function begin(runbook: Runbook, world: RunWorld, given: ReadonlyMap<string, string>): Running {
  const { places, clock, report } = world;
  const run = newRunName(clock.now());
  const { directory, failures } = makeRunDirectory(places, run);
  for (const text of failures) report({ type: "warning", text: `the run can't be kept there: ${text}` });
  if (directory !== null) writeFileAtomic(join(directory, "runbook.md"), runbook.text);
  return new Running({ runbook, world, run, directory, given, found: null });
}

function goOn(runbook: Runbook, world: RunWorld, found: FoundRun, given: ReadonlyMap<string, string>): Running {
  const { run, directory } = found;
  return new Running({ runbook, world, run, directory, given, found });
}

function refuseChanged(runbook: Runbook, { run, directory, progress }: FoundRun): void {
  if (progress.start.runbook.sha256 === runbook.sha256) return;
  throw new OperatorError("refused", `${runbook.name} has changed since the run ${run} began`, {
    hints: [
      `as it was then it is in ${join(directory, "runbook.md")}`,
      "begin again with the one there is now, at the step you are at: spoolsafe runbook run, with --from STEP",
    ],
  });
}

function refuseEnded({ run, progress }: FoundRun): void {
  if (progress.outcome === null) return;
  throw new OperatorError("refused", `the run ${run} is ${progress.outcome} already`, {
    hints: [`what it did: spoolsafe runbook report ${run}`],
  });
}

/** Its lock is no proof where there is no queue to lock. */
function refuseRunner({ run, progress }: FoundRun): void {
  const { runner } = progress;
  if (runner.pid === process.pid || runner.bootId !== currentBootId() || !isAlive(runner)) return;
  throw new OperatorError("locked", `the run ${run} is being worked at by process ${runner.pid}`);
}

/** The variables of a run as they were shown when it began, as if they had been given so. */
function journalledValues({ journal }: FoundRun): EffectiveValue[] {
  return journal.lines.flatMap((line) =>
    line.event === "variables"
      ? line.values.map(({ name, value }): EffectiveValue => ({ name, value, origin: "--set", computed: false }))
      : [],
  );
}

interface RunningParts {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  readonly run: string;
  /** Null: it can be kept nowhere. */
  readonly directory: string | null;
  readonly given: ReadonlyMap<string, string>;
  readonly found: FoundRun | null;
}

/** A run under way. */
class Running {
  readonly #parts: RunningParts;
  readonly #journal: Journal;
  readonly #execution: Execution;
  readonly #command: OwnCommand;
  readonly #dialogue: Dialogue;
  readonly #startedAt: number;

  constructor(parts: RunningParts) {
    const { runbook, world, run, directory, given, found } = parts;
    const { clock, report } = world;
    this.#parts = parts;
    const secrets = secretsOf(runbook, world, given);
    this.#journal = openJournal(parts, secrets);
    this.#command = placeOwnCommand(directory, world.command);
    if (this.#command.directory === null) {
      report({
        type: "warning",
        text: "no directory can be written from which programs may be run: blocks find the installed spoolsafe",
      });
    }
    this.#execution = new Execution({
      ...{ world, runbook, run, secrets, given, journal: this.#journal },
      directory: directory ?? tmpdir(),
      writable: directory !== null,
      bin: this.#command.directory,
    });
    this.#dialogue = new Dialogue({
      people: world.people,
      host: world.host,
      run,
      note: (text) => this.#journal.append({ event: "note", step: null, text, by: world.people.name }),
      showOutput: () => this.#showOutput(),
      tell: (text) => report({ type: "note", step: null, text }),
    });
    this.#startedAt = found === null ? clock.now() : Date.parse(found.progress.startedAt);
    report({ type: "run", run, runbook: runbook.name, directory: directory ?? "", resumed: found !== null });
  }

  [Symbol.dispose](): void {
    this.#execution[Symbol.dispose]();
    this.#journal.close();
    this.#command.remove();
  }

  /** Whatever ends it early is in the journal, and says how to go on. */
  async guarded(work: () => Promise<RunReport>): Promise<RunReport> {
    const { run } = this.#parts;
    try {
      return await work();
    } catch (error) {
      if (this.#nothingDone && this.#parts.directory !== null) {
        this.#journal.close();
        rmSync(this.#parts.directory, { recursive: true, force: true });
        throw error;
      }
      const reason = error instanceof Error ? error.message : String(error);
      this.#journal.append({ event: "run.stopped", reason });
      this.#journal.sync();
      if (!(error instanceof OperatorError)) throw error;
      const next = this.#journal.directory === null ? [] : [`go on with it: spoolsafe runbook resume ${run}`];
      throw new OperatorError(error.kind, error.message, { hints: [...error.hints, ...next], cause: error });
    }
  }

  get #nothingDone(): boolean {
    return !this.#journal.lines.some(({ event }) => event.startsWith("step.") || event === "run.resume");
  }

  /** The variables: computed, shown, confirmed. False: not confirmed. */
  async prepare(values: readonly EffectiveValue[]): Promise<boolean> {
    const { runbook, world } = this.#parts;
    if (runbook.vars !== null) {
      const result = await this.#execution.vars(runbook.vars);
      if (result.outcome !== "ok") {
        throw new OperatorError(
          "refused",
          `the variables can't be computed: ${failureOf(result, runbook.vars.timeoutMs)}`,
        );
      }
    }
    const shown = values.map(({ name, origin }) => this.#shown(name, origin));
    this.#journal.append({ event: "variables", values: shown });
    for (const each of shown) world.report({ type: "variable", ...each });
    if (runbook.steps.every((step) => confirmOf(step.action) === "no")) return true;
    return (await this.#dialogue.confirm(`run ${runbook.name} on ${world.host}?`, "start")) !== null;
  }

  #shown(name: string, origin: Origin): { name: string; value: string | null; origin: Origin } {
    const { runbook, given } = this.#parts;
    const value = this.#execution.exported.get(name) ?? given.get(name) ?? "";
    return { name, value: runbook.secrets.includes(name) ? null : value, origin };
  }

  async steps(first: number): Promise<RunReport> {
    const { runbook, world, found } = this.#parts;
    const usual = usualDurations(world.places, runbook.id);
    let [done, skipped] = [0, 0];
    for (const [index, step] of runbook.steps.entries()) {
      const left = found?.progress.steps.find(({ name }) => name === step.name);
      const count = { step: step.name, number: index + 1, of: runbook.steps.length };
      if (left?.state === "done" || left?.state === "skipped") {
        world.report({ type: "passed", ...count, state: left.state });
        if (left.state === "done") done += 1;
        else skipped += 1;
        continue;
      }
      if (index < first) {
        this.#skipped(step, `begun at step ${first + 1}, ${runbook.steps[first]?.name}`, world.people.name);
        skipped += 1;
        continue;
      }
      const { heading, prose, action } = step;
      world.report({
        ...{ type: "step", ...count, heading, prose, kind: action.kind, risk: action.risk, script: action.script },
        ...{ elapsedMs: this.#elapsed, budgetMs: runbook.rtoMs, usuallyMs: usual.get(step.name) ?? null },
      });
      takeNotes(this.#parts.directory, this.#journal);
      const state = await this.#step(step, left);
      if (state === "done") done += 1;
      else skipped += 1;
    }
    takeNotes(this.#parts.directory, this.#journal);
    this.#journal.append({ event: "run.end", outcome: "done", ms: this.#elapsed });
    this.#journal.sync();
    return { ...this.#facts, done, skipped };
  }

  get #facts() {
    const { run, directory, runbook } = this.#parts;
    return { run, directory: directory ?? "", steps: runbook.steps.length, ms: this.#elapsed, budgetMs: runbook.rtoMs };
  }

  get #elapsed(): number {
    return Math.max(0, Math.round(this.#parts.world.clock.now() - this.#startedAt));
  }

  async #step(step: Step, left: StepProgress | undefined): Promise<"done" | "skipped"> {
    const begun = this.#parts.world.clock.now();
    const done = (how: string) => this.#done(step, how, this.#parts.world.clock.now() - begun);
    this.#journal.append({ event: "step.offered", step: step.name });
    if (left?.ran && (await this.#holdsAlready(step, left)).ok) return done("verified after it was resumed");
    let failure: string | null = null;
    let agreed = false;
    for (;;) {
      const trouble: string | null = failure ?? (await this.#refusal(step));
      const again: boolean = agreed && trouble === null && confirmOf(step.action) !== "type";
      const choice: Choice = again ? { what: "run", how: this.#by } : await this.#choose(step, trouble);
      [failure, agreed] = [null, false];
      if (choice.what === "skip") return this.#skipped(step, choice.reason, choice.how);
      if (choice.what === "undo") await undoStep(step, this.#execution, this.#journal, this.#parts.world);
      // Its conditions are looked at again before it is run again.
      if (choice.what === "run" && trouble !== null) agreed = true;
      if (choice.what === "undo" || agreed) continue;
      const verdict: Verdict =
        choice.what === "verify" ? await this.#execution.verify(step, "all") : await this.#act(step, choice.how);
      if (verdict.ok) return done(choice.what === "verify" ? "verified" : "run");
      failure = `${step.name} is not done: ${verdict.problem}`;
      this.#failed(step, verdict.problem ?? "");
    }
  }

  /** Of a step that was begun before a stop: whether it turns out to be done. */
  async #holdsAlready(step: Step, left: StepProgress): Promise<Verdict> {
    const manual = step.action.kind === "manual";
    const action = manual || left.exited ? "unknown" : await this.#execution.settle(step, left);
    const verdict = await this.#execution.verify(step, action === "never-ran" || action === "failed" ? "once" : "all");
    const how = { "never-ran": "had not begun", failed: "had failed", "ended-well": "had ended", unknown: "was begun" }[
      action
    ];
    if (!verdict.ok) this.#tell(`${step.name} ${how} when the run stopped, and is not done`);
    return verdict;
  }

  /** Its conditions, in order: null when all of them hold, else why not. */
  async #refusal(step: Step): Promise<string | null> {
    for (const block of step.pre) {
      const reason = await this.#refusalBy(step, block);
      if (reason === null) continue;
      this.#journal.append({ event: "step.refused", step: step.name, block: block.name, reason });
      this.#parts.world.report({ type: "step-end", step: step.name, state: "refused", reason });
      return `${step.name} is refused by ${block.name}: ${reason}`;
    }
    return null;
  }

  async #refusalBy(step: Step, block: Block): Promise<string | null> {
    const { clock, report } = this.#parts.world;
    const deadline = clock.monotonic() + notYetMs;
    for (;;) {
      const result = await this.#execution.pre(step, block);
      this.#execution.throwIfStopped();
      if (result.outcome === "ok") return null;
      const reason = failureOf(result, block.timeoutMs);
      if (result.code === exitNotYet && clock.monotonic() < deadline) {
        report({ type: "waiting", step: step.name, block: block.name, reason: lastLine(result.output) });
        await this.#execution.sleep(notYetEveryMs);
      } else if (result.code === exitWarning) return await this.#warned(step, block, lastLine(result.output));
      else return reason;
    }
  }

  /** A condition that is no more than a warning holds once somebody has read it. */
  async #warned(step: Step, block: Block, text: string): Promise<string | null> {
    this.#parts.world.report({ type: "warning", text: `${block.name}: ${text}` });
    const by = await this.#dialogue.confirm(`${block.name} warns: ${text}. Go on?`, block.name);
    if (by === null) return `its warning was not accepted: ${text}`;
    this.#journal.append({ event: "warning", step: step.name, text, acknowledged: by });
    return null;
  }

  async #choose(step: Step, trouble: string | null): Promise<Choice> {
    const confirm = confirmOf(step.action);
    if (trouble !== null) return await this.#dialogue.choose({ step, confirm: "failed", because: trouble });
    if (confirm === "no") return { what: "run", how: "not asked" };
    return await this.#dialogue.choose({ step, confirm, because: null });
  }

  async #act(step: Step, how: string): Promise<Verdict> {
    const { world } = this.#parts;
    this.#journal.append({ event: "step.confirmed", step: step.name, by: this.#by, how });
    await world.hooks?.beforeAction?.(step, async () => (await this.#execution.verify(step, "once")).ok);
    if (step.action.kind === "manual") {
      this.#journal.append({ event: "step.started", step: step.name, ...ourProcess() });
      this.#journal.sync();
      return await this.#execution.verify(step, "all");
    }
    const result = await this.#execution.action(step);
    // A program may do its work and then fail, as postsuper(1) does when it can't write its log: verify decides.
    const verdict = await this.#execution.verify(step, result.outcome === "ok" ? "all" : "once");
    if (verdict.ok || result.outcome === "ok") return verdict;
    return { ok: false, problem: `${failureOf(result, step.action.timeoutMs)}; ${verdict.problem}` };
  }

  #done(step: Step, how: string, ms: number): "done" {
    this.#journal.append({ event: "step.done", step: step.name, how, ms });
    this.#journal.sync();
    this.#parts.world.report({ type: "step-end", step: step.name, state: "done", reason: how === "run" ? null : how });
    return "done";
  }

  #failed(step: Step, reason: string): void {
    this.#journal.append({ event: "step.failed", step: step.name, reason });
    this.#journal.sync();
    this.#parts.world.report({ type: "step-end", step: step.name, state: "failed", reason });
  }

  #skipped(step: Step, reason: string, by: string): "skipped" {
    this.#journal.append({ event: "step.skipped", step: step.name, reason, by });
    this.#journal.sync();
    this.#parts.world.report({ type: "step-end", step: step.name, state: "skipped", reason });
    return "skipped";
  }

  #showOutput(): void {
    const { directory } = this.#parts;
    const names = directory === null ? [] : readdirSync(directory).filter((name) => /^\d\d-.*\.(out|err)$/.test(name));
    for (const name of names.sort().slice(-4)) {
      const text = readFileSync(join(directory ?? "", name), "utf8").trimEnd();
      if (text !== "") this.#tell(`${name}:\n${text.split("\n").slice(-20).join("\n")}`);
    }
  }

  #tell(text: string): void {
    this.#parts.world.report({ type: "note", step: null, text });
  }

  get #by(): string {
    return this.#parts.world.people.name;
  }
}

/** sysexits(3): EX_TEMPFAIL. Of a condition: not yet, look again. */
const exitNotYet = 75;
/** Of a condition: a warning, to be acknowledged. */
const exitWarning = 2;
const notYetMs = 300_000;
const notYetEveryMs = 3000;

function lastLine(output: string): string {
  return output.trimEnd().split("\n").at(-1) ?? "";
}

export function ourProcess() {
  return { pid: process.pid, startTicks: processStart(process.pid) ?? "", bootId: currentBootId() };
}

function openJournal({ runbook, world, run, directory, found }: RunningParts, secrets: Secrets): Journal {
  const { places, clock, people, host, instance, version, report } = world;
  const elsewhere = places.map((place) => join(place, run));
  const home = found === null ? directory : dirname(found.journal.path);
  const directories = home === null ? [] : [home, ...elsewhere.slice(elsewhere.indexOf(home) + 1)];
  const options = {
    directories,
    secrets,
    now: () => clock.now(),
    warn: (text: string) => report({ type: "warning", text }),
  };
  const who = { user: people.name, sudoUser: people.sudoUser, terminal: people.terminal };
  if (found !== null) {
    const journal = Journal.resume(found.journal, options);
    journal.append({ event: "run.resume", ...who, ...ourProcess() });
    journal.sync();
    return journal;
  }
  const journal = new Journal(options);
  const { id, name, title, path, sha256, rtoMs } = runbook;
  journal.append({
    ...{ event: "run.start", run, runbook: { id, name, title, path, sha256 }, budget: rtoMs, tool: version },
    ...{ postfix: instance?.version ?? null, host },
    configDirectory: instance?.configDirectory ?? null,
    queueDirectory: instance?.queueDirectory ?? null,
    steps: runbook.steps.map((step) => ({ name: step.name, heading: step.heading })),
    ...who,
    ...ourProcess(),
  });
  journal.sync();
  return journal;
}
