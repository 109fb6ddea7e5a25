import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { renderHtml } from "../../src/drill/html.ts";
import type { Kept } from "../../src/drill/keep.ts";
import { drawing } from "../../src/drill/report.ts";
import { keptReports, storedReports } from "../../src/drill/reports.ts";
import { lookAtDrawn, verifyReports } from "../../src/drill/verify.ts";
import { OperatorError } from "../../src/errors.ts";
import { loadSeen, saveSeen } from "../../src/repository/chain.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { drillKey } from "../../src/repository/layout.ts";
import { tryLock } from "../../src/system/lock.ts";
import { DrillHost, onDay } from "../support/drills.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch: string[] = [];
afterEach(() => {
  for (const directory of scratch.splice(0)) destroyScratch(directory);
});

/** A host whose store can be made to refuse. */
async function drillHost(): Promise<{ host: DrillHost; store: FaultyStore }> {
  const directory = makeScratch();
  scratch.push(directory);
  mkdirSync(join(directory, "behind"));
  const store = new FaultyStore(new DirectoryStore(join(directory, "behind")));
  return { host: await DrillHost.make(directory, store), store };
}

function readOnly(store: FaultyStore): void {
  store.faults = {
    before: ({ name, key }) => {
      if (name === "put" && key.startsWith("drills/")) throw new OperatorError("store-failed", "may not write");
    },
  };
}

const fileOf = ({ directory }: Pick<DrillHost, "directory">, { signed }: Kept) =>
  join(directory, "behind", drillKey({ ...signed.drill, id: signed.id }));

async function verify(host: DrillHost, only: string | null = null) {
  const { stateDirectory, repository, trusted } = host;
  const seenBefore = loadSeen(stateDirectory, repository.id, "drills");
  const stored = { ...(await storedReports(repository, trusted)), seenBefore };
  const kept = keptReports(stateDirectory, repository.id, trusted);
  return verifyReports({ stored, kept, only });
}

