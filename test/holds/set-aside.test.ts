import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { listAside, putBack, setAside } from "../../src/holds/set-aside.ts";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { idForInode } from "../../src/postfix/queue-id.ts";
import { watchDisk } from "../support/disk-order.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

const claim = "c".repeat(64);
const id = "7E48C16210F";
const bytes = Buffer.from("what sendmail left");
let made = 0;
let state: string;
let instance: PostfixInstance;
let maildrop: string;

beforeEach(() => {
  const directory = join(scratch, String(++made));
  state = join(directory, "state");
  maildrop = join(directory, "spool", "maildrop");
  for (const path of [state, maildrop]) mkdirSync(path, { recursive: true });
  // Only what these functions look at.
  instance = { name: "mx", queueDirectory: join(directory, "spool"), longIds: false } as PostfixInstance;
  writeFileSync(join(maildrop, id), bytes, { mode: 0o744 });
  utimesSync(join(maildrop, id), 1_790_000_000, 1_790_000_000);
});

const aside = () => setAside(state, instance, { path: join(maildrop, id), id }, claim, "2026-11-24T02:00:00.000Z");

describe("a file of maildrop", () => {
  test("is out of pickup's reach, whole, and comes back under a name of its new inode", () => {
    const { file } = aside();
    expect(readdirSync(maildrop)).toEqual([]);
    expect(readFileSync(file)).toEqual(bytes);
    const [listed, ...others] = listAside(state, instance);
    expect({ listed, others }).toMatchObject({
      listed: { claim, queueId: id, instance: "mx", returning: null },
      others: [],
    });
    if (listed === undefined) throw new Error("nothing is aside");
    const back = putBack(listed, instance);
    const stat = lstatSync(join(maildrop, back));
    expect(back).toBe(idForInode(id, stat.ino, false));
    expect({ mode: stat.mode & 0o777, mtime: stat.mtimeMs }).toEqual({ mode: 0o744, mtime: 1_790_000_000_000 });
    expect(readFileSync(join(maildrop, back))).toEqual(bytes);
    expect(listAside(state, instance)).toEqual([]);
    expect(readdirSync(join(file, ".."))).toEqual([]);
  });

  test("is set aside once, also by a fence that died before it was out of maildrop", () => {
    aside();
    writeFileSync(join(maildrop, id), bytes, { mode: 0o744 });
    aside();
    expect(readdirSync(maildrop)).toEqual([]);
    expect(listAside(state, instance)).toHaveLength(1);
  });

  test("comes back once, whenever the return died", () => {
    // Before it had its name: the temporary file lies there, and is no name pickup knows.
    const first = aside();
    const half = {
      ...JSON.parse(readFileSync(`${first.file}.json`, "utf8")),
      returning: join(maildrop, `${id}.spoolsafe`),
    };
    writeFileSync(half.returning, "torn");
    writeFileSync(`${first.file}.json`, JSON.stringify(half));
    const [again] = listAside(state, instance);
    if (again === undefined) throw new Error("it is lost");
    const back = putBack(again, instance);
    expect(readdirSync(maildrop)).toEqual([back]);
    expect(readFileSync(join(maildrop, back))).toEqual(bytes);
    // After it: pickup may have taken it already, so it must not come back again.
    renameSync(join(maildrop, back), join(maildrop, id));
    const second = aside();
    writeFileSync(`${second.file}.json`, JSON.stringify(half));
    using disk = watchDisk();
    expect(listAside(state, instance)).toEqual([]);
    // Its name in maildrop is on disk before its copy goes: the one that died may not have come to that.
    expect(disk.calls).toEqual([`sync ${maildrop}`, `sync ${join(second.file, "..")}`]);
    expect(readdirSync(maildrop)).toEqual([]);
  });

  test("that was changed while it was aside does not come back", () => {
    const one = aside();
    writeFileSync(one.file, "something else");
    expect(() => putBack(one, instance)).toThrow("is not the file that was set aside");
    expect(readdirSync(maildrop)).toEqual([]);
    rmSync(one.file);
  });
});
