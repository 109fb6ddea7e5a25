import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readCopies, recordUnsent } from "../../src/jobs/copies.ts";
import { readJob } from "../../src/jobs/record.ts";
import { messageRecords, queueFile } from "../postfix/records.ts";
import { spoolsafe } from "../support/cli.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";
import { until } from "../support/wait.ts";
import { objectsIn } from "./copying.ts";

let directory: string;
let site: StoredSite;
let plain: string;
const path = (name: string) => join(directory, name);
const url = (name: string) => `file://${path(name)}`;
const run = (...args: string[]) => spoolsafe([...args, "--config", site.config]);
const take = (text: string) =>
  site.snapshot([{ bytes: queueFile(messageRecords({ text })), entry: { queueId: "7E48C16210F" } }]);
const configure = (...copies: string[]) =>
  writeFileSync(site.config, plain + copies.map((place) => `[[copy]]\nurl = "${place}"\n`).join(""));

beforeAll(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
  plain = readFileSync(site.config, "utf8");
  await take("one");
  await take("two");
});
afterAll(() => destroyScratch(directory));

describe("copy", () => {
  test("--to makes a copy that a restore needs nothing else than, when the repository is gone", async () => {
    const { code, json } = await run("copy", "--to", url("usb"), "--json");
    expect(code).toBe(0);
    expect(json.at(-2)).toMatchObject({ type: "copy", url: url("usb"), snapshots: 2, behind: 0, error: null });
    expect(json.at(-1)).toMatchObject({ type: "summary", targets: 1 });
    expect(readJob(path("state"), "copy").lastStart).toBeNull();

    renameSync(path("repository"), path("gone"));
    const place = path("restored");
    const restored = await run("restore", "latest", "--to", place, "--repository", url("usb"), "--json");
    expect([restored.code, restored.stderr]).toEqual([0, expect.anything()]);
    const whole = await run("verify", "--all", "--level", "sealed", "--repository", url("usb"));
    expect([whole.code, whole.stdout]).toEqual([0, expect.stringContaining("nothing wrong")]);
    renameSync(path("gone"), path("repository"));
  });

  test("without --to goes to every copy of the configuration, and leaves how they stand", async () => {
    configure(url("a"), url("b"));
    recordUnsent(path("state"), [{ url: url("a"), endpoint: null }]);
    const { code, stdout } = await run("copy");
    expect([code, stdout.trim().split("\n")]).toEqual([
      0,
      [
        expect.stringContaining(`copied to ${url("a")}: 2 snapshots`),
        expect.stringContaining(`copied to ${url("b")}: 2`),
      ],
    ]);
    const success = { behind: 0, lastSuccess: expect.any(String), error: null, endpoint: null, made: true };
    expect(readCopies(path("state"))).toEqual([
      { url: url("a"), ...success },
      { url: url("b"), ...success },
    ]);
    expect(readJob(path("state"), "copy")).toMatchObject({
      lastExit: 0,
      detail: { targets: 2, snapshots: 4, behind: 0 },
    });
    expect(objectsIn(path("a"))).toEqual(objectsIn(path("repository")));
  });

  test("goes on with the others when one fails, and does not make anew what is not mounted", async () => {
    configure(url("a"), url("b"));
    rmSync(path("a"), { recursive: true });
    mkdirSync(path("a"));
    const id = await take("three");
    const { code, stderr } = await run("copy");
    expect([code, stderr]).toEqual([10, expect.stringContaining(`the copy at ${url("a")} is not there any more`)]);
    expect(stderr).toContain("is its disk mounted?");
    expect([...objectsIn(path("a")).keys()]).toEqual([]);
    expect([...objectsIn(path("b")).keys()].some((key) => key.endsWith(id))).toBe(true);
    expect(readJob(path("state"), "copy")).toMatchObject({ lastExit: 10 });
    const [b, a] = readCopies(path("state")).toSorted((one) => (one.error === null ? -1 : 1));
    expect([b?.error, a?.error]).toEqual([null, expect.stringContaining("not there any more")]);
  });

  test("of damage is exit 13, and what is whole is copied", async () => {
    configure();
    const repository = path("repository");
    const pack = [...objectsIn(repository).keys()].find((key) => key.startsWith("packs/")) ?? "";
    const bytes = readFileSync(join(repository, pack));
    writeFileSync(join(repository, pack), Buffer.concat([bytes.subarray(1), Buffer.from("x")]));
    const { code, stderr } = await run("copy", "--to", url("c"));
    expect([code, stderr]).toEqual([13, expect.stringContaining(`${pack} does not match its digest`)]);
    expect(existsSync(path(`c/${pack}`))).toBe(false);
    writeFileSync(join(repository, pack), bytes);
    const healed = await run("copy", "latest~1", "--to", url("c"));
    expect([healed.code, healed.stdout]).toEqual([0, expect.stringMatching(/: \d snapshots/)]);
  });

  test("ends at SIGTERM, leaves nothing half-copied, and goes on when it is run again", async () => {
    configure();
    appendFileSync(site.config, '[limits]\nupload = "1kB/s"\n');
    const ended = await spoolsafe(["copy", "--to", url("slow"), "--config", site.config], {
      meanwhile: async (child) => {
        await until(() => existsSync(path("slow/RECOVER.txt")), { what: () => "no copy" });
        child.kill("SIGTERM");
      },
    });
    expect(ended.code).toBe(130);
    expect([...objectsIn(path("slow")).keys()].filter((key) => key.startsWith("snapshots/"))).toEqual([]);
    configure();
    expect((await run("copy", "--to", url("slow"))).code).toBe(0);
    expect(objectsIn(path("slow"))).toEqual(objectsIn(path("repository")));
  });

  test.each([
    ["the repository itself", () => url("repository"), /is the same place as/],
    ["the repository under another name", () => `${url("repository")}/../repository`, /is the same place as/],
    ["a place within it", () => url("repository/copies"), /is not apart from/],
  ])("to %s is a configuration error, of every backup as well", async (_, place, message) => {
    configure();
    const asked = await run("copy", "--to", place());
    expect([asked.code, asked.stderr]).toEqual([2, expect.stringMatching(message)]);
    configure(place());
    const configured = await run("copy");
    expect([configured.code, configured.stderr]).toEqual([2, expect.stringMatching(message)]);
    if (process.getuid?.() !== 0) return;
    const backup = await run("backup");
    expect([backup.code, backup.stderr]).toEqual([2, expect.stringMatching(message)]);
  });

  test("twice to one place, nowhere, and to one snapshot of all are errors of who asks", async () => {
    configure(url("d"), `${url("d")}/`);
    expect((await run("copy")).code).toBe(2);
    configure();
    const nowhere = await run("copy");
    expect([nowhere.code, nowhere.stderr]).toEqual([2, expect.stringContaining("nowhere to copy to")]);
    expect((await run("copy", "latest", "--all", "--to", url("d"))).code).toBe(2);
    expect(existsSync(path("d"))).toBe(false);
  });

  test("--repository reaches a configured copy as its own table says", async () => {
    configure();
    appendFileSync(
      site.config,
      '[[copy]]\nurl = "s3://bucket/copy"\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\n',
    );
    const { code, stderr } = await spoolsafe(
      ["snapshots", "--repository", "s3://bucket/copy", "--config", site.config],
      { env: { AWS_ACCESS_KEY_ID: "none", AWS_SECRET_ACCESS_KEY: "none" } },
    );
    expect([code, stderr]).toEqual([1, expect.stringContaining("127.0.0.1:1")]);
  });
});
