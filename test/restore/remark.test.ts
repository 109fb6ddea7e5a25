import { readFileSync, renameSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { readRuns } from "../../src/restore/journal.ts";
import { remark } from "../../src/restore/remark.ts";
import { digestOf } from "../../src/system/digest.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { noon } from "./entries.ts";
import { type MadeRun, makeRun, makeSpool } from "./made-run.ts";

const bytes = queueFiles.get("four-recipients") ?? Buffer.of();

describe("marking what an earlier run put on hold", () => {
  let root: string;
  let instance: PostfixInstance;
  let made: MadeRun;
  beforeEach(() => {
    root = makeScratch();
    instance = makeSpool(root);
    made = makeRun(instance, join(root, "state"), [{ bytes }]);
  });
  afterEach(() => destroyScratch(root));

  const runs = () => readRuns(join(root, "state"));
  const wanted = (recipients: number[], inode = made.placements[0]?.inode ?? "") => [
    { id: made.placements[0]?.id ?? "", inode, recipients },
  ];
  const done = (path = made.path(0)) =>
    readQueueFile(bufferSource(readFileSync(path))).recipients.map((recipient) => recipient.done);
  const before = readQueueFile(bufferSource(bytes)).recipients.map((recipient) => recipient.done);
  const also = (...indexes: number[]) => before.map((one, index) => one || indexes.includes(index));

  test("leaves its time as it was, and the run knows the file as it is now", () => {
    expect(remark(instance, runs(), wanted([1]))).toBe(1);
    expect(done()).toEqual(also(1));
    expect(statSync(made.path(0)).mtimeMs).toBe((noon - 60) * 1000);
    expect(runs()[0]?.staged[0]?.digest).toBe(digestOf(readFileSync(made.path(0))).digest);
  });

  test("is done once: what has the marks is left as it is", () => {
    remark(instance, runs(), wanted([1]));
    const journal = readFileSync(join(runs()[0]?.directory ?? "", "journal.jsonl"), "utf8");
    expect(remark(instance, runs(), wanted([1]))).toBe(0);
    expect(readFileSync(join(runs()[0]?.directory ?? "", "journal.jsonl"), "utf8")).toBe(journal);
    expect(remark(instance, runs(), wanted([1, 2]))).toBe(1);
    expect(done()).toEqual(also(1, 2));
  });

  test("passes over what has left hold, and another file of its name", () => {
    expect(remark(instance, runs(), wanted([1], "1"))).toBe(0);
    const elsewhere = join(instance.queueDirectory, "deferred", basename(made.path(0)));
    renameSync(made.path(0), elsewhere);
    expect(remark(instance, runs(), wanted([1]))).toBe(0);
    expect(done(elsewhere)).toEqual(before);
  });
});
