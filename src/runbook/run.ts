import { OperatorError } from "../errors.ts";
import type { Choice } from "./dialogue.ts";
import { failureOf, type Verdict } from "./execution.ts";
import { takeNotes } from "./notes.ts";
import type { StepProgress } from "./progress.ts";
import { loadRun } from "./run-directory.ts";
import { lockRuns, refuseLeftAction } from "./run-lock.ts";
import type { Block, Runbook, Step } from "./runbook.ts";
import {
  acknowledgeRole,
  beginSession,
  givenValues,
  journalledValues,
  ourProcess,
  type RunSession,
  refuseChanged,
  refuseEnded,
  refuseRunner,
  refuseUnbegun,
  refuseUnmet,
  resumeSession,
} from "./session.ts";
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
    using session = beginSession(runbook, world, given, first);
    return await session.guarded(async () => {
      const running = new Running(session);
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
  /** Its whole name. */
  readonly run: string;
}

/**
 * Go on with a run that was stopped, killed, or lost with its machine. What was begun is verified before it is run again, and
 * an action that is still at work is waited for.
 *
 * @throws OperatorError as `runRunbook`; `refused` when the runbook is no longer the one that was begun, or
 * when nothing of it was begun
 */
export async function resumeRun({ runbook, world, run }: ResumeRequest): Promise<RunReport> {
  refuseUnmet(runbook, world);
  const given = await givenValues(runbook, world, new Map(), journalledValues(loadRun(world.places, run)));
  const lock = await lockRuns(world);
  try {
    // Read now, when nobody else writes it.
    const found = loadRun(world.places, run);
    refuseChanged(runbook, found);
    refuseEnded(found);
    refuseRunner(found);
    refuseUnbegun(found);
    using session = resumeSession(runbook, world, found, given);
    return await session.guarded(async () => await new Running(session).steps(found.progress.start.from ?? 0));
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

/** The steps of a run under way. */
class Running {
  readonly #session: RunSession;

  constructor(session: RunSession) {
    this.#session = session;
  }

  /** The variables: computed, shown, confirmed. False: not confirmed. */
  async prepare(values: readonly EffectiveValue[]): Promise<boolean> {
    const { runbook, world } = this.#session.parts;
    if (runbook.vars !== null) {
      const result = await this.#session.execution.vars(runbook.vars);
      if (result.outcome !== "ok") {
        throw new OperatorError(
          "refused",
          `the variables can't be computed: ${failureOf(result, runbook.vars.timeoutMs)}`,
        );
      }
    }
    const shown = values.map(({ name, value, origin }) => this.#shown(name, value === "" ? "asked" : origin));
    this.#session.journal.append({ event: "variables", values: shown });
    for (const each of shown) world.report({ type: "variable", ...each });
    if (runbook.steps.every((step) => confirmOf(step.action) === "no")) return true;
    // Under the runbook's own name: steps are called `start` and the like, and an answer for one of them is none for this.
    return (await this.#session.dialogue.confirm(`run ${runbook.name} on ${world.host}?`, runbook.name)) !== null;
  }

  #shown(name: string, origin: Origin | "asked") {
    const { runbook, given } = this.#session.parts;
    const value = this.#session.execution.exported.get(name) ?? given.get(name) ?? "";
    return { name, value: runbook.secrets.includes(name) ? null : value, origin };
  }

  async steps(first: number): Promise<RunReport> {
    const { runbook, world, found } = this.#session.parts;
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
        ...{ elapsedMs: this.#session.elapsed, budgetMs: runbook.rtoMs, usuallyMs: usual.get(step.name) ?? null },
      });
      takeNotes(this.#session.parts.directory, this.#session.journal);
      const state = await this.#step(step, left);
      if (state === "done") done += 1;
      else skipped += 1;
    }
    takeNotes(this.#session.parts.directory, this.#session.journal);
    this.#session.journal.append({ event: "run.end", outcome: "done", ms: this.#session.elapsed });
    this.#session.journal.sync();
    return { ...this.#facts, done, skipped };
  }

  get #facts() {
    const { run, directory, runbook } = this.#session.parts;
    return {
      run,
      directory: directory ?? "",
      steps: runbook.steps.length,
      ms: this.#session.elapsed,
      budgetMs: runbook.rtoMs,
    };
  }

  async #step(step: Step, left: StepProgress | undefined): Promise<"done" | "skipped"> {
    const begun = this.#session.parts.world.clock.now();
    const done = (how: string) => this.#done(step, how, this.#session.parts.world.clock.now() - begun);
    this.#session.journal.append({ event: "step.offered", step: step.name });
    if (left?.ran && (await this.#holdsAlready(step, left))) return done("verified after it was resumed");
    let failure: string | null = null;
    let agreed = false;
    for (;;) {
      const trouble: string | null = failure ?? (await this.#refusal(step));
      const again: boolean = agreed && trouble === null && confirmOf(step.action) !== "type";
      const choice: Choice = again ? { what: "run", how: this.#session.by } : await this.#choose(step, trouble);
      [failure, agreed] = [null, false];
      if (choice.what === "skip") return this.#skipped(step, choice.reason, choice.how);
      // Whoever takes a step back decides what becomes of it: it is not begun again by --yes, or for want of a question.
      if (choice.what === "undo") failure = await this.#undo(step);
      // Its conditions are looked at again before it is run again.
      if (choice.what === "run" && trouble !== null) agreed = true;
      if (choice.what === "undo" || agreed) continue;
      const verdict: Verdict =
        choice.what === "verify"
          ? await this.#session.execution.verify(step, "all")
          : await this.#act(step, choice.how);
      if (verdict.ok) return done(choice.what === "verify" ? "verified" : "run");
      failure = `${step.name} is not done: ${verdict.problem}`;
      this.#failed(step, verdict.problem ?? "");
    }
  }

  /**
   * Of a step that was begun before a stop: whether it turns out to be done. One that was never let go, and one that only reads,
   * are run like any other: their verify may hold without them, and a later step may need what they export.
   */
  async #holdsAlready(step: Step, left: StepProgress): Promise<boolean> {
    await this.#session.execution.settleUndo(step, left);
    const manual = step.action.kind === "manual";
    const action = manual || left.exited ? "unknown" : await this.#session.execution.settle(step, left);
    if (action === "never-ran" || step.action.risk === "read") return false;
    const { ok } = await this.#session.execution.verify(step, action === "failed" ? "once" : "all");
    const how = { failed: "had failed", "ended-well": "had ended", unknown: "was begun" }[action];
    if (!ok) this.#session.tell(`${step.name} ${how} when the run stopped, and is not done`);
    return ok;
  }

  /** @returns what is to be said when it is asked what now */
  async #undo(step: Step): Promise<string> {
    const { execution, journal, dialogue, parts } = this.#session;
    const kept = `${step.name} is not undone`;
    if (step.undo === null) return kept;
    const typed = confirmOf(step.undo) === "type";
    if (typed && (await dialogue.confirmTyped(`undo ${step.name}?`, step.undo.name)) === null) return kept;
    const reason = await undoStep(step, execution, journal, parts.world);
    return reason === null ? `${step.name} is undone` : `${kept}: ${reason}`;
  }

  /** Its conditions, in order: null when all of them hold, else why not. */
  async #refusal(step: Step): Promise<string | null> {
    for (const block of step.pre) {
      const reason = await this.#refusalBy(step, block);
      if (reason === null) continue;
      this.#session.journal.append({ event: "step.refused", step: step.name, block: block.name, reason });
      this.#session.parts.world.report({ type: "step-end", step: step.name, state: "refused", reason });
      return `${step.name} is refused by ${block.name}: ${reason}`;
    }
    return null;
  }

  async #refusalBy(step: Step, block: Block): Promise<string | null> {
    const { clock, report } = this.#session.parts.world;
    // Without a word on it in the fence: as often as fits into five minutes.
    const tries = block.retry > 1 ? block.retry : Number.POSITIVE_INFINITY;
    const deadline = clock.monotonic() + (block.retry > 1 ? Number.POSITIVE_INFINITY : notYetMs);
    for (let attempt = 1; ; attempt++) {
      const result = await this.#session.execution.pre(step, block);
      this.#session.execution.throwIfStopped();
      if (result.outcome === "ok") return null;
      const reason = failureOf(result, block.timeoutMs);
      if (result.code === exitNotYet && attempt < tries && clock.monotonic() < deadline) {
        report({ type: "waiting", step: step.name, block: block.name, reason: lastLine(result.output) });
        await this.#session.execution.sleep(block.everyMs);
      } else if (result.code === exitWarning) return await this.#warned(step, block, lastLine(result.output));
      else return reason;
    }
  }

  /** A condition that is no more than a warning holds once somebody has read it. */
  async #warned(step: Step, block: Block, text: string): Promise<string | null> {
    this.#session.parts.world.report({ type: "warning", text: `${block.name}: ${text}` });
    const by = await this.#session.dialogue.confirm(`${block.name} warns: ${text}. Go on?`, block.name);
    if (by === null) return `its warning was not accepted: ${text}`;
    this.#session.journal.append({ event: "warning", step: step.name, text, acknowledged: by });
    return null;
  }

  async #choose(step: Step, trouble: string | null): Promise<Choice> {
    const confirm = confirmOf(step.action);
    if (trouble !== null) return await this.#session.dialogue.choose({ step, confirm: "failed", because: trouble });
    if (confirm === "no") return { what: "run", how: "not asked" };
    return await this.#session.dialogue.choose({ step, confirm, because: null });
  }

  async #act(step: Step, how: string): Promise<Verdict> {
    const { world } = this.#session.parts;
    this.#session.journal.append({ event: "step.confirmed", step: step.name, by: this.#session.by, how });
    await world.hooks?.beforeAction?.(step, async () => (await this.#session.execution.verify(step, "once")).ok);
    if (step.action.kind === "manual") {
      this.#session.journal.append({ event: "step.started", step: step.name, ...ourProcess() });
      this.#session.journal.sync();
      return await this.#session.execution.verify(step, "all");
    }
    const result = await this.#session.execution.action(step);
    // A program may do its work and then fail, as postsuper(1) does when it can't write its log: verify decides.
    const verdict = await this.#session.execution.verify(step, result.outcome === "ok" ? "all" : "once");
    if (verdict.ok || result.outcome === "ok") return verdict;
    return { ok: false, problem: `${failureOf(result, step.action.timeoutMs)}; ${verdict.problem}` };
  }

  #done(step: Step, how: string, ms: number): "done" {
    this.#session.journal.append({ event: "step.done", step: step.name, how, ms });
    this.#session.journal.sync();
    this.#session.parts.world.report({
      type: "step-end",
      step: step.name,
      state: "done",
      reason: how === "run" ? null : how,
    });
    return "done";
  }

  #failed(step: Step, reason: string): void {
    this.#session.journal.append({ event: "step.failed", step: step.name, reason });
    this.#session.journal.sync();
    this.#session.parts.world.report({ type: "step-end", step: step.name, state: "failed", reason });
  }

  #skipped(step: Step, reason: string, by: string): "skipped" {
    this.#session.journal.append({ event: "step.skipped", step: step.name, reason, by });
    this.#session.journal.sync();
    this.#session.parts.world.report({ type: "step-end", step: step.name, state: "skipped", reason });
    return "skipped";
  }
}

/** sysexits(3): EX_TEMPFAIL. Of a condition: not yet, look again. */
const exitNotYet = 75;
/** Of a condition: a warning, to be acknowledged. */
const exitWarning = 2;
const notYetMs = 300_000;

function lastLine(output: string): string {
  return output.trimEnd().split("\n").at(-1) ?? "";
}
