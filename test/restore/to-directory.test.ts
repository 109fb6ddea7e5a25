import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { pack as tarPack } from "tar-stream";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { seal } from "../../src/crypto/seal.ts";
import { packEntryName } from "../../src/pack/pack.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { Workers } from "../../src/pack/workers.ts";
import type { SignedSnapshot } from "../../src/repository/repository.ts";
import { restoreToDirectory, type ToDirectoryJob } from "../../src/restore/to-directory.ts";
import type { ManifestEntry } from "../../src/snapshot/manifest.ts";
import { digestOf } from "../../src/system/digest.ts";
import { tryLock } from "../../src/system/lock.ts";
import { HandMade, type HandMadeFile, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const workers = new Workers(1);
afterAll(() => workers.close());

function fixture(name: string): Buffer {
  const bytes = queueFiles.get(name);
  if (bytes === undefined) throw new Error(`no fixture ${name}`);
  return bytes;
}

function job(made: HandMade, signed: SignedSnapshot, directory: string, more: object = {}): ToDirectoryJob {
  const { repository, identities, trusted } = made;
  const reader = new PackReader({ identities, processors: 1, workers });
  return {
    source: { repository, identities, signed, trusted },
    ...{ directory, instance: undefined, reader, processors: 1, ...more },
  };
}

async function whole(stream: AsyncIterable<unknown>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of stream) pieces.push(Buffer.from(piece as Uint8Array));
  return Buffer.concat(pieces);
}

function tree(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => !lstatSync(join(directory, name)).isDirectory())
    .sort();
}

const secret: HandMadeFile = {
  bytes: Buffer.from("[relay.test] user:password\n"),
  over: { area: "named", path: "/etc/postfix-secrets/sasl_passwd", mode: 0o600 },
};
const files: readonly HandMadeFile[] = [
  { over: { area: "config", path: "/etc/postfix", type: "directory", mode: 0o755 } },
  { bytes: Buffer.from("myhostname = mx.test\n"), over: { area: "config", path: "/etc/postfix/main.cf" } },
  {
    over: {
      area: "config",
      path: "/etc/postfix/makedefs.out",
      type: "link",
      target: "/usr/share/postfix/makedefs.out",
    },
  },
  secret,
  { bytes: Buffer.from("mx.test\n"), over: { instance: null, area: "include", path: "/etc/mailname" } },
  { bytes: Buffer.from("what it said\n"), over: { area: "report", path: "postconf-n" } },
  { bytes: fixture("verbose"), over: { area: "evidence", path: "corrupt/ABCDEF1" } },
];