describe("reports of one host", () => {
  test("are numbered, chained, compared, kept here and stored", async () => {
    const { host } = await drillHost();
    const kept = await host.days(3);
    expect(kept.map(({ signed }) => signed.drill.number)).toEqual([1, 2, 3]);
    expect(kept.map(({ signed }) => signed.drill.previous)).toEqual([null, kept[0]?.signed.id, kept[1]?.signed.id]);
    expect(kept.map(({ handedIn, problem }) => ({ handedIn, problem }))).toEqual(
      Array(3).fill({ handedIn: 1, problem: null }),
    );
    const [, , third] = kept;
    if (third === undefined) throw new Error("three were kept");
    expect(third.signed.drill.before.map(({ started }) => started)).toEqual([onDay(2), onDay(1)]);
    expect(readFileSync(join(third.directory, "report.json"))).toEqual(readFileSync(fileOf(host, third)));
    expect(readFileSync(join(third.directory, "report.html"), "utf8")).toBe(renderHtml(third.signed));
    expect(await verify(host)).toMatchObject({ checked: 3, damaged: [], pending: [], notCompared: [] });
    expect(loadSeen(host.stateDirectory, host.repository.id, "drills").get(host.key.writer)?.number).toBe(3);
    expect(loadSeen(host.stateDirectory, host.repository.id).size).toBe(0);
  });

  test("made at one time get a number each", async () => {
    const { host } = await drillHost();
    const kept = await Promise.all([1, 2, 3, 4].map((day) => host.keep({ started: onDay(day) })));
    expect(kept.map(({ signed }) => signed.drill.number).sort()).toEqual([1, 2, 3, 4]);
    expect((await verify(host)).damaged).toEqual([]);
  });

  test("wait for another process that is giving a number", async () => {
    const { host } = await drillHost();
    mkdirSync(join(host.stateDirectory, "drills"));
    const lock = await tryLock(join(host.stateDirectory, "drills"));
    const keeping = host.keep();
    expect(await Promise.race([keeping, setTimeout(500, "waiting")])).toBe("waiting");
    await lock?.release();
    expect((await keeping).problem).toBeNull();
  });

  test("stay here while the repository can't be written to, and are handed in by the next, in order", async () => {
    const { host, store } = await drillHost();
    await host.days(1);
    readOnly(store);
    const second = await host.keep({ started: onDay(2) });
    const third = await host.keep({ started: onDay(3) });
    expect(second).toMatchObject({ handedIn: 0, problem: { kind: "store-failed", message: "may not write" } });
    expect(third.signed.drill).toMatchObject({ number: 3, previous: second.signed.id });
    const ids = [second, third].map(({ signed }) => signed.drill.id);
    expect(await verify(host)).toMatchObject({ damaged: [], pending: ids });

    store.faults = {};
    const fourth = await host.keep({ started: onDay(4) });
    expect(fourth).toMatchObject({ handedIn: 3, problem: null });
    expect(await verify(host)).toMatchObject({ checked: 4, damaged: [], pending: [] });
  });

  test("stay here while the repository can't even be listed", async () => {
    const { host, store } = await drillHost();
    await host.days(1);
    store.faults = {
      before: () => {
        throw new OperatorError("store-failed", "no answer");
      },
    };
    const second = await host.keep({ started: onDay(2) });
    expect(second).toMatchObject({ handedIn: 0, problem: { message: "no answer" }, signed: { drill: { number: 2 } } });
    store.faults = {};
    expect(await host.keep({ started: onDay(3) })).toMatchObject({ handedIn: 2 });
    expect((await verify(host)).damaged).toEqual([]);
  });

  test("a write that arrived and was not answered is no second report", async () => {
    const { host, store } = await drillHost();
    store.faults = {
      after: ({ name, key }) => {
        if (name === "put" && key.startsWith("drills/")) throw new OperatorError("store-failed", "no answer");
      },
    };
    expect(await host.keep({ started: onDay(1) })).toMatchObject({ handedIn: 0 });
    store.faults = {};
    expect(await host.keep({ started: onDay(2) })).toMatchObject({ handedIn: 1, signed: { drill: { number: 2 } } });
    expect(await verify(host)).toMatchObject({ checked: 2, damaged: [] });
  });

  test("go on from the repository, and from what was seen there, where the state was lost", async () => {
    const { host } = await drillHost();
    await host.days(2);
    rmSync(host.stateDirectory, { recursive: true });
    const third = await host.keep({ started: onDay(3) });
    expect(third.signed.drill).toMatchObject({ number: 3, before: [{ started: onDay(2) }, { started: onDay(1) }] });
    expect((await verify(host)).damaged).toEqual([]);
  });

  test("that another host has signed with the same key are told of, and not written over", async () => {
    const { host, store } = await drillHost();
    await host.days(1);
    readOnly(store);
    const mine = await host.keep({ started: onDay(2) });
    store.faults = {};
    const clone = join(host.directory, "state of a clone");
    await host.keep({ started: onDay(3) }, { stateDirectory: clone });
    const next = await host.keep({ started: onDay(4) });
    expect(next.problem?.message).toContain("number 2 of this signing key is in the repository already");
    expect(existsSync(fileOf(host, mine))).toBe(false);
    const { damaged } = await verify(host, mine.signed.drill.id);
    expect(damaged.map(({ problem }) => problem)).toEqual([expect.stringContaining("another report of this number")]);
  });
});

