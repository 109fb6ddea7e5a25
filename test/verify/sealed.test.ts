import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey, loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import type { Seen } from "../../src/repository/chain.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { packKey, partKey, removalKey, snapshotKey } from "../../src/repository/layout.ts";
import { Repository } from "../../src/repository/repository.ts";
import { formatRecord } from "../../src/snapshot/record.ts";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import { digestOf } from "../../src/system/digest.ts";
import { type SealedProgress, verifySealed } from "../../src/verify/sealed.ts";
import { failure } from "../contract/object-store.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { noMessages, snapshotOf } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

const trustedFile = join(scratch, "trusted.pub");
const key = newKey("signing.key");
const second = newKey("second.key");
const stranger = newKey("stranger.key");
writeFileSync(trustedFile, key.publicPem + second.publicPem);
const trusted = loadTrustedKeys(trustedFile);

let root: string;
let store: FaultyStore;
let repository: Repository;
let made = 0;

beforeEach(async () => {
  root = join(scratch, `repository${++made}`);
  store = new FaultyStore(new DirectoryStore(root));
  await Repository.create(store);
  repository = await Repository.open(store, undefined, { cacheDirectory: join(scratch, `cache${made}`) });
});

function newKey(name: string): SigningKey {
  writeFileSync(join(scratch, name), createSigningKey().privatePem, { mode: 0o600 });
  return loadSigningKey(join(scratch, name));
}

const shared = Buffer.from("a pack all snapshots share");

/** One snapshot after the other, each with a part of its own, a pack of its own and the shared one. */
async function snapshots(count: number, signer = key, over: Partial<Snapshot> = {}): Promise<string[]> {
  const ids: string[] = [];
  const base = await putPart(`base of ${signer.writer}`);
  for (let number = 1; number <= count; number++) {
    const packs = [await putPack(shared), await putPack(Buffer.from(`pack ${number} of ${signer.writer}`))];
    const increment = await putPart(`part ${number} of ${signer.writer}`);
    const { id } = await repository.commit(
      snapshotOf(signer, {
        repository: repository.id,
        number,
        previous: ids.at(-1) ?? null,
        messages: { ...noMessages, total: 10, deferred: 10 },
        parts: [
          { ...base, kind: "base" },
          { ...increment, kind: "increment" },
        ],
        packs,
        ...over,
      }),
      signer,
    );
    ids.push(id);
  }
  return ids;
}

async function putPack(bytes: Buffer) {
  const id = digestOf(bytes).digest;
  await repository.putPack(id, bytes);
  return { id, bytes: bytes.length };
}

async function putPart(text: string) {
  const id = digestOf(Buffer.from(text)).digest;
  await repository.putPart(id, Buffer.from(text));
  return { id, bytes: text.length };
}

async function verify(which: readonly string[] | "all" = "all", seen: Seen = new Map()) {
  const refs = (await repository.snapshotRefs()).filter(({ id }) => which === "all" || which.includes(id));
  const progress: SealedProgress[] = [];
  const report = await verifySealed({ repository, refs, trusted, seen, report: (event) => progress.push(event) });
  return { ...report, progress };
}

const file = (objectKey: string) => join(root, objectKey);
const packOf = (number: number) => digestOf(Buffer.from(`pack ${number} of ${key.writer}`)).digest;
const partOf = (number: number) => digestOf(Buffer.from(`part ${number} of ${key.writer}`)).digest;
const recordOf = async (id: string) => file((await repository.snapshotRefs()).find((ref) => ref.id === id)?.key ?? "");

