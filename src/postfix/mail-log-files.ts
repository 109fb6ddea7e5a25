import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { Readable, type Transform } from "node:stream";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { OperatorError } from "../errors.ts";
import { YearCounter } from "./log-time.ts";
import { LineReader, type LogRecord } from "./mail-log.ts";

export interface MailLogOptions {
  /** Seconds since 1970. Nothing in the files was logged later: a year that is missing is the last that fits. */
  readonly reference: number;
  /** Zone of the log's host, for stamps that name none; default this process's. */
  readonly zone?: string | undefined;
  /** Told of each file, once all are read, how many lines of Postfix it has. */
  readonly onFile?: ((path: string, lines: number) => void) | undefined;
}

/**
 * Read the mail logs of one host, given in any order: plain, gzip or zstd (told by their first bytes), in any of the
 * formats `LineReader` knows. Records come in the order of time, in batches; within a second in the order of their file. A
 * line that several files have (the same text of the same process in the same second) comes as often as in the file that
 * has it most often. A number missing in a rotated set is told by a record of its own, where its lines would be.
 *
 * Memory stays flat: files are streams, and only those whose times overlap are open together.
 *
 * @throws OperatorError `failed`, naming the file, when one can't be read, is cut short or is damaged; a last line that
 * was never finished is no error
 */
export async function* readMailLogs(
  paths: readonly string[],
  options: MailLogOptions,
): AsyncGenerator<readonly LogRecord[]> {
  const surveyed: LogFile[] = [];
  for (const path of new Set(paths)) surveyed.push(await survey(path, options));
  const dated = surveyed.filter((file) => file.first !== null).sort((a, b) => (a.first ?? 0) - (b.first ?? 0));
  const missing = missingRotations(surveyed.map(({ path }) => path));
  const sources = new Map(dated.map((file) => [file.path, new Source(file, options, missing.get(file.path))]));
  yield* merge([...sources.values()]);
  for (const { path } of surveyed) options.onFile?.(path, sources.get(path)?.lines ?? 0);
}

interface LogFile {
  readonly path: string;
  /** Time of its first record, null when it has none. */
  readonly first: number | null;
  readonly firstYear: number | undefined;
}

/** The first record's time; where stamps have no year that takes the whole file, because later lines decide the year. */
async function survey(path: string, options: MailLogOptions): Promise<LogFile> {
  const years = new YearCounter();
  const probe = new LineReader(options);
  let firstLine: string | undefined;
  let lastStamp: string | undefined;
  for await (const lines of linesOf(path)) {
    for (const line of lines) {
      if (firstLine === undefined && probe.read(line) !== null) firstLine = line;
      if (years.see(line.slice(0, 6))) lastStamp = line;
    }
    lastStamp = lastStamp?.slice(0, 15);
    if (firstLine !== undefined && lastStamp === undefined) break; // its stamps have years
  }
  if (firstLine === undefined) return { path, first: null, firstYear: undefined };
  const seconds = lastStamp === undefined ? undefined : secondsOf(lastStamp);
  const firstYear = seconds === undefined ? undefined : years.firstYear(options.reference, seconds, options.zone);
  const first = new LineReader({ ...options, firstYear }).read(firstLine)?.time ?? null;
  return { path, first, firstYear };
}

/** Of `Nov 24 19:59:02`, since midnight. */
function secondsOf(stamp: string): number {
  const [hour = 0, minute = 0, second = 0] = stamp.slice(7, 15).split(":").map(Number);
  return hour * 3600 + minute * 60 + second || 0;
}

/** Files behind which a number is missing in their set (`mail.log`, `mail.log.1`, `mail.log.3.gz`), with what is missing. */
function missingRotations(paths: readonly string[]): Map<string, string> {
  const missing = new Map<string, string>();
  for (const set of rotatedSets(paths)) {
    for (const [index, { path, stem, number }] of set.entries()) {
      const older = set[index - 1];
      if (older !== undefined && older.number > number + 1) missing.set(path, `${stem}.${number + 1}`);
    }
  }
  return missing;
}

/**
 * What is missing at the end of a rotated set: the file that was being written (`mail.log` where there are only
 * `mail.log.1` and older ones). Undefined when a file without a number is there, which may be that one.
 */
export function newestMissing(paths: readonly string[]): string | undefined {
  const newest = rotatedSets(paths).map((set) => set.at(-1));
  const [first] = newest;
  // Numbers like 20261124 are dates.
  if (first === undefined || newest.some((file) => file === undefined || file.number === 0 || file.number > 1000)) {
    return undefined;
  }
  return first.number === 1 ? first.stem : `${first.stem}.${first.number - 1}`;
}

