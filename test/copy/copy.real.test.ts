import { randomBytes } from "node:crypto";
import { appendFileSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CreateBucketCommand, HeadObjectCommand, ListObjectsV2Command, type S3Client } from "@aws-sdk/client-s3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readCopies } from "../../src/jobs/copies.ts";
import { readJob } from "../../src/jobs/record.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { S3Store } from "../../src/repository/s3.ts";
import { sharedCeph } from "../support/ceph.ts";
import { spoolsafe } from "../support/cli.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { newBucket, plainClient, writeCredentials } from "../support/s3.ts";
import { Site } from "../support/site.ts";
import { copyFrom, damageIn, objectsIn } from "./copying.ts";
import { runKilledCopy } from "./killed-copy.ts";

async function threeSnapshots(): Promise<HandMade> {
  const made = await HandMade.make();
  const messages = [...queueFiles.values()].map((bytes) => ({ bytes }));
  for (let nth = 0; nth < 3; nth++) await made.take({ messages: messages.slice(nth, nth + 2) });
  return made;
}

describe.skipIf(!needs("ceph"))("a copy in a bucket of Ceph", () => {
  let made: HandMade;
  let store: S3Store;
  let alias: S3Store;

  beforeAll(async () => {
    made = await threeSnapshots();
    const server = await sharedCeph();
    const credentialsFile = join(made.directory, "credentials");
    writeCredentials(credentialsFile, server);
    const place = { credentialsFile, bucket: await newBucket(server), prefix: "mx1" };
    store = new S3Store({ ...place, endpoint: server.endpoint });
    alias = new S3Store({ ...place, endpoint: server.endpoint.replace("127.0.0.1", "localhost") });
  });
  afterAll(async () => {
    await store?.close();
    await alias?.close();
    await made?.[Symbol.asyncDispose]();
  });

  test("is whole, and so is a copy of it in a directory", async () => {
    const source = join(made.directory, "repository");
    expect(await copyFrom(made, store)).toMatchObject({ copied: { snapshots: 3 }, behind: 0, problems: [] });
    expect(await damageIn(made, store)).toEqual([]);
    expect(await copyFrom(made, store)).toMatchObject({ copied: { snapshots: 0, objects: 0 }, behind: 0 });

    const back = join(made.directory, "back");
    expect(await copyFrom(made, new DirectoryStore(back), { from: store })).toMatchObject({ behind: 0, problems: [] });
    expect(objectsIn(back)).toEqual(objectsIn(source));
  });

  test("is not the same bucket at another address", async () => {
    const error = await errorOf(() => copyFrom(made, alias, { from: store }));
    expect(error).toMatchObject({ kind: "config", message: expect.stringContaining("the repository itself") });
  });

  test("that breaks off at a put goes on from there", async () => {
    const { signed } = await made.take({ messages: [...queueFiles.values()].slice(4, 6).map((bytes) => ({ bytes })) });
    const target = new FaultyStore(store);
    target.faults = {
      before: ({ name, key }) => {
        if (name === "put" && key.startsWith("snapshots/")) throw new Error("gone");
      },
    };
    expect(await errorOf(() => copyFrom(made, target))).toMatchObject({ message: "gone" });
    expect(await damageIn(made, store)).toEqual([]);
    const report = await copyFrom(made, store);
    expect(report).toMatchObject({ copied: { snapshots: 1, objects: 0 }, behind: 0 });
    expect(signed.snapshot.number).toBe(4);
  });
});

