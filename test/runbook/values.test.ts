import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { planRunbook } from "../../src/runbook/plan.ts";
import { effectiveValues, parseSettings, readVariables } from "../../src/runbook/values.ts";
import { changed, samplePath, sampleText } from "./sample.ts";

const runbook = parseRunbook(sampleText, samplePath);

describe("the lines of a vars block", () => {
  const read = (script: string) => {
    const told: string[] = [];
    const variables = readVariables(script, 20, (line, _, message) => told.push(`${line}: ${message}`));
    return { variables, told };
  };

  test("have names, defaults as written, and lines; comments are none", () => {
    const script = `# where\nexport A="\${A:-}"\n\nexport B_2="\${B_2:-$(cmd "a b") c}"`;
    expect(read(script)).toEqual({
      variables: [
        { name: "A", default: "", line: 21 },
        { name: "B_2", default: '$(cmd "a b") c', line: 23 },
      ],
      told: [],
    });
  });

  test.each([
    "export A=1",
    `A="\${A:-1}"`,
    `export A="\${B:-1}"`,
    `export A="\${A-1}"`,
    `export A=\${A:-1}`,
    `export A="\${A:-1}"; rm x`,
    `export A="\${A:-1}" B=2`,
    "echo hello",
    "unset A",
  ])("%s is a mistake", (script) => {
    expect(read(script)).toMatchObject({
      variables: [],
      told: [expect.stringContaining("20: a line of this block is")],
    });
  });

  test("the same name twice", () => {
    const { told } = read(`export A="\${A:-1}"\nexport A="\${A:-2}"`);
    expect(told).toEqual(["21: A is exported twice"]);
  });
});

describe("values", () => {
  const values = (set: readonly string[], environment = {}) =>
    effectiveValues(runbook, parseSettings(set), environment).map(({ name, value, origin, computed }) => [
      name,
      value,
      origin,
      computed,
    ]);

  test("come from --set, else the environment, else the default", () => {
    expect(values(["MAIL_CONFIG=/etc/a"], { MAIL_CONFIG: "/etc/b", QUEUE_DIRECTORY: "/q" })).toEqual([
      ["MAIL_CONFIG", "/etc/a", "--set", false],
      ["QUEUE_DIRECTORY", "/q", "environment", false],
    ]);
    expect(values([])).toEqual([
      ["MAIL_CONFIG", "/etc/postfix", "default", false],
      ["QUEUE_DIRECTORY", "$(postconf -h queue_directory)", "default", true],
    ]);
  });

  test("that are empty count as none, as they do in bash", () => {
    expect(values(["MAIL_CONFIG="], { MAIL_CONFIG: "" })[0]).toEqual(["MAIL_CONFIG", "/etc/postfix", "default", false]);
  });

  test("of secrets are shown nowhere", () => {
    const text = changed("[SAMPLE_PASSPHRASE]", "[MAIL_CONFIG]");
    const secret = parseRunbook(text, samplePath);
    const plan = planRunbook(secret, parseSettings(["MAIL_CONFIG=canary"]), { MAIL_CONFIG: "canary" });
    expect(plan.values[0]).toMatchObject({ name: "MAIL_CONFIG", value: null });
    expect(JSON.stringify(plan)).not.toContain("canary");
  });

  test.each([["X=1"], ["MAIL_CONFIG"], ["=1"], ["MAIL_CONFIG=1", "MAIL_CONFIG=2"]])(
    "--set %s is wrong usage",
    (...set) => {
      expect(() => values(set)).toThrow(OperatorError);
      expect(() => values(set)).toThrow(expect.objectContaining({ kind: "usage" }));
    },
  );

  test("may hold anything", () => {
    expect(values(["MAIL_CONFIG=a=b\n$(rm -rf /)'\""])[0]?.[1]).toBe("a=b\n$(rm -rf /)'\"");
  });
});

describe("a plan", () => {
  const plan = planRunbook(runbook, new Map(), {});

  test("has each step with its risk, what is asked, and limits", () => {
    expect(plan.steps).toMatchObject([
      { name: "count", manual: false, risk: "read", confirm: "no", timeoutMs: 60_000, verifyMs: 104_000, undo: null },
      { name: "close", risk: "change", confirm: "yes", timeoutMs: 30_000, undo: "close-undo" },
      { name: "tell", manual: true, risk: null, confirm: "yes", timeoutMs: null },
    ]);
    expect(plan).toMatchObject({ rtoMs: 600_000, longestMs: null });
  });

  test("asks by the risk where the fence does not say", () => {
    const confirm = (from: string, to: string) =>
      planRunbook(parseRunbook(changed(from, to), samplePath), new Map(), {}).steps[1]?.confirm;
    expect(confirm(" confirm=yes", "")).toBe("yes");
    expect(confirm("risk=change confirm=yes", "risk=destructive")).toBe("type");
    expect(confirm("risk=change confirm=yes", "risk=read")).toBe("no");
  });
});
