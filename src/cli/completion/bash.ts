import type { CompletionModel } from "./model.ts";
import { commonFunctions } from "./shell.ts";

/** A script for bash 4 and newer, which needs nothing but bash. */
export function bashCompletion(model: CompletionModel): string {
  const { name } = model;
  return `# bash completion for ${name}. To load it: source <(${name} completion bash)
# For every user: ${name} completion bash > /etc/bash_completion.d/${name}
${commonFunctions(model)}
_${name}() {
  local at position open many line word=\${COMP_WORDS[COMP_CWORD]}
  __${name}_walk "\${COMP_WORDS[@]:1:COMP_CWORD-1}"
  # bash takes --option=value for three words.
  [ "$word" != = ] || word=
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      @file) compopt -o default ;;
      @directory) compopt -o dirnames ;;
      *) line=\${line%%:*}; [[ $line != "$word"* ]] || COMPREPLY+=("$line") ;;
    esac
  done < <(__${name}_offer "$word")
}
complete -F _${name} ${name}
`;
}
