import type { CommandUnknownOpts } from "@commander-js/extra-typings";
import { bashCompletion } from "../completion/bash.ts";
import { fishCompletion } from "../completion/fish.ts";
import { completionModel } from "../completion/model.ts";
import { zshCompletion } from "../completion/zsh.ts";
import type { Context } from "../context.ts";

export const shells = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion } as const;

/** `spoolsafe completion bash|zsh|fish`: the script, on standard output. */
export async function run(
  { render }: Context,
  shell: keyof typeof shells,
  program: CommandUnknownOpts,
): Promise<number> {
  const script = shells[shell](completionModel(program));
  render.line({ type: "completion", shell, script });
  render.summary({ count: 1 });
  render.text(script.trimEnd());
  return 0;
}
