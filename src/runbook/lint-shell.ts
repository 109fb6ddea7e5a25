import type { Finding } from "./finding.ts";
import {
  argumentsOf,
  cleanOperands,
  configurationFile,
  isBarrier,
  isFlush,
  isScratch,
  mutation,
  namedQueues,
  programsOf,
  releases,
  setsConfiguration,
} from "./lint-commands.ts";
import type { Reading, WrittenBlock } from "./parse.ts";
import { builtins, everywhere, ofTheShell } from "./programs.ts";
import type { Command, Shell } from "./shell.ts";

/** A block, and its script taken apart. */
export interface ReadBlock {
  readonly block: WrittenBlock;
  readonly shell: Shell;
}

/** A command with its line in the file. */
interface Placed {
  readonly command: Command;
  readonly line: number;
  readonly block: WrittenBlock;
}

/** What is wrong or unwise in the shell text of a runbook's blocks, as far as reading can tell. */
export function lintShell(reading: Reading, blocks: readonly ReadBlock[]): Finding[] {
  const commands = blocks.flatMap(({ block, shell }) =>
    shell.commands.flatMap((command) =>
      programsOf(command).map((each) => ({ command: each, line: block.line + 1 + each.line, block })),
    ),
  );
  return [
    ...blocks.flatMap(lintScript),
    ...commands.flatMap(lintCommand),
    ...lintNames(reading, blocks, commands),
    ...lintReleases(commands),
    ...lintConfiguration(reading, commands),
  ];
}

function lintScript({ block, shell }: ReadBlock): Finding[] {
  const at = (line: number) => block.line + 1 + line;
  const lines = block.script.split("\n");
  const lookFor = (pattern: RegExp, rule: string, message: string): Finding[] =>
    lines.flatMap((line, index) => (pattern.test(line) ? [{ line: at(index), rule, message }] : []));
  return [
    ...lookFor(/\{\{|\}\}/, "template", "no {{ }}: whoever pastes this has nothing that fills it in; use a variable"),
    ...lookFor(/^\s*\$ /, "prompt", "no `$ ` before a command: it could not be pasted"),
    ...shell.unquoted.map(({ text, line }) => ({
      line: at(line),
      rule: "unquoted",
      message: `quote it: "${text}"; empty, or with a blank in it, it would be another command`,
    })),
    ...shell.processSubstitutions.map((line) => ({
      line: at(line),
      rule: "process-substitution",
      message: "no <(...): a failure in it is not noticed; write to a file in $SPOOLSAFE_RUN_DIR first",
    })),
    ...shell.commands.flatMap(({ words, line, subshell }) =>
      /^(cd|pushd|popd)$/.test(words[0]?.text ?? "") && !subshell
        ? [{ line: at(line), rule: "shell-state", message: "no cd: the next block begins elsewhere; write ( cd ... )" }]
        : [],
    ),
  ];
}

function lintCommand({ command, line, block }: Placed): Finding[] {
  const { words, before } = command;
  const name = words[0]?.text ?? "";
  const texts = words.slice(1).map(({ text }) => text);
  const findings: Finding[] = [];
  const tell = (rule: string, message: string) => void findings.push({ line, rule, message });

  if (/^(sudo|doas|su)$/.test(name))
    tell("sudo", `no ${name}: the runner is root already, and whoever pastes is told so`);
  if (name === "alias") tell("shell-state", "no alias: the next block does not know it");
  if (/^(kill|pkill|killall)$/.test(name) && /(^| )-(9|KILL|SIGKILL|s (9|KILL|SIGKILL))( |$)/.test(texts.join(" "))) {
    tell("kill-9", "no kill -9: what it ends can clear nothing up; use the program's own stop");
  }
  if (before === "||" && (name === "true" || name === ":")) {
    tell("or-true", "no || true: it hides every failure; test for the one that is meant with if");
  }
  if (
    /^(pre|verify)$/.test(block.kind) &&
    before === "|" &&
    name === "grep" &&
    texts.some((text) => /^-\w*c/.test(text))
  ) {
    tell("grep-count", "no `| grep -c`: it fails at a count of 0; count with `wc -l`, or with jq");
  }
  if (
    name === "rm" &&
    texts.some((text) => /^-\w*[rR]|^--recursive$/.test(text)) &&
    !cleanOperands(texts).every(isOfRun)
  ) {
    tell("rm-rf", "rm -r only below $SPOOLSAFE_RUN_DIR, or of a path with $SPOOLSAFE_RUN_ID in it");
  }
  if (name === "postsuper" && !isScratch(command)) {
    const { options } = argumentsOf(command, "cdefhHr");
    for (const letter of ["d", "h", "H", "r", "e", "f"]) {
      if (!(options.get(letter) ?? []).includes("ALL")) continue;
      tell(
        "all",
        `postsuper -${letter} ALL also takes what others held or sent: give it ids on standard input, -${letter} -`,
      );
    }
  }
  const changes = isReadOnly(block) ? mutation(command) : null;
  if (changes !== null) {
    tell(
      "not-read-only",
      `${changes}: \`check\` executes blocks of kind pre and verify and of risk=read, and must change nothing`,
    );
  }
  return findings;
}