describe("a sealed verify", () => {
  test("of a whole repository finds nothing", async () => {
    await snapshots(3);
    await snapshots(2, second, { host: "mx2" });
    const report = await verify();
    expect(report).toMatchObject({ level: "sealed", snapshots: 5, packs: 6, messages: 50, damaged: [] });
    expect(report.seen.get(key.writer)?.number).toBe(3);
    expect(report.seen.get(second.writer)?.number).toBe(2);
  });

  test("of an empty one finds nothing either", async () => {
    expect(await verify()).toMatchObject({ snapshots: 0, packs: 0, messages: 0, damaged: [] });
  });

  test("reads what snapshots share once, and records from the store", async () => {
    const ids = await snapshots(3);
    store.calls.length = 0;
    await verify();
    const opened = store.calls.filter(({ name }) => name === "open").map((call) => call.key);
    expect(opened).toHaveLength(new Set(opened).size);
    expect(opened.filter((each) => each.startsWith("packs/"))).toHaveLength(4);
    expect(opened.filter((each) => each.startsWith("parts/"))).toHaveLength(4);
    const records = store.calls.filter(({ name, key }) => name === "get" && key.startsWith("snapshots/"));
    expect(records).toHaveLength(ids.length);
  });

  test("tells how far it is, up to the end", async () => {
    await snapshots(2);
    const { progress } = await verify();
    expect(progress[0]).toMatchObject({ objects: 0, objectsTotal: 6, bytes: 0 });
    expect(progress.at(-1)?.objects).toBe(6);
    expect(progress.at(-1)?.bytes).toBe(progress[0]?.bytesTotal);
  });

  test("of one snapshot reads only what it names", async () => {
    const [first = ""] = await snapshots(3);
    rmSync(file(packKey(packOf(2))));
    expect(await verify([first])).toMatchObject({ snapshots: 1, packs: 2, messages: 10, damaged: [] });
  });

  test("finds a missing pack and a missing part", async () => {
    const [, id] = await snapshots(3);
    rmSync(file(packKey(packOf(2))));
    rmSync(file(partKey(partOf(2))));
    expect((await verify()).damaged).toEqual([
      { snapshot: id, object: partKey(partOf(2)), message: null, problem: "is missing" },
      { snapshot: id, object: packKey(packOf(2)), message: null, problem: "is missing" },
    ]);
  });

  test.each([
    ["one byte flipped", (path: string) => writeFileSync(path, flipped(readFileSync(path)))],
    ["cut short", (path: string) => truncateSync(path, 5)],
    ["emptied", (path: string) => truncateSync(path, 0)],
    ["swapped with another", (path: string) => writeFileSync(path, readFileSync(file(packKey(packOf(1)))))],
  ])("finds a pack %s, for every snapshot that needs it", async (_, damage) => {
    const ids = await snapshots(2);
    const pack = packKey(digestOf(shared).digest);
    damage(file(pack));
    const { damaged, packs } = await verify();
    expect(packs).toBe(3);
    expect(damaged.map(({ snapshot, object }) => ({ snapshot, object }))).toEqual(
      ids.map((snapshot) => ({ snapshot, object: pack })),
    );
    expect(damaged[0]?.problem).toMatch(/does not match its digest/);
  });

  test("finds a record that says another size than the object has", async () => {
    const pack = await putPack(shared);
    await snapshots(1, key, { packs: [{ ...pack, bytes: pack.bytes + 1 }] });
    expect((await verify()).damaged).toMatchObject([
      { object: packKey(pack.id), problem: `has ${pack.bytes} bytes, the record says ${pack.bytes + 1}` },
    ]);
  });

  test("finds a record of a stranger, and reads nothing it names", async () => {
    const ids = await snapshots(1, stranger);
    store.calls.length = 0;
    const { damaged, packs, messages, seen } = await verify();
    expect(damaged).toHaveLength(1);
    expect(damaged[0]).toMatchObject({ snapshot: ids[0], message: null });
    expect(damaged[0]?.object).toMatch(/^snapshots\//);
    expect(damaged[0]?.problem).toContain(`signed by a key this host does not trust (${stranger.writer}`);
    expect({ packs, messages }).toEqual({ packs: 0, messages: 0 });
    expect(store.calls.some(({ name }) => name === "open")).toBe(false);
    expect(seen.has(stranger.writer)).toBe(false);
  });

  test("finds a record whose signature another key made", async () => {
    const [id = ""] = await snapshots(1);
    const path = await recordOf(id);
    const [line, signature = ""] = readFileSync(path, "utf8").split("\n");
    const forged = { ...JSON.parse(signature), signature: stranger.sign(Buffer.from(`${line}\n`)) };
    writeFileSync(path, `${line}\n${JSON.stringify(forged)}\n`);
    rmSync(join(scratch, `cache${made}`), { recursive: true });
    const { damaged, seen } = await verify();
    expect(damaged).toMatchObject([{ snapshot: id, problem: expect.stringContaining("its signature is not one of") }]);
    expect(seen.has(key.writer)).toBe(false);
  });

  test("finds a damaged record though the cache has a good one, and no gap for it", async () => {
    const ids = await snapshots(3);
    const path = await recordOf(ids[1] ?? "");
    writeFileSync(path, flipped(readFileSync(path)));
    const { damaged } = await verify();
    expect(damaged).toHaveLength(1);
    expect(damaged[0]).toMatchObject({ snapshot: ids[1] });
    rmSync(join(scratch, `cache${made}`), { recursive: true });
    expect((await verify()).damaged).toHaveLength(1);
  });

  test("finds an unreadable record in the chain of the one it looks at", async () => {
    const ids = await snapshots(3);
    const path = await recordOf(ids[1] ?? "");
    writeFileSync(path, "junk");
    rmSync(join(scratch, `cache${made}`), { recursive: true });
    expect((await verify([ids[2] ?? ""])).damaged).toMatchObject([{ snapshot: ids[1] }]);
  });

  test("finds a snapshot that is missing, unless a trusted removal lists it", async () => {
    const ids = await snapshots(4);
    rmSync(await recordOf(ids[1] ?? ""));
    expect((await verify()).damaged).toEqual([
      {
        snapshot: null,
        object: null,
        message: null,
        problem: expect.stringContaining("number 2 is missing of writer"),
      },
    ]);
    expect((await verify([ids[3] ?? ""])).damaged).toHaveLength(1);
    await remove(stranger, ids[1] ?? "", 2);
    expect((await verify()).damaged).toHaveLength(1);
    await remove(key, ids[1] ?? "", 2);
    expect((await verify()).damaged).toEqual([]);
  });

  test.each(["trusted", "stranger"] as const)(
    "of a snapshot removed while it looks goes by who says so: %s",
    async (who) => {
      const ids = await snapshots(4);
      const path = await recordOf(ids[1] ?? "");
      store.faults = {
        before: async ({ name, key: asked }) => {
          if (name !== "get" || !asked.includes(ids[1] ?? "none")) return;
          store.faults = {};
          await remove(who === "trusted" ? key : stranger, ids[1] ?? "", 2);
          rmSync(path);
        },
      };
      expect((await verify()).damaged.length).toBe(who === "trusted" ? 0 : 2);
    },
  );

  test("finds a missing tail by what this host has seen", async () => {
    const ids = await snapshots(3);
    await snapshots(2, second);
    const { seen } = await verify();
    rmSync(await recordOf(ids[2] ?? ""));
    expect((await verify()).damaged).toEqual([]);
    const after = await verify("all", seen);
    expect(after.damaged).toMatchObject([{ snapshot: null, problem: expect.stringContaining("has seen number 3") }]);
    expect(after.seen.get(key.writer)?.number).toBe(3);
  });

  test("finds that a writer is gone altogether, when it looks at everything", async () => {
    await snapshots(2);
    const [other = ""] = await snapshots(1, second);
    const { seen } = await verify();
    for (const ref of await repository.snapshotRefs()) if (ref.writer === key.writer) rmSync(file(ref.key));
    expect((await verify("all", seen)).damaged).toMatchObject([{ problem: expect.stringContaining(key.writer) }]);
    rmSync(await recordOf(other));
    expect((await verify("all", seen)).damaged).toHaveLength(2);
  });

  test("of one snapshot does not complain of other writers' chains", async () => {
    const ids = await snapshots(3);
    const [other = ""] = await snapshots(1, second);
    rmSync(await recordOf(ids[0] ?? ""));
    expect((await verify([other])).damaged).toEqual([]);
    expect((await verify([ids[2] ?? ""])).damaged).toHaveLength(1);
  });

  test("finds a replayed record under a number of its own, and a fork", async () => {
    const ids = await snapshots(2);
    const replayed = { writer: key.writer, number: 3, id: ids[0] ?? "" };
    writeFileSync(file(snapshotKey(replayed)), readFileSync(await recordOf(ids[0] ?? "")));
    const { damaged } = await verify();
    expect(damaged).toHaveLength(1);
    expect(damaged[0]?.problem).toContain("another writer or number than its name");
    rmSync(file(snapshotKey(replayed)));
    const twin = formatRecord(
      snapshotOf(key, { repository: repository.id, number: 2, previous: ids[0] ?? null, host: "clone" }),
      key,
    );
    writeFileSync(file(snapshotKey({ writer: key.writer, number: 2, id: twin.id })), twin.bytes);
    expect((await verify()).damaged).toMatchObject([{ problem: expect.stringContaining("number 2 is there 2 times") }]);
  });

  test("ends with the store's error when the store fails: that is no finding", async () => {
    await snapshots(1);
    const { OperatorError } = await import("../../src/errors.ts");
    store.faults = {
      before: ({ name }) => {
        if (name === "open") throw new OperatorError("store-failed", "no answer");
      },
    };
    expect(await failure(verify())).toMatchObject({ kind: "store-failed" });
  });

  test("ends when it is told to", async () => {
    await snapshots(2);
    const reason = new Error("stopped by a test");
    const refs = await repository.snapshotRefs();
    const request = { repository, refs, trusted, seen: new Map(), report: () => {} };
    await expect(verifySealed({ ...request, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

function flipped(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy[3] = (copy[3] ?? 0) ^ 1;
  return copy;
}

async function remove(signer: SigningKey, id: string, number: number): Promise<void> {
  const record = formatRecord(
    {
      format: 1,
      type: "removal",
      repository: repository.id,
      writer: signer.writer,
      number: 1,
      previous: null,
      time: "2026-11-24T06:00:00.000Z",
      snapshots: [{ id, writer: key.writer, number }],
      packs: [],
      parts: [],
    },
    signer,
  );
  const place = { writer: signer.writer, number: 1, id: record.id };
  await store.put(removalKey(place), record.bytes, digestOf(record.bytes).digest);
}
