import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { type Kept, keepReport } from "../../src/drill/keep.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { drillKey } from "../../src/repository/layout.ts";
import { Repository } from "../../src/repository/repository.ts";
import { spoolsafe } from "../support/cli.ts";
import { factsOf, onDay } from "../support/drills.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";

let directory: string;
let site: StoredSite;
const kept: Kept[] = [];
beforeAll(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
  const path = (name: string) => join(directory, name);
  const repository = await Repository.open(new DirectoryStore(path("repository")));
  const [key, trusted] = [loadSigningKey(path("signing.key")), loadTrustedKeys(path("trusted.pub"))];
  const request = { stateDirectory: path("state"), repository, key, trusted, signal: new AbortController().signal };
  const scenario = { name: "missing-pack", expected: "exit 13", happened: "exit 13", ok: true } as const;
  kept.push(await keepReport(factsOf({ started: onDay(1) }), request));
  kept.push(
    await keepReport(factsOf({ started: onDay(2), host: "mx2.example.org", ok: false, deviations: ["one"] }), request),
  );
  kept.push(await keepReport(factsOf({ started: onDay(3), scenario }), request));
});
afterAll(() => destroyScratch(directory));

const drill = (...args: string[]) => spoolsafe(["drill", ...args, "--config", site.config]);
const at = (index: number): Kept => {
  const one = kept[index];
  if (one === undefined) throw new Error(`${index} were not kept`);
  return one;
};

describe("drill list", () => {
  test("shows every report, oldest first, in columns and as JSON lines", async () => {
    const { code, stdout, stderr } = await drill("list");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const [head = "", ...lines] = stdout.trim().split("\n");
    expect(head).toMatch(/^ID +STARTED +HOST +SNAPSHOT +RPO +RTO +IDENTICAL +RESULT +SIGNED +SCENARIO$/);
    expect(lines.map((line) => line.split(/ {2,}/)[0])).toEqual(kept.map(({ signed }) => signed.drill.id));
    expect(lines[1]).toMatch(/mx2\.example\.org .* FAILED +yes +-$/);
    expect(lines[2]).toMatch(/passed +yes +missing-pack$/);

    const { json } = await drill("list", "--json");
    expect(json.map(({ type }) => type)).toEqual(["drill", "drill", "drill", "summary"]);
    expect(json[1]).toMatchObject({
      number: 2,
      ok: false,
      rtoSeconds: 41.3,
      scenario: null,
      signed: true,
      stored: true,
    });
    expect(json.at(-1)).toMatchObject({ count: 3, damaged: 0 });
  });

  test("of one host", async () => {
    const { json } = await drill("list", "--json", "--host", "mx2.example.org");
    expect(json.at(-1)).toMatchObject({ count: 1 });
  });
});

describe("drill show", () => {
  test("shows the newest, or the one that is meant by the beginning of its id", async () => {
    expect((await drill("show")).stdout).toContain("Rehearsed missing-pack: it ended as documented.");
    const { id } = at(1).signed.drill;
    expect((await drill("show", id.slice(0, 6))).stdout).toContain("mx2.example.org");
    expect((await drill("show", id, "--json")).json[0]).toEqual(at(1).signed.drill);
  });

  test("draws it in every format from what was signed", async () => {
    const { id } = at(0).signed.drill;
    const file = (name: string) => readFileSync(join(at(0).directory, name));
    expect((await drill("show", id, "--format", "json")).stdoutBytes).toEqual(file("report.json"));
    expect((await drill("show", id, "--format", "html")).stdoutBytes).toEqual(file("report.html"));
    expect((await drill("show", id, "--format", "md")).stdoutBytes).toEqual(file("report.md"));
  });

  test.each([
    ["fff", 1, "there is no report of a drill fff"],
    ["yesterday", 2, '"yesterday" is not a drill'],
    ["", 2, '"" is not a drill'],
  ])("of %j is an error", async (name, exit, message) => {
    const { code, stderr } = await drill("show", name);
    expect(code).toBe(exit);
    expect(stderr).toContain(message);
  });
});

describe("drill verify", () => {
  test("finds nothing wrong, and says what it looked at", async () => {
    const { code, stdout } = await drill("verify");
    expect({ code, stdout }).toEqual({ code: 0, stdout: "3 reports (signatures, chain): nothing wrong\n" });
    expect((await drill("verify", "--all", "--json")).json.at(-1)).toMatchObject({
      checked: 3,
      damaged: [],
      pending: [],
    });
    expect((await drill("verify", "latest")).stdout).toContain("1 report (signatures, chain): nothing wrong");
  });

  test("checks a file alone: the record, and a page with what it shows", async () => {
    const { directory: here } = at(0);
    for (const name of ["report.json", "report.html"]) {
      expect(await drill("verify", join(here, name))).toMatchObject({
        code: 0,
        stdout: "1 report (signatures only): nothing wrong\n",
      });
    }
    const page = join(directory, "page.html");
    writeFileSync(page, readFileSync(join(here, "report.html"), "utf8").replace("41 s", "11 s"));
    const changed = await spoolsafe(["drill", "verify", "./page.html", "--config", site.config], { cwd: directory });
    expect(changed.code).toBe(13);
    expect(changed.stderr).toContain("is not what its record says");
    writeFileSync(page, "<html>no record</html>");
    expect(await drill("verify", page)).toMatchObject({
      code: 13,
      stderr: expect.stringContaining("no signed record"),
    });
    expect(await drill("verify", join(here, "nothing.json"))).toMatchObject({ code: 1 });
  });

  test("ends with 13 when a record is changed or missing in the repository, and remembers what it has seen", async () => {
    const { drill: report, id } = at(2).signed;
    const file = join(directory, "repository", drillKey({ ...report, id }));
    const bytes = readFileSync(file, "utf8");
    writeFileSync(file, bytes.replace('"ok":true', '"ok":!0'));
    const changed = await drill("verify", "--json");
    expect(changed.code).toBe(13);
    expect(changed.json.at(-1)?.damaged).toMatchObject([{ object: drillKey({ ...report, id }) }]);
    expect((await drill("list")).code).toBe(13);
    rmSync(file);
    const missing = await drill("verify");
    expect(missing.code).toBe(13);
    expect(missing.stderr).toContain("this host has seen drill report number 3");
    writeFileSync(file, bytes);
    expect((await drill("verify")).code).toBe(0);
  });

  test("takes --all or a name, not both", async () => {
    expect(await drill("verify", "latest", "--all")).toMatchObject({ code: 2 });
  });

  test("without a repository checks what is kept here, and says with exit 3 that it is not all", async () => {
    const away = ["--repository", `file://${directory}/nowhere`];
    const { code, stdout, stderr } = await drill("verify", ...away);
    expect({ code, stdout }).toEqual({ code: 3, stdout: "3 reports (signatures only): nothing wrong\n" });
    expect(stderr).toContain("warning: the repository can't be read, so these are only the reports this host keeps");
    expect((await drill("list", ...away)).code).toBe(3);
    expect((await drill("show", ...away)).code).toBe(0);
  });
});
