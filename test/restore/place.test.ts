import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import { idForInode, isQueueId, nextMicrosecond } from "../../src/postfix/queue-id.ts";
import {
  dropTemporaries,
  lookFor,
  makeWaitingRooms,
  type Placement,
  Placer,
  sweepTemporaries,
  temporaryPath,
} from "../../src/restore/place.ts";
import { digestOf } from "../../src/system/digest.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { message, noon } from "./entries.ts";

const run = "20261124T120000-01234567";

describe("placing a staged message", () => {
  let root = "";
  let instance: PostfixInstance;
  const renamed: string[] = [];
  beforeEach(() => {
    root = makeScratch();
    renamed.length = 0;
    const queueDirectory = join(root, "spool");
    for (const queue of ["maildrop", "hold", "deferred", "bounce", "defer", "trace", "corrupt"]) {
      mkdirSync(join(queueDirectory, queue), { recursive: true });
    }
    instance = {
      name: "mx",
      configDirectory: "/nowhere",
      queueDirectory,
      dataDirectory: "/nowhere",
      mailOwner: "postfix",
      ownerUid: process.getuid?.() ?? 0,
      ownerGid: process.getgid?.() ?? 0,
      setgidGroup: "postdrop",
      version: "3.7.11",
      longIds: false,
      hashQueues: ["deferred", "defer"],
      hashDepth: 2,
      host: "mx.test",
      maximalQueueLifetimeS: 1,
      bounceQueueLifetimeS: 1,
    };
    makeWaitingRooms(instance, 3);
  });
  afterEach(() => destroyScratch(root));

  function stage(number = 0): Placement {
    const path = temporaryPath(instance, "message", run, number);
    const log = temporaryPath(instance, "defer", run, number);
    writeFileSync(path, `message ${number}`);
    writeFileSync(log, `log ${number}`);
    const { ino, ctimeNs } = statSync(path, { bigint: true });
    return {
      entry: message(),
      message: {
        ...{ number, key: "k", queue: "deferred", mode: 0o644, uid: 0, gid: 0, mtime: noon, role: null },
        ...{ inDoubt: null, recipients: [0], marks: [], served: [], logs: true, waits: false },
      },
      number,
      inode: String(ino),
      changed: String(ctimeNs),
      digest: digestOf(Buffer.from(`message ${number}`)).digest,
      id: idForInode("7E48C16210F", ino, false),
      logs: [{ log: "defer", inode: String(statSync(log, { bigint: true }).ino) }],
    };
  }

  function placer(): Placer {
    return new Placer(instance, { run, directory: join(root, "run") }, (_, id) => renamed.push(id));
  }

  const read = (...path: string[]) => readFileSync(join(instance.queueDirectory, ...path), "utf8");
  const temporaries = () =>
    readdirSync(instance.queueDirectory, { recursive: true, encoding: "utf8" }).filter((name) => name.includes("#"));

  test("gives it the name of its inode, hashed as the instance hashes, with its log, and leaves nothing behind", () => {
    const { id, path } = placer().place(stage());
    expect(path).toBe(join(instance.queueDirectory, "deferred", "7", "E", id));
    expect(read("deferred", "7", "E", id)).toBe("message 0");
    expect(read("defer", "7", "E", id)).toBe("log 0");
    expect(id).toBe(`7E48C${statSync(path).ino.toString(16).toUpperCase()}`);
    expect(statSync(join(path, "..")).mode & 0o777).toBe(0o700);
    expect(temporaries()).toEqual([]);
  });

  test("waits under names that are no queue ids", () => {
    stage();
    expect(temporaries()).toHaveLength(2);
    for (const name of temporaries()) expect(isQueueId(name.split("/").at(-1) ?? "")).toBe(false);
  });

  test.each(["deferred/7/E", "corrupt"])(
    "takes the next microsecond where %s has its name, and touches nothing there",
    (where) => {
      const staged = stage();
      const taken = join(instance.queueDirectory, where);
      mkdirSync(taken, { recursive: true });
      writeFileSync(join(taken, staged.id), "somebody else's");
      const { id } = placer().place(staged);
      expect(id).toBe(nextMicrosecond(staged.id));
      expect(renamed).toEqual([id]);
      expect(readFileSync(join(taken, staged.id), "utf8")).toBe("somebody else's");
      expect(existsSync(join(instance.queueDirectory, "defer/7/E", staged.id))).toBe(false);
      expect(read("defer/7/E", id)).toBe("log 0");
    },
  );

  test("moves a log aside that has its name and no message, and keeps it", () => {
    const staged = stage();
    mkdirSync(join(instance.queueDirectory, "defer/7/E"), { recursive: true });
    writeFileSync(join(instance.queueDirectory, "defer/7/E", staged.id), "an orphan");
    const one = placer();
    one.place(staged);
    expect(read("defer/7/E", staged.id)).toBe("log 0");
    expect(one.movedAside.map((path) => readFileSync(path, "utf8"))).toEqual(["an orphan"]);
  });

  test("finds what a killed run left of a message, whichever system call was its last", () => {
    const look = (staged: Placement) => lookFor(instance, run, staged);
    const temporary = (number: number) => temporaryPath(instance, "message", run, number);
    const waiting = stage(0);
    expect(look(waiting)).toBe("waiting");

    const linked = stage(1);
    linkSync(temporary(1), join(instance.queueDirectory, "deferred", linked.id));
    expect(look(linked)).toBe("placed");
    dropTemporaries(instance, run, linked);
    expect(look(linked)).toBe("placed");
    expect(read("deferred", linked.id)).toBe("message 1");

    const delivered = stage(2);
    linkSync(temporary(2), join(instance.queueDirectory, "deferred", delivered.id));
    unlinkSync(join(instance.queueDirectory, "deferred", delivered.id));
    expect(look(delivered)).toBe("unknown");
  });

  test("sweeps what is left of one run and nothing else", () => {
    stage(0);
    const other = temporaryPath(instance, "message", "20261124T120000-76543210", 0);
    writeFileSync(other, "of another run");
    writeFileSync(join(instance.queueDirectory, "hold", "7E48C16210F"), "mail");
    sweepTemporaries(instance, run);
    expect(temporaries()).toHaveLength(1);
    expect(read("hold", "7E48C16210F")).toBe("mail");
    expect(existsSync(other)).toBe(true);
  });
});
