import { hash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { buildPack } from "../../src/pack/pack.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { type StageTarget, stageFiles, stageLargePack } from "../../src/pack/stage.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { chunked } from "../support/streams.ts";

const keys = await makeKeys();
const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));
let directory = scratch;
let round = 0;
beforeEach(() => {
  directory = join(scratch, `round-${round++}`);
  mkdirSync(directory);
});

const files = [0, 10, 5000, 300_000].map((size) => {
  const bytes = randomBytes(size);
  return { digest: hash("sha256", bytes), bytes };
});
const [empty, small, middle, big] = files as [File, File, File, File];
type File = (typeof files)[number];
const stored = new Map(files.map(({ digest, bytes }) => [digest, bytes]));

function target(file: { digest: string }, name: string, over: Partial<StageTarget> = {}): StageTarget {
  return { digest: file.digest, path: join(directory, name), mode: 0o700, uid: -1, gid: -1, mtime: 1.5e9, ...over };
}

/** The three ways to the same result: files in memory, a worker thread, a streamed pack. */
const ways = {
  memory: async (targets: StageTarget[]) => stageFiles(stored, targets),
  thread: async (targets: StageTarget[]) => {
    const reader = new PackReader({ identities: keys.identities, processors: 1 });
    try {
      return await reader.stage((await buildPack(files, keys.recipients)).sealed, targets);
    } finally {
      await reader.close();
    }
  },
  stream: async (targets: StageTarget[]) => {
    const { sealed } = await buildPack(files, keys.recipients);
    return stageLargePack(chunked(sealed, 10_000), keys.identities, targets);
  },
};

describe.each(Object.entries(ways))("staging from %s", (_, stage) => {
  test("writes bytes, mode and time, and tells inode and size", async () => {
    const targets = [
      target(empty, "empty", { mode: 0o600 }),
      target(small, "small", { mode: 0o4755, mtime: 1795428672.345678 }),
      target(middle, "middle", { mode: 0o000 }),
      target(big, "big"),
    ];
    const { staged, failure } = await stage(targets);
    expect(failure).toBeNull();
    expect(staged.map(({ path }) => path)).toEqual(targets.map(({ path }) => path));
    targets.forEach(({ path, mode, mtime, digest }, at) => {
      const stat = statSync(path, { bigint: true });
      expect(staged[at]).toEqual({ path, ino: stat.ino, bytes: Number(stat.size) });
      expect(Number(stat.mode) & 0o7777).toBe(mode);
      expect(Number(stat.mtimeNs / 1000n)).toBe(Math.round(mtime * 1e6));
      expect(hash("sha256", readFileSync(path))).toBe(digest);
    });
  });

  test.skipIf(!needs("root"))("sets owner and group", async () => {
    await stage([target(small, "owned", { uid: 12345, gid: 300_000, mode: 0o700 })]);
    expect(statSync(join(directory, "owned"))).toMatchObject({ uid: 12345, gid: 300_000 });
  });

  test("the same digest may go to several places", async () => {
    const { staged } = await stage([target(middle, "a"), target(middle, "b"), target(middle, "c")]);
    expect(staged).toHaveLength(3);
    for (const name of ["a", "b", "c"]) expect(readFileSync(join(directory, name)).equals(middle.bytes)).toBe(true);
  });

  test("microseconds survive", async () => {
    const times = Array.from({ length: 50 }, (_, at) => 1795428672 + (at * 20_011 + 1) / 1e6);
    await stage(times.map((mtime, at) => target(small, `t${at}`, { mtime })));
    times.forEach((mtime, at) => {
      const { mtimeNs } = statSync(join(directory, `t${at}`), { bigint: true });
      expect(Number(mtimeNs / 1000n)).toBe(Math.round(mtime * 1e6));
    });
  });

  test("a name that is taken is reported with its errno, left as it is, and nothing after it is tried", async () => {
    writeFileSync(join(directory, "taken"), "precious");
    const { staged, failure } = await stage([target(small, "first"), target(middle, "taken"), target(big, "third")]);
    expect(failure).toMatchObject({ path: join(directory, "taken"), errno: "EEXIST" });
    expect(staged.map(({ path }) => path)).toEqual([join(directory, "first")]);
    expect(readFileSync(join(directory, "taken"), "utf8")).toBe("precious");
    expect(existsSync(join(directory, "third"))).toBe(false);
  });

  test("a link is not followed", async () => {
    symlinkSync(join(directory, "elsewhere"), join(directory, "link"));
    const { failure } = await stage([target(small, "link")]);
    expect(failure).toMatchObject({ path: join(directory, "link"), errno: "EEXIST" });
    expect(existsSync(join(directory, "elsewhere"))).toBe(false);
  });

  test("a directory that is missing is reported", async () => {
    const { staged, failure } = await stage([target(small, "no/such")]);
    expect(staged).toEqual([]);
    expect(failure).toMatchObject({ errno: "ENOENT" });
  });

  test("a digest the pack does not hold is damaged, and nothing stays", async () => {
    const error = await errorOf(() => stage([target(small, "first"), target({ digest: "0".repeat(64) }, "none")]));
    expect(error).toMatchObject({ kind: "damaged" });
    expect(error.message).toContain(`the pack does not hold "files/sha256-${"0".repeat(64)}"`);
    expect(readdirSync(directory)).toEqual([]);
  });
});

test.each(["thread", "stream"])("a damaged pack leaves nothing behind, from a %s", async (way) => {
  const { sealed } = await buildPack(files, keys.recipients);
  const bad = Buffer.from(sealed);
  bad.writeUInt8(bad.readUInt8(bad.length - 3) ^ 1, bad.length - 3);
  const reader = new PackReader({ identities: keys.identities, processors: 1 });
  const targets = [target(small, "a"), target(big, "b")];
  const attempt = () =>
    way === "thread" ? reader.stage(bad, targets) : stageLargePack(chunked(bad, 10_000), keys.identities, targets);
  expect(await errorOf(attempt)).toMatchObject({ kind: "damaged" });
  expect(readdirSync(directory)).toEqual([]);
  await reader.close();
});
