/*
 * A Dockerfile, read strictly: what is not understood is an error, so that a test that carries a file out has carried out
 * all of it. Of the language (Docker's Dockerfile reference) it knows what ours uses.
 */

export interface Instruction {
  readonly keyword: string;
  /** Everything behind the keyword; continued lines are one. */
  readonly text: string;
  readonly line: number;
}

export interface Stage {
  /** The image it starts from. */
  readonly from: string;
  readonly name: string | undefined;
  readonly instructions: readonly Instruction[];
}

export interface Copy {
  /** A stage's name; undefined: the build context. */
  readonly stage: string | undefined;
  readonly sources: readonly string[];
  readonly target: string;
}

/** @throws Error with the line for anything that isn't understood */
export function readDockerfile(text: string): readonly Stage[] {
  const stages: { from: string; name: string | undefined; instructions: Instruction[] }[] = [];
  for (const instruction of instructionsOf(text)) {
    if (instruction.keyword === "FROM") {
      const [, from = "", name] =
        /^([^\s$]+)(?: AS ([a-z][a-z0-9_-]*))?$/.exec(instruction.text) ?? refuse(instruction);
      stages.push({ from, name, instructions: [] });
      continue;
    }
    check(instruction);
    (stages.at(-1) ?? refuse(instruction)).instructions.push(instruction);
  }
  return stages;
}

/** What a COPY names. */
export function copyOf(instruction: Instruction): Copy {
  const [, stage, words = ""] =
    /^(?:--from=([a-z][a-z0-9_-]*) )?([^-\s][^$*?["]*)$/.exec(instruction.text) ?? refuse(instruction);
  const sources = words.split(/\s+/);
  const target = sources.pop() ?? "";
  if (sources.length === 0 || (sources.length > 1 && !target.endsWith("/"))) refuse(instruction);
  return { stage, sources, target };
}

/** The words of ENTRYPOINT, CMD, VOLUME or a health check's CMD, which must be in the form that no shell reads. */
export function wordsOf(instruction: Instruction): readonly string[] {
  const words: unknown = JSON.parse(/\[.*\]$/.exec(instruction.text)?.[0] ?? refuse(instruction));
  return Array.isArray(words) && words.every((word) => typeof word === "string") ? words : refuse(instruction);
}

function instructionsOf(text: string): readonly Instruction[] {
  const found: Instruction[] = [];
  let begun: { text: string; line: number } | undefined;
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    begun = { text: `${begun?.text ?? ""}${line.replace(/\\$/, "")}`, line: begun?.line ?? index + 1 };
    if (line.endsWith("\\")) continue;
    const [, keyword = "", rest = ""] = /^([A-Z]+) +(\S.*)$/.exec(begun.text) ?? [];
    const instruction = { keyword, text: rest.trim(), line: begun.line };
    found.push(keyword === "" ? refuse({ ...instruction, text: begun.text }) : instruction);
    begun = undefined;
  }
  if (begun !== undefined) throw new Error(`Dockerfile, line ${begun.line}: ends in the middle`);
  return found;
}

function check(instruction: Instruction): void {
  const { keyword, text } = instruction;
  const understood: Readonly<Record<string, () => boolean>> = {
    // Not its options, the form without a shell, documents within the file.
    RUN: () => !/^--|^\[|<</.test(text),
    WORKDIR: () => /^\/[^\s$]*$/.test(text),
    COPY: () => copyOf(instruction).sources.length > 0,
    VOLUME: () => wordsOf(instruction).length > 0,
    ENTRYPOINT: () => wordsOf(instruction).length > 0,
    CMD: () => wordsOf(instruction).length > 0,
    HEALTHCHECK: () => /^(--(interval|timeout)=\d+[sm] )*CMD \[/.test(text) && wordsOf(instruction).length > 0,
  };
  if (understood[keyword]?.() !== true) refuse(instruction);
}

function refuse({ keyword, text, line }: Instruction): never {
  throw new Error(`Dockerfile, line ${line}: not understood: ${keyword} ${text}`);
}
