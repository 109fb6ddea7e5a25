import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LogPlaces } from "../../src/backup/log-places.ts";

describe("where logs are looked for", () => {
  let queueDirectory: string;

  beforeEach(() => {
    queueDirectory = mkdtempSync(join(tmpdir(), "spoolsafe-logs-"));
    for (const log of ["bounce", "defer", "trace"]) mkdirSync(join(queueDirectory, log));
  });

  afterEach(() => rmSync(queueDirectory, { recursive: true }));

  test("is the configured depth alone where nothing lies elsewhere", () => {
    const places = new LogPlaces({ queueDirectory, hashQueues: ["deferred", "defer"], hashDepth: 1 });
    expect(places.paths("defer", "4A1B2C")).toEqual([`${queueDirectory}/defer/4/4A1B2C`]);
    expect(places.paths("bounce", "4A1B2C")).toEqual([`${queueDirectory}/bounce/4A1B2C`]);
  });

  test("is also where logs are left from another hash_queue_depth", () => {
    mkdirSync(join(queueDirectory, "defer/4/A"), { recursive: true });
    writeFileSync(join(queueDirectory, "defer/4/A/4A1B2C"), "");
    writeFileSync(join(queueDirectory, "defer/5A1B2C"), "");
    const places = new LogPlaces({ queueDirectory, hashQueues: ["deferred", "defer"], hashDepth: 1 });
    expect(places.paths("defer", "4A1B2C").sort()).toEqual(
      ["defer/4/4A1B2C", "defer/4/A/4A1B2C", "defer/4A1B2C"].map((path) => `${queueDirectory}/${path}`),
    );
    expect(places.paths("trace", "4A1B2C")).toEqual([`${queueDirectory}/trace/4A1B2C`]);
  });

  test("follows the microseconds of a long id", () => {
    const places = new LogPlaces({ queueDirectory, hashQueues: ["defer"], hashDepth: 2 });
    expect(places.paths("defer", "4jY5j73J8pzBvYj")).toEqual([`${queueDirectory}/defer/7/1/4jY5j73J8pzBvYj`]);
  });

  test("is known before a log directory is there", () => {
    rmSync(join(queueDirectory, "trace"), { recursive: true });
    const places = new LogPlaces({ queueDirectory, hashQueues: [], hashDepth: 1 });
    expect(places.paths("trace", "4A1B2C")).toEqual([`${queueDirectory}/trace/4A1B2C`]);
  });
});
