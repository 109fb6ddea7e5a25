import type { CompletionModel } from "./model.ts";
import { commonFunctions } from "./shell.ts";

/** A script for zsh with its completion system (compinit), to be sourced or put into a directory of $fpath. */
export function zshCompletion(model: CompletionModel): string {
  const { name } = model;
  return `#compdef ${name}
# zsh completion for ${name}. To load it, after compinit: source <(${name} completion zsh)
# For every user: ${name} completion zsh > /usr/local/share/zsh/site-functions/_${name}
${commonFunctions(model)}
_${name}() {
  local at position open many word=$words[CURRENT]
  local -a found
  __${name}_walk "\${(@)words[2,CURRENT-1]}"
  case $word in
    -*=*)
      __${name}_takes "\${word%%=*}"
      [ -n "$open" ] || return 1
      compset -P '*='
      word=\${word#*=}
      ;;
  esac
  found=("\${(@f)$(__${name}_offer "$word")}")
  case $found in
    "") return 1 ;;
    @file) _files ;;
    @directory) _files -/ ;;
    *) _describe -V '${name}' found ;;
  esac
}
if [ "$funcstack[1]" = _${name} ]; then
  _${name} "$@"
else
  compdef _${name} ${name}
fi
`;
}
