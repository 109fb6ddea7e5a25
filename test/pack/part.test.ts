import { hash } from "node:crypto";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { expect, test } from "vitest";
import { open } from "../../src/crypto/open.ts";
import { seal } from "../../src/crypto/seal.ts";
import { buildPart, readPart } from "../../src/pack/part.ts";
import { errorOf, makeKeys } from "../support/keys.ts";

const keys = await makeKeys();
const lines = "#spoolsafe-manifest 1 base mx1.example.org\nmessage\tmx/A1B2/1795000000/päth\n".repeat(1000);

test("a part comes back, and its id is the digest of its bytes", async () => {
  for (const text of [lines, Buffer.from(lines)]) {
    const part = await buildPart(text, keys.recipients);
    expect(part.id).toBe(hash("sha256", part.sealed));
    expect(part.sealed.length).toBeLessThan(lines.length / 10);
    expect((await readPart(part.sealed, keys.identities)).toString()).toBe(lines);
  }
});

test("an empty part is one", async () => {
  const part = await buildPart("", keys.recipients);
  expect(await readPart(part.sealed, keys.identities)).toHaveLength(0);
});

test("its zstd frame carries content size and checksum (RFC 8878, 3.1.1.1.1: the frame header's flags)", async () => {
  const compressed = await open((await buildPart(lines, keys.recipients)).sealed, keys.identities);
  expect(compressed.readUInt32LE(0)).toBe(0xfd2fb528);
  const flags = compressed.readUInt8(4);
  expect(flags & 0b100).toBe(0b100);
  expect(flags >> 6).toBeGreaterThan(0);
  expect(zstdDecompressSync(compressed).toString()).toBe(lines);
});

test.each([
  ["cut short", (zstd: Buffer) => zstd.subarray(0, -1), "cut short"],
  ["followed by something", (zstd: Buffer) => Buffer.concat([zstd, Buffer.from("x")]), "something else follows"],
])("a part that is %s is damaged", async (_, change, message) => {
  const sealed = await seal(change(zstdCompressSync(lines)), keys.recipients);
  const error = await errorOf(() => readPart(sealed, keys.identities));
  expect(error).toMatchObject({ kind: "damaged" });
  expect(error.message).toContain(message);
});

test("somebody else's identity is no-identity", async () => {
  const { sealed } = await buildPart(lines, keys.recipients);
  expect(await errorOf(async () => readPart(sealed, (await makeKeys()).identities))).toMatchObject({
    kind: "no-identity",
  });
});
