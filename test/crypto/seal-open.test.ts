import { createCipheriv, hkdfSync } from "node:crypto";
import { Decrypter, Encrypter } from "age-encryption";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import { open, openStream } from "../../src/crypto/open.ts";
import { seal, sealStream } from "../../src/crypto/seal.ts";
import { OperatorError } from "../../src/errors.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { Random } from "../support/random.ts";
import { chunked, collect } from "../support/streams.ts";

/** With the switch on, the library hands its file key to nobody but its own recipients. */
const library = vi.hoisted(() => ({ secretive: false }));
vi.mock("age-encryption", async (original) => {
  const real = await original<typeof import("age-encryption")>();
  class SwitchableEncrypter extends real.Encrypter {
    override addRecipient(recipient: Parameters<InstanceType<typeof real.Encrypter>["addRecipient"]>[0]): void {
      if (!library.secretive || typeof recipient === "string") super.addRecipient(recipient);
    }
  }
  return { ...real, Encrypter: SwitchableEncrypter };
});
afterEach(() => {
  library.secretive = false;
});

const keys = await makeKeys();
const stranger = await makeKeys();
const quantum = await makeKeys(true);
const random = new Random(7);
const sizes = [0, 1, 65535, 65536, 65537, 131071, 131072, 131073, 300_000];

describe.each(sizes)("%i bytes", (size) => {
  const plain = random.bytes(size);

  test("what is sealed opens, whole and as a stream", async () => {
    const sealed = await seal(plain, keys.recipients);
    expect((await open(sealed, keys.identities)).equals(plain)).toBe(true);
    expect((await collect(openStream(chunked(sealed, 1000), keys.identities))).equals(plain)).toBe(true);
    expect(sealed.buffer.byteLength).toBe(sealed.length);
  });

  test("age-encryption opens it, and we open what age-encryption seals", async () => {
    const decrypter = new Decrypter();
    decrypter.addIdentity(keys.identity);
    expect(plain.equals(await decrypter.decrypt(await seal(plain, keys.recipients)))).toBe(true);
    const encrypter = new Encrypter();
    encrypter.addRecipient(keys.recipient);
    expect((await open(await encrypter.encrypt(plain), keys.identities)).equals(plain)).toBe(true);
  });

  test.each([1, 7, 4096, 65535, 65536, 65552, 200_000])("in chunks of %i", async (step) => {
    if (size / step > 10_000) return;
    const sealed = await collect(sealStream(chunked(plain, step), keys.recipients));
    expect((await open(sealed, keys.identities)).equals(plain)).toBe(true);
    expect((await collect(openStream(chunked(sealed, step), keys.identities))).equals(plain)).toBe(true);
  });

  test("when the library keeps the file key to itself, it seals", async () => {
    library.secretive = true;
    expect((await open(await seal(plain, keys.recipients), keys.identities)).equals(plain)).toBe(true);
    const sealed = await collect(sealStream(chunked(plain, 50_000), keys.recipients));
    expect((await open(sealed, keys.identities)).equals(plain)).toBe(true);
  });
});

test("any bytes in any chunks come back", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 0, max: 200_000 }),
      fc.array(fc.integer({ min: 0, max: 90_000 }), { maxLength: 8 }),
      async (size, cuts) => {
        const plain = random.bytes(size);
        const sealed = await collect(sealStream(cutAt(plain, cuts), keys.recipients));
        expect((await collect(openStream(cutAt(sealed, cuts), keys.identities))).equals(plain)).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});

test("post-quantum recipients, and several of them", async () => {
  const recipients = { list: [quantum.recipient, (await makeKeys(true)).recipient], kind: "post-quantum" } as const;
  const sealed = await seal(Buffer.from("mail"), recipients);
  expect((await open(sealed, quantum.identities)).toString()).toBe("mail");
});

test("no two files share header, file key or nonce", async () => {
  const first = await seal(Buffer.from("mail"), keys.recipients);
  const second = await seal(Buffer.from("mail"), keys.recipients);
  expect(first.subarray(30, 60)).not.toEqual(second.subarray(30, 60));
  expect(await fileKey(first)).not.toEqual(await fileKey(second));
});