describe("verifying finds", () => {
  test("a report that was removed from the repository, wherever in the chain", async () => {
    const { host } = await drillHost();
    const kept = await host.days(3);
    for (const [at, problem] of [
      [0, "drill report number 1 is missing"],
      [1, "drill report number 2 is missing"],
      [2, "this host has seen drill report number 3"],
    ] as const) {
      const one = kept[at];
      if (one === undefined) throw new Error("three were kept");
      const bytes = readFileSync(fileOf(host, one));
      rmSync(fileOf(host, one));
      const { damaged, seen } = await verify(host);
      expect(damaged).toEqual([{ drill: null, object: null, problem: expect.stringContaining(problem) }]);
      expect(seen?.get(host.key.writer)?.number).toBe(3);
      writeFileSync(fileOf(host, one), bytes);
    }
    expect((await verify(host)).damaged).toEqual([]);
  });

  test("and the next drill puts it back from what is kept here", async () => {
    const { host } = await drillHost();
    const [first] = await host.days(2);
    if (first === undefined) throw new Error("two were kept");
    rmSync(fileOf(host, first));
    expect(await host.keep({ started: onDay(3) })).toMatchObject({ handedIn: 2 });
    expect(await verify(host)).toMatchObject({ checked: 3, damaged: [] });
  });

  test("a changed record, in the repository and here, and what else is affected by it", async () => {
    const { host } = await drillHost();
    const [, second] = await host.days(3);
    if (second === undefined) throw new Error("three were kept");
    const here = join(second.directory, "report.json");
    const tampered = readFileSync(here, "utf8").replace('"rtoSeconds":41.3', '"rtoSeconds":11.3');
    writeFileSync(fileOf(host, second), tampered);
    writeFileSync(here, tampered);
    const { damaged } = await verify(host);
    expect(damaged.map(({ object }) => object)).toEqual([
      drillKey({ ...second.signed.drill, id: second.signed.id }),
      here,
      join(second.directory, "report.md"),
      join(second.directory, "report.html"),
    ]);
    expect(damaged[0]?.problem).toContain("is not what its name says");
    expect(damaged[1]?.problem).toContain("it was changed");
    expect(await host.keep({ started: onDay(4) })).toMatchObject({ handedIn: 1, signed: { drill: { number: 4 } } });
  });

  test("a page that shows something else than its record, unless it was drawn in another way", async () => {
    const { host } = await drillHost();
    const [first] = await host.days(1);
    if (first === undefined) throw new Error("one was kept");
    const { signed, directory } = first;
    const page = readFileSync(join(directory, "report.html"), "utf8").replace("1000 of 1000", "1002 of 1002");
    writeFileSync(join(directory, "report.html"), page);
    expect(await verify(host)).toMatchObject({
      damaged: [{ drill: signed.drill.id, object: join(directory, "report.html") }],
      notCompared: [],
    });
    const later = { ...signed, drill: { ...signed.drill, drawing: drawing + 1 } };
    expect(lookAtDrawn(later, page, renderHtml)).toEqual({ compared: false });
    expect(lookAtDrawn(signed, undefined, renderHtml)).toEqual({ compared: true });
  });

  test("a stranger's report, and one that was moved to another number", async () => {
    const { host } = await drillHost();
    const directory = makeScratch();
    scratch.push(directory);
    const stranger = await DrillHost.make(directory);
    const [first] = await host.days(1);
    await host.keep({ started: onDay(2) }, { key: stranger.key, stateDirectory: stranger.stateDirectory });
    if (first === undefined) throw new Error("one was kept");
    const replayed = drillKey({ ...first.signed.drill, number: 2, id: first.signed.id });
    writeFileSync(join(host.directory, "behind", replayed), readFileSync(fileOf(host, first)));
    const { damaged } = await verify(host);
    expect(damaged.map(({ problem }) => problem).sort()).toEqual([
      expect.stringContaining(`${replayed} is not what its name says`),
      expect.stringContaining("a key this host does not trust"),
    ]);
  });

  test("a report this host has seen and that is another one now", async () => {
    const { host } = await drillHost();
    await host.days(1);
    saveSeen(
      host.stateDirectory,
      host.repository.id,
      new Map([[host.key.writer, { number: 2, id: digestFrom(2) }]]),
      "drills",
    );
    const { damaged } = await verify(host);
    expect(damaged.map(({ problem }) => problem)).toEqual([expect.stringContaining("has seen drill report number 2")]);
  });
});
