import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AgeRecipients, createIdentity, parseRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey, type SigningKey } from "../../src/crypto/sign.ts";
import { buildLargePack, buildPack } from "../../src/pack/pack.ts";
import { buildPart } from "../../src/pack/part.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { packKey } from "../../src/repository/layout.ts";
import { recoveryPage } from "../../src/repository/recovery-page.ts";
import { Repository } from "../../src/repository/repository.ts";
import {
  entryKey,
  type FileEntry,
  formatLine,
  type ManifestLine,
  type MessageEntry,
  manifestHeader,
  type StoredFile,
} from "../../src/snapshot/manifest.ts";
import type { ObjectReference, PartReference, Snapshot } from "../../src/snapshot/snapshot.ts";
import { digestOf } from "../../src/system/digest.ts";
import { needs } from "../support/needs.ts";
import { noMessages, snapshotOf } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { scriptOf, strangersPrograms } from "../support/stranger.ts";

describe("the recovery page", () => {
  test("fits a terminal, and its script is plain text a shell understands", () => {
    const page = recoveryPage();
    expect(page).toMatch(/^[\n\t\x20-\x7e]+$/);
    expect(scriptOf(page)).toMatch(/^#!\/bin\/sh\n[\s\S]*\n# THE END\n$/);
    const text = page.slice(0, page.indexOf("#!/bin/sh\n#"));
    for (const line of text.split("\n")) expect(line.length, line).toBeLessThanOrEqual(100);
    expect(spawnSync("sh", ["-n"], { input: scriptOf(page) }).status).toBe(0);
    expect(spawnSync("bash", ["--posix", "-n"], { input: scriptOf(page) }).status).toBe(0);
  });

  test("says what a stranger must know before anything else", () => {
    const text = recoveryPage().replaceAll(/\s+/g, " ");
    expect(text).toContain("NEVER unpack a pack into a mail queue");
    expect(text).toContain("what both deliver arrives twice");
    expect(text).toContain("Without it nobody can open this");
    expect(text).toContain("tried once more and then returned to its sender");
  });
});

describe.skipIf(!needs("root", "age", "zstd", "tar", "openssl"))("a stranger with the recovery page", () => {
  const scratch = makeScratch();
  const root = join(scratch, "a repository");
  const path = join(scratch, "programs");
  let repository: Repository;
  let recipients: AgeRecipients;
  let key: SigningKey;
  let runs = 0;

  beforeAll(async () => {
    strangersPrograms(path);
    const { identity, recipient } = await createIdentity(false);
    writeFileSync(join(scratch, "identity.txt"), `${identity}\n`, { mode: 0o600 });
    writeFileSync(join(scratch, "other.txt"), `${(await createIdentity(false)).identity}\n`, { mode: 0o600 });
    recipients = parseRecipients(recipient, "test");
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(join(scratch, "signing.key"), privatePem, { mode: 0o600 });
    writeFileSync(join(scratch, "trusted.pub"), publicPem);
    writeFileSync(join(scratch, "stranger.pub"), createSigningKey().publicPem);
    key = loadSigningKey(join(scratch, "signing.key"));
    const store = new DirectoryStore(root);
    repository = await Repository.create(store);
    writeFileSync(join(scratch, "recover.sh"), scriptOf(readFileSync(join(root, "RECOVER.txt"), "utf8")));
  });
  afterAll(() => destroyScratch(scratch));

  /** Run a step of the script with nothing in PATH but what the page names. */
  function recover(step: string, env: Record<string, string>) {
    const result = spawnSync("sh", [join(scratch, "recover.sh"), step], {
      cwd: scratch,
      env: { PATH: path, REPOSITORY: root, IDENTITY: "identity.txt", ...env },
      encoding: "utf8",
    });
    return { ...result, said: result.stdout + result.stderr };
  }

  function newWork(): string {
    return join(scratch, `work ${++runs}`);
  }

  // What the snapshots hold.
  const contents = new Map<string, Buffer>();
  const old = message("4A0B1C16210F", "an older version of a message");
  const retried = { ...old, file: stored("the message with a done mark"), mtime: 1_795_600_123 };
  const gone = message("4A0B1C162110", "a message that is gone in the second snapshot");
  const held = {
    ...message("4A0B1C162111", "held by an administrator"),
    queue: "hold" as const,
    role: { kind: "admin" as const },
  };
  const active = {
    ...message("4A0B1C162112", "in active"),
    queue: "active" as const,
    mode: 0o740,
    mtime: 1_795_500_000.25,
  };
  const longId = {
    ...message("4jY5j73J8pzBvYj", "with a long id and one recipient too many"),
    recipients: manyRecipients(),
  };
  const inFlight = { ...message("4A0B1C162113", "being delivered"), queue: "active" as const, inFlight: true };
  const finished = { ...message("4A0B1C162114", "delivered meanwhile"), finished: true };
  const dropped = {
    ...message("7E48C162115", "in maildrop"),
    queue: "maildrop" as const,
    mode: 0o744,
    owner: owner("nobody", "mail"),
  };
  const homeless = {
    ...message("7E48C162116", "of a user nobody knows here"),
    queue: "maildrop" as const,
    owner: owner("nobody-here", "mail"),
  };
  const large = message("4A0B1C162117", randomBytes(17 * 1024 * 1024));
  const elsewhere = { ...message("4A0B1C162118", "of another instance"), instance: "postfix-out" };
  const logged = message("4A0B1C162119", "with logs");
  const namesake = {
    ...message("4A0B1C162119", "that got the name of one delivered meanwhile"),
    created: "1795500900",
  };

  function message(queueId: string, text: string | Buffer): MessageEntry {
    return {
      kind: "message",
      instance: "etc_postfix",
      queueId,
      created: "1795500000",
      content: digestOf(Buffer.from(text)).digest,
      queue: "deferred",
      mode: 0o700,
      owner: owner("daemon", "daemon"),
      mtime: 1_795_503_600,
      file: stored(text),
      logs: [],
      sender: 'od"d,"finished":true@a.test',
      recipients: [{ address: "bob@b.test", done: false }],
      size: text.length,
      arrival: 1_795_500_000.5,
      messageId: null,
      contentFilter: null,
      sendopts: 0,
      delayWarning: null,
      inFlight: false,
      role: null,
      finished: false,
    };
  }

  function manyRecipients() {
    return Array.from({ length: 5000 }, (_, index) => ({
      address: `recipient-${index}@b.test`,
      done: index % 2 === 0,
    }));
  }

  function owner(user: string, group: string) {
    return { user, group, uid: 1, gid: 1 };
  }

  /** The pack is filled in when it is known. */
  function stored(text: string | Buffer): StoredFile {
    const bytes = Buffer.from(text);
    const { digest } = digestOf(bytes);
    if (bytes.length > 0 || !contents.has(digest)) contents.set(digest, bytes);
    return { digest, bytes: bytes.length, pack: "" };
  }

  function log(kind: "bounce" | "defer" | "trace", text: string) {
    return { log: kind, mode: 0o600, mtime: 1_795_500_007, ...stored(text) };
  }

  function configFile(file: string, over: Partial<FileEntry> = {}): FileEntry {
    const base = { kind: "file", instance: "etc_postfix", area: "config", type: "file", target: null } as const;
    const facts = {
      mode: 0o644,
      owner: owner("root", "root"),
      mtime: 1_700_000_000,
      file: stored(`the bytes of ${file}`),
    };
    return { ...base, ...facts, path: file, ...over };
  }

  /** Store what the lines name and is not stored yet, then the part. */
  const where = new Map<string, string>();
  async function store(kind: "base" | "increment", lines: readonly ManifestLine[], aside: readonly StoredFile[] = []) {
    const files = [...lines.flatMap(filesOf), ...aside];
    const fresh = [...new Set(files.map(({ digest }) => digest))].filter((digest) => !where.has(digest));
    const bytesOf = (digest: string) => contents.get(digest) ?? Buffer.alloc(0);
    const small = fresh.filter((digest) => bytesOf(digest).length <= 16 * 1024 * 1024);
    const packs: ObjectReference[] = [];
    if (small.length > 0) {
      const pack = await buildPack(
        small.map((digest) => ({ digest, bytes: bytesOf(digest) })),
        recipients,
      );
      await repository.putPack(pack.id, pack.sealed);
      packs.push({ id: pack.id, bytes: pack.sealed.length });
      for (const digest of small) where.set(digest, pack.id);
    }
    for (const digest of fresh.filter((each) => !small.includes(each))) {
      writeFileSync(join(scratch, "large"), bytesOf(digest));
      const source = openSync(join(scratch, "large"), "r");
      const pack = await buildLargePack(
        source,
        digest,
        bytesOf(digest).length,
        recipients,
        join(scratch, "large.pack"),
      );
      await repository.putPack(pack.id, { file: pack.file, bytes: pack.bytes });
      packs.push({ id: pack.id, bytes: pack.bytes });
      where.set(digest, pack.id);
    }
    const text = manifestHeader(kind, "mx1.example.org") + lines.map((line) => formatLine(placed(line))).join("");
    const part = await buildPart(text, recipients);
    await repository.putPart(part.id, part.sealed);
    return { packs, part: { id: part.id, bytes: part.sealed.length, kind } satisfies PartReference };
  }

  function filesOf(line: ManifestLine): StoredFile[] {
    if (line.kind === "gone") return [];
    if (line.kind === "file") return line.file === null ? [] : [line.file];
    return [line.file, ...line.logs];
  }

  function placed(line: ManifestLine): ManifestLine {
    const at = <File extends StoredFile>(file: File): File => ({ ...file, pack: where.get(file.digest) ?? "" });
    if (line.kind === "gone") return line;
    if (line.kind === "file") return { ...line, file: line.file && at(line.file) };
    return { ...line, file: at(line.file), logs: line.logs.map(at) };
  }

  async function commit(number: number, previous: string | null, over: Partial<Snapshot>) {
    const time = `2026-11-2${number}T02:00:00.000Z`;
    const record = snapshotOf(key, { repository: repository.id, number, previous, time, ...over });
    return (await repository.commit(record, key)).id;
  }

  let first: string;
  let second: string;
  beforeAll(async () => {
    const logs = [log("defer", ""), log("bounce", "bounced: mailbox full"), log("trace", "")];
    const files = [
      configFile("/etc/postfix/main.cf", { mode: 0o640 }),
      configFile("/etc/postfix", { type: "directory", mode: 0o755, file: null }),
      configFile('/etc/postfix/it\'s a map\n%20 50% "x" ü', { area: "named" }),
      configFile("/etc/postfix/link", { type: "link", file: null, target: '/etc/it\'s "quoted" \\ here' }),
      configFile("/etc/mailname", { instance: null, area: "include", owner: owner("nobody-here", "mail") }),
      configFile("postconf -n", { area: "report" }),
      configFile("corrupt/4A0B1C162120", { area: "evidence" }),
    ];
    const base = await store("base", [old, gone, held, active, elsewhere, ...files]);
    first = await commit(1, null, { parts: [base.part], packs: base.packs, messages: { ...noMessages, total: 5 } });
    const increment = await store("increment", [
      retried,
      { kind: "gone", key: entryKey(gone) },
      longId,
      inFlight,
      finished,
      dropped,
      homeless,
      large,
      { ...logged, logs },
      namesake,
    ]);
    second = await commit(2, first, {
      parts: [base.part, increment.part],
      packs: [...base.packs, ...increment.packs],
      tags: ['odd ","time":"1999", "total":7 ]'],
      messages: { ...noMessages, total: 12 },
    });
  });

  function queueOf(spool: string): Record<string, unknown> {
    const found: Record<string, unknown> = {};
    for (const directory of readdirSync(spool)) {
      for (const name of readdirSync(join(spool, directory))) {
        const file = join(spool, directory, name);
        const { mode, mtimeMs, uid, nlink } = statSync(file);
        const content = digestOf(readFileSync(file)).digest;
        found[`${directory}/${name}`] = {
          content,
          mode: (mode & 0o7777).toString(8),
          mtime: mtimeMs / 1000,
          uid,
          nlink,
        };
      }
    }
    return found;
  }

  function uid(user: string): number {
    return Number(spawnSync("id", ["-u", user], { encoding: "utf8" }).stdout);
  }

  function expected(entry: MessageEntry, mode = "700", user = "daemon") {
    return { content: entry.file.digest, mode, mtime: entry.mtime, uid: uid(user), nlink: 1 };
  }

  test("lists the backups, oldest first", () => {
    const { stdout, status } = recover("list", {});
    expect(status).toBe(0);
    expect(stdout.trim().split("\n")).toEqual([
      `2026-11-21T02:00:00.000Z mx1.example.org 5 snapshots/${key.writer}/0000000001-${first}`,
      `2026-11-22T02:00:00.000Z mx1.example.org 12 snapshots/${key.writer}/0000000002-${second}`,
    ]);
  });

  test("recovers the whole queue of the second of two backups", () => {
    const env = { WORK: newWork(), TRUSTED: "trusted.pub", INSTANCE: "etc_postfix" };
    const unpacked = recover("unpack", env);
    expect(unpacked.said).toContain("Signature Verified Successfully");
    expect(unpacked.said).toContain("12 messages, 7 other files, 0 of all these damaged or missing");
    expect(unpacked.status).toBe(0);
    const spool = join(scratch, "spool of all");
    mkdirSync(spool);
    const { status, said } = recover("spool", { ...env, SPOOL: spool });
    expect(said).toMatch(/postsuper -s/);
    expect(status).toBe(0);
    const empty = digestOf(Buffer.alloc(0)).digest;
    const logFile = (text: string) => ({
      ...expected(logged, "600"),
      content: digestOf(Buffer.from(text)).digest,
      mtime: 1_795_500_007,
    });
    expect(queueOf(spool)).toEqual({
      [`deferred/${retried.queueId}`]: expected(retried),
      [`deferred/${longId.queueId}`]: expected(longId),
      [`deferred/${large.queueId}`]: expected(large),
      [`deferred/${logged.queueId}`]: expected(logged),
      [`deferred/${namesake.queueId}0`]: expected(namesake),
      [`defer/${logged.queueId}`]: { ...logFile(""), content: empty },
      [`bounce/${logged.queueId}`]: logFile("bounced: mailbox full"),
      [`trace/${logged.queueId}`]: { ...logFile(""), content: empty },
      [`incoming/${active.queueId}`]: expected(active, "740"),
      [`hold/${held.queueId}`]: expected(held),
      [`hold/${inFlight.queueId}`]: expected(inFlight),
      [`hold/${finished.queueId}`]: expected(finished),
      [`maildrop/${dropped.queueId}`]: expected(dropped, "744", "nobody"),
    });
    const left = readFileSync(join(env.WORK, "not-placed"), "utf8").trim().split("\n");
    expect(left).toEqual([expect.stringMatching(/^no such user here: message\t.*7E48C162116/)]);
  });

  test("recovers the first one too, by its name, without the key of the signature", () => {
    const env = { WORK: newWork(), RECORD: `snapshots/${key.writer}/0000000001-${first}`, INSTANCE: "etc_postfix" };
    expect(recover("unpack", env).said).toContain("the signature is not looked at");
    const spool = join(scratch, "spool of the first");
    mkdirSync(spool);
    expect(recover("spool", { ...env, SPOOL: spool, DOUBTFUL: "deliver" }).status).toBe(0);
    expect(Object.keys(queueOf(spool)).sort()).toEqual(
      [
        `deferred/${old.queueId}`,
        `deferred/${gone.queueId}`,
        `hold/${held.queueId}`,
        `incoming/${active.queueId}`,
      ].sort(),
    );
    expect(queueOf(spool)[`deferred/${old.queueId}`]).toEqual(expected(old));
  });

  test("delivers what is in doubt where that is asked for, and an instance by its name", () => {
    const env = { WORK: newWork() };
    expect(recover("unpack", env).status).toBe(0);
    const spool = join(scratch, "spool of doubt");
    mkdirSync(spool);
    const several = recover("spool", { ...env, SPOOL: spool });
    expect(several.said).toContain("several instances, choose with INSTANCE: etc_postfix postfix-out");
    expect(several.status).toBe(1);
    expect(recover("spool", { ...env, SPOOL: spool, INSTANCE: "postfix-out" }).status).toBe(0);
    expect(Object.keys(queueOf(spool))).toEqual([`deferred/${elsewhere.queueId}`]);
    const again = recover("spool", { ...env, SPOOL: spool, INSTANCE: "etc_postfix" });
    expect(again.said).toContain("is not empty");
    expect(again.status).toBe(1);
    expect(Object.keys(queueOf(spool))).toEqual([`deferred/${elsewhere.queueId}`]);
    const other = join(scratch, "spool of no doubt");
    mkdirSync(other);
    expect(recover("spool", { ...env, SPOOL: other, INSTANCE: "etc_postfix", DOUBTFUL: "deliver" }).status).toBe(0);
    expect(Object.keys(queueOf(other))).toEqual(
      expect.arrayContaining([`incoming/${inFlight.queueId}`, `deferred/${finished.queueId}`, `hold/${held.queueId}`]),
    );
  });

  test("gets the configuration out, whatever its files are called", () => {
    const env = { WORK: newWork() };
    recover("unpack", env);
    const { status, said } = recover("config", env);
    expect(said).toContain("7 files, directories and links");
    expect(said).toContain("no owner nobody-here:mail here: -/include/etc/mailname");
    expect(status).toBe(0);
    const config = join(env.WORK, "config");
    const text = (file: string) => readFileSync(join(config, file), "utf8");
    expect(text("etc_postfix/config/etc/postfix/main.cf")).toBe("the bytes of /etc/postfix/main.cf");
    expect(statSync(join(config, "etc_postfix/config/etc/postfix/main.cf"))).toMatchObject({
      mode: 0o100640,
      mtimeMs: 1.7e12,
    });
    expect(statSync(join(config, "etc_postfix/config/etc/postfix")).mode & 0o777).toBe(0o755);
    expect(text('etc_postfix/named/etc/postfix/it\'s a map\n%20 50% "x" ü')).toContain("it's a map");
    expect(readlinkSync(join(config, "etc_postfix/config/etc/postfix/link"))).toBe('/etc/it\'s "quoted" \\ here');
    expect(text("-/include/etc/mailname")).toBe("the bytes of /etc/mailname");
    expect(text("etc_postfix/report/postconf -n")).toBe("the bytes of postconf -n");
    expect(text("etc_postfix/evidence/corrupt/4A0B1C162120")).toContain("corrupt");
    expect(lstatSync(config).mode & 0o777).toBe(0o700);
  });

  describe("is stopped", () => {
    test("by another identity, before anything is placed", () => {
      const env = { WORK: newWork(), IDENTITY: "other.txt" };
      const { status, said } = recover("unpack", env);
      expect(status).toBe(1);
      expect(said).toMatch(/no identity matched/);
      expect(recover("spool", { ...env, SPOOL: scratch }).status).toBe(1);
    });

    test("by a signature of somebody else", () => {
      const { status, said } = recover("unpack", { WORK: newWork(), TRUSTED: "stranger.pub" });
      expect(status).toBe(1);
      expect(said).toContain("is not signed by");
    });

    test("by a record somebody changed", () => {
      const name = `snapshots/${key.writer}/0000000002-${second}`;
      const changed = join(scratch, "changed repository");
      spawnSync("cp", ["-a", root, changed]);
      writeFileSync(join(changed, name), readFileSync(join(root, name), "utf8").replace("mx1", "mx2"));
      const { status, said } = recover("unpack", { WORK: newWork(), REPOSITORY: changed, RECORD: name });
      expect(status).toBe(1);
      expect(said).toContain("is damaged");
    });

    test("by a work directory that is there, and by a word it does not know", () => {
      const WORK = newWork();
      mkdirSync(WORK);
      expect(recover("unpack", { WORK }).said).toContain("is there already");
      expect(recover("everything", {}).status).toBe(2);
    });

    test("by nothing said of where to", () => {
      const env = { WORK: newWork() };
      recover("unpack", env);
      expect(recover("spool", env).said).toContain("set CONFIG to its configuration directory");
    });
  });

  test("loses with a damaged pack only what was in it, and is told what", () => {
    const damaged = join(scratch, "damaged repository");
    spawnSync("cp", ["-a", root, damaged]);
    const lost = packKey(where.get(large.file.digest) ?? "");
    const bytes = readFileSync(join(damaged, lost));
    bytes[1000] = (bytes[1000] ?? 0) ^ 1;
    writeFileSync(join(damaged, lost), bytes);
    const env = { WORK: newWork(), REPOSITORY: damaged, INSTANCE: "etc_postfix" };
    const unpacked = recover("unpack", env);
    expect(unpacked.said).toContain(`${lost} is missing or damaged`);
    expect(unpacked.said).toContain("12 messages, 7 other files, 1 of all these damaged or missing");
    expect(readFileSync(join(env.WORK, "lost"), "utf8")).toContain(large.queueId);
    const spool = join(scratch, "spool without a pack");
    mkdirSync(spool);
    expect(recover("spool", { ...env, SPOOL: spool }).status).toBe(0);
    expect(existsSync(join(spool, "deferred", large.queueId))).toBe(false);
    expect(Object.keys(queueOf(spool))).toHaveLength(12);
    expect(readFileSync(join(env.WORK, "not-placed"), "utf8")).toContain("damaged or missing: message");
  });

  test("is asked which host is meant when there are several", async () => {
    const { snapshot } = await repository.load({ writer: key.writer, number: 2, id: second });
    const { id: third } = await repository.commit({ ...snapshot, number: 3, previous: second, host: "mx2" }, key);
    try {
      const { status, said } = recover("unpack", { WORK: newWork() });
      expect(said).toContain("backups of several hosts: choose one with RECORD");
      expect(status).toBe(1);
    } finally {
      rmSync(join(root, `snapshots/${key.writer}/0000000003-${third}`));
    }
  });
});