test("the payload has a nonce of its own, not the one the library used for the empty file", async () => {
  // The library's empty file is header, nonce, tag; under the same nonce our file would reuse its key stream.
  const made: Buffer[] = [];
  const real = Encrypter.prototype.encrypt;
  const spy = vi.spyOn(Encrypter.prototype, "encrypt").mockImplementation(async function (this: Encrypter, file) {
    const encrypted = await collect((await real.call(this, file as never)) as unknown as ReadableStream<Uint8Array>);
    made.push(encrypted);
    return ReadableStream.from([encrypted]) as never;
  });
  const sealed = await seal(Buffer.alloc(0), keys.recipients);
  spy.mockRestore();
  const [empty] = made;
  expect(empty?.length).toBe(sealed.length);
  expect(empty?.subarray(0, -32)).toEqual(sealed.subarray(0, -32));
  expect(empty?.subarray(-32, -16)).not.toEqual(sealed.subarray(-32, -16));
});

test("somebody else's identity is no-identity, and says what the file is sealed to", async () => {
  const sealed = await seal(Buffer.from("mail"), keys.recipients);
  for (const attempt of [
    () => open(sealed, stranger.identities),
    () => collect(openStream(chunked(sealed, 50), stranger.identities)),
    () => open(sealed, quantum.identities),
    () => open(sealed, { identities: [], recipients: [] }),
  ]) {
    const error = await errorOf(attempt);
    expect(error).toMatchObject({ kind: "no-identity", exitCode: 12 });
    expect(error.message).toBe("no identity opens this: it is sealed to 1 X25519 recipient");
  }
  const error = await errorOf(async () => open(await seal(Buffer.from("x"), quantum.recipients), keys.identities));
  expect(error.message).toBe("no identity opens this: it is sealed to 1 mlkem768x25519 recipient");
});

describe("damage", async () => {
  const plain = random.bytes(150_000);
  const sealed = await seal(plain, keys.recipients);
  const header = sealed.indexOf("\n--- ") + 5 + 43 + 1;
  const chunk = 65552;
  const payload = header + 16;

  test("a flipped bit anywhere is refused", async () => {
    const everywhereInTheStart = Array.from({ length: payload + 20 }, (_, at) => at);
    const ends = [1, 2, 3].flatMap((number) => {
      const end = Math.min(payload + number * chunk, sealed.length);
      return [end - 17, end - 16, end - 1, end, end + 1];
    });
    const places = [...everywhereInTheStart, ...ends, payload + 40_000, sealed.length - 1].filter(
      (at) => at < sealed.length,
    );
    for (const at of places) {
      const bad = Buffer.from(sealed);
      bad.writeUInt8(bad.readUInt8(at) ^ 1, at);
      await expectRefused(bad, `bit flipped at ${at}`);
    }
  });

  test("a file cut short anywhere is refused", async () => {
    const places = Array.from({ length: payload + 20 }, (_, at) => at);
    for (let number = 1; number <= 2; number++) places.push(...around(payload + number * chunk));
    places.push(...around(sealed.length - 16), sealed.length - 1);
    for (const at of places) await expectRefused(sealed.subarray(0, at), `cut at ${at}`);
  });

  test("chunks left out, doubled, swapped or added are refused", async () => {
    const start = sealed.subarray(0, payload);
    const parts = [0, 1, 2].map((at) => sealed.subarray(payload + at * chunk, payload + (at + 1) * chunk));
    const [a, b, c] = [parts[0] ?? start, parts[1] ?? start, parts[2] ?? start];
    for (const order of [[b, c], [a, c], [a, b], [b, a, c], [a, a, b, c], [a, b, c, c], [a, b, b, c], []]) {
      await expectRefused(Buffer.concat([start, ...order]), "chunks");
    }
    await expectRefused(Buffer.concat([sealed, Buffer.from("x")]), "something added");
  });

  test("an empty last chunk after others is refused, as the age specification wants", async () => {
    const full = random.bytes(65536);
    const good = await seal(full, keys.recipients);
    expect((await open(good, keys.identities)).length).toBe(65536);
    const bad = await withEmptyLastChunk(full);
    await expectRefused(bad, "empty last chunk");
    const decrypter = new Decrypter();
    decrypter.addIdentity(keys.identity);
    await expect(decrypter.decrypt(bad)).rejects.toThrow();
  });

  test.each([
    ["nothing", Buffer.alloc(0), "this is not an age file"],
    ["text", Buffer.from("hello, this is mail\n".repeat(100)), "this is not an age file"],
    ["armored age", Buffer.from("-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n"), "this is not an age file"],
    ["a header without end", Buffer.from("age-encryption.org/v1\n-> X25519 abc\n"), "the age header is cut short"],
    ["two megabytes of header", Buffer.from(`age-encryption.org/v1\n${"-> x y\n\n".repeat(3e5)}--- `), "cut short"],
  ])("%s", async (_, bytes, message) => {
    const error = await errorOf(() => open(bytes, keys.identities));
    expect(error).toMatchObject({ kind: "damaged" });
    expect(error.message).toContain(message);
    expect(await errorOf(() => collect(openStream(chunked(bytes, 4096), keys.identities)))).toMatchObject({
      kind: "damaged",
    });
  });

  test("a damaged header or content is damaged, not a wrong identity", async () => {
    for (const at of [header - 5, payload + 5]) {
      const bad = Buffer.from(sealed);
      bad.writeUInt8(bad.readUInt8(at) === 65 ? 66 : 65, at);
      expect(await errorOf(() => open(bad, keys.identities))).toMatchObject({ kind: "damaged", exitCode: 13 });
    }
  });

  async function expectRefused(bad: Buffer, what: string): Promise<void> {
    for (const attempt of [
      () => open(bad, keys.identities),
      () => collect(openStream(chunked(bad, 30_000), keys.identities)),
    ]) {
      const error = await attempt().then(
        () => new Error(`opened with ${what}`),
        (reason) => reason,
      );
      if (!(error instanceof OperatorError)) throw error;
      expect(["damaged", "no-identity"]).toContain(error.kind);
    }
  }
});

