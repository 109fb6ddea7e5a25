import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type BucketLifecycleConfiguration,
  CopyObjectCommand,
  CreateBucketCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  HeadObjectCommand,
  ListObjectVersionsCommand,
  type ObjectVersion,
  PutBucketLifecycleConfigurationCommand,
  PutBucketPolicyCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectRetentionCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { keepReport } from "../../src/drill/keep.ts";
import { prune } from "../../src/prune/prune.ts";
import { writeDigests } from "../../src/repository/claims.ts";
import { drillKey } from "../../src/repository/layout.ts";
import { Repository } from "../../src/repository/repository.ts";
import { S3Store } from "../../src/repository/s3.ts";
import { systemClock } from "../../src/system/clock.ts";
import { sharedCeph } from "../support/ceph.ts";
import { spoolsafe } from "../support/cli.ts";
import { factsOf } from "../support/drills.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { plainClient, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";

const day = 24 * 60 * 60 * 1000;
const examples = join(import.meta.dirname, "../../examples/s3");

/** The policies as they are shipped, each for a user of its own, as a bucket policy: Ceph has no other kind. */
function bucketPolicy(bucket: string, users: Readonly<Record<string, string>>): string {
  const statements = Object.entries(users).flatMap(([user, role]) => {
    const text = readFileSync(join(examples, `${role}.json`), "utf8");
    const policy: { Statement: Record<string, unknown>[] } = JSON.parse(text.replaceAll("BUCKET", bucket));
    return policy.Statement.map((one) => ({
      ...one,
      Sid: `${role}${one.Sid}`,
      Principal: { AWS: [`arn:aws:iam:::user/${user}`] },
    }));
  });
  return JSON.stringify({ Version: "2012-10-17", Statement: statements });
}

