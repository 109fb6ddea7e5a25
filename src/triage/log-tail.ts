import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import { LineReader, type LogRecord } from "../postfix/mail-log.ts";
import { run } from "../system/exec.ts";

/** The end of a log. */
export interface LogTail {
  /** The file, or `journal`. */
  readonly source: string;
  /** In the log's order. */
  readonly records: readonly LogRecord[];
}

export interface TailOptions {
  /** `maillog_file` of the instances, empty ones for those that log to syslog. */
  readonly logFiles: readonly string[];
  /** Milliseconds since 1970. */
  readonly now: number;
  /** Where syslog daemons write mail logs; default: Debian's and Red Hat's places. */
  readonly syslogFiles?: readonly string[];
}

/** Of a file so much is read: some thirty thousand lines. */
const tailBytes = 4 * 1024 * 1024;

/** The ends of all logs of these instances, each once; what can't be read is told of. */
export async function readTails(
  options: TailOptions,
): Promise<{ readonly tails: readonly LogTail[]; readonly unseen: readonly string[] }> {
  const tails: LogTail[] = [];
  const unseen: string[] = [];
  for (const file of new Set(options.logFiles)) {
    try {
      tails.push(file === "" ? await syslogTail(options) : fileTail(file, options.now));
    } catch (error) {
      const why = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
      unseen.push(`the mail log${file === "" ? "" : ` ${file}`} can't be read: ${why}`);
    }
  }
  return { tails, unseen };
}

async function syslogTail(options: TailOptions): Promise<LogTail> {
  const { syslogFiles = ["/var/log/mail.log", "/var/log/maillog"], now } = options;
  const file = syslogFiles.find((path) => existsSync(path));
  return file === undefined ? await journalTail(now) : fileTail(file, now);
}

function fileTail(path: string, now: number): LogTail {
  const fd = openSync(path, "r");
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new OperatorError("failed", `${path} is no file`);
    const start = Math.max(0, stat.size - tailBytes);
    const bytes = Buffer.allocUnsafe(stat.size - start);
    const length = readSync(fd, bytes, 0, bytes.length, start);
    const text = bytes.toString("utf8", 0, length);
    return { source: path, records: recordsOf(start === 0 ? text : text.slice(text.indexOf("\n") + 1), now) };
  } finally {
    closeSync(fd);
  }
}

/** Mail is facility 2 of syslog(3). */
async function journalTail(now: number): Promise<LogTail> {
  const args = ["--no-pager", "--output=short-iso", "--since=-60min", "--lines=30000", "SYSLOG_FACILITY=2"];
  const { stdout } = await run("journalctl", args, { timeoutMs: 5000 });
  return { source: "journal", records: recordsOf(stdout.toString("utf8"), now) };
}

function recordsOf(text: string, now: number): LogRecord[] {
  const reader = new LineReader({ reference: now / 1000 });
  return text.split("\n").flatMap((line) => reader.read(line) ?? []);
}
