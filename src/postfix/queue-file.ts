import { createHash, type Hash, hash } from "node:crypto";
import { readSync } from "node:fs";
import type { MessageFacts, QueueRecipient } from "./message.ts";

/** Random access to the bytes of a queue file, whether they are in memory or behind a descriptor. */
export interface ByteSource {
  readonly size: number;
  /** Bytes from an offset; fewer than asked for only where the file ends. Valid until the next call. */
  read(offset: number, length: number): Buffer;
}

export function bufferSource(bytes: Buffer): ByteSource {
  return { size: bytes.length, read: (offset, length) => bytes.subarray(offset, offset + length) };
}

/** Reads an open file as the walk asks for it, 64 KiB at a time, whatever its size. */
export function descriptorSource(fd: number, size: number): ByteSource {
  let buffer = Buffer.alloc(0);
  return {
    size,
    read: (offset, length) => {
      if (buffer.length < length) buffer = Buffer.allocUnsafe(length);
      let done = 0;
      while (done < length) {
        const got = readSync(fd, buffer, done, length - done, offset + done);
        if (got === 0) break;
        done += got;
      }
      return buffer.subarray(0, done);
    },
  };
}

/** Not a queue file that Postfix would deliver: qmgr(8) would move it to corrupt/, pickup(8) would remove it. */
export class QueueFileDamaged extends Error {
  /** A lower-case fact with the offset it is about. */
  readonly problem: string;

  constructor(problem: string) {
    super(problem);
    this.name = "QueueFileDamaged";
    this.problem = problem;
  }
}

/**
 * What a queue file says of its message. Works for files of every queue; those that sendmail(1) leaves in maildrop
 * have no size record and are measured by their text.
 *
 * Accepts what the queue manager accepts (`qmgr/qmgr_message.c`) and takes the same record where several say the same
 * thing. Neither crashes nor loops on other bytes; time and memory are bounded by the file's size.
 *
 * @throws QueueFileDamaged for anything else
 */
export function readQueueFile(source: ByteSource): MessageFacts {
  const walk = new RecordWalk(source);
  const envelope = new Envelope();
  const text = new TextDigest();
  const header = new MessageIdFinder();
  for (let record = walk.step(); record !== recordType.end; record = walk.step()) {
    if (walk.section !== "content") {
      envelope.take(record, walk);
    } else if (record !== recordType.message) {
      text.add(walk, record === recordType.line);
      header.see(walk, record === recordType.line);
    }
  }
  return { ...envelope.facts(text.size), content: text.digest(), messageId: header.messageId() };
}

/** A record that says where a message goes, whatever its recipients. */
export interface RoutingRecord {
  /** `filter`: a content filter (`L` in an envelope). `redirect`: to another recipient than all it has (`>`). */
  readonly kind: "filter" | "redirect";
  /** Of its type byte. */
  readonly offset: number;
}

/**
 * What FILTER and REDIRECT of access tables, and content_filter, leave in a queue file.
 *
 * @throws QueueFileDamaged
 */
export function routingRecords(source: ByteSource): RoutingRecord[] {
  const walk = new RecordWalk(source);
  const found: RoutingRecord[] = [];
  for (let record = walk.step(); record !== recordType.end; record = walk.step()) {
    if (walk.section === "content") continue;
    const { offset } = walk;
    if (record === recordType.filter) found.push({ kind: "filter", offset });
    if (record === recordType.redirect) found.push({ kind: "redirect", offset });
  }
  return found;
}

/** What a queue file says of itself before its text. */
export interface QueueFileHead {
  /** As {@link MessageFacts} has it. */
  readonly created: string;
  /** As {@link MessageFacts} has it. */
  readonly size: number;
}

/**
 * What {@link readQueueFile} would say, from a file's first bytes: cleanup(8) begins a file with the size record, and the
 * creation time follows within a hundred bytes. Whether the rest is in order is not looked at.
 *
 * @param fileSize bytes of the whole file
 * @returns undefined when these bytes do not tell, as those of maildrop don't: only the whole file does
 */
