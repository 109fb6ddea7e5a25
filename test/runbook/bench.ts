import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CheckReport, checkRunbook } from "../../src/runbook/check.ts";
import { type JournalLine, journalFile, readJournal } from "../../src/runbook/journal.ts";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { type RunReport, resumeRun, runRunbook } from "../../src/runbook/run.ts";
import { runNames } from "../../src/runbook/run-directory.ts";
import type { Runbook } from "../../src/runbook/runbook.ts";
import { type UndoReport, undoRun } from "../../src/runbook/undo-run.ts";
import type { People, RunEvent, RunWorld } from "../../src/runbook/world.ts";
import { systemClock } from "../../src/system/clock.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

export const canary = "hunter2-canary";

export interface BenchOptions {
  /** What a person answers, question by question; `null`: nobody is there. After the last: nobody. */
  readonly says?: readonly (string | null)[];
  readonly yes?: boolean;
  readonly answers?: Readonly<Record<string, string>>;
  readonly set?: Readonly<Record<string, string>>;
  readonly from?: string;
  readonly world?: Partial<RunWorld>;
  readonly people?: Partial<People>;
}

/** Runs of small runbooks, with no Postfix around, in this process. */
export class Bench implements Disposable {
  readonly directory = makeScratch();
  /** PLACE of the runbooks. */
  readonly place = join(this.directory, "place with a space");
  readonly runs = join(this.directory, "runs");
  readonly events: RunEvent[] = [];
  readonly questions: string[] = [];

  constructor() {
    mkdirSync(this.place);
  }

  [Symbol.dispose](): void {
    destroyScratch(this.directory);
  }

  world({ says = [], yes = true, answers = {}, world = {}, people = {} }: BenchOptions): RunWorld {
    const left = [...says];
    return {
      ...{ places: [this.runs], command: [process.execPath, "/nowhere/spoolsafe.js"], configFile: null },
      environment: { PASSPHRASE: canary, PLACE: this.place, HOME: "/root" },
      ...{ host: "mx.test", roles: ["primary"], instance: null, version: "test", uid: 0, clock: systemClock },
      people: {
        ask: async ({ text }) => {
          this.questions.push(text);
          return left.shift() ?? null;
        },
        ...{ name: "alice", account: "root", sudoUser: "alice", terminal: null, yes },
        answers: new Map(Object.entries(answers)),
        onInterrupt: () => () => {},
        terminated: new AbortController().signal,
        ...people,
      },
      report: (event) => this.events.push(event),
      ...world,
    };
  }

  async run(runbook: Runbook, options: BenchOptions = {}): Promise<RunReport> {
    const set = new Map(Object.entries(options.set ?? {}));
    return await runRunbook({ runbook, world: this.world(options), set, from: options.from ?? null });
  }

  async resume(runbook: Runbook, options: BenchOptions = {}): Promise<RunReport> {
    return await resumeRun({ runbook, world: this.world(options), run: this.name });
  }

  async undo(runbook: Runbook, options: BenchOptions = {}): Promise<UndoReport> {
    return await undoRun({ runbook, world: this.world(options), run: this.name });
  }

  async check(runbook: Runbook, options: BenchOptions = {}): Promise<CheckReport> {
    const set = new Map(Object.entries(options.set ?? {}));
    return await checkRunbook({ runbook, world: this.world(options), set });
  }

  /** Of the newest run; names of one second are in no order. */
  get name(): string {
    const madeAt = (name: string) => statSync(join(this.runs, name)).birthtimeMs;
    return (
      runNames([this.runs])
        .toSorted((a, b) => madeAt(a) - madeAt(b))
        .at(-1) ?? ""
    );
  }

  get runDirectory(): string {
    return join(this.runs, this.name);
  }

  get journal(): readonly JournalLine[] {
    return readJournal(journalFile(this.runDirectory)).lines;
  }

  /** Its journal as a runner leaves it that is killed right after the first line of this event. */
  cutAfter(event: JournalLine["event"]): void {
    const { lines, texts, path } = readJournal(journalFile(this.runDirectory));
    const at = lines.findIndex((line) => line.event === event);
    writeFileSync(path, texts.slice(0, at + 1).join(""));
    rmSync(join(this.runDirectory, "environment"), { force: true });
  }

  /** `event step` of the journal's lines of these events, in order. */
  lines(...events: readonly JournalLine["event"][]): string[] {
    return this.journal.flatMap((line) =>
      events.includes(line.event) ? [`${line.event} ${"step" in line ? line.step : ""}`.trim()] : [],
    );
  }

  /** All text that blocks have said. */
  get said(): string {
    return this.events.flatMap((event) => (event.type === "output" ? [event.text] : [])).join("");
  }

  /** Files below the run's directory that have this in them. */
  filesWith(text: string): string[] {
    return readdirSync(this.runDirectory, { recursive: true, encoding: "utf8" }).filter((name) => {
      const path = join(this.runDirectory, name);
      return statSync(path).isFile() && readFileSync(path).includes(text);
    });
  }

  has(name: string): boolean {
    return statSync(join(this.place, name), { throwIfNoEntry: false }) !== undefined;
  }

  read(name: string): string {
    return readFileSync(join(this.place, name), "utf8");
  }
}

/** A file of test/fixtures/runbooks, without `.md`. */
export function fixture(name: string): Runbook {
  const path = join(import.meta.dirname, "../fixtures/runbooks", `${name}.md`);
  return parseRunbook(readFileSync(path, "utf8"), path);
}

/** A runbook of these sections, each a heading and its fences. */
export function sheet(sections: readonly string[], front: readonly string[] = []): Runbook {
  const text = [
    ...["---", "shell: bash", "runbook:", "  id: RB-91", "  severity: sev3", "  rto: 10m"],
    ...front.map((line) => `  ${line}`),
    ...["---", "# RB-91 A short one", "", "**When:** a test.", "**Impact:** none.", "**Never:** elsewhere.", ""],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
    ...["```sh {name=vars kind=vars}", 'export PLACE="${PLACE:-/nonexistent}"', "```", ""],
    ...sections.map((section, index) => `## ${index + 1}. Step\n\n${section}\n`),
    "## If this fails",
    "",
    "Nothing.",
    "",
  ].join("\n");
  return parseRunbook(text, "/test/91-short.md");
}

/** A fence of shell text. */
export function fence(attributes: string, script: string): string {
  return `\`\`\`sh {${attributes}}\n${script}\n\`\`\`\n`;
}
