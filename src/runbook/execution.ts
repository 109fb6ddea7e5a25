import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, OperatorError } from "../errors.ts";
import { currentBootId } from "../holds/journal.ts";
import { isAlive, type JobProcess } from "../jobs/record.ts";
import {
  type BlockFiles,
  type BlockJob,
  type BlockResult,
  blockFiles,
  endSession,
  readEnvironment,
  type StartedBlock,
  startBlock,
  wasLetGo,
} from "./block.ts";
import { blockEnvironment } from "./environment.ts";
import { compareOutput } from "./expect.ts";
import type { Journal } from "./journal.ts";
import type { StepProgress } from "./progress.ts";
import type { Block, Runbook, Step } from "./runbook.ts";
import type { Secrets } from "./secrets.ts";
import type { RunWorld } from "./world.ts";

export interface ExecutionParts {
  readonly world: RunWorld;
  readonly runbook: Runbook;
  readonly run: string;
  /** Of the run: what is kept of its blocks. */
  readonly directory: string;
  /** Whether anything can be written there. */
  readonly writable: boolean;
  /** Where blocks work: theirs alone, and empty at the start. */
  readonly workplace: string;
  readonly bin: string | null;
  readonly journal: Journal | null;
  readonly secrets: Secrets;
  /** Values of variables and secrets, by name. */
  readonly given: ReadonlyMap<string, string>;
}

/** What became of a step's verify. */
export interface Verdict {
  readonly ok: boolean;
  /** What is wrong; null when nothing is. */
  readonly problem: string | null;
}

/** What is known of an action whose runner died. */
export type LeftAction = "never-ran" | "failed" | "ended-well" | "unknown";

/**
 * Executes the blocks of one run, journals what it did, and carries what they export from one to the next. Knows when a
 * person wants it to stop, and which processes may then be ended: never those of an action that can't be taken back.
 */
export class Execution {
  readonly parts: ExecutionParts;
  #carried: ReadonlyMap<string, string> = new Map();
  #current: { readonly started: StartedBlock; readonly mayEnd: boolean; readonly mayKill: boolean } | undefined;
  #question: AbortController | undefined;
  readonly #stop = new AbortController();
  readonly #forget: () => void;

  constructor(parts: ExecutionParts) {
    this.parts = parts;
    const { people } = parts.world;
    const forget = people.onInterrupt(() => void this.#interrupted());
    const windUp = () => this.stopWith(new OperatorError("interrupted", "ended by SIGTERM"));
    people.terminated.addEventListener("abort", windUp, { once: true });
    this.#forget = () => {
      forget();
      people.terminated.removeEventListener("abort", windUp);
    };
    if (people.terminated.aborted) windUp();
    // Where a run has no directory of its own, its place is /tmp, and a file there may be anybody's.
    if (parts.writable) this.#carried = readEnvironment(this.#environmentFile)?.variables ?? new Map();
  }

  [Symbol.dispose](): void {
    this.#forget();
  }

  /** What the blocks so far have exported. */
  get exported(): ReadonlyMap<string, string> {
    return this.#carried;
  }

  /** @throws OperatorError the reason, when a person or a signal has asked to stop */
  throwIfStopped(): void {
    if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
  }

  /** Nothing new is begun; what only looks is ended, an action is left to its end. */
  stopWith(reason: OperatorError): void {
    this.#stop.abort(reason);
    if (this.#current?.mayEnd === true) this.#current.started.end();
  }

  async sleep(ms: number): Promise<void> {
    await this.parts.world.clock.sleep(ms, this.#stop.signal).catch(() => {});
    this.throwIfStopped();
  }

  /** The block of the variables, which belongs to no step. */
  async vars(block: Block): Promise<BlockResult> {
    return await this.#block(null, block);
  }

  async pre(step: Step, block: Block): Promise<BlockResult> {
    return await this.#block(step, block);
  }

  /** The action; it is on disk that it starts, and as which process, before any of it is executed. */
  async action(step: Step): Promise<BlockResult> {
    const { journal, world } = this.parts;
    const result = await this.#block(step, step.action, async (process) => {
      journal?.append({ event: "step.started", step: step.name, ...process, bootId: currentBootId() });
      journal?.sync();
      await world.hooks?.reached?.("started", step);
    });
    await world.hooks?.reached?.("exited", step);
    return result;
  }

