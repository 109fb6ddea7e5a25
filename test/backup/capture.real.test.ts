import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, lstatSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { type ByteKeeper, Capture } from "../../src/backup/capture.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { digestOf, digestOfDescriptor } from "../../src/system/digest.ts";
import { fillDeferred, resumePickup } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until, userId } from "../support/postfix.ts";

/*
 * What happens to mail between two looks of the walk. The keeper, which gets the bytes after each chunk, is where these
 * tests do it: everything else is real.
 */
describe.skipIf(!needs("root", "postfix"))("mail that changes its place during the run", () => {
  test("is vanished when it went before it was read, finished when it went after", async () => {
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 600, 1);
    const gone = { unread: [] as string[], read: [] as string[] };
    const keeper = keeperThat((kept) => {
      // The first chunk, 256 messages and as many logs, is with the keeper; the next has not been opened.
      if (kept.size !== 512) return;
      const files = postfix.files("deferred");
      const isKept = (path: string) => kept.has(digestOf(readFileSync(path)).digest);
      gone.unread = files.filter((path) => !isKept(path)).slice(0, 3);
      gone.read = files.filter(isKept).slice(0, 2);
      for (const path of [...gone.unread, ...gone.read]) rmSync(path);
    });
    const capture = await capturing(postfix, keeper);
    for (const queue of ["hold", "incoming", "active", "deferred"] as const) await capture.inPlace(queue);
    const closed = await capture.close();
    expect(closed).toMatchObject({ vanished: 3, finished: 2, incomplete: 0 });
    expect(closed.messages).toHaveLength(597);
    const finished = closed.messages.filter((message) => message.finished).map((message) => message.queueId);
    expect(finished.sort()).toEqual(gone.read.map((path) => basename(path)).sort());
    expect(capture.problems).toEqual([]);
  });

  test("is one message when pickup takes it out of maildrop, whether its old file is gone already or not", async () => {
    await using postfix = await PrivatePostfix.start({ main: { master_service_disable: "pickup.unix" } });
    const nobody = userId("nobody");
    for (let n = 0; n < 4; n++) {
      await postfix.sendmail(plainLetter({ recipients: [`m${n}@refused.test`] }), n % 2 === 0 ? 0 : nobody);
    }
    const submitted = postfix.files("maildrop");
    expect(submitted).toHaveLength(4);
    let picked = false;
    const keeper = keeperThat(async () => {
      if (picked) return;
      picked = true;
      const spare = submitted.slice(0, 2).map((path) => [path, join(postfix.directory, basename(path))] as const);
      for (const [path, copy] of spare) execFileSync("cp", ["-p", path, copy]);
      await resumePickup(postfix);
      await until(() => postfix.counts().maildrop === 0 && postfix.counts().deferred === 4, { what: "pickup's work" });
      // As in the moment between the end of the new file and the removal of the old one.
      await postfix.setParameter("master_service_disable", "pickup.unix");
      await postfix.reload();
      await until(() => postfix.daemonPids("pickup").length === 0, { what: "pickup's end" });
      for (const [path, copy] of spare) renameSync(copy, path);
    });
    const capture = await capturing(postfix, keeper);
    for (const queue of ["maildrop", "hold", "incoming", "active", "deferred"] as const) await capture.inPlace(queue);
    const closed = await capture.close();
    expect(postfix.counts()).toMatchObject({ maildrop: 2, deferred: 4 });
    expect(closed.messages.map((message) => message.queue)).toEqual(Array(4).fill("deferred"));
    expect(closed).toMatchObject({ vanished: 0, finished: 0, incomplete: 0 });
  });

  test("is followed when pickup takes it while the closing listing is read", async () => {
    await using postfix = await PrivatePostfix.start({ main: { master_service_disable: "pickup.unix" } });
    await postfix.submit([plainLetter({ recipients: ["q@refused.test"] })]);
    await postfix.settled();
    await postfix.sendmail(plainLetter({ recipients: ["m@refused.test"] }));
    const keeper = keeperThat(async (kept) => {
      // Called for the second time in the closing pass: the maildrop file is in its listing, the new message is not.
      if (kept.size < 2 || postfix.counts().maildrop === 0) return;
      await resumePickup(postfix);
      await until(() => postfix.counts().deferred === 2, { what: "pickup's work" });
    });
    // All of it is newer than the run: that alone is no reason to look once more.
    const capture = await capturing(postfix, keeper, Date.now() / 1000 - 60);
    await capture.inPlace("maildrop");
    const closed = await capture.close();
    expect(closed.messages.map((message) => message.queue)).toEqual(["deferred", "deferred"]);
    expect(closed).toMatchObject({ vanished: 0, finished: 0 });
  });

  test("a large message is stored as it is after a mark that fell between reading and storing", async () => {
    await using postfix = await PrivatePostfix.start({ main: { message_size_limit: "50000000" } });
    const letter = plainLetter({ recipients: ["a@refused.test", "b@refused.test"], size: 20_000_000 });
    const [sent] = await postfix.submit([letter]);
    await postfix.settled();
    const id = sent?.queueId ?? "";
    const stored: string[] = [];
    let marks = 0;
    const keeper: ByteKeeper = {
      ...keeperThat(() => {}),
      addLarge: async (digest, fd) => {
        if (marks++ === 0) markDone(postfix.find(id) ?? "", "a@refused.test");
        if (digestOfDescriptor(fd).digest !== digest) return false;
        stored.push(digest);
        return true;
      },
    };
    const capture = await capturing(postfix, keeper);
    await capture.inPlace("deferred");
    const { messages } = await capture.close();
    const large = messages.find((message) => message.queueId === id);
    expect(large?.read.facts.recipients.map(({ done }) => done)).toEqual([true, false]);
    expect(stored).toEqual([large?.read.digest]);
    expect(digestOf(readFileSync(postfix.find(id) ?? "")).digest).toBe(large?.read.digest);
    expect(capture.problems).toEqual([]);
  });
});