export function readHead(bytes: Buffer, fileSize: number): QueueFileHead | undefined {
  const walk = new RecordWalk({ ...bufferSource(bytes), size: fileSize });
  const envelope = new Envelope();
  try {
    for (;;) {
      const record = walk.step();
      if (walk.section !== "envelope") return undefined;
      envelope.take(record, walk);
      const head = envelope.head();
      if (head !== undefined) return head;
    }
  } catch (error) {
    // The bytes have ended, or what they are is damaged: reading the whole file tells which.
    if (error instanceof QueueFileDamaged) return undefined;
    throw error;
  }
}

/** Who a message is from and where it goes, as far as the first bytes of its file say. */
export interface EnvelopePeek {
  /** Empty for the null sender; undefined when these bytes do not say. */
  readonly sender: string | undefined;
  /** Those that are not done, as many as there are in these bytes. */
  readonly recipients: readonly string[];
  /** `sasl_username`, `client_address` and the like, from smtpd(8) (`global/mail_proto.h`); the first of a name counts. */
  readonly attributes: ReadonlyMap<string, string>;
}

/**
 * As far as the first bytes go: for looking at very many messages. Never throws, and says nothing of whether the file is in
 * order.
 *
 * @param fileSize bytes of the whole file
 */
export function peekEnvelope(bytes: Buffer, fileSize: number): EnvelopePeek {
  const walk = new RecordWalk({ ...bufferSource(bytes), size: fileSize });
  let sender: string | undefined;
  const recipients: string[] = [];
  const attributes = new Map<string, string>();
  try {
    for (let record = walk.step(); walk.section === "envelope"; record = walk.step()) {
      if (record === recordType.sender) sender ??= walk.text();
      else if (record === recordType.recipient) recipients.push(walk.text());
      else if (record === recordType.attribute) {
        const [, name = "", value = ""] = /^(\w+)=(.*)$/s.exec(walk.text()) ?? [];
        if (!attributes.has(name)) attributes.set(name, value);
      }
    }
  } catch (error) {
    if (!(error instanceof QueueFileDamaged)) throw error;
  }
  return { sender, recipients, attributes };
}

/**
 * The text of a message as mail programs keep it: LF line ends, no mailbox quoting, up to 64 KiB at a time.
 *
 * @throws QueueFileDamaged when the walk up to the end of the text is
 */
export function* messageText(source: ByteSource): Iterable<Buffer> {
  const walk = new RecordWalk(source);
  let chunk = Buffer.allocUnsafe(chunkSize);
  let used = 0;
  for (let record = walk.step(); record !== recordType.extracted; record = walk.step()) {
    if (walk.section !== "content" || record === recordType.message) continue;
    const newline = record === recordType.line ? 1 : 0;
    for (let from = 0; from < walk.length + newline; ) {
      if (used === chunkSize) {
        yield chunk;
        chunk = Buffer.allocUnsafe(chunkSize);
        used = 0;
      }
      if (from < walk.length) {
        const copied = walk.copy(chunk, used, from);
        from += copied;
        used += copied;
      } else {
        chunk[used++] = lineFeed;
        from++;
      }
    }
  }
  if (used > 0) yield chunk.subarray(0, used);
}

const chunkSize = 64 * 1024;
/** Read after a pointer: what it leads to (a header, a recipient) is mostly small. */
const jumpSize = 4 * 1024;
const lineFeed = 0x0a;

/** Record types (`global/rec_type.h`) by what they say. In an envelope `L` is the content filter, in content a piece of a line. */
const recordType = {
  size: code("C"),
  time: code("T"),
  createTime: code("c"),
  attribute: code("A"),
  sender: code("S"),
  recipient: code("R"),
  done: code("D"),
  filter: code("L"),
  redirect: code(">"),
  warning: code("W"),
  message: code("M"),
  line: code("N"),
  padding: code("w"),
  extracted: code("X"),
  pointer: code("p"),
  end: code("E"),
} as const;

function code(letter: string): number {
  return letter.charCodeAt(0);
}

type Section = "envelope" | "content" | "extracted";

/**
 * Types the queue manager accepts (`REC_TYPE_ENVELOPE`, `REC_TYPE_CONTENT`, `REC_TYPE_EXTRACT`); a pointer may stand
 * anywhere. It reads both envelopes by one list, because milters append to either.
 */
