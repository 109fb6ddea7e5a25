import { spawnSync } from "node:child_process";
import { OperatorError } from "../errors.ts";
import { type Finding, inFileOrder } from "./finding.ts";
import { lintShell, type ReadBlock } from "./lint-shell.ts";
import { lintText, type Surroundings } from "./lint-text.ts";
import type { Reading } from "./parse.ts";
import { readShell } from "./shell.ts";

/**
 * Everything that is wrong or unwise in a runbook: its mistakes, and what has lost mail or time in others. Runs `bash -n`,
 * which executes nothing.
 *
 * @returns in the order of the file; none means that it may be trusted as far as reading can tell
 * @throws OperatorError `program-failed` where there is no bash
 */
export function lintRunbook(reading: Reading, surroundings: Surroundings): Finding[] {
  const blocks: ReadBlock[] = reading.blocks.map((block) => ({ block, shell: readShell(block.script) }));
  return inFileOrder([
    ...reading.mistakes,
    ...lintText(reading, surroundings),
    ...lintShell(reading, blocks),
    ...lintSyntax(blocks),
  ]);
}

/** What bash said of a script: the same guards stand in many runbooks. */
const asked = new Map<string, readonly string[]>();

/** All new blocks by one process: bash starts a bash for each, which reads it and ends. */
function lintSyntax(blocks: readonly ReadBlock[]): Finding[] {
  const scripts = new Set(blocks.map(({ block }) => block.script).filter((script) => !asked.has(script)));
  if (scripts.size > 0) askBash([...scripts]);
  return blocks.flatMap(({ block }) => (asked.get(block.script) ?? []).flatMap((told) => syntaxFinding(block, told)));
}

function askBash(scripts: readonly string[]): void {
  const each =
    'i=0; for script; do bash --noprofile --norc -n -c "$script" 2>&1 | while IFS= read -r line; do echo "$i $line"; done; i=$((i+1)); done';
  const words = scripts.map((script) => script.replaceAll("\0", ""));
  const { status, stdout, error } = spawnSync("bash", ["--noprofile", "--norc", "-c", each, "bash", ...words], {
    encoding: "utf8",
    env: { PATH: process.env.PATH, LC_ALL: "C" },
    stdio: ["ignore", "pipe", "ignore"],
  });
  if (status !== 0)
    throw new OperatorError("program-failed", "bash can't be run to check the syntax", { cause: error });
  const lines = stdout.split("\n");
  for (const [index, script] of scripts.entries()) {
    asked.set(
      script,
      lines.filter((line) => line.startsWith(`${index} `)),
    );
  }
}

function syntaxFinding({ script, line: fence }: ReadBlock["block"], told: string): Finding[] {
  const [, line = "", message = ""] = /^\d+ bash: (?:-c: )?line (\d+): (.*)$/.exec(told) ?? [];
  // Bash shows the line itself in a second line, in quotes.
  if (line === "" || /^`.*'$/.test(message)) return [];
  const at = Math.min(Number(line), script.split("\n").length);
  return [{ line: fence + at, rule: "syntax", message: `bash says: ${message}` }];
}