describe.skipIf(!needs("root", "postfix", "flock", "ceph"))("a repository in a bucket with Object Lock", () => {
  const scratch = makeScratch();
  const Bucket = `spoolsafe-${randomBytes(6).toString("hex")}`;
  const days = 30;
  let server: ObjectServer;
  let owner: S3Client;
  let primary: S3Client;
  let rescue: S3Client;
  let postfix: PrivatePostfix;
  let site: Site;
  const config: Record<string, string> = {};
  const stores: S3Store[] = [];

  const as = (user: string): ObjectServer => ({ ...server, accessKey: user, secretKey: user + user });
  const credentialsOf = (user: string): string => {
    const path = join(scratch, user);
    writeCredentials(path, as(user));
    return path;
  };
  const open = (user: string, now: () => number = Date.now): S3Store => {
    const place = { bucket: Bucket, prefix: "mx1", endpoint: server.endpoint, credentialsFile: credentialsOf(user) };
    const store = new S3Store({ ...place, lockDays: days, now });
    stores.push(store);
    return store;
  };

  beforeAll(async () => {
    server = await sharedCeph();
    [owner, primary, rescue] = [plainClient(server), plainClient(as("other")), plainClient(as("fifth"))];
    await owner.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    const lifecycle = readFileSync(join(examples, "lifecycle.json"), "utf8");
    const LifecycleConfiguration: BucketLifecycleConfiguration = JSON.parse(lifecycle);
    await owner.send(new PutBucketLifecycleConfigurationCommand({ Bucket, LifecycleConfiguration }));
    const Policy = bucketPolicy(Bucket, { other: "primary", third: "prune", fourth: "standby", fifth: "rescue" });
    await owner.send(new PutBucketPolicyCommand({ Bucket, Policy }));
    site = await Site.make({ store: open("other") });
    postfix = await PrivatePostfix.start({ main: { minimal_backoff_time: "1h", queue_run_delay: "1h" } });
    await postfix.submit(Array.from({ length: 3 }, () => plainLetter({ recipients: ["somebody@nowhere.test"] })));
    await postfix.settled();
    const text = readFileSync(site.configure([postfix]), "utf8");
    for (const user of ["other", "third", "fourth"]) {
      const more = [
        `endpoint = "${server.endpoint}"`,
        `credentials_file = "${credentialsOf(user)}"`,
        `object_lock_days = ${days}`,
      ];
      const path = join(scratch, `${user}.toml`);
      writeFileSync(
        path,
        text.replace(/^url = .*$/m, (line) => [line, ...more].join("\n")),
      );
      config[user] = path;
    }
  });
  afterAll(async () => {
    owner?.destroy();
    primary?.destroy();
    rescue?.destroy();
    for (const store of stores) await store.close();
    postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
    destroyScratch(scratch);
  });

  const run = (user: string, ...args: string[]) =>
    spoolsafe([...args, "--json", "--config", config[user] ?? "", ...identity(user)]);
  /** A primary has none. */
  const identity = (user: string) =>
    user === "other" ? [] : ["--identity-file", join(site.directory, "identity.txt")];
  const versions = async () => await owner.send(new ListObjectVersionsCommand({ Bucket }));
  const oldestFirst = async (kind: string): Promise<ObjectVersion[]> => {
    const found = (await versions()).Versions?.filter(({ Key }) => Key?.startsWith(`mx1/${kind}/`)) ?? [];
    return found.toSorted((a, b) => Number(a.LastModified) - Number(b.LastModified));
  };
  const verify = () => run("other", "verify", "--level", "sealed", "--all");

  test("is backed up and verified by one who may never delete", async () => {
    const { code, stderr } = await run("other", "backup");
    expect(stderr + code).toMatch(/0$/);
    expect(await verify()).toMatchObject({ code: 0 });
    const { store } = site.repository;
    for await (const { key } of store.list(""))
      expect(await errorOf(() => store.remove(key))).toMatchObject({ key, until: expect.any(Number) });
    const probe = (await run("other", "doctor", "--probe")).json.find(({ name }) => name === "repository probe");
    expect(probe).toMatchObject({
      ok: true,
      message: expect.stringMatching(/written and read, and is locked until 20/),
    });
  });

  test("has what a later snapshot builds upon locked anew", async () => {
    const later = Date.now() + 10 * day;
    const store = open("other", () => later);
    const before = await oldestFirst("packs");
    const { snapshot } = await site.backup(postfix, { repository: await Repository.open(store) });
    expect(await oldestFirst("packs")).toHaveLength(before.length);
    const needed = [...snapshot.packs, ...snapshot.parts].map(({ id }) => id);
    expect(needed.length).toBeGreaterThan(2);
    const keys = (await versions()).Versions?.flatMap(({ Key }) => Key ?? []) ?? [];
    const locked = keys.filter((key) => key.endsWith("repository.json") || needed.some((id) => key.includes(id)));
    expect(locked).toHaveLength(needed.length + 1);
    for (const Key of locked) {
      const { ObjectLockRetainUntilDate: until } = await primary.send(new HeadObjectCommand({ Bucket, Key }));
      expect(until?.getTime(), Key).toBeGreaterThanOrEqual(later + days * day);
    }
  });

  test("is restored and verified with credentials that write nothing but claims and reports of drills", async () => {
    expect(await run("fourth", "verify", "--level", "deep")).toMatchObject({ code: 0 });
    const to = join(scratch, "restored");
    const { code, json } = await run("fourth", "restore", "latest", "--to", to);
    expect(code).toBe(0);
    expect(json.at(-1)).toMatchObject({ type: "summary", restored: 3 });
    expect(readdirSync(to).length).toBeGreaterThan(0);
    const repository = await Repository.open(open("fourth"));
    const [key, trusted] = [
      loadSigningKey(join(site.directory, "signing.key")),
      loadTrustedKeys(join(site.directory, "trusted.pub")),
    ];
    const host = { stateDirectory: join(scratch, "standby"), signal: new AbortController().signal };
    const kept = await keepReport(factsOf(), { repository, key, trusted, ...host });
    expect(kept).toMatchObject({ handedIn: 1, problem: null });
    expect((await writeDigests(repository, Buffer.from(`${"0".repeat(32)}\n`))).messages).toBe(1);
    const Key = `mx1/${drillKey({ ...kept.signed.drill, id: kept.signed.id })}`;
    const { ObjectLockRetainUntilDate: until } = await primary.send(new HeadObjectCommand({ Bucket, Key }));
    expect(until?.getTime()).toBeGreaterThan(Date.now() + 29 * day);
    // The whole of a drill's way through S3, and of one to a port where nobody listens.
    const rehearsed = await run("fourth", "drill", "--scenario", "store-unreachable");
    expect({ code: rehearsed.code, last: rehearsed.json.at(-1) }).toMatchObject({
      code: 0,
      last: { stored: true, scenario: { happened: expect.stringMatching(/^exit 1: .*ECONNREFUSED/) } },
    });
    const { code: refused, stderr, stdout } = await run("fourth", "backup");
    expect(refused).toBe(1);
    expect(stderr + stdout).toMatch(/AccessDenied/);
  });

  test("does not give up anything to who has the primary's credentials", async () => {
    const { Key, VersionId } = (await oldestFirst("packs"))[0] ?? {};
    const at = { Bucket, Key };
    const shorter = { Mode: "GOVERNANCE", RetainUntilDate: new Date(Date.now() + 60_000) } as const;
    const tries = [
      new DeleteObjectCommand(at),
      new DeleteObjectCommand({ ...at, VersionId, BypassGovernanceRetention: true }),
      new DeleteObjectsCommand({ Bucket, Delete: { Objects: [{ Key, VersionId }] } }),
      new PutObjectRetentionCommand({ ...at, Retention: shorter, BypassGovernanceRetention: true }),
      new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: "Suspended" } }),
      new PutBucketPolicyCommand({ Bucket, Policy: bucketPolicy(Bucket, { other: "prune" }) }),
    ];
    for (const command of tries) {
      expect(await errorOf(() => primary.send(command as DeleteObjectCommand))).toMatchObject({ name: "AccessDenied" });
    }
    // Nor does its owner end a lock.
    expect(await errorOf(() => owner.send(new DeleteObjectCommand({ ...at, VersionId })))).toMatchObject({
      name: "AccessDenied",
    });
  });

  test("tells of what is hidden or overwritten, which can be had again", async () => {
    const hidden = [(await oldestFirst("parts"))[0], (await oldestFirst("snapshots"))[1]];
    const markers: { Bucket: string; Key: string | undefined; VersionId: string | undefined }[] = [];
    for (const { Key } of hidden.filter((one) => one !== undefined)) {
      const { VersionId } = await owner.send(new DeleteObjectCommand({ Bucket, Key }));
      markers.push({ Bucket, Key, VersionId });
    }
    const { Key, VersionId } = (await oldestFirst("packs"))[0] ?? {};
    await primary.send(new PutObjectCommand({ Bucket, Key, Body: "not what it was" }));

    const { code, stdout, json } = await verify();
    expect(code).toBe(13);
    expect(json.at(-1)?.damaged).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ object: expect.stringMatching(/^parts\//), problem: "is missing" }),
        expect.objectContaining({ object: Key?.slice("mx1/".length) }),
        expect.objectContaining({ problem: expect.stringMatching(/has seen number 2 .* the newest there now is 1/) }),
      ]),
    );
    expect(stdout).toContain("docs/OBJECT-LOCK.md brings it back");

    for (const marker of markers) await rescue.send(new DeleteObjectCommand(marker));
    await rescue.send(new CopyObjectCommand({ Bucket, Key, CopySource: `${Bucket}/${Key}?versionId=${VersionId}` }));
    expect(await verify()).toMatchObject({ code: 0 });
  });

  test("is pruned by one who may delete, but not what is locked: that is told as retained", async () => {
    mkdirSync(join(scratch, "state"));
    const report = await prune({
      repository: await Repository.open(open("third")),
      signingKey: loadSigningKey(join(site.directory, "signing.key")),
      trusted: loadTrustedKeys(join(site.directory, "trusted.pub")),
      policy: { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0 },
      timeZone: "UTC",
      proved: null,
      onlyHost: null,
      stateDirectory: join(scratch, "state"),
      clock: { ...systemClock, now: () => Date.now() + 3 * day },
      signal: new AbortController().signal,
      report: () => {},
    });
    expect(report.removed).toMatchObject({ snapshots: 0, packs: 0, parts: 0 });
    expect(report.retained).toEqual([{ key: expect.stringContaining("snapshots/"), until: expect.any(Number) }]);
    expect(await oldestFirst("removals")).toHaveLength(1);
  });
});
