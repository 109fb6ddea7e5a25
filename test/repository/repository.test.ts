import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey, loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { packKey, removalKey, snapshotKey } from "../../src/repository/layout.ts";
import { mapConcurrently, Repository } from "../../src/repository/repository.ts";
import { formatRecord, type Removal } from "../../src/snapshot/record.ts";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import { digestOf } from "../../src/system/digest.ts";
import { failure, gather } from "../contract/object-store.ts";
import { digestFrom, snapshotOf } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

let root: string;
let store: DirectoryStore;
let made = 0;
let key: SigningKey;
let stranger: SigningKey;
const trustedFile = join(scratch, "trusted.pub");

beforeAll(() => {
  key = newKey("signing.key", true);
  stranger = newKey("stranger.key", false);
});

beforeEach(() => {
  root = join(scratch, `repository${++made}`);
  store = new DirectoryStore(root);
});

function newKey(name: string, trusted: boolean): SigningKey {
  const { privatePem, publicPem } = createSigningKey();
  writeFileSync(join(scratch, name), privatePem, { mode: 0o600 });
  if (trusted) writeFileSync(trustedFile, publicPem);
  return loadSigningKey(join(scratch, name));
}

describe("a repository", () => {
  test("is made once, with its marker and its page", async () => {
    const repository = await Repository.create(store);
    expect(repository.id).toMatch(/^[0-9a-f]{32}$/);
    expect(JSON.parse(readFileSync(join(root, "spoolsafe-repository.json"), "utf8"))).toEqual({
      format: 1,
      type: "repository",
      id: repository.id,
      created: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    });
    expect((await gather(store.list(""))).map((object) => object.key)).toEqual([
      "RECOVER.txt",
      "spoolsafe-repository.json",
    ]);
    expect((await Repository.create(store)).id).toBe(repository.id);
    expect((await Repository.open(store)).id).toBe(repository.id);
  });

  test("made by many at one time is one", async () => {
    const all = await Promise.all(Array.from({ length: 6 }, () => Repository.create(new DirectoryStore(root))));
    expect(new Set(all.map((repository) => repository.id)).size).toBe(1);
  });

  test("keeps a recovery page that an older version wrote, and brings back one that is lost", async () => {
    await Repository.create(store);
    writeFileSync(join(root, "RECOVER.txt"), "an older page");
    await Repository.create(store);
    expect(readFileSync(join(root, "RECOVER.txt"), "utf8")).toBe("an older page");
    rmSync(join(root, "RECOVER.txt"));
    await Repository.create(store);
    expect(existsSync(join(root, "RECOVER.txt"))).toBe(true);
  });

  test("that is not there is told apart from a store that fails", async () => {
    const nowhere = await failure(Repository.open(store));
    expect(nowhere).toMatchObject({ kind: "no-repository", exitCode: 10 });
    await store.prepare();
    const empty = await failure(Repository.open(store));
    expect(empty).toMatchObject({ kind: "no-repository", exitCode: 10 });
    expect(empty.message).toBe(`there is no repository at ${store.url}`);
    expect(empty.hints.join()).toContain("spoolsafe init");
  });

  test("that lost its marker is not taken for none", async () => {
    const repository = await Repository.create(store);
    const { id } = await repository.commit(snapshotOf(key, { repository: repository.id }), key);
    rmSync(join(root, "spoolsafe-repository.json"));
    const error = await failure(Repository.open(store));
    expect(error.kind).toBe("damaged");
    expect(error.hints.join()).toContain(id);
    expect((await failure(Repository.create(store))).kind).toBe("damaged");
  });

  test.each([
    [
      '{"format":2,"type":"repository","id":"x","newer":true}',
      "refused",
      /has format 2, this spoolsafe knows format 1/,
    ],
    ['{"format":1,"type":"repository","id":"x"}', "damaged", /not as the format says/],
    ["", "damaged", /not as the format says/],
    ["{", "damaged", /not as the format says/],
  ])("with the marker %j is an error", async (marker, kind, message) => {
    await store.prepare();
    writeFileSync(join(root, "spoolsafe-repository.json"), marker);
    const error = await failure(Repository.open(store));
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(message);
    expect(error.hints).not.toEqual([]);
    expect((await failure(Repository.create(store))).kind).toBe(kind);
  });
});

