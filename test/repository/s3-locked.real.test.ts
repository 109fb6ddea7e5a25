import { randomBytes } from "node:crypto";
import { join } from "node:path";
import {
  AbortMultipartUploadCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  HeadObjectCommand,
  ListObjectVersionsCommand,
  PutObjectLegalHoldCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { ObjectRetained } from "../../src/repository/object-store.ts";
import { S3Store, type S3StoreOptions } from "../../src/repository/s3.ts";
import { digestOf } from "../../src/system/digest.ts";
import { sharedCeph } from "../support/ceph.ts";
import { FaultyProxy, type SeenRequest } from "../support/faulty-proxy.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { newBucket, plainClient, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { sharedSwift } from "../support/swift.ts";

const day = 24 * 60 * 60 * 1000;
const put = (store: S3Store, key: string, body = Buffer.from(key)) => store.put(key, body, digestOf(body).digest);

async function keysOf(store: S3Store): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.list("")) found.push(key);
  return found;
}

describe.skipIf(!needs("ceph"))("in a bucket of Ceph with Object Lock", () => {
  const scratch = makeScratch();
  const credentialsFile = join(scratch, "credentials");
  const Bucket = `spoolsafe-${randomBytes(6).toString("hex")}`;
  const opened: S3Store[] = [];
  let server: ObjectServer;
  let client: S3Client;
  let proxy: FaultyProxy;

  beforeAll(async () => {
    server = await sharedCeph();
    client = plainClient(server);
    await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    writeCredentials(credentialsFile, server);
    proxy = await FaultyProxy.start(server.endpoint);
  });
  afterAll(async () => {
    client?.destroy();
    for (const store of opened) await store.close();
    await proxy?.close();
    destroyScratch(scratch);
  });

  function open(over: Partial<S3StoreOptions> = {}): S3Store {
    const prefix = randomBytes(6).toString("hex");
    const store = new S3Store({ endpoint: proxy.endpoint, credentialsFile, bucket: Bucket, prefix, ...over });
    opened.push(store);
    return store;
  }

  const at = (store: S3Store, key: string) => ({ Bucket, Key: `${store.url.split("/").at(-1)}/${key}` });
  const lockOf = async (store: S3Store, key: string) => {
    const head = await client.send(new HeadObjectCommand(at(store, key)));
    return { mode: head.ObjectLockMode, until: head.ObjectLockRetainUntilDate?.getTime() ?? 0 };
  };
  const isRetention = ({ method, url }: SeenRequest) => method === "PUT" && url.includes("retention");

  describe("an object that is locked", () => {
    let now = Date.now();

    test("is retained until its time, and nothing hides it", async () => {
      const store = open({ now: () => now });
      const key = "packs/ab/locked";
      await put(store, key);
      const until = Math.floor(Date.now() / 1000) * 1000 + 3_600_000;
      const Retention = { Mode: "GOVERNANCE", RetainUntilDate: new Date(until) } as const;
      await client.send(new PutObjectRetentionCommand({ ...at(store, key), Retention }));
      const error = await errorOf(() => store.remove(key));
      expect(error).toBeInstanceOf(ObjectRetained);
      expect(error).toMatchObject({ kind: "store-failed", key, until });
      expect(await keysOf(store)).toEqual([key]);
      const versions = await client.send(new ListObjectVersionsCommand({ Bucket, Prefix: at(store, "").Key }));
      expect(versions.DeleteMarkers ?? []).toEqual([]);
      now = until + 1;
      await store.remove(key);
      expect(await keysOf(store)).toEqual([]);
    });

    test("by a legal hold is retained without an end, and one without a lock goes", async () => {
      const store = open();
      const held = "packs/ab/held";
      await put(store, held);
      await put(store, "packs/ab/free");
      await client.send(new PutObjectLegalHoldCommand({ ...at(store, held), LegalHold: { Status: "ON" } }));
      expect(await errorOf(() => store.remove(held))).toMatchObject({ until: null });
      await store.remove("packs/ab/free");
      expect(await keysOf(store)).toEqual([held]);
      await client.send(new PutObjectLegalHoldCommand({ ...at(store, held), LegalHold: { Status: "OFF" } }));
      await store.remove(held);
      expect(await keysOf(store)).toEqual([]);
    });
  });

  describe("with days to lock for", () => {
    // Ceph 16 takes the lock headers of a multipart upload and loses them.
    test.each([
      ["a small object", 1000],
      ["one that goes up in parts", 17 * 1024 * 1024],
    ])("%s is locked from the start, and can't be removed by the owner of the bucket either", async (_, bytes) => {
      const store = open({ lockDays: 30 });
      const [key, before] = ["packs/ab/1", Date.now()];
      const body = randomBytes(bytes);
      await put(store, key, body);
      const { mode, until } = await lockOf(store, key);
      expect(mode).toBe("COMPLIANCE");
      expect(until).toBeGreaterThanOrEqual(before + 34 * day);
      expect(until).toBeLessThan(Date.now() + 34 * day + 2000);
      expect(await errorOf(() => store.remove(key))).toMatchObject({ until });
      await put(store, key, body);
      expect(await lockOf(store, key)).toEqual({ mode, until });
    });

    test("what is there is locked anew when too little is left, and not before", async () => {
      const prefix = randomBytes(6).toString("hex");
      let now = Date.now();
      const again = () => open({ prefix, lockDays: 30, now: () => now });
      const store = again();
      await put(store, "packs/ab/1");
      const first = await lockOf(store, "packs/ab/1");
      const retentions = () => proxy.seen.filter((seen) => isRetention(seen) && seen.url.includes(prefix)).length;
      now += 3 * day;
      await again().keepLocked("packs/ab/1");
      expect(retentions()).toBe(0);
      now += 2 * day;
      await again().keepLocked("packs/ab/1");
      expect(retentions()).toBe(1);
      const { until } = await lockOf(store, "packs/ab/1");
      expect(until - first.until).toBeGreaterThanOrEqual(5 * day);
      await again().keepLocked("packs/ab/1");
      expect(retentions()).toBe(1);
    });

    test("what has no lock yet gets one, and what is not there is missing", async () => {
      const store = open();
      await put(store, "packs/ab/1");
      const locking = open({ prefix: store.url.split("/").at(-1) ?? "", lockDays: 1 });
      await locking.keepLocked("packs/ab/1");
      expect(await lockOf(store, "packs/ab/1")).toMatchObject({ mode: "COMPLIANCE" });
      expect(await errorOf(() => locking.keepLocked("packs/ab/2"))).toMatchObject({ kind: "damaged" });
    });

    test("a store that takes a lock and keeps none is an error", async () => {
      const store = open({ lockDays: 1 });
      const prefix = at(store, "").Key;
      proxy.fault = (seen) =>
        isRetention(seen) && seen.url.includes(prefix) ? { kind: "answer", status: 200 } : undefined;
      try {
        const error = await errorOf(() => put(store, "packs/ab/1", randomBytes(17 * 1024 * 1024)));
        expect(error).toMatchObject({
          kind: "store-failed",
          message: expect.stringMatching(/keeps no lock of 1 days/),
        });
      } finally {
        proxy.fault = () => undefined;
      }
    });

    test("a clock that is behind gives no shorter lock without saying so", async () => {
      const behind = open({ lockDays: 30, now: () => Date.now() - 10 * day });
      expect(await errorOf(() => put(behind, "packs/ab/1"))).toMatchObject({
        message: expect.stringMatching(/keeps no lock of 30 days/),
        hints: expect.arrayContaining([expect.stringMatching(/clock/)]),
      });
    });

    test.each([
      ["ahead", 400],
      ["behind", -400],
    ])("a clock that is more than a year %s locks by the store's, and ends nobody's upload", async (_, days) => {
      const store = open({ lockDays: 1 });
      const [key, before] = ["packs/ab/1", Date.now()];
      const ofAnother = at(store, `packs/ab/ab${"0".repeat(62)}`);
      const { UploadId } = await client.send(new CreateMultipartUploadCommand(ofAnother));
      vi.useFakeTimers({ toFake: ["Date"], now: before + days * day });
      try {
        await put(store, key);
        await store.keepLocked(key);
        expect(await errorOf(() => store.remove(key))).toBeInstanceOf(ObjectRetained);
        expect(await store.sweep()).toBe(0);
      } finally {
        vi.useRealTimers();
      }
      const { mode, until } = await lockOf(store, key);
      expect(mode).toBe("COMPLIANCE");
      expect(Math.abs(until - before - 2 * day)).toBeLessThan(60_000);
      await client.send(new AbortMultipartUploadCommand({ ...ofAnother, UploadId }));
    });

    test("a bucket without Object Lock is an error before anything is written", async () => {
      const store = open({ bucket: await newBucket(server), lockDays: 7 });
      expect(await errorOf(() => put(store, "packs/ab/1"))).toMatchObject({
        kind: "store-failed",
        message: `${store.url} keeps no locks, and object_lock_days is 7`,
      });
      expect(await keysOf(store)).toEqual([]);
    });
  });
});

