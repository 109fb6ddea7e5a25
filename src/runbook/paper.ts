import type { Block, ExpectLine, Runbook, Step } from "./runbook.ts";
import { readShell } from "./shell.ts";
import type { EffectiveValue } from "./values.ts";
import { confirmOf, durationWords, riskWords } from "./words.ts";

/** Columns of the sheet. */
const width = 80;

/**
 * A runbook as a sheet to print: plain text of 80 columns with boxes to tick, room for time and initials, and commands as
 * they are pasted into one root shell on a machine where this program does not run. The same runbook and values give the
 * same text. A command that can't be broken into lines is longer than the sheet is wide.
 */
export function paperText(runbook: Runbook, values: readonly EffectiveValue[]): string {
  const lines = [
    ...head(runbook),
    ...preparation(runbook, values),
    ...runbook.steps.flatMap((step) => ["", rule("-"), ...stepLines(step)]),
    "",
    rule("="),
    "IF THIS FAILS",
    ...prose(runbook.ifThisFails, 2),
    "",
    "Ended at ______________   Result ____________________________   Initials ______",
  ];
  return `${lines.map((line) => line.trimEnd()).join("\n")}\n`;
}

function head({
  id,
  title,
  name,
  sha256,
  severity,
  rtoMs,
  hosts,
  alerts,
  requires,
  when,
  impact,
  never,
}: Runbook): string[] {
  const needs = [
    ...(requires.root ? ["root"] : []),
    ...(requires.postfix === null ? [] : [`Postfix ${requires.postfix}`]),
    ...requires.commands,
  ];
  return [
    rule("="),
    ...wrap(title.startsWith(id) ? title : `${id} ${title}`, ""),
    `${name}.md, ${severity}, sha256 ${sha256.slice(0, 16)}`,
    rule("="),
    ...wrap(when, "When    "),
    ...wrap(impact, "Impact  "),
    ...wrap(never, "NEVER   "),
    ...wrap(`${durationWords(rtoMs)} for all of it`, "Time    "),
    ...wrap({ any: "any host", primary: "the primary", standby: "the standby" }[hosts], "On      "),
    ...(needs.length === 0 ? [] : wrap(needs.join(", "), "Needs   ")),
    ...(alerts.length === 0 ? [] : wrap(alerts.join(", "), "Alarms  ")),
    "",
    "Host _________________________   Date ______________   By _____________________",
    "Started at ______________        Called by ____________________________________",
  ];
}

/** What the runner would give to every block, and the variables, each with its value. */
function preparation({ steps, secrets, variables }: Runbook, values: readonly EffectiveValue[]): string[] {
  const scripts = steps.flatMap(blocksOf).map(({ script }) => script);
  const needsDirectory = [...scripts, ...variables.map((each) => each.default)].some((script) =>
    /\bSPOOLSAFE_RUN_(ID|DIR)\b/.test(script),
  );
  const directory = [
    'export SPOOLSAFE_RUN_ID="$(date -u +%Y%m%dT%H%M%S)-by-hand"',
    'export SPOOLSAFE_RUN_DIR="/var/tmp/$SPOOLSAFE_RUN_ID"',
    'mkdir -m 0700 "$SPOOLSAFE_RUN_DIR"',
  ];
  const asked = secrets.flatMap((name) => [`read -rsp '${name}: ' ${name}`, `export ${name}; echo`]);
  const exported = values.filter(({ value }) => value !== null).map(exportLine);
  const lines = [...(needsDirectory ? directory : []), ...asked, ...exported];
  if (lines.length === 0) return [];
  return [
    "",
    "[ ] First, in a root shell (bash), into which all of this is pasted",
    "",
    ...lines.map((line) => `    ${line}`),
  ];
}

