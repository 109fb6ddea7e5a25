import { hash } from "node:crypto";
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import { pack as tarPack } from "tar-stream";
import { afterAll, describe, expect, test } from "vitest";
import { seal } from "../../src/crypto/seal.ts";
import {
  buildLargePack,
  buildPack,
  packEntryName,
  packLimit,
  readLargePack,
  readPack,
  SourceChanged,
} from "../../src/pack/pack.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { all, chunked, collect } from "../support/streams.ts";

type TarHeader = Parameters<ReturnType<typeof tarPack>["entry"]>[0];

const keys = await makeKeys();
const stranger = await makeKeys();
const random = new Random(5);
const directory = makeScratch();
afterAll(() => destroyScratch(directory));

function fileOf(size: number): { digest: string; bytes: Buffer } {
  const bytes = random.bytes(size);
  return { digest: hash("sha256", bytes), bytes };
}

const sizes = [0, 1, 511, 512, 513, 5000, 70_000];

describe("a pack", () => {
  test("comes back, and its id is the digest of its bytes", async () => {
    const files = sizes.map(fileOf);
    const pack = await buildPack(files, keys.recipients);
    expect(pack).toMatchObject({ files: files.length, plainBytes: sizes.reduce((sum, size) => sum + size, 0) });
    expect(pack.id).toBe(hash("sha256", pack.sealed));
    const read = await readPack(pack.sealed, keys.identities);
    expect([...read.keys()]).toEqual(files.map((file) => file.digest));
    for (const { digest, bytes } of files) expect(read.get(digest)?.equals(bytes)).toBe(true);
  });

  test("is read by the streaming reader as well", async () => {
    const files = sizes.map(fileOf);
    const { sealed } = await buildPack(files, keys.recipients);
    const seen = [];
    for await (const { digest, bytes, body } of readLargePack(chunked(sealed, 1000), keys.identities)) {
      const read = await collect(body);
      seen.push([digest, bytes, read.length]);
    }
    expect(seen).toEqual(files.map(({ digest, bytes }) => [digest, bytes.length, bytes.length]));
  });

  test("of nothing is a pack", async () => {
    const { sealed } = await buildPack([], keys.recipients);
    expect((await readPack(sealed, keys.identities)).size).toBe(0);
  });

  test("needs the right identity", async () => {
    const { sealed } = await buildPack([fileOf(10)], keys.recipients);
    expect(await errorOf(() => readPack(sealed, stranger.identities))).toMatchObject({ kind: "no-identity" });
    const reading = () => all(readLargePack(chunked(sealed, 1 << 20), stranger.identities));
    expect(await errorOf(reading)).toMatchObject({ kind: "no-identity" });
  });

  test("is not built with a digest twice", async () => {
    const file = fileOf(10);
    expect((await errorOf(() => buildPack([file, file], keys.recipients))).message).toContain("twice");
  });
});

const good = fileOf(3000);
const other = fileOf(700);
const name = packEntryName(good.digest);
const plain = { name, mode: 0o600, mtime: new Date(0), type: "file" } as const;

