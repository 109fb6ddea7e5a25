import { OperatorError } from "../errors.ts";
import type { Confirm, Step } from "./runbook.ts";
import type { People } from "./world.ts";

/** What is done about a step. */
export type Choice =
  | { readonly what: "run" | "verify" | "undo"; readonly how: string }
  | { readonly what: "skip"; readonly reason: string; readonly how: string };

export interface StepQuestion {
  readonly step: Step;
  /** `type`: the host's name is to be typed. `failed`: it has failed, and nothing but a person can say what now. */
  readonly confirm: Exclude<Confirm, "no"> | "failed";
  /** Why it is asked, or what happened; on a line of its own. */
  readonly because: string | null;
}

export interface Desk {
  readonly people: People;
  readonly host: string;
  readonly run: string;
  /** The note goes into the journal. */
  note(text: string): void;
  /** Show what the step's blocks have said so far. */
  showOutput(): void;
  tell(text: string): void;
}

/** Answers of a file count once each: a step that comes back after it failed needs a new one. */
export class Dialogue {
  readonly #desk: Desk;
  readonly #answers: Map<string, string>;

  constructor(desk: Desk) {
    this.#desk = desk;
    this.#answers = new Map(desk.people.answers);
  }

  /**
   * What to do about a step. Enter is never yes.
   *
   * @throws OperatorError `usage` when the answer is needed and nobody is there to give it, `failed` when they abort
   */
  async choose(question: StepQuestion): Promise<Choice> {
    const { people } = this.#desk;
    const { step, confirm } = question;
    if (confirm !== "failed") {
      const given = this.#answers.get(step.name);
      this.#answers.delete(step.name);
      if (given !== undefined) return this.#fromFile(question, given);
      // Of a step done by hand, nobody but who did it can say that it is done.
      if (people.yes && confirm === "yes" && step.action.kind !== "manual") return { what: "run", how: "--yes" };
    }
    for (;;) {
      const said = await people.ask({ text: this.#text(question) });
      if (said === null) throw this.#nobody(question);
      const choice = await this.#understood(question, said.trim());
      if (choice !== undefined) return choice;
    }
  }

  /**
   * A question that is answered by yes or no. --yes answers it.
   *
   * @throws OperatorError `usage`
   */
  async confirm(text: string, key: string): Promise<string | null> {
    const { people } = this.#desk;
    const given = this.#answers.get(key);
    this.#answers.delete(key);
    if (given !== undefined) return isYes(given) ? "answers" : null;
    if (people.yes) return "--yes";
    const said = await people.ask({ text: `${text} [y/N] ` });
    if (said === null) {
      throw new OperatorError("usage", `${text} can't be asked without a terminal`, {
        hints: [
          "give the answer with --yes, once you have read what it means",
          `or with --answers FILE and in it: ${key} = "yes"`,
        ],
      });
    }
    return isYes(said.trim()) ? people.name : null;
  }

  /** As `confirm`, and the name of the host is to be typed; --yes does not answer it. */
  async confirmTyped(text: string, key: string): Promise<string | null> {
    const { people, host } = this.#desk;
    const given = this.#answers.get(key);
    this.#answers.delete(key);
    const said = given ?? (await people.ask({ text: `${text} type ${host} to go on: ` }));
    if (said === null) {
      throw new OperatorError("usage", `${text} can't be asked without a terminal`, {
        hints: [`give the answer with --answers FILE, and in it: ${key} = "${host}"`],
      });
    }
    return said.trim() === host ? people.name : null;
  }

  #fromFile({ step, confirm }: StepQuestion, given: string): Choice {
    const how = "answers";
    const [, reason] = /^skip:\s*(.*\S)/s.exec(given) ?? [];
    if (reason !== undefined) return { what: "skip", reason, how };
    if (confirm === "type") {
      if (given === this.#desk.host) return { what: "run", how };
      throw new OperatorError("usage", `the answer for ${step.name} is not the name of this host, ${this.#desk.host}`);
    }
    if (isYes(given)) return { what: "run", how };
    if (step.action.kind !== "manual" || given.trim() === "") {
      throw new OperatorError("usage", `the answer for ${step.name} is none: ${JSON.stringify(given)}`, {
        hints: ['it may be "yes", or "skip: " and the reason'],
      });
    }
    this.#desk.note(given);
    return { what: "run", how };
  }

  #text({ step, confirm, because }: StepQuestion): string {
    const run = step.action.kind === "manual" ? "[d]one" : "[r]un";
    const undo = step.undo === null ? "" : " [u]ndo";
    const rest = `[s]kip [v]erify only [o]utput [n]ote${undo} [a]bort [?]`;
    const first = because === null ? "" : `${because}\n`;
    if (confirm === "type") return `${first}${step.name}: type ${this.#desk.host} to go on, or ${rest}: `;
    return `${first}${step.name}: ${confirm === "failed" && run === "[r]un" ? "[r]un again" : run} ${rest}: `;
  }

  /** Undefined: nothing to be done yet, ask again. */
  async #understood({ step, confirm }: StepQuestion, said: string): Promise<Choice | undefined> {
    const { people, host } = this.#desk;
    const how = people.name;
    if (confirm === "type" && said === host) return { what: "run", how: "typed" };
    const word = said.toLowerCase();
    const goes = step.action.kind === "manual" ? ["d", "done", "y", "yes"] : ["r", "run", "y", "yes"];
    if (goes.includes(word)) {
      if (confirm !== "type") return { what: "run", how };
      this.#desk.tell(`this can't be taken back: type the name of this host, ${host}`);
      return undefined;
    }
    if (word === "interrupt" || word === "a" || word === "abort") throw this.#aborted(step, word === "interrupt");
    if (word === "v" || word === "verify") return { what: "verify", how };
    if ((word === "u" || word === "undo") && step.undo !== null) return { what: "undo", how };
    if (word === "o" || word === "output") this.#desk.showOutput();
    else if (word === "s" || word === "skip") return await this.#skip(how);
    else if (word === "n" || word === "note") await this.#note();
    else this.#desk.tell(help);
    return undefined;
  }