describe.skipIf(!needs("ceph"))("a copy in a bucket with Object Lock", () => {
  const Bucket = `spoolsafe-${randomBytes(6).toString("hex")}`;
  const day = 24 * 60 * 60 * 1000;
  let made: HandMade;
  let server: ObjectServer;
  let client: S3Client;
  let config: string;
  const stores: S3Store[] = [];

  beforeAll(async () => {
    made = await threeSnapshots();
    await made.repository.announce({ snapshots: [], packs: [], parts: [] }, new Date(), made.key);
    server = await sharedCeph();
    client = plainClient(server);
    await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: true }));
    writeCredentials(join(made.directory, "credentials"), server);
    config = join(made.directory, "spoolsafe.toml");
    const lines = [
      `state_directory = "${join(made.directory, "state")}"`,
      `repository.url = "file://${join(made.directory, "repository")}"`,
      `signing.trusted_keys_file = "${join(made.directory, "trusted.pub")}"`,
      "[[copy]]",
      `url = "s3://${Bucket}/mx1"`,
      `endpoint = "${server.endpoint}"`,
      `credentials_file = "${join(made.directory, "credentials")}"`,
      "object_lock_days = 8",
    ];
    writeFileSync(config, lines.join("\n"));
  });
  afterAll(async () => {
    client?.destroy();
    for (const store of stores) await store.close();
    await made?.[Symbol.asyncDispose]();
  });

  const open = (now: () => number) => {
    const place = { credentialsFile: join(made.directory, "credentials"), bucket: Bucket, prefix: "mx1" };
    const store = new S3Store({ ...place, endpoint: server.endpoint, lockDays: 8, now });
    stores.push(store);
    return store;
  };
  /** Days from a time on for which each object is locked at least, by the first word of its key. */
  const locks = async (from: number): Promise<Map<string, number>> => {
    const least = new Map<string, number>();
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }));
    for (const { Key = "" } of Contents) {
      const head = await client.send(new HeadObjectCommand({ Bucket, Key }));
      const until = head.ObjectLockMode === "COMPLIANCE" ? (head.ObjectLockRetainUntilDate?.getTime() ?? 0) : 0;
      const kind = Key.split("/")[1] ?? "";
      least.set(kind, Math.min(least.get(kind) ?? Number.POSITIVE_INFINITY, Math.round((until - from) / day)));
    }
    return least;
  };

  test("locks every object, also where --to spells its URL in another way", async () => {
    const copied = await spoolsafe(["copy", "--to", `s3://${Bucket}//mx1/`, "--config", config]);
    expect(copied).toMatchObject({ code: 0, stdout: expect.stringContaining("3 snapshots") });
    expect(Object.fromEntries(await locks(Date.now()))).toEqual({
      ...{ packs: 9, parts: 9, snapshots: 9, removals: 9 },
      ...{ "spoolsafe-repository.json": 9, "RECOVER.txt": 9 },
    });
  });

  test("locks anew what a later snapshot builds upon", async () => {
    await made.take({ messages: [...queueFiles.values()].slice(0, 4).map((bytes) => ({ bytes })) });
    const later = Date.now() + 6 * day;
    expect(
      await copyFrom(
        made,
        open(() => later),
      ),
    ).toMatchObject({ copied: { snapshots: 1 }, behind: 0, problems: [] });
    const least = await locks(later);
    expect([least.get("parts"), least.get("packs"), least.get("spoolsafe-repository.json")]).toEqual([9, 9, 9]);
  });
});

describe.skipIf(!needs("flock"))("a copy killed by SIGKILL", () => {
  test("at its puts leaves only whole snapshots, and the next one finishes it", async () => {
    await using made = await threeSnapshots();
    const source = join(made.directory, "repository");
    const puts = objectsIn(source).size;
    for (const put of [2, 6, puts]) {
      const to = join(made.directory, `killed ${put}`);
      const killed = runKilledCopy({
        from: source,
        to,
        trustedKeysFile: join(made.directory, "trusted.pub"),
        stateDirectory: join(made.directory, "state"),
        put,
      });
      expect([killed.signal, killed.stderr], `put ${put}`).toEqual(["SIGKILL", ""]);
      expect(await damageIn(made, new DirectoryStore(to)), `put ${put}`).toEqual([]);
      expect(await copyFrom(made, new DirectoryStore(to))).toMatchObject({ behind: 0, problems: [] });
      expect(objectsIn(to), `put ${put}`).toEqual(objectsIn(source));
    }
  });
});

describe.skipIf(!needs("root", "postfix"))("a backup with [[copy]]", () => {
  test("sends what it made; a copy that fails is told, recorded, and no failure of the backup", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 5);
    const config = site.configure([postfix]);
    const [one, two] = [join(site.directory, "one"), join(site.directory, "two")];
    appendFileSync(config, `[[copy]]\nurl = "file://${one}"\n[[copy]]\nurl = "file://${two}"\n`);
    const backup = () => spoolsafe(["backup", "--json", "--config", config]);

    const first = await backup();
    expect([first.code, first.json.at(-1)?.type]).toEqual([0, "summary"]);
    expect(first.json.filter(({ type }) => type === "copy")).toMatchObject([
      { snapshots: 1, behind: 0 },
      { snapshots: 1, behind: 0 },
    ]);
    const repository = join(site.directory, "repository");
    expect(objectsIn(one)).toEqual(objectsIn(repository));
    expect(readJob(site.stateDirectory, "copy")).toMatchObject({ lastExit: 0, detail: { targets: 2, behind: 0 } });

    renameSync(one, `${one} away`);
    mkdirSync(one);
    const second = await backup();
    expect([second.code, second.stderr]).toEqual([0, expect.stringContaining("not in every further repository")]);
    expect(second.json.at(-1)).toMatchObject({ type: "summary", snapshot: expect.any(String) });
    expect(objectsIn(two)).toEqual(objectsIn(repository));
    expect(readJob(site.stateDirectory, "backup")).toMatchObject({ lastExit: 0 });
    expect(readJob(site.stateDirectory, "copy")).toMatchObject({ lastExit: 10 });
    const states = readCopies(site.stateDirectory);
    expect(states.find(({ url }) => url.endsWith("/one"))).toMatchObject({ behind: 1, error: expect.any(String) });
    expect(states.find(({ url }) => url.endsWith("/two"))).toMatchObject({ behind: 0, error: null });

    rmSync(one, { recursive: true });
    renameSync(`${one} away`, one);
    rmSync(repository, { recursive: true });
    writeFileSync(repository, "");
    const restored = await spoolsafe([
      ...["restore", "latest", "--to", join(site.directory, "restored"), "--repository", `file://${two}`],
      ...["--identity-file", join(site.directory, "identity.txt"), "--config", config, "--json"],
    ]);
    expect([restored.code, restored.stderr]).toEqual([0, expect.anything()]);
  });
});
