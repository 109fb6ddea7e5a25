import type { CommandUnknownOpts, Option } from "@commander-js/extra-typings";

/** What can stand at a place of the command line. Nothing is known of `free`, such as a queue id. */
export type Offer =
  | { readonly kind: "words"; readonly words: readonly string[] }
  | { readonly kind: "file" | "directory" | "free" };

export interface CompletedOption {
  /** `--json`, `-h`. */
  readonly names: readonly string[];
  readonly description: string;
  /** Null for one without a value. */
  readonly value: Offer | null;
  /** It takes all words up to the next option. */
  readonly many: boolean;
}

/** A command, or the program itself, with what may follow it. */
export interface CompletedCommand {
  /** `holds/take-over`; of the program the empty text. */
  readonly path: string;
  readonly description: string;
  readonly options: readonly CompletedOption[];
  readonly commands: readonly { readonly name: string; readonly description: string }[];
  readonly positions: readonly Offer[];
  /** Its last position may be there any number of times. */
  readonly variadic: boolean;
}

export interface CompletionModel {
  readonly name: string;
  /** The program first. */
  readonly commands: readonly CompletedCommand[];
  /** Options of the program, taken before and after every command. */
  readonly global: readonly CompletedOption[];
}

/** What the command table says, without hidden commands and options. */
export function completionModel(program: CommandUnknownOpts): CompletionModel {
  return {
    name: program.name(),
    global: optionsOf(program),
    commands: [{ ...commandOf(program, ""), options: [] }, ...below(program, "")],
  };
}

function below(parent: CommandUnknownOpts, path: string): CompletedCommand[] {
  return visibleCommands(parent).flatMap((command) => {
    const own = `${path}${command.name()}`;
    // Of `help` commander has no argument that knows the commands.
    if (command.name() === "help") return [{ ...commandOf(command, own), ...helpPositions(parent) }];
    return [commandOf(command, own), ...below(command, `${own}/`)];
  });
}

function commandOf(command: CommandUnknownOpts, path: string): CompletedCommand {
  return {
    path,
    description: command.description(),
    options: optionsOf(command),
    commands: visibleCommands(command).map((each) => ({ name: each.name(), description: each.description() })),
    positions: command.registeredArguments.map((argument) => offerOf(argument.name(), argument.argChoices)),
    variadic: command.registeredArguments.at(-1)?.variadic === true,
  };
}

function helpPositions(parent: CommandUnknownOpts) {
  const words = visibleCommands(parent).map((command) => command.name());
  return { positions: [{ kind: "words", words } as const], variadic: false };
}

/** Each command once has its own `help` below it; only the program's is of use. */
function visibleCommands(command: CommandUnknownOpts): readonly CommandUnknownOpts[] {
  const all = command.createHelp().visibleCommands(command);
  return command.parent === null ? all : all.filter((each) => each.name() !== "help");
}

function optionsOf(command: CommandUnknownOpts): CompletedOption[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .filter(({ long }) => command.parent === null || long !== "--help")
    .map(optionOf);
}

function optionOf(option: Option): CompletedOption {
  const [, placeholder] = /[<[](.+)[>\]]/.exec(option.flags) ?? [];
  return {
    names: [option.long, option.short].filter((name) => name !== undefined && name !== null),
    description: option.description,
    value: placeholder === undefined ? null : offerOf(placeholder, option.argChoices),
    many: option.variadic,
  };
}

/** By the choices, else by what the placeholder says. */
function offerOf(placeholder: string, choices: readonly string[] | undefined): Offer {
  if (choices !== undefined) return { kind: "words", words: choices };
  if (/\bfile\b/.test(placeholder)) return { kind: "file" };
  if (/\bdir\b/.test(placeholder)) return { kind: "directory" };
  // Ids are not offered: a store can take seconds to list them.
  return /\bsnap\b/.test(placeholder) ? { kind: "words", words: ["latest"] } : { kind: "free" };
}