describe("snapshots", () => {
  let repository: Repository;
  const cacheDirectory = () => join(scratch, `cache${made}`);
  beforeEach(async () => {
    await Repository.create(store);
    repository = await Repository.open(store, undefined, { cacheDirectory: cacheDirectory() });
  });

  function snapshot(over: Partial<Snapshot> = {}, signer = key): Snapshot {
    return snapshotOf(signer, { repository: repository.id, ...over });
  }

  test("are listed by writer and number, and load as committed", async () => {
    const first = await repository.commit(snapshot(), key);
    const second = await repository.commit(snapshot({ number: 2, previous: first.id, host: "mx2" }), key);
    const refs = await repository.snapshotRefs();
    expect(refs.map(({ writer, number, id }) => ({ writer, number, id }))).toEqual([
      { writer: key.writer, number: 1, id: first.id },
      { writer: key.writer, number: 2, id: second.id },
    ]);
    const loaded = await repository.loadAll(refs);
    expect(loaded.map((each) => each.snapshot)).toEqual([
      snapshot(),
      snapshot({ number: 2, previous: first.id, host: "mx2" }),
    ]);
    const [one] = loaded;
    expect(one && loadTrustedKeys(trustedFile).check(one.key, one.line, one.signature)).toBe("trusted");
    const stored = readFileSync(join(root, snapshotKey({ writer: key.writer, number: 1, id: first.id })));
    expect(stored.length).toBe(first.bytes);
  });

  test("committed again are the same snapshot; another with their number is refused", async () => {
    const first = await repository.commit(snapshot(), key);
    expect(await repository.commit(snapshot(), key)).toEqual(first);
    const error = await failure(repository.commit(snapshot({ host: "clone" }), key));
    expect(error.kind).toBe("refused");
    expect(error.message).toContain("number 1 of this signing key is taken");
    expect(await repository.snapshotRefs()).toHaveLength(1);
  });

  test("of another repository or writer are not committed", async () => {
    await expect(repository.commit(snapshot({ repository: "0".repeat(32) }), key)).rejects.toThrow(
      "another repository",
    );
    await expect(repository.commit(snapshot(), stranger)).rejects.toThrow("another repository or writer");
  });

  test("are read from the cache when they are gone from the store, and past it on demand", async () => {
    const { id } = await repository.commit(snapshot(), key);
    const [ref] = await repository.snapshotRefs();
    if (ref === undefined) throw new Error("no snapshot");
    rmSync(join(root, ref.key));
    expect((await repository.load(ref)).id).toBe(id);
    expect(await failure(repository.loadFromStore(ref))).toMatchObject({ kind: "damaged" });
    expect((await failure((await Repository.open(store)).load(ref))).message).toContain("is missing");
  });

  test("a cache that holds something else is passed over", async () => {
    const first = await repository.commit(snapshot(), key);
    const second = await repository.commit(snapshot({ number: 2, previous: first.id }), key);
    const records = join(cacheDirectory(), repository.id, "records");
    expect(readdirSync(records).sort()).toEqual([first.id, second.id].sort());
    renameSync(join(records, second.id), join(records, first.id));
    const [ref] = await repository.snapshotRefs();
    if (ref === undefined) throw new Error("no snapshot");
    expect((await repository.load(ref)).snapshot.number).toBe(1);
    writeFileSync(join(records, first.id), "junk");
    expect((await repository.load(ref)).snapshot.number).toBe(1);
    expect(readFileSync(join(records, first.id), "utf8")).toContain('"number":1');
  });

  test("leave a large cache when they are gone, so that a host which only backs up does not keep every one", async () => {
    const first = await repository.commit(snapshot(), key);
    const removed = await repository.announce({ snapshots: [], packs: [], parts: [] }, new Date(), key);
    expect(removed).toBeGreaterThan(0);
    const [removal] = await repository.removalRefs();
    const records = join(cacheDirectory(), repository.id, "records");
    for (let nth = 0; nth < 1000; nth++) writeFileSync(join(records, digestFrom(nth)), "");
    writeFileSync(join(records, ".being-written"), "");
    const second = await repository.commit(snapshot({ number: 2, previous: first.id }), key);
    expect(readdirSync(records).sort()).toEqual([".being-written", first.id, second.id, removal?.id].sort());
  });

  test("a cache that can't be written does no harm", async () => {
    writeFileSync(join(scratch, `file${made}`), "");
    const other = await Repository.open(store, undefined, { cacheDirectory: join(scratch, `file${made}`, "cache") });
    const { id } = await other.commit(snapshot(), key);
    expect((await other.loadAll(await other.snapshotRefs())).map((each) => each.id)).toEqual([id]);
  });

  test.each([
    [
      "one byte flipped",
      (bytes: Buffer) => bytes.map((byte, at) => (at === 20 ? byte ^ 1 : byte)),
      /can't be read|digest/,
    ],
    [
      "another host named",
      (bytes: Buffer) => Buffer.from(bytes.toString().replace("mx1", "mx2")),
      /does not match its digest/,
    ],
    ["cut short", (bytes: Buffer) => bytes.subarray(0, 100), /can't be read/],
  ])("with %s are damaged", async (_, damage, message) => {
    await repository.commit(snapshot(), key);
    const [ref] = await repository.snapshotRefs();
    if (ref === undefined) throw new Error("no snapshot");
    const path = join(root, ref.key);
    writeFileSync(path, damage(readFileSync(path)));
    const error = await failure(repository.loadFromStore(ref));
    expect(error.kind).toBe("damaged");
    expect(error.message).toMatch(message);
    expect(error.message).toContain(ref.key);
    expect(error.hints).not.toEqual([]);
  });

  test("that are damaged don't take the others along", async () => {
    const first = await repository.commit(snapshot(), key);
    const second = await repository.commit(snapshot({ number: 2, previous: first.id }), key);
    const refs = await repository.snapshotRefs();
    writeFileSync(join(root, refs[0]?.key ?? ""), "junk");
    const fresh = await Repository.open(store);
    expect((await failure(fresh.loadAll(refs))).kind).toBe("damaged");
    const { snapshots, damaged } = await fresh.loadReadable(refs);
    expect(snapshots.map(({ id }) => id)).toEqual([second.id]);
    expect(damaged).toMatchObject([{ ref: refs[0], error: { message: expect.stringContaining(refs[0]?.key ?? "") } }]);
    rmSync(root, { recursive: true });
    expect((await failure(fresh.loadReadable(refs))).kind).toBe("no-repository");
  });

  test("under another number or writer than their own are damaged", async () => {
    const { id } = await repository.commit(snapshot(), key);
    const [ref] = await repository.snapshotRefs();
    if (ref === undefined) throw new Error("no snapshot");
    const replayed = { writer: key.writer, number: 9, id };
    await store.put(
      snapshotKey(replayed),
      readFileSync(join(root, ref.key)),
      digestOf(readFileSync(join(root, ref.key))).digest,
    );
    for (const error of [await failure(repository.load(replayed)), await failure(repository.loadFromStore(replayed))]) {
      expect(error).toMatchObject({ kind: "damaged" });
      expect(error.message).toContain("another writer or number");
    }
  });

  test("of another repository, copied in, are damaged", async () => {
    const other = await Repository.create(new DirectoryStore(join(scratch, `other${made}`)));
    const foreign = formatRecord(snapshot({ repository: other.id }), key);
    const place = { writer: key.writer, number: 1, id: foreign.id };
    await store.put(snapshotKey(place), foreign.bytes, digestOf(foreign.bytes).digest);
    const error = await failure(repository.load(place));
    expect(error.kind).toBe("damaged");
    expect(error.message).toContain(`belongs to another repository (${other.id}, this is ${repository.id})`);
  });
});

describe("packs and parts", () => {
  let repository: Repository;
  const sealed = Buffer.from("sealed bytes");
  const id = digestOf(sealed).digest;
  beforeEach(async () => {
    repository = await Repository.create(store);
  });

  test("are put and read by their digest", async () => {
    const file = join(scratch, "sealed");
    writeFileSync(file, "a large pack");
    const large = digestOf(Buffer.from("a large pack")).digest;
    await repository.putPack(id, sealed);
    await repository.putPack(large, { file, bytes: 12 });
    await repository.putPart(id, sealed);
    expect(await repository.packs()).toEqual(
      new Map(
        [
          [id, 12],
          [large, 12],
        ].sort() as [string, number][],
      ),
    );
    expect([...(await repository.parts()).keys()]).toEqual([id]);
    expect((await repository.object("pack", id)).equals(sealed)).toBe(true);
    expect(Buffer.concat(await gather(repository.openObject("pack", large))).toString()).toBe("a large pack");
  });

  test("missing, swapped or damaged are told so", async () => {
    expect((await failure(repository.object("pack", id))).message).toBe(`${packKey(id)} is missing`);
    await repository.putPack(id, sealed);
    writeFileSync(join(root, packKey(id)), "Sealed bytes");
    for (const error of [
      await failure(repository.object("pack", id)),
      await failure(gather(repository.openObject("pack", id))),
    ]) {
      expect(error).toMatchObject({ kind: "damaged", message: `${packKey(id)} does not match its digest` });
    }
  });

  test("are condemned by a removal of a trusted key and of nobody else", async () => {
    const removal = (signer: SigningKey, packs: string[]): Removal => ({
      format: 1,
      type: "removal",
      repository: repository.id,
      writer: signer.writer,
      number: 1,
      previous: null,
      time: "2026-11-24T06:00:00.000Z",
      snapshots: [],
      packs,
      parts: [digestFrom(`part of ${signer.writer}`)],
    });
    for (const signer of [key, stranger]) {
      const record = formatRecord(removal(signer, [digestFrom(signer.writer)]), signer);
      const place = { writer: signer.writer, number: 1, id: record.id };
      await store.put(removalKey(place), record.bytes, digestOf(record.bytes).digest);
    }
    expect(await repository.condemned(loadTrustedKeys(trustedFile))).toEqual(
      new Set([digestFrom(key.writer), digestFrom(`part of ${key.writer}`)]),
    );
  });
});

describe("several at a time", () => {
  test("end with the first failure: nothing more is begun, and what was begun has ended", async () => {
    const begun: number[] = [];
    let atWork = 0;
    const work = mapConcurrently([0, 1, 2, 3, 4, 5, 6, 7], 3, async (item) => {
      begun.push(item);
      atWork++;
      await new Promise((resolve) => setTimeout(resolve, item === 1 ? 5 : 30));
      atWork--;
      if (item === 1) throw new Error("the first");
      if (item === 2) throw new Error("the second");
    });
    await expect(work).rejects.toThrow("the first");
    expect({ begun, atWork }).toEqual({ begun: [0, 1, 2], atWork: 0 });
  });

  test("give results in the order of the items", async () => {
    const later = async (item: number) => {
      await new Promise((resolve) => setTimeout(resolve, 10 - item));
      return item * 2;
    };
    expect(await mapConcurrently([1, 2, 3, 4], 2, later)).toEqual([2, 4, 6, 8]);
    expect(await mapConcurrently([], 2, later)).toEqual([]);
  });
});
