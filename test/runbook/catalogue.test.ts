import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  findRunbook,
  listRunbooks,
  packagedRunbooks,
  type RunbookPlaces,
  requireRunbook,
  requireTrusted,
} from "../../src/runbook/catalogue.ts";
import { lookFor } from "../../src/runbook/search.ts";
import { takeoverSheets } from "../../src/runbook/takeover.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { changed, sampleText } from "./sample.ts";

let scratch: string;
let places: RunbookPlaces;

function named(id: string, title = "A sample that touches nothing real"): string {
  return changed("# RB-50 A sample that touches nothing real", `# ${id} ${title}`, changed("id: RB-50", `id: ${id}`));
}

/** Whatever the mask is: what others may write is not trusted. */
function put(path: string, text: string): void {
  writeFileSync(path, text);
  chmodSync(path, 0o644);
}

beforeAll(() => {
  scratch = makeScratch();
  places = { packaged: join(scratch, "package/runbooks"), site: join(scratch, "etc/runbooks") };
  for (const directory of [places.packaged, places.site]) mkdirSync(directory, { recursive: true, mode: 0o755 });
  put(join(places.packaged, "01-primary-lost.md"), named("RB-01", "Primary lost"));
  put(join(places.packaged, "09-stuck-hold.md"), named("RB-09", "Mail stuck on hold"));
  put(join(places.packaged, "10-spool-disk-full.md"), named("RB-10", "Disk full"));
  writeFileSync(
    join(places.packaged, "11-deferred-backlog.md"),
    named("RB-11", "Backlog").replace("hold_oldest", "verify-*"),
  );
  writeFileSync(
    join(places.packaged, "README.md"),
    "| everything is bounced with 452 | [10](10-spool-disk-full.md) |\n",
  );
  put(join(places.site, "09-stuck-hold.md"), `${named("RB-09", "Mail stuck here")}\n`);
  put(join(places.site, "20-own-disk.md"), named("RB-10", "Our disk"));
  put(join(places.site, "21-broken.md"), "# Not yet\n");
  put(join(places.site, "notes.txt"), "no runbook\n");
});
afterAll(() => destroyScratch(scratch));

describe("the list", () => {
  test("has the site's in the place of packaged ones of the same name or id, and says so", () => {
    expect(listRunbooks(places)).toMatchObject([
      { name: "01-primary-lost", origin: "packaged", replaces: null, modified: null },
      { name: "09-stuck-hold", origin: "site", replaces: "09-stuck-hold", modified: true },
      { name: "11-deferred-backlog", origin: "packaged" },
      { name: "20-own-disk", origin: "site", replaces: "10-spool-disk-full", modified: null },
      { name: "21-broken", origin: "site", replaces: null },
    ]);
  });

  test("is of the package alone where the site has none", () => {
    expect(listRunbooks({ ...places, site: join(scratch, "none") })).toHaveLength(4);
  });

  test.each([
    ["stuck hold", ["09-stuck-hold"]],
    ["HERE", ["09-stuck-hold"]],
    ["standby zebra", []],
    ["452", []], // The index leads to the packaged one, in whose place the site's stands.
    ["verify-failed", ["11-deferred-backlog"]],
    ["hold_oldest primary", ["01-primary-lost"]],
  ])("for %j: %j", (words, names) => {
    expect(lookFor(listRunbooks(places), words.split(" "), places).map(({ name }) => name)).toEqual(names);
  });

  test("for a word of the index", () => {
    const packaged = { ...places, site: join(scratch, "none") };
    expect(lookFor(listRunbooks(packaged), ["452"], packaged).map(({ name }) => name)).toEqual(["10-spool-disk-full"]);
  });
});

