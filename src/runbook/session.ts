import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { OperatorError } from "../errors.ts";
import { currentBootId } from "../holds/journal.ts";
import { isAlive } from "../jobs/record.ts";
import { processStart } from "../system/processes.ts";
import { askSecrets, askValue, Dialogue } from "./dialogue.ts";
import { Execution } from "./execution.ts";
import { Journal } from "./journal.ts";
import { type OwnCommand, placeOwnCommand } from "./own-command.ts";
import { unmetRequirements, wrongRole } from "./requirements.ts";
import { type FoundRun, makeRunDirectory, newRunName, workplaceIn } from "./run-directory.ts";
import type { Runbook } from "./runbook.ts";
import { Secrets } from "./secrets.ts";
import type { EffectiveValue } from "./values.ts";
import type { RunWorld } from "./world.ts";

export function refuseUnmet(runbook: Runbook, world: RunWorld): void {
  const unmet = unmetRequirements(runbook, world);
  const [first] = unmet;
  if (first === undefined) return;
  throw new OperatorError("refused", `${runbook.name} can't be run here: ${unmet.map(({ fact }) => fact).join("; ")}`, {
    hints: [...new Set(unmet.map(({ remedy }) => remedy))],
  });
}

/** A takeover has no time for a configuration to be mended: who types the host's name knows where they are. */
export async function acknowledgeRole(runbook: Runbook, world: RunWorld): Promise<void> {
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
export async function givenValues(
  runbook: Runbook,
  world: RunWorld,
  set: ReadonlyMap<string, string>,
  values: readonly EffectiveValue[],
): Promise<Map<string, string>> {
  const given = new Map<string, string>();
  for (const { name, value, origin } of values) {
    if (value !== null && origin !== "default") given.set(name, value);
    // An empty default means that somebody has to say.
    else if (value === "") given.set(name, await askValue(name, world.people));
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

/** @param from index of the step to begin with */
export function beginSession(
  runbook: Runbook,
  world: RunWorld,
  given: ReadonlyMap<string, string>,
  from: number,
): RunSession {
  const { places, clock, report } = world;
  const run = newRunName(clock.now());
  const { directory, failures } = makeRunDirectory(places, run, runbook.text);
  for (const text of failures) report({ type: "warning", text: `the run can't be kept there: ${text}` });
  return new RunSession({ runbook, world, run, directory, given, from, found: null });
}

export function resumeSession(
  runbook: Runbook,
  world: RunWorld,
  found: FoundRun,
  given: ReadonlyMap<string, string>,
): RunSession {
  const { run, directory } = found;
  return new RunSession({ runbook, world, run, directory, given, from: 0, found });
}

export function refuseChanged(runbook: Runbook, { run, directory, progress }: FoundRun): void {
  if (progress.start.runbook.sha256 === runbook.sha256) return;
  throw new OperatorError("refused", `${runbook.name} has changed since the run ${run} began`, {
    hints: [
      `as it was then it is in ${join(directory, "runbook.md")}`,
      "begin again with the one there is now, at the step you are at: spoolsafe runbook run, with --from STEP",
    ],
  });
}

export function refuseEnded({ run, progress }: FoundRun): void {
  if (progress.outcome === null) return;
  throw new OperatorError("refused", `the run ${run} is ${progress.outcome} already`, {
    hints: [`what it did: spoolsafe runbook report ${run}`],
  });
}

/**
 * A run whose process ended before its first step: its beginning was perhaps never agreed to, and its values may not be in the
 * journal.
 */
export function refuseUnbegun({ run, progress, journal }: FoundRun): void {
  if (journal.lines.some(({ event }) => event.startsWith("step."))) return;
  throw new OperatorError("refused", `nothing of the run ${run} was begun: there is nothing to go on with`, {
    hints: [`begin it anew: spoolsafe runbook run ${progress.start.runbook.name}`],
  });
}

/** Its lock is no proof where there is no queue to lock. */
export function refuseRunner({ run, progress, journal }: FoundRun): void {
  const { runner } = progress;
  const last = journal.lines.at(-1)?.event;
  if (last === "run.stopped" || last === "run.end") return;
  if (runner.pid === process.pid || runner.bootId !== currentBootId() || !isAlive(runner)) return;
  throw new OperatorError("locked", `the run ${run} is being worked at by process ${runner.pid}`);
}

/** The variables of a run as they were shown when it began, as if they had been given so. */
export function journalledValues({ journal }: FoundRun): EffectiveValue[] {
  return journal.lines.flatMap((line) =>
    line.event === "variables"
      ? line.values.map(({ name, value }): EffectiveValue => ({ name, value, origin: "--set", computed: false }))
      : [],
  );
}

export interface SessionParts {
  readonly runbook: Runbook;
  readonly world: RunWorld;
  readonly run: string;
  /** Null: it can be kept nowhere. */
  readonly directory: string | null;
  readonly given: ReadonlyMap<string, string>;
  /** Index of the step that a new run begins with. */
  readonly from: number;
  readonly found: FoundRun | null;
}

/** Of a run that is kept nowhere, a directory for this process alone. */
function workplaceOf(directory: string | null): string {
  const kept = directory === null ? undefined : workplaceIn(directory);
  return kept !== undefined && existsSync(kept) ? kept : mkdtempSync(join(tmpdir(), "spoolsafe-run-"));
}

/** A process at work on a run, from its beginning or again: the journal, the blocks, the people. */
export class RunSession {
  readonly parts: SessionParts;
  readonly journal: Journal;
  readonly execution: Execution;
  readonly #command: OwnCommand;
  readonly #workplace: string;
  readonly dialogue: Dialogue;
  readonly #startedAt: number;

  constructor(parts: SessionParts) {
    const { runbook, world, run, directory, given, found } = parts;
    const { clock, report } = world;
    this.parts = parts;
    const secrets = secretsOf(runbook, world, given);
    this.journal = openJournal(parts, secrets);
    this.#command = placeOwnCommand(directory, world.command);
    if (this.#command.directory === null) {
      report({
        type: "warning",
        text: "no directory can be written from which programs may be run: blocks find the installed spoolsafe",
      });
    }
    this.#workplace = workplaceOf(directory);
    this.execution = new Execution({
      ...{ world, runbook, run, secrets, given, journal: this.journal },
      directory: directory ?? tmpdir(),
      writable: directory !== null,
      workplace: this.#workplace,
      bin: this.#command.directory,
    });
    this.dialogue = new Dialogue({
      people: world.people,
      host: world.host,
      run,
      note: (text) => this.journal.append({ event: "note", step: null, text, by: world.people.name }),
      showOutput: () => this.#showOutput(),
      tell: (text) => report({ type: "note", step: null, text }),
    });
    this.#startedAt = found === null ? clock.now() : Date.parse(found.progress.startedAt);
    const { name, title, when, impact, never } = runbook;
    const told = { runbook: name, title, when, impact, never, directory: directory ?? "" };
    report({ type: "run", run, ...told, resumed: found !== null });
  }

  [Symbol.dispose](): void {
    this.execution[Symbol.dispose]();
    this.journal.close();
    this.#command.remove();
    // Nobody can go on with it, so nobody needs what its blocks wrote.
    if (this.parts.directory === null) rmSync(this.#workplace, { recursive: true, force: true });
  }

  /** Whatever ends it early is in the journal, and says how to go on. */
  async guarded<T>(work: () => Promise<T>): Promise<T> {
    const { run } = this.parts;
    try {
      return await work();
    } catch (error) {
      if (this.#nothingDone && this.parts.directory !== null) {
        this.journal.close();
        rmSync(this.parts.directory, { recursive: true, force: true });
        throw error;
      }
      const reason = error instanceof Error ? error.message : String(error);
      this.journal.append({ event: "run.stopped", reason });
      this.journal.sync();
      if (!(error instanceof OperatorError)) throw error;
      const next =
        this.journal.directory === null
          ? "this run was kept nowhere and can't be resumed: begin again at the step you are at, with --from STEP"
          : `go on with it: spoolsafe runbook resume ${run}`;
      throw new OperatorError(error.kind, error.message, { hints: [...error.hints, next], cause: error });
    }
  }

  get #nothingDone(): boolean {
    return !this.journal.lines.some(({ event }) => event.startsWith("step.") || event === "run.resume");
  }

  /** Milliseconds since the run began, stops included. */
  get elapsed(): number {
    return Math.max(0, Math.round(this.parts.world.clock.now() - this.#startedAt));
  }

  /** Who is at work. */
  get by(): string {
    return this.parts.world.people.name;
  }

  tell(text: string): void {
    this.parts.world.report({ type: "note", step: null, text });
  }

  #showOutput(): void {
    const { directory } = this.parts;
    const names = directory === null ? [] : readdirSync(directory).filter((name) => /^\d\d-.*\.(out|err)$/.test(name));
    for (const name of names.sort().slice(-4)) {
      const text = readFileSync(join(directory ?? "", name), "utf8").trimEnd();
      if (text !== "") this.tell(`${name}:\n${text.split("\n").slice(-20).join("\n")}`);
    }
  }
}

export function ourProcess() {
  return { pid: process.pid, startTicks: processStart(process.pid) ?? "", bootId: currentBootId() };
}

function openJournal({ runbook, world, run, directory, from, found }: SessionParts, secrets: Secrets): Journal {
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
  const who = { user: people.account, sudoUser: people.sudoUser, terminal: people.terminal };
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
    from,
    ...who,
    ...ourProcess(),
  });
  journal.sync();
  return journal;
}
