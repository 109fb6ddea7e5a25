import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { HoldJournal, journalDirectory, postsuperOutput, readJournals } from "../../src/holds/journal.ts";
import { placedHolds, recordPlaced } from "../../src/holds/placed.ts";
import { recordedBy, recordGivenBack, recordReleased } from "../../src/holds/released.ts";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { queueIdentity } from "../../src/postfix/queue-identity.ts";
import { watchDisk } from "../support/disk-order.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "spoolsafe-holds-"));
});

afterEach(() => rmSync(directory, { recursive: true }));

describe("the journal of what a run holds", () => {
  test("is there with its first line or not at all, and goes when all is released", () => {
    const journal = begin("mx");
    expect(names()).toEqual(["RUN.mx.jsonl"]);
    expect(readJournals(directory)).toMatchObject([{ start: { run: "RUN", preheld: ["A1"] }, open: [] }]);
    journal.batch(0, since, [["B1", 5.5]]);
    journal.batch(1, since, [["B2", 6]]);
    expect(readJournals(directory)[0]?.open.map(({ batch }) => batch)).toEqual([0, 1]);
    journal.released(0);
    expect(readJournals(directory)[0]?.open).toEqual([{ type: "batch", batch: 1, since, messages: [["B2", 6]] }]);
    expect(journal.settled).toBe(false);
    journal.released(1);
    journal.close();
    expect(names()).toEqual([]);
  });

  test("stays when something is still held", () => {
    const journal = begin("mx");
    journal.batch(0, since, [["B1", 5]]);
    journal.close();
    expect(readJournals(directory)[0]?.open).toHaveLength(1);
  });

  test("announces nothing by a line that was cut off, and is no journal by any other", () => {
    const journal = begin("mx");
    journal.close();
    const path = begin("mx").path;
    appendFileSync(path, '{"type":"batch","batch":0,"sin');
    expect(readJournals(directory)[0]?.open).toEqual([]);
    appendFileSync(path, "ce\n");
    expect(() => readJournals(directory)).toThrow(/line 2 of the hold journal .* can't be read/);
  });

  test("takes no other instance's outputs along, though its name begins like this one's", () => {
    const other = begin("mx.b");
    other.batch(0, since, [["B1", 5]]);
    other.close();
    writeFileSync(postsuperOutput(other.path, 0, "hold"), "");
    const journal = begin("mx");
    writeFileSync(postsuperOutput(journal.path, 0, "hold"), "");
    journal.close();
    expect(existsSync(postsuperOutput(journal.path, 0, "hold"))).toBe(false);
    expect(names()).toEqual(["RUN.mx.b.0.hold.stderr", "RUN.mx.b.jsonl"]);
  });

  test("says that a batch is released when that is on the disk of the queue, which may be another", () => {
    const hold = join(directory, "spool", "hold");
    mkdirSync(join(hold, "A", "B"), { recursive: true });
    const journal = begin("mx");
    journal.batch(0, since, [["B1", 5]]);
    using disk = watchDisk();
    journal.released(0);
    journal.close();
    const queue = [hold, join(hold, "A"), join(hold, "A", "B")];
    expect(disk.calls.slice(0, 4)).toEqual([
      ...queue.map((path) => `sync ${path}`),
      `write ${journal.path}.new (deleted)`,
    ]);
  });

  function begin(instance: string): HoldJournal {
    const place = { configDirectory: "/etc/postfix", queueDirectory: join(directory, "spool") };
    return HoldJournal.begin(directory, { run: "RUN", mode: "hold", instance, ...place, since, preheld: ["A1"] });
  }
});

describe("what a restore or a fence placed", () => {
  const placed = { kind: "restore" as const, run: "R1", since: "2026-11-24T20:00:00.000Z" };

  test("is known by its queue directory's inode", () => {
    const [mx, other] = [instance("one"), instance("two")];
    recordPlaced(directory, mx, { ...placed, ids: ["A1", "A2"] });
    recordPlaced(directory, mx, { ...placed, ids: ["A3"] });
    recordPlaced(directory, other, { ...placed, kind: "fence", ids: ["A1"] });
    expect([...placedHolds(directory, mx).keys()]).toEqual(["A1", "A2", "A3"]);
    const renamed = { ...mx, name: "renamed", queueDirectory: `${mx.queueDirectory}/.` };
    expect(placedHolds(directory, renamed).get("A3")).toMatchObject({ kind: "restore", run: "R1" });
    expect(placedHolds(directory, other).get("A1")).toMatchObject({ kind: "fence" });
    expect(placedHolds(join(directory, "nothing"), mx).size).toBe(0);
  });

  test("is known though a line before or behind it was cut off", () => {
    const mx = instance("one");
    recordPlaced(directory, mx, { ...placed, ids: ["A1"] });
    const file = join(journalDirectory(directory), "restore-R1.placed");
    appendFileSync(file, '{"kind":"restore","run":"R1","ids":["A');
    expect([...placedHolds(directory, mx).keys()]).toEqual(["A1"]);
    recordPlaced(directory, mx, { ...placed, ids: ["A2"] });
    expect([...placedHolds(directory, mx).keys()]).toEqual(["A1", "A2"]);
  });

  test("is ours no longer once it has been let go, until it is placed again", () => {
    const mx = instance("one");
    const fenced = { ...placed, kind: "fence" as const, run: "claim1" };
    recordPlaced(directory, mx, { ...placed, ids: ["A1", "A2"] });
    recordPlaced(directory, mx, { ...fenced, ids: ["B1", "B2"] });
    const later = "2026-11-24T21:00:00.000Z";
    recordReleased(directory, mx, { run: "R1", time: later, ids: ["A1"] });
    recordReleased(directory, mx, { run: "R2", time: later, ids: ["A2"] }); // another run's
    recordGivenBack(directory, mx, { claim: "claim1", time: later, ids: ["B1"] });
    recordGivenBack(directory, mx, { claim: "R1", time: later, ids: ["A2"] }); // another kind
    recordReleased(directory, instance("other"), { run: "R1", time: later, ids: ["A2"] });
    expect([...placedHolds(directory, mx).keys()].sort()).toEqual(["A2", "B2"]);
    expect(recordedBy(directory, mx, "claim1")).toEqual(["B2"]);
    recordPlaced(directory, mx, { ...fenced, since: "2026-11-24T22:00:00.000Z", ids: ["B1"] });
    expect([...placedHolds(directory, mx).keys()].sort()).toEqual(["A2", "B1", "B2"]);
    expect(recordedBy(directory, mx, "claim1").sort()).toEqual(["B1", "B2"]);
  });

  test("is written down as let go when that is on the disk of the queue, which may be another", () => {
    const mx = instance("one");
    mkdirSync(join(mx.queueDirectory, "hold"));
    using disk = watchDisk();
    const hold = `sync ${join(mx.queueDirectory, "hold")}`;
    recordReleased(directory, mx, { run: "R1", time: since, ids: ["A1"] });
    expect(disk.calls.slice(0, 2)).toEqual([hold, `write ${join(journalDirectory(directory), "restore.released")}`]);
    const before = disk.calls.length;
    recordGivenBack(directory, mx, { claim: "claim1", time: since, ids: ["B1"] });
    const file = join(journalDirectory(directory), "fence.released");
    expect(disk.calls.slice(before, before + 2)).toEqual([hold, `write ${file}`]);
  });

  test("is known after a reboot gave the file system another device number, and not in a directory made anew", () => {
    const mx = instance("one");
    recordPlaced(directory, mx, { ...placed, ids: ["A1"] });
    const path = join(journalDirectory(directory), "restore-R1.placed");
    const line = JSON.parse(readFileSync(path, "utf8"));
    const queue = { ...queueIdentity(mx.queueDirectory), device: "4711" };
    writeFileSync(path, `${JSON.stringify({ ...line, queue })}\n`);
    expect([...placedHolds(directory, mx).keys()]).toEqual(queue.born === null ? [] : ["A1"]);
    rmSync(mx.queueDirectory, { recursive: true });
    mkdirSync(mx.queueDirectory);
    expect([...placedHolds(directory, mx).keys()]).toEqual([]);
  });

  test("is known from a line that has device and inode as numbers only", () => {
    const mx = instance("one");
    recordPlaced(directory, mx, { ...placed, ids: ["A1"] });
    const path = join(journalDirectory(directory), "restore-R1.placed");
    const line = JSON.parse(readFileSync(path, "utf8"));
    const { dev, ino } = statSync(mx.queueDirectory);
    writeFileSync(path, `${JSON.stringify({ ...line, queue: { dev, ino } })}\n`);
    expect([...placedHolds(directory, mx).keys()]).toEqual(["A1"]);
    writeFileSync(path, `${JSON.stringify({ ...line, queue: { dev: dev + 1, ino } })}\n`);
    expect([...placedHolds(directory, mx).keys()]).toEqual([]);
  });

  function instance(name: string): PostfixInstance {
    const queueDirectory = join(directory, name);
    mkdirSync(queueDirectory);
    const owner = { mailOwner: "postfix", ownerUid: 100, ownerGid: 100, setgidGroup: "postdrop" };
    const rest = {
      dataDirectory: "",
      version: "3.7.11",
      longIds: false,
      hashQueues: [],
      hashDepth: 1,
      host: "mx.test",
    };
    const lifetimes = { maximalQueueLifetimeS: 1, bounceQueueLifetimeS: 1 };
    return { name, configDirectory: "/etc/postfix", queueDirectory, ...owner, ...rest, ...lifetimes };
  }
});

const since = "2026-11-24T20:00:00.000Z";

function names(): string[] {
  return readdirSync(journalDirectory(directory)).sort();
}
