import {
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  futimesSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { randomLetter } from "./letters.ts";
import { groupId, type PrivatePostfix, userId } from "./postfix.ts";
import { chooseSeed, Random } from "./random.ts";
import { Sink } from "./sink.ts";
import type { Letter, Submitted } from "./smtp.ts";
import { until } from "./wait.ts";

export { type LetterKind, letterKinds, randomLetter } from "./letters.ts";
export { chooseSeed, Random } from "./random.ts";

/** A sink with the domains that `fillMixed` sends to. */
export function mixedSink(options: { slowMs?: number; keepBytes?: boolean } = {}): Promise<Sink> {
  return Sink.start({
    keepBytes: options.keepBytes ?? false,
    domains: {
      "good.test": {},
      "src.test": {},
      "slow.test": { delayMs: options.slowMs ?? 10_000 },
      "defer.test": { rcpt: "450 4.2.0 try later" },
      "bounce.test": { rcpt: "550 5.1.1 no such user" },
    },
  });
}

export interface FillOptions {
  readonly messages: number;
  /** Default: chosen and printed. */
  readonly seed?: number;
}

/** What `fillMixed` left in the queue, by state. A letter is in one state only. */
export interface MixedQueue {
  readonly seed: number;
  /** Deferred, tried several times. */
  readonly deferred: readonly Submitted[];
  /** Deferred, some recipients done. */
  readonly partlyDone: readonly Submitted[];
  /** On hold by the administrator's hand. */
  readonly held: readonly Submitted[];
  /** Deferred or held, one recipient failed and its notice is still to be sent: there is a bounce log. */
  readonly bouncing: readonly Submitted[];
  /** Deferred with DSN parameters. */
  readonly dsn: readonly Submitted[];
  /** Deferred, DSN success asked for and one recipient delivered, the report still to be sent: there is a trace log. */
  readonly traced: readonly Submitted[];
  /** Deferred, from the null sender. */
  readonly nullSender: readonly Submitted[];
  /** Deferred and older than maximal_queue_lifetime. */
  readonly expired: readonly Submitted[];
  /** In maildrop, from several local users; pickup is switched off (master_service_disable) until `resumePickup`. */
  readonly maildrop: readonly Letter[];
  /** In active: in delivery to slow.test, or waiting for their turn there. Gone once the sink has answered. */
  readonly inFlight: readonly Submitted[];
  readonly all: readonly Letter[];
}

/**
 * Fill a running instance (made with `mixedSink()` as its sink and Postfix's own retry times) with real mail in mixed
 * states, among them one damaged file in corrupt/. It is left running.
 */
export async function fillMixed(instance: PrivatePostfix, options: FillOptions): Promise<MixedQueue> {
  const random = new Random(options.seed ?? chooseSeed("mixed queue"));
  const share = (part: number) => Math.max(1, Math.round(options.messages * part));
  const make = (count: number, letter: (index: number) => Letter) =>
    Array.from({ length: count }, (_, at) => letter(at));
  const to = (...domains: string[]) => domains.map((domain) => `${random.bytes(4).toString("hex")}@${domain}`);

  const bouncing = make(share(0.04), () => randomLetter(random, { recipients: to("bounce.test", "slow.test") }));
  const traced = make(share(0.02), () =>
    randomLetter(random, { recipients: to("discard.test", "slow.test"), rcptParameters: "NOTIFY=SUCCESS,FAILURE" }),
  );
  const interrupted = await leaveLogsPending(instance, bouncing, traced);

  const partlyDone = make(share(0.15), (at) => {
    const recipients = to("good.test", "defer.test", "good.test", "defer.test").slice(0, 2 + (at % 3));
    return randomLetter(random, { recipients });
  });
  const held = make(share(0.06), () => randomLetter(random, { recipients: to("defer.test") }));
  const dsn = make(share(0.06), (at) =>
    randomLetter(random, {
      recipients: to("defer.test", "good.test"),
      mailParameters: `RET=${at % 2 === 0 ? "HDRS" : "FULL"} ENVID=envelope+2B${at}`,
      rcptParameters: at % 2 === 0 ? "NOTIFY=SUCCESS,DELAY" : "NOTIFY=NEVER",
    }),
  );
  const nullSender = make(share(0.06), () => randomLetter(random, { sender: "", recipients: to("defer.test") }));
  const expired = make(share(0.04), () => randomLetter(random, { recipients: to("defer.test") }));
  const maildrop = make(share(0.05), () => randomLetter(random, { recipients: to("good.test") }));
  const inFlight = make(share(0.12), () => randomLetter(random, { recipients: to("slow.test") }));
  const others = [bouncing, traced, partlyDone, held, dsn, nullSender, expired, maildrop, inFlight];
  const rest = Math.max(2, options.messages - others.reduce((sum, list) => sum + list.length, 0));
  const deferred = make(rest, (at) =>
    randomLetter(random, { recipients: to("defer.test"), ...(at % 60 === 7 ? { kind: "large" as const } : {}) }),
  );

  const waiting = await submitAll(instance, { partlyDone, held, dsn, nullSender, expired, deferred });
  await tryAgain(instance);
  await instance.hold(waiting.held.map((letter) => letter.queueId));
  await instance.stop();
  for (const letter of waiting.expired) makeOlder(instance, letter.queueId, 6 * 24 * 3600);
  leaveEvidence(instance, waiting.deferred);
  await instance.setParameter("master_service_disable", "pickup.unix");
  await instance.start();
  const users = ["root", "nobody", "mail", "games"].map(userId);
  for (const [at, letter] of maildrop.entries()) await instance.sendmail(letter, users[at % users.length]);
  const flying = await instance.submit(inFlight);
  await until(() => instance.files("incoming").length === 0, { what: "mail in flight" });

  const result = { seed: random.seed, ...interrupted, ...waiting, maildrop, inFlight: flying };
  const letters = Object.values(result).flatMap((value) => (typeof value === "number" ? [] : value));
  return { ...result, all: letters };
}

/** Let pickup take what waits in maildrop. */
export async function resumePickup(instance: PrivatePostfix): Promise<void> {
  await instance.setParameter("master_service_disable", "");
  await instance.reload();
}

/** The (letter, recipient) pairs that arrive at the sink in the end: all but those of bounce.test and discard.test. */
export function deliverable(letters: readonly Letter[]): Letter[] {
  const arrives = (address: string) => !/@(bounce|discard)\.test$/.test(address);
  return letters.map((letter) => ({ ...letter, recipients: letter.recipients.filter(arrives) }));
}

/**
 * Messages with one recipient failed (or delivered, with a report asked for) and one still in delivery when Postfix stops:
 * their bounce and trace logs stay. They are then moved to deferred through hold, as an administrator would.
 */
async function leaveLogsPending(instance: PrivatePostfix, bouncing: readonly Letter[], traced: readonly Letter[]) {
  const sent = await submitAll(instance, { bouncing, traced });
  const logged = () =>
    instance.files("bounce").length >= bouncing.length && instance.files("trace").length >= traced.length;
  await until(logged, { what: () => `bounce and trace logs; log: ${instance.log().slice(-3000)}` });
  await instance.stop();
  const ids = [...sent.bouncing, ...sent.traced].map((letter) => letter.queueId);
  await instance.hold(ids);
  for (const id of ids) retryIn(instance, id, 1800);
  await instance.release(ids.slice(1));
  await instance.start();
  return sent;
}

async function submitAll<K extends string>(
  instance: PrivatePostfix,
  groups: Record<K, readonly Letter[]>,
): Promise<Record<K, Submitted[]>> {
  const names = Object.keys(groups) as K[];
  const sent = await instance.submit(names.flatMap((name) => groups[name]));
  let at = 0;
  const cut = names.map((name) => {
    at += groups[name].length;
    return [name, sent.slice(at - groups[name].length, at)] as const;
  });
  return Object.fromEntries(cut) as Record<K, Submitted[]>;
}

/** Two more attempts for everything that is deferred because its site said so. */
async function tryAgain(instance: PrivatePostfix): Promise<void> {
  for (let round = 0; round < 2; round++) {
    await instance.settled();
    const ids = instance.files("deferred").filter((file) => isOf(file, "defer.test"));
    for (const file of ids) await instance.wake(basename(file));
  }
  await instance.settled();
}

function isOf(file: string, domain: string): boolean {
  return readFileSync(file, "latin1").slice(0, 3000).includes(`@${domain}`);
}

/** Set the time of the next attempt of a message that no daemon looks at now. */
function retryIn(instance: PrivatePostfix, queueId: string, seconds: number): void {
  const file = found(instance, queueId);
  const time = Math.floor(Date.now() / 1000) + seconds;
  utimesSync(file, time, time);
}

/** Make a message look as if it had been created so many seconds earlier; Postfix must be stopped. Its times stay. */
export function makeOlder(instance: PrivatePostfix, queueId: string, seconds: number): void {
  const file = found(instance, queueId);
  const { atime, mtime } = statSync(file);
  const text = readFileSync(file, "latin1");
  const older = text.replace(/create_time=(\d{10})/, (_, time: string) => `create_time=${Number(time) - seconds}`);
  writeFileSync(file, Buffer.from(older, "latin1"));
  utimesSync(file, atime, mtime);
}

function found(instance: PrivatePostfix, queueId: string): string {
  const file = instance.find(queueId);
  if (file === undefined) throw new Error(`no message ${queueId} in ${instance.queueDirectory}`);
  return file;
}

/** A file cut short in corrupt/, as qmgr leaves one, and a rescued one in saved/. */
function leaveEvidence(instance: PrivatePostfix, letters: readonly Submitted[]): void {
  const [first] = letters;
  if (first === undefined) return;
  for (const directory of ["corrupt", "saved"]) {
    const copy = join(instance.queueDirectory, directory, `${first.queueId}0`);
    copyFileSync(found(instance, first.queueId), copy);
    chownSync(copy, userId("postfix"), groupId("postfix"));
    if (directory === "corrupt") truncateSync(copy, 400);
  }
}

/**
 * Put thousands of deferred messages into an instance in seconds. A few are submitted and deferred by Postfix itself;
 * the others are those queue files with other envelope and text, under names that match their inodes, with their
 * defer logs and retry times in the future. The instance is stopped for it; if it was running it runs again.
 */
export async function fillDeferred(instance: PrivatePostfix, messages: number, seed?: number): Promise<void> {
  const random = new Random(seed ?? chooseSeed("deferred queue"));
  const templates = await deferredTemplates(instance, random);
  const place = await placing(instance);
  for (let index = templates.length; index < messages; index++) {
    const letter = randomLetter(random, { recipients: [`${random.bytes(4).toString("hex")}@defer.test`] });
    placeClone(random.pick(templates), letter, place, random);
  }
  if (place.wasRunning) await instance.start();
}

interface Template {
  readonly file: readonly QueueRecord[];
  readonly log: string;
}

interface QueueRecord {
  readonly type: string;
  readonly payload: Buffer;
}

interface Placing {
  readonly wasRunning: boolean;
  readonly queueDirectory: string;
  readonly longIds: boolean;
  readonly hashed: (queue: string) => number;
  readonly owner: number;
  readonly group: number;
}

async function deferredTemplates(instance: PrivatePostfix, random: Random): Promise<Template[]> {
  const wasRunning = instance.running();
  if (!wasRunning) await instance.start();
  const letters = Array.from({ length: 8 }, (_, at) => {
    return randomLetter(random, { kind: "plain", recipients: [`template${at}@defer.test`] });
  });
  const sent = await instance.submit(letters);
  await until(() => sent.every((letter) => instance.find(letter.queueId)?.includes("/deferred/")), {
    what: "deferred messages",
  });
  if (!wasRunning) await instance.stop();
  return sent.map((letter) => {
    const log = instance.files("defer").find((file) => basename(file) === letter.queueId);
    return {
      file: records(readFileSync(found(instance, letter.queueId))),
      log: log === undefined ? "" : readFileSync(log, "latin1"),
    };
  });
}

async function placing(instance: PrivatePostfix): Promise<Placing> {
  const wasRunning = instance.running();
  if (wasRunning) await instance.stop();
  const hashedQueues = (await instance.postconf("hash_queue_names")).split(/[\s,]+/);
  const depth = Number(await instance.postconf("hash_queue_depth"));
  return {
    wasRunning,
    queueDirectory: instance.queueDirectory,
    longIds: (await instance.postconf("enable_long_queue_ids")) === "yes",
    hashed: (queue) => (hashedQueues.includes(queue) ? depth : 0),
    owner: userId("postfix"),
    group: groupId("postfix"),
  };
}

function placeClone(template: Template, letter: Letter, place: Placing, random: Random): void {
  const temporary = join(place.queueDirectory, "deferred", "clone#");
  const fd = openSync(temporary, "wx", 0o600);
  const usec = random.below(1_000_000);
  const id = place.longIds ? longId(usec, fstatSync(fd).ino) : shortId(usec, fstatSync(fd).ino);
  const { bytes, recipientOffset } = clone(template, letter, id);
  writeSync(fd, bytes);
  const retry = Math.floor(Date.now() / 1000) + 600 + random.below(3000);
  fchownSync(fd, place.owner, place.group);
  fchmodSync(fd, 0o700);
  futimesSync(fd, retry, retry);
  closeSync(fd);
  writeLog(template, letter, recipientOffset, hashedPath(place, "defer", id, usec), place);
  renameSync(temporary, hashedPath(place, "deferred", id, usec));
}

function writeLog(template: Template, letter: Letter, offset: number, path: string, place: Placing): void {
  const text = template.log
    .replaceAll(/template\d+@defer\.test/g, letter.recipients[0] ?? "")
    .replace(/^offset=\d+$/m, `offset=${offset}`);
  writeFileSync(path, text, { mode: 0o600 });
  chownSync(path, place.owner, place.group);
}

/** Path in a queue or log directory, whose hash directories are made if missing; long ids are hashed by their microseconds. */
function hashedPath(place: Placing, directory: string, id: string, usec: number): string {
  const digits = (place.longIds ? usec5(usec) : id).slice(0, place.hashed(directory));
  let parent = join(place.queueDirectory, directory);
  for (const digit of digits) {
    parent = join(parent, digit);
    if (!existsSync(parent)) {
      mkdirSync(parent, { mode: 0o700 });
      chownSync(parent, place.owner, place.group);
    }
  }
  return join(parent, id);
}

/** The template with the letter's envelope and text, and the offsets and sizes of its first record set right. */
function clone(template: Template, letter: Letter, id: string): { bytes: Buffer; recipientOffset: number } {
  const start = template.file.findIndex((record) => record.type === "M") + 1;
  const end = template.file.findIndex((record) => record.type === "X");
  const recipient = letter.recipients[0] ?? "";
  const envelope = template.file.slice(0, start).map((record) => addressed(record, letter.sender, recipient, id));
  const head = encodeAll(envelope);
  const text = encodeAll([...receivedLines(template.file.slice(start, end)), ...textRecords(letter.text)]);
  const tail = encodeAll(template.file.slice(end));
  const sizes = (template.file[0]?.payload.toString("latin1") ?? "").trim().split(/\s+/);
  sizes[0] = String(text.length);
  sizes[1] = String(head.length);
  sizes[4] = String(text.length);
  encode("C", sizes.map((size) => size.padStart(15)).join(" ")).copy(head);
  const at = envelope.findIndex((record) => record.type === "R");
  return { bytes: Buffer.concat([head, text, tail]), recipientOffset: encodeAll(envelope.slice(0, at)).length };
}

function addressed(record: QueueRecord, sender: string, recipient: string, id: string): QueueRecord {
  const payload = record.payload.toString("latin1");
  if (record.type === "S") return { type: "S", payload: Buffer.from(sender) };
  if (record.type === "R" || record.type === "O") return { type: record.type, payload: Buffer.from(recipient) };
  if (payload.startsWith("dsn_orig_rcpt=")) {
    return { type: record.type, payload: Buffer.from(`dsn_orig_rcpt=rfc822;${recipient}`) };
  }
  return payload.startsWith("log_ident=") ? { type: record.type, payload: Buffer.from(`log_ident=${id}`) } : record;
}

function receivedLines(text: readonly QueueRecord[]): QueueRecord[] {
  const next = text.findIndex((record, at) => at > 0 && !/^\s/.test(record.payload.toString("latin1")));
  return text.slice(0, next);
}

function textRecords(text: Buffer): QueueRecord[] {
  const lines = text.toString("latin1").replace(/\n$/, "").split("\n");
  return lines.flatMap((line) => {
    const pieces = line.match(/.{1,2048}/gs) ?? [""];
    return pieces.map((piece, at) => ({
      type: at + 1 < pieces.length ? "L" : "N",
      payload: Buffer.from(piece, "latin1"),
    }));
  });
}

/** The records of a queue file that no milter has edited: one after another. */
function records(bytes: Buffer): QueueRecord[] {
  const found: QueueRecord[] = [];
  for (let at = 0; at < bytes.length; ) {
    const type = String.fromCharCode(bytes[at++] ?? 0);
    let length = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0;
      length |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    found.push({ type, payload: bytes.subarray(at, at + length) });
    at += length;
  }
  return found;
}

function encodeAll(list: readonly QueueRecord[]): Buffer {
  return Buffer.concat(list.map((record) => encode(record.type, record.payload)));
}

function encode(type: string, payload: Buffer | string): Buffer {
  const bytes = Buffer.from(payload);
  const length: number[] = [];
  for (let rest = bytes.length; ; rest >>= 7) {
    length.push(rest > 127 ? (rest & 127) | 128 : rest);
    if (rest <= 127) break;
  }
  return Buffer.concat([Buffer.from(type), Buffer.from(length), bytes]);
}

function usec5(usec: number): string {
  return usec.toString(16).toUpperCase().padStart(5, "0");
}

function shortId(usec: number, inode: number): string {
  return usec5(usec) + inode.toString(16).toUpperCase();
}

/** Seconds and microseconds to base 52, `z`, the inode to base 51 (Postfix global/mail_queue.h). */
function longId(usec: number, inode: number): string {
  const seconds = inBase(52, Math.floor(Date.now() / 1000)).padStart(6, "0");
  return `${seconds}${inBase(52, usec).padStart(4, "0")}z${inBase(51, inode)}`;
}

function inBase(base: number, value: number): string {
  const alphabet = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
  let digits = "";
  for (let rest = value; ; rest = Math.floor(rest / base)) {
    digits = `${alphabet[rest % base]}${digits}`;
    if (rest < base) return digits;
  }
}
