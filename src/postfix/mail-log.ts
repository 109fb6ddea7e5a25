import { LocalTime, YearCounter } from "./log-time.ts";

/*
 * Lines of a mail log, as syslog, journald and postlogd(8) write them. A line's program is Postfix's `syslog_name`, a
 * slash and the daemon (`postfix/smtp`, `postfix-out/submission/smtpd`), which is how Postfix's lines are told from those
 * of other programs.
 */

/** One line of the mail log that Postfix wrote, or a line of a log service that says lines were lost. */
export interface LogRecord {
  /** Seconds since 1970; whole ones where the stamp has no fraction. */
  readonly time: number;
  /** The `syslog_name`, such as `postfix` or `postfix/submission`; empty for a log service. */
  readonly name: string;
  /** The daemon or command, such as `smtp`, `qmgr`, `postsuper`; for a log service its program. */
  readonly daemon: string;
  readonly pid: number | null;
  readonly queueId: string | null;
  /** What it says, without the queue id in front. */
  readonly text: string;
}

export interface LineOptions {
  /** Stamps without a zone are of this one: an IANA name or an offset such as `+01:00`; default this process's zone. */
  readonly zone?: string | undefined;
  /** Seconds since 1970. No line was written later: stamps without a year are of the last year that fits. */
  readonly reference: number;
  /** The year of the first line, where it is known; default: the last one that puts this line before the reference. */
  readonly firstYear?: number | undefined;
}

/**
 * Reads the lines of one file, in the file's order: classic syslog (`Nov 24 19:59:02 mx postfix/smtp[1]: …`, without a
 * year), RFC 3339 stamps, `journalctl -o short-iso`, and journald's JSON export. Stamps without a year get the year from
 * their neighbours. Any text is taken: what is no line of a mail log gives null.
 */
export class LineReader {
  private readonly zone: string | undefined;
  private readonly local: LocalTime;
  private readonly years: YearCounter;
  private readonly reference: number;
  private firstYear: number | undefined;
  private lastStamp = "";
  private lastTime = 0;

  constructor(options: LineOptions) {
    this.zone = options.zone;
    this.local = new LocalTime(options.zone);
    this.years = new YearCounter();
    this.reference = options.reference;
    this.firstYear = options.firstYear;
  }

  read(line: string): LogRecord | null {
    const first = line.charCodeAt(0);
    if (first === 0x7b /* { */) return this.readJson(line);
    if (isDigit(first)) return this.readStamped(line, line.indexOf(" "));
    return this.readClassic(line);
  }

  /** `Nov 24 19:59:02`, and with `journalctl -o short-precise` a fraction. */
  private readClassic(line: string): LogRecord | null {
    if (line.charCodeAt(3) !== 0x20 || line.charCodeAt(6) !== 0x20 || line.charCodeAt(9) !== 0x3a) return null;
    if (!this.years.see(line.slice(0, 6))) return null;
    return this.readStamped(line, line.charCodeAt(15) === 0x20 ? 15 : line.indexOf(" ", 15));
  }

  private readStamped(line: string, stampEnd: number): LogRecord | null {
    if (stampEnd < 0) return null;
    const tagStart = line.indexOf(" ", stampEnd + 1) + 1;
    const tagEnd = line.indexOf(":", tagStart);
    if (tagStart === 0 || tagEnd < 0) return null;
    const program = readTag(line.slice(tagStart, tagEnd));
    if (program === null) return null;
    const time = this.timeOf(line.slice(0, stampEnd));
    return time === null ? null : toRecord(time, program, line.slice(tagEnd + 1));
  }

  private timeOf(stamp: string): number | null {
    if (stamp === this.lastStamp) return this.lastTime;
    const time = isDigit(stamp.charCodeAt(0)) ? this.timeOfIso(stamp) : this.timeOfClassic(stamp);
    if (time === null) return null;
    this.lastStamp = Buffer.from(stamp).toString(); // a copy: a slice would keep the whole chunk it was cut from
    this.lastTime = time;
    return time;
  }

  private timeOfIso(stamp: string): number | null {
    const match = isoStamp.exec(stamp);
    if (match === null) return null;
    const [, year = "", month = "", day = "", hour = "", minute = "", second = "", fraction = "", zone] = match;
    const wall = Date.UTC(+year, +month - 1, +day, +hour, +minute, +second) / 1000 + Number(`0.${fraction || 0}`);
    if (Number.isNaN(wall)) return null;
    return zone === undefined ? this.local.toTime(wall) : wall - offsetOf(zone);
  }

