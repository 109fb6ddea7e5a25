import {
  appendFileSync,
  closeSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { BackupReport, BackupRequest } from "../../src/backup/backup.ts";
import { createIdentity, loadIdentities, parseRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { objectKey, packKey, removalKey, snapshotKey } from "../../src/repository/layout.ts";
import { indexPath } from "../../src/repository/stored-index.ts";
import { formatRecord, type RemovedSnapshot } from "../../src/snapshot/record.ts";
import { systemClock } from "../../src/system/clock.ts";
import { digestOf } from "../../src/system/digest.ts";
import { verifyDeep } from "../../src/verify/deep.ts";
import { fillDeferred, Random } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { Site } from "../support/site.ts";

const many = process.env.SPOOLSAFE_LONG === "1" ? 10_000 : 2000;

/*
 * The second backup builds on the first by an index that is no proof of anything: whatever happens to it, and to what it
 * speaks of, costs bytes and never a message.
 */
describe.skipIf(!needs("root", "postfix"))("a second backup", () => {
  let postfix: PrivatePostfix;

  beforeAll(async () => {
    postfix = await PrivatePostfix.create({ tmpfs: "256m" });
    await fillDeferred(postfix, 300, 1);
  });

  afterAll(() => postfix?.destroy());

  test(`of an unchanged queue of ${many} messages stores next to nothing, and of ten changed ones a little`, async () => {
    await using site = await Site.make();
    await using large = await PrivatePostfix.create({ tmpfs: "256m" });
    await fillDeferred(large, many, 1);
    const first = await site.backup(large);
    const second = await site.backup(large);
    expect(first.snapshot).toMatchObject({ newMessages: many, reusedMessages: 0 });
    expect(second.snapshot).toMatchObject({ newMessages: 0, reusedMessages: many });
    expect(second.storedBytes).toBeLessThan(first.storedBytes / 50);
    expect(second.storedBytes).toBeLessThan(10_000);
    process.stderr.write(`a second backup stored ${second.storedBytes} bytes after ${first.storedBytes}\n`);

    const files = large.files("deferred");
    const marked = files.slice(0, 5);
    for (const path of marked) markDone(path);
    for (const path of files.slice(5, 10)) retryIn(path, 7200);
    const third = await site.backup(large);
    expect(third.snapshot).toMatchObject({ newMessages: 5, reusedMessages: many - 5 });
    const part = third.snapshot.parts.at(-1);
    expect(part).toMatchObject({ kind: "increment" });
    expect(part?.bytes).toBeLessThan(8000);
    const plain = marked.reduce((sum, path) => sum + lstatSync(path).size, 0);
    expect(third.storedBytes).toBeLessThan(plain + 20_000);
    await expectRight(site, large, third);
  });

  test("is an increment while the index is there, and stores everything again without it", async () => {
    await using site = await Site.make();
    const first = await site.backup(postfix);
    const second = await site.backup(postfix);
    expect(second.snapshot.parts.map((part) => part.kind)).toEqual(["base", "increment"]);
    rmSync(indexOf(site));
    const third = await site.backup(postfix);
    expectFull(third);
    expect(third.snapshot.packs.some(({ id }) => first.snapshot.packs.some((pack) => pack.id === id))).toBe(false);
    for (const report of [second, third]) await expectRight(site, postfix, report);
  });

  test.each<[string, (path: string) => void]>([
    ["cut short", (path) => truncateSync(path, lstatSync(path).size - 100)],
    ["empty", (path) => truncateSync(path, 0)],
    ["with one bit flipped", flipBit],
    ["no index at all", (path) => writeFileSync(path, "no index at all")],
  ])("does not believe an index: %s", async (_, damage) => {
    await using site = await Site.make();
    await site.backup(postfix);
    damage(indexOf(site));
    const report = await site.backup(postfix);
    expectFull(report);
    await expectRight(site, postfix, report);
    expect((await site.backup(postfix)).snapshot).toMatchObject({ newMessages: 0 });
  });

  test("does not believe an index of another repository, writer, host or set of recipients", async () => {
    await using site = await Site.make();
    await using other = await Site.make();
    await site.backup(postfix);
    await other.backup(postfix);
    copyFileSync(indexOf(other), indexOf(site));
    const foreign = await site.backup(postfix);
    expectFull(foreign);
    await expectRight(site, postfix, foreign);

    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(join(site.directory, "second.key"), privatePem, { mode: 0o600 });
    writeFileSync(join(site.directory, "second.pub"), publicPem);
    const signingKey = loadSigningKey(join(site.directory, "second.key"));
    const trusted = loadTrustedKeys(join(site.directory, "second.pub"));
    mkdirSync(dirname(indexOf(site, { signingKey })), { recursive: true });
    copyFileSync(indexOf(site), indexOf(site, { signingKey }));
    expectFull(await site.backup(postfix, { signingKey, trusted }));

    copyFileSync(indexOf(site), indexOf(site, { host: "mx9.source.test" }));
    expectFull(await site.backup(postfix, { host: "mx9.source.test" }));

    const { identity, recipient } = await createIdentity(false);
    const own = readFileSync(join(site.directory, "recipients.txt"), "utf8");
    const recipients = parseRecipients(`${own}${recipient}\n`, "recipients.txt");
    const wider = await site.backup(postfix, { recipients });
    expectFull(wider);
    writeFileSync(join(site.directory, "second.txt"), `${identity}\n`, { mode: 0o600 });
    await expectRight(site, postfix, wider, await loadIdentities(join(site.directory, "second.txt")));
    // Back to the first alone: what is sealed to both is not what the record would say.
    expectFull(await site.backup(postfix));
  });

  test("stores anew what was in a pack that is gone, has another size, or is condemned", async () => {
    await using site = await Site.make();
    for (const take of [gone, resized, condemned]) {
      const before = await site.backup(postfix);
      const [pack] = before.snapshot.packs.toSorted((one, two) => two.bytes - one.bytes);
      await take(site, pack?.id ?? "");
      const report = await site.backup(postfix);
      expect(report.snapshot.packs.map(({ id }) => id)).not.toContain(pack?.id);
      expect(report.snapshot.newMessages).toBeGreaterThan(200);
      await expectRight(site, postfix, report);
    }
    async function gone(of: Site, id: string): Promise<void> {
      rmSync(join(of.directory, "repository", packKey(id)));
    }
    async function resized(of: Site, id: string): Promise<void> {
      appendFileSync(join(of.directory, "repository", packKey(id)), "x");
    }
    async function condemned(of: Site, id: string): Promise<void> {
      await condemn(of, { packs: [id], parts: [] }, 1);
    }
  });

  test("starts anew where a part of the manifest is gone or condemned", async () => {
    await using site = await Site.make();
    const first = await site.backup(postfix);
    const key = objectKey("part", first.snapshot.parts[0]?.id ?? "");
    rmSync(join(site.directory, "repository", key));
    const second = await site.backup(postfix);
    expect(second.snapshot.parts).toMatchObject([{ kind: "base" }]);
    await expectRight(site, postfix, second);
    await condemn(site, { packs: [], parts: [second.snapshot.parts[0]?.id ?? ""] }, 1);
    const third = await site.backup(postfix);
    expect(third.snapshot.parts).toMatchObject([{ kind: "base" }]);
    await expectRight(site, postfix, third);
  });

  test("is not committed when a prune condemns meanwhile what it builds on", async () => {
    await using site = await Site.make();
    const packs = (await site.backup(postfix)).snapshot.packs.map(({ id }) => id);
    afterPart(site, () => condemn(site, { packs, parts: [] }, 1));
    await expect(site.backup(postfix)).rejects.toThrow(/a prune has removed packs/);
    expect(await site.repository.snapshotRefs()).toHaveLength(1);
    await expectRight(site, postfix, await site.backup(postfix));
  });

  test("is committed though a prune whose clock is ahead condemns what it has just stored", async () => {
    await using site = await Site.make();
    afterPart(site, async () => {
      const [packs, parts] = [await site.repository.packs(), await site.repository.parts()];
      await condemn(site, { packs: [...packs.keys()], parts: [...parts.keys()] }, 1);
    });
    const report = await site.backup(postfix);
    const condemned = await site.repository.condemned(loadTrustedKeys(join(site.directory, "trusted.pub")));
    expect(report.snapshot.packs.filter(({ id }) => !condemned.has(id))).toEqual([]);
    await expectRight(site, postfix, report);
    // What is condemned is not built upon later.
    expect((await site.backup(postfix)).snapshot.reusedMessages).toBe(0);
  });

  test("is right by an index of before the last snapshot", async () => {
    await using site = await Site.make();
    await using own = await PrivatePostfix.create({ tmpfs: "256m" });
    await fillDeferred(own, 60, 2);
    await site.backup(own);
    const saved = readFileSync(indexOf(site));
    const [first = "", second = "", third = ""] = own.files("deferred");
    markDone(first);
    rmSync(second);
    await site.backup(own);
    writeFileSync(indexOf(site), saved);
    markDone(third);
    const report = await site.backup(own);
    expect(report.snapshot).toMatchObject({ number: 3, messages: { total: 59 } });
    expect(report.snapshot.parts.map((part) => part.kind)).toEqual(["base", "increment"]);
    await expectRight(site, own, report);
  });

  test("stores a defer log no second time while its message keeps its bytes, and every bounce log", async () => {
    await using site = await Site.make();
    await using own = await PrivatePostfix.create({ tmpfs: "256m" });
    await fillDeferred(own, 60, 2);
    const files = own.files("deferred");
    const [bounced = "", marked = ""] = files;
    const bounce = join(own.queueDirectory, "bounce", basename(bounced));
    writeFileSync(bounce, "<a@x.test>: no\nrecipient=a@x.test\n\n", { mode: 0o600 });
    const first = await site.backup(own);
    const logs = new Map((await site.manifest(first)).messages.map((message) => [message.queueId, message.logs]));
    for (const path of own.files("defer")) appendFileSync(path, `retried=${Math.random()}\n`.repeat(200));
    for (const path of files) retryIn(path, 9000);
    const second = await site.backup(own);
    expect(second.snapshot).toMatchObject({ newMessages: 0, reusedMessages: 60 });
    expect(second.storedBytes).toBeLessThan(20_000);
    const again = new Map((await site.manifest(second)).messages.map((message) => [message.queueId, message.logs]));
    expect(again).toEqual(logs);
    await expectRight(site, own, second);

    appendFileSync(bounce, "<b@x.test>: no\nrecipient=b@x.test\n\n");
    markDone(marked);
    const third = await site.manifest(await site.backup(own));
    const digests = (path: string) =>
      Object.fromEntries(
        third.messages
          .filter((message) => message.queueId === basename(path))
          .flatMap((message) => message.logs.map((log) => [log.log, log.digest])),
      );
    expect(digests(bounced).bounce).toBe(digestOf(readFileSync(bounce)).digest);
    expect(digests(bounced).defer).toBe(logs.get(basename(bounced))?.find((log) => log.log === "defer")?.digest);
    // Its message is stored anew, and its defer log with it.
    const defer = own.files("defer").find((path) => basename(path) === basename(marked)) ?? "";
    expect(digests(marked).defer).toBe(digestOf(readFileSync(defer)).digest);
  });

  test("stores anew what is left of packs that hold little else, and only once", async () => {
    await using site = await Site.make();
    await using own = await PrivatePostfix.create({ tmpfs: "256m" });
    await fillDeferred(own, 2000, 3);
    await site.backup(own);
    for (const [index, path] of own.files("deferred").entries()) if (index % 40 > 0) rmSync(path);
    for (const path of own.files("defer")) rmSync(path);
    const second = await site.backup(own);
    const third = await site.backup(own);
    expect(second.events.filter(({ type }) => type === "repacking")).toEqual([]);
    expect(third.events.find((event) => event.type === "repacking")).toMatchObject({
      packs: second.snapshot.packs.length,
    });
    expect(third.snapshot).toMatchObject({ messages: { total: 50 }, newMessages: 50, reusedMessages: 0 });
    const stored = ({ snapshot }: BackupReport) => snapshot.packs.reduce((sum, { bytes }) => sum + bytes, 0);
    process.stderr.write(`50 of 2000 messages held ${stored(second)} bytes of packs, stored anew ${stored(third)}\n`);
    expect(stored(third)).toBeLessThan(stored(second) / 20);
    await expectRight(site, own, third);
    const fourth = await site.backup(own);
    expect(fourth.snapshot).toMatchObject({ newMessages: 0, reusedMessages: 50, packs: third.snapshot.packs });
  });

  test("is not committed when it took longer than a prune elsewhere waits", async () => {
    await using site = await Site.make();
    let now = Date.now();
    const clock = { ...systemClock, now: () => now };
    const report: BackupRequest["report"] = () => {
      now += 49 * 3_600_000;
    };
    await expect(site.backup(postfix, { clock, report })).rejects.toThrow(/a prune may have removed/);
    expect(await site.repository.snapshotRefs()).toEqual([]);
  });

  test("goes on with the numbers a prune has removed, though nothing else remembers them", async () => {
    await using site = await Site.make();
    const { id, snapshot } = await site.backup(postfix);
    await condemn(site, { packs: [], parts: [], snapshots: [{ id, writer: snapshot.writer, number: 1 }] }, 1);
    rmSync(join(site.directory, "repository", snapshotKey({ ...snapshot, id })));
    rmSync(site.stateDirectory, { recursive: true });
    expect((await site.backup(postfix)).snapshot).toMatchObject({ number: 2, previous: id });
  });

  test("is done though the index can't be written, and says so", async () => {
    await using site = await Site.make();
    const path = indexOf(site);
    mkdirSync(path, { recursive: true });
    const report = await site.backup(postfix);
    expect(report.events.filter((event) => event.type === "index-not-saved")).toHaveLength(1);
    expect(report.problems).toEqual([]);
    rmSync(path, { recursive: true });
    await expectRight(site, postfix, await site.backup(postfix));
  });

  test("keeps the upload rate over all it sends, several packs at a time or not", async () => {
    await using site = await Site.make();
    await using own = await PrivatePostfix.start({ main: { message_size_limit: "20000000" } });
    // Larger than a pack, so each is one by itself.
    await own.submit(
      Array.from({ length: 4 }, (_, n) => plainLetter({ recipients: [`a${n}@refused.test`], size: 9_000_000 })),
    );
    await own.settled();
    // On a clock that stands still each must wait for all that were before it.
    const waits: number[] = [];
    const sleep = async (ms: number) => void waits.push(ms);
    const clock = { now: () => Date.now(), monotonic: () => 0, sleep };
    const report = await site.backup(own, { mode: "live", clock, uploadBytesPerSecond: 1000 });
    expect(report.snapshot.packs.length).toBeGreaterThan(4);
    expect(waits).toHaveLength(report.snapshot.packs.length + report.snapshot.parts.length);
    expect(Math.max(...waits)).toBeCloseTo(report.snapshot.storedBytes);
  });

  function indexOf(site: Site, of: { signingKey?: BackupRequest["signingKey"]; host?: string } = {}): string {
    const { writer } = of.signingKey ?? loadSigningKey(join(site.directory, "signing.key"));
    const host = of.host ?? "mx1.source.test";
    return indexPath(site.stateDirectory, { repository: site.repository.id, writer, host, recipients: [] });
  }
});

function expectFull(report: BackupReport): void {
  expect(report.snapshot).toMatchObject({ reusedMessages: 0, parts: [{ kind: "base" }] });
  expect(report.snapshot.newMessages).toBeGreaterThan(0);
}

/** The snapshot says what is in the queue, message by message, and every byte it names is where it says. */
async function expectRight(
  site: Site,
  postfix: PrivatePostfix,
  report: BackupReport,
  identities = site.identities,
): Promise<void> {
  const { messages } = await site.manifest(report);
  const captured = messages.map((one) => [one.queueId, one.queue, one.file.digest, one.mtime, one.mode]);
  const queued = postfix.files("deferred").map((path) => {
    const { mtimeMs, mode } = lstatSync(path);
    const digest = digestOf(readFileSync(path)).digest;
    const queue = relative(postfix.queueDirectory, path).split("/")[0];
    return [basename(path), queue, digest, Math.round(mtimeMs * 1000) / 1e6, mode & 0o7777];
  });
  expect(captured.toSorted()).toEqual(queued.toSorted());
  const refs = await site.repository.snapshotRefs();
  const ref = refs.find(({ id }) => id === report.id);
  if (ref === undefined) throw new Error("the snapshot is not in the repository");
  await using reader = new PackReader({ identities, processors: 2 });
  const { repository } = site;
  const snapshots = [await repository.load(ref)];
  expect((await verifyDeep({ repository, snapshots, identities, reader, processors: 2 })).damaged).toEqual([]);
}

/** Let something happen once, after a part was stored and before the record is. */
function afterPart({ repository: { store } }: Site, happen: () => Promise<void>): void {
  const put = store.put.bind(store);
  store.put = async (key, ...rest) => {
    await put(key, ...rest);
    if (!key.startsWith("parts/")) return;
    store.put = put;
    await happen();
  };
}

async function condemn(
  site: Site,
  what: { packs: string[]; parts: string[]; snapshots?: RemovedSnapshot[] },
  number: number,
): Promise<void> {
  const key = loadSigningKey(join(site.directory, "signing.key"));
  const removal = {
    format: 1 as const,
    type: "removal" as const,
    repository: site.repository.id,
    writer: key.writer,
    number,
    previous: null,
    time: new Date().toISOString(),
    snapshots: [],
    ...what,
  };
  const record = formatRecord(removal, key);
  const place = removalKey({ writer: key.writer, number, id: record.id });
  await site.repository.store.put(place, record.bytes, digestOf(record.bytes).digest);
}

/** Mark the first recipient that isn't done as a delivery agent does; what time the file then has is not the point here. */
function markDone(path: string): void {
  const recipient = readQueueFile(bufferSource(readFileSync(path))).recipients.find((one) => !one.done);
  const { atime, mtime } = lstatSync(path);
  const fd = openSync(path, "r+");
  writeSync(fd, "D", recipient?.offset ?? -1);
  closeSync(fd);
  utimesSync(path, atime, mtime);
}

function retryIn(path: string, seconds: number): void {
  const time = Math.floor(Date.now() / 1000) + seconds;
  utimesSync(path, time, time);
}

function flipBit(path: string): void {
  const random = new Random(Date.now() % 1_000_000);
  process.stderr.write(`flips a bit: seed ${random.seed}\n`);
  const bytes = readFileSync(path);
  const at = random.below(bytes.length);
  bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << random.below(8)), at);
  writeFileSync(path, bytes);
}
