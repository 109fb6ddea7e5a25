import fc from "fast-check";
import { extract, pack } from "tar-stream";
import { expect, test } from "vitest";
import { ChunkReader } from "../../src/crypto/chunks.ts";
import { readTar, readTarStream, TarImage, tarFileSize, tarHeader, tarSize, tarTail } from "../../src/pack/tar.ts";
import { Random } from "../support/random.ts";
import { chunked, collect } from "../support/streams.ts";

const random = new Random(3);
const header = { mode: 0o600, uid: 0, gid: 0, mtime: new Date(0), type: "file" } as const;

test("an archive is byte for byte what tar-stream writes", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 12 }), async (sizes) => {
      const files = sizes.map((size, at) => ({ name: `files/sha256-${at}`, bytes: random.bytes(size) }));
      expect(image(files).equals(await tarStream(files))).toBe(true);
    }),
  );
});

test("memory that was used before leaves no trace in an archive", async () => {
  const files = [1, 511, 512, 700].map((size) => ({ name: `f${size}`, bytes: random.bytes(size) }));
  const memory = new ArrayBuffer(20_000);
  new Uint8Array(memory).fill(0xff);
  expect(image(files, memory).equals(await tarStream(files))).toBe(true);
});

test("header, bytes and tail of a streamed file are an archive", async () => {
  for (const size of [0, 1, 511, 512, 513, 5000]) {
    const bytes = random.bytes(size);
    const archive = Buffer.concat([tarHeader({ name: "one", size }), bytes, tarTail(size)]);
    expect(archive.length).toBe(tarFileSize(size));
    expect(archive.equals(await tarStream([{ name: "one", bytes }]))).toBe(true);
  }
});

test.each([0, 1, 8 ** 11 - 1, 8 ** 11, 2 ** 45])(
  "a size of %d is written as tar-stream has it, and read",
  async (size) => {
    const archive = pack();
    archive.entry({ ...header, name: "large", size });
    archive.destroy();
    const bytes = tarHeader({ name: "large", size });
    expect(bytes.equals(await firstBlock({ ...header, name: "large", size }))).toBe(true);
    const reader = new ChunkReader(chunked(bytes, 1 << 20));
    for await (const entry of readTarStream(reader)) {
      expect(entry).toMatchObject({ name: "large", size });
      break;
    }
  },
);

test("fits counts the header, the padding and the end", () => {
  const archive = new TarImage(new ArrayBuffer(tarSize(600) + tarFileSize(10)));
  expect(archive.fits(600)).toBe(true);
  archive.add("a", random.bytes(600));
  expect(archive.fits(513)).toBe(false);
  expect(archive.fits(512)).toBe(true);
  archive.add("b", random.bytes(10));
  expect(archive.finish()).toBe(tarSize(600) + tarFileSize(10));
});

test("what we read is what tar-stream reads, whole and in pieces of any size", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 8 }),
      fc.integer({ min: 1, max: 2000 }),
      async (sizes, step) => {
        const files = sizes.map((size, at) => ({ name: `files/${at}`, bytes: random.bytes(size) }));
        const archive = await tarStream(files);
        const theirs = await tarStreamReads(archive);
        expect(readTar(archive)).toEqual(theirs);
        expect(await streamReads(archive, step)).toEqual(theirs);
      },
    ),
  );
});

test("bodies that are not read, or not to their end, are skipped", async () => {
  const files = [5000, 5000, 10].map((size, at) => ({ name: `${at}`, bytes: random.bytes(size) }));
  const seen: string[] = [];
  for await (const entry of readTarStream(new ChunkReader(chunked(image(files), 1000)))) {
    seen.push(entry.name);
    if (entry.name === "1") await entry.read();
  }
  expect(seen).toEqual(["0", "1", "2"]);
});

interface File {
  readonly name: string;
  readonly bytes: Buffer;
}

function image(files: readonly File[], memory?: ArrayBuffer): Buffer {
  const needed = files.reduce((sum, file) => sum + tarSize(file.bytes.length), 1024);
  const holder = memory ?? new ArrayBuffer(needed);
  const archive = new TarImage(holder);
  for (const file of files) archive.add(file.name, file.bytes);
  return Buffer.from(holder, 0, archive.finish());
}

async function tarStream(files: readonly File[]): Promise<Buffer> {
  const archive = pack();
  for (const { name, bytes } of files) archive.entry({ ...header, name }, bytes);
  archive.finalize();
  return collect(archive as AsyncIterable<Buffer>);
}

async function firstBlock(headers: Parameters<ReturnType<typeof pack>["entry"]>[0]): Promise<Buffer> {
  const archive = pack();
  archive.entry(headers);
  for await (const chunk of archive as AsyncIterable<Buffer>) return chunk.subarray(0, 512);
  throw new Error("nothing written");
}

async function tarStreamReads(archive: Buffer): Promise<File[]> {
  const reader = extract();
  reader.end(archive);
  const files: File[] = [];
  for await (const entry of reader) {
    files.push({
      name: entry.header.name,
      bytes: await collect(entry as AsyncIterable<Buffer>),
    });
  }
  return files;
}

async function streamReads(archive: Buffer, step: number): Promise<File[]> {
  const files: File[] = [];
  for await (const entry of readTarStream(new ChunkReader(chunked(archive, step)))) {
    const body: Buffer[] = [];
    for (let piece = await entry.read(); piece !== undefined; piece = await entry.read()) body.push(piece);
    files.push({ name: entry.name, bytes: Buffer.concat(body) });
  }
  return files;
}