describe("a runbook is called", () => {
  test.each([
    ["01", "01-primary-lost"],
    ["1", "01-primary-lost"],
    ["RB-01", "01-primary-lost"],
    ["rb-01", "01-primary-lost"],
    ["01-primary-lost", "01-primary-lost"],
    ["9", "09-stuck-hold"],
    ["RB-10", "20-own-disk"],
  ])("%s: %s", (call, name) => {
    expect(findRunbook(places, call, "/").name).toBe(name);
  });

  test("by its path, and compared with the packaged one of the same name", () => {
    const found = findRunbook(places, "runbooks/09-stuck-hold.md", join(scratch, "etc"));
    expect(found).toMatchObject({ origin: "file", modified: true, path: join(places.site, "09-stuck-hold.md") });
    expect(findRunbook(places, join(places.packaged, "01-primary-lost.md"), "/")).toMatchObject({
      origin: "file",
      modified: null,
      replaces: null,
    });
  });

  test.each(["99", "primary", "RB-99", "README", "*"])("%s: no such thing", (call) => {
    expect(() => findRunbook(places, call, "/")).toThrow(expect.objectContaining({ kind: "usage", exitCode: 2 }));
  });

  test.each(["./none.md", "/", "/dev/null"])("%s: can't be read", (call) => {
    expect(() => findRunbook(places, call, "/")).toThrow(expect.objectContaining({ kind: "config", exitCode: 2 }));
  });

  test("and refused with its mistakes when it is none", () => {
    expect(() => requireRunbook(findRunbook(places, "21", "/"))).toThrow(/21-broken\.md.*no runbook/);
  });
});

describe("nothing is executed that others could have written", () => {
  let directory: string;
  let path: string;
  beforeAll(() => {
    directory = join(scratch, "trust");
    path = join(directory, "own/50-sample.md");
    mkdirSync(join(directory, "own"), { recursive: true, mode: 0o755 });
    writeFileSync(path, sampleText, { mode: 0o644 });
  });
  const check = () => requireTrusted(findRunbook(places, path, "/"));

  test("one of root's, or of who runs it, in such directories is", () => {
    expect(check).not.toThrow();
  });

  test.each([
    ["the file", () => path, 0o664],
    ["its directory", () => join(directory, "own"), 0o777],
    ["a directory above", () => directory, 0o775],
  ])("%s may be written by others", (_, which, mode) => {
    chmodSync(which(), mode);
    expect(check).toThrow(expect.objectContaining({ kind: "refused", hints: [`chmod go-w '${which()}'`] }));
    chmodSync(which(), mode & 0o755);
    expect(check).not.toThrow();
  });

  test("a sticky directory, where nobody can replace another's file, does no harm", () => {
    chmodSync(directory, 0o1777);
    expect(check).not.toThrow();
    chmodSync(directory, 0o755);
  });

  test.skipIf(process.getuid?.() !== 0)("another's file is not, also behind a link", () => {
    const link = join(directory, "own/51-link.md");
    symlinkSync(path, link);
    chownSync(path, 65534, 65534);
    expect(check).toThrow(expect.objectContaining({ kind: "refused", hints: [`chown root '${path}'`] }));
    expect(() => requireTrusted(findRunbook(places, link, "/"))).toThrow(/belongs to user 65534/);
    chownSync(path, 0, 0);
  });

  test("what came with the program is as safe as the program", () => {
    chmodSync(join(places.packaged, "01-primary-lost.md"), 0o666);
    expect(() => requireTrusted(findRunbook(places, "01", "/"))).not.toThrow();
    chmodSync(join(places.packaged, "01-primary-lost.md"), 0o644);
  });
});

describe("the package's own directory", () => {
  test("is found from the sources, from dist, and from an installed copy", () => {
    const root = join(import.meta.dirname, "../..");
    expect(packagedRunbooks()).toBe(join(root, "runbooks"));
    expect(packagedRunbooks(join(root, "dist/app.js"))).toBe(join(root, "runbooks"));
    const installed = join(scratch, "lib/node_modules/spoolsafe");
    mkdirSync(join(installed, "dist"), { recursive: true });
    writeFileSync(join(installed, "package.json"), '{"name":"spoolsafe"}');
    writeFileSync(join(scratch, "lib/package.json"), '{"name":"other"}');
    expect(packagedRunbooks(join(installed, "dist/chunk-X.js"))).toBe(join(installed, "runbooks"));
  });

  test("is missing where there is no package", () => {
    expect(() => packagedRunbooks("/proc/1/x.js")).toThrow(/no package of spoolsafe/);
  });
});

test("the sheets of a snapshot are what a takeover needs, and the site's own; the same each time", () => {
  const sheets = takeoverSheets(places);
  expect(sheets.map(({ name }) => name)).toEqual([
    "01-primary-lost.txt",
    "09-stuck-hold.txt",
    "20-own-disk.txt",
    "21-broken.txt",
  ]);
  expect(takeoverSheets(places)).toEqual(sheets);
  chmodSync(join(places.site, "21-broken.md"), 0o666);
  expect(takeoverSheets(places).map(({ name }) => name)).not.toContain("21-broken.txt");
});
