import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

/** Folders of src/ from left to right; each imports only from its left. Folders in one group don't know each other. */
const layers = [
  ["errors"],
  ["system"],
  ["postfix"],
  ["snapshot"],
  ["crypto"],
  ["pack"],
  ["repository"],
  ["holds"],
  ["jobs"],
  ["backup", "restore", "verify", "doctor", "prune", "copy", "status", "alerts", "schedule"],
  ["drill", "runbook", "triage"],
  ["config"],
  ["cli"],
  ["main", "launcher", "index"],
] as const;

const root = fileURLToPath(new URL("../src/", import.meta.url));

/** What each file of src/ imports from src/, both as paths below src/; types and worker files count as well. */
function readImports(): Map<string, string[]> {
  const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  return new Map(files.map((file) => [file, importsOf(file, readFileSync(join(root, file), "utf8"))]));
}

function importsOf(file: string, text: string): string[] {
  const named = text.matchAll(/(?:\bfrom|\bimport|\bimport\(|\bnew URL\()\s*"(\.{1,2}\/[^"]+\.ts)"/g);
  return [...named].map(([, path = ""]) => relative(root, resolve(root, dirname(file), path)));
}

function layerOf(file: string): number {
  const folder = (file.split("/")[0] ?? "").replace(/\.ts$/, "");
  return layers.findIndex((group) => group.some((name) => name === folder));
}

function folderOf(file: string): string {
  return file.includes("/") ? (dirname(file).split("/")[0] ?? "") : file;
}

/** Imports that go right, or to another folder of the same group. */
function stepsRight(imports: ReadonlyMap<string, readonly string[]>): string[] {
  return [...imports].flatMap(([file, targets]) =>
    targets
      .filter((target) => folderOf(target) !== folderOf(file) && layerOf(target) >= layerOf(file))
      .map((target) => `${file} imports ${target}`),
  );
}

/** Files that reach themselves through imports, each ring as one line. */
function rings(imports: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  const finished = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    const start = path.indexOf(file);
    if (start >= 0) found.push([...path.slice(start), file].join(" → "));
    if (start >= 0 || finished.has(file)) return;
    for (const target of imports.get(file) ?? []) visit(target, [...path, file]);
    finished.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
  return found;
}

describe("src/", () => {
  const imports = readImports();

  test("has a place in the order of layers for every file", () => {
    expect(imports.size).toBeGreaterThan(10);
    expect([...imports.keys()].filter((file) => layerOf(file) < 0)).toEqual([]);
  });

  test("imports only from the left", () => {
    expect(stepsRight(imports)).toEqual([]);
  });

  test("imports in no ring", () => {
    expect(rings(imports)).toEqual([]);
  });

  test("imports only files that are there", () => {
    const missing = [...imports].flatMap(([file, targets]) =>
      targets.filter((target) => !imports.has(target)).map((target) => `${file} imports ${target}`),
    );
    expect(missing).toEqual([]);
  });
});

describe("the check itself", () => {
  test("sees imports of every kind", () => {
    const text = `import a from "./a.ts";\nimport type { B } from "../snapshot/b.ts";\nexport * from "./c.ts";
      const d = await import("./d.ts"); new Worker(new URL("./e.ts", import.meta.url)); import "node:fs";`;
    expect(importsOf("pack/x.ts", text)).toEqual(["pack/a.ts", "snapshot/b.ts", "pack/c.ts", "pack/d.ts", "pack/e.ts"]);
  });

  test("sees a step right, a step to a sibling and a ring", () => {
    const imports = new Map([
      ["system/a.ts", ["postfix/b.ts"]],
      ["postfix/b.ts", ["system/a.ts"]],
      ["backup/c.ts", ["restore/d.ts", "backup/e.ts", "errors.ts"]],
    ]);
    expect(stepsRight(imports)).toEqual(["system/a.ts imports postfix/b.ts", "backup/c.ts imports restore/d.ts"]);
    expect(rings(imports)).toEqual(["system/a.ts → postfix/b.ts → system/a.ts"]);
  });
});
