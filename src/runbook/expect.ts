import type { ExpectLine, ExpectRule, Quantifier } from "./runbook.ts";

/*
 * Expected output as scrut (github.com/facebookincubator/scrut) writes it: one line of expectation for one line of
 * output, compared as it is unless it ends in ` (glob)`, ` (re)` and the like. `?`, `*` and `+` in the parentheses
 * stand for none or one line, any number, and at least one.
 */

const rules: Readonly<Record<string, ExpectRule>> = {
  "": "equal",
  equal: "equal",
  glob: "glob",
  gl: "glob",
  re: "regex",
  regex: "regex",
};

/** One line of a `text {expect=...}` block, or a sentence on what is wrong with it. */
export function readExpectLine(text: string, line: number): ExpectLine | string {
  const [, body = "", word = "", quantifier = ""] = /^(.*) \(([a-z]*)([?*+]?)\)$/.exec(text) ?? [];
  const rule = Object.hasOwn(rules, word) ? rules[word] : undefined;
  if (rule === undefined || word + quantifier === "") return { rule: "equal", text, quantifier: "", line };
  const made: ExpectLine = { rule, text: body, quantifier: quantifier as Quantifier, line };
  return rule === "regex" ? (regexFault(body) ?? made) : made;
}

function regexFault(text: string): string | undefined {
  try {
    whole(text);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.replace(/^Invalid/, "invalid") : "invalid regular expression";
  }
}

/** Null where the output is as expected, else a readable difference. */
export function compareOutput(expected: readonly ExpectLine[], output: string): string | null {
  const lines = outputLines(output);
  return fits(expected, lines) ? null : difference(expected, lines);
}

/** Without a final newline; no output is no line. */
function outputLines(output: string): string[] {
  const lines = output.replaceAll("\r\n", "\n").split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/**
 * Whether all lines can be shared out among the expectations. `reached` holds how many lines may be used up after each
 * expectation, so that the work is at most lines × expectations, whatever the quantifiers.
 */
function fits(expected: readonly ExpectLine[], lines: readonly string[]): boolean {
  let reached = new Set([0]);
  for (const each of expected) reached = afterOne(each, lines, reached);
  return reached.has(lines.length);
}

function afterOne(each: ExpectLine, lines: readonly string[], before: ReadonlySet<number>): Set<number> {
  const after = new Set<number>();
  const many = each.quantifier === "*" || each.quantifier === "+";
  const matches = matcherOf(each);
  for (const start of before) {
    if (each.quantifier === "?" || each.quantifier === "*") after.add(start);
    for (let at = start; at < lines.length && matches(lines[at] ?? ""); at += 1) {
      if (after.has(at + 1) && at > start) break;
      after.add(at + 1);
      if (!many) break;
    }
  }
  return after;
}

function matcherOf({ rule, text }: ExpectLine): (line: string) => boolean {
  if (rule === "equal") return (line) => line === text;
  const pattern = rule === "glob" ? globPattern(text) : whole(text);
  return (line) => pattern.test(line);
}

function whole(text: string): RegExp {
  return new RegExp(`^(?:${text})$`, "u");
}

/** `*` is anything, `?` one character, as scrut has it: a file-name matcher would stop at slashes. */
function globPattern(text: string): RegExp {
  const escaped = text.replace(/[.+^${}()|[\]\\/-]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`, "su");
}

/** Lines that fit, from the start, with a space; then what was expected and what came. At most ten of each. */
function difference(expected: readonly ExpectLine[], lines: readonly string[]): string {
  let same = 0;
  while (same < lines.length && same < expected.length && fits(expected.slice(0, same + 1), lines.slice(0, same + 1))) {
    same += 1;
  }
  const missing = expected.slice(same).map((each) => `- ${expectText(each)}`);
  const surplus = lines.slice(same).map((line) => `+ ${line}`);
  const rest = [...shortened(missing), ...shortened(surplus)];
  return [...shortened(lines.slice(0, same).map((line) => `  ${line}`)), ...rest].join("\n");
}

function expectText({ rule, text, quantifier }: ExpectLine): string {
  const word = { equal: "", glob: "glob", regex: "re" }[rule];
  return word + quantifier === "" ? text : `${text} (${word}${quantifier})`;
}

function shortened(lines: readonly string[]): string[] {
  return lines.length <= 10
    ? [...lines]
    : [...lines.slice(0, 10), `${lines[0]?.[0] ?? " "} ... ${lines.length - 10} more`];
}
