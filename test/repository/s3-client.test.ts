import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { partBytes, S3Store } from "../../src/repository/s3.ts";
import { connect, loadCredentials, parseCredentials } from "../../src/repository/s3-client.ts";
import { failure } from "../contract/object-store.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

const mebibyte = 1024 * 1024;

describe("a credentials file", () => {
  test.each([
    ["[default]\naws_access_key_id = AK\naws_secret_access_key = se=cr et\n", undefined],
    [
      "# mine\n[other]\naws_access_key_id=x\n[default]\r\naws_access_key_id=AK\r\naws_secret_access_key=se=cr et\r\n",
      undefined,
    ],
    ["[backup]\n  AWS_ACCESS_KEY_ID = AK\n  AWS_SECRET_ACCESS_KEY = se=cr et\n  aws_session_token = T\n", "T"],
  ])("%j is read", (text, token) => {
    expect(parseCredentials(text, "file")).toEqual({
      accessKeyId: "AK",
      secretAccessKey: "se=cr et",
      ...(token === undefined ? {} : { sessionToken: token }),
    });
  });

  test.each([
    ["", /no profile and no \[default\]/],
    ["aws_access_key_id = AK\naws_secret_access_key = topsecret\n", /no profile/],
    ["[a]\naws_secret_access_key = topsecret\n[b]\n", /the profiles a, b and no \[default\]/],
    ["[default]\naws_secret_access_key = topsecret\n", /no aws_access_key_id/],
    ["[default]\naws_access_key_id = topsecret\n", /no aws_secret_access_key/],
  ])("%j is an error that says nothing of its secrets", async (text, message) => {
    const error = await failure((async () => parseCredentials(text, "/etc/s3"))());
    expect(error.kind).toBe("config");
    expect(error.message).toMatch(message);
    expect(error.message + error.hints.join()).not.toContain("topsecret");
  });

  test("that others can read, or that is not there, is an error before anything is sent", async () => {
    const path = join(scratch, "open");
    writeFileSync(path, "[default]\n", { mode: 0o644 });
    for (const credentialsFile of [path, join(scratch, "none")]) {
      const store = new S3Store({ bucket: "b", prefix: "", endpoint: "http://127.0.0.1:9", credentialsFile });
      expect(await failure(store.get("RECOVER.txt"))).toMatchObject({ kind: "config" });
      expect(() => loadCredentials(credentialsFile)).toThrow(credentialsFile);
    }
  });
});

describe("the client", () => {
  const keys = join(scratch, "keys");
  writeFileSync(keys, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n", { mode: 0o600 });

  test("of an endpoint of one's own sends only checksums that are asked for, and names the bucket in the path", async () => {
    const settings = { bucket: "b", prefix: "", endpoint: "https://s3.example.net", credentialsFile: keys };
    const { client, checksums } = await connect(settings, {});
    expect(checksums).toBe(false);
    expect(await client.config.requestChecksumCalculation()).toBe("WHEN_REQUIRED");
    expect(await client.config.responseChecksumValidation()).toBe("WHEN_REQUIRED");
    expect(client.config.forcePathStyle).toBe(true);
    expect(await client.config.region()).toBe("us-east-1");
    expect(await client.config.maxAttempts()).toBe(5);
    client.destroy();
  });

  test("of AWS sends the checksums it keeps", async () => {
    const { client, checksums } = await connect(
      { bucket: "b", prefix: "", region: "eu-west-3", credentialsFile: keys },
      {},
    );
    expect(checksums).toBe(true);
    expect(await client.config.requestChecksumCalculation()).toBe("WHEN_SUPPORTED");
    expect(client.config.forcePathStyle).toBe(false);
    expect(await client.config.region()).toBe("eu-west-3");
    client.destroy();
  });

  test.each(["ftp://s3.example.net", "s3.example.net", "https://me:topsecret@s3.example.net"])(
    "refuses the endpoint %s",
    async (endpoint) => {
      const error = await failure(connect({ bucket: "b", prefix: "", endpoint }, {}));
      expect(error.kind).toBe("config");
      expect(error.message + error.hints.join()).not.toContain("topsecret");
    },
  );
});

describe("parts", () => {
  test.each([
    [17 * mebibyte, 8 * mebibyte],
    [8000 * mebibyte, 8 * mebibyte],
    [8000 * mebibyte + 1, 9 * mebibyte],
    [100_000 * mebibyte, 100 * mebibyte],
  ])("of %d bytes are %d each", (bytes, part) => {
    expect(partBytes(bytes)).toBe(part);
    expect(Math.ceil(bytes / part)).toBeLessThanOrEqual(1000);
  });
});
