import { isCollection, isNode, isPair, LineCounter, parseDocument, visit } from "yaml";
import * as z from "zod";
import type { Finding } from "./finding.ts";

/** 1 s, 5 m, 2 h, 1 d as milliseconds. */
export function durationMs(text: string): number | undefined {
  const [, number = "", unit = ""] = /^([1-9]\d{0,5})([smhd])$/.exec(text) ?? [];
  return unit === "" ? undefined : Number(number) * ({ s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit] ?? 0);
}

const duration = z
  .string()
  .refine((text) => durationMs(text) !== undefined, "it must be a time such as 30s, 10m or 2h")
  .transform((text) => durationMs(text) ?? 0);
const word = z.string().regex(/^\S+$/, "it must be one word");
const words = z.array(word);
const variableName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "it must be the name of an environment variable");

const schema = z.strictObject({
  shell: z.literal("bash", "it must be `shell: bash`"),
  runbook: z.strictObject({
    id: z.string().regex(/^[A-Z][A-Z0-9]*-\d{2,4}$/, "it must be letters, a hyphen and digits, such as RB-09"),
    severity: z.enum(["sev1", "sev2", "sev3", "sev4"], "it must be sev1, sev2, sev3 or sev4"),
    rto: duration,
    alerts: words.default([]),
    hosts: z.enum(["primary", "standby", "any"], "it must be primary, standby or any").default("any"),
    requires: z
      .strictObject({
        root: z.boolean().default(false),
        commands: words.default([]),
        postfix: z
          .string()
          .regex(/^>=\d+\.\d+$/, 'it must be such as ">=3.1"')
          .nullable()
          .default(null),
        network: word.nullable().default(null),
      })
      .prefault({}),
    secrets: z.array(variableName).default([]),
    changes: words.default([]),
    undo: z.boolean().default(false),
  }),
});

export type FrontMatter = z.output<typeof schema>["runbook"];

/** The values, or null with what is wrong, each with its line. `line` is where the text begins in the file. */
export function readFrontMatter(
  text: string,
  line: number,
): { readonly values: FrontMatter | null; readonly findings: readonly Finding[] } {
  const counter = new LineCounter();
  // Anchors could make a small text huge, and nothing here needs them: an alias is an error of its own below.
  const document = parseDocument(text, { lineCounter: counter, schema: "core", customTags: [] });
  const findings: Finding[] = [];
  const lineAt = (offset: number) => line + counter.linePos(offset).line - 1;
  const tell = (at: number, message: string) => findings.push({ line: at, rule: "front-matter", message });
  for (const { message, pos } of [...document.errors, ...document.warnings]) tell(lineAt(pos[0]), firstLine(message));
  visit(document, {
    Alias: (_, { range }) => void tell(lineAt(range?.[0] ?? 0), "references (*name) are not allowed"),
  });
  if (findings.length > 0) return { values: null, findings };
  const read = schema.safeParse(document.toJS() ?? {});
  if (read.success) return { values: read.data.runbook, findings };
  const place = (path: readonly PropertyKey[]) => lineAt(offsetOf(document.contents, path));
  for (const issue of read.error.issues) {
    if (issue.code === "unrecognized_keys") {
      for (const key of issue.keys) tell(place([...issue.path, key]), `unknown key ${[...issue.path, key].join(".")}`);
    } else
      tell(
        place(issue.path),
        `${issue.path.join(".") || "the front matter"}: ${document.hasIn(issue.path) ? wording(issue) : "it is missing"}`,
      );
  }
  return { values: null, findings };
}

function wording(issue: z.core.$ZodIssue): string {
  return issue.message.charAt(0).toLowerCase() + issue.message.slice(1);
}

/** Where the key of this path stands, or the nearest thing above it. */
function offsetOf(contents: unknown, path: readonly PropertyKey[]): number {
  let offset = isNode(contents) ? (contents.range?.[0] ?? 0) : 0;
  let at: unknown = contents;
  for (const key of path) {
    if (!isCollection(at)) break;
    const item: unknown = at.items.find((each, index) =>
      isPair(each) ? isNode(each.key) && String(each.key) === key : index === key,
    );
    const mark: unknown = isPair(item) ? item.key : item;
    if (!isNode(mark)) break;
    offset = mark.range?.[0] ?? offset;
    at = isPair(item) ? item.value : item;
  }
  return offset;
}

/** Without the excerpt that yaml appends. */
function firstLine(message: string): string {
  const text = (message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
  return text.charAt(0).toLowerCase() + text.slice(1);
}
