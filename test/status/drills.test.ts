import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { readDrills } from "../../src/status/drills.ts";
import { statusPage } from "../../src/status/page.ts";
import { DrillHost } from "../support/drills.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { exampleFacts } from "./page-example.ts";

let scratch: string;
beforeEach(() => {
  scratch = makeScratch();
});
afterEach(() => destroyScratch(scratch));

test("the reports that drills keep are read, newest first, and what is none of them is left out", async () => {
  mkdirSync(join(scratch, "behind"));
  const host = await DrillHost.make(scratch, new DirectoryStore(join(scratch, "behind")));
  expect(readDrills(host.stateDirectory, 6)).toEqual([]);
  const kept = await host.days(3);
  mkdirSync(join(host.stateDirectory, "drills/half"));
  mkdirSync(join(host.stateDirectory, "drills/other"));
  writeFileSync(join(host.stateDirectory, "drills/other/report.json"), "{");
  writeFileSync(join(host.stateDirectory, "drills/stray"), "");
  const drills = readDrills(host.stateDirectory, 2);
  const expected = kept.map(({ signed: { drill } }) => ({ id: drill.id, ok: drill.ok, rtoSeconds: drill.rtoSeconds }));
  expect(drills).toMatchObject(expected.reverse().slice(0, 2));
  expect(statusPage(exampleFacts({ drills }))).toContain(`<code>${drills[0]?.id}</code>`);
});
