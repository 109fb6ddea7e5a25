import { existsSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Finding } from "./finding.ts";
import type { Section } from "./markdown.ts";
import { isIfThisFails, type Reading, type WrittenBlock } from "./parse.ts";

/** What is around a runbook. */
export interface Surroundings {
  /** Absolute path of the file, from where its links lead; what its name should be follows from it. */
  readonly path: string;
  /** Ids of all runbooks there are, with this one's own. */
  readonly ids: ReadonlySet<string>;
  /** Their names, such as 09-stuck-hold. */
  readonly names: ReadonlySet<string>;
}

/** Longest line, in characters: a sheet of paper and a serial console have no more. */
const widest = 100;
/** Most lines of a block: longer logic belongs in a command, where it is tested. */
const longest = 12;

/** What is wrong with the words, the order of things and what fences say; the shell is looked at elsewhere. */
export function lintText(reading: Reading, surroundings: Surroundings): Finding[] {
  return [
    ...lintLines(reading),
    ...lintTitle(reading, surroundings),
    ...lintLeads(reading),
    ...lintEnd(reading),
    ...lintLinks(reading, surroundings),
    ...reading.blocks.filter(isReadable(reading)).flatMap((block) => lintFence(block, reading)),
    ...reading.sheet.sections.flatMap((section) => lintOrder(section, reading)),
    ...lintPromise(reading),
  ];
}

function lintLines({ text }: Reading): Finding[] {
  return text.split("\n").flatMap((line, index) => {
    // A row of a table can't be broken.
    if (line.length <= widest || line.startsWith("|")) return [];
    const message = `${line.length} characters: a line has at most ${widest}`;
    return [{ line: index + 1, rule: "long-line", message }];
  });
}

function lintTitle({ sheet, front }: Reading, { path }: Surroundings): Finding[] {
  const [title, ...more] = sheet.titles;
  if (title === undefined) return [{ line: 1, rule: "title", message: "there is no title: a `#` heading" }];
  const findings = more.map(({ line }) => ({ line, rule: "title", message: "there is one `#` heading in a runbook" }));
  if (front === null) return findings;
  if (!title.text.startsWith(`${front.id} `)) {
    findings.push({ line: title.line, rule: "title", message: `the title begins with the id: # ${front.id} ...` });
  }
  const number = /^(\d{2,})-/.exec(basename(path))?.[1];
  if (number !== undefined && !front.id.endsWith(`-${number}`)) {
    const message = `the file's number is ${number}, and the id is ${front.id}: they are called by either`;
    findings.push({ line: sheet.front?.line ?? 1, rule: "id", message });
  }
  return findings;
}

function lintLeads({ sheet }: Reading): Finding[] {
  const words = sheet.leads.map(({ word }) => word);
  const line = sheet.titles[0]?.line ?? 1;
  const missing = ["When", "Impact", "Never"].filter((word) => !words.includes(word));
  if (missing.length > 0) {
    const said = missing.map((word) => `**${word}**`).join(", ");
    return [{ line, rule: "leads", message: `${said} is missing between the title and the first \`##\`` }];
  }
  if (words.join(" ") === "When Impact Never") {
    return sheet.leads
      .filter(({ text }) => text === "")
      .map((lead) => ({ line: lead.line, rule: "leads", message: `nothing follows **${lead.word}**` }));
  }
  return [
    {
      line: sheet.leads[0]?.line ?? line,
      rule: "leads",
      message: "it begins with When, Impact, Never, once each, in this order",
    },
  ];
}

function lintEnd({ sheet }: Reading): Finding[] {
  const last = sheet.sections.at(-1);
  if (last !== undefined && isIfThisFails(last) && last.prose.trim() !== "") return [];
  const message = "the last section is `## If this fails`: whom to call, which runbook is next";
  return [{ line: last?.line ?? 1, rule: "if-this-fails", message }];
}

