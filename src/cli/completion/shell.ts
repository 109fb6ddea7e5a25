import type { CompletedCommand, CompletedOption, CompletionModel, Offer } from "./model.ts";

/*
 * bash and zsh read the same tables, as functions in what both understand. They work on four variables of the caller: `at`,
 * the command the line has come to; `position`, the arguments it has been given; `open`, the option that the word at the
 * cursor is the value of; `many`, not empty when that option takes several.
 */

/** @returns functions `__NAME_walk WORD...` and `__NAME_offer WORD`, which prints `WORD:description`, `@file` or `@directory` */
export function commonFunctions(model: CompletionModel): string {
  const { name, commands } = model;
  return `# What has been typed between ${name} and the cursor.
__${name}_walk() {
  at= position=0 open= many=
  local word
  for word in "$@"; do
    case $word in
      =) ;;
      -*=*) open= many= ;;
      -*) open= many=; __${name}_takes "$word" ;;
      *)
        if [ -n "$open" ]; then
          [ -n "$many" ] || open=
        else
          __${name}_enter "$word"
        fi
        ;;
    esac
  done
}

# An option, at the command \`at\`: does it take a value?
__${name}_takes() {
  case "$at:$1" in
${takers(model, (option) => option.many, "    {}) open=$1 many=1 ;;")}${takers(model, (option) => !option.many, "    {}) open=$1 ;;")}  esac
}

# A word that is no option and no value: a command, or an argument.
__${name}_enter() {
  case "$at:$1" in
${commands
  .filter(({ path }) => path !== "")
  .map(({ path }) => `    ${quoted(`${parentOf(path)}:${path.split("/").at(-1)}`)}) at=${quoted(path)} ;;\n`)
  .join("")}    *) position=$((position + 1)) ;;
  esac
}

# What can stand at the cursor, where $1 is.
__${name}_offer() {
  # An option ends the values of the one before.
  case $1 in -*) [ -z "$many" ] || open= ;; esac
  if [ -n "$open" ]; then
    case "$at:$open" in
${values(model)}    esac
    return
  fi
  case $1 in
    -*)
      case $at in
${commands
  .filter(({ options }) => options.length > 0)
  .map(optionCase)
  .join("")}      esac
      ${printed(model.global.flatMap(optionLines))}
      ;;
    *)
      case "$at:$position" in
${commands.map(positionCases).join("")}      esac
      ;;
  esac
}
`;
}

function parentOf(path: string): string {
  return path.split("/").slice(0, -1).join("/");
}

/** Case patterns of the options with a value, a command's own before those of the program. */
function takers(model: CompletionModel, chosen: (option: CompletedOption) => boolean, line: string): string {
  const patterns = withValue(model)
    .filter(({ option }) => chosen(option))
    .flatMap(optionPatterns);
  return patterns.length === 0 ? "" : `${line.replace("{}", patterns.join(" | "))}\n`;
}

function values(model: CompletionModel): string {
  return withValue(model)
    .map(({ path, option }) => `      ${optionPatterns({ path, option }).join(" | ")}) ${offered(option.value)} ;;\n`)
    .join("");
}

interface OptionAt {
  /** Null for an option of the program, which is taken everywhere. */
  readonly path: string | null;
  readonly option: CompletedOption;
}

function withValue({ commands, global }: CompletionModel): OptionAt[] {
  const own = commands.flatMap(({ path, options }) => options.map((option) => ({ path, option })));
  const all = [...own, ...global.map((option) => ({ path: null, option }))];
  return all.filter(({ option }) => option.value !== null);
}

function optionPatterns({ path, option }: OptionAt): string[] {
  return option.names.map((name) => (path === null ? `*:${name}` : quoted(`${path}:${name}`)));
}

function optionCase({ path, options }: CompletedCommand): string {
  return `        ${quoted(path)}) ${printed(options.flatMap(optionLines))} ;;\n`;
}

function optionLines({ names, description }: CompletedOption): string[] {
  return names.map((name) => `${name}:${description}`);
}

function positionCases({ path, commands, positions, variadic }: CompletedCommand): string {
  if (commands.length > 0) {
    const lines = commands.map(({ name, description }) => `${name}:${description}`);
    return `        ${quoted(`${path}:0`)}) ${printed(lines)} ;;\n`;
  }
  return positions
    .map((offer, index) => {
      const rest = variadic && index === positions.length - 1 && offer.kind === "words" && positions.length > 1;
      return `        ${rest ? `${quoted(`${path}:`)}*` : quoted(`${path}:${index}`)}) ${offered(offer)} ;;\n`;
    })
    .join("");
}

function offered(offer: Offer | null): string {
  if (offer?.kind === "words") return printed(offer.words);
  return offer?.kind === "file" || offer?.kind === "directory" ? `echo @${offer.kind}` : ":";
}

function printed(lines: readonly string[]): string {
  return `printf '%s\\n' ${lines.map(quoted).join(" ")}`;
}

/** In single quotes, for any shell of this family. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