const envelopeTypes = "CTcFILSDRO/WVA>K<ionPrep";
const allowed: Record<Section, Uint8Array> = {
  envelope: typeSet(`${envelopeTypes}M`),
  content: typeSet("NLwpX"),
  extracted: typeSet(`${envelopeTypes}E`),
};

function typeSet(letters: string): Uint8Array {
  const set = new Uint8Array(256);
  for (const letter of letters) set[code(letter)] = 1;
  return set;
}

/** Bytes of a record's type and length at most: `rec_get_raw` takes lengths of up to 28 bits, seven in a byte. */
const headerSize = 5;

/**
 * Records in the order Postfix reads them: from offset 0, pointers followed, padding skipped, until `E`. What milters
 * added lies behind `E` and is reached by pointers only, so `E` need not be at the end of the file.
 */
class RecordWalk {
  /** Where in the file the current record's type byte is. */
  offset = 0;
  /** Length of its payload in bytes. */
  length = 0;
  /** Which part of the file it belongs to; `M` opens the content and counts to it, `X` closes it and does not. */
  section: Section = "envelope";
  private readonly source: ByteSource;
  private window: Buffer = Buffer.alloc(0);
  private windowStart = 0;
  /** Index of the payload in the window. */
  private payload = 0;
  private next = 0;
  private walked = 0;
  private dataOffset = 0;
  private dataSize = 0;

  constructor(source: ByteSource) {
    this.source = source;
  }

  /** Go to the next record and say its type. */
  step(): number {
    for (;;) {
      const type = this.read();
      if (allowed[this.section][type] !== 1) throw this.unexpected(type);
      if (type === recordType.pointer) this.follow();
      else if (type !== recordType.padding) return this.enter(type);
    }
  }

  /** The payload as text; bytes that are no UTF-8 become U+FFFD. */
  text(): string {
    return this.window.toString("utf8", this.payload, this.payload + this.length);
  }

  /** The payload's byte at an index within it. */
  byte(index: number): number {
    return this.window[this.payload + index] ?? 0;
  }

  /** Copy the payload, from an index within it, as far as the target has room. @returns how many bytes */
  copy(target: Buffer, at: number, from = 0): number {
    return this.window.copy(target, at, this.payload + from, this.payload + this.length);
  }

  /** The payload itself; valid until the next step. */
  bytes(): Buffer {
    return this.window.subarray(this.payload, this.payload + this.length);
  }

  /** Read the record at `next`, and set `next` behind it. */
  private read(): number {
    const offset = this.next;
    let index = this.load(offset, headerSize);
    const type = this.window[index];
    if (type === undefined) throw new QueueFileDamaged(`the file ends at ${offset}, before its end record`);
    let length = 0;
    let header = 1;
    for (let shift = 0; ; shift += 7) {
      const byte = this.window[index + header];
      if (byte === undefined) throw new QueueFileDamaged(`the file ends in the record at ${offset}`);
      if (header === headerSize) throw new QueueFileDamaged(`the length of the record at ${offset} is too long`);
      length |= (byte & 0x7f) << shift;
      header++;
      if (byte < 0x80) break;
    }
    const size = header + length;
    if (offset + size > this.source.size) throw new QueueFileDamaged(`the file ends in the record at ${offset}`);
    // Every byte belongs to one record at most, so a walk longer than the file goes in circles.
    this.walked += size;
    if (this.walked > this.source.size) throw new QueueFileDamaged(`the pointers lead in a circle at ${offset}`);
    index = this.load(offset, size);
    if (this.window.length - index < size) throw new QueueFileDamaged(`the file ends in the record at ${offset}`);
    this.offset = offset;
    this.length = length;
    this.payload = index + header;
    this.next = offset + size;
    return type;
  }

  /** Have bytes of the file in the window. @returns their index there; fewer bytes follow it only where the file ends */
  private load(offset: number, length: number): number {
    const index = offset - this.windowStart;
    const have = this.window.length - index;
    if (index >= 0 && have >= 0 && (have >= length || this.windowStart + this.window.length === this.source.size)) {
      return index;
    }
    const sequential = index >= 0 && have >= 0;
    const wanted = Math.max(length, sequential ? chunkSize : jumpSize);
    this.window = this.source.read(offset, Math.min(wanted, this.source.size - offset));
    this.windowStart = offset;
    return 0;
  }