/** The files of each set, oldest first; those that are being written have number 0. */
function rotatedSets(paths: readonly string[]): { path: string; stem: string; number: number }[][] {
  const files = paths.map((path) => {
    const [, stem = path, number = 0] = /^(.*?)(?:\.(\d+))?(?:\.(?:gz|zst|zstd))?$/s.exec(path) ?? [];
    return { path, stem, number: Number(number) };
  });
  return [...Map.groupBy(files, ({ stem }) => stem).values()].map((set) => set.sort((a, b) => b.number - a.number));
}

/** The records of one second of a file, or a part of them. */
interface Second {
  readonly second: number;
  readonly records: LogRecord[];
}

/** A file being read, one second after the other. */
class Source {
  readonly first: number;
  /** Lines of Postfix so far. */
  lines = 0;
  private readonly missing: string | undefined;
  private readonly reader: LineReader;
  private readonly path: string;
  private chunks: AsyncGenerator<string[]> | undefined;
  private ready: Second[] = [];
  private next = 0;
  private open: Second | undefined;

  constructor(file: LogFile, options: MailLogOptions, missing: string | undefined) {
    this.path = file.path;
    this.first = Math.floor(file.first ?? 0);
    this.missing = missing;
    this.reader = new LineReader({ ...options, firstYear: file.firstYear });
  }

  /** The second to take next, or undefined at the end. Call `fill` before. */
  get head(): Second | undefined {
    return this.ready[this.next];
  }

  take(): void {
    this.next++;
  }

  /** Read on until there is a whole second, or the end. */
  async fill(): Promise<void> {
    if (this.next < this.ready.length) return;
    this.ready = [];
    this.next = 0;
    if (this.chunks === undefined) {
      this.chunks = linesOf(this.path);
      if (this.missing !== undefined) this.add(notThere(this.missing, this.first));
    }
    while (this.ready.length === 0) {
      const { value: lines, done } = await this.chunks.next();
      if (done) break;
      for (const line of lines) {
        const record = this.reader.read(line);
        if (record !== null) this.add(record);
      }
    }
    if (this.ready.length === 0 && this.open !== undefined) {
      this.ready.push(this.open);
      this.open = undefined;
    }
  }

  async close(): Promise<void> {
    await this.chunks?.return(undefined);
  }

  private add(record: LogRecord): void {
    if (record.name !== "") this.lines++;
    const second = this.secondFor(record.time);
    if (this.open?.second === second && this.open.records.length < largestSecond) {
      this.open.records.push(record);
      return;
    }
    if (this.open !== undefined) this.ready.push(this.open);
    this.open = { second, records: [record] };
  }

  /** Late lines stay where they are; when the clock was put back by hours, what follows belongs where it says. */
  private secondFor(time: number): number {
    const before = this.open?.second ?? this.first;
    const second = Math.floor(time);
    return second < before && before - second < clockWasSet ? before : second;
  }
}

const clockWasSet = 3600;
/** A second with more lines is taken in pieces. */
const largestSecond = 20_000;

/** The daemon of the records that stand for a file that is not there. */
export const missingFile = "missing file";

function notThere(file: string, time: number): LogRecord {
  return { time, name: "", daemon: missingFile, pid: null, queueId: null, text: `${file} is not among the logs` };
}

async function* merge(waiting: Source[]): AsyncGenerator<readonly LogRecord[]> {
  const open = new Set<Source>();
  let batch: LogRecord[] = [];
  try {
    for (;;) {
      const second = await earliest(open, waiting);
      if (second === undefined) break;
      const heads = [...open].flatMap((source) => (source.head?.second === second ? [source.head.records] : []));
      for (const record of heads.length === 1 ? (heads[0] ?? []) : mergeSecond(heads)) batch.push(record);
      for (const source of open) if (source.head?.second === second) source.take();
      if (batch.length < batchSize) continue;
      yield batch;
      batch = [];
    }
    if (batch.length > 0) yield batch;
  } finally {
    for (const source of open) await source.close();
  }
}

const batchSize = 4096;

/** The second to take next; opens the files that begin by then and forgets those that are at their end. */
async function earliest(open: Set<Source>, waiting: Source[]): Promise<number | undefined> {
  for (;;) {
    let second: number | undefined;
    for (const source of open) {
      if (source.head === undefined) await source.fill();
      if (source.head === undefined) open.delete(source);
      else second = Math.min(second ?? source.head.second, source.head.second);
    }
    const next = waiting[0];
    if (next === undefined || (second !== undefined && next.first > second)) return second;
    open.add(next);
    waiting.shift();
  }
}

