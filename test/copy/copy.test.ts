import { randomBytes } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { keepReport } from "../../src/drill/keep.ts";
import { listClaims, writeClaimRecord, writeDigests } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { objectKey } from "../../src/repository/layout.ts";
import { Repository } from "../../src/repository/repository.ts";
import { newSigningKey } from "../support/claims.ts";
import { factsOf } from "../support/drills.ts";
import { FaultyStore, type StoreCall } from "../support/faulty-store.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { copyFrom, damageIn, objectsIn } from "./copying.ts";

let made: HandMade;
let source: string;
const messages = [...queueFiles.values()].map((bytes) => ({ bytes }));
const ids: string[] = [];
let places = 0;

beforeAll(async () => {
  made = await HandMade.make();
  source = join(made.directory, "repository");
  for (let nth = 0; nth < 3; nth++) {
    const { signed } = await made.take({ messages: messages.slice(nth, nth + 2) });
    ids.push(signed.id);
  }
  const digests = await writeDigests(made.repository, Buffer.from(`${"0".repeat(32)}\n`));
  await writeClaimRecord(made.repository, made.key, [], {
    state: "claimed",
    time: "2026-11-24T20:00:00.000Z",
    host: "mx1.test",
    snapshot: ids[2] ?? "",
    run: "20261124T200000000Z-1-abcdef",
    by: "mx2.test",
    into: "mx",
    shard: null,
    overrules: [],
    salt: Buffer.alloc(32).toString("base64"),
    digests,
  });
  const { repository, key, trusted, directory } = made;
  const state = { stateDirectory: join(directory, "state of a drilling host"), signal: new AbortController().signal };
  await keepReport(factsOf(), { repository, key, trusted, ...state });
});
afterAll(() => made?.[Symbol.asyncDispose]());

const newPlace = () => join(made.directory, `copy ${++places}`);
const names = (directory: string) => [...objectsIn(directory).keys()];

describe("a copy", () => {
  test("is made with the same objects, verifies by itself, and is complete", async () => {
    const place = newPlace();
    const report = await copyFrom(made, new DirectoryStore(place));
    expect(report).toMatchObject({ copied: { snapshots: 3 }, notes: 2, behind: 0, problems: [] });
    expect(objectsIn(place)).toEqual(objectsIn(source));
    expect(await damageIn(made, new DirectoryStore(place))).toEqual([]);
    const claims = await listClaims(await Repository.open(new DirectoryStore(place)), made.trusted);
    expect([claims.standing.length, claims.unchecked]).toEqual([1, []]);
  });

  test("sends nothing twice, and only what is new", async () => {
    const place = newPlace();
    await copyFrom(made, new DirectoryStore(place));
    const store = new FaultyStore(new DirectoryStore(place));
    const report = await copyFrom(made, store);
    expect(report).toMatchObject({ copied: { snapshots: 0, objects: 0 }, notes: 0, behind: 0 });
    expect(store.calls.filter(({ name }) => name === "put")).toEqual([]);
    expect(store.calls.filter(({ name, key }) => name === "list" && key === "")).toHaveLength(1);
  });

  test("takes along what a backup stores while it runs", async () => {
    await using busy = await HandMade.make();
    await busy.take({ messages: messages.slice(0, 1) });
    const target = new FaultyStore(new DirectoryStore(join(busy.directory, "copy")));
    let taken = false;
    target.faults = {
      before: async ({ name, key }) => {
        if (taken || name !== "put" || !key.startsWith("snapshots/")) return;
        taken = true;
        await busy.take({ messages: messages.slice(1, 2) });
      },
    };
    expect(await copyFrom(busy, target)).toMatchObject({ copied: { snapshots: 2 }, behind: 0, problems: [] });
    expect(await damageIn(busy, target)).toEqual([]);
  });

  test("mends itself where a pack is missing under a record", async () => {
    const place = newPlace();
    await copyFrom(made, new DirectoryStore(place));
    const pack = names(place).find((key) => key.startsWith("packs/")) ?? "";
    rmSync(join(place, pack));
    expect(await copyFrom(made, new DirectoryStore(place))).toMatchObject({ copied: { objects: 1 }, behind: 0 });
    expect(objectsIn(place)).toEqual(objectsIn(source));
  });

  test("of one snapshot has those before it as well, so that its chain is whole", async () => {
    const place = newPlace();
    const chosen = new Set([ids[1] ?? ""]);
    expect(await copyFrom(made, new DirectoryStore(place), { chosen })).toMatchObject({ copied: { snapshots: 2 } });
    expect(await damageIn(made, new DirectoryStore(place))).toEqual([]);
  });

  test("is refused where another repository or anything else is", async () => {
    const [other, litter] = [newPlace(), newPlace()];
    await Repository.create(new DirectoryStore(other));
    mkdirSync(litter);
    writeFileSync(join(litter, "thesis.tex"), "");
    for (const place of [other, litter]) {
      const before = names(place);
      const error = await errorOf(() => copyFrom(made, new DirectoryStore(place)));
      expect(error).toMatchObject({ kind: "refused" });
      expect(names(place)).toEqual(before);
    }
  });

  test("that was there once is not made anew where its disk is not mounted", async () => {
    const place = newPlace();
    mkdirSync(place);
    const error = await errorOf(() => copyFrom(made, new DirectoryStore(place), { mayMake: false }));
    expect(error).toMatchObject({ kind: "no-repository", hints: ["is its disk mounted?", expect.anything()] });
    expect(readdirSync(place)).toEqual([]);
  });

  test("leaves out what no trusted key has signed, and says so", async () => {
    newSigningKey(made.directory, "stranger");
    const trusted = loadTrustedKeys(join(made.directory, "stranger.pub"));
    const place = newPlace();
    const report = await copyFrom(made, new DirectoryStore(place), { trusted });
    expect(report).toMatchObject({ copied: { snapshots: 0, objects: 0 }, notes: 0, behind: 3 });
    expect(report.problems.map(({ kind }) => kind)).toEqual(["untrusted", "untrusted", "untrusted"]);
    expect(names(place)).toEqual(["RECOVER.txt", "spoolsafe-repository.json"]);
  });
});

