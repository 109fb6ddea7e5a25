import { type AST, getStaticTOMLValue, ParseError, parseTOML } from "toml-eslint-parser";

export type KeyPath = readonly (string | number)[];

/** A TOML text as plain values, and where each of them stands. */
export interface TomlText {
  readonly values: Record<string, unknown>;
  /** Line (from 1) of a key; of the nearest table around it when the key itself is not in the text. */
  lineOf(path: KeyPath): number | undefined;
}

/** The text is not TOML; parsing stops at the first fault. */
export class TomlFault extends Error {
  readonly line: number;

  constructor(message: string, line: number, cause: unknown) {
    super(message, { cause });
    this.line = line;
  }
}

/** @throws TomlFault */
export function readToml(text: string): TomlText {
  const program = parse(text);
  const lines = new Map<string, number>();
  for (const node of program.body[0].body) {
    if (node.type === "TOMLTable") {
      note(lines, node.resolvedKey, node);
      for (const entry of node.body) noteEntry(lines, node.resolvedKey, entry);
    } else {
      noteEntry(lines, [], node);
    }
  }
  return {
    values: getStaticTOMLValue(program),
    lineOf: (path) => {
      for (let length = path.length; length > 0; length--) {
        const line = lines.get(JSON.stringify(path.slice(0, length)));
        if (line !== undefined) return line;
      }
      return undefined;
    },
  };
}

function parse(text: string): AST.TOMLProgram {
  try {
    return parseTOML(text, { tomlVersion: "1.0" });
  } catch (error) {
    if (error instanceof ParseError) throw new TomlFault(error.message, error.lineNumber, error);
    throw error;
  }
}

function noteEntry(lines: Map<string, number>, table: KeyPath, entry: AST.TOMLKeyValue): void {
  const path = [...table, ...getStaticTOMLValue(entry.key)];
  note(lines, path, entry);
  noteContent(lines, path, entry.value);
}

function noteContent(lines: Map<string, number>, path: KeyPath, content: AST.TOMLContentNode): void {
  note(lines, path, content);
  if (content.type === "TOMLInlineTable") for (const entry of content.body) noteEntry(lines, path, entry);
  if (content.type === "TOMLArray") {
    for (const [index, element] of content.elements.entries()) noteContent(lines, [...path, index], element);
  }
}

/** The first line that names a path, and its parents, counts. */
function note(lines: Map<string, number>, path: KeyPath, node: AST.HasLocs): void {
  for (let length = 1; length <= path.length; length++) {
    const key = JSON.stringify(path.slice(0, length));
    if (!lines.has(key)) lines.set(key, node.loc.start.line);
  }
}