  async undo(step: Step, block: Block): Promise<BlockResult> {
    const { journal } = this.parts;
    return await this.#block(step, block, async (process) => {
      journal?.append({ event: "undo.started", step: step.name, ...process, bootId: currentBootId() });
      journal?.sync();
    });
  }

  /**
   * Whether the step's verify holds: every block of it, in order.
   *
   * @param tries `all`: as often as each block says; `once`
   */
  async verify(step: Step, tries: "all" | "once"): Promise<Verdict> {
    const { journal, world } = this.parts;
    for (const block of step.verify) {
      const most = tries === "all" ? Math.max(1, block.retry) : 1;
      for (let attempt = 1; ; attempt++) {
        const result = await this.#block(step, block);
        const problem = problemOf(block, result);
        this.throwIfStopped();
        if (problem !== null && attempt < most) {
          world.report({
            type: "waiting",
            step: step.name,
            block: block.name,
            reason: `${attempt} of ${most}: ${problem}`,
          });
          await this.sleep(block.everyMs);
          continue;
        }
        const verdict = { ok: problem === null, attempts: attempt };
        world.report({ type: "verify", step: step.name, block: block.name, ...verdict, problem });
        journal?.append({
          event: "verify",
          step: step.name,
          block: block.name,
          ...verdict,
          got: problem,
          ...facts(result),
        });
        if (problem !== null) return { ok: false, problem: `${block.name}: ${problem}` };
        break;
      }
    }
    await world.hooks?.reached?.("verified", step);
    return { ok: true, problem: null };
  }

  /**
   * Wait for an action whose runner died, and end it when its time is over. What it exported is taken over if it ended well.
   */
  async settle(step: Step, left: StepProgress): Promise<LeftAction> {
    const { directory, journal } = this.parts;
    const files = [directory, ...(journal?.otherDirectories ?? [])]
      .map((home) => blockFiles(this.#stem(step, step.action, home)))
      .find(({ waiting, output }) => existsSync(waiting) || existsSync(output));
    const process = left.process !== null && left.process.bootId === currentBootId() ? left.process : null;
    if (process !== null && isAlive(process)) {
      if (wasLetGo(process)) await this.#waitFor(step.action, process, left.startedAt);
      else await endSession(process.pid, 1000);
    }
    if (files === undefined) return "unknown";
    // After a boot nobody knows what of a directory's last moments has come to the disk.
    if (process !== null && existsSync(files.waiting)) return "never-ran";
    const environment = readEnvironment(files.environment);
    if (environment === undefined) return "unknown";
    if (environment.code !== 0) return "failed";
    this.#carry(files);
    return "ended-well";
  }

  /** Wait for an undo whose runner died: what it takes back must not be taken back by two at a time. */
  async settleUndo(step: Step, left: StepProgress): Promise<void> {
    const process = left.undoing;
    if (step.undo === null || process === null || process.bootId !== currentBootId() || !isAlive(process)) return;
    await this.#waitFor(step.undo, process, left.startedAt);
  }

  async #waitFor(block: Block, process: JobProcess, startedAt: string | null): Promise<void> {
    const { world } = this.parts;
    const { clock } = world;
    const text = `${block.name} is still at work (process ${process.pid}): waiting for its end`;
    world.report({ type: "warning", text });
    const deadline = Date.parse(startedAt ?? "") + block.timeoutMs;
    while (isAlive(process)) {
      this.throwIfStopped();
      if (clock.now() > deadline) {
        world.report({ type: "warning", text: `the time of ${block.name} is over: ending it` });
        await endSession(process.pid, 10_000);
      } else await delay(100);
    }
  }

  async #block(
    step: Step | null,
    block: Block,
    beforeIt: (process: JobProcess) => Promise<void> = async () => {},
  ): Promise<BlockResult> {
    const { world, journal } = this.parts;
    const of = { step: step?.name ?? null, block: block.name, kind: block.kind };
    this.throwIfStopped();
    world.report({ type: "block", ...of });
    const { started, files } = this.#start(step, block, (text) => world.report({ type: "output", ...of, text }));
    await beforeIt(started.process);
    const looks = block.kind !== "do" && block.kind !== "undo";
    this.#current = {
      started,
      mayEnd: looks || block.risk === "read",
      mayKill: looks || block.risk !== "destructive",
    };
    started.go();
    if (block === step?.action) await world.hooks?.reached?.("let-go", step);
    const result = await started.ended;
    this.#current = undefined;
    this.#question?.abort();
    const { outcome, code, ms } = result;
    world.report({ type: "block-end", ...of, outcome, code, ms });
    if (files === null && outcome === "ok") this.#carried = result.environment ?? this.#carried;
    if (files !== null && outcome === "ok") this.#carry(files);
    if (block === step?.action) journal?.append({ event: "step.exit", step: step.name, ...facts(result) });
    else if (block.kind !== "verify") journal?.append({ event: "block", ...of, ...facts(result) });
    if (block.kind !== "do" && files !== null) rmSync(files.environment, { force: true });
    return result;
  }

  /** With its files in the run's directory; where they can't be made, in the next, and at last with none. */
  #start(
    step: Step | null,
    block: Block,
    onOutput: (text: string) => void,
  ): { started: StartedBlock; files: BlockFiles | null } {
    const { world, runbook, run, directory, workplace, bin, given, secrets, journal } = this.parts;
    const place = { run, runbook, step: step?.name ?? block.name, directory: workplace, bin };
    const job: Omit<BlockJob, "files"> = {
      ...{ script: block.script, name: block.name, directory: workplace, secrets, onOutput },
      env: blockEnvironment(world, place, given, this.#carried),
      apart: block.expect !== null,
      timeoutMs: block.timeoutMs,
    };
    const homes = [...(this.parts.writable ? [directory] : []), ...(journal?.otherDirectories ?? [])];
    for (const home of homes) {
      const files = blockFiles(this.#stem(step, block, home));
      try {
        mkdirSync(home, { recursive: true, mode: 0o700 });
        return { started: startBlock({ ...job, files }), files };
      } catch (error) {
        if (error instanceof OperatorError) throw error;
        world.report({
          type: "warning",
          text: `what ${block.name} says can't be kept in ${home}: ${errnoOf(error) ?? error}`,
        });
      }
    }
    return { started: startBlock({ ...job, files: null }), files: null };
  }

  #carry(files: BlockFiles): void {
    const left = readEnvironment(files.environment);
    if (left === undefined) return;
    this.#carried = left.variables;
    try {
      renameSync(files.environment, this.#environmentFile);
    } catch (error) {
      this.parts.world.report({
        type: "warning",
        text: `what was exported can't be kept for a resume: ${errnoOf(error) ?? String(error)}`,
      });
    }
  }

  get #environmentFile(): string {
    return join(this.parts.directory, "environment");
  }

  /** `03-release`: blocks of one step stand together. */
  #stem(step: Step | null, block: Block, home: string = this.parts.directory): string {
    const number = step === null ? 0 : this.parts.runbook.steps.indexOf(step) + 1;
    return join(home, `${String(number).padStart(2, "0")}-${block.name}`);
  }

  /** Ctrl-C. */
  async #interrupted(): Promise<void> {
    if (this.#question !== undefined) return;
    const { people } = this.parts.world;
    const reason = new OperatorError("interrupted", "interrupted by SIGINT");
    const kill = this.#current?.mayKill === true ? ", [k]ill it now" : "";
    this.#question = new AbortController();
    const text = `[w]ait for it, [a]bort after it${kill}? `;
    const said = await people.ask({ text, signal: this.#question.signal });
    const overtaken = this.#question.signal.aborted;
    this.#question = undefined;
    // A terminal that was lost meanwhile is no word to stop; where there never was one, the signal is all there is to say.
    if (said === null && !overtaken && people.terminal === null) return this.stopWith(reason);
    const word = (said ?? "").trim().toLowerCase();
    if (word === "k" && kill !== "") this.#current?.started.end();
    if (word === "k" || word === "a" || said === "interrupt") this.#stop.abort(reason);
  }
}

function facts({ outcome, code, signal, ms, sha256 }: BlockResult) {
  return { outcome, code, signal, ms, output: sha256 };
}

/** What is wrong with what a verify gave; null: it holds. */
function problemOf(block: Block, result: BlockResult): string | null {
  if (result.outcome !== "ok") return failureOf(result, block.timeoutMs);
  if (block.expect === null) return null;
  const difference = compareOutput(block.expect, result.output);
  return difference === null ? null : `its output is not as expected:\n${difference}`;
}

/** How a block failed, with the last line it said. */
export function failureOf({ outcome, code, signal, output }: BlockResult, timeoutMs: number): string {
  const last = output.trimEnd().split("\n").at(-1) ?? "";
  const how =
    outcome === "timeout"
      ? `it did not end within ${timeoutMs / 1000} s, and was ended`
      : outcome === "killed"
        ? `it was ended by ${signal ?? "a signal"}`
        : `exit code ${code}`;
  return last === "" ? how : `${how}: ${last}`;
}
