import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { digestOf } from "../../src/system/digest.ts";
import { spoolsafe } from "../support/cli.ts";
import { fillMixed, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import type { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

/*
 * Failures rehearsed by the real command: each ends as documented, says so in its report, and leaves the repository as it was but
 * for that report.
 */
describe.skipIf(!needs("root", "postfix", "age", "zstd", "tar", "openssl"))("drill --scenario", () => {
  let sink: Sink;
  let site: Site;
  let source: PrivatePostfix;
  let config = "";
  let before: ReadonlyMap<string, string>;

  beforeAll(async () => {
    sink = await mixedSink();
    site = await Site.make();
    source = await PrivatePostfix.start({ sink });
    await fillMixed(source, { messages: 20 });
    await source.abort();
    await site.backup(source);
    await site.backup(source);
    config = site.configure([]);
    before = objects();
  });
  afterAll(async () => {
    source?.destroy();
    await site?.[Symbol.asyncDispose]();
    await sink?.[Symbol.asyncDispose]();
  });

  const run = (...args: string[]) =>
    spoolsafe([...args, "--json", "--config", config, "--identity-file", join(site.directory, "identity.txt")]);

  /** Every object of the repository but reports, with the digest of its bytes. */
  function objects(): Map<string, string> {
    const root = join(site.directory, "repository");
    const names = readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
    const kept = names.filter((path) => !path.startsWith(join(root, "drills/")));
    return new Map(kept.map((path) => [path, digestOf(readFileSync(path)).digest]));
  }

  test.each([
    ["damaged-pack", "damaged", /^exit 13: .*packs\/\S+ does not match its digest/],
    ["missing-pack", "damaged", /^exit 13: .*packs\/\S+ is missing/],
    ["wrong-identity", "no-identity", /^exit 12: /],
    ["older-snapshot", null, /this host has seen number 2 of writer [0-9a-f]{16}/],
    ["store-unreachable", "no-repository", /^exit 10: there is no directory/],
    ["no-spoolsafe", null, /^\d+ of \d+ messages came back byte for byte$/],
  ] as const)("%s", async (name, kind, happened) => {
    const { code, json, stderr } = await run("drill", "--scenario", name);
    const summary = json.at(-1);
    expect({ code, stderr, summary }).toMatchObject({
      code: 0,
      summary: { type: "summary", ok: true, stored: true, scenario: { name, ok: true } },
    });
    const shown = (await run("drill", "show", String(summary?.drill))).json.at(0);
    expect(shown).toMatchObject({
      ...{ type: "drill", ok: true, deviations: [], failure: kind === null ? null : { kind } },
      scenario: { name, happened: expect.stringMatching(happened) },
    });
    // Every address of the mixed mail has one, and so has every Message-Id.
    expect(JSON.stringify(shown)).not.toContain("@");
    expect(objects()).toEqual(before);
  });

  test("no-spoolsafe runs no script as root that somebody else has put into the repository", async () => {
    const page = join(site.directory, "repository", "RECOVER.txt");
    const text = readFileSync(page, "utf8");
    const mark = join(site.directory, "was-run");
    writeFileSync(page, text.replace(/^umask 077;/m, `touch ${mark}; umask 077;`));
    const { code, json } = await run("drill", "--scenario", "no-spoolsafe");
    writeFileSync(page, text);
    expect(existsSync(mark)).toBe(false);
    expect({ code, last: json.at(-1) }).toMatchObject({
      code: 1,
      last: { ok: false, scenario: { happened: expect.stringMatching(/^exit 13: the script in RECOVER.txt is not/) } },
    });
  });

  test("is no proof: the job's record knows nothing of it", async () => {
    const { json } = await run("status");
    expect(json.at(-1)).toMatchObject({ lastDrill: null });
    const listed = (await run("drill", "list")).json;
    expect(listed.slice(0, -1).map(({ scenario }) => scenario)).toHaveLength(7);
    expect(await run("drill", "verify")).toMatchObject({ code: 0 });
  });

  test("whose report can't be stored keeps it, says so loudly and with exit 3, and a later one hands it in", async () => {
    const drills = join(site.directory, "repository", "drills");
    renameSync(drills, `${drills}-away`);
    writeFileSync(drills, "");
    const kept = await run("drill", "--scenario", "wrong-identity", "--quiet");
    expect({ code: kept.code, stored: kept.json.at(-1)?.stored }).toEqual({ code: 3, stored: false });
    expect(kept.stderr).toContain("warning: the report is not in the repository, and the next drill hands it in:");
    rmSync(drills);
    renameSync(`${drills}-away`, drills);
    const verified = await run("drill", "verify");
    expect({ code: verified.code, ...verified.json.at(-1) }).toMatchObject({
      code: 0,
      pending: [kept.json.at(-1)?.drill],
    });
    const next = await run("drill", "--scenario", "wrong-identity");
    expect({ code: next.code, stored: next.json.at(-1)?.stored }).toEqual({ code: 0, stored: true });
    expect((await run("drill", "verify")).json.at(-1)).toMatchObject({ checked: 9, damaged: [], pending: [] });
  });

  test("a real drill whose repository is away fails, and its report is kept all the same", async () => {
    const repository = join(site.directory, "repository");
    renameSync(repository, `${repository}-away`);
    const { code, json, stderr } = await run("drill");
    expect({ code, last: json.at(-1) }).toMatchObject({ code: 10, last: { type: "error", kind: "no-repository" } });
    expect(stderr).toContain("the report is not in the repository");
    const list = await run("drill", "list");
    expect(list.code).toBe(3);
    expect(list.json.at(-2)).toMatchObject({ type: "drill", ok: false, scenario: null, snapshot: null, stored: null });
    renameSync(`${repository}-away`, repository);
    expect(await run("drill", "verify")).toMatchObject({ code: 0 });
  });
});