/** Every kind of archive that must not be believed: what it is, the tar, and what the message says. */
const hostile: [string, () => Buffer | Promise<Buffer>, string | RegExp][] = [
  ["an absolute name", () => tarOf({ ...plain, name: `/etc/${name}` }), `"/etc/${name}" has an absolute name`],
  ["a name with ..", () => tarOf({ ...plain, name: `files/../../${name}` }), "climbs out with .."],
  [
    "a name of another form",
    () => tarOf({ ...plain, name: "files/A1B2C3" }),
    `"files/A1B2C3" is not named files/sha256-`,
  ],
  [
    "an upper-case digest",
    () => tarOf({ ...plain, name: name.toUpperCase().replace("FILES/SHA", "files/sha") }),
    "not named",
  ],
  ["a name with something behind it", () => tarOf({ ...plain, name: `${name}x` }), "is not named files/sha256-"],
  ["a name with a line behind it", () => tarOf({ ...plain, name: `${name}\n` }), "is not named files/sha256-"],
  ["a name split over prefix and name", () => withPrefix("/etc"), `"/etc/${name}" has an absolute name`],
  ["a hard link", () => tarOf({ ...plain, type: "link", linkname: "/etc/passwd" }), `"${name}" is a hard link`],
  ["a symbolic link", () => tarOf({ ...plain, type: "symlink", linkname: "/etc" }), `"${name}" is a symbolic link`],
  ["a character device", () => tarOf({ ...plain, type: "character-device", devmajor: 1 }), "is a character device"],
  ["a block device", () => tarOf({ ...plain, type: "block-device", devmajor: 8 }), "is a block device"],
  ["a FIFO", () => tarOf({ ...plain, type: "fifo" }), "is a FIFO"],
  ["a directory", () => tarOf({ ...plain, name: "files", type: "directory" }), "is a directory"],
  ["an extended header", () => tarOf({ ...plain, pax: { path: "/etc/passwd" } } as TarHeader), "is an extended header"],
  ["an entry of unknown type", () => withType("Z"), "is of an unknown type"],
  ["the same name twice", () => tarOf(plain, plain), `"${name}" is there twice`],
  [
    "bytes that are not the name's",
    () => tarOf({ ...plain, name: packEntryName(other.digest) }),
    "does not have the digest",
  ],
  ["a size that is too small", () => withSize(2999), "does not have the digest of its name"],
  [
    "a size that reaches into the next entry",
    () => withSize(3500),
    /does not have the digest of its name|no tar header at byte 4096/,
  ],
  ["a size beyond the archive", () => withSize(300_000), `cut short inside "${name}"`],
  ["a size of no digits", () => withField(124, "12x\0"), "no tar header at byte 0"],
  ["a negative size", () => withField(124, "\xff".repeat(12)), "no tar header at byte 0"],
  ["a wrong checksum", async () => flip(await whole(), 150), "no tar header at byte 0"],
  ["a flipped bit in a name", async () => flip(await whole(), 20), "no tar header at byte 0"],
  ["no ustar magic", () => withField(257, "xstar\0"), "no tar header at byte 0"],
  [
    "a gap of zeros between entries",
    () => withGap(512),
    "something follows the end of the tar archive, which is at byte 3584",
  ],
  ["a cut inside an entry", async () => (await whole()).subarray(0, 2048), `cut short inside "${name}"`],
  ["a cut between entries", async () => (await whole()).subarray(0, 3584), "at byte 3584: its end is missing"],
  ["a cut inside a header", async () => (await whole()).subarray(0, 3600), "at byte 3584: its end is missing"],
  ["half an end", async () => (await whole()).subarray(0, -512), "its end is missing"],
  ["nothing at all", () => Buffer.alloc(0), "at byte 0: its end is missing"],
  ["one block of zeros", () => Buffer.alloc(512), "at byte 0: its end is missing"],
  ["something after the end", async () => Buffer.concat([await whole(), Buffer.from("x")]), "follows the end"],
  ["an archive after the archive", async () => Buffer.concat([await whole(), await whole()]), "follows the end"],
  [
    "something behind half an end",
    async () => Buffer.concat([(await whole()).subarray(0, -1000), good.bytes]),
    "no tar header at byte 5120",
  ],
  ["no tar", () => Buffer.from("From: somebody\n".repeat(100)), "no tar header at byte 0"],
];

describe.each(hostile)("a pack with %s", (_, make, message) => {
  test("is damaged, in memory", async () => {
    const error = await errorOf(async () => readPack(await sealed(await make()), keys.identities));
    expect(error).toMatchObject({ kind: "damaged", exitCode: 13 });
    expect(error.message).toMatch(message);
  });

  test("is damaged, as a stream", async () => {
    const error = await errorOf(async () => drain(await sealed(await make())));
    expect(error).toMatchObject({ kind: "damaged" });
    expect(error.message).toMatch(message);
  });
});

/** Every kind of damage outside the archive: what it is, the compressed bytes, and what the message says. */
const broken: [string, () => Promise<Buffer>, string | RegExp][] = [
  [
    "something after the zstd frame",
    async () => Buffer.concat([zstd(await whole()), Buffer.from("x")]),
    "something else follows",
  ],
  [
    "zeros after the zstd frame",
    async () => Buffer.concat([zstd(await whole()), Buffer.alloc(8)]),
    "something else follows",
  ],
  [
    "a second frame with more tar",
    async () => Buffer.concat([zstd(await whole()), zstd(await whole())]),
    /follows the end of the tar|something else follows/,
  ],
  ["a frame cut short", async () => zstd(await whole()).subarray(0, -5), "the zstd frame is cut short"],
  [
    "a frame without its checksum's end",
    async () => zstd(await whole()).subarray(0, -1),
    "the zstd frame is cut short",
  ],
  ["a wrong zstd checksum", async () => flip(zstd(await whole()), -1), "the zstd frame is damaged: checksum_wrong"],
  ["nothing", async () => Buffer.alloc(0), "cut short"],
  ["no zstd", () => whole(), "not a zstd frame"],
];

describe.each(broken)("a pack with %s", (_, make, message) => {
  test("is damaged, in memory and as a stream", async () => {
    const bytes = await seal(await make(), keys.recipients);
    for (const attempt of [() => readPack(bytes, keys.identities), () => drain(bytes)]) {
      const error = await errorOf(attempt);
      expect(error).toMatchObject({ kind: "damaged" });
      expect(error.message).toMatch(message);
    }
  });
});

test("a zstd bomb is refused without being inflated", async () => {
  const bomb = await seal(zstd(Buffer.alloc(packLimit + 1)), keys.recipients);
  expect(bomb.length).toBeLessThan(20_000);
  const before = process.memoryUsage.rss();
  const error = await errorOf(() => readPack(bomb, keys.identities));
  expect(error).toMatchObject({ kind: "damaged" });
  expect(error.message).toBe(`the zstd frame decompresses to more than ${packLimit} bytes`);
  expect(process.memoryUsage.rss() - before).toBeLessThan(2 * packLimit);
});

