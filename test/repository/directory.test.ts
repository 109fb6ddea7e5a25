import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { digestOf } from "../../src/system/digest.ts";
import { describeObjectStore, failure, gather } from "../contract/object-store.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

describeObjectStore("a directory", () => ({
  open: async (place) => {
    const store = new DirectoryStore(join(scratch, "places", place));
    await store.prepare();
    return store;
  },
  missing: () => new DirectoryStore(join(scratch, "not mounted")),
  manyObjects: 300,
  exclusive: true,
}));

describe("a directory store", () => {
  let root: string;
  let store: DirectoryStore;
  let made = 0;
  beforeAll(() => fresh());

  test("that is to lock what it stores takes no writes, and is read all the same", async () => {
    const bytes = Buffer.from("there before");
    await store.put("packs/ab/before", bytes, digestOf(bytes).digest);
    const locking = new DirectoryStore(root, { lockDays: 7 });
    const refusal = { kind: "config", message: expect.stringMatching(/keep no locks for object_lock_days/) };
    expect(await failure(locking.put("packs/ab/1", bytes, digestOf(bytes).digest))).toMatchObject(refusal);
    expect(await failure(locking.keepLocked())).toMatchObject(refusal);
    expect((await locking.get("packs/ab/before")).equals(bytes)).toBe(true);
  });

  function fresh() {
    made++;
    root = join(scratch, `a b%20${made}`);
    mkdirSync(root, { mode: 0o700 });
    store = new DirectoryStore(root);
  }

  const bytes = Buffer.from("sealed");
  const sha256 = digestOf(bytes).digest;

  test("keeps what it makes from others, whatever the umask", async () => {
    fresh();
    const before = process.umask(0);
    try {
      await store.put("packs/ab/1", bytes, sha256);
    } finally {
      process.umask(before);
    }
    expect(statSync(join(root, "packs")).mode & 0o777).toBe(0o700);
    expect(statSync(join(root, "packs/ab")).mode & 0o777).toBe(0o700);
    expect(statSync(join(root, "packs/ab/1")).mode & 0o777).toBe(0o600);
    expect(statSync(join(root, "packs/ab/1")).nlink).toBe(1);
  });

  test("makes itself with its parents, private to us", async () => {
    const path = join(scratch, "made", "by", "init");
    await new DirectoryStore(path).prepare();
    await new DirectoryStore(`${path}/`).prepare();
    expect(statSync(path).mode & 0o777).toBe(0o700);
  });

  test("says its URL with what must be encoded encoded", () => {
    expect(new DirectoryStore("/var/my backups/50%").url).toBe("file:///var/my%20backups/50%25");
  });

  test("never makes its root for a put: the disk may not be mounted", async () => {
    const path = join(scratch, "unmounted");
    const error = await failure(new DirectoryStore(path).put("packs/ab/1", bytes, sha256));
    expect(error.kind).toBe("no-repository");
    expect(error.message).toBe(`there is no directory ${path}`);
    expect(error.hints.join()).toContain("mounted");
    expect(existsSync(path)).toBe(false);
  });

  test("a file where the directory should be is said", async () => {
    const path = join(scratch, "file");
    writeFileSync(path, "");
    const error = await failure(new DirectoryStore(path).put("packs/ab/1", bytes, sha256));
    expect(error).toMatchObject({ kind: "no-repository", message: `${path} is not a directory` });
  });

  test("leaves no temporary file behind a failed put", async () => {
    fresh();
    await failure(store.put("packs/ab/1", bytes, digestOf(Buffer.from("other")).digest));
    await failure(store.put("packs/ab/2", { file: join(root, "no such file"), bytes: 6 }, sha256));
    expect(readdirSync(join(root, "packs/ab"))).toEqual([]);
  });

  test("a body file that is shorter than said is not stored", async () => {
    fresh();
    const file = join(scratch, "body");
    writeFileSync(file, bytes);
    expect((await failure(store.put("packs/ab/1", { file, bytes: 7 }, sha256))).kind).toBe("store-failed");
    expect(readdirSync(join(root, "packs/ab"))).toEqual([]);
  });

  test("sweeps old temporary files of ours, and nothing else", async () => {
    fresh();
    await store.put("packs/ab/1", bytes, sha256);
    const old = join(root, "packs/ab/.spoolsafe-0123456789ab.tmp");
    const young = join(root, "packs/.spoolsafe-0123456789ac.tmp");
    const foreign = join(root, "packs/ab/.rsync-0123456789ab.tmp");
    for (const path of [old, young, foreign]) writeFileSync(path, "");
    const threeDaysAgo = Date.now() / 1000 - 72 * 3600;
    for (const path of [old, foreign, join(root, "packs/ab/1")]) utimesSync(path, threeDaysAgo, threeDaysAgo);
    expect((await gather(store.list(""))).map(({ key }) => key)).toEqual([
      "packs/ab/.rsync-0123456789ab.tmp",
      "packs/ab/1",
    ]);
    expect(await store.sweep()).toBe(1);
    expect([old, young, foreign].map((path) => existsSync(path))).toEqual([false, true, true]);
    expect(existsSync(join(root, "packs/ab/1"))).toBe(true);
  });

  test("follows a link that is its root, and lists no others", async () => {
    fresh();
    await store.put("packs/ab/1", bytes, sha256);
    symlinkSync(root, join(root, "packs/loop"));
    const link = join(scratch, `link${made}`);
    symlinkSync(root, link);
    const linked = new DirectoryStore(link);
    expect((await gather(linked.list(""))).map(({ key }) => key)).toEqual(["packs/ab/1"]);
  });

  test("a key can't lead out of it", async () => {
    fresh();
    const error = await failure(store.put("packs/../../outside", bytes, sha256));
    expect(error.kind).toBe("damaged");
    expect(existsSync(join(root, "../outside"))).toBe(false);
  });

  test("a directory where an object should be is a damaged object", async () => {
    fresh();
    mkdirSync(join(root, "packs/ab/1"), { recursive: true });
    expect((await failure(store.get("packs/ab/1"))).kind).toBe("damaged");
  });

  test("a file system that does not answer is an error after the limit, and a signal ends the wait at once", async () => {
    fresh();
    // Opening a FIFO nobody writes to blocks in the kernel as a dead file server does.
    const { status } = await end(spawn("mkfifo", [join(root, "stuck")]));
    expect(status).toBe(0);
    const error = await failure(new DirectoryStore(root, { limitMs: 100 }).get("stuck"));
    expect(error.kind).toBe("store-failed");
    expect(error.message).toBe("could not read stuck: no answer within 0.1 s");
    expect(error.hints.join()).toContain("does not answer");
    const stop = new AbortController();
    const reason = new Error("enough");
    setTimeout(() => stop.abort(reason), 50);
    await expect(store.get("stuck", stop.signal)).rejects.toBe(reason);
    openSync(join(root, "stuck"), "r+"); // lets the two threads of the kernel go
  });

  test("two stores at one time make directories and objects without getting in each other's way", async () => {
    fresh();
    const others = Array.from({ length: 4 }, () => new DirectoryStore(root));
    await Promise.all(others.map((other, index) => other.put(`parts/aa/${index}`, bytes, sha256)));
    expect(readdirSync(join(root, "parts/aa"))).toEqual(["0", "1", "2", "3"]);
  });

  test("an object somebody cut short is not taken for stored", async () => {
    fresh();
    await store.put("packs/ab/1", bytes, sha256);
    writeFileSync(join(root, "packs/ab/1"), "sea");
    expect((await failure(store.put("packs/ab/1", bytes, sha256))).message).toContain("with other bytes");
    expect(readFileSync(join(root, "packs/ab/1"), "utf8")).toBe("sea");
  });
});

function end(child: ReturnType<typeof spawn>): Promise<{ status: number | null }> {
  return new Promise((resolve) => child.on("close", (status) => resolve({ status })));
}
