/*
 * Writes queue files as cleanup(8) and its milter code lay them out, for tests that need one with something special.
 */

export interface Record {
  readonly type: string;
  readonly payload: Buffer;
  /** Put it behind the end record, with a pointer to it in its place and one back behind it, as for milters' changes. */
  readonly moved?: boolean;
}

export function record(type: string, payload: string | Buffer = "", moved = false): Record {
  return { type, payload: Buffer.from(payload), moved };
}

/** Type, length seven bits at a time, payload (`rec_put`). */
export function encode({ type, payload }: Record): Buffer {
  const length: number[] = [];
  let rest = payload.length;
  do {
    length.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.from(type, "latin1"), Buffer.from(length), payload]);
}

export function pointer(target: number): Buffer {
  return encode(record("p", String(target).padStart(15)));
}

/**
 * A complete file: a size record that tells the truth, then the records. `M` and `X` stay in their places.
 *
 * @param length content length, the size record's fifth number; default its first
 */
export function queueFile(records: readonly Record[], { length, sendopts = 0 }: Sizes = {}): Buffer {
  const placed = layOut(records);
  const edge = (type: string) => placed.find((one) => one.record.type === type)?.at ?? 0;
  const dataOffset = edge("M") + 2;
  const dataSize = edge("X") - dataOffset;
  const recipients = records.filter(({ type }) => "RD/".includes(type)).length;
  const numbers = [dataSize, dataOffset, recipients, 0, length ?? dataSize, sendopts];
  const size = encode(record("C", numbers.map((number) => String(number).padStart(15)).join(" ")));
  const heapStart = placed.reduce((end, { at, size: bytes }) => Math.max(end, at + bytes), size.length);
  const main: Buffer[] = [size];
  const heap: Buffer[] = [];
  let heapEnd = heapStart;
  for (const { record: one, at, size: bytes } of placed) {
    if (!one.moved) {
      main.push(encode(one));
      continue;
    }
    main.push(pointer(heapEnd));
    const stored = Buffer.concat([encode(one), pointer(at + bytes)]);
    heap.push(stored);
    heapEnd += stored.length;
  }
  return Buffer.concat([...main, ...heap]);
}

interface Sizes {
  readonly length?: number;
  readonly sendopts?: number;
}

const sizeRecordBytes = 97;
const pointerBytes = 17;

function layOut(records: readonly Record[]): { record: Record; at: number; size: number }[] {
  let at = sizeRecordBytes;
  return records.map((one) => {
    const size = one.moved ? pointerBytes : encode(one).length;
    const placed = { record: one, at, size };
    at += size;
    return placed;
  });
}

/** A message's text as records: a line each, lines longer than `width` in pieces, as smtpd(8) and sendmail(1) cut them. */
export function textRecords(text: string, width = 2048): Record[] {
  const records: Record[] = [];
  for (const line of text.split("\n").slice(0, -1)) {
    let rest = Buffer.from(line);
    for (; rest.length > width; rest = rest.subarray(width)) records.push(record("L", rest.subarray(0, width)));
    records.push(record("N", rest));
  }
  const last = text.slice(text.lastIndexOf("\n") + 1);
  return last === "" ? records : [...records, record("L", last)];
}

/** The records of a message in their order, ready for {@link queueFile}. */
export function messageRecords(message: {
  readonly sender?: string;
  readonly recipients?: readonly (readonly [address: string, done: boolean])[];
  readonly text?: string;
  readonly width?: number;
}): Record[] {
  const { sender = "a@src.test", recipients = [["b@dest.test", false]], text = "Subject: x\n\nbody\n" } = message;
  return [
    record("T", "1795546576 220071"),
    record("A", "create_time=1795546575"),
    record("A", "rewrite_context=local"),
    record("S", sender),
    ...recipients.map(([address, done]) => record(done ? "D" : "R", address)),
    record("p", "0".padStart(15)),
    record("M"),
    ...textRecords(text, message.width),
    record("p", "0".padStart(15)),
    record("X"),
    record("E"),
  ];
}