describe.skipIf(!needs("flock"))("a snapshot restored as files", () => {
  let made: HandMade;
  let signed: SignedSnapshot;
  let scratch = "";
  beforeAll(async () => {
    made = await HandMade.make();
    const owner = { user: "root", group: "root", uid: 0, gid: 0 };
    const messages = [
      { bytes: fixture("plain"), logs: { defer: "a log" }, over: { owner } },
      { bytes: fixture("dsn"), over: { queue: "hold" as const, owner } },
      { bytes: fixture("maildrop-t"), over: { queue: "maildrop" as const, mode: 0o744, owner } },
    ];
    ({ signed } = await made.take({ messages, files }));
  });
  afterAll(async () => made[Symbol.asyncDispose]());
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => destroyScratch(scratch));

  test("is all there, byte by byte, with mode and time, secrets closed to others, links as links", async () => {
    const to = join(scratch, "new");
    const report = await restoreToDirectory(job(made, signed, to));
    expect(report).toMatchObject({
      messages: 3,
      logs: 1,
      files: 6,
      renamed: [],
      queues: { deferred: 1, hold: 1, maildrop: 1 },
    });
    expect(tree(to)).toEqual([
      "host/files/etc/mailname",
      "mx/config/main.cf",
      "mx/config/makedefs.out",
      "mx/files/etc/postfix-secrets/sasl_passwd",
      "mx/queue/corrupt/ABCDEF1",
      "mx/queue/defer/7E48C16210F",
      "mx/queue/deferred/7E48C16210F",
      "mx/queue/hold/7E48C162110",
      "mx/queue/maildrop/7E48C162111",
      "mx/reports/postconf-n",
    ]);
    expect(readFileSync(join(to, "mx/queue/deferred/7E48C16210F"))).toEqual(fixture("plain"));
    expect(readFileSync(join(to, "mx/queue/defer/7E48C16210F"), "utf8")).toBe("a log");
    expect(statSync(join(to, "mx/queue/deferred/7E48C16210F"))).toMatchObject({
      mode: 0o100700,
      mtimeMs: expect.closeTo(1_795_000_000_500, 2),
    });
    expect(statSync(join(to, "mx/files/etc/postfix-secrets/sasl_passwd")).mode & 0o777).toBe(0o600);
    expect(readlinkSync(join(to, "mx/config/makedefs.out"))).toBe("/usr/share/postfix/makedefs.out");
    expect(statSync(to).mode & 0o777).toBe(0o700);
  });

  test("of one instance has nothing of the host", async () => {
    const to = join(scratch, "new");
    await restoreToDirectory(job(made, signed, to, { instance: "mx" }));
    expect(readdirSync(to)).toEqual(["mx"]);
  });

  test("may go into a directory that is there and empty, and removes what a killed run left in it", async () => {
    mkdirSync(join(scratch, ".spoolsafe-partial/mx/queue"), { recursive: true });
    writeFileSync(join(scratch, ".spoolsafe-partial/mx/queue/half"), "half a fi");
    const empty = join(scratch, "empty");
    mkdirSync(join(empty, ".spoolsafe-partial"), { recursive: true });
    writeFileSync(join(empty, ".spoolsafe-partial/half"), "half a fi");
    await restoreToDirectory(job(made, signed, empty));
    expect(readdirSync(empty).sort()).toEqual(["host", "mx"]);
  });

  test.each([
    [
      "a directory with something in it",
      (to: string) => {
        mkdirSync(to);
        writeFileSync(join(to, "x"), "");
      },
      /is not empty/,
    ],
    ["a file", (to: string) => writeFileSync(to, ""), /is not a directory/],
  ])("refuses %s, and changes nothing", async (_, prepare, message) => {
    const to = join(scratch, "there");
    prepare(to);
    const before = readdirSync(scratch, { recursive: true });
    const error = await errorOf(() => restoreToDirectory(job(made, signed, to)));
    expect(error).toMatchObject({ kind: "refused", message: expect.stringMatching(message) });
    expect(readdirSync(scratch, { recursive: true })).toEqual(before);
  });

  test("refuses a directory in which another run is at work", async () => {
    const lock = await tryLock(scratch);
    const to = join(scratch, "busy");
    mkdirSync(to);
    const busy = await tryLock(to);
    try {
      expect(await errorOf(() => restoreToDirectory(job(made, signed, to)))).toMatchObject({ kind: "locked" });
    } finally {
      await busy?.release();
      await lock?.release();
    }
  });

  test("from a damaged pack leaves nothing, not even the directory", async () => {
    const one = await HandMade.make();
    await using _one = one;
    const taken = await one.take({ messages: [{ bytes: fixture("plain") }] });
    const [pack] = taken.signed.snapshot.packs;
    const path = one.path(`packs/${pack?.id.slice(0, 2)}/${pack?.id}`);
    const bytes = readFileSync(path);
    bytes[200] = (bytes[200] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    const to = join(scratch, "new");
    const error = await errorOf(() => restoreToDirectory(job(one, taken.signed, to)));
    expect(error).toMatchObject({ kind: "damaged", message: expect.stringContaining(pack?.id.slice(0, 12) ?? "") });
    expect(existsSync(to)).toBe(false);
  });

  test.each(["../escaped", "/tmp/spoolsafe-escaped", "files/../../escaped"])(
    "never writes what a pack calls %s",
    async (name) => {
      const one = await HandMade.make();
      await using _one = one;
      const bytes = fixture("plain");
      const tar = tarPack();
      tar.entry({ name: packEntryName(digestOf(bytes).digest) }, bytes);
      tar.entry({ name }, "escaped");
      tar.finalize();
      const sealed = await seal(zstdCompressSync(await whole(tar)), one.recipients);
      const pack = digestOf(sealed).digest;
      await one.repository.putPack(pack, sealed);
      const toHostile = (entries: ManifestEntry[]) =>
        entries.map((entry) => (entry.file === null ? entry : { ...entry, file: { ...entry.file, pack } }));
      const taken = await one.take({
        messages: [{ bytes }],
        spoil: toHostile as (entries: ManifestEntry[]) => ManifestEntry[],
        over: { packs: [{ id: pack, bytes: sealed.length }] },
      });
      const to = join(scratch, "new");
      const error = await errorOf(() => restoreToDirectory(job(one, taken.signed, to)));
      expect(error).toMatchObject({ kind: "damaged", message: expect.stringContaining(`tar entry "${name}"`) });
      expect(existsSync(to)).toBe(false);
      for (const place of [scratch, dirname(scratch)]) expect(existsSync(join(place, "escaped"))).toBe(false);
      expect(existsSync("/tmp/spoolsafe-escaped")).toBe(false);
    },
  );

  test.each(["../x", "/etc/../../x"])("never writes what a manifest calls %s", async (path) => {
    const one = await HandMade.make();
    await using _one = one;
    const taken = await one.take({ files: [{ bytes: Buffer.from("x"), over: { area: "named", path } }] });
    const to = join(scratch, "a", "b");
    mkdirSync(dirname(to));
    expect(await errorOf(() => restoreToDirectory(job(one, taken.signed, to)))).toMatchObject({ kind: "damaged" });
    expect(tree(scratch)).toEqual([".owner"]);
  });

  test("never writes through a link of the snapshot", async () => {
    const outside = join(scratch, "outside");
    mkdirSync(outside);
    const one = await HandMade.make();
    await using _one = one;
    const link: HandMadeFile = { over: { area: "named", path: "/etc/x", type: "link", target: outside } };
    const inside: HandMadeFile = { bytes: Buffer.from("x"), over: { area: "named", path: "/etc/x/file" } };
    const taken = await one.take({ files: [link, inside] });
    const report = await restoreToDirectory(job(one, taken.signed, join(scratch, "new")));
    expect(readdirSync(outside)).toEqual([]);
    expect(report.renamed).toEqual([{ from: "mx/files/etc/x", to: "mx/files/etc/x.2" }]);
    expect(readFileSync(join(scratch, "new/mx/files/etc/x/file"), "utf8")).toBe("x");
  });
});