function lintLinks({ sheet, text }: Reading, { path, ids, names }: Surroundings): Finding[] {
  const links = sheet.links.flatMap(({ url, line }) => {
    const [file = ""] = decodeURI(url).split("#");
    if (/^[a-z][a-z0-9+.-]*:/i.test(url) || file === "" || existsSync(resolve(dirname(path), file))) return [];
    return [{ line, rule: "unknown-name", message: `the link leads to ${file}, which is not there` }];
  });
  const called = text.split("\n").flatMap((line, index) =>
    [...line.matchAll(/\bRB-\d+\b|`\d\d-[a-z]+(?:-[a-z0-9]+)*`/g)]
      .map(([called]) => called.replaceAll("`", ""))
      .filter((called) => !ids.has(called) && !names.has(called))
      .map((called) => ({ line: index + 1, rule: "unknown-name", message: `there is no runbook ${called}` })),
  );
  return [...links, ...called];
}

/** A fence that could not be read has said nothing yet. */
function isReadable({ mistakes }: Reading): (block: WrittenBlock) => boolean {
  return ({ line }) => !mistakes.some((mistake) => mistake.line === line && mistake.rule === "attributes");
}

function lintFence(block: WrittenBlock, { front }: Reading): Finding[] {
  const { kind, line, attributes, script, retry } = block;
  const findings: Finding[] = [];
  const tell = (rule: string, message: string) => void findings.push({ line, rule, message });
  const lines = script.split("\n").length;
  if (lines > longest)
    tell("long-block", `${lines} lines: a block has at most ${longest}; longer logic is a command's`);
  if ((kind === "undo" || kind === "manual") && attributes.excludeFromRunAll === undefined) {
    tell("run-all", `a block of kind ${kind} says excludeFromRunAll=true, or \`runme run --all\` executes it`);
  }
  if (kind === "do" && attributes.risk === undefined) tell("risk", "risk=read, change or destructive is missing");
  if (attributes.risk === "destructive" && attributes.confirm !== "type") {
    tell("confirm", "what can't be taken back is confirmed by typing: confirm=type");
  }
  if ((kind === "do" || kind === "undo") && attributes.timeout === undefined) {
    tell("timeout", `timeout= is missing: a block of kind ${kind} says how long it may take`);
  }
  if (retry > 1 && attributes.every === undefined)
    tell("timeout", "retry= needs every=: how long to wait between two tries");
  const longestMs = Number.isFinite(block.timeoutMs) ? retry * block.timeoutMs + (retry - 1) * block.everyMs : 0;
  if (front !== null && (attributes.timeout ?? 0) > front.rto) {
    tell("timeout", "this block alone may take longer than the budget (rto) of all");
  } else if (front !== null && retry > 1 && longestMs > 3 * front.rto) {
    tell("timeout", "all tries together may take more than three times the budget (rto) of all");
  }
  return findings;
}

/** Whoever pastes from top to bottom must come by them in the order in which they are run. */
function lintOrder(section: Section, { blocks }: Reading): Finding[] {
  const ranks = { vars: 0, pre: 1, do: 2, manual: 2, verify: 3, undo: 4 };
  const own = blocks.filter((block) => block.section === section);
  const late = own.find((block, index) => ranks[block.kind] < ranks[own[index - 1]?.kind ?? "vars"]);
  if (late === undefined) return [];
  return [
    { line: late.line, rule: "order", message: "the blocks of a step stand in this order: pre, action, verify, undo" },
  ];
}

/** `undo: true` says that undoing every step leads back to the start. */
function lintPromise({ runbook }: Reading): Finding[] {
  if (runbook === null || !runbook.undo) return [];
  return runbook.steps
    .filter(({ action, undo }) => undo === null && action.risk !== "read" && action.kind === "do")
    .map(({ line }) => ({
      line,
      rule: "undo-promise",
      message: "`undo: true` promises a way back, and this step changes something without an undo block",
    }));
}