function isOfRun(path: string): boolean {
  return /\$\{?SPOOLSAFE_RUN_(ID|DIR)\b/.test(path);
}

function isReadOnly({ kind, risk }: WrittenBlock): boolean {
  return kind === "pre" || kind === "verify" || kind === "vars" || (kind === "do" && risk === "read");
}

/** Variables and commands that nobody has made known. */
function lintNames(reading: Reading, blocks: readonly ReadBlock[], commands: readonly Placed[]): Finding[] {
  const variables = [...lintVariables(reading, blocks)];
  const functions = new Map(
    blocks.flatMap(({ block, shell }) => shell.functions.map(({ name }) => [name, block] as const)),
  );
  const required = reading.front?.requires.commands ?? [];
  const told = new Set<string>();
  for (const { command, line, block } of commands) {
    const name = command.words[0]?.text ?? "";
    const home = functions.get(name);
    if (home !== undefined && home !== block) {
      const message = `${name} is a function of the block ${home.name}: every block is a shell of its own`;
      variables.push({ line, rule: "shell-state", message });
    }
    const known = home !== undefined || builtins.has(name) || everywhere.has(name) || required.includes(name);
    if (known || reading.front === null || !/^[\w.+-]+$/.test(name) || told.has(name)) continue;
    told.add(name);
    variables.push({
      line,
      rule: "unknown-name",
      message: `${name} is not among the commands of requires: add it there`,
    });
  }
  return variables;
}

function lintVariables({ front }: Reading, blocks: readonly ReadBlock[]): Finding[] {
  const findings: Finding[] = [];
  const exported = new Set([...ofTheShell, ...(front?.secrets ?? [])]);
  const kept = new Map<string, string>();
  for (const { block, shell } of blocks) {
    const told = new Set<string>();
    for (const { name, line, optional } of shell.uses) {
      if (optional || told.has(name) || exported.has(name) || shell.sets.has(name) || shell.exports.has(name)) continue;
      told.add(name);
      const home = kept.get(name);
      const message =
        home === undefined
          ? `${name} is set nowhere: export it in the block of variables`
          : `${name} is set in the block ${home} and not exported: every block is a shell of its own`;
      findings.push({ line: block.line + 1 + line, rule: "unknown-name", message });
    }
    for (const name of shell.sets) kept.set(name, block.name);
    for (const name of shell.exports) exported.add(name);
  }
  return findings;
}

/*
 * The queue manager keeps what it has read of mail in incoming and active. Held and released, such a message is read a
 * second time, merged with the copy in memory, and removed undelivered (qmgr_job.c, qmgr_message.c). Safe is what was held
 * out of deferred alone, or comes after a restart of the queue manager; spoolsafe knows which is which.
 */
function lintReleases(commands: readonly Placed[]): Finding[] {
  const findings: Finding[] = [];
  let released = false;
  let held = "none" as "none" | "deferred" | "any";
  let barrier = false;
  for (const { command, line } of commands) {
    if (isScratch(command)) continue;
    const { options } = command.words[0]?.text === "postsuper" ? argumentsOf(command, "cdefhHr") : { options: null };
    if (options?.has("h")) {
      held = namedQueues(command).join() === "deferred" && held !== "any" ? "deferred" : "any";
      barrier = false;
    }
    if (isBarrier(command)) barrier = true;
    const letter = options?.has("H") ? "H" : options?.has("r") ? "r" : null;
    if (
      letter !== null &&
      !barrier &&
      !(letter === "H" ? held === "deferred" : namedQueues(command).join() === "deferred")
    ) {
      const message =
        `postsuper -${letter} may lose mail that the queue manager still has in memory: use \`spoolsafe holds release\`, ` +
        "hold from deferred only, or put `postfix reload` between";
      findings.push({ line, rule: "release", message });
    }
    if (isFlush(command) && released) {
      const message =
        "no flush after a release: it takes all other mail's back-off as well; wake each id with postqueue -i";
      findings.push({ line, rule: "flush", message });
    }
    released ||= releases(command);
  }
  return findings;
}

/** Changes of main.cf and master.cf have a way back and are announced. */
function lintConfiguration({ front, blocks }: Reading, commands: readonly Placed[]): Finding[] {
  const findings: Finding[] = [];
  const withUndo = new Set(blocks.filter(({ kind }) => kind === "undo").map(({ section }) => section));
  for (const { command, line, block } of commands) {
    const file = configurationFile(command);
    if (file === null || block.kind === "manual") continue;
    if (block.kind === "do" && setsConfiguration(command) && !withUndo.has(block.section)) {
      findings.push({ line, rule: "undo", message: "this step changes the configuration and has no undo block" });
    }
    if (front !== null && !front.changes.includes(file)) {
      findings.push({
        line,
        rule: "changes",
        message: `${file} is changed: say so in the front matter, changes: [${file}]`,
      });
    }
  }
  return findings;
}
