import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { keepReport } from "../../src/drill/keep.ts";
import { storedReports } from "../../src/drill/reports.ts";
import { type PruneReport, type PruneRequest, prune } from "../../src/prune/prune.ts";
import { checkChains } from "../../src/repository/chain.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { objectKey, removalKey, snapshotKey } from "../../src/repository/layout.ts";
import { ObjectRetained } from "../../src/repository/object-store.ts";
import { Repository } from "../../src/repository/repository.ts";
import { digestOf } from "../../src/system/digest.ts";
import { tryLock } from "../../src/system/lock.ts";
import { verifySealed } from "../../src/verify/sealed.ts";
import { factsOf } from "../support/drills.ts";
import { HandMade, type HandMadeMessage, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { DatedStore } from "./dated-store.ts";

const day = 24 * 3_600_000;
const all = [...queueFiles.values()].map((bytes): HandMadeMessage => ({ bytes }));
const opened: Place[] = [];

afterEach(async () => {
  for (const place of opened.splice(0)) await place.made[Symbol.asyncDispose]();
});

/** A repository with a clock of its own, in which snapshots are taken a day apart and each replaces the message before. */
class Place {
  readonly made: HandMade;
  readonly store: DatedStore;
  readonly repository: Repository;
  readonly ids: string[] = [];

  private constructor(made: HandMade, store: DatedStore, repository: Repository) {
    this.made = made;
    this.store = store;
    this.repository = repository;
  }

  static async make(days: number): Promise<Place> {
    const made = await HandMade.make();
    const store = new DatedStore(new DirectoryStore(join(made.directory, "repository")));
    const place = new Place(made, store, await Repository.open(store));
    opened.push(place);
    for (let taken = 0; taken < days; taken++) await place.take(taken);
    return place;
  }

  /** A snapshot of the nth message alone; its pack is its own. */
  async take(nth: number, over: { time?: string; host?: string } = {}): Promise<string> {
    const time = new Date(this.store.now).toISOString();
    const { signed } = await this.made.take({
      messages: all.slice(nth, nth + 1),
      over: { time, finished: time, ...over },
    });
    const { parts, packs, writer, number } = signed.snapshot;
    // Dated as of now; the hand that makes them writes past the clock of the test.
    const keys = [...packs.map(({ id }) => objectKey("pack", id)), ...parts.map(({ id }) => objectKey("part", id))];
    for (const key of [...keys, snapshotKey({ writer, number, id: signed.id })]) await this.redate(key);
    this.ids.push(signed.id);
    this.store.pass(24);
    return signed.id;
  }

  async redate(key: string): Promise<void> {
    const bytes = await this.store.get(key);
    await this.store.put(key, bytes, digestOf(bytes).digest);
  }

  request(over: Partial<PruneRequest> = {}): PruneRequest {
    return {
      repository: this.repository,
      signingKey: this.made.key,
      trusted: this.made.trusted,
      policy: { last: 2, hourly: 0, daily: 0, weekly: 0, monthly: 0 },
      timeZone: "UTC",
      proved: null,
      onlyHost: null,
      stateDirectory: join(this.made.directory, "state"),
      clock: this.store.clock,
      signal: new AbortController().signal,
      report: () => {},
      ...over,
    };
  }

  prune(over: Partial<PruneRequest> = {}): Promise<PruneReport> {
    return prune(this.request(over));
  }

  async snapshots(): Promise<string[]> {
    return (await this.repository.snapshotRefs()).map(({ id }) => id);
  }

  /** How many packs and parts are there. */
  async objects(): Promise<number[]> {
    return [(await this.repository.packs()).size, (await this.repository.parts()).size];
  }

  async damage(trusted = this.made.trusted): Promise<string[]> {
    const { repository } = this;
    const refs = await repository.snapshotRefs();
    const report = await verifySealed({ repository, refs, trusted, seen: new Map(), report: () => {} });
    return report.damaged.map(({ problem }) => problem);
  }
}

describe("prune", () => {
  test("removes records first, condemns their packs, and removes those when their grace is over", async () => {
    const place = await Place.make(6);
    place.store.pass(48);
    const first = await place.prune();
    expect(first.removed).toEqual({ snapshots: 4, packs: 0, parts: 0, bytes: 0 });
    expect(await place.snapshots()).toEqual(place.ids.slice(4));
    expect(await place.objects()).toEqual([6, 6]);
    expect(first.plan.condemn.map(({ kind }) => kind)).toEqual(["pack", "pack", "pack", "pack"]);
    expect((await place.repository.condemned(place.made.trusted)).size).toBe(4);

    place.store.pass(47);
    const second = await place.prune();
    expect([second.removed.packs, second.plan.waiting.length]).toEqual([0, 4]);
    expect(await place.repository.removalRefs()).toHaveLength(1);

    place.store.pass(1);
    const third = await place.prune();
    expect(third.removed).toMatchObject({ snapshots: 0, packs: 4, parts: 0 });
    expect(third.removed.bytes).toBeGreaterThan(0);
    // The manifests of the rest still follow from every part.
    expect(await place.objects()).toEqual([2, 6]);
    expect(await place.damage()).toEqual([]);
    expect((await place.prune()).removed).toEqual({ snapshots: 0, packs: 0, parts: 0, bytes: 0 });
    expect(await place.repository.removalRefs()).toHaveLength(2);
  });

  test("leaves a chain that is whole for those who trust its key, and has gaps for those who don't", async () => {
    const place = await Place.make(6);
    place.store.pass(48);
    const pruner = otherKey(place, "pruner");
    await place.prune({ signingKey: pruner.key, trusted: pruner.both });
    expect(await place.damage(pruner.both)).toEqual([]);
    const gap = /^numbers 1 to 4 are missing of writer .*, and no trusted removal lists them$/;
    expect(await place.damage()).toEqual([expect.stringMatching(gap)]);

    const loaded = await place.repository.loadAll(await place.repository.snapshotRefs());
    const links = loaded.map(({ id, snapshot }) => ({ ...snapshot, id }));
    const seen = new Map([[place.made.key.writer, { number: 3, id: place.ids[2] ?? "" }]]);
    const removed = (await place.repository.trustedRemovals(pruner.both)).flatMap(({ removal }) => removal.snapshots);
    expect(checkChains(links, removed, seen)).toEqual([]);
    expect(checkChains(links, removed.slice(1), seen).map(({ kind }) => kind)).toEqual(["gap"]);
  });

  test("takes packs of interrupted runs for litter only after the longest run", async () => {
    const place = await Place.make(1);
    const put = async (text: string) => {
      const bytes = Buffer.from(text);
      await place.repository.putPack(digestOf(bytes).digest, bytes);
    };
    await put("a run that died");
    place.store.pass(47);
    expect((await place.prune()).plan).toMatchObject({ young: [{ kind: "pack" }], condemn: [] });
    place.store.pass(1);
    expect((await place.prune()).plan.condemn).toHaveLength(1);
    await put("a run under way");
    place.store.pass(48);
    expect((await place.prune()).removed.packs).toBe(1);
    expect(await place.objects()).toEqual([2, 1]);
  });

  test("leaves reports of drills, however old", async () => {
    const place = await Place.make(4);
    const [{ repository }, { key, trusted }] = [place, place.made];
    const host = { stateDirectory: join(place.made.directory, "drilling"), signal: new AbortController().signal };
    await keepReport(factsOf(), { repository, key, trusted, ...host });
    place.store.pass(400 * 24);
    expect((await place.prune()).removed.snapshots).toBe(2);
    place.store.pass(400 * 24);
    await place.prune();
    expect((await storedReports(repository, trusted)).reports).toHaveLength(1);
  });

  test("keeps a condemned pack a backup has built upon all the same", async () => {
    const place = await Place.make(3);
    place.store.pass(48);
    const policy = { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0 };
    const [first] = await place.repository.loadAll(await place.repository.snapshotRefs());
    const pack = first?.snapshot.packs[0]?.id ?? "";
    await place.prune({ policy });
    expect((await place.repository.condemned(place.made.trusted)).has(pack)).toBe(true);
    // It had looked before the pack was condemned, and commits after.
    await place.take(0);
    place.store.pass(72);
    const report = await place.prune({ policy });
    expect(report.removed).toMatchObject({ snapshots: 1, packs: 1 });
    expect((await place.repository.packs()).has(pack)).toBe(true);
    expect(await place.snapshots()).toEqual([place.ids[3]]);
    expect(await place.damage()).toEqual([]);
  });

  test("goes by the store's clock where the one here is ahead", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    await place.prune();
    const ahead = { ...place.store.clock, now: () => place.store.now + 30 * day };
    const report = await place.prune({ clock: ahead });
    expect(report.removed).toMatchObject({ packs: 0 });
    expect(report.problems).toEqual([expect.stringContaining("ahead of the store's: set it right")]);
    expect(await place.objects()).toEqual([4, 4]);
    await place.repository.putPack(digestOf(Buffer.from("under way")).digest, Buffer.from("under way"));
    expect(await place.prune({ clock: ahead })).toMatchObject({
      removed: { packs: 0 },
      problems: [expect.any(String)],
    });
    expect((await place.prune()).problems).toEqual([]);
  });

  test("says so where the clock here is behind the store's, and all there is seems young", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    const behind = { ...place.store.clock, now: () => place.store.now - 400 * day };
    expect(await place.prune({ clock: behind })).toMatchObject({
      removed: { snapshots: 0, packs: 0 },
      problems: [expect.stringContaining("behind the store's: set it right")],
    });
    expect(await place.snapshots()).toEqual(place.ids);
    expect((await place.prune()).problems).toEqual([]);
  });

  test("touches no pack while a record can't be read, and says which", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    await place.prune();
    place.store.pass(48);
    const [ref] = await place.repository.snapshotRefs();
    writeFileSync(place.made.path(ref?.key ?? ""), "not a record\n");
    const report = await place.prune();
    expect(report.problems[0]).toContain(ref?.key);
    expect(await place.objects()).toEqual([4, 4]);
  });

  test("leaves what strangers have signed, with all it refers to", async () => {
    const place = await Place.make(4);
    const pruner = otherKey(place, "pruner");
    place.store.pass(48);
    await place.prune({ signingKey: pruner.key, trusted: pruner.alone });
    place.store.pass(48);
    const report = await place.prune({ signingKey: pruner.key, trusted: pruner.alone });
    expect(report.plan.snapshots.map(({ kept }) => kept)).toEqual(Array(4).fill([{ kind: "untrusted" }]));
    expect(await place.objects()).toEqual([4, 4]);
  });

  test("lists what the store keeps locked, goes on with the rest, and removes it when the lock is over", async () => {
    const place = await Place.make(5);
    place.store.pass(48);
    let locked = true;
    place.store.faults = {
      before: ({ name, key }) => {
        if (!locked || name !== "remove") return;
        if (key.includes(`-${place.ids[1]}`)) throw new ObjectRetained(key, null);
      },
    };
    const first = await place.prune();
    expect(first).toMatchObject({ removed: { snapshots: 2 }, problems: [] });
    expect(first.retained).toEqual([{ key: expect.stringContaining(place.ids[1] ?? "none"), until: null }]);
    expect(await place.damage()).toEqual([]);
    place.store.pass(48);
    const [one] = (await place.repository.loadAll(await place.repository.snapshotRefs())).filter(
      ({ id }) => id === place.ids[1],
    );
    const second = await place.prune();
    expect(second.removed).toMatchObject({ snapshots: 0, packs: 2 });
    expect((await place.repository.packs()).has(one?.snapshot.packs[0]?.id ?? "")).toBe(true);
    expect(await place.damage()).toEqual([]);
    locked = false;
    place.store.pass(48);
    expect((await place.prune()).removed).toMatchObject({ snapshots: 1, packs: 1 });
    expect(await place.snapshots()).toEqual(place.ids.slice(3));
    expect(await place.objects()).toEqual([2, 5]);
  });

  test("fails where it may not remove, and leaves everything whole", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    place.store.faults = {
      before: ({ name }) => {
        if (name === "remove") throw new Error("AccessDenied");
      },
    };
    await expect(place.prune()).rejects.toThrow("AccessDenied");
    expect(await place.snapshots()).toEqual(place.ids);
    expect(await place.damage()).toEqual([]);
  });

  test("tells the way out when a removal record can't be read", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    await place.prune();
    const [ref] = await place.repository.removalRefs();
    writeFileSync(place.made.path(ref?.key ?? ""), "not a record\n");
    const error = await errorOf(() => place.prune());
    expect(error).toMatchObject({
      kind: "damaged",
      message: expect.stringContaining(removalKey(ref ?? { writer: "", number: 0, id: "" })),
    });
    expect(error).toMatchObject({
      hints: [expect.any(String), expect.stringContaining("records"), expect.stringContaining("move the object out")],
    });
    expect(await place.objects()).toEqual([4, 4]);
  });

  test("is one at a time on a host, and needs its own key to be trusted", async () => {
    const place = await Place.make(1);
    await place.prune();
    await using lock = await held(join(place.made.directory, "state/repositories", place.repository.id));
    expect(lock).toBeDefined();
    expect(await errorOf(() => place.prune())).toMatchObject({ kind: "locked" });
    const pruner = otherKey(place, "pruner");
    expect(await errorOf(() => place.prune({ signingKey: pruner.key }))).toMatchObject({ kind: "config" });
  });

  test("overlooks no record that is removed elsewhere between listing and reading", async () => {
    const place = await Place.make(4);
    place.store.pass(48);
    let removed = false;
    place.store.faults = {
      before: async ({ name, key }) => {
        if (removed || name !== "get" || !key.includes(place.ids[0] ?? "none")) return;
        removed = true;
        await place.store.remove(key);
      },
    };
    const report = await place.prune();
    expect(report).toMatchObject({ problems: [], removed: { snapshots: 1 } });
    expect(removed).toBe(true);
  });
});

async function held(directory: string) {
  const lock = await tryLock(directory);
  return { [Symbol.asyncDispose]: async () => await lock?.release() };
}

function otherKey(place: Place, name: string) {
  const path = (end: string) => join(place.made.directory, `${name}${end}`);
  const { privatePem, publicPem } = createSigningKey();
  writeFileSync(path(".key"), privatePem, { mode: 0o600 });
  writeFileSync(path(".pub"), publicPem);
  writeFileSync(path("-both.pub"), `${publicPem}${place.made.key.publicPem}`);
  return {
    key: loadSigningKey(path(".key")),
    alone: loadTrustedKeys(path(".pub")),
    both: loadTrustedKeys(path("-both.pub")),
  };
}
