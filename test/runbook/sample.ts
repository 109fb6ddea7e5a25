import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Finding } from "../../src/runbook/finding.ts";
import { lintRunbook } from "../../src/runbook/lint.ts";
import { readRunbook } from "../../src/runbook/parse.ts";

/** A runbook with nothing wrong in it that no test executes. */
export const samplePath = join(import.meta.dirname, "../fixtures/runbooks/50-sample.md");
export const sampleText = readFileSync(samplePath, "utf8");

/** The sample with one thing in it replaced, which must be there once. */
export function changed(from: string, to: string, text = sampleText): string {
  const parts = text.split(from);
  if (parts.length !== 2) throw new Error(`${parts.length - 1} times in the sample: ${from}`);
  return parts.join(to);
}

/** The sample with a script in place of its first action's: one line, or several. */
export function withAction(...lines: readonly string[]): string {
  return changed('postqueue -j > "$SPOOLSAFE_RUN_DIR/queue.jsonl"', lines.join("\n")).replace(
    "{name=count risk=read timeout=1m}",
    "{name=count risk=change timeout=1m}",
  );
}

/** The sample with a script in place of its first check's, and no expectation. */
export function withVerify(...lines: readonly string[]): string {
  const script = 'jq -r .queue_name "$SPOOLSAFE_RUN_DIR/queue.jsonl" | sort -u';
  return changed(script, lines.join("\n")).replace(/```text \{expect=count-verify\}\n[^`]*```\n/, "");
}

export function lint(text: string, path = samplePath): Finding[] {
  return lintRunbook(readRunbook(text, path), {
    path,
    ids: new Set(["RB-50", "RB-51"]),
    names: new Set(["50-sample", "51-other"]),
  });
}

/** The number of the first line that is this, or else has it in it. */
export function lineOf(text: string, what: string): number {
  const lines = text.split("\n");
  const index = lines.includes(what) ? lines.indexOf(what) : lines.findIndex((line) => line.includes(what));
  if (index < 0) throw new Error(`no line has ${what}`);
  return index + 1;
}
