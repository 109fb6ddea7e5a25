import {
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { messageQueues, type QueueName } from "../../src/postfix/queue.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { findTwins } from "../../src/restore/twins.ts";
import { entryKey } from "../../src/snapshot/manifest.ts";
import { messageRecords, queueFile, record } from "../postfix/records.ts";
import { queueFiles } from "../support/hand-made.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { entryOf } from "./queued.ts";

const ids = { short: "41D2C162118", otherShort: "5A0E3162200", long: "4jY5j73J8pzBvYj" }; // long: hashed by 71A8A

let spool: string;
beforeEach(() => {
  spool = makeScratch();
  for (const queue of messageQueues) mkdirSync(join(spool, queue));
});
afterEach(() => destroyScratch(spool));

const instance = () => ({ queueDirectory: spool, hashDepth: 1 });

/** @param path of a message below the queue directory; complete, unless a mode says otherwise */
function put(path: string, bytes: Buffer, mode = 0o700): string {
  const file = join(spool, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, bytes, { mode });
  return file;
}

type Change = Parameters<typeof messageRecords>[0] & { readonly created?: number; readonly arrival?: string };

function mail({ created = 1_795_546_575, arrival = "1795546576 220071", ...change }: Change = {}): Buffer {
  return queueFile(
    messageRecords({ recipients: [["b@dest.test", false]], ...change }).map((one) => {
      if (one.type === "T") return record("T", arrival);
      return String(one.payload).startsWith("create_time") ? record("A", `create_time=${created}`) : one;
    }),
  );
}

const plain = mail();
const entry = entryOf(plain, ids.short);

describe("findTwins", () => {
  test.each(messageQueues)(
    "finds a message in %s, flat or hashed, under its own name or another, short or long",
    async (queue) => {
      for (const id of Object.values(ids)) {
        for (const directory of [queue, `${queue}/${id === ids.long ? "7/1" : id.slice(0, 1)}`]) {
          const path = put(`${directory}/${id}`, plain);
          const inode = String(statSync(path).ino);
          expect(await findTwins(instance(), [entry])).toEqual(
            new Map([[entryKey(entry), { queue, id, path, inode, done: [false] }]]),
          );
          rmSync(path);
        }
      }
    },
  );

  test("tells the marks of the file, which may differ from the snapshot's", async () => {
    const addresses = ["a@x.test", "b@x.test", "c@x.test"];
    const marked = (...done: boolean[]) =>
      mail({ recipients: addresses.map((address, n) => [address, done[n] === true]) });
    const before = entryOf(marked(true, false, false), ids.short);
    put(`active/${ids.short}`, marked(true, false, true));
    expect((await findTwins(instance(), [before])).get(entryKey(before))?.done).toEqual([true, false, true]);
  });

  test.each([...queueFiles.keys()])("knows %s, as Postfix wrote it", async (name) => {
    const bytes = queueFiles.get(name) ?? Buffer.alloc(0);
    const queue = name.startsWith("maildrop") ? "maildrop" : "deferred";
    for (const [other, file] of queueFiles) put(`${queue}/${Buffer.from(other).toString("hex")}`, file);
    const known = entryOf(bytes, Buffer.from(name).toString("hex"), queue);
    expect((await findTwins(instance(), [known])).get(entryKey(known))?.id).toBe(known.queueId);
  });

  test.each<[string, Change]>([
    ["another creation time", { created: 1_795_546_574 }],
    ["another arrival in the same second", { arrival: "1795546576 220072" }],
    ["another sender", { sender: "A@src.test" }],
    ["another recipient", { recipients: [["c@dest.test", false]] }],
    [
      "one recipient more",
      {
        recipients: [
          ["b@dest.test", false],
          ["b@dest.test", true],
        ],
      },
    ],
    ["another text of the same length", { text: "Subject: x\n\nBody\n" }],
    ["a longer text", { text: "Subject: x\n\nbody\n\n" }],
  ])("a message with %s is another one, also under the same name", async (_, change) => {
    put(`deferred/${ids.short}`, mail(change));
    expect(await findTwins(instance(), [entry])).toEqual(new Map());
  });

  test("the way the text is cut into records makes no difference", async () => {
    put(`deferred/${ids.otherShort}`, mail({ width: 3 }));
    // Its size differs as the records do, so the size must not have ruled it out.
    const size = readQueueFile(bufferSource(mail({ width: 3 }))).size;
    expect((await findTwins(instance(), [{ ...entry, size }])).size).toBe(1);
  });

  test("two messages that are alike but for their ids have a file each, their own where it is there", async () => {
    const entries = [entry, entryOf(plain, ids.otherShort)];
    const [first = "", second = ""] = entries.map(entryKey);
    const found = async () => new Map([...(await findTwins(instance(), entries))].map(([key, { id }]) => [key, id]));
    put(`deferred/${ids.otherShort}`, plain);
    expect(await found()).toEqual(new Map([[second, ids.otherShort]]));
    put(`deferred/${ids.long}`, plain);
    expect(await found()).toEqual(
      new Map([
        [first, ids.long],
        [second, ids.otherShort],
      ]),
    );
    put(`deferred/${ids.short}`, plain);
    expect(await found()).toEqual(
      new Map([
        [first, ids.short],
        [second, ids.otherShort],
      ]),
    );
  });

  test("two messages that differ in their recipients only never stand for each other", async () => {
    const other = mail({ recipients: [["c@dest.test", false]] });
    const entries = [entry, entryOf(other, ids.otherShort)];
    put(`deferred/${ids.long}`, other);
    expect([...(await findTwins(instance(), entries)).keys()]).toEqual(entries.slice(1).map(entryKey));
  });

  test("of two files of one message, the one under its id is given, else the one on hold", async () => {
    const found = async () => (await findTwins(instance(), [entry])).get(entryKey(entry));
    put("active/A0000162300", plain);
    expect(await found()).toMatchObject({ queue: "active" });
    put("hold/B0000162301", plain);
    expect(await found()).toMatchObject({ queue: "hold", id: "B0000162301" });
    put(`incoming/${ids.short}`, plain);
    expect(await found()).toMatchObject({ queue: "incoming", id: ids.short });
  });

  test("one file under two names is one", async () => {
    const entries = [entry, entryOf(plain, ids.otherShort)];
    linkSync(put(`deferred/${ids.short}`, plain), join(spool, "hold", ids.otherShort));
    expect(await findTwins(instance(), entries)).toHaveProperty("size", 1);
  });

  test("what waits in maildrop is known by its queue id as well", async () => {
    const submitted = queueFiles.get("maildrop-args") ?? Buffer.alloc(0);
    const waiting = entryOf(submitted, ids.short, "maildrop");
    put(`maildrop/${ids.otherShort}`, submitted);
    expect(await findTwins(instance(), [waiting])).toEqual(new Map());
    put(`maildrop/${ids.short}`, submitted);
    expect((await findTwins(instance(), [waiting])).get(entryKey(waiting))).toMatchObject({ id: ids.short });
  });

  test("mail that an administrator put back into maildrop is still queued", async () => {
    put(`maildrop/${ids.otherShort}`, plain);
    expect((await findTwins(instance(), [entry])).get(entryKey(entry))).toMatchObject({ queue: "maildrop" });
  });

  test("passes over what is still being received, damaged, evidence, or no message at all", async () => {
    put(`incoming/${ids.short}`, plain, 0o600);
    put("maildrop/A0000162300", plain, 0o600);
    truncateSync(put("deferred/A0000162301", plain), plain.length - 1);
    put("deferred/A0000162302", Buffer.from("no queue file"));
    put("deferred/A0000162303", Buffer.alloc(0));
    put("hold/A0000162304#RST", plain);
    put("corrupt/A0000162305", plain);
    put("saved/A0000162306", plain);
    put("defer/A0000162307", plain);
    symlinkSync(put("elsewhere", plain), join(spool, "deferred/A0000162308"));
    mkdirSync(join(spool, "deferred/A0000162309"));
    expect(await findTwins(instance(), [entry])).toEqual(new Map());
    put("deferred/A0000162310", plain);
    expect((await findTwins(instance(), [entry])).get(entryKey(entry))).toMatchObject({ id: "A0000162310" });
  });

  test("knows a message whose creation time is not among the first 4 KiB, and one of many chunks", async () => {
    const [time = record("T"), ...rest] = messageRecords({ text: `${"x".repeat(70)}\n`.repeat(20_000) });
    const filler = Array.from({ length: 10 }, (_, n) => record("A", `log_helo_name=${String(n).repeat(500)}`));
    const late = queueFile([time, ...filler, ...rest]);
    const wanted = entryOf(late, ids.long);
    expect(wanted.created).toBe("1795546575");
    expect(late.indexOf("create_time")).toBeGreaterThan(4096);
    put(`deferred/${ids.short}`, late);
    expect((await findTwins(instance(), [wanted])).get(entryKey(wanted))).toMatchObject({ id: ids.short });
  });

  test("an instance that never ran has no mail; one that lacks a queue is not what it seems", async () => {
    rmSync(join(spool, "hold"), { recursive: true });
    await expect(findTwins(instance(), [entry])).rejects.toThrow(/hold is not there/);
    for (const queue of messageQueues) rmSync(join(spool, queue), { recursive: true, force: true });
    expect(await findTwins(instance(), [entry])).toEqual(new Map());
  });
});

describe("while the queues change", () => {
  const many = Array.from({ length: 400 }, (_, n) => {
    const bytes = mail({ recipients: [[`r${n}@dest.test`, false]] });
    const id = `${n.toString(16).toUpperCase().padStart(5, "0")}16${(0x2000 + n).toString(16).toUpperCase()}`;
    return { bytes, id, entry: entryOf(bytes, id) };
  });
  const entries = many.map((one) => one.entry);

  function placeAll(queue: QueueName = "deferred"): string[] {
    return many.map(({ id, bytes }) => put(`${queue}/${id}`, bytes));
  }

  /** Do something at every turn of the event loop that the search leaves to others, until it is done. */
  async function meanwhile(look: Promise<Map<string, unknown>>, act: (turn: number) => void) {
    let over = false;
    const turns = (async () => {
      for (let turn = 0; !over; turn++) {
        act(turn);
        await new Promise(setImmediate);
      }
    })();
    try {
      return await look;
    } finally {
      over = true;
      await turns;
    }
  }

  test("follows what moved after it was listed, to any queue", async () => {
    const paths = placeAll();
    const queues: QueueName[] = ["maildrop", "incoming", "active", "hold"];
    let moved = 0;
    const found = await meanwhile(findTwins(instance(), entries), (turn) => {
      if (turn !== 1) return;
      for (const [n, { id }] of many.entries()) {
        renameSync(paths[n] ?? "", join(spool, queues[n % 4] ?? "hold", id));
        moved++;
      }
    });
    expect(moved).toBe(400);
    expect([...found.keys()].sort()).toEqual(entries.map(entryKey).sort());
    expect(new Set([...found.values()].map((twin) => (twin as { queue: string }).queue))).toContain("hold");
  });

  test("lists again for what was in no listing yet: from a queue not looked at to one looked at before", async () => {
    const [paths, away] = [placeAll(), join(spool, "away")];
    mkdirSync(away);
    for (const [n, { id }] of many.entries()) if (n % 3 === 0) renameSync(paths[n] ?? "", join(away, id));
    const found = await meanwhile(findTwins(instance(), entries), (turn) => {
      if (turn !== 1) return;
      for (const [n, { id }] of many.entries()) if (n % 3 === 0) renameSync(join(away, id), join(spool, "active", id));
    });
    expect(found.size).toBe(400);
  });

  test("what is removed under us is no twin and no error", async () => {
    const paths = placeAll();
    const found = await meanwhile(findTwins(instance(), entries), (turn) => {
      if (turn === 1) for (const path of paths) rmSync(path, { force: true });
    });
    expect(found.size).toBeGreaterThan(0);
    expect(found.size).toBeLessThan(400);
  });

  test("new mail does not keep it looking", async () => {
    placeAll();
    const found = await meanwhile(findTwins(instance(), entries), (turn) => {
      put(`incoming/${turn.toString(16).toUpperCase().padStart(5, "0")}170000`, mail({ created: 1_795_546_576 }));
    });
    expect(found.size).toBe(400);
  });

  test("says what to do when old mail turns up for ever", async () => {
    placeAll();
    const look = meanwhile(findTwins(instance(), entries), (turn) => {
      put(`incoming/${turn.toString(16).toUpperCase().padStart(5, "0")}170000`, mail({ created: 1_795_546_574 }));
    });
    await expect(look).rejects.toMatchObject({
      kind: "failed",
      message: expect.stringContaining("too fast to tell"),
      hints: expect.arrayContaining([expect.stringContaining("postfix stop")]),
    });
  });

  test("marks that are set while it reads are one or the other, and cost nothing else", async () => {
    const paths = placeAll();
    const fds = paths.map((path) => openSync(path, "r+"));
    const offset = readQueueFile(bufferSource(readFileSync(paths[0] ?? ""))).recipients[0]?.offset ?? 0;
    const found = await meanwhile(findTwins(instance(), entries), (turn) => {
      for (const fd of fds) writeSync(fd, turn % 2 === 0 ? "D" : "R", offset);
    });
    for (const fd of fds) closeSync(fd);
    expect(found.size).toBe(400);
  });

  test("stops when it is told to", async () => {
    placeAll();
    const controller = new AbortController();
    const look = findTwins(instance(), entries, controller.signal);
    controller.abort();
    await expect(look).rejects.toThrow(/aborted/);
  });
});