  private timeOfClassic(stamp: string): number | null {
    const match = classicStamp.exec(stamp);
    const date = this.years.date;
    if (match === null || date === null) return null;
    const [, hour = "", minute = "", second = "", fraction = ""] = match;
    const seconds = +hour * 3600 + +minute * 60 + +second + Number(`0.${fraction || 0}`);
    this.firstYear ??= this.years.firstYear(this.reference, seconds, this.zone);
    return this.local.toTime(this.years.dayStart(this.firstYear) + seconds);
  }

  /** `journalctl -o json`: one object per line, with spaces around the colons in old versions. */
  private readJson(line: string): LogRecord | null {
    const identifier = /"SYSLOG_IDENTIFIER"\s*:\s*"([^"\\]*)"/.exec(line)?.[1];
    const program = identifier === undefined ? null : readTag(identifier);
    return program === null ? null : readJournalEntry(line, program);
  }
}

const isoStamp = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:?\d\d)?$/;
const classicStamp = /^\w{3} [ \d]\d (\d\d):(\d\d):(\d\d)(?:\.(\d+))?$/;

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

/** Seconds east of Greenwich. */
function offsetOf(zone: string): number {
  if (zone === "Z") return 0;
  const seconds = Number(zone.slice(1, 3)) * 3600 + Number(zone.slice(-2)) * 60;
  return zone.startsWith("-") ? -seconds : seconds;
}

interface Program {
  readonly name: string;
  readonly daemon: string;
  readonly pid: number | null;
}

/** Programs whose own lines tell of lost ones. */
const logServices = /^(?:systemd-journald?|rsyslogd(?:-\w+)?|syslogd|syslog-ng|journal)$/;

/** Null for what is neither Postfix's nor a log service's. */
function readTag(tag: string): Program | null {
  const bracket = tag.indexOf("[");
  const program = bracket < 0 ? tag : tag.slice(0, bracket);
  const pid = bracket < 0 ? null : Number.parseInt(tag.slice(bracket + 1), 10);
  const slash = program.lastIndexOf("/");
  if (slash > 0) return { name: program.slice(0, slash), daemon: program.slice(slash + 1), pid };
  return logServices.test(program) ? { name: "", daemon: program, pid } : null;
}

function toRecord(time: number, { name, daemon, pid }: Program, said: string): LogRecord {
  const text = unrepeated(said.trim());
  const colon = name === "" ? -1 : text.indexOf(": ");
  const queueId = colon >= 6 && colon <= 60 && madeByPostfix.test(text.slice(0, colon)) ? text.slice(0, colon) : null;
  return { time, name, daemon, pid, queueId, text: queueId === null ? text : text.slice(colon + 2) };
}

/** rsyslog's `message repeated 3 times: [ text]` ($RepeatedMsgReduction): the same once more. */
function unrepeated(text: string): string {
  return text.startsWith("message repeated ")
    ? (/^message repeated \d+ times: \[ ?(.*)\]$/s.exec(text)?.[1] ?? text)
    : text;
}

/** Queue ids as `mail_queue_enter` makes them: stricter than what is legal, or `warning` were one. */
const madeByPostfix =
  /^(?:[0-9A-F]{6,}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,}z[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-y]+)$/;

function readJournalEntry(line: string, { name, daemon }: Program): LogRecord | null {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line);
  } catch {
    return null; // cut off by a crash, or no journal at all
  }
  const time = Number(fieldOf(entry, "__REALTIME_TIMESTAMP")) / 1e6;
  const text = fieldOf(entry, "MESSAGE");
  if (!(time > 0) || text === null) return null;
  const pid = Number.parseInt(fieldOf(entry, "SYSLOG_PID") ?? fieldOf(entry, "_PID") ?? "", 10);
  return toRecord(time, { name, daemon, pid: Number.isNaN(pid) ? null : pid }, text);
}

/** A field is a string; an array of numbers when it has bytes that aren't UTF-8 text; an array of these when it came twice. */
function fieldOf(entry: Record<string, unknown>, field: string): string | null {
  const value = entry[field];
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  if (value.every((byte) => typeof byte === "number")) return Buffer.from(value).toString();
  return fieldOf({ [field]: value[0] }, field);
}

/** The line again, as a person knows it; long replies are cut. */
export function lineOf({ time, name, daemon, pid, queueId, text }: LogRecord): string {
  const program = `${name === "" ? daemon : `${name}/${daemon}`}${pid === null ? "" : `[${pid}]`}`;
  const said = queueId === null ? text : `${queueId}: ${text}`;
  const line = `${new Date(time * 1000).toISOString()} ${program}: ${said}`;
  return line.length <= lineLimit ? line : `${line.slice(0, lineLimit - 1)}…`;
}

const lineLimit = 400;