test("zeros up to a tape block after the end are what tar programs write, and fine", async () => {
  const tape = Buffer.concat([await whole(), Buffer.alloc(10240 - ((await whole()).length % 10240))]);
  expect((await readPack(await sealed(tape), keys.identities)).size).toBe(2);
  await drain(await sealed(tape));
});

test("owner, mode and time of a header don't matter", async () => {
  const tar = await tarOf({ ...plain, mode: 0o4777, uid: 5, gid: 6, mtime: new Date(1e12), uname: "root" });
  expect([...(await readPack(await sealed(tar), keys.identities)).keys()]).toEqual([good.digest]);
});

describe("a large file", () => {
  const large = fileOf(3_000_001);
  const path = join(directory, "large");
  writeFileSync(path, large.bytes);

  async function build(digest: string, bytes: number, name = "sealed") {
    const fd = openSync(path, "r");
    try {
      return await buildLargePack(fd, digest, bytes, keys.recipients, join(directory, name));
    } finally {
      closeSync(fd);
    }
  }

  test("is alone in its pack, which both readers open", async () => {
    const pack = await build(large.digest, large.bytes.length);
    const bytes = readFileSync(pack.file);
    expect(pack).toEqual({ id: hash("sha256", bytes), file: join(directory, "sealed"), bytes: bytes.length });
    expect((await readPack(bytes, keys.identities)).get(large.digest)?.equals(large.bytes)).toBe(true);
    for await (const entry of readLargePack(chunked(bytes, 65_000), keys.identities)) {
      expect(entry).toMatchObject({ digest: large.digest, bytes: large.bytes.length });
      expect((await collect(entry.body)).equals(large.bytes)).toBe(true);
    }
  });

  test.each([
    ["other bytes", () => build("0".repeat(64), large.bytes.length, "changed")],
    ["fewer bytes", () => build(large.digest, large.bytes.length + 1, "changed")],
    ["more bytes", () => build(large.digest, large.bytes.length - 1, "changed")],
  ])("that has %s by now is not packed, and leaves no file", async (_, attempt) => {
    expect(await errorOf(attempt)).toBeInstanceOf(SourceChanged);
    expect(existsSync(join(directory, "changed"))).toBe(false);
  });

  test("never overwrites a temporary file", async () => {
    writeFileSync(join(directory, "taken"), "x");
    await errorOf(() => build(large.digest, large.bytes.length, "taken"));
    expect(readFileSync(join(directory, "taken"), "utf8")).toBe("x");
  });

  test("whose stored bytes are wrong is found out at the end of its body, read or not", async () => {
    const tar = await tarOf({ ...plain, name: packEntryName(other.digest) });
    for (const read of [true, false]) {
      const error = await errorOf(async () => {
        for await (const entry of readLargePack(chunked(await sealed(tar), 1 << 20), keys.identities)) {
          if (read) await all(entry.body);
        }
      });
      expect(error.message).toContain("does not have the digest of its name");
    }
  });
});

function tarOf(...headers: TarHeader[]): Promise<Buffer> {
  return tarWith(headers.map((header) => [header, header.type === "file" ? good.bytes : undefined]));
}

function whole(): Promise<Buffer> {
  return tarWith([
    [plain, good.bytes],
    [{ ...plain, name: packEntryName(other.digest) }, other.bytes],
  ]);
}

async function tarWith(entries: [TarHeader, Buffer | undefined][]): Promise<Buffer> {
  const archive = tarPack();
  for (const [header, bytes] of entries) {
    if (bytes === undefined) archive.entry({ ...header });
    else archive.entry({ ...header }, bytes);
  }
  archive.finalize();
  return await collect(archive as AsyncIterable<Buffer>);
}

/** The first header with a field overwritten and its checksum made right again. */
async function withField(offset: number, value: string): Promise<Buffer> {
  const tar = await whole();
  tar.write(value, offset, "latin1");
  tar.write("        ", 148, "latin1");
  const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return tar;
}

function withPrefix(prefix: string): Promise<Buffer> {
  return withField(345, prefix);
}

function withType(type: string): Promise<Buffer> {
  return withField(156, type);
}

function withSize(size: number): Promise<Buffer> {
  return withField(124, `${size.toString(8).padStart(11, "0")}\0`);
}

async function withGap(zeros: number): Promise<Buffer> {
  const tar = await whole();
  return Buffer.concat([tar.subarray(0, 3584), Buffer.alloc(zeros), tar.subarray(3584)]);
}

function flip(bytes: Buffer, at: number): Buffer {
  const place = at < 0 ? bytes.length + at : at;
  bytes.writeUInt8(bytes.readUInt8(place) ^ 1, place);
  return bytes;
}

function zstd(bytes: Buffer): Buffer {
  return zstdCompressSync(bytes, { params: { [constants.ZSTD_c_checksumFlag]: 1 } });
}

function sealed(tar: Buffer): Promise<Buffer> {
  return seal(zstd(tar), keys.recipients);
}

async function drain(bytes: Buffer): Promise<void> {
  for await (const entry of readLargePack(chunked(bytes, 100), keys.identities)) await all(entry.body);
}
