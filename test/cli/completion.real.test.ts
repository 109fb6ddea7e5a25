import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildProgram } from "../../src/cli/program.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/* Each script is loaded by its shell, which is then asked what could follow. */

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

async function script(shell: "bash" | "zsh" | "fish"): Promise<string> {
  const { code, stdout, stderr } = await spoolsafe(["completion", shell]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const path = join(scratch, `spoolsafe.${shell}`);
  writeFileSync(path, stdout);
  return path;
}

function answer(program: string, args: readonly string[], input = ""): string {
  const { status, stdout, stderr } = spawnSync(program, args, {
    ...{ input, encoding: "utf8", cwd: scratch, timeout: 30_000, killSignal: "SIGKILL" },
    env: { PATH: process.env.PATH, HOME: scratch, TERM: "dumb", LC_ALL: "C.UTF-8" },
  });
  expect({ program, status, stderr }).toEqual({ program, status: 0, stderr: "" });
  return stdout;
}

/** What the command table has: words of a command, and its options. */
const table = buildProgram(async () => {}).commands.flatMap((command) => [
  { words: [command.name()], command },
  ...command.commands.map((inner) => ({ words: [command.name(), inner.name()], command: inner })),
]);

/** What must be offered behind a line, no more and no less. */
const expected: readonly (readonly [line: string, offered: readonly string[]])[] = [
  ["spoolsafe rest", ["restore"]],
  ["spoolsafe holds ", ["fence", "list", "release", "take-over"]],
  ["spoolsafe --json holds re", ["release"]],
  ["spoolsafe --config /x --host mx1 back", ["backup"]],
  ["spoolsafe restore ", ["latest"]],
  ["spoolsafe restore --on", ["--only"]],
  ["spoolsafe restore latest --land ", ["hold", "original"]],
  ["spoolsafe restore --only queue latest --land o", ["original"]],
  ["spoolsafe backup --id", ["--identity-file"]],
  ["spoolsafe qshape latest def", ["deferred"]],
  ["spoolsafe completion ", ["bash", "fish", "zsh"]],
  ["spoolsafe holds release --role ", []],
  ["spoolsafe release ", []],
];

describe("bash", () => {
  let path: string;
  beforeAll(async () => {
    path = await script("bash");
  });

  /** The words offered behind each line, split as readline does with its usual word breaks; files and directories by a mark. */
  function offered(lines: readonly string[]): string[][] {
    const calls = lines.map((line) => {
      const words = line.split(/ +|(?==)|(?<==)/);
      return `COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}; COMPREPLY=(); _spoolsafe; echo "\${COMPREPLY[*]}"`;
    });
    // Outside of a completion there is nothing for compopt to change.
    const mark = 'compopt() { COMPREPLY+=("@$2"); }';
    const text = ["set -u", `source ${path}`, "complete -p spoolsafe", mark, ...calls].join("\n");
    const [registered, ...answers] = answer("bash", ["--norc", "--noprofile"], text).trimEnd().split("\n");
    expect(registered).toBe("complete -F _spoolsafe spoolsafe");
    return lines.map((_, index) =>
      (answers[index] ?? "")
        .split(" ")
        .filter((word) => word !== "")
        .sort(),
    );
  }

  test("offers what can follow", () => {
    expect(offered(expected.map(([line]) => line))).toEqual(expected.map(([, words]) => words));
  });

  test("offers files and directories for values that are some, whether or not there is a =", () => {
    expect(
      offered([
        "spoolsafe --identity-file ",
        "spoolsafe restore latest --plan ",
        "spoolsafe restore latest --to ",
        "spoolsafe restore latest --delivered-log mail.log ",
        "spoolsafe restore latest --delivered-log mail.log --lan",
        "spoolsafe restore latest --land=",
        "spoolsafe restore latest --land=h",
        "spoolsafe restore --land=hold lat",
        "spoolsafe key add ",
      ]),
    ).toEqual([
      ["@default"],
      ["@default"],
      ["@dirnames"],
      ["@default"],
      ["--land"],
      ["hold", "original"],
      ["hold"],
      ["latest"],
      ["@default"],
    ]);
  });

  test("knows every command and every option there is", () => {
    const known = offered(table.map(({ words }) => `spoolsafe ${words.join(" ")} --`));
    for (const [index, { words, command }] of table.entries()) {
      const options = command.options.flatMap(({ long }) => long ?? []);
      expect(known[index], words.join(" ")).toEqual(
        expect.arrayContaining([...options, "--config", "--json", "--help"]),
      );
    }
    const [commands = []] = offered(["spoolsafe "]);
    expect(commands).toEqual([...new Set([...table.map(({ words }) => words[0]), "help"])].sort());
  });
});

describe.skipIf(!needs("fish"))("fish", () => {
  let path: string;
  beforeAll(async () => {
    path = await script("fish");
    writeFileSync(join(scratch, "a-file"), "");
    mkdirSync(join(scratch, "a-directory"));
  });

  function offered(lines: readonly string[]): string[][] {
    const asked = lines.map((line) => `complete -C '${line}'; echo =`);
    const text = answer("fish", ["--no-config", "-c", [`source ${path}`, ...asked].join("\n")]);
    return text
      .split("=\n")
      .slice(0, -1)
      .map((each) =>
        each
          .split("\n")
          .flatMap((line) => line.split("\t")[0] || [])
          .sort(),
      );
  }

  test("offers what can follow", () => {
    expect(offered(expected.map(([line]) => line))).toEqual(expected.map(([, words]) => words));
  });

  test("offers files and directories for values that are some", () => {
    expect(offered(["spoolsafe restore latest --plan a-", "spoolsafe restore latest --to a-"])).toEqual([
      ["a-directory/", "a-file"],
      ["a-directory/"],
    ]);
  });

  test("knows every option there is", () => {
    const known = offered(table.map(({ words }) => `spoolsafe ${words.join(" ")} --`));
    for (const [index, { words, command }] of table.entries()) {
      const options = command.options.flatMap(({ long }) => long ?? []);
      expect(known[index], words.join(" ")).toEqual(expect.arrayContaining([...options, "--config", "--json"]));
    }
  });
});

describe.skipIf(!needs("zsh"))("zsh", () => {
  let path: string;
  beforeAll(async () => {
    path = await script("zsh");
    writeFileSync(join(scratch, "only-file"), "");
    mkdirSync(join(scratch, "only-dir"));
  });

  /* A zsh in a terminal of its own (zpty) gets the line and a tab; what it then shows must have the text, or this waits in vain. */
  test.each([
    ["spoolsafe rest", "restore"],
    ["spoolsafe holds ", "take-over"],
    ["spoolsafe restore --land=or", "--land=original"],
    ["spoolsafe restore latest --land ho", "hold"],
    ["spoolsafe restore latest --plan only-f", "only-file"],
    ["spoolsafe restore latest --to only-", "only-dir/"],
  ])("%s", (line, shown) => {
    const setUp = `PS1=; autoload -U compinit; compinit -D -u; source ${path}; print LOA''DED`;
    const text = [
      "zmodload zsh/zpty",
      "zpty z zsh -f -i",
      `zpty -w z "${setUp}"`,
      "zpty -r z answer '*LOADED*'",
      `zpty -w -n z '${line}'$'\\t'`,
      `zpty -r z answer '*${shown}*'`,
      "print shown",
      "zpty -d z",
    ].join("\n");
    expect(answer("zsh", ["-f"], text)).toBe("shown\n");
  });
});
