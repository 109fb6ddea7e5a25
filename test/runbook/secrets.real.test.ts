import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { Secrets } from "../../src/runbook/secrets.ts";

/** What sed(1) makes of a text by the program for it. */
function filtered(secrets: Secrets, text: string): string {
  const done = spawnSync("sed", ["-u", "-E", secrets.sedScript], {
    input: text,
    encoding: "utf8",
    env: { LC_ALL: "C" },
  });
  expect(done.stderr).toBe("");
  return done.stdout;
}

describe("secrets", () => {
  const nasty = [
    "a/b",
    "[x]",
    "a.b*c",
    "\\d+",
    "p$w^d",
    "{1,2}(y|z)",
    "a&b",
    "-n",
    "é ü",
    "q\"u'o",
    "line one\nline two",
    "#;!",
  ];

  test.each(nasty)("%j is taken out by us and by sed, and nothing else", (value) => {
    const secrets = new Secrets(["S"], { S: value });
    const text = `before ${value} after\nother aXb line\n`;
    for (const scrubbed of [secrets.scrub(text), filtered(secrets, text)]) {
      for (const line of value.split("\n")) expect(scrubbed).not.toContain(line);
      expect(scrubbed).toContain("other aXb line\n");
      expect(scrubbed).toMatch(/^before \[secret\]/);
      expect(scrubbed).toContain(" after\n");
    }
  });

  test("keys are known by what they look like", () => {
    const secrets = new Secrets([], {});
    const pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----";
    const text = [
      ...["AGE-SECRET-KEY-1QQ", "AGE-SECRET-KEY-PQ-1QQ", "AKIAABCDEFGHIJKLMNOP", "aws_secret_access_key=abc/def+g"],
      ...["AWS_SESSION_TOKEN: xyz", pem, "the end"],
    ].join("\n");
    for (const scrubbed of [secrets.scrub(text), filtered(secrets, text)]) {
      expect(scrubbed).not.toMatch(/QQ|AKIA|abc|xyz|MIIE/);
      expect(scrubbed).toContain("the end");
    }
    expect(secrets.scrub("age1qqq and ssh-ed25519 AAAA")).toBe("age1qqq and ssh-ed25519 AAAA");
  });

  test("an empty secret, or none, hides nothing", () => {
    const secrets = new Secrets(["S", "T"], { S: "" });
    expect(secrets.scrub("all of it")).toBe("all of it");
    expect(filtered(secrets, "all of it\n")).toBe("all of it\n");
    expect(secrets.keptOut.split("\n")).not.toContain("");
  });
});
