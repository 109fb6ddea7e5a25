import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { zabbixDocument } from "../../src/status/zabbix.ts";
import { reportOf } from "../status/facts.ts";

const text = readFileSync(join(import.meta.dirname, "../../examples/zabbix/spoolsafe_template.yaml"), "utf8");
const [template] = parse(text).zabbix_export.templates;

/** Every value of a key, at any depth. */
function valuesOf(key: string, within: unknown): unknown[] {
  if (Array.isArray(within)) return within.flatMap((one) => valuesOf(key, one));
  if (typeof within !== "object" || within === null) return [];
  return Object.entries(within).flatMap(([name, value]) => (name === key ? [value] : valuesOf(key, value)));
}

describe("the template", () => {
  test("asks for what is in the document that status prints", () => {
    const document = JSON.parse(zabbixDocument(reportOf()));
    const paths = [...text.matchAll(/'(\$\..*)'$/gm)].map(([, path = ""]) => path.replaceAll("''", "'"));
    expect(paths.length).toBeGreaterThan(15);
    for (const path of paths) {
      const [, field] = /^\$\.instances\[\?\(@\.name == '\{#INSTANCE\}'\)\]\.(\w+)\.first\(\)$/.exec(path) ?? [];
      if (field !== undefined) expect(document.instances[0], path).toHaveProperty(field);
      else expect(document, path).toHaveProperty(path.slice(2));
    }
    expect(document.discovery[0]).toHaveProperty("{#INSTANCE}");
  });

  test("is consistent: identifiers of version 4, each once; keys and macros that are there", () => {
    const ids = valuesOf("uuid", parse(text));
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
    const masters = valuesOf("master_item", template);
    expect(new Set(masters.map((master) => JSON.stringify(master)))).toEqual(new Set(['{"key":"spoolsafe.status"}']));
    const keys = new Set(valuesOf("key", template));
    const expressions = valuesOf("expression", template).map(String);
    for (const expression of expressions) {
      const [, key] = /\(\/Spoolsafe\/([\w.]+(?:\[[^\]]*\])?)/.exec(expression) ?? [];
      expect(keys, expression).toContain(key);
    }
    const macros = new Set(expressions.flatMap((expression) => expression.match(/\{\$[\w.]+\}/g) ?? []));
    expect(macros).toEqual(new Set(valuesOf("macro", template)));
  });
});
