import { spawn } from "node:child_process";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect } from "vitest";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { packagedRunbooks } from "../../src/runbook/catalogue.ts";
import { journalFile, readJournal } from "../../src/runbook/journal.ts";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { type RunStory, storyMarkdown, storyOf } from "../../src/runbook/report.ts";
import { type RunReport, resumeRun, runRunbook } from "../../src/runbook/run.ts";
import { type FoundRun, loadRun, runNames } from "../../src/runbook/run-directory.ts";
import type { Runbook } from "../../src/runbook/runbook.ts";
import { undoRun } from "../../src/runbook/undo-run.ts";
import type { Question, RunEvent, RunWorld } from "../../src/runbook/world.ts";
import { systemClock } from "../../src/system/clock.ts";
import { builtProgram } from "./cli.ts";
import { needs } from "./needs.ts";
import { type PrivatePostfix, userId } from "./postfix.ts";
import type { Random } from "./random.ts";
import { destroyScratch, makeScratch } from "./scratch.ts";
import type { Sink } from "./sink.ts";
import type { Letter } from "./smtp.ts";
import { filesOf } from "./tree.ts";

/*
 * Scenarios of the runbooks of the package: a fault is made on private Postfix instances, the runbook is run by the real
 * engine, with the built program as `spoolsafe` in its blocks, and what must hold afterwards is asserted.
 *
 * A runbook's file is test/runbooks/NN-name.real.test.ts, as test/runbooks/09-stuck-hold.real.test.ts, the example:
 *
 *     describeRunbook("09-stuck-hold", (scenes) => {
 *       test("mail that a dead backup held goes on", async () => {
 *         await using site = await Site.make();
 *         await using sink = await Sink.start({ domains: { "good.test": {} } });
 *         await using postfix = await PrivatePostfix.start({ sink });
 *         const config = site.configure([postfix]);
 *         const letters = await postfix.submit([...]);
 *         ... make the fault ...
 *         const start = await StartState.of(postfix, { letters, sink });
 *         const run = await scenes.run({ postfix, config, holdsBefore: { "look-around": "it only reads" } });
 *         expect(run.report).toMatchObject({ done: 3, skipped: 0 });
 *         await start.expectKept(run);
 *       });
 *     });
 *
 * What comes with it:
 *
 * - Coverage. After the file's last test every `do`, `verify` and `undo` block of the runbook must have been executed by
 *   one of its scenarios (and every `manual` step gone through). It is not looked at when a part of the file runs alone.
 * - Mutation. Before every action its step's verify is tried once: that is what it would say had the action been `true`.
 *   If it holds, the scenario fails, unless the step is declared in `holdsBefore` with the reason (it only reads; its
 *   condition happens to hold in this scenario). A declared step that does fail is an error, too.
 * - `crash`: the runner is a process of its own that is killed (SIGKILL) at one point of every step in turn: `started` (on
 *   disk that it starts, nothing of it executed), `let-go` (in the middle), `exited` (its action has ended, nobody knows).
 *   Each time the run is resumed by another process, until it is done. All three with SPOOLSAFE_LONG=1, else one by a seed.
 * - `undo`: undoes a run; `StartState.expectRestored` compares the spool and the configuration with the start. With `until`
 *   a run stops before that step's action.
 * - `StartState.expectKept`: no mail lost, none delivered twice, what was on hold by others still is, files 0700 and their
 *   owner's, corrupt/ empty, configuration as it was except what the runbook says it changes, journal whole, no secret in
 *   the run's directory, its report and its events, within its budget.
 */

/** A secret that no file, report or event may have in it; the value of every secret of a runbook. */
export const canary = "hunter2-canary";

export interface SceneOptions {
  /** MAIL_CONFIG of the run. */
  readonly postfix: PrivatePostfix;
  /** Path of spoolsafe.toml. */
  readonly config: string;
  readonly set?: Readonly<Record<string, string>>;
  /** As in a file of --answers; steps that want the host's name typed get it by themselves, steps by hand need one. */
  readonly answers?: Readonly<Record<string, string>>;
  /** Who is asked what no answer is for; default: nobody is there. */
  readonly ask?: (question: Question) => Promise<string | null>;
  readonly environment?: Readonly<Record<string, string>>;
  /** Default: both. */
  readonly roles?: RunWorld["roles"];
  /** Steps whose verify holds before their action, and why that is right. */
  readonly holdsBefore?: Readonly<Record<string, string>>;
  /** Stop before the action of this step. */
  readonly until?: string;
  /** Scripts of sh that blocks find as programs of these names, from the first action on: they wrap the real ones. */
  readonly programs?: Readonly<Record<string, string>>;
  /** Called before each action, after its mutation: for faults in the middle, such as mail that arrives. */
  readonly beforeAction?: (step: string) => Promise<void>;
}

