import { renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { placedHolds, recordPlaced } from "../../src/holds/placed.ts";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { RunJournal, readRuns, toStagedMessage } from "../../src/restore/journal.ts";
import { noteReused, releasedMeanwhile, settleReleases } from "../../src/restore/left-hold.ts";
import { systemClock } from "../../src/system/clock.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { noon } from "./entries.ts";
import { type MadeRun, makeRun, makeSpool } from "./made-run.ts";

const bytes = queueFiles.get("four-recipients") ?? Buffer.of();

test("what a dead release let go is known before another run writes into its journal", async () => {
  const root = makeScratch();
  try {
    const instance = makeSpool(root);
    const made = makeRun(instance, root, [{ bytes }, { bytes }]);
    const [record] = readRuns(root);
    if (record === undefined) throw new Error("there is no run");
    const journal = RunJournal.reopen(record);
    journal.releasing([0, 1]);
    await delay(20); // the clock of a file's times goes in steps
    const deferred = join(instance.queueDirectory, "deferred", basename(made.path(0)));
    renameSync(made.path(0), deferred);
    renameSync(deferred, made.path(0)); // an administrator has put it on hold again
    settleReleases({ instance, stateDirectory: root, clock: systemClock }, readRuns(root));
    await delay(20);
    journal.restaged(toStagedMessage(made.placements[1] ?? toFail()));
    journal.close();
    const [now] = readRuns(root);
    expect([now?.released, now?.releasing]).toEqual([new Set([0]), new Set([1])]);
    expect(now === undefined ? [] : releasedMeanwhile(instance, now)).toEqual([]);
  } finally {
    destroyScratch(root);
  }
});

function toFail(): never {
  throw new Error("there is no message");
}

describe("a file that has the inode, and so the name, of one that is gone", () => {
  let root: string;
  let instance: PostfixInstance;
  let made: MadeRun;
  beforeEach(() => {
    root = makeScratch();
    instance = makeSpool(root);
    made = makeRun(instance, root, [{ bytes }, { bytes }]);
    const since = new Date(noon * 1000).toISOString();
    const [first = "", second = ""] = made.placements.map(({ id }) => id);
    recordPlaced(root, instance, { kind: "restore", run: made.run, since, ids: [first, second] });
    recordPlaced(root, instance, { kind: "fence", run: "claim", since, ids: ["7E48C1"] });
    rmSync(made.path(0));
  });
  afterEach(() => destroyScratch(root));

  const note = (inode = made.placements[0]?.inode ?? "", id = made.placements[0]?.id ?? "") =>
    noteReused({ instance, stateDirectory: root, clock: systemClock }, readRuns(root), [{ inode, id }]);
  const released = () => [...(readRuns(root)[0]?.released ?? [])];
  const holds = () => [...placedHolds(root, instance).keys()].sort();
  const idOf = (number: number) => made.placements[number]?.id ?? "";

  test("is not that of the earlier run, whoever holds it", () => {
    note();
    expect(released()).toEqual([0]);
    expect(holds()).toEqual(["7E48C1", idOf(1)]);
  });

  test("is not that of a run that was undone, which counts no more releases for it", () => {
    const [record] = readRuns(root);
    if (record === undefined) throw new Error("there is no run");
    const journal = RunJournal.reopen(record);
    journal.undone([0], noon * 1000);
    journal.close();
    note();
    expect(released()).toEqual([]);
    expect(holds()).toEqual(["7E48C1", idOf(1)]);
  });

  test("is not what a fence held", () => {
    note("1", "7E48C1");
    expect(released()).toEqual([]);
    expect(holds()).toEqual([idOf(0), idOf(1)].sort());
  });

  test("with neither tells nothing of them", () => {
    note("1", "7E48C2");
    expect(released()).toEqual([]);
    expect(holds()).toHaveLength(3);
  });
});