/** What several files say of one second: each line as often as the file that has it most often. */
function mergeSecond(files: readonly LogRecord[][]): LogRecord[] {
  const counts = new Map<string, number>();
  const merged: LogRecord[] = [];
  for (const records of files) {
    const here = new Map<string, number>();
    for (const record of records) {
      const line = `${record.name}/${record.daemon}[${record.pid}]: ${record.queueId}: ${record.text}`;
      const times = (here.get(line) ?? 0) + 1;
      here.set(line, times);
      if (times <= (counts.get(line) ?? 0)) continue;
      counts.set(line, times);
      merged.push(record);
    }
  }
  return merged.sort((a, b) => a.time - b.time);
}

/** The lines of a file, a chunk of them at a time. What follows the last newline comes as a line as well. */
async function* linesOf(path: string): AsyncGenerator<string[]> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of bytesOf(path)) {
    const end = chunk.lastIndexOf(0x0a);
    if (end < 0) {
      rest = Buffer.concat([rest, chunk]);
      if (rest.length > longestLine) rest = rest.subarray(0, longestLine);
      continue;
    }
    yield Buffer.concat([rest, chunk.subarray(0, end)])
      .toString("utf8")
      .split("\n");
    rest = Buffer.from(chunk.subarray(end + 1));
  }
  if (rest.length > 0) yield [rest.toString("utf8")];
}

/** Bytes; what has no newline for so long is no log, and must not fill the memory. */
const longestLine = 1 << 20;

async function* bytesOf(path: string): AsyncGenerator<Buffer> {
  const { fd, size, compression } = openLog(path);
  try {
    if (compression === undefined) yield* chunksOf(fd, 0);
    if (compression === "gzip") yield* decompressed(fd, 0, createGunzip({ chunkSize }));
    if (compression === "zstd") yield* framesOf(fd, size);
  } catch (cause) {
    throw unreadable(path, cause, compression);
  } finally {
    closeSync(fd);
  }
}

const chunkSize = 1 << 18;

function* chunksOf(fd: number, start: number): Generator<Buffer> {
  for (let offset = start; ; ) {
    const chunk = Buffer.allocUnsafe(chunkSize);
    const got = readSync(fd, chunk, 0, chunkSize, offset);
    if (got === 0) return;
    offset += got;
    yield chunk.subarray(0, got);
  }
}

/** Frame after frame (`pzstd` writes many, appending adds one): Node's decompressor ends, without a word, after the first. */
async function* framesOf(fd: number, size: number): AsyncGenerator<Buffer> {
  for (let offset = 0; offset < size; ) {
    const zstd = createZstdDecompress({ chunkSize });
    yield* decompressed(fd, offset, zstd);
    if (zstd.bytesWritten === 0) throw new Error("a frame is empty");
    offset += zstd.bytesWritten;
  }
}

async function* decompressed(fd: number, start: number, decompressor: Transform): AsyncGenerator<Buffer> {
  const file = Readable.from(chunksOf(fd, start), { objectMode: true, highWaterMark: 1 });
  file.on("error", (error) => decompressor.destroy(error));
  try {
    for await (const chunk of file.pipe(decompressor)) yield chunk;
  } finally {
    file.destroy();
    decompressor.destroy();
  }
}

type Compression = "gzip" | "zstd";

function openLog(path: string): { fd: number; size: number; compression: Compression | undefined } {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new Error("it is not a regular file");
    const magic = Buffer.alloc(6);
    readSync(fd, magic, 0, magic.length, 0);
    return { fd, size: stat.size, compression: compressionOf(magic) };
  } catch (cause) {
    if (fd !== undefined) closeSync(fd);
    throw unreadable(path, cause);
  }
}

function compressionOf(magic: Buffer): Compression | undefined {
  const hex = magic.toString("hex");
  if (hex.startsWith("1f8b")) return "gzip";
  if (hex.startsWith("28b52ffd") || /^5.2a4d18/.test(hex)) return "zstd"; // a frame, or one to be skipped (pzstd)
  if (hex.startsWith("425a68") || hex === "fd377a585a00") throw new Error("it is compressed with bzip2 or xz");
  return undefined;
}

function unreadable(path: string, cause: unknown, compression?: Compression): OperatorError {
  const detail = cause instanceof Error ? cause.message : String(cause);
  const damaged = compression === undefined ? "" : `its ${compression} stream is damaged or cut short: `;
  return new OperatorError("failed", `the mail log ${path} can't be read: ${damaged}${detail}`, {
    hints: [
      compression === undefined
        ? "give regular files that are plain, gzip or zstd; write journalctl -o json into a file first"
        : "decompress what can be saved of it into a file (gzip -dc, zstd -dc), and give that one instead",
    ],
    cause,
  });
}