describe.skipIf(!needs("swift"))("on Swift, which answers 200 to locks and keeps none", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));

  test("nothing is written, nor is what is there touched", async () => {
    const server = await sharedSwift();
    const credentialsFile = join(scratch, "credentials");
    writeCredentials(credentialsFile, server);
    const place = { endpoint: server.endpoint, credentialsFile, bucket: await newBucket(server), prefix: "" };
    const [plain, locking] = [new S3Store(place), new S3Store({ ...place, lockDays: 7 })];
    try {
      await put(plain, "packs/ab/1");
      const refusal = { kind: "store-failed", message: expect.stringMatching(/keeps no locks/) };
      expect(await errorOf(() => put(locking, "packs/ab/2"))).toMatchObject(refusal);
      // PutObjectRetention would write its XML in the place of the object.
      expect(await errorOf(() => put(locking, "packs/ab/1"))).toMatchObject(refusal);
      expect(await errorOf(() => locking.keepLocked("packs/ab/1"))).toMatchObject(refusal);
      expect((await plain.get("packs/ab/1")).toString()).toBe("packs/ab/1");
      expect(await errorOf(() => plain.get("packs/ab/2"))).toMatchObject({ kind: "damaged" });
    } finally {
      await plain.close();
      await locking.close();
    }
  });
});
