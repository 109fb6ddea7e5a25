import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { ObjectRetained } from "../../src/repository/object-store.ts";
import { digestOf } from "../../src/system/digest.ts";
import { run } from "../../src/system/exec.ts";
import { failure, gather } from "../contract/object-store.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const bytes = randomBytes(100_000);
const sha256 = digestOf(bytes).digest;

describe.skipIf(!needs("root", "mount"))("a directory on a file system that is in trouble", () => {
  const scratch = makeScratch({ tmpfs: "4m" });
  afterAll(() => destroyScratch(scratch));
  const root = join(scratch, "repository");
  const store = new DirectoryStore(root);
  beforeAll(() => store.prepare());

  test("full: says so, leaves nothing half-done, and goes on when there is room again", async () => {
    await store.put("packs/ab/1", bytes, sha256);
    writeFileSync(join(scratch, "filler"), Buffer.alloc(3_800_000));
    const large = randomBytes(1_000_000);
    const error = await failure(store.put("packs/ab/2", large, digestOf(large).digest));
    expect(error.kind).toBe("store-failed");
    expect(error.message).toBe("could not write packs/ab/2: no space left on device, write");
    expect(error.hints.join()).toContain(`${root} is full`);
    expect(readdirSync(join(root, "packs/ab"))).toEqual(["1"]);
    writeFileSync(join(scratch, "filler"), "");
    await store.put("packs/ab/2", large, digestOf(large).digest);
    expect((await gather(store.list(""))).map((object) => object.key)).toEqual(["packs/ab/1", "packs/ab/2"]);
  });

  test("read-only: says so, and can be read", async () => {
    await run("mount", ["-o", "remount,ro", scratch]);
    try {
      for (const call of [() => store.put("packs/cd/1", bytes, sha256), () => store.remove("packs/ab/1")]) {
        const error = await failure(call());
        expect(error.kind).toBe("store-failed");
        expect(error.message).toContain("read-only file system");
        expect(error.hints.join()).toContain("mounted read-only");
      }
      expect((await store.get("packs/ab/1")).equals(bytes)).toBe(true);
    } finally {
      await run("mount", ["-o", "remount,rw", scratch]);
    }
  });
});

describe.skipIf(!needs("root"))("a directory another user owns", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));

  test.each([
    ["read", 0o700, "get", /could not read packs\/ab\/1: permission denied/],
    ["write into", 0o755, "put", /could not (make|write) .*permission denied/],
    ["list", 0o711, "list", /could not list .*permission denied/],
  ])("that this user may not %s: says so, and who may", async (_, mode, call, message) => {
    const root = join(scratch, `mode ${mode}`);
    mkdirSync(join(root, "packs/ab"), { recursive: true });
    writeFileSync(join(root, "packs/ab/1"), bytes, { mode: 0o600 });
    chmodSync(root, mode);
    const program = `
      import { DirectoryStore } from ${JSON.stringify(join(import.meta.dirname, "../../src/repository/directory.ts"))};
      const store = new DirectoryStore(process.argv[1]);
      const calls = {
        get: () => store.get("packs/ab/1"),
        put: () => store.put("packs/cd/1", Buffer.from("x"), "no digest"),
        list: async () => { for await (const _ of store.list("")); },
      };
      await calls[process.argv[2]]().then(
        () => console.log("{}"),
        ({ kind, message, hints }) => console.log(JSON.stringify({ kind, message, hints })),
      );`;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", program, root, call], {
      uid: 65534,
      gid: 65534,
      encoding: "utf8",
    });
    const error = JSON.parse(child.stdout || child.stderr);
    expect(error.kind).toBe("store-failed");
    expect(error.message).toMatch(message);
    expect(error.hints).toEqual([`this user may not do that: run as root, or as the owner of ${root}`]);
  });
});

describe.skipIf(!needs("root"))("a directory with a file nobody may change", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));

  test("tells that the store keeps it, as a locked object", async (context) => {
    const store = new DirectoryStore(join(scratch, "repository"));
    await store.prepare();
    await store.put("packs/ab/1", bytes, sha256);
    const path = join(scratch, "repository/packs/ab/1");
    if (spawnSync("chattr", ["+i", path]).status !== 0) context.skip("this file system has no such attribute");
    try {
      expect(await failure(store.remove("packs/ab/1"))).toBeInstanceOf(ObjectRetained);
    } finally {
      spawnSync("chattr", ["-i", path]);
    }
    await store.remove("packs/ab/1");
    expect(await gather(store.list(""))).toEqual([]);
  });
});