  /** A pointer's value of 0 marks a place kept free for one (`rec_goto`). */
  private follow(): void {
    const value = /^\s*(\d*)$/.exec(this.length > 64 ? "-" : this.text())?.[1];
    if (value === undefined) throw new QueueFileDamaged(`the pointer at ${this.offset} is no number`);
    const target = Number(value);
    if (target >= this.source.size) throw new QueueFileDamaged(`the pointer at ${this.offset} leads out of the file`);
    if (target > 0) this.next = target;
  }

  private enter(type: number): number {
    if (type === recordType.size && this.section === "envelope") {
      this.readContentPlace();
    } else if (type === recordType.message) {
      this.section = "content";
      this.checkContentPlace(this.next, this.dataOffset);
    } else if (type === recordType.extracted) {
      this.section = "extracted";
      this.checkContentPlace(this.offset, this.dataOffset + this.dataSize);
    }
    return type;
  }

  private readContentPlace(): void {
    const [dataSize = 0, dataOffset = 0] = sizeFields(this);
    if (this.dataOffset !== 0) return;
    this.dataSize = dataSize;
    this.dataOffset = dataOffset;
  }

  /** The queue manager jumps over the content by the size record and wants `X` there. */
  private checkContentPlace(at: number, said: number): void {
    if (this.dataOffset > 0 && at !== said) {
      throw new QueueFileDamaged(`the size record has the content's edge at ${said}, not at ${at}`);
    }
  }

  private unexpected(type: number): QueueFileDamaged {
    const name = type > 0x20 && type < 0x7f ? String.fromCharCode(type) : `0x${type.toString(16)}`;
    return new QueueFileDamaged(`unexpected record type ${name} in the ${this.section} at ${this.offset}`);
  }
}

/**
 * Numbers of a `C` record: content size, its offset, recipients, qmgr flags, content length after milters' changes,
 * SMTPUTF8 and send options. Files of releases before 2.4 and 3.0 lack the last two.
 */
function sizeFields(walk: RecordWalk): number[] {
  const fields = walk.text().trim().split(/\s+/);
  if (fields.length < 3 || !fields.every((field) => /^-?\d{1,15}$/.test(field))) {
    throw new QueueFileDamaged(`the size record at ${walk.offset} is malformed`);
  }
  return fields.map(Number);
}

/** Collects what the two envelopes say. */
class Envelope {
  private created: string | undefined;
  private arrival: { readonly seconds: number; readonly microseconds: number } | undefined;
  private sender: string | undefined;
  private readonly recipients: QueueRecipient[] = [];
  private sizes: number[] | undefined;
  private contentFilter: string | null = null;
  private warning: number | undefined;

  take(record: number, walk: RecordWalk): void {
    switch (record) {
      case recordType.recipient:
      case recordType.done:
        this.recipients.push({ address: walk.text(), done: record === recordType.done, offset: walk.offset });
        break;
      case recordType.attribute:
        // "create_time=" and nothing else starts like this; a file has twenty attributes.
        if (walk.byte(0) === 0x63 && walk.byte(1) === 0x72) {
          this.takeCreated(/^create_time\s*=\s*(\d+)/.exec(walk.text())?.[1]);
        }
        break;
      case recordType.createTime:
        this.takeCreated(/^\s*(\d+)/.exec(walk.text())?.[1]);
        break;
      case recordType.time:
        this.takeTime(walk.text());
        break;
      case recordType.sender:
        this.sender ??= walk.text();
        break;
      case recordType.size:
        this.sizes ??= sizeFields(walk);
        break;
      case recordType.filter:
        this.contentFilter = walk.text() || null;
        break;
      case recordType.warning:
        this.warning ??= Number(/^\s*(\d{1,15})/.exec(walk.text())?.[1] ?? 0);
        break;
    }
  }

