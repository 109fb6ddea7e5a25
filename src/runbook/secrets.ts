/** What stands for a secret in everything that is written or shown. */
export const redacted = "[secret]";

/** Names of environment variables that are secret whatever a runbook says of them: what the AWS SDKs read. */
const alwaysSecret = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

const privateKey = "-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----";
const privateKeyEnd = "-----END [A-Z0-9 ]*PRIVATE KEY-----";

/**
 * Secrets by what they look like, as extended regular expressions that JavaScript and sed(1) read alike: age identities,
 * and AWS keys by their prefix or by the name they are given in files and environments.
 */
const shapes = [
  "AGE-SECRET-KEY-[A-Za-z0-9-]+",
  "(AKIA|ASIA)[A-Z0-9]{16}",
  "([Aa][Ww][Ss]_)?([Ss][Ee][Cc][Rr][Ee][Tt]_[Aa][Cc][Cc][Ee][Ss][Ss]_[Kk][Ee][Yy]|[Ss][Ee][Ss][Ss][Ii][Oo][Nn]_[Tt][Oo][Kk][Ee][Nn])[ \t]*[=:][ \t]*[^ \t\\n]+",
];

/**
 * The secrets of one run: the values of its secret variables, and what looks like a key. Takes them out of texts here, and
 * tells sed(1) and grep(1) how to, for what is written while nobody of us is there.
 */
export class Secrets {
  /** Names of the variables that are secret. */
  readonly names: readonly string[];
  readonly #texts: readonly string[];
  readonly #pattern: RegExp;

  /** @param env where their values are; one that has none hides nothing */
  constructor(names: readonly string[], env: Readonly<Record<string, string | undefined>>) {
    this.names = [...new Set([...names, ...alwaysSecret])];
    this.#texts = textsOf(this.names.flatMap((name) => env[name] ?? []));
    const alternatives = [`${privateKey}[\\s\\S]*?(?:${privateKeyEnd}|$)`, ...this.#texts.map(escaped), ...shapes];
    this.#pattern = new RegExp(alternatives.join("|"), "g");
  }

  scrub(text: string): string {
    return text.replaceAll(this.#pattern, redacted);
  }

  /** Every text in a value of JSON, at any depth; keys stay. */
  scrubDeep<Value>(value: Value): Value {
    return JSON.parse(JSON.stringify(value), (_, each: unknown) =>
      typeof each === "string" ? this.scrub(each) : each,
    );
  }

  /** Whether a text has nothing to hide. */
  isClean(text: string): boolean {
    return this.scrub(text) === text;
  }

  /** For `sed -E`: the same, line by line. It has values in it, so it must be in no argument list. */
  get sedScript(): string {
    const substitute = (pattern: string) => `s/${pattern.replaceAll("/", "\\/")}/${redacted}/g`;
    return [
      ...[...this.#texts.map(escaped), ...shapes].map(substitute),
      substitute(`${privateKey}.*${privateKeyEnd}`),
      `/${privateKey}/,/${privateKeyEnd}/{`,
      `/${privateKey}/!d`,
      `s/.*/${redacted}/`,
      "}",
    ].join("\n");
  }

  /** For `grep -F`: what a variable that is kept for a later block must not have in it, one per line. No line is empty. */
  get keptOut(): string {
    const byName = this.names.map((name) => `${name}=`);
    return [...byName, ...this.#texts, "AGE-SECRET-KEY-", "PRIVATE KEY-----"].join("\n");
  }
}

/** A value of several lines is looked for line by line, as sed sees it; very short lines would hide half of every text. */
function textsOf(values: readonly string[]): string[] {
  const lines = values.flatMap((value) => {
    const parts = value.split("\n").filter((line) => line.trim() !== "");
    return parts.length > 1 ? parts.filter((line) => line.length >= 4) : parts;
  });
  // The longest first: one secret may be the beginning of another.
  return [...new Set(lines)].sort((a, b) => b.length - a.length);
}

/** As a literal in an extended regular expression, of JavaScript and of sed alike. */
function escaped(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
