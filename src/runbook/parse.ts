import { createHash } from "node:crypto";
import { basename } from "node:path";
import { type Attributes, readAttributes } from "./attributes.ts";
import { readExpectLine } from "./expect.ts";
import { type Finding, inFileOrder, RunbookFault } from "./finding.ts";
import { type FrontMatter, readFrontMatter } from "./front-matter.ts";
import { type Fence, readMarkdown, type Section, type Sheet } from "./markdown.ts";
import { type Block, defaultEveryMs, defaultTimeoutMs, type ExpectLine, type Runbook, type Step } from "./runbook.ts";
import { readVariables } from "./values.ts";

/**
 * Reads the text of a runbook.
 *
 * @param path named in errors; the file's name without `.md` is the runbook's name
 * @throws RunbookFault (kind `config`) with every mistake that keeps it from being executed as it is written, each with
 * its line. What else is unwise is lint's to say.
 */
export function parseRunbook(text: string, path: string): Runbook {
  const { runbook, mistakes } = readRunbook(text, path);
  if (runbook === null) throw new RunbookFault(path, mistakes);
  return runbook;
}

/** A block, and what its fence says besides. */
export interface WrittenBlock extends Block {
  readonly attributes: Attributes;
  /** In the step's section; null before the first `##`. */
  readonly section: Section | null;
}

/** A runbook as far as it can be read: lint looks at every block, also of one that can't be executed. */
export interface Reading {
  /** Null where there are mistakes. */
  readonly runbook: Runbook | null;
  readonly mistakes: readonly Finding[];
  readonly text: string;
  readonly sheet: Sheet;
  readonly front: FrontMatter | null;
  /** These three are empty where they are missing. */
  readonly title: string;
  readonly when: string;
  readonly impact: string;
  readonly blocks: readonly WrittenBlock[];
}

/** Never throws: mistakes are part of the result. */
export function readRunbook(text: string, path: string): Reading {
  // A mistake, told once, and not the others that follow from it.
  const sheet = readMarkdown(text.replaceAll("\r\n", "\n").replaceAll("\r", " "));
  const mistakes: Finding[] = [...sheet.findings, ...strangeCharacters(text)];
  const tell: Tell = (line, rule, message) => void mistakes.push({ line, rule, message });
  const front = sheet.front === null ? null : readFrontMatter(sheet.front.text, sheet.front.line);
  if (front === null)
    tell(1, "front-matter", "there is no front matter: the first line is `---`, then `shell: bash` ...");
  mistakes.push(...(front?.findings ?? []));

  const start = readBlocks(sheet.start, null, tell);
  const parts = sheet.sections.map((section) => ({ section, blocks: readBlocks(section, section, tell) }));
  const blocks = [...start, ...parts.flatMap((part) => part.blocks)];
  checkNames(blocks, tell);
  const vars = checkVars(start, tell);
  const variables = vars === null ? [] : readVariables(vars.script, vars.line + 1, tell);
  const steps = parts.flatMap(({ section, blocks: own }) => (own.length === 0 ? [] : readStep(section, own, tell)));
  if (!parts.some((part) => part.blocks.length > 0)) {
    tell(1, "no-steps", "no steps: a step is a `##` heading with blocks `sh {name=...}` below it");
  }

  const lead = (word: string) => sheet.leads.find((each) => each.word === word)?.text ?? "";
  const words = { title: sheet.titles[0]?.text ?? "", when: lead("When"), impact: lead("Impact") };
  const made = { text, sheet, front: front?.values ?? null, ...words, blocks, mistakes: inFileOrder(mistakes) };
  if (mistakes.length > 0 || made.front === null) return { ...made, runbook: null };
  const { id, severity, rto, alerts, hosts, requires, secrets, changes, undo } = made.front;
  const runbook: Runbook = {
    ...{ id, severity, rtoMs: rto, alerts, hosts, requires, secrets, changes, undo },
    name: basename(path).replace(/\.md$/, ""),
    path,
    sha256: createHash("sha256").update(text).digest("hex"),
    ...words,
    text,
    never: lead("Never"),
    ifThisFails: sheet.sections.find(isIfThisFails)?.prose ?? "",
    ...{ variables, vars: vars === null ? null : plain(vars), steps },
  };
  return { ...made, runbook };
}

type Tell = (line: number, rule: string, message: string) => void;

export function isIfThisFails({ heading }: Section): boolean {
  return /^(\d+\. )?if this fails$/i.test(heading);
}

/** What would not be seen: a terminal or an editor shows such text other than bash reads it. */
function strangeCharacters(text: string): Finding[] {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const strange = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u00a0\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffd]/u;
  return text.split("\n").flatMap((line, index) => {
    const found = strange.exec(line)?.[0];
    if (found === undefined) return [];
    const code = `U+${(found.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}`;
    const what =
      found === "\r" ? "a carriage return: lines end in a newline alone" : `a character nobody sees, ${code}`;
    return [{ line: index + 1, rule: "characters", message: what }];
  });
}

