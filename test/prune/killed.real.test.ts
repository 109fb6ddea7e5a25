import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { verifySealed } from "../../src/verify/sealed.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { age, filesBelow } from "./aged.ts";
import { type KilledPrune, pruneHere, runKilledPrune } from "./killed-prune.ts";

/*
 * A prune that removes records, condemns packs and removes condemned ones, all in one run, killed before and after each call of
 * its store that changes anything, and in between: what is left verifies, and the same prune again ends where one that was left alone ends.
 */
describe("a prune killed at any call of its store", () => {
  let made: HandMade;
  let ready: string;

  /** Four snapshots, each with a pack of its own; the first is removed already, and the grace of its pack is over. */
  beforeAll(async () => {
    made = await HandMade.make();
    ready = join(made.directory, "ready");
    const messages = [...queueFiles.values()].map((bytes) => ({ bytes }));
    for (let nth = 0; nth < 4; nth++) {
      const time = new Date(Date.now() - (20 - nth) * 86_400_000).toISOString();
      await made.take({ messages: messages.slice(nth, nth + 1), over: { time, finished: time } });
    }
    const repository = join(made.directory, "repository");
    age(repository);
    const { removed } = await pruneHere(job(repository, { last: 3 }), new DirectoryStore(repository));
    expect(removed).toMatchObject({ snapshots: 1, packs: 0 });
    age(repository);
    cpSync(repository, ready, { recursive: true, preserveTimestamps: true });
  });
  afterAll(() => made?.[Symbol.asyncDispose]());

  function job(repository: string, over: { last?: number; death?: KilledPrune["death"] } = {}): KilledPrune {
    return {
      repository,
      signingKeyFile: join(made.directory, "signing.key"),
      trustedKeysFile: join(made.directory, "trusted.pub"),
      stateDirectory: join(made.directory, "state"),
      policy: { last: over.last ?? 1, hourly: 0, daily: 0, weekly: 0, monthly: 0 },
      death: over.death ?? null,
    };
  }

  /** What is there but the removal records, of which there may be one more. */
  function objectsIn(repository: string): string[] {
    return filesBelow(repository).filter((name) => !name.startsWith("removals/"));
  }

  test("leaves what verifies, and is finished by the next", async () => {
    const alone = join(made.directory, "alone");
    cpSync(ready, alone, { recursive: true, preserveTimestamps: true });
    const lived = runKilledPrune(job(alone));
    const { removed, calls } = JSON.parse(lived.stdout) as { removed: object; calls: { name: string }[] };
    expect(removed).toMatchObject({ snapshots: 2, packs: 1 });
    const names = calls.map(({ name }) => name);
    expect(names.filter((name) => name === "remove")).toHaveLength(3);
    expect(names.filter((name) => name === "put")).toHaveLength(1);

    for (let nth = 1; nth <= calls.length; nth++) {
      for (const after of deathsAt(names, nth)) {
        const repository = join(made.directory, `killed-${nth}-${after}`);
        cpSync(ready, repository, { recursive: true, preserveTimestamps: true });
        const killed = runKilledPrune(job(repository, { death: { nth, after } }));
        const where = `killed ${after ? "after" : "before"} call ${nth}, ${names[nth - 1]}`;
        expect(killed.signal, where).toBe("SIGKILL");
        expect(await damageIn(repository), where).toEqual([]);
        await pruneHere(job(repository), new DirectoryStore(repository));
        expect(objectsIn(repository), where).toEqual(objectsIn(alone));
        expect(await damageIn(repository), where).toEqual([]);
        rmSync(repository, { recursive: true });
      }
    }
  });

  async function damageIn(directory: string): Promise<string[]> {
    const repository = await Repository.open(new DirectoryStore(directory));
    const refs = await repository.snapshotRefs();
    const [trusted, seen] = [made.trusted, new Map()];
    return (await verifySealed({ repository, refs, trusted, seen, report: () => {} })).damaged.map(
      ({ problem }) => problem,
    );
  }
});

/**
 * Before and after a call that changes the store. Of those that only read in a row, before the first: killed at any of them
 * a prune has left the same.
 */
function deathsAt(names: readonly string[], nth: number): boolean[] {
  const changes = (name: string | undefined) => name === "put" || name === "remove";
  if (changes(names[nth - 1])) return [false, true];
  return nth === 1 || changes(names[nth - 2]) ? [false] : [];
}