  async #skip(how: string): Promise<Choice | undefined> {
    const reason = (await this.#desk.people.ask({ text: "reason: " }))?.trim() ?? "";
    if (reason !== "" && reason !== "interrupt") return { what: "skip", reason, how };
    this.#desk.tell("without a reason nothing is skipped");
    return undefined;
  }

  async #note(): Promise<void> {
    const text = (await this.#desk.people.ask({ text: "note: " }))?.trim() ?? "";
    if (text !== "" && text !== "interrupt") this.#desk.note(text);
  }

  #aborted(step: Step, interrupted: boolean): OperatorError {
    return new OperatorError(interrupted ? "interrupted" : "failed", `stopped at ${step.name}`);
  }

  #nobody({ step, confirm, because }: StepQuestion): OperatorError {
    if (confirm === "failed") return new OperatorError("failed", because ?? `${step.name} has failed`);
    const typed = confirm === "type";
    const manual = step.action.kind === "manual";
    const fact = manual
      ? `${step.name} is done by a person, and nobody can be asked without a terminal`
      : `${step.name} needs ${typed ? "the name of this host typed" : "to be confirmed"}, which can't be asked without a terminal`;
    return new OperatorError("usage", fact, {
      hints: [
        ...(typed || manual ? [] : ["give the answer with --yes, once you have read what it means"]),
        `${typed || manual ? "give the answer" : "or"} with --answers FILE, and in it: ${step.name} = "${typed ? this.#desk.host : "yes"}"`,
      ],
    });
  }
}

function isYes(text: string): boolean {
  return /^y(es)?$/i.test(text.trim());
}

const help = `  r  run the step (d: it is done, where a person does it)
  s  skip it; asks for the reason, which goes into the report
  v  only verify: the step is done if that holds
  o  show what its blocks have said so far
  n  write a note into the report
  u  undo this step, where it can be
  a  abort: stop here; the run can be resumed or undone later`;

/** Ask for the value of a variable that has none. @throws OperatorError `usage` when nobody says one */
export async function askValue(name: string, people: People): Promise<string> {
  for (;;) {
    const said = people.answers.get(name) ?? (await people.ask({ text: `${name} = ` }));
    if (said === "interrupt") throw new OperatorError("interrupted", "interrupted by SIGINT");
    if (said === null) {
      throw new OperatorError("usage", `${name} has no value, and it can't be asked for without a terminal`, {
        hints: [`give it: --set ${name}=VALUE`],
      });
    }
    if (said.trim() !== "") return said.trim();
  }
}

/** Ask a person for every secret of a runbook that the environment does not have. */
export async function askSecrets(
  names: readonly string[],
  has: (name: string) => boolean,
  people: People,
): Promise<Map<string, string>> {
  const values = new Map<string, string>();
  for (const name of names.filter((each) => !has(each))) {
    const said = await people.ask({ text: `${name} (not shown; Enter: none): `, secret: true });
    if (said === null) {
      throw new OperatorError("usage", `${name} is secret, is kept nowhere, and can't be asked without a terminal`, {
        hints: [`put it into the environment: export ${name}`],
      });
    }
    if (said === "interrupt") throw new OperatorError("interrupted", "interrupted by SIGINT");
    values.set(name, said);
  }
  return values;
}