export interface SceneRun {
  readonly run: string;
  readonly found: FoundRun;
  /** Undefined when it did not come to its end. */
  readonly report: RunReport | undefined;
  /** Why it did not. */
  readonly error: unknown;
  readonly events: readonly RunEvent[];
  readonly story: RunStory;
  readonly options: SceneOptions;
  readonly runbook: Runbook;
  readonly places: readonly string[];
}

export type CrashPoint = "started" | "let-go" | "exited";

/** The scenarios of one runbook. */
export class Scenes {
  readonly runbook: Runbook;
  readonly #executed = new Set<string>();
  readonly #directories: string[] = [];

  constructor(name: string, directory: string = packagedRunbooks()) {
    const path = join(directory, `${name}.md`);
    this.runbook = parseRunbook(readFileSync(path, "utf8"), path);
  }

  /** Name that steps want typed. */
  static readonly host = "mx.queue.test";

  /** Run it; errors of the run are part of the result, unless `until` or nothing asked for them. */
  async run(options: SceneOptions): Promise<SceneRun> {
    const mutation = new Mutation(options.holdsBefore ?? {});
    const { places, events } = this.#places();
    const world = worldOf(this.runbook, options, places, this.#recorder(events));
    const stop = new Error(`stopped before ${options.until}`);
    const hooks: RunWorld["hooks"] = {
      beforeAction: async (step, verify) => {
        if (step.name === options.until) throw stop;
        installPrograms(options, places);
        await mutation.look(step.name, verify);
        await options.beforeAction?.(step.name);
      },
    };
    let report: RunReport | undefined;
    let error: unknown;
    try {
      const set = new Map(Object.entries(options.set ?? {}));
      report = await runRunbook({ runbook: this.runbook, world: { ...world, hooks }, set, from: null });
    } catch (thrown) {
      if (thrown !== stop) error = thrown;
    }
    mutation.settle();
    return this.#result(options, places, events, report, error);
  }

  /** Go on with a run that stopped, in this process. */
  async resume(run: SceneRun, more: Partial<SceneOptions> = {}): Promise<SceneRun> {
    const options = { ...run.options, ...more };
    const events: RunEvent[] = [];
    const world = worldOf(this.runbook, options, run.places, this.#recorder(events));
    let report: RunReport | undefined;
    let error: unknown;
    try {
      report = await resumeRun({ runbook: this.runbook, world, run: run.run });
    } catch (thrown) {
      error = thrown;
    }
    return this.#result(options, run.places, events, report, error);
  }

  /** Undo all of a run. */
  async undo(run: SceneRun): Promise<void> {
    const events: RunEvent[] = [];
    const world = worldOf(this.runbook, run.options, run.places, this.#recorder(events));
    await undoRun({ runbook: this.runbook, world, run: run.run });
  }

  /**
   * Run it with a runner that is killed at this point of every step, and gone on with each time.
   *
   * @param sample at three of the steps only, unless SPOOLSAFE_LONG is set
   */
  async crash(options: SceneOptions, point: CrashPoint, sample?: Random): Promise<SceneRun> {
    const { places, events } = this.#places();
    const record = this.#recorder(events);
    const acted = this.runbook.steps.filter(({ action }) => action.kind === "do").map(({ name }) => name);
    const killed = sample === undefined || process.env.SPOOLSAFE_LONG ? [] : allButThree(acted, sample);
    for (let round = 0; round <= this.runbook.steps.length + 1; round++) {
      const [run] = runNames(places);
      const end = await runnerProcess(
        { runbook: this.runbook.path, options, places, point, killed, run: run ?? null },
        record,
      );
      if (end.code === 0) {
        const result = this.#result(options, places, events, end.report, undefined);
        expect(killed.sort(), "steps at which the runner was killed").toEqual(acted.sort());
        return result;
      }
      if (end.signal !== "SIGKILL" || end.step === undefined)
        throw new Error(`the runner ended with ${end.code}: ${end.said}`);
      killed.push(end.step);
    }
    throw new Error(`killed at ${killed.join(", ")}, and still not at its end`);
  }

  /** Blocks that no scenario has executed. */
  get missing(): string[] {
    const blocks = this.runbook.steps.flatMap(({ action, verify, undo }) => [
      action,
      ...verify,
      ...(undo === null ? [] : [undo]),
    ]);
    return blocks.map(({ name }) => name).filter((name) => !this.#executed.has(name));
  }

  destroy(): void {
    for (const directory of this.#directories) destroyScratch(directory);
  }

  #places(): { places: string[]; events: RunEvent[] } {
    const directory = makeScratch();
    this.#directories.push(directory);
    return { places: [join(directory, "runbooks")], events: [] };
  }

  #recorder(events: RunEvent[]): (event: RunEvent) => void {
    return (event) => {
      events.push(event);
      if (event.type === "block") this.#executed.add(event.block);
      if (event.type === "step-end" && event.state === "done") this.#executed.add(event.step);
    };
  }

  #result(
    options: SceneOptions,
    places: readonly string[],
    events: readonly RunEvent[],
    report: RunReport | undefined,
    error: unknown,
  ): SceneRun {
    const run = runNames(places).at(-1);
    if (run === undefined) throw error ?? new Error("nothing was run");
    const found = loadRun(places, run);
    const { runbook } = this;
    return { run, found, report, error, events, story: storyOf(found), options, runbook, places };
  }
}

function allButThree(names: readonly string[], random: Random): string[] {
  const left = [...names];
  for (let count = 0; count < 3; count++) left.splice(random.below(left.length), 1);
  return left;
}

/** Beside our `spoolsafe`, before the system's directories. */
function installPrograms({ programs = {} }: SceneOptions, places: readonly string[]): void {
  const [place = ""] = places;
  const run = runNames(places).at(-1) ?? "";
  for (const [name, script] of Object.entries(programs)) {
    writeFileSync(join(place, run, "bin", name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
}

/** What a verify says of a step whose action was `true`. */
class Mutation {
  readonly #declared: ReadonlyMap<string, string>;
  readonly #wrong: string[] = [];

  constructor(declared: Readonly<Record<string, string>>) {
    this.#declared = new Map(Object.entries(declared));
  }

  async look(step: string, verify: () => Promise<boolean>): Promise<void> {
    const holds = await verify();
    const reason = this.#declared.get(step);
    if (holds && reason === undefined) this.#wrong.push(`${step}: its verify holds although nothing was done`);
    if (!holds && reason !== undefined) this.#wrong.push(`${step}: declared to hold before (${reason}), and does not`);
  }

  settle(): void {
    if (this.#wrong.length > 0) throw new Error(`mutation: ${this.#wrong.join("; ")}`);
  }
}

/** Node of tests, and the program built from the sources. */
export function ownProgram(): string[] {
  return [process.execPath, join(builtProgram(), "spoolsafe.js")];
}

export function worldOf(
  runbook: Runbook,
  options: SceneOptions,
  places: readonly string[],
  report: (event: RunEvent) => void,
): RunWorld {
  const {
    postfix,
    config,
    answers = {},
    ask = async () => null,
    environment = {},
    roles = ["primary", "standby"],
  } = options;
  const typed = runbook.steps
    .filter(({ action }) => action.confirm === "type")
    .map(({ name }) => [name, Scenes.host] as const);
  return {
    ...{
      places,
      command: ownProgram(),
      configFile: config,
      host: Scenes.host,
      roles,
      version: "test",
      uid: process.getuid?.() ?? -1,
    },
    environment: {
      HOME: "/root",
      ...{ MAIL_CONFIG: postfix.configDirectory },
      ...Object.fromEntries(runbook.secrets.map((name) => [name, canary])),
      ...environment,
    },
    instance: { ...postfix, version: "3.7.11" },
    clock: systemClock,
    people: {
      ...{ ask, name: "tester", account: "root", sudoUser: null, terminal: null, yes: true },
      answers: new Map([...typed, ...Object.entries(answers)]),
      onInterrupt: () => () => {},
      terminated: new AbortController().signal,
    },
    report,
  };
}

interface RunnerJob {
  readonly runbook: string;
  readonly options: SceneOptions;
  readonly places: readonly string[];
  readonly point: CrashPoint;
  /** Steps at which it was killed before. */
  readonly killed: readonly string[];
  /** Go on with this one. */
  readonly run: string | null;
}

/** What test/support/runbook-runner.ts is given on its standard input. */
export interface RunnerOrder extends Omit<RunnerJob, "options"> {
  readonly postfix: Pick<PrivatePostfix, "configDirectory" | "queueDirectory">;
  readonly command: readonly string[];
  readonly config: string;
  readonly set: Readonly<Record<string, string>>;
  readonly answers: Readonly<Record<string, string>>;
  readonly environment: Readonly<Record<string, string>>;
}

interface RunnerEnd {
  readonly code: number | null;
  readonly signal: string | null;
  /** The one it was killed at. */
  readonly step: string | undefined;
  readonly report: RunReport | undefined;
  readonly said: string;
}

async function runnerProcess(job: RunnerJob, record: (event: RunEvent) => void): Promise<RunnerEnd> {
  const { options, ...rest } = job;
  const { configDirectory, queueDirectory } = options.postfix;
  const order: RunnerOrder = {
    ...rest,
    postfix: { configDirectory, queueDirectory },
    ...{ command: ownProgram(), config: options.config, set: options.set ?? {} },
    ...{ answers: options.answers ?? {}, environment: options.environment ?? {} },
  };
  const child = spawn(process.execPath, [fileURLToPath(new URL("./runbook-runner.ts", import.meta.url))], {
    stdio: ["pipe", "pipe", "pipe"],
    cwd: options.postfix.directory,
  });
  child.stdin.end(JSON.stringify(order));
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk;
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (...end) => resolve(end));
  });
  let [step, report]: [string | undefined, RunReport | undefined] = [undefined, undefined];
  for (const line of stdout.split("\n").filter((each) => each !== "")) {
    const told = JSON.parse(line);
    if (told.type === "killed") step = told.step;
    else if (told.type === "report") report = told.report;
    else record(told);
  }
  return { code, signal, step, report, said: stderr + stdout.slice(-2000) };
}

/** One (message, recipient) pair of a queue, not delivered yet, and where it is. */
interface QueuedPair {
  readonly pair: string;
  readonly queue: string;
}

const messageQueues = ["maildrop", "incoming", "active", "deferred", "hold"] as const;

/** How an instance was before a run. */
export class StartState {
  readonly postfix: PrivatePostfix;
  readonly #letters: readonly Letter[];
  readonly #sink: Sink | undefined;
  readonly #configuration: ReadonlyMap<string, string>;
  readonly #held: ReadonlySet<string>;
  readonly #files: readonly string[];

  private constructor(
    postfix: PrivatePostfix,
    letters: readonly Letter[],
    sink: Sink | undefined,
    ours: readonly string[],
  ) {
    this.postfix = postfix;
    this.#letters = letters;
    this.#sink = sink;
    this.#configuration = configurationOf(postfix);
    const own = new Set(ours);
    this.#held = new Set(
      postfix
        .files("hold")
        .map((path) => basename(path))
        .filter((id) => !own.has(id)),
    );
    this.#files = messageFiles(postfix);
  }

  /**
   * @param letters those whose fate is followed
   * @param ours ids on hold that are not an administrator's, and that the run may release
   */
  static async of(
    postfix: PrivatePostfix,
    { letters = [], sink, ours = [] }: { letters?: readonly Letter[]; sink?: Sink; ours?: readonly string[] } = {},
  ): Promise<StartState> {
    return new StartState(postfix, letters, sink, ours);
  }

  /**
   * What every run leaves as it must be.
   *
   * @param gone recipients (`<message-id> address`) that the run was to take out of the queue, with a reason
   */
  async expectKept(run: SceneRun, { gone = [] }: { gone?: readonly string[] } = {}): Promise<void> {
    expect(this.lost(gone), "lost").toEqual([]);
    expect(this.doubled(), "delivered twice").toEqual([]);
    const held = this.postfix.files("hold").map((path) => basename(path));
    expect(
      [...this.#held].filter((id) => !held.includes(id)),
      "released though others held it",
    ).toEqual([]);
    expect(this.strangeFiles(), "queue files with another mode or owner").toEqual([]);
    expect(this.postfix.files("corrupt"), "corrupt/").toEqual([]);
    for (const [name, text] of configurationOf(this.postfix)) {
      if (!run.runbook.changes.includes(name)) expect(text, name).toBe(this.#configuration.get(name));
    }
    expectWhole(run);
    if (run.report !== undefined) expect(run.report.ms).toBeLessThan(run.runbook.rtoMs);
  }

  /** The same messages with the same content in the same queues, the same configuration. */
  expectRestored(): void {
    expect(messageFiles(this.postfix)).toEqual(this.#files);
    expect(configurationOf(this.postfix)).toEqual(this.#configuration);
  }

  lost(gone: readonly string[] = []): string[] {
    const delivered = this.#sink?.tally() ?? new Map<string, number>();
    const queued = new Set(queuedPairs(this.postfix, this.#letters).map(({ pair }) => pair));
    return pairsOf(this.#letters).filter((pair) => !delivered.has(pair) && !queued.has(pair) && !gone.includes(pair));
  }

  /** Delivered more than once, or delivered and still in a queue, or in two. */
  doubled(): string[] {
    const counts = new Map(this.#sink?.tally() ?? []);
    for (const { pair } of queuedPairs(this.postfix, this.#letters)) counts.set(pair, (counts.get(pair) ?? 0) + 1);
    return pairsOf(this.#letters).filter((pair) => (counts.get(pair) ?? 0) > 1);
  }

  strangeFiles(): string[] {
    const owner = userId("postfix");
    return ["incoming", "active", "deferred", "hold"]
      .flatMap((queue) => this.postfix.files(queue))
      .filter((path) => {
        const stat = statSync(path, { throwIfNoEntry: false });
        return stat !== undefined && ((stat.mode & 0o777) !== 0o700 || stat.uid !== owner);
      });
  }
}

function configurationOf({ configDirectory }: PrivatePostfix): Map<string, string> {
  const names = readdirSync(configDirectory).filter((name) => statSync(join(configDirectory, name)).isFile());
  return new Map(names.sort().map((name) => [name, readFileSync(join(configDirectory, name), "utf8")]));
}

/** Of the queues, by path and content; without inodes and times, which a hold and its release may change. */
function messageFiles(postfix: PrivatePostfix): string[] {
  return filesOf(...messageQueues.map((queue) => join(postfix.queueDirectory, queue))).flatMap((line) => {
    const [path = "", , mode = "", uid = "", , , , size = "", content = ""] = line.split(" ");
    return mode.startsWith("100") ? [[path, mode, uid, size, content].join(" ")] : [];
  });
}

function pairsOf(letters: readonly Letter[]): string[] {
  return letters.flatMap(({ messageId, recipients }) => recipients.map((address) => `${messageId} ${address}`));
}

function queuedPairs(postfix: PrivatePostfix, letters: readonly Letter[]): QueuedPair[] {
  return messageQueues.flatMap((queue) =>
    postfix.files(queue).flatMap((path) => {
      const bytes = readOrEmpty(path);
      const letter = letters.find(({ messageId }) => bytes.includes(messageId));
      if (letter === undefined) return [];
      const open = readQueueFile(bufferSource(bytes)).recipients.filter(({ done }) => !done);
      return open.map(({ address }) => ({ pair: `${letter.messageId} ${address}`, queue }));
    }),
  );
}

function readOrEmpty(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch {
    return Buffer.alloc(0); // delivered meanwhile
  }
}

/** The journal's chain is whole, and no secret is anywhere in what the run left or told. */
export function expectWhole({ found, events, story }: SceneRun): void {
  expect(readJournal(journalFile(found.directory)).lines.length).toBeGreaterThan(1);
  const texts = readdirSync(found.directory, { recursive: true, encoding: "utf8" })
    .map((name) => join(found.directory, name))
    .filter((path) => statSync(path).isFile());
  expect(
    texts.filter((path) => readFileSync(path).includes(canary)),
    "files with a secret",
  ).toEqual([]);
  expect(JSON.stringify([events, story]).includes(canary), "a secret in what was told").toBe(false);
  expect(storyMarkdown(story).includes(canary), "a secret in the report").toBe(false);
}

/** The scenarios of a runbook of the package; see above. */
export function describeRunbook(name: string, scenarios: (scenes: Scenes) => void): void {
  describe.skipIf(!needs("root", "postfix", "flock"))(`runbook ${name}`, () => {
    const scenes = new Scenes(name);
    // biome-ignore lint/correctness/noEmptyPattern: Vitest reads from it what it is to give
    afterAll(({}, suite) => {
      scenes.destroy();
      // Only where all of the file has run can anything be said of what was not.
      const whole = suite.tasks.every(({ mode, result }) => mode === "run" && result?.state === "pass");
      if (whole) expect(scenes.missing, "blocks that no scenario has executed").toEqual([]);
    });
    scenarios(scenes);
  });
}