describe.skipIf(!needs("root", "postfix"))("files that are no messages", () => {
  test("are reported once, large ones too, and one in maildrop", async () => {
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 10, 1);
    const [small = "", large = ""] = postfix.files("deferred");
    const local = join(postfix.queueDirectory, "maildrop", "ABCDEF12345");
    copyFileSync(small, local);
    // A record of no known type where the end should be.
    for (const path of [local, small, large]) writeAt(path, lstatSync(path).size - 2, "Z");
    writeAt(large, 20 * 1024 * 1024, "E\0");
    const kept = new Set<string>();
    const keeper: ByteKeeper = {
      ...keeperThat(() => {}, kept),
      addLarge: async (digest, fd) => {
        kept.add(digest);
        return digestOfDescriptor(fd).digest === digest;
      },
    };
    const capture = await capturing(postfix, keeper);
    for (const queue of ["maildrop", "deferred"] as const) await capture.inPlace(queue);
    const { messages } = await capture.close();
    expect(messages).toHaveLength(8);
    const ids = [local, small, large].map((path) => basename(path)).sort();
    expect(capture.problems.map((one) => one.queueId).sort()).toEqual(ids);
    expect(capture.damaged.map((one) => one.file.id).sort()).toEqual(ids);
    expect(capture.damaged.every((one) => kept.has(one.digest))).toBe(true);
  });
});

async function capturing(
  postfix: PrivatePostfix,
  keeper: ByteKeeper,
  startedAt: number = Date.now() / 1000,
): Promise<Capture> {
  return new Capture({
    instance: await loadInstance(postfix.configDirectory),
    keeper,
    startedAt,
    locksVisible: true,
    stopped: false,
    placed: new Map(),
    report: () => {},
  });
}

/** A keeper that calls back with the digests it has got so far, each time it gets one. */
function keeperThat(
  act: (kept: ReadonlySet<string>) => void | Promise<void>,
  kept: Set<string> = new Set(),
): ByteKeeper {
  return {
    has: (digest) => kept.has(digest),
    deferLogOf: () => undefined,
    add: async (digest) => {
      kept.add(digest);
      await act(kept);
    },
    addLarge: async () => {
      throw new Error("there is no large file here");
    },
  };
}

/** Mark a recipient done as a delivery agent does. */
function markDone(path: string, address: string): void {
  const facts = readQueueFile(bufferSource(readFileSync(path)));
  const recipient = facts.recipients.find((one) => one.address === address);
  writeAt(path, recipient?.offset ?? -1, "D");
}

function writeAt(path: string, offset: number, text: string): void {
  const fd = openSync(path, "r+");
  try {
    writeSync(fd, text, offset);
  } finally {
    closeSync(fd);
  }
}
