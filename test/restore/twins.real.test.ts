import { spawn } from "node:child_process";
import { chownSync, copyFileSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { idForInode } from "../../src/postfix/queue-id.ts";
import { findTwins } from "../../src/restore/twins.ts";
import { entryKey } from "../../src/snapshot/manifest.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until, userId } from "../support/postfix.ts";
import { entriesOf } from "./queued.ts";

/** Renames random messages between incoming, active and deferred, in both directions, as fast as it can until it is killed. */
const mover = `
const fs = require("node:fs");
const [queueDirectory, ...ids] = process.argv.slice(1);
const places = new Map(ids.map((id) => [id, "deferred/" + id[0]]));
const queues = (id) => ["incoming", "active", "deferred/" + id[0]];
process.stdout.write("moving\\n");
for (;;) {
  const id = ids[Math.floor(Math.random() * ids.length)];
  const to = queues(id)[Math.floor(Math.random() * 3)];
  if (to === places.get(id)) continue;
  fs.renameSync(queueDirectory + "/" + places.get(id) + "/" + id, queueDirectory + "/" + to + "/" + id);
  places.set(id, to);
}`;

const placeOf = ({ queueDirectory }: PrivatePostfix, hashDepth = 1) => ({ queueDirectory, hashDepth });

/** The same bytes in a new file, as on another disk; the name follows the inode, as a restore and `postsuper -s` make it. */
function renewed(path: string, long: boolean): string {
  const copy = join(dirname(path), "copy#");
  copyFileSync(path, copy);
  chownSync(copy, userId("postfix"), -1);
  const name = join(dirname(path), idForInode(basename(path), statSync(copy).ino, long));
  rmSync(path);
  renameSync(copy, name);
  return name;
}

describe.skipIf(!needs("root", "postfix"))("twins in a real queue", () => {
  test.concurrent.each([
    { longIds: false, hashQueueDepth: 2 },
    { longIds: true, hashQueueNames: "defer" },
  ])("are found on hold, in active, and in new files under new names: %o", async (options) => {
    await using postfix = await PrivatePostfix.create(options);
    await fillDeferred(postfix, 60);
    const paths = postfix.files("deferred");
    const entries = entriesOf(paths);
    const [held, active, gone] = [paths.slice(0, 10), paths.slice(10, 20), paths.slice(20, 30)];
    await postfix.hold(held.map((path) => basename(path)));
    for (const path of active) renameSync(path, join(postfix.queueDirectory, "active", basename(path)));
    for (const path of gone) rmSync(path);
    const names = paths.slice(30).map((path) => basename(renewed(path, options.longIds)));
    expect(await postfix.postsuper(["-s"])).not.toMatch(/[Rr]enamed/);

    const twins = await findTwins(placeOf(postfix), entries);
    const found = entries.map((entry) => twins.get(entryKey(entry)));
    expect(found.map((twin) => twin?.queue)).toEqual([
      ...held.map(() => "hold"),
      ...active.map(() => "active"),
      ...gone.map(() => undefined),
      ...names.map(() => "deferred"),
    ]);
    expect(found.slice(30).map((twin) => twin?.id)).toEqual(names);
  });

  test.concurrent("none is missed while all are tried every second and new mail flows", async () => {
    await using postfix = await PrivatePostfix.start({ retrySeconds: 1 });
    const letters = Array.from({ length: 150 }, (_, n) =>
      plainLetter({ recipients: n % 3 === 0 ? ["a@later.test", "b@discard.test"] : ["a@later.test"] }),
    );
    await postfix.submit(letters);
    // What qmgr meets in an agent's hands waits a minute in incoming.
    await postfix.settled(150_000);
    await postfix.stop();
    const entries = entriesOf(postfix.files("deferred"));
    expect(entries).toHaveLength(150);
    await postfix.start();
    let over = false;
    const flow = (async () => {
      while (!over)
        await postfix.submit(Array.from({ length: 20 }, () => plainLetter({ recipients: ["c@discard.test"] })));
    })();
    try {
      const tried = () => postfix.log().split("to=<a@later.test>").length;
      for (let round = 0; round < 20; round++) {
        const before = tried();
        await until(() => tried() > before, { everyMs: 10, what: "messages being tried" });
        const twins = await findTwins(placeOf(postfix), entries);
        expect(entries.filter((entry) => !twins.has(entryKey(entry))).map(({ queueId }) => queueId)).toEqual([]);
        const done = entries.map((entry) => twins.get(entryKey(entry))?.done);
        expect(done).toEqual(
          entries.map(({ recipients }) => recipients.map(({ address }) => address.startsWith("b@"))),
        );
      }
    } finally {
      over = true;
      await flow;
    }
  });

  test.concurrent("none is missed while files are renamed in both directions as fast as it goes", async () => {
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 500);
    const paths = postfix.files("deferred");
    const entries = entriesOf(paths);
    const ids = paths.map((path) => basename(path));
    const moving = spawn(process.execPath, ["-e", mover, postfix.queueDirectory, ...ids], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await new Promise((resolve) => moving.stdout.once("data", resolve));
      for (let round = 0; round < 3; round++) expect((await findTwins(placeOf(postfix), entries)).size).toBe(500);
    } finally {
      moving.kill("SIGKILL");
    }
  });

  test.concurrent("where header_checks strip Received, each of two equal texts of one second has its own", async () => {
    const main = { header_checks: "regexp:{{/^Received:/ IGNORE}}" };
    await using postfix = await PrivatePostfix.start({ main });
    const letter = plainLetter({ recipients: ["a@later.test"] });
    await postfix.submit(Array.from({ length: 40 }, (_, n) => ({ ...letter, recipients: [`${n % 2}@later.test`] })));
    await postfix.settled();
    await postfix.stop();
    const entries = entriesOf(postfix.files("deferred"));
    const texts = new Set(entries.map(({ created, content }) => `${created} ${content}`));
    expect(texts.size).toBeLessThan(20); // by these alone, many would be the same message
    for (const path of postfix.files("deferred")) renewed(path, false);
    const twins = await findTwins(placeOf(postfix), entries);
    const recipients = [...twins.values()].map(
      ({ path }) => readQueueFile(bufferSource(readFileSync(path))).recipients[0]?.address,
    );
    expect(recipients).toEqual(entries.map((entry) => entry.recipients[0]?.address));
    expect(new Set([...twins.values()].map(({ inode }) => inode)).size).toBe(40);
    const [first] = twins.values();
    rmSync(first?.path ?? "");
    expect((await findTwins(placeOf(postfix), entries)).size).toBe(39);
  });

  test.concurrent("a local submission stands for itself only, and for nothing once pickup has taken it", async () => {
    await using postfix = await PrivatePostfix.create();
    const letter = plainLetter({ recipients: ["a@later.test"] });
    await Promise.all([postfix.sendmail(letter), postfix.sendmail(letter)]);
    const [first = "", second = ""] = postfix.files("maildrop");
    const entries = entriesOf([first, second], "maildrop");
    expect((await findTwins(placeOf(postfix), entries)).size).toBe(2);
    rmSync(first);
    expect([...(await findTwins(placeOf(postfix), entries)).values()].map(({ id }) => id)).toEqual([basename(second)]);
    await postfix.start();
    await until(() => postfix.files("deferred").length === 1, { what: "the message, picked up" });
    expect(await findTwins(placeOf(postfix), entries)).toEqual(new Map());
  });
});
