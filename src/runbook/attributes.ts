import { durationMs } from "./front-matter.ts";
import type { BlockKind, Confirm, Risk } from "./runbook.ts";

/** What a fence says of its block; undefined where it says nothing. */
export interface Attributes {
  readonly name?: string;
  readonly kind?: BlockKind;
  readonly risk?: Risk;
  readonly confirm?: Confirm;
  readonly timeout?: number;
  readonly retry?: number;
  readonly every?: number;
  readonly excludeFromRunAll?: true;
  readonly expect?: string;
}

type Key = keyof Attributes;

/** A name of a block, and so of a step. */
export const blockName = /^[a-z0-9]+(-[a-z0-9]+)*$/;

const kinds: readonly BlockKind[] = ["vars", "pre", "do", "manual", "verify", "undo"];
const risks: readonly Risk[] = ["read", "change", "destructive"];
const confirms: readonly Confirm[] = ["no", "yes", "type"];

/** How each value is read; undefined: it is none. The second is what it may be. */
const readers: { readonly [K in Key]-?: readonly [(value: string) => Attributes[K] | undefined, string] } = {
  name: [(value) => (blockName.test(value) ? value : undefined), "small letters, digits and hyphens"],
  kind: [oneOf(kinds), kinds.join(", ")],
  risk: [oneOf(risks), risks.join(", ")],
  confirm: [oneOf(confirms), confirms.join(", ")],
  timeout: [durationMs, "a time such as 30s, 5m or 2h"],
  retry: [(value) => (/^[1-9]\d{0,3}$/.test(value) ? Number(value) : undefined), "a number from 1 to 9999"],
  every: [durationMs, "a time such as 3s"],
  excludeFromRunAll: [(value) => (value === "true" ? true : undefined), "true"],
  expect: [(value) => (blockName.test(value) ? value : undefined), "the name of a verify block"],
};

/** Where each may stand. */
const places: { readonly [K in Key]-?: readonly BlockKind[] } = {
  name: kinds,
  kind: kinds,
  risk: ["do", "manual", "undo"],
  confirm: ["do", "manual", "undo"],
  timeout: kinds,
  retry: ["pre", "verify"],
  every: ["pre", "verify"],
  excludeFromRunAll: ["manual", "undo"],
  expect: [],
};

/**
 * Reads what follows `sh ` or `text ` on an opening fence: `{name=x kind=pre timeout=30s}`. runme's own parser splits at
 * spaces, knows no quotes, ends at the first `}` and reports nothing, so everything it would misread is a mistake here.
 *
 * @param mistakes gets a sentence for each
 */
export function readAttributes(text: string, language: "sh" | "text", mistakes: string[]): Attributes {
  const inner = /^\{([^{}]*)\}$/.exec(text)?.[1];
  if (inner === undefined) {
    mistakes.push(`attributes stand in one pair of braces after one space: \`${language} {name=value ...}\``);
    return {};
  }
  const read: { [K in Key]?: unknown } = {};
  for (const token of inner.split(" ")) readToken(token, read, mistakes);
  checkPlaces(Object.keys(read).filter(isKey), language === "text" ? null : (oneOf(kinds)(String(read.kind)) ?? "do"), {
    mistakes,
  });
  return read as Attributes;
}

function readToken(token: string, read: { [K in Key]?: unknown }, mistakes: string[]): void {
  const [, key = "", value = ""] = /^([^=]*)=(.*)$/.exec(token) ?? [];
  if (token === "") mistakes.push("one space, and one only, stands between attributes");
  else if (key === "" || value === "") mistakes.push(`${token} is no attribute: write name=value without spaces`);
  else if (/["'`\\]/.test(token)) mistakes.push(`${token}: values have no quotes, and no spaces in them`);
  else if (!isKey(key)) mistakes.push(`unknown attribute ${key}: there are ${Object.keys(readers).join(", ")}`);
  else if (key in read) mistakes.push(`${key} is given twice`);
  else {
    const [reader, may] = readers[key];
    const made = reader(value);
    if (made === undefined) mistakes.push(`${token}: ${key} may be ${may}`);
    else read[key] = made;
  }
}

function checkPlaces(keys: readonly Key[], kind: BlockKind | null, { mistakes }: { mistakes: string[] }): void {
  for (const key of keys) {
    if (kind === null && key !== "expect") mistakes.push(`${key} belongs to sh blocks`);
    if (kind === null || places[key].includes(kind)) continue;
    if (key === "expect") mistakes.push("expect belongs to text blocks");
    else mistakes.push(`${key} belongs to blocks of kind ${places[key].join(", ")}, and this is ${kind}`);
  }
}

function isKey(key: string): key is Key {
  return Object.hasOwn(readers, key);
}

function oneOf<Word extends string>(words: readonly Word[]): (value: string) => Word | undefined {
  return (value) => words.find((word) => word === value);
}
