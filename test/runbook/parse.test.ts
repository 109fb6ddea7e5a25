import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { RunbookFault } from "../../src/runbook/finding.ts";
import { parseRunbook, readRunbook } from "../../src/runbook/parse.ts";
import { changed, lineOf, samplePath, sampleText } from "./sample.ts";

const parse = (text: string) => parseRunbook(text, samplePath);

/** Line and rule of each mistake. */
function mistakes(text: string): string[] {
  return readRunbook(text, samplePath).mistakes.map(({ line, rule }) => `${line} ${rule}`);
}

describe("the sample", () => {
  const runbook = parse(sampleText);

  test("is read whole", () => {
    expect(runbook).toMatchObject({
      id: "RB-50",
      name: "50-sample",
      title: "RB-50 A sample that touches nothing real",
      severity: "sev2",
      rtoMs: 600_000,
      alerts: ["hold_oldest"],
      hosts: "any",
      requires: { root: true, commands: ["jq", "postconf", "postfix", "postqueue"], postfix: ">=3.1", network: "none" },
      secrets: ["SAMPLE_PASSPHRASE"],
      changes: ["main.cf"],
      undo: true,
      when: "mail waits in a queue and nobody knows why.",
      impact: "mail is late, nothing is lost.",
      never: "postsuper -H ALL: it also releases mail a content filter put on hold.",
      text: sampleText,
    });
    expect(runbook.ifThisFails).toContain("Open the console");
    expect(runbook.sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("has steps whose blocks know their lines, times and expectations", () => {
    expect(runbook.steps.map(({ name, heading }) => [name, heading])).toEqual([
      ["count", "1. Count what is queued"],
      ["close", "2. Keep new mail out"],
      ["tell", "3. Tell whoever is on call"],
    ]);
    const [count, close, tell] = runbook.steps;
    expect(count?.prose).toBe("Nothing is changed. A minute is enough.");
    expect(count?.action).toMatchObject({ kind: "do", risk: "read", confirm: null, timeoutMs: 60_000 });
    expect(sampleText.split("\n")[count?.action.line ?? 0]).toBe(count?.action.script);
    expect(count?.verify).toMatchObject([{ name: "count-verify", timeoutMs: 30_000, retry: 3, everyMs: 2_000 }]);
    expect(count?.verify[0]?.expect).toMatchObject([
      { rule: "equal", text: "active", quantifier: "?" },
      { rule: "regex", text: "(deferred|hold)", quantifier: "*" },
      { rule: "glob", text: "inc*", quantifier: "?" },
    ]);
    expect(close?.undo).toMatchObject({
      name: "close-undo",
      kind: "undo",
      script: expect.stringContaining("postconf -X"),
    });
    expect(close?.verify[0]?.retry).toBe(1);
    expect(tell?.action).toMatchObject({ kind: "manual", timeoutMs: Number.POSITIVE_INFINITY });
    expect(tell?.verify[0]?.expect).toBeNull();
  });

  test("has variables with defaults as they are written", () => {
    expect(runbook.variables).toMatchObject([
      { name: "MAIL_CONFIG", default: "/etc/postfix" },
      { name: "QUEUE_DIRECTORY", default: "$(postconf -h queue_directory)" },
    ]);
    expect(runbook.variables[0]?.line).toBe(lineOf(sampleText, "MAIL_CONFIG="));
  });
});

describe("mistakes", () => {
  test("are told all at once, each with file and line, as an error of exit 2", () => {
    const text = changed("severity: sev2", "severity: bad", changed("risk=read timeout=1m", "risk=red tty=yes"));
    try {
      parse(text);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(RunbookFault);
      expect(error).toMatchObject({ kind: "config", exitCode: 2 });
      expect(String(error)).toContain(
        `${samplePath}:${lineOf(text, "severity: bad")}: runbook.severity: it must be sev1`,
      );
      expect(String(error)).toContain(`${samplePath}:${lineOf(text, "tty=yes")}: unknown attribute tty`);
      expect(String(error)).toContain("3 mistakes");
    }
  });

  test.each([
    ["an empty file", "", ["1 front-matter", "1 no-steps"]],
    ["prose", "# A page\n\ntext\n", ["1 front-matter", "1 no-steps"]],
    ["front matter alone", sampleText.slice(0, sampleText.indexOf("# RB-50")), ["1 no-steps"]],
  ])("%s is no runbook", (_, text, expected) => {
    expect(mistakes(text)).toEqual(expected);
  });

  test("a fence that is never closed", () => {
    const at = sampleText.lastIndexOf("```\n\n## If this fails");
    const text = sampleText.slice(0, at);
    expect(mistakes(text)).toEqual([`${lineOf(text, "name=tell-verify")} fence`]);
  });

  test("two actions, two undos, a block before the first step, variables in a step", () => {
    const block = (what: string) => `\n\`\`\`sh {${what}}\necho\n\`\`\`\n`;
    const text = changed("## 1. Count", `${block("name=early risk=read")}\n## 1. Count`)
      .replace("\n## 2.", `${block("name=second risk=read")}\n## 2.`)
      .replace("\n## 3.", `${block("name=undo-2 kind=undo")}${block("name=vars-2 kind=vars")}\n## 3.`);
    const found = readRunbook(text, samplePath).mistakes;
    expect(found.map(({ rule }) => rule)).toEqual(["structure", "structure", "structure", "vars"]);
  });

  test("a heading with checks and no action", () => {
    const text = changed("```sh {name=close risk=change confirm=yes timeout=30s}", "```sh {name=close kind=verify}");
    expect(mistakes(text)).toEqual([`${lineOf(text, "## 2.")} structure`]);
  });

  test("every line is right where the lines end as on Windows: each is named, and nothing else", () => {
    const found = readRunbook(sampleText.replaceAll("\n", "\r\n"), samplePath).mistakes;
    expect(new Set(found.map(({ rule }) => rule))).toEqual(new Set(["characters"]));
    expect(found).toHaveLength(sampleText.split("\n").length - 1);
  });
});

describe("hostile front matter", () => {
  const withFront = (front: string) => sampleText.replace(/^---\n[\s\S]*?\n---\n/, `---\n${front}\n---\n`);
  const own = /^---\n([\s\S]*?)\n---\n/.exec(sampleText)?.[1] ?? "";
  const bomb = [
    "a: &a [x,x,x,x,x,x,x,x,x]",
    ..."bcdefgh".split("").map((key, index) => `${key}: &${key} [${`*${"abcdefgh"[index]},`.repeat(9)}]`),
  ];

  test.each([
    ["anchors that multiply", `${own}\n${bomb.join("\n")}`],
    ["a reference to itself", `${own}\nx: &x [*x]`],
    ["a tag", own.replace("rto: 10m", 'rto: !!js/function "10m"')],
    ["a key twice", own.replace("  rto: 10m", "  rto: 10m\n  rto: 20m")],
    ["__proto__", `${own}\n__proto__: {a: 1}`],
    ["a prototype within", own.replace("  rto: 10m", "  rto: 10m\n  __proto__: {undo: true}")],
    ["a list", "- shell\n- bash"],
    ["a text", "shell"],
    ["nothing", ""],
    ["two documents", `${own}\n...\n%YAML 1.2\nshell: bash`],
    ["a number for a time", own.replace("rto: 10m", "rto: 10")],
    ["a date for an id", own.replace("id: RB-50", "id: 2026-11-25")],
    ["broken YAML", own.replace("alerts: [hold_oldest]", "alerts: [hold_oldest")],
    ["a tab", own.replace("  rto: 10m", "\trto: 10m")],
    ["another shell", own.replace("shell: bash", "shell: python")],
    ["a variable name that is none", own.replace("[SAMPLE_PASSPHRASE]", '["A; rm -rf /"]')],
  ])("%s is a mistake with its line", (_, front) => {
    const { runbook, mistakes: found } = readRunbook(withFront(front), samplePath);
    expect(runbook).toBeNull();
    expect(found.length).toBeGreaterThan(0);
    for (const { line } of found) {
      expect(line).toBeGreaterThanOrEqual(1);
      expect(line).toBeLessThanOrEqual(front.split("\n").length + 2);
    }
    expect({}).not.toHaveProperty("undo");
  });

  test("names the line of a nested value", () => {
    const text = withFront(own.replace("root: true", "root: perhaps"));
    expect(mistakes(text)).toEqual([`${lineOf(text, "root: perhaps")} front-matter`]);
  });

  test("says what is missing", () => {
    const text = withFront(own.replace("  severity: sev2\n", ""));
    expect(readRunbook(text, samplePath).mistakes).toMatchObject([
      { message: expect.stringContaining("it is missing") },
    ]);
  });
});

describe("whatever a file holds", () => {
  test("it is read, or refused as an operator can understand", () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
    const piece = fc.oneof(
      fc.constantFrom(
        ..."---|\n|```|```sh {name=a}|```sh {name=b kind=verify}|```text {expect=b}|## |# |> |- |    |runbook:|shell: bash|{|}|=|(re)|(glob*)|\r|\t|~~~|<!--|-->|[x](y)|*|$|\0|\u{1F600}".split(
          "|",
        ),
      ),
      fc.string({ maxLength: 8 }),
    );
    const edit = fc.record({
      at: fc.nat(sampleText.length),
      remove: fc.nat(40),
      put: fc.array(piece, { maxLength: 4 }),
    });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 6 }), (edits) => {
        const text = edits.reduce(
          (all, { at, remove, put }) => all.slice(0, at) + put.join("") + all.slice(at + remove),
          sampleText,
        );
        const lines = text.split("\n").length;
        try {
          const { steps } = parse(text);
          expect(steps.length).toBeGreaterThan(0);
          for (const step of steps) expect(step.verify.length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(OperatorError);
          for (const { line } of (error as RunbookFault).findings) {
            expect(line).toBeGreaterThanOrEqual(1);
            expect(line).toBeLessThanOrEqual(lines);
          }
        }
      }),
      { seed, numRuns: process.env.SPOOLSAFE_LONG === undefined ? 150 : 3000 },
    );
  });
});
