import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FaultyReading } from "../../src/drill/scenario-store.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { digestOf } from "../../src/system/digest.ts";
import { errorOf } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

describe("a store read through faults", () => {
  const bytes = Buffer.from("the bytes of an object");
  let directory: string;
  let behind: DirectoryStore;
  beforeAll(async () => {
    directory = makeScratch();
    mkdirSync(join(directory, "store"));
    behind = new DirectoryStore(join(directory, "store"));
    for (const key of ["packs/a", "packs/b", "packs/c"]) await behind.put(key, bytes, digestOf(bytes).digest);
  });
  afterAll(() => destroyScratch(directory));

  async function keys(store: FaultyReading): Promise<string[]> {
    const found: string[] = [];
    for await (const { key } of store.list("")) found.push(key);
    return found;
  }

  test("is the store behind while it has none", async () => {
    const store = new FaultyReading(behind);
    expect(await store.get("packs/a")).toEqual(bytes);
    expect(await keys(store)).toEqual(["packs/a", "packs/b", "packs/c"]);
  });

  test("turns over one bit of what is damaged, and hides what is missing", async () => {
    const store = new FaultyReading(behind);
    store.faults = { damaged: new Set(["packs/a"]), missing: new Set(["packs/b"]) };
    const read = await store.get("packs/a");
    const bits = [...read].map((byte, at) => (byte ^ (bytes[at] ?? 0)).toString(2).replaceAll("0", "").length);
    expect(bits.reduce((sum, count) => sum + count, 0)).toBe(1);
    expect(read).toHaveLength(bytes.length);
    expect(await keys(store)).toEqual(["packs/a", "packs/c"]);
    expect(await errorOf(() => store.get("packs/b"))).toMatchObject({ kind: "damaged", message: "packs/b is missing" });
    expect(readFileSync(join(directory, "store/packs/a"))).toEqual(bytes);
    expect(await store.get("packs/c")).toEqual(bytes);
  });

  test("writes nothing, whatever is asked of it", async () => {
    const store = new FaultyReading(behind);
    const calls = [
      () => store.put(),
      () => store.remove(),
      () => store.keepLocked(),
      () => store.sweep(),
      () => store.prepare(),
    ];
    for (const call of calls) expect((await errorOf(call)).message).toContain("about to change the repository");
  });
});
