import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AgeIdentities, type AgeRecipients, loadIdentities, loadRecipients } from "../../src/crypto/keys.ts";
import { open, openStream } from "../../src/crypto/open.ts";
import { seal, sealStream } from "../../src/crypto/seal.ts";
import { run } from "../../src/system/exec.ts";
import { errorOf, makeKeys } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { chunked, collect } from "../support/streams.ts";

const sizes = [0, 1, 65535, 65536, 65537, 131072, 1_000_000];
const steps = [997, 65536, 65552, 1_000_000];

describe.skipIf(!needs("age"))("the age program", () => {
  const directory = makeScratch();
  afterAll(() => destroyScratch(directory));
  const path = (name: string) => join(directory, name);
  const random = new Random(11);
  let identities: AgeIdentities;
  let recipients: AgeRecipients;
  beforeAll(async () => {
    await run("age-keygen", ["-o", path("identity")]);
    identities = await loadIdentities(path("identity"));
    const second = await makeKeys();
    writeFileSync(path("recipients"), `# two\n${identities.recipients[0]}\n${second.recipient}\n`);
    recipients = loadRecipients(path("recipients"));
  });

  test("age-keygen's recipient is the one we derive", async () => {
    const { stdout } = await run("age-keygen", ["-y", path("identity")]);
    expect(stdout.toString().trim()).toBe(identities.recipients[0]);
    expect(readFileSync(path("identity"), "utf8")).toContain("# public key:");
  });

  test.each(sizes)("opens what we seal, %i bytes, whole and from streams of any chunks", async (size) => {
    const plain = random.bytes(size);
    const sealed = [await seal(plain, recipients)];
    for (const step of steps) sealed.push(await collect(sealStream(chunked(plain, step), recipients)));
    for (const file of sealed) {
      const { stdout } = await run("age", ["-d", "-i", path("identity")], { input: file });
      expect(stdout.equals(plain)).toBe(true);
    }
  });

  test.each(sizes)("seals what we open, %i bytes, whole and from streams of any chunks", async (size) => {
    const plain = random.bytes(size);
    const { stdout } = await run("age", ["-R", path("recipients")], { input: plain });
    expect((await open(stdout, identities)).equals(plain)).toBe(true);
    for (const step of steps) {
      expect((await collect(openStream(chunked(stdout, step), identities))).equals(plain)).toBe(true);
    }
  });

  test("refuses what we refuse", async () => {
    const sealed = await seal(random.bytes(140_000), recipients);
    const header = sealed.indexOf("\n--- ") + 5 + 43 + 1;
    const flips = [25, header - 3, header + 3, header + 20, header + 16 + 65552 - 1, sealed.length - 1];
    const cuts = [10, header - 1, header, header + 16, header + 16 + 65552, sealed.length - 1];
    const files = [
      ...flips.map((at) => {
        const bad = Buffer.from(sealed);
        bad.writeUInt8(bad.readUInt8(at) ^ 1, at);
        return bad;
      }),
      ...cuts.map((at) => sealed.subarray(0, at)),
      Buffer.concat([sealed, sealed]),
    ];
    for (const file of files) {
      await errorOf(() => open(file, identities));
      await errorOf(() => run("age", ["-d", "-i", path("identity")], { input: file }));
    }
  });

  test("a stranger's identity opens nothing", async () => {
    const stranger = await makeKeys();
    writeFileSync(path("stranger"), `${stranger.identity}\n`);
    chmodSync(path("stranger"), 0o600);
    const { stdout } = await run("age", ["-R", path("recipients")], { input: "mail" });
    expect(await errorOf(() => open(stdout, stranger.identities))).toMatchObject({ kind: "no-identity" });
  });

  test("an identity file that age has sealed itself is told apart", async () => {
    const { stdout } = await run("age", ["-R", path("recipients"), "-a"], { input: "x" });
    writeFileSync(path("sealed-identity"), stdout, { mode: 0o600 });
    const error = await errorOf(() => loadIdentities(path("sealed-identity")));
    expect(error.message).toContain("the identity file is itself encrypted");
  });
});
