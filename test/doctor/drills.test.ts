import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { examineDrills } from "../../src/doctor/drills.ts";
import { workFile, workRecord } from "../../src/drill/sweep.ts";
import { tryLock } from "../../src/system/lock.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

describe("drills", () => {
  const state = makeScratch();
  afterAll(() => destroyScratch(state));

  test("what a killed one left is told of, one at work is not", async () => {
    const never = { name: "last drill", ok: true, message: "never" };
    expect(await examineDrills(state)).toMatchObject([never]);
    const place = join(state, "drills", "0123456789ab");
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, workFile), workRecord("/var/tmp/spoolsafe-drill-0123456789ab"));
    const lock = await tryLock(place);
    expect(await examineDrills(state)).toMatchObject([never]);
    await lock?.release();
    expect(await examineDrills(state)).toMatchObject([
      never,
      { name: "last drill", ok: false, message: expect.stringContaining("0123456789ab") },
    ]);
  });
});
