import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { buildProgram } from "../src/cli/program.ts";

/*
 * What the pages and the messages tell people to type is taken by the real command line, and the interface page names every
 * command and option there is. Nothing is run: the command line is only parsed.
 */

const root = join(import.meta.dirname, "..");

describe("every command line in", () => {
  test.each(["README.md", "docs/INTERFACE.md", "docs/DESIGN.md", "docs/FORMAT.md"])("%s is taken", async (page) => {
    const text = readFileSync(join(root, page), "utf8");
    const blocks = text.matchAll(/^(?: {4}|\$ )spoolsafe +(.+)$/gm);
    const inline = text.replaceAll(/```[\s\S]*?```/g, "").matchAll(/`spoolsafe ([a-z][^`]*)`/g);
    const lines = [...blocks, ...inline].map(([, line = ""]) => line.replace(/\s+# .*$/, ""));
    if (page === "README.md") expect(lines.length).toBeGreaterThanOrEqual(10);
    for (const line of lines) expect(await parse(line.split(/\s+/)), `spoolsafe ${line}`).toBe("taken");
  });

  test("a message or an example of the help is taken", async () => {
    const texts = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(join(root, "src", name), "utf8").replaceAll(/^ *(?:\/?\*|\/\/).*$/gm, ""));
    const quoted = texts.flatMap((text) => [...text.matchAll(/\\?`spoolsafe ([a-z][^`\\$]*)\\?`/g)]);
    const program = readFileSync(join(root, "src/cli/program.ts"), "utf8");
    const examples = [...program.matchAll(/^ *(?:examples\()?"spoolsafe ([^"]+)"/gm)];
    const lines = [...quoted, ...examples].map(([, line = ""]) => line.replace(/ > \S+$/, ""));
    expect(lines.length).toBeGreaterThan(20);
    for (const line of lines) expect(await parse(line.split(" ")), `spoolsafe ${line}`).toBe("taken");
  });
});

describe("the interface page", () => {
  const page = readFileSync(join(root, "docs/INTERFACE.md"), "utf8");
  const [, synopsis = ""] = /## Commands\n```\n([\s\S]*?)```/.exec(page) ?? [];
  const lines = synopsis
    .replaceAll(/\n {10,}(?=\[)/g, " ") // options that go on in the next line
    .split("\n")
    .map((line) => line.slice(9).replace(/ {3,}.*$/, ""))
    .flatMap((line) => line.split("·"))
    .map((item) => item.trim())
    .filter((item) => item !== "")
    .flatMap(commandLines);

  test("writes commands that are taken, with each of their options and alternatives", async () => {
    expect(lines.length).toBeGreaterThan(30);
    for (const line of lines) expect(await parse(line), `spoolsafe ${line.join(" ")}`).toBe("taken");
  });

  test("names every command and every option, and no others", () => {
    const written = new Map<string, Set<string>>();
    const known = optionsByCommand();
    for (const line of lines) {
      const two = line.slice(0, 2).join(" ");
      const command = known.has(two) ? two : (line[0] ?? "");
      const options = written.get(command) ?? new Set();
      written.set(command, options);
      for (const word of line) if (word.startsWith("--")) options.add(word);
    }
    written.delete("help");
    expect(sorted(written)).toEqual(sorted(known));
  });

  test("names every global option", () => {
    const [, said = ""] = /Global options, before or after the command: ([\s\S]*?)\(/.exec(page) ?? [];
    const options = buildProgram(async () => {}).options.map(({ long }) => long);
    expect([...said.matchAll(/`(--[a-z-]+)/g)].map(([, name]) => name)).toEqual(
      options.filter((name) => name !== "--version"),
    );
  });
});

/** `taken`, or why the command line refused it. */
async function parse(words: readonly string[]): Promise<string> {
  let answer = "it did nothing";
  const program = buildProgram(async () => {
    answer = "taken";
  });
  program.configureOutput({ writeOut: () => {} });
  try {
    await program.parseAsync(["node", "spoolsafe", ...words]);
    return answer;
  } catch (error) {
    if (words[0] === "help") return "taken";
    return error instanceof Error ? error.message : String(error);
  }
}

/** Long names of the options of every command that does something, by its name. */
function optionsByCommand(): Map<string, Set<string>> {
  const { commands } = buildProgram(async () => {});
  const entries = commands.flatMap((command) =>
    command.commands.length === 0
      ? [{ name: command.name(), command }]
      : [
          // One that does something by itself as well.
          ...(command.registeredArguments.length > 0 ? [{ name: command.name(), command }] : []),
          ...command.commands.map((inner) => ({ name: `${command.name()} ${inner.name()}`, command: inner })),
        ],
  );
  return new Map(
    entries.map(({ name, command }) => [name, new Set(command.options.flatMap(({ long }) => long ?? []))]),
  );
}

function sorted(commands: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  return [...commands].map(([name, options]) => [name, ...[...options].sort()].join(" ")).sort();
}

/*
 * A synopsis as command lines. `[x]` may be left out, `a|b` and `a | b` are alternatives; of several that may be left out,
 * each is there once without the others. A first alternative says what all begin with: the words before its first option,
 * or its first word.
 */
function commandLines(synopsis: string): string[][] {
  const [first = [], ...more] = splitAt(tokens(synopsis), "|");
  const option = first.findIndex((token) => token.startsWith("--") || token.startsWith("["));
  const common = first.slice(0, option < 0 || first[option]?.startsWith("[") ? 1 : option);
  return [first, ...more.map((alternative) => [...common, ...alternative])].flatMap(expand);
}

/** Words, and groups in brackets as one token each. */
function tokens(text: string): string[] {
  const found: string[] = [];
  let depth = 0;
  let current = "";
  for (const character of `${text} `) {
    if (character === "[") depth++;
    if (character === "]") depth--;
    if (character !== " " || depth > 0) current += character;
    else if (current !== "") {
      found.push(current);
      current = "";
    }
  }
  return found;
}

function splitAt(list: readonly string[], separator: string): string[][] {
  const parts: string[][] = [[]];
  for (const one of list) {
    if (one === separator) parts.push([]);
    else parts.at(-1)?.push(one);
  }
  return parts;
}

function expand(list: readonly string[]): string[][] {
  const optional = list.filter((token) => token.startsWith("["));
  const without = list.filter((token) => !token.startsWith("["));
  const base = alternativesOf(without);
  const groups = optional.flatMap((token) => splitAt(tokens(token.replace(/^\[|\](\.\.\.)?$/g, "")), "|"));
  return [
    ...base,
    ...groups.flatMap((group) => expand(group).flatMap((words) => base.map((line) => [...line, ...words]))),
  ];
}

/** `a|b` in one word, and examples for what stands for something else. */
function alternativesOf(words: readonly string[]): string[][] {
  return words.reduce<string[][]>(
    (lines, word) => word.split("|").flatMap((one) => lines.map((line) => [...line, examples[one] ?? one])),
    [[]],
  );
}

const examples: Readonly<Record<string, string>> = {
  SNAP: "latest",
  "N%": "10%",
  "N/min": "500/min",
  "QUEUE...": "deferred",
  N: "8",
  MINUTES: "10",
  SCENARIO: "damaged-pack",
};