/** A value that was given stands in single quotes; a default stays shell text, which the shell computes. */
function exportLine({ name, value, origin }: EffectiveValue): string {
  if (value === "") return `export ${name}=""   # <- fill in: ____________________`;
  if (origin === "default") return `export ${name}="${value ?? ""}"`;
  return `export ${name}='${(value ?? "").replaceAll("'", `'\\''`)}'`;
}

function blocksOf({ pre, action, verify, undo }: Step): Block[] {
  return [...pre, action, ...verify, ...(undo === null ? [] : [undo])];
}

function stepLines({ heading, prose: text, pre, action, verify, undo }: Step): string[] {
  return [
    ...wrap(heading, "[ ] "),
    ...prose(text, 4),
    ...pre.flatMap((block) => ["", ...wrap(`Before: must succeed${limits(block)}`, "    [ ] "), ...commands(block)]),
    "",
    ...actionLines(action),
    ...verify.flatMap((block) => [
      "",
      ...wrap(`Check: must succeed${limits(block)}`, "    [ ] "),
      ...commands(block),
      ...expected(block),
    ]),
    "",
    "    Done at ______________   Initials ______   Notes ___________________________",
    ...(undo === null ? [] : ["", `    To take this step back${limits(undo)}:`, ...commands(undo)]),
  ];
}

function actionLines(action: Block): string[] {
  const risk = action.risk === null ? "" : `: ${riskWords[action.risk]}`;
  const sure =
    confirmOf(action) === "type"
      ? ["    [ ] This is the right host. Its name: _____________________________________"]
      : [];
  const what = action.kind === "manual" ? "By hand" : "Do";
  return [...sure, ...wrap(`${what}${risk}${limits(action)}`, "    [ ] "), ...commands(action)];
}

function limits({ timeoutMs, retry, everyMs }: Block): string {
  if (!Number.isFinite(timeoutMs)) return "";
  const tries = retry > 1 ? `; up to ${retry} tries, ${durationWords(everyMs)} apart` : "";
  return `; at most ${durationWords(timeoutMs)}${tries}`;
}

/**
 * In parentheses where there is more than one command: pasted, the second would run although the first has failed, and an
 * `exit` would end the shell. What exports something for later has to stay in that shell.
 */
function commands({ kind, script }: Block): string[] {
  const lines = brokenLines(script, width - 8);
  const shell = readShell(script);
  const several = shell.commands.length > 1 || shell.commands.some(({ words }) => words[0]?.text === "exit");
  const enclosed = several && kind !== "manual" && shell.exports.size === 0;
  return (enclosed ? ["( set -euo pipefail", ...lines, ")"] : lines).map((line) => `        ${line}`);
}

function expected({ expect }: Block): string[] {
  if (expect === null) return [];
  if (expect.length === 0) return ["        and print nothing"];
  return ["        and print", ...expect.map((line) => `          ${expectedText(line)}`)];
}

function expectedText({ rule: how, text, quantifier }: ExpectLine): string {
  const times = { "": "", "?": "   (this line, or not)", "*": "   (any number of such lines)", "+": "   (such lines)" }[
    quantifier
  ];
  return { equal: "| ", glob: "like | ", regex: "matching | " }[how] + text + times;
}

/**
 * Script lines broken with a backslash where they are too long, at blanks that are neither in quotes nor in a
 * here-document, so that they mean the same.
 */
function brokenLines(script: string, columns: number): string[] {
  const lines = script.split("\n");
  if (script.includes("<<") && !/<<</.test(script)) return lines;
  let quote = "";
  return lines.flatMap((line) => {
    const { places, open } = blanksOutsideQuotes(line, quote);
    quote = open;
    return breakAt(line, places, columns);
  });
}

function blanksOutsideQuotes(
  line: string,
  opened: string,
): { readonly places: readonly number[]; readonly open: string } {
  const places: number[] = [];
  let quote = opened;
  for (let at = 0; at < line.length; at += 1) {
    const character = line[at] ?? "";
    if (character === "\\" && quote !== "'") at += 1;
    else if (quote === "" && character === "#" && (at === 0 || line[at - 1] === " ")) break;
    else if (quote === "" && (character === "'" || character === '"')) quote = character;
    else if (character === quote) quote = "";
    else if (quote === "" && character === " " && at > 0) places.push(at);
  }
  return { places, open: quote };
}

function breakAt(line: string, places: readonly number[], columns: number): string[] {
  const broken: string[] = [];
  let from = 0;
  while (line.length - from + (from > 0 ? 2 : 0) > columns) {
    const room = from + columns - 2 - (from > 0 ? 2 : 0);
    const place = places.filter((each) => each > from && each <= room).at(-1);
    if (place === undefined) break;
    broken.push(`${from > 0 ? "  " : ""}${line.slice(from, place)} \\`);
    from = place + 1;
  }
  return [...broken, `${from > 0 ? "  " : ""}${line.slice(from)}`];
}

/** Markdown as text: paragraphs wrapped, lists and tables line by line, without marks of emphasis. */
function prose(markdown: string, indent: number): string[] {
  const paragraphs = markdown.split(/\n\s*\n/).filter((text) => text.trim() !== "");
  return paragraphs.flatMap((paragraph) => ["", ...paragraphLines(paragraph, " ".repeat(indent))]);
}

function paragraphLines(paragraph: string, indent: string): string[] {
  const items = paragraph.split(/\n(?=\s*(?:[-*+]|\d+\.) |\||#)/);
  return items.flatMap((item) => {
    const [, mark = "", text = ""] = /^(\s*(?:[-*+]|\d+\.) )?([\s\S]*)$/.exec(item) ?? [];
    return text.startsWith("|") ? [`${indent}${text}`] : wrap(plain(text), `${indent}${mark}`);
  });
}

function plain(text: string): string {
  return text
    .replace(/\[([^\]]*)\]\(([^)]*)\)/g, (_, words: string, url: string) =>
      /^https?:/.test(url) ? `${words} <${url}>` : words,
    )
    .replace(/^#+ /, "")
    .replaceAll("**", "")
    .replace(/\s+/g, " ")
    .trim();
}

/** The text after a label, in lines of the sheet; further lines are indented as far as the label. */
function wrap(text: string, label: string): string[] {
  const lines: string[] = [];
  let line = label;
  let empty = true;
  for (const word of text.split(/\s+/).filter((each) => each !== "")) {
    if (!empty && line.length + 1 + word.length > width) {
      lines.push(line);
      line = " ".repeat(label.length);
      empty = true;
    }
    line += empty ? word : ` ${word}`;
    empty = false;
  }
  return [...lines, line];
}

function rule(character: string): string {
  return character.repeat(width);
}
