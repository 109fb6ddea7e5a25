import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { RunJournal, type RunMessage, type RunStart, readRuns, type StagedMessage } from "../../src/restore/journal.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { noon } from "./entries.ts";

const start: RunStart = {
  time: "2026-11-24T12:00:00.000Z",
  snapshot: "5a".repeat(32),
  host: "mx1",
  instance: "mx",
  route: "fresh",
  land: "original",
  choice: "{}",
  judged: false,
  options: [],
  target: {
    configDirectory: "/etc/postfix",
    queueDirectory: "/var/spool/postfix",
    device: "1",
    inode: "2",
    born: "1795521600000000001",
  },
};
const messages: RunMessage[] = [0, 1].map((number) => ({
  number,
  key: `mx/7E48C16210${number}/1/ab`,
  queue: "deferred",
  mode: 0o700,
  uid: 995,
  gid: 996,
  mtime: noon,
  role: null,
  inDoubt: null,
  recipients: [0, 2],
  marks: [1],
  served: [1],
  logs: true,
  waits: false,
}));
const staged: StagedMessage[] = [0, 1].map((number) => ({
  number,
  inode: `1844674407370955161${number}`,
  changed: "1795521600000000001",
  digest: "ab".repeat(32),
  id: `7E48C${number}`,
  logs: [{ log: "defer", inode: "7" }],
}));

describe("the journal of a restore", () => {
  let state = "";
  beforeEach(() => {
    state = makeScratch();
  });
  afterEach(() => destroyScratch(state));

  const begin = () => RunJournal.begin(state, start, noon * 1000);

  test("tells how far the run came, and all that was planned and staged", () => {
    const journal = begin();
    expect(readRuns(state)).toMatchObject([{ ...start, run: journal.run, phase: "started", outcome: null }]);
    journal.planned(messages);
    expect(readRuns(state)).toMatchObject([{ phase: "planned", messages }]);
    journal.placing(staged);
    expect(readRuns(state)).toMatchObject([{ phase: "placing", messages, staged }]);
    journal.visible();
    expect(readRuns(state)).toMatchObject([{ phase: "visible" }]);
    journal.end("done", noon * 1000);
    expect(readRuns(state)).toMatchObject([{ phase: "ended", outcome: "done", messages, staged }]);
  });

  test("tells the claim, and what was released and taken back after the end, also half done", () => {
    const journal = begin();
    journal.claimed("c1a1");
    journal.planned(messages);
    journal.placing(staged);
    journal.end("done", noon * 1000);
    const [ended] = readRuns(state);
    if (ended === undefined) throw new Error("no run");
    expect(ended).toMatchObject({ phase: "ended", claim: "c1a1", released: new Set(), undone: new Set() });
    const later = RunJournal.reopen(ended);
    later.releasing([0, 1]);
    later.released([0], noon * 1000);
    expect(readRuns(state)).toMatchObject([{ phase: "ended", releasing: new Set([1]), released: new Set([0]) }]);
    later.undoing([1]);
    expect(readRuns(state)).toMatchObject([{ undoing: new Set([1]), undone: new Set() }]);
    later.undone([1], noon * 1000);
    later.close();
    expect(readRuns(state)).toMatchObject([{ outcome: "done", undoing: new Set(), undone: new Set([1]) }]);
  });

  test("keeps the last name a message was tried under, and the doubt about one", () => {
    const journal = begin();
    journal.planned(messages);
    journal.placing(staged);
    journal.renamed(1, "7E48D1");
    journal.doubted(0, { inDoubt: "who knows", mode: 0o740, mtime: noon + 1, recipients: [2] });
    journal.close();
    const [run] = readRuns(state);
    expect(run?.staged[1]).toEqual({ ...staged[1], id: "7E48D1" });
    expect(run?.messages[0]).toEqual({
      ...messages[0],
      ...{ queue: "hold", role: "restore", inDoubt: "who knows", mode: 0o740, mtime: noon + 1, recipients: [2] },
    });
  });

  test("takes a torn last line for what it is: never begun", () => {
    const journal = begin();
    journal.planned(messages);
    journal.close();
    appendFileSync(join(journal.directory, "journal.jsonl"), '{"type":"plac');
    const [run] = readRuns(state);
    expect(run?.phase).toBe("planned");
    if (run === undefined) return;
    RunJournal.reopen(run).end("abandoned", noon * 1000);
    expect(readRuns(state)).toMatchObject([{ phase: "ended", outcome: "abandoned" }]);
  });

  test("that died before its first line was whole is no run", () => {
    const directory = join(state, "runs", "20261124T120000-00000000");
    mkdirSync(directory, { recursive: true });
    expect(readRuns(state)).toEqual([]);
    writeFileSync(join(directory, "journal.jsonl"), '{"type":"sta');
    expect(readRuns(state)).toEqual([]);
  });

  test("that can't be read stops everything and is not passed over", () => {
    const journal = begin();
    journal.close();
    const path = join(journal.directory, "journal.jsonl");
    writeFileSync(path, `${readFileSync(path, "utf8")}{"type":"teleported"}\n`);
    expect(() => readRuns(state)).toThrow(/^line 2 of the run journal/);
  });

  test("has a name that sorts by time and is legal in a temporary name", () => {
    expect(begin().run).toMatch(/^20261124T120000-[0-9a-f]{8}$/);
  });
});