test("a source that fails is not called damaged, and is closed when nobody reads on", async () => {
  const sealed = await seal(random.bytes(300_000), keys.recipients);
  async function* failing() {
    yield sealed.subarray(0, 100_000);
    throw new Error("the line broke");
  }
  expect((await errorOf(() => collect(openStream(failing(), keys.identities)))).message).toBe("the line broke");
  expect((await errorOf(() => collect(sealStream(failing(), keys.recipients)))).message).toBe("the line broke");
  let closed = false;
  async function* watched() {
    try {
      yield* chunked(sealed, 1000);
    } finally {
      closed = true;
    }
  }
  for await (const _ of openStream(watched(), keys.identities)) break;
  expect(closed).toBe(true);
});

/** A file of one full chunk and an empty last one, which no age writes. */
async function withEmptyLastChunk(full: Buffer): Promise<Buffer> {
  const good = await seal(full, keys.recipients);
  const header = good.indexOf("\n--- ") + 5 + 43 + 1;
  const nonce = good.subarray(header, header + 16);
  const key = Buffer.from(hkdfSync("sha256", await fileKey(good), nonce, "payload", 32));
  const sealWith = (number: number, last: number, plain: Buffer) => {
    const iv = Buffer.alloc(12);
    iv[10] = number;
    iv[11] = last;
    const cipher = createCipheriv("chacha20-poly1305", key, iv, { authTagLength: 16 });
    return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
  };
  return Buffer.concat([good.subarray(0, header + 16), sealWith(0, 0, full), sealWith(1, 1, Buffer.alloc(0))]);
}

async function fileKey(sealed: Buffer): Promise<Uint8Array> {
  const decrypter = new Decrypter();
  decrypter.addIdentity(keys.identity);
  return decrypter.decryptHeader(sealed.subarray(0, sealed.indexOf("\n--- ") + 5 + 43 + 1));
}

function around(at: number): number[] {
  return [at - 1, at, at + 1];
}

async function* cutAt(bytes: Buffer, cuts: readonly number[]): AsyncGenerator<Buffer> {
  let at = 0;
  for (const cut of cuts) {
    yield bytes.subarray(at, at + cut);
    at = Math.min(at + cut, bytes.length);
  }
  yield bytes.subarray(at);
}
