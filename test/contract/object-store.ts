import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import type { ObjectStore, StoredObject } from "../../src/repository/object-store.ts";
import { digestOf } from "../../src/system/digest.ts";

/** A kind of store under test: real ones, each in a place of its own. */
export interface StoreUnderTest {
  /** Another handle on the same empty place each time within one `place`. */
  open(place: string): ObjectStore | Promise<ObjectStore>;
  /** A store whose directory or bucket does not exist. */
  missing(): ObjectStore | Promise<ObjectStore>;
  /** More objects than it lists in one answer. */
  readonly manyObjects: number;
  /** False for a store that has no way to keep two writers of one key apart. */
  readonly exclusive: boolean;
}

/** The promises of the port (src/repository/object-store.ts), for every adapter alike. */
export function describeObjectStore(name: string, make: () => StoreUnderTest): void {
  describe(`${name} keeps the promises of an object store`, () => {
    const scratch = mkdtempSync(join(tmpdir(), "spoolsafe-contract-"));
    let under: StoreUnderTest;
    beforeAll(() => {
      under = make();
    });
    const opened: ObjectStore[] = [];
    afterAll(async () => {
      for (const store of opened) await store.close();
      rmSync(scratch, { recursive: true, force: true });
    });
    const openStore = async (place = randomBytes(6).toString("hex")) => {
      const store = await under.open(place);
      opened.push(store);
      return store;
    };

    test.each([0, 1, 4096, 1024 * 1024 + 1, 9 * 1024 * 1024, 17 * 1024 * 1024 + 5])(
      "%d bytes come back as they went",
      async (bytes) => {
        const store = await openStore();
        const body = randomBytes(bytes);
        await store.put("packs/ab/one", body, sha256(body));
        expect((await store.get("packs/ab/one")).equals(body)).toBe(true);
        expect((await collect(store.open("packs/ab/one"))).equals(body)).toBe(true);
        const [found, ...others] = await gather(store.list(""));
        expect(others).toEqual([]);
        expect(found).toMatchObject({ key: "packs/ab/one", bytes });
        expect(Math.abs(Date.now() - (found?.modified ?? 0))).toBeLessThan(60_000);
      },
    );

    test.each([0, 5, 40 * 1024 * 1024 + 7])("a file of %d bytes comes back as it went", async (bytes) => {
      const store = await openStore();
      const body = randomBytes(bytes);
      const file = join(scratch, `body-${bytes}`);
      writeFileSync(file, body);
      await store.put("packs/ab/file", { file, bytes }, sha256(body));
      expect(sha256(await collect(store.open("packs/ab/file")))).toBe(sha256(body));
    });

    test("what one handle stored another reads", async () => {
      const store = await openStore("shared-place");
      await store.put("RECOVER.txt", Buffer.from("page"), sha256(Buffer.from("page")));
      const other = await openStore("shared-place");
      expect((await other.get("RECOVER.txt")).toString()).toBe("page");
    });

    test.each([100, 17 * 1024 * 1024])("an object of %d bytes is never replaced", async (bytes) => {
      const store = await openStore();
      const first = randomBytes(bytes);
      const second = randomBytes(bytes);
      await store.put("snapshots/w/1", first, sha256(first));
      await store.put("snapshots/w/1", first, sha256(first));
      const error = await failure(store.put("snapshots/w/1", second, sha256(second)));
      expect(error).toMatchObject({ kind: "store-failed" });
      expect(error.message).toContain("with other bytes");
      expect(error.hints).not.toEqual([]);
      const shorter = first.subarray(0, bytes - 1);
      await failure(store.put("snapshots/w/1", shorter, sha256(shorter)));
      expect((await store.get("snapshots/w/1")).equals(first)).toBe(true);
    });

    test.each([100, 17 * 1024 * 1024])("%d bytes other than the digest says are not stored", async (bytes) => {
      const store = await openStore();
      const body = randomBytes(bytes);
      const error = await failure(store.put("packs/ab/bad", body, sha256(Buffer.from("something else"))));
      expect(error.kind).toBe("store-failed");
      expect(await keys(store, "")).toEqual([]);
      expect((await failure(store.get("packs/ab/bad"))).kind).toBe("damaged");
    });

    test("of many writers of one key with different bytes one wins, and its bytes stay", async () => {
      if (!under.exclusive) return;
      const place = randomBytes(6).toString("hex");
      const bodies = Array.from({ length: 8 }, () => randomBytes(20_000));
      const results = await Promise.allSettled(
        bodies.map(async (body) => (await openStore(place)).put("spoolsafe-repository.json", body, sha256(body))),
      );
      const winners = bodies.filter((_, index) => results[index]?.status === "fulfilled");
      expect(winners).toHaveLength(1);
      const stored = await (await openStore(place)).get("spoolsafe-repository.json");
      expect(winners[0]?.equals(stored)).toBe(true);
    });

    test("many writers of one key with the same bytes all succeed", async () => {
      const place = randomBytes(6).toString("hex");
      const body = randomBytes(20_000);
      await Promise.all(
        Array.from({ length: 8 }, async () => (await openStore(place)).put("packs/ab/same", body, sha256(body))),
      );
      expect(await keys(await openStore(place), "")).toEqual(["packs/ab/same"]);
    });

    test("no reader sees an object before it is whole", async () => {
      const place = randomBytes(6).toString("hex");
      const store = await openStore(place);
      const other = await openStore(place);
      const body = randomBytes(30 * 1024 * 1024);
      let done = false;
      const putting = store.put("packs/ab/large", body, sha256(body)).finally(() => {
        done = true;
      });
      while (!done) {
        for await (const found of other.list("")) {
          expect(found).toMatchObject({ key: "packs/ab/large", bytes: body.length });
        }
      }
      await putting;
    });

    test("list goes by the bytes of the keys, below a prefix that may end anywhere", async () => {
      const store = await openStore();
      const all = ["a-b/x", "a.b/y", "a/b", "a/c/d", "a0", "aa/0", "B/z", "packs/ab/1", "packs/ac/2", "packs/b0/3"];
      for (const key of all) await store.put(key, Buffer.from(key), sha256(Buffer.from(key)));
      expect(await keys(store, "")).toEqual([...all].sort());
      expect(await keys(store, "a")).toEqual(["a-b/x", "a.b/y", "a/b", "a/c/d", "a0", "aa/0"]);
      expect(await keys(store, "a/")).toEqual(["a/b", "a/c/d"]);
      expect(await keys(store, "packs/a")).toEqual(["packs/ab/1", "packs/ac/2"]);
      expect(await keys(store, "packs/ab/1")).toEqual(["packs/ab/1"]);
      expect(await keys(store, "nothing/")).toEqual([]);
    });

    test("list yields more than one answer of a server holds, each once", async () => {
      const store = await openStore();
      const wanted = Array.from({ length: under.manyObjects }, (_, index) => `parts/${String(index % 7)}/${index}`);
      const bodies = wanted.map((key) => ({ key, body: Buffer.from(key) }));
      const queue = bodies.values();
      await Promise.all(
        Array.from({ length: 8 }, async () => {
          for (const { key, body } of queue) await store.put(key, body, sha256(body));
        }),
      );
      expect(await keys(store, "")).toEqual([...wanted].sort());
    });

    test("what is not there is missing, and removing it is a success", async () => {
      const store = await openStore();
      for (const error of [await failure(store.get("packs/ab/none")), await failure(collect(store.open("no/ne")))]) {
        expect(error.kind).toBe("damaged");
        expect(error.message).toMatch(/^(packs\/ab\/none|no\/ne) is missing$/);
      }
      await store.remove("packs/ab/none");
    });

    test("a removed object is gone", async () => {
      const store = await openStore();
      for (const key of ["packs/ab/1", "packs/ab/2"]) await store.put(key, Buffer.from(key), sha256(Buffer.from(key)));
      await store.remove("packs/ab/1");
      expect(await keys(store, "")).toEqual(["packs/ab/2"]);
      expect((await failure(store.get("packs/ab/1"))).kind).toBe("damaged");
    });

    test("without its directory or bucket every call says so", async () => {
      const store = await under.missing();
      opened.push(store);
      const body = Buffer.from("x");
      const errors = [
        await failure(store.get("RECOVER.txt")),
        await failure(collect(store.open("RECOVER.txt"))),
        await failure(store.put("packs/ab/1", body, sha256(body))),
        await failure(gather(store.list(""))),
        await failure(store.remove("RECOVER.txt")),
        await failure(store.sweep()),
      ];
      expect(errors.map((error) => error.kind)).toEqual(errors.map(() => "no-repository"));
      for (const error of errors) expect(error.hints).not.toEqual([]);
    });

    test("an aborted signal ends every call with its reason", async () => {
      const store = await openStore();
      const reason = new OperatorError("interrupted", "stopped by a test");
      const signal = AbortSignal.abort(reason);
      const body = Buffer.from("x");
      for (const call of [
        () => store.get("RECOVER.txt", signal),
        () => collect(store.open("RECOVER.txt", signal)),
        () => store.put("packs/ab/1", body, sha256(body), signal),
        () => gather(store.list("", signal)),
        () => store.remove("RECOVER.txt", signal),
        () => store.sweep(signal),
      ]) {
        expect(await failure(call())).toBe(reason);
      }
      expect(await keys(store, "")).toEqual([]);
    });

    test("a put that is aborted on the way leaves nothing to see", async () => {
      const store = await openStore();
      const body = randomBytes(60 * 1024 * 1024);
      const digest = sha256(body);
      const stop = new AbortController();
      const reason = new OperatorError("interrupted", "stopped by a test");
      setTimeout(() => stop.abort(reason), 20);
      expect(await failure(store.put("packs/ab/1", body, digest, stop.signal))).toBe(reason);
      expect(await keys(store, "")).toEqual([]);
      await store.put("packs/ab/1", body, digest);
      expect(sha256(await store.get("packs/ab/1"))).toBe(digest);
    });

    test("sweeping leaves objects and young leftovers alone", async () => {
      const store = await openStore();
      await store.put("packs/ab/1", Buffer.from("x"), sha256(Buffer.from("x")));
      expect(await store.sweep()).toBe(0);
      expect(await keys(store, "")).toEqual(["packs/ab/1"]);
    });

    test("its URL says where it is", async () => {
      expect((await openStore()).url).toMatch(/^(file|s3):\/\/./);
    });
  });
}

function sha256(bytes: Uint8Array): string {
  return digestOf(bytes).digest;
}

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await gather(stream));
}

async function keys(store: ObjectStore, prefix: string): Promise<string[]> {
  return (await gather(store.list(prefix))).map((object: StoredObject) => object.key);
}

/** All that an iterable yields. */
export async function gather<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** The OperatorError a promise rejects with; anything else fails the test. */
export async function failure(promise: Promise<unknown>): Promise<OperatorError> {
  const error = await promise.then(
    () => new Error("it did not fail"),
    (reason) => reason,
  );
  if (!(error instanceof OperatorError)) throw error;
  return error;
}
