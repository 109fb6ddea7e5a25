import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { lintFound } from "../../src/cli/commands/runbook-lint.ts";
import { buildProgram } from "../../src/cli/program.ts";
import { jobNames } from "../../src/jobs/record.ts";
import { type FoundRunbook, listRunbooks } from "../../src/runbook/catalogue.ts";
import { findingText } from "../../src/runbook/finding.ts";
import { programsOf } from "../../src/runbook/lint-commands.ts";
import { paperText } from "../../src/runbook/paper.ts";
import { readShell } from "../../src/runbook/shell.ts";
import { takeoverSheets } from "../../src/runbook/takeover.ts";
import { effectiveValues } from "../../src/runbook/values.ts";
import { problemNames } from "../../src/status/report.ts";
import { runbookNames, runbookOf } from "../../src/status/runbook-of.ts";

/* The runbooks of the package: each may be trusted as far as reading goes, and everything that leads to one finds it. */

const directory = join(import.meta.dirname, "../../runbooks");
const places = { packaged: directory, site: join(directory, "none") };
const all = listRunbooks(places);

test("all runbooks are there", () => {
  expect(all.map(({ name }) => name)).toEqual([...runbookNames]);
});

describe.each(all.map((found) => [found.name, found] as const))("%s", (_, found) => {
  test("passes lint", () => {
    expect(lintFound(found, all).map((finding) => findingText(found.name, finding))).toEqual([]);
  });

  test("has only commands that spoolsafe has", async () => {
    for (const line of spoolsafeLines(found)) {
      expect(await parse(line), `${found.name}:${line.line}: spoolsafe ${line.words.join(" ")}`).toBe("taken");
    }
  });

  test("fits the sheet", () => {
    const { runbook } = found.reading;
    expect(runbook).not.toBeNull();
    if (runbook === null) return;
    const text = paperText(runbook, effectiveValues(runbook, new Map(), {}));
    const wide = text.split("\n").filter((line) => line.length > 80 && !line.startsWith("    "));
    expect(wide).toEqual([]);
  });
});

interface Line {
  readonly line: number;
  readonly words: readonly string[];
  /** In the text: it may be the mere name of a command. */
  readonly mention: boolean;
}

/** Every `spoolsafe ...` of every block, and in the text between backquotes, with the words as bash would give them. */
function spoolsafeLines({ reading, text }: FoundRunbook): Line[] {
  const defaults = new Map(reading.runbook?.variables.map((each) => [each.name, each.default]));
  const blocks = reading.blocks.flatMap((block) =>
    readShell(block.script)
      .commands.flatMap(programsOf)
      .filter(({ words }) => words[0]?.text === "spoolsafe")
      .map(({ words, line }) => ({
        line: block.line + 1 + line,
        words: words.slice(1).flatMap(({ text: word }) => plausible(word, defaults)),
        mention: false,
      })),
  );
  const prose = text.replace(/^```[\s\S]*?^```/gm, (fence) => "\n".repeat(fence.split("\n").length - 1));
  const inline = [...prose.matchAll(/`spoolsafe\s+([a-z][^`]*)`/g)].map(({ 1: words = "", index }) => ({
    line: prose.slice(0, index).split("\n").length,
    words: words.split(/\s+/).map((word) => examples[word] ?? word),
    mention: true,
  }));
  return [...blocks, ...inline];
}

/** A variable in a command: its default where that is a plain word, else something; `$@` may be nothing. */
function plausible(word: string, defaults: ReadonlyMap<string, string>): string[] {
  if (/^\$(@|\{\w+\[@\]\})$/.test(word)) return [];
  return [
    word.replaceAll(/\$\{(\w+)[^}]*\}|\$(\w+)|\$\([^)]*\)/g, (_, braced?: string, bare?: string) => {
      const value = defaults.get(braced ?? bare ?? "") ?? "";
      return value === "" || /[$`]/.test(value) ? "1" : value;
    }),
  ];
}

const examples: Readonly<Record<string, string>> = { "N/min": "500/min", "N%": "10%" };

