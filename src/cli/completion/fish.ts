import type { CompletedCommand, CompletedOption, CompletionModel, Offer } from "./model.ts";

/** A script for fish 3 and newer. */
export function fishCompletion(model: CompletionModel): string {
  const { name, commands, global } = model;
  return `# fish completion for ${name}. To load it: ${name} completion fish | source
# For every user: ${name} completion fish > /etc/fish/completions/${name}.fish

# Has the line come to this command, and is no value of an option wanted next?
function __${name}_at --argument-names wanted
  set -l at ''
  set -l open
  for word in (commandline -opc)[2..-1]
    if set -q open[1]
      set -e open
      continue
    end
    switch $word
      case '-*=*'
      case '-*'
        if contains -- $word ${takers(global)}
          set open $word
        end
        switch "$at:$word"
${commands.map(ownTakers).join("")}        end
      case '*'
        switch "$at:$word"
${commands.map(entered).join("")}        end
    end
  end
  test "$at" = "$wanted"
end

complete -c ${name} -f
${global.map((option) => completed(name, null, option)).join("")}${commands.map((command) => completedCommand(name, command)).join("")}`;
}

function takers(options: readonly CompletedOption[]): string {
  return options
    .filter(({ value }) => value !== null)
    .flatMap(({ names }) => names)
    .join(" ");
}

function ownTakers({ path, options }: CompletedCommand): string {
  const names = options.filter(({ value }) => value !== null).flatMap((option) => option.names);
  if (names.length === 0) return "";
  return `          case ${names.map((each) => quoted(`${path}:${each}`)).join(" ")}\n            set open $word\n`;
}

function entered({ path, commands }: CompletedCommand): string {
  return commands
    .map(({ name }) => {
      const inner = path === "" ? name : `${path}/${name}`;
      return `          case ${quoted(`${path}:${name}`)}\n            set at ${quoted(inner)}\n`;
    })
    .join("");
}

function completedCommand(name: string, { path, options, commands, positions }: CompletedCommand): string {
  const here = `complete -c ${name} -n ${quoted(`__${name}_at ${quoted(path)}`)}`;
  return [
    ...commands.map((command) => `${here} -a ${quoted(command.name)} -d ${quoted(command.description)}\n`),
    ...positions.flatMap((offer) => (offer.kind === "free" ? [] : [`${here}${offered(offer)}\n`])),
    ...options.map((option) => completed(name, path, option)),
  ].join("");
}

/** @param path null for an option that is taken at every command */
function completed(name: string, path: string | null, { names, description, value }: CompletedOption): string {
  const words = names.map((each) => (each.startsWith("--") ? `-l ${each.slice(2)}` : `-s ${each.slice(1)}`));
  const condition = path === null ? [] : ["-n", quoted(`__${name}_at ${quoted(path)}`)];
  const required = value === null ? "" : ` -r${offered(value)}`;
  return `${["complete", "-c", name, ...condition, ...words].join(" ")}${required} -d ${quoted(description)}\n`;
}

function offered(offer: Offer): string {
  if (offer.kind === "words") return ` -f -a ${quoted(offer.words.join(" "))}`;
  if (offer.kind === "directory") return ` -f -a '(__fish_complete_directories)'`;
  return offer.kind === "file" ? " -F" : " -f";
}

function quoted(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
