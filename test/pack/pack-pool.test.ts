import { hash, randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { largeFile, readPack, SourceChanged } from "../../src/pack/pack.ts";
import { type FinishedPack, PackReader, PackWriter, type PackWriterOptions } from "../../src/pack/pack-pool.ts";
import { Workers } from "../../src/pack/workers.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";

const keys = await makeKeys();
const random = new Random(9);
const temporaryDirectory = makeScratch();
afterAll(() => destroyScratch(temporaryDirectory));

const files = Array.from({ length: 3000 }, () => fileOf(random.size(5000)));

function fileOf(size: number): { digest: string; bytes: Buffer } {
  const bytes = randomBytes(size);
  return { digest: hash("sha256", bytes), bytes };
}

const dyingWorker = new URL("../support/dying-worker.ts", import.meta.url);

interface Setup {
  readonly writer: PackWriter;
  readonly packs: FinishedPack[];
}

function writerWith(options: Partial<PackWriterOptions> = {}): Setup {
  const packs: FinishedPack[] = [];
  const store = async (pack: FinishedPack) => {
    packs.push(pack);
  };
  const writer = new PackWriter({ recipients: keys.recipients, processors: 2, temporaryDirectory, store, ...options });
  return { writer, packs };
}

function bodyOf(pack: FinishedPack): Buffer {
  return Buffer.isBuffer(pack.body) ? pack.body : readFileSync(pack.body.file);
}

/** Worker threads of this process: each has a thread of its own that the kernel lists. */
function threads(): number {
  return readdirSync("/proc/self/task").length;
}

const threadsBefore = threads();
afterEach(async () => {
  await until(() => threads() <= threadsBefore + 4, { what: () => `worker threads to end, ${threads()} are left` });
  expect(readdirSync(temporaryDirectory).filter((name) => name.endsWith(".pack"))).toEqual([]);
});

describe("PackWriter", () => {
  test("every file is in the pack that packOf names, once", async () => {
    const { writer, packs } = writerWith();
    for (const { digest, bytes } of files) await writer.add(digest, bytes);
    expect(writer.packOf(files.at(-1)?.digest ?? "")).toBeUndefined();
    await writer.finish();
    expect(packs.length).toBeGreaterThan(1);
    const found = new Map<string, string>();
    for (const pack of packs) {
      expect(pack.id).toBe(hash("sha256", bodyOf(pack)));
      expect(pack.bytes).toBe(bodyOf(pack).length);
      const read = await readPack(bodyOf(pack), keys.identities);
      expect([...read.keys()]).toEqual(pack.digests);
      for (const [digest, bytes] of read) {
        expect(hash("sha256", bytes)).toBe(digest);
        expect(found.has(digest)).toBe(false);
        found.set(digest, pack.id);
      }
    }
    expect(found.size).toBe(files.length);
    for (const { digest } of files) expect(writer.packOf(digest)).toBe(found.get(digest));
  });

  test("the same digest added again is not stored again", async () => {
    const { writer, packs } = writerWith();
    for (const { digest, bytes } of [...files.slice(0, 50), ...files.slice(0, 50)]) await writer.add(digest, bytes);
    await writer.finish();
    expect(packs.flatMap((pack) => pack.digests)).toEqual(files.slice(0, 50).map((file) => file.digest));
  });

  test("bytes are copied before add returns", async () => {
    const { writer, packs } = writerWith();
    const file = fileOf(4000);
    const adding = writer.add(file.digest, file.bytes);
    file.bytes.fill(0);
    await adding;
    await writer.finish();
    expect((await readPack(bodyOf(packs[0] as FinishedPack), keys.identities)).has(file.digest)).toBe(true);
  });

  test("a file larger than a pack is alone in its pack; one too large for memory is refused", async () => {
    const { writer, packs } = writerWith();
    const [small, big] = [fileOf(100), fileOf(9 * 1024 * 1024)];
    await writer.add(small.digest, small.bytes);
    await writer.add(big.digest, big.bytes);
    expect(await errorOf(() => writer.add("0".repeat(64), Buffer.alloc(largeFile + 1)))).toBeInstanceOf(RangeError);
    await writer.finish();
    expect(packs.map((pack) => pack.digests).sort()).toEqual([[small.digest], [big.digest]].sort());
  });

  test("with nothing added it stores nothing and starts no thread", async () => {
    const { writer, packs } = writerWith();
    await writer.finish();
    expect(packs).toEqual([]);
  });

  test("add waits while too much is under way", async () => {
    let stored = 0;
    let open = () => {};
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const store = async () => {
      stored += 1;
      await gate;
    };
    const { writer } = writerWith({ store });
    let added = 0;
    const adding = (async () => {
      for (let at = 0; at < 12; at++, added++) {
        const { digest, bytes } = fileOf(5_000_000);
        await writer.add(digest, bytes);
      }
    })();
    await until(() => stored >= 3);
    await delay(300);
    // Each file fills a pack: four under way (processors + 2) and one that is being filled.
    expect(added).toBeLessThanOrEqual(5);
    expect(stored).toBeLessThanOrEqual(4);
    open();
    await adding;
    await writer.finish();
    expect(stored).toBe(12);
  });

  test("a store that fails ends it: what waits and what comes later gets that error", async () => {
    const store = async () => {
      throw new OperatorError("store-failed", "the repository is full");
    };
    const { writer } = writerWith({ store });
    const adding = errorOf(async () => {
      for (;;) {
        const { digest, bytes } = fileOf(3_000_000);
        await writer.add(digest, bytes);
      }
    });
    expect((await adding).message).toBe("the repository is full");
    expect((await errorOf(() => writer.add("0".repeat(64), Buffer.alloc(1)))).message).toBe("the repository is full");
    expect((await errorOf(() => writer.finish())).message).toBe("the repository is full");
  });

  test("a store that fails for the last pack fails finish", async () => {
    const store = async () => {
      throw new OperatorError("store-failed", "the repository is full");
    };
    const { writer } = writerWith({ store });
    await writer.add(files[0]?.digest ?? "", files[0]?.bytes ?? Buffer.alloc(0));
    expect((await errorOf(() => writer.finish())).message).toBe("the repository is full");
  });

  test("a signal ends it at once, also one that came before", async () => {
    const controller = new AbortController();
    const reason = new OperatorError("interrupted", "ended by SIGTERM");
    const { writer } = writerWith({
      signal: controller.signal,
      store: () => new Promise((_, reject) => controller.signal.addEventListener("abort", () => reject(reason))),
    });
    const adding = errorOf(async () => {
      for (;;) {
        const { digest, bytes } = fileOf(3_000_000);
        await writer.add(digest, bytes);
      }
    });
    await delay(300);
    controller.abort(reason);
    expect(await adding).toBe(reason);
    expect(await errorOf(() => writer.finish())).toBe(reason);
    const late = writerWith({ signal: controller.signal });
    expect(await errorOf(() => late.writer.add("0".repeat(64), Buffer.alloc(1)))).toBe(reason);
    await late.writer.close();
  });

  test.each([
    ["exit", "exit code 0"],
    ["throw", "thrown on purpose"],
    ["memory", "memory limit"],
  ])("a thread that dies (%s) is an error and no hang", async (workerData, why) => {
    const resourceLimits = { maxOldGenerationSizeMb: 64 };
    const workers = new Workers(2, dyingWorker, { workerData, resourceLimits });
    const { writer } = writerWith({ workers });
    const error = await errorOf(async () => {
      for (;;) {
        const { digest, bytes } = fileOf(3_000_000);
        await writer.add(digest, bytes);
      }
    });
    expect(error).toMatchObject({ kind: "failed" });
    expect(error.message).toContain("a worker thread that handles packs ended unexpectedly");
    expect(error.message).toContain(why);
    expect(await errorOf(() => writer.finish())).toBe(error);
  });

  test("close drops what is not packed and may be called twice, and nothing can be added then", async () => {
    const { writer, packs } = writerWith();
    await writer.add(files[0]?.digest ?? "", files[0]?.bytes ?? Buffer.alloc(0));
    await writer.close();
    await writer.close();
    expect(packs).toEqual([]);
    expect((await errorOf(() => writer.add("0".repeat(64), Buffer.alloc(1)))).message).toContain("closed");
  });

  test("recipients that are none fail it as an error of ours", async () => {
    const { writer } = writerWith({ recipients: { list: ["age1nonsense"], kind: "x25519" } });
    await writer.add(files[0]?.digest ?? "", files[0]?.bytes ?? Buffer.alloc(0));
    expect((await errorOf(() => writer.finish())).message).toBeTruthy();
  });
});

describe("PackWriter and large files", () => {
  const large = fileOf(20_000_000);
  const path = join(temporaryDirectory, "large");
  writeFileSync(path, large.bytes);

  test("one is sealed into a temporary file that is gone after store", async () => {
    let sealed: Buffer | undefined;
    const store = async (pack: FinishedPack) => {
      sealed = bodyOf(pack);
      expect(pack).toMatchObject({ bytes: sealed.length, digests: [large.digest], plainBytes: large.bytes.length });
    };
    const { writer } = writerWith({ store });
    const fd = openSync(path, "r");
    await Promise.all([
      writer.addLarge(large.digest, fd, large.bytes.length),
      writer.addLarge(large.digest, fd, large.bytes.length),
    ]);
    closeSync(fd);
    await writer.finish();
    expect(writer.packOf(large.digest)).toBe(hash("sha256", sealed ?? ""));
    const read = await readPack(sealed ?? Buffer.alloc(0), keys.identities);
    expect(read.get(large.digest)?.equals(large.bytes)).toBe(true);
  });

  test("one that changed is its caller's error; it can be added again and the writer goes on", async () => {
    const { writer, packs } = writerWith();
    const fd = openSync(path, "r");
    const digest = "0".repeat(64);
    expect(await errorOf(() => writer.addLarge(digest, fd, large.bytes.length))).toBeInstanceOf(SourceChanged);
    expect(await errorOf(() => writer.addLarge(digest, fd, large.bytes.length))).toBeInstanceOf(SourceChanged);
    await writer.addLarge(large.digest, fd, large.bytes.length);
    await writer.add(files[0]?.digest ?? "", files[0]?.bytes ?? Buffer.alloc(0));
    closeSync(fd);
    await writer.finish();
    expect(packs).toHaveLength(2);
    expect(writer.packOf(digest)).toBeUndefined();
  });

  test("an end in the middle of one leaves no temporary file and no thread that reads it", async () => {
    const { writer } = writerWith();
    const fd = openSync(path, "r");
    const adding = errorOf(() => writer.addLarge(large.digest, fd, large.bytes.length));
    await until(() => readdirSync(temporaryDirectory).some((name) => name.endsWith(".pack")), { everyMs: 1 });
    await writer.close();
    expect((await adding).message).toContain("closed");
    closeSync(fd);
  });

  test("a temporary directory that can't be written fails the writer", async () => {
    const { writer } = writerWith({ temporaryDirectory: join(temporaryDirectory, "missing") });
    const fd = openSync(path, "r");
    expect((await errorOf(() => writer.addLarge(large.digest, fd, large.bytes.length))).message).toContain("ENOENT");
    closeSync(fd);
    expect((await errorOf(() => writer.finish())).message).toContain("ENOENT");
  });
});

describe("PackReader", () => {
  async function somePacks(): Promise<FinishedPack[]> {
    const { writer, packs } = writerWith();
    for (const { digest, bytes } of files) await writer.add(digest, bytes);
    await writer.finish();
    return packs;
  }

  test("reads packs side by side and leaves the sealed bytes as they were", async () => {
    const packs = await somePacks();
    const reader = new PackReader({ identities: keys.identities, processors: 2 });
    const read = await Promise.all(packs.map((pack) => reader.read(bodyOf(pack))));
    await reader.close();
    const all = new Map(read.flatMap((files) => [...files]));
    for (const { digest, bytes } of files) expect(all.get(digest)?.equals(bytes)).toBe(true);
    for (const pack of packs) expect(hash("sha256", bodyOf(pack))).toBe(pack.id);
  });

  test("small and empty packs come back", async () => {
    const { writer, packs } = writerWith();
    const small = [fileOf(0), fileOf(10)];
    for (const { digest, bytes } of small) await writer.add(digest, bytes);
    await writer.finish();
    const reader = new PackReader({ identities: keys.identities, processors: 1 });
    const read = await reader.read(bodyOf(packs[0] as FinishedPack));
    expect([...read]).toEqual(small.map(({ digest, bytes }) => [digest, bytes]));
    await reader.close();
  });

  test("errors come through with their kind, and the threads go on", async () => {
    const [pack] = await somePacks();
    const sealed = bodyOf(pack as FinishedPack);
    const bad = Buffer.from(sealed);
    bad.writeUInt8(bad.readUInt8(5000) ^ 1, 5000);
    const reader = new PackReader({ identities: keys.identities, processors: 1 });
    const error = await errorOf(() => reader.read(bad));
    expect(error).toBeInstanceOf(OperatorError);
    expect(error).toMatchObject({ kind: "damaged", exitCode: 13 });
    expect((error as OperatorError).hints.length).toBeGreaterThan(0);
    expect((await reader.read(sealed)).size).toBeGreaterThan(100);
    await reader.close();
    const stranger = new PackReader({ identities: (await makeKeys()).identities, processors: 1 });
    expect(await errorOf(() => stranger.read(sealed))).toMatchObject({ kind: "no-identity" });
    await stranger.close();
  });

  test("closed while it reads, it rejects with the reason", async () => {
    const [pack] = await somePacks();
    const reader = new PackReader({ identities: keys.identities, processors: 1 });
    const reading = [1, 2, 3].map(() => errorOf(() => reader.read(bodyOf(pack as FinishedPack))));
    const reason = new OperatorError("interrupted", "ended by SIGINT");
    await reader.close(reason);
    expect(await Promise.all(reading)).toEqual([reason, reason, reason]);
    expect(await errorOf(() => reader.read(Buffer.alloc(1)))).toBe(reason);
  });

  test("a thread that dies is an error", async () => {
    const [pack] = await somePacks();
    const workers = new Workers(1, dyingWorker, { workerData: "exit" });
    const reader = new PackReader({ identities: keys.identities, processors: 1, workers });
    const reading = [1, 2, 3, 4].map(() => reader.read(bodyOf(pack as FinishedPack)).then(() => "read", String));
    const results = await Promise.all(reading);
    expect(results.slice(0, 2)).toEqual(["read", "read"]);
    expect(results[2]).toContain("ended unexpectedly");
    expect(results[3]).toContain("ended unexpectedly");
    await reader.close();
  });
});
