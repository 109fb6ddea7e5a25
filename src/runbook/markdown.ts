import type { Code, Heading, Nodes, Paragraph, Root, RootContent, Yaml } from "mdast";
import { fromMarkdown } from "mdast-util-from-markdown";
import { frontmatterFromMarkdown } from "mdast-util-frontmatter";
import { frontmatter } from "micromark-extension-frontmatter";
import type { Finding } from "./finding.ts";

/** A fenced block of the text. */
export interface Fence {
  /** Of the opening fence, from 1. */
  readonly line: number;
  /** The line after the opening marks, as written: `sh {name=x}`. Markdown parsers would resolve escapes in it. */
  readonly info: string;
  readonly lines: readonly string[];
}

/** What stands under one `##` heading; the first one, without a heading, is what stands before it. */
export interface Section {
  readonly heading: string;
  /** Of the heading; 1 for what stands before the first one. */
  readonly line: number;
  readonly fences: readonly Fence[];
  /** Markdown without the fences. */
  readonly prose: string;
}

/** A Markdown file as a runbook uses it. */
export interface Sheet {
  /** Null where there is none; the text between the two lines of hyphens, and the line where it begins. */
  readonly front: { readonly text: string; readonly line: number } | null;
  /** The `#` headings. */
  readonly titles: readonly { readonly text: string; readonly line: number }[];
  readonly start: Section;
  readonly sections: readonly Section[];
  /** When, Impact and Never: what follows these words, in bold, before the first `##`; in the order found. */
  readonly leads: readonly { readonly word: string; readonly text: string; readonly line: number }[];
  readonly links: readonly { readonly url: string; readonly line: number }[];
  readonly findings: readonly Finding[];
}

/** Reads any text, and never throws: Markdown has no errors. What can't be meant is in the findings. */
export function readMarkdown(text: string): Sheet {
  const source = text.split("\n");
  const root = fromMarkdown(text, {
    extensions: [frontmatter("yaml")],
    mdastExtensions: [frontmatterFromMarkdown("yaml")],
  });
  const findings: Finding[] = [];
  const parts = splitAtHeadings(root);
  const [start, ...sections] = parts.map((part) => readSection(part, text, source, findings));
  const front = root.children.find((node): node is Yaml => node.type === "yaml");
  findNestedFences(root, findings);
  return {
    front: front === undefined ? null : { text: front.value, line: lineOf(front) + 1 },
    titles: root.children
      .filter((node): node is Heading => node.type === "heading" && node.depth === 1)
      .map((node) => ({ text: plainText(node), line: lineOf(node) })),
    start: start ?? { heading: "", line: 1, fences: [], prose: "" },
    sections,
    leads: readLeads(parts[0]?.nodes ?? []),
    links: linksOf(root),
    findings,
  };
}

interface Part {
  readonly heading: Heading | null;
  readonly nodes: RootContent[];
}

function splitAtHeadings(root: Root): Part[] {
  const parts: Part[] = [{ heading: null, nodes: [] }];
  for (const node of root.children) {
    if (node.type === "heading" && node.depth === 2) parts.push({ heading: node, nodes: [] });
    else parts.at(-1)?.nodes.push(node);
  }
  return parts;
}

function readSection({ heading, nodes }: Part, text: string, source: readonly string[], findings: Finding[]): Section {
  const codes = nodes.filter((node) => node.type === "code");
  return {
    heading: heading === null ? "" : plainText(heading),
    line: heading === null ? 1 : lineOf(heading),
    fences: codes.flatMap((node) => readFence(node, source, findings) ?? []),
    prose: nodes
      .filter(({ type }) => type !== "code" && type !== "yaml" && type !== "html")
      .map(({ position }) => text.slice(position?.start.offset, position?.end.offset))
      .join("\n\n"),
  };
}

/** Null for code that is indented: it has no name and is nobody's block. */
function readFence(node: Code, source: readonly string[], findings: Finding[]): Fence | null {
  const line = lineOf(node);
  const end = node.position?.end.line ?? line;
  const opening = source[line - 1] ?? "";
  const [, indent = "", marks, info = ""] = /^( {0,3})(`{3,}|~{3,})(.*)$/.exec(opening) ?? [];
  if (marks === undefined) return null;
  if (indent !== "") findings.push({ line, rule: "fence", message: "this fence is indented: begin it in column 1" });
  const closing = end > line ? (source[end - 1] ?? "").trim() : "";
  if (!(closing.startsWith(marks) && closing === (marks[0] ?? "").repeat(closing.length))) {
    findings.push({ line, rule: "fence", message: "this fence is never closed" });
  }
  return { line, info: info.trim(), lines: source.slice(line, Math.max(line, end - 1)) };
}

/** A block in a list or a quotation looks like one and would not be run. */
function findNestedFences(node: Nodes, findings: Finding[], depth = 0): void {
  if (node.type === "code" && depth > 1 && /^(sh|bash|shell|text)$/.test(node.lang ?? "") && node.meta != null) {
    const message = "this block stands in a list or a quotation, where it would not be run: begin it in column 1";
    findings.push({ line: lineOf(node), rule: "fence", message });
  }
  if ("children" in node) for (const child of node.children) findNestedFences(child, findings, depth + 1);
}

const leadWord = /^(When|Impact|Never)[:.]?$/;

/** `**When:** hold grows. **Impact:** mail is late.` may be one paragraph or three; a word begins what follows it. */
function readLeads(nodes: readonly RootContent[]): Sheet["leads"] {
  const leads: { word: string; text: string; line: number }[] = [];
  for (const paragraph of nodes.filter((node): node is Paragraph => node.type === "paragraph")) {
    let open = false;
    for (const child of paragraph.children) {
      const word = child.type === "strong" ? leadWord.exec(plainText(child))?.[1] : undefined;
      const last = leads.at(-1);
      if (word !== undefined) leads.push({ word, text: "", line: lineOf(child) });
      else if (open && last !== undefined) last.text += plainText(child);
      open ||= word !== undefined;
    }
  }
  return leads.map((lead) => ({ ...lead, text: lead.text.replace(/\s+/g, " ").trim() }));
}

function linksOf(node: Nodes): { url: string; line: number }[] {
  const own = node.type === "link" || node.type === "definition" ? [{ url: node.url, line: lineOf(node) }] : [];
  return "children" in node ? [...own, ...node.children.flatMap(linksOf)] : own;
}

function plainText(node: Nodes): string {
  if ("children" in node) return node.children.map(plainText).join("");
  if (node.type === "break") return " ";
  return "value" in node && node.type !== "html" ? node.value : "";
}

function lineOf(node: Nodes): number {
  return node.position?.start.line ?? 1;
}