/** `taken`, or why the command line refuses it. */
async function parse({ words, mention }: Line): Promise<string> {
  let answer = "it does nothing";
  const program = buildProgram(async () => {
    answer = "taken";
  });
  program.configureOutput({ writeOut: () => {}, writeErr: () => {} });
  try {
    await program.parseAsync(["node", "spoolsafe", ...words]);
    return answer;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return mention && /missing required argument|\(outputHelp\)/.test(message) ? "taken" : message;
  }
}

describe("what leads to a runbook", () => {
  const ends = ["died", "failed", "incomplete", "missed", "overdue", "old", "target"] as const;
  const keys = [
    ...problemNames,
    ...jobNames.flatMap((job) => [...ends.map((end) => `${job}-${end}` as const), `${job}-empty` as const]),
  ].filter((key, index, names) => names.indexOf(key) === index);

  test("every problem and every alert is among the alerts of the runbook it names", () => {
    const missing = keys.flatMap((key) => {
      const name = runbookOf(key as Parameters<typeof runbookOf>[0]);
      const alerts = all.find((found) => found.name === name)?.reading.front?.alerts ?? [];
      return name === null || alerts.includes(key) || isOfAJob(key, alerts) ? [] : [`${key}: ${name}`];
    });
    expect(missing).toEqual([]);
  });

  test("every alert of a runbook is one that names it", () => {
    const strange = all.flatMap(({ name, reading }) =>
      (reading.front?.alerts ?? []).flatMap((alert) => {
        const meant = keys.filter(
          (key) => key === alert || (alert.endsWith("-*") && key.startsWith(alert.slice(0, -1))),
        );
        const right = meant.some((key) => runbookOf(key as Parameters<typeof runbookOf>[0]) === name);
        return right ? [] : [`${name}: ${alert}`];
      }),
    );
    expect(strange).toEqual([]);
  });
});

/** `verify-*` stands for every end of that job. */
function isOfAJob(key: string, alerts: readonly string[]): boolean {
  return alerts.some((alert) => alert.endsWith("-*") && key.startsWith(alert.slice(0, -1)));
}

describe("the index", () => {
  const path = join(directory, "README.md");
  const index = existsSync(path) ? readFileSync(path, "utf8") : "";

  test("has every runbook by symptom, by alert and by role", () => {
    const parts = ["symptom", "alert", "role"].map((word) => sectionOf(index, word));
    for (const [part, text] of parts.entries()) {
      expect(text, ["by symptom", "by alert", "by role"][part]).not.toBe("");
    }
    const [symptoms = "", , roles = ""] = parts;
    for (const { name } of all) {
      expect(symptoms, `${name} by symptom`).toContain(`${name}.md`);
      expect(roles, `${name} by role`).toContain(`${name}.md`);
    }
  });

  test("has every alert, in a line that leads to the runbooks it names", () => {
    const lines = sectionOf(index, "alert").split("\n");
    const missing = all.flatMap(({ name, reading }) =>
      (reading.front?.alerts ?? [])
        .filter((alert) => !lines.some((line) => line.includes(`\`${alert}\``) && line.includes(`${name}.md`)))
        .map((alert) => `${alert}: ${name}`),
    );
    expect(missing).toEqual([]);
  });

  test("leads to nothing that is not there", () => {
    const linked = [...index.matchAll(/\]\(([^)#:]+\.md)/g)].map(([, file = ""]) => file);
    expect(linked.filter((file) => !existsSync(join(directory, file)))).toEqual([]);
  });
});

/** The text under the heading that has this word in it. */
function sectionOf(text: string, word: string): string {
  const part = text.split(/^## /m).find((each) => (each.split("\n")[0] ?? "").toLowerCase().includes(word));
  return part ?? "";
}

test("those a takeover needs are kept with every snapshot", () => {
  const names = takeoverSheets(places).map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(["01-primary-lost.txt", "14-failback.txt", "15-merge-dead-node.txt"]));
});

test("nothing else lies in the directory", () => {
  const known = [...runbookNames.map((name) => `${name}.md`), "README.md", "CONTACTS.md.example"];
  expect(readdirSync(directory).filter((name) => !known.includes(name))).toEqual([]);
});
