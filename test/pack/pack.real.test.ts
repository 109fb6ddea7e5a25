import { spawnSync } from "node:child_process";
import { hash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { seal } from "../../src/crypto/seal.ts";
import { buildPack, packEntryName, readPack } from "../../src/pack/pack.ts";
import { buildPart, readPart } from "../../src/pack/part.ts";
import { run } from "../../src/system/exec.ts";
import { makeKeys } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const random = new Random(21);

describe.skipIf(!needs("age", "zstd", "tar"))("stock age, zstd and tar", () => {
  const directory = makeScratch();
  afterAll(() => destroyScratch(directory));
  const path = (name: string) => join(directory, name);
  let keys: Awaited<ReturnType<typeof makeKeys>>;
  beforeAll(async () => {
    keys = await makeKeys();
    writeFileSync(path("KEY"), `${keys.identity}\n`, { mode: 0o600 });
    mkdirSync(path("out"));
  });
  const shell = (command: string) => run("sh", ["-ec", command], { cwd: directory });

  test("open a pack as the format page says, and find every file with its bytes", async () => {
    const files = [0, 1, 512, 4000, 70_000, 2_000_000].map((size) => {
      const bytes = random.bytes(size);
      return { digest: hash("sha256", bytes), bytes };
    });
    const pack = await buildPack(files, keys.recipients);
    writeFileSync(path("PACK"), pack.sealed);
    await shell("age -d -i KEY PACK | zstd -d | tar -x -C out");
    expect(readdirSync(path("out/files")).sort()).toEqual(files.map(({ digest }) => `sha256-${digest}`).sort());
    for (const { digest, bytes } of files) {
      expect(readFileSync(path(`out/${packEntryName(digest)}`)).equals(bytes)).toBe(true);
      expect(statSync(path(`out/${packEntryName(digest)}`))).toMatchObject({ mode: 0o100600, mtimeMs: 0 });
    }
    const { stdout } = await shell("sha256sum PACK; age -d -i KEY PACK | zstd -lv 2>&1 || true");
    expect(stdout.toString()).toContain(pack.id);
    await shell("age -d -i KEY PACK | zstd -t");
  });

  test("open a manifest part", async () => {
    const lines = `#spoolsafe-manifest 1 base mx1\n${"message\ta/b/c\n".repeat(500)}`;
    writeFileSync(path("PART"), (await buildPart(lines, keys.recipients)).sealed);
    expect((await shell("age -d -i KEY PART | zstd -d")).stdout.toString()).toBe(lines);
  });

  test("make what we open, too", async () => {
    const bytes = random.bytes(5000);
    const digest = hash("sha256", bytes);
    mkdirSync(path("in/files"), { recursive: true });
    writeFileSync(path(`in/${packEntryName(digest)}`), bytes);
    await shell(`tar -c -C in ${packEntryName(digest)} | zstd -3 | age -r ${keys.recipient} > STOCK`);
    expect((await readPack(readFileSync(path("STOCK")), keys.identities)).get(digest)?.equals(bytes)).toBe(true);
    await shell(`printf 'line\\n' | zstd | age -r ${keys.recipient} > STOCKPART`);
    expect((await readPart(readFileSync(path("STOCKPART")), keys.identities)).toString()).toBe("line\n");
  });

  test("refuse a pack cut at every step as we do", async () => {
    const sealed = await seal(random.bytes(100_000), keys.recipients);
    writeFileSync(path("CUT"), sealed.subarray(0, -1));
    expect(spawnSync("age", ["-d", "-i", "KEY", "-o", "/dev/null", "CUT"], { cwd: directory }).status).not.toBe(0);
  });

  test("a file of 200 MB is packed, opened by them and by us, each in little memory", async () => {
    const program = join(import.meta.dirname, "../support/large-pack.ts");
    const take = (step: string, digest = "") => {
      const args = [program, step, directory, digest];
      const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: "utf8" });
      expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
      return JSON.parse(stdout) as { digest: string; grownMb: number };
    };
    const { digest } = take("make");
    const built = take("build", digest);
    const { stdout } = await shell("age -d -i KEY sealed | zstd -d | tar -xO | sha256sum");
    expect(stdout.toString().slice(0, 64)).toBe(digest);
    const read = take("read");
    expect(read.digest).toBe(digest);
    // Buffers that wait for the garbage collector: 65 to 80 MB. Reading 600 MB grew it no more than reading 50.
    expect(built.grownMb).toBeLessThan(110);
    expect(read.grownMb).toBeLessThan(110);
  });
});
