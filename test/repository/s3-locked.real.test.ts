import { randomBytes } from "node:crypto";
import { join } from "node:path";
import {
  CreateBucketCommand,
  ListObjectVersionsCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ObjectRetained } from "../../src/repository/object-store.ts";
import { S3Store } from "../../src/repository/s3.ts";
import { digestOf } from "../../src/system/digest.ts";
import { sharedCeph } from "../support/ceph.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { plainClient, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

describe.skipIf(!needs("ceph"))("an object that is locked in a bucket of Ceph", () => {
  const scratch = makeScratch();
  const Bucket = `spoolsafe-${randomBytes(6).toString("hex")}`;
  let client: S3Client;
  let now = Date.now();
  let store: S3Store;

  beforeAll(async () => {
    const server = await sharedCeph();
    client = plainClient(server);
    await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    const credentialsFile = join(scratch, "credentials");
    writeCredentials(credentialsFile, server);
    store = new S3Store({ endpoint: server.endpoint, credentialsFile, bucket: Bucket, prefix: "", now: () => now });
  });
  afterAll(async () => {
    client?.destroy();
    await store?.close();
    destroyScratch(scratch);
  });

  async function put(Key: string): Promise<{ Bucket: string; Key: string }> {
    const body = Buffer.from(Key);
    await store.put(Key, body, digestOf(body).digest);
    return { Bucket, Key };
  }

  const keys = async () => {
    const found: string[] = [];
    for await (const { key } of store.list("")) found.push(key);
    return found;
  };

  test("is retained until its time, and nothing hides it", async () => {
    const at = await put("packs/ab/locked");
    const until = Math.floor(Date.now() / 1000) * 1000 + 3_600_000;
    const Retention = { Mode: "GOVERNANCE", RetainUntilDate: new Date(until) } as const;
    await client.send(new PutObjectRetentionCommand({ ...at, Retention }));
    const error = await errorOf(() => store.remove(at.Key));
    expect(error).toBeInstanceOf(ObjectRetained);
    expect(error).toMatchObject({ kind: "store-failed", key: at.Key, until });
    expect(await keys()).toEqual([at.Key]);
    const versions = await client.send(new ListObjectVersionsCommand({ Bucket }));
    expect(versions.DeleteMarkers ?? []).toEqual([]);
    now = until + 1;
    await store.remove(at.Key);
    expect(await keys()).toEqual([]);
  });

  test("by a legal hold is retained without an end, and one without a lock goes", async () => {
    const held = await put("packs/ab/held");
    await put("packs/ab/free");
    await client.send(new PutObjectLegalHoldCommand({ ...held, LegalHold: { Status: "ON" } }));
    expect(await errorOf(() => store.remove(held.Key))).toMatchObject({ until: null });
    await store.remove("packs/ab/free");
    expect(await keys()).toEqual([held.Key]);
    await client.send(new PutObjectLegalHoldCommand({ ...held, LegalHold: { Status: "OFF" } }));
    await store.remove(held.Key);
    expect(await keys()).toEqual([]);
  });
});