describe("damage", () => {
  test.each(["packs/", "parts/", "snapshots/"])(
    "of %s at the source is never copied; what is whole is",
    async (prefix) => {
      const [damaged, place] = [newPlace(), newPlace()];
      cpSync(source, damaged, { recursive: true });
      // What the last snapshot needs, and no earlier one.
      const earlier = newPlace();
      await copyFrom(made, new DirectoryStore(earlier), { chosen: new Set([ids[1] ?? ""]) });
      const last = names(source).find((key) => key.startsWith(prefix) && !names(earlier).includes(key)) ?? "";
      const bytes = readFileSync(join(damaged, last));
      bytes[100] = (bytes[100] ?? 0) ^ 1;
      writeFileSync(join(damaged, last), bytes);
      const report = await copyFrom(made, new DirectoryStore(place), {
        from: new DirectoryStore(damaged),
        stateDirectory: join(made.directory, `state ${prefix.slice(0, 4)}`),
      });
      expect(report).toMatchObject({ copied: { snapshots: 2 }, behind: 1, problems: [{ kind: "damaged" }] });
      expect(report.problems[0]?.problem).toContain(last);
      expect(names(place)).not.toContain(last);
      expect(await damageIn(made, new DirectoryStore(place))).toEqual([]);
    },
  );

  test("on arrival ends the copy before any record names it", async () => {
    const place = newPlace();
    const target = new FaultyStore(new DirectoryStore(place));
    // As a store that gets other bytes than were sent.
    const put = target.put.bind(target);
    target.put = (key, body, sha256, signal) =>
      put(key, key.startsWith("packs/") ? Buffer.from("other bytes") : body, sha256, signal);
    const error = await errorOf(() => copyFrom(made, target));
    expect(error).toMatchObject({ kind: "store-failed", message: expect.stringContaining("is not what was written") });
    expect(names(place).filter((key) => /^(packs|snapshots)\//.test(key))).toEqual([]);
  });

  test("of the copy itself, as its sizes show, is told and not built upon", async () => {
    const place = newPlace();
    await copyFrom(made, new DirectoryStore(place), { chosen: new Set([ids[1] ?? ""]) });
    const part = names(place).find((key) => key.startsWith("parts/")) ?? "";
    writeFileSync(join(place, part), "short");
    const report = await copyFrom(made, new DirectoryStore(place));
    expect(report.problems).toEqual([{ kind: "damaged", problem: expect.stringMatching(/wrong size in the copy/) }]);
    expect(report.behind).toBeGreaterThan(0);
  });
});

describe("removals", () => {
  test("of the source go along, so that nothing is a gap; what a prune of the copy let go does not come again", async () => {
    const pruned = newPlace();
    cpSync(source, pruned, { recursive: true });
    const repository = await Repository.open(new DirectoryStore(pruned));
    const refs = await repository.snapshotRefs();
    const [first, second] = refs;
    if (first === undefined || second === undefined) throw new Error("no snapshots");
    const of = ({ id, writer, number }: typeof first) => ({
      snapshots: [{ id, writer, number }],
      packs: [],
      parts: [],
    });
    await repository.announce(of(first), new Date(), made.key);
    await repository.removeSnapshot(first);

    const [place, early] = [newPlace(), newPlace()];
    const from = new DirectoryStore(pruned);
    expect(await copyFrom(made, new DirectoryStore(place), { from })).toMatchObject({
      copied: { snapshots: 2 },
      behind: 0,
    });
    expect(await damageIn(made, new DirectoryStore(place))).toEqual([]);

    // A copy that had it keeps it.
    await copyFrom(made, new DirectoryStore(early));
    expect(await copyFrom(made, new DirectoryStore(early), { from })).toMatchObject({ notes: 1, behind: 0 });
    expect(await (await Repository.open(new DirectoryStore(early))).snapshotRefs()).toHaveLength(3);
    expect(await damageIn(made, new DirectoryStore(early))).toEqual([]);

    const copy = await Repository.open(new DirectoryStore(place));
    await copy.announce(of(second), new Date(), made.key);
    await copy.removeSnapshot(second);
    expect(await copyFrom(made, new DirectoryStore(place), { from })).toMatchObject({
      copied: { snapshots: 0 },
      behind: 0,
    });
    expect(await damageIn(made, new DirectoryStore(place))).toEqual([]);
  });
});

describe("a prune of the copy, on another host, while it is made", () => {
  test("takes packs that no record names for too long, and they are sent again", async () => {
    const target = new FaultyStore(new DirectoryStore(newPlace()));
    let pruned = "";
    target.faults = {
      before: async ({ name, key }) => {
        if (pruned !== "" || name !== "put" || !key.startsWith("snapshots/")) return;
        const copy = await Repository.open(new DirectoryStore(join(made.directory, `copy ${places}`)));
        [pruned = ""] = (await copy.packs()).keys();
        await copy.announce({ snapshots: [], packs: [pruned], parts: [] }, new Date(), made.key);
        await copy.removeObject("pack", pruned);
      },
    };
    expect(await copyFrom(made, target)).toMatchObject({ behind: 0, problems: [] });
    expect(names(join(made.directory, `copy ${places}`))).toContain(objectKey("pack", pruned));
    expect(await damageIn(made, target)).toEqual([]);
  });
});

describe("a large object", () => {
  test("goes through a file, and leaves none behind", async () => {
    await using large = await HandMade.make();
    await large.take({ files: [{ bytes: randomBytes(17 * 1024 * 1024), over: { path: "large", area: "include" } }] });
    const place = join(large.directory, "copy");
    expect(await copyFrom(large, new DirectoryStore(place))).toMatchObject({ copied: { snapshots: 1 }, behind: 0 });
    expect(objectsIn(place)).toEqual(objectsIn(join(large.directory, "repository")));
    const temporary = join(large.directory, "state", "repositories", large.repository.id, "copying");
    expect(readdirSync(temporary)).toEqual([]);
  });
});

describe("a copy that ends at any call of its store", () => {
  // In memory where there is such a place: what is durable when is the store's to prove.
  const scratch = makeScratch(existsSync("/dev/shm") ? { parent: "/dev/shm" } : {});
  afterAll(() => destroyScratch(scratch));

  test("shows only whole snapshots, and is finished by the next", { timeout: 120_000 }, async () => {
    const stateDirectory = join(scratch, "state");
    const counting = new FaultyStore(new DirectoryStore(join(scratch, "counted")));
    await copyFrom(made, counting, { stateDirectory });
    const { calls } = counting;
    const lastPut = calls.findLastIndex(({ name }) => name === "put") + 1;
    expect(calls.filter(({ name }) => name === "put").length).toBeGreaterThan(8);
    for (let nth = 1; nth <= calls.length; nth++) {
      for (const when of deathsAt(calls, nth, lastPut)) {
        const place = join(scratch, `${when} ${nth}`);
        const target = new FaultyStore(new DirectoryStore(place));
        const die = (call: StoreCall) => {
          if (target.calls.indexOf(call) + 1 >= nth) throw new Error("died");
        };
        target.faults = { [when]: die };
        const where = `${when} call ${nth}, ${calls[nth - 1]?.name} ${calls[nth - 1]?.key}`;
        const error = await errorOf(() => copyFrom(made, target, { stateDirectory }));
        expect(error, where).toMatchObject({ message: "died" });
        if (existsSync(place) && names(place).includes("spoolsafe-repository.json")) {
          expect(await damageIn(made, new DirectoryStore(place)), where).toEqual([]);
        }
        const next = await copyFrom(made, new DirectoryStore(place), { stateDirectory });
        expect(next, where).toMatchObject({ behind: 0, problems: [] });
        expect(objectsIn(place), where).toEqual(objectsIn(source));
        rmSync(place, { recursive: true });
      }
    }
  });
});

/** Before a put, and after the last; of other calls in a row, which leave the same, before the first. */
function deathsAt(calls: readonly StoreCall[], nth: number, lastPut: number): readonly ("before" | "after")[] {
  const isPut = (call: StoreCall | undefined) => call?.name === "put";
  if (isPut(calls[nth - 1])) return nth === lastPut ? ["before", "after"] : ["before"];
  return nth === 1 || isPut(calls[nth - 2]) ? ["before"] : [];
}

describe("the lock", () => {
  test("is the one of a prune", async () => {
    const { tryLock } = await import("../../src/system/lock.ts");
    const directory = join(made.directory, "state", "repositories", made.repository.id);
    mkdirSync(directory, { recursive: true });
    const lock = await tryLock(directory);
    const error = await errorOf(() => copyFrom(made, new DirectoryStore(newPlace()), { lockWaitMs: 10 }));
    expect(error).toMatchObject({ kind: "locked" });
    await lock?.release();
  });
});

describe("places", () => {
  test("are the same by what they are, not by what they are called", async () => {
    const { relationOf } = await import("../../src/repository/place.ts");
    const link = join(made.directory, "link");
    symlinkSync(source, link);
    const dir = (path: string) => ({ url: `file://${path}` });
    expect(relationOf(dir(source), dir(`${source}/`))).toBe("same");
    expect(relationOf(dir(source), { url: link })).toBe("same");
    expect(relationOf(dir(source), dir(`${link}/a/b`))).toBe("inside");
    expect(relationOf(dir(made.directory), dir(source))).toBe("inside");
    expect(relationOf(dir(source), dir(`${source}2`))).toBe("apart");
    expect(relationOf(dir("/nonexistent/a"), dir("/nonexistent/a"))).toBe("same");
    const s3 = (url: string, endpoint?: string) => ({ url, endpoint });
    expect(relationOf(s3("s3://b/p"), s3("s3://b/p/"))).toBe("same");
    expect(relationOf(s3("s3://b/p", "http://h:1"), s3("s3://b/p", "http://h:1/"))).toBe("same");
    expect(relationOf(s3("s3://b/p", "http://h:1"), s3("s3://b/p", "http://h:2"))).toBe("apart");
    expect(relationOf(s3("s3://b"), s3("s3://b/p"))).toBe("inside");
    expect(relationOf(s3("s3://b/p"), s3("s3://b/p2"))).toBe("apart");
    expect(relationOf(s3("s3://b/p"), dir(source))).toBe("apart");
  });
});
