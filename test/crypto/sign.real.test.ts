import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey } from "../../src/crypto/sign.ts";
import { run } from "../../src/system/exec.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/** The lines docs/FORMAT.md prints under "Record", as a shell would get them. */
const commands = readFileSync("docs/FORMAT.md", "utf8")
  .split("\n")
  .filter((line) => /^ {4}(head -n 1 RECORD|openssl pkeyutl)/.test(line))
  .join("\n");

describe.skipIf(!needs("openssl"))("a record's signature and stock openssl", () => {
  const directory = makeScratch();
  afterAll(() => destroyScratch(directory));
  const path = (name: string) => join(directory, name);

  function writeRecord(body: string): void {
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(path("signing.key"), privatePem, { mode: 0o600 });
    writeFileSync(path("trusted.pub"), publicPem);
    const key = loadSigningKey(path("signing.key"));
    const line = Buffer.from(`${body}\n`);
    const signature = key.sign(line);
    writeFileSync(path("RECORD"), `${line}${JSON.stringify({ key: key.fingerprint, signature })}\n`);
  }

  test("the commands of the format page accept it", async () => {
    expect(commands.split("\n")).toHaveLength(2);
    for (let round = 0; round < 20; round++) {
      writeRecord(JSON.stringify({ format: 1, host: "mx1.example.org", round }));
      const { stdout } = await run("sh", ["-ec", commands], { cwd: directory });
      expect(stdout.toString()).toContain("Signature Verified Successfully");
    }
  });

  test("they refuse a changed record", async () => {
    writeRecord('{"format":1}');
    writeFileSync(path("RECORD"), readFileSync(path("RECORD"), "utf8").replace('"format":1', '"format":2'));
    expect((await errorOf(() => run("sh", ["-ec", commands], { cwd: directory }))).message).toContain("exited with 1");
  });

  test("a key openssl made is taken, and the fingerprint is that of openssl's DER", async () => {
    await run("openssl", ["genpkey", "-algorithm", "ed25519", "-out", path("stock.key")]);
    const key = loadSigningKey(path("stock.key"));
    const pipeline = `openssl pkey -in stock.key -pubout -outform DER | sha256sum`;
    const { stdout } = await run("sh", ["-ec", pipeline], { cwd: directory });
    expect(stdout.toString().slice(0, 64)).toBe(key.fingerprint);
  });
});