  facts(textSize: number): Omit<MessageFacts, "content" | "messageId"> {
    if (this.arrival === undefined) throw new QueueFileDamaged("there is no arrival time record");
    if (this.sender === undefined) throw new QueueFileDamaged("there is no sender record");
    const sendopts = this.sizes?.[5] ?? 0;
    return {
      created: this.created ?? String(this.arrival.seconds),
      arrival: (this.arrival.seconds * 1_000_000 + this.arrival.microseconds) / 1_000_000,
      sender: this.sender,
      recipients: this.recipients,
      size: this.contentSize() ?? textSize,
      contentFilter: this.contentFilter,
      sendopts,
      delayWarning: this.warning || null,
    };
  }

  /** Undefined as long as not both are known; the first record of each kind counts, so what is known stays. */
  head(): QueueFileHead | undefined {
    const size = this.created === undefined ? undefined : this.contentSize();
    return this.created === undefined || size === undefined ? undefined : { created: this.created, size };
  }

  /** By the size record; undefined without one. */
  private contentSize(): number | undefined {
    if (this.sizes === undefined) return undefined;
    const [dataSize = 0, , , , contentLength = 0] = this.sizes;
    return contentLength > 0 ? contentLength : dataSize;
  }

  private takeCreated(seconds: string | undefined): void {
    const value = seconds?.slice(0, 15).replace(/^0+/, "") ?? "";
    if (value !== "") this.created ??= value;
  }

  private takeTime(text: string): void {
    const [, seconds = "0", microseconds = "0"] = /^\s*(\d{1,11})(?:\s+(\d{1,6}))?/.exec(text) ?? [];
    if (Number(seconds) > 0) this.arrival ??= { seconds: Number(seconds), microseconds: Number(microseconds) };
  }
}

/** Text is gathered here before it is hashed: one call for a small message instead of one per line. */
const gathered = Buffer.allocUnsafeSlow(4 * chunkSize);

class TextDigest {
  size = 0;
  private used = 0;
  private hash: Hash | undefined;

  add(walk: RecordWalk, endsLine: boolean): void {
    const length = walk.length + (endsLine ? 1 : 0);
    this.size += length;
    if (this.used + length > gathered.length) this.flush();
    if (length > gathered.length) {
      this.hash?.update(walk.bytes());
      if (endsLine) this.hash?.update("\n");
      return;
    }
    walk.copy(gathered, this.used);
    this.used += length;
    if (endsLine) gathered[this.used - 1] = lineFeed;
  }

  digest(): string {
    if (this.hash === undefined) return hash("sha256", gathered.subarray(0, this.used), "hex");
    this.flush();
    return this.hash.digest("hex");
  }

  private flush(): void {
    this.hash ??= createHash("sha256");
    this.hash.update(gathered.subarray(0, this.used));
    this.used = 0;
  }
}

/** Longest header line of mail (RFC 5322, 2.1.1); what is longer is cut. */
const longestHeader = 998;

/** Finds the first Message-ID in the header, folded or not, in lines that come in pieces. */
class MessageIdFinder {
  private state: "looking" | "collecting" | "done" = "looking";
  private atLineStart = true;
  private collected = "";

  see(walk: RecordWalk, endsLine: boolean): void {
    if (this.state === "done") return;
    if (this.atLineStart) this.startLine(walk, endsLine);
    else if (this.state === "collecting") this.collect(walk.text());
    this.atLineStart = endsLine;
  }

  messageId(): string | null {
    return this.collected.trim() || null;
  }

  private startLine(walk: RecordWalk, endsLine: boolean): void {
    const first = walk.byte(0);
    const continues = walk.length > 0 && (first === 0x20 || first === 0x09);
    if (continues) {
      if (this.state === "collecting") this.collect(walk.text());
      return;
    }
    if (this.messageId() !== null || (walk.length === 0 && endsLine)) this.state = "done";
    else this.startHeader(walk, first);
  }

  private startHeader(walk: RecordWalk, first: number): void {
    this.state = "looking";
    if ((first | 0x20) !== 0x6d) return;
    const value = /^message-id[ \t]*:(.*)$/is.exec(walk.text())?.[1];
    if (value === undefined) return;
    this.state = "collecting";
    this.collect(value);
  }

  private collect(text: string): void {
    if (this.collected.length < longestHeader) this.collected = (this.collected + text).slice(0, longestHeader);
  }
}