/** The blocks of a section, with the output that their text blocks expect. */
function readBlocks(section: Section, own: Section | null, tell: Tell): WrittenBlock[] {
  const blocks: WrittenBlock[] = [];
  const expectations = new Map<string, { readonly line: number; readonly lines: readonly ExpectLine[] }>();
  for (const fence of section.fences) {
    const [, language = "", space = "", rest = ""] = /^([^\s{]*)(\s*)(.*)$/.exec(fence.info) ?? [];
    if (language === "sh") blocks.push(readBlock(fence, own, space, rest, tell));
    else if (language === "text" && rest !== "") readExpectation(fence, space, rest, expectations, tell);
    else if (/^(bash|shell|zsh|ksh|dash|console|sh-?session)$/.test(language) || rest !== "") {
      tell(fence.line, "language", `a block to be run is \`sh {name=...}\`, expected output \`text {expect=...}\``);
    }
  }
  for (const [name, { line }] of expectations) {
    if (blocks.some((block) => block.name === name && block.kind === "verify")) continue;
    tell(line, "unknown-name", `expect=${name}: no verify block under this heading has that name`);
  }
  return blocks.map((block) => ({ ...block, expect: expectations.get(block.name)?.lines ?? null }));
}

function readBlock(fence: Fence, section: Section | null, space: string, rest: string, tell: Tell): WrittenBlock {
  const mistakes: string[] = [];
  const attributes = rest === "" ? {} : readAttributes(rest, "sh", mistakes);
  if (rest !== "" && space !== " ") mistakes.push("one space stands between `sh` and the braces");
  if (attributes.name === undefined && mistakes.length === 0) {
    mistakes.push("this block has no name: `sh {name=...}`, or `text` for what is not to be run");
  }
  for (const message of mistakes) tell(fence.line, "attributes", message);
  if (fence.lines.every((line) => line.trim() === "")) tell(fence.line, "empty-block", "this block is empty");
  const kind = attributes.kind ?? "do";
  return {
    name: attributes.name ?? "",
    kind,
    line: fence.line,
    script: fence.lines.join("\n"),
    risk: attributes.risk ?? null,
    confirm: attributes.confirm ?? null,
    timeoutMs: attributes.timeout ?? defaultTimeoutMs[kind],
    retry: attributes.retry ?? 1,
    everyMs: attributes.every ?? defaultEveryMs,
    expect: null,
    attributes,
    section,
  };
}

function readExpectation(
  fence: Fence,
  space: string,
  rest: string,
  expectations: Map<string, { readonly line: number; readonly lines: readonly ExpectLine[] }>,
  tell: Tell,
): void {
  const mistakes: string[] = [];
  const { expect } = readAttributes(rest, "text", mistakes);
  if (space !== " ") mistakes.push("one space stands between `text` and the braces");
  if (expect === undefined && mistakes.length === 0) mistakes.push("expect=NAME is missing");
  for (const message of mistakes) tell(fence.line, "attributes", message);
  if (expect === undefined) return;
  if (expectations.has(expect)) tell(fence.line, "attributes", `the output of ${expect} is expected twice`);
  const lines = fence.lines.map((text, index) => readExpectLine(text, fence.line + 1 + index));
  for (const [index, line] of lines.entries()) {
    if (typeof line === "string") tell(fence.line + 1 + index, "expectation", line);
  }
  expectations.set(expect, { line: fence.line, lines: lines.filter((line) => typeof line !== "string") });
}

function checkNames(blocks: readonly WrittenBlock[], tell: Tell): void {
  const lines = new Map<string, number>();
  for (const { name, line } of blocks.filter((block) => block.name !== "")) {
    const first = lines.get(name);
    if (first === undefined) lines.set(name, line);
    else tell(line, "duplicate-name", `the name ${name} is taken by the block in line ${first}`);
  }
}

/** The vars block; blocks of other kinds have no place before the first `##`. */
function checkVars(start: readonly WrittenBlock[], tell: Tell): WrittenBlock | null {
  const [vars = null, ...more] = start.filter(({ kind }) => kind === "vars");
  for (const { line } of more) tell(line, "vars", "there is a block of variables already");
  for (const { line, kind } of start.filter((block) => block.kind !== "vars")) {
    tell(line, "structure", `a block of kind ${kind} belongs under a \`##\` heading`);
  }
  return vars;
}

function readStep(section: Section, blocks: readonly WrittenBlock[], tell: Tell): Step[] {
  const of = (kind: Block["kind"]) => blocks.filter((block) => block.kind === kind).map(plain);
  const actions = blocks.filter(({ kind }) => kind === "do" || kind === "manual");
  // One without a name is told of already, and is perhaps an illustration.
  const named = actions.filter(({ name }) => name !== "");
  const [action, ...moreActions] = named.length === 0 ? actions.slice(0, 1) : named;
  const [undo = null, ...moreUndos] = of("undo");
  for (const { line } of of("vars")) tell(line, "vars", "variables stand before the first `##` heading");
  for (const { line, name } of moreActions) {
    tell(line, "structure", `${name} is a second action under one heading: a step has one`);
  }
  for (const { line } of moreUndos) tell(line, "structure", "this is a second undo under one heading: a step has one");
  if (action === undefined) tell(section.line, "structure", "this step has no action: a block of kind do or manual");
  if (of("verify").length === 0) tell(section.line, "missing-verify", "this step has no verify block");
  if (action === undefined) return [];
  const { heading, line, prose } = section;
  return [
    { name: action.name, heading, line, prose, pre: of("pre"), action: plain(action), verify: of("verify"), undo },
  ];
}

function plain({ attributes: _, section: __, ...block }: WrittenBlock): Block {
  return block;
}
