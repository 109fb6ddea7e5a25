import { type LogRecord, lineOf } from "../postfix/mail-log.ts";
import { Tally } from "./counts.ts";
import type { LogTail } from "./log-tail.ts";
import type { LogLevel, LogSign, LogSigns } from "./report.ts";
import { isOwnClient } from "./traffic.ts";

/** What is older says little of what is wrong now. */
export const windowSeconds = 3600;
export const rateSeconds = 600;

/** @param now milliseconds since 1970 */
export function signsOf({ source, records }: LogTail, now: number): LogSigns {
  const seconds = now / 1000;
  const recent = records.filter(({ time }) => time >= seconds - windowSeconds);
  const latest = recent.filter(({ time }) => time >= seconds - rateSeconds);
  const levels = { panic: 0, fatal: 0, error: 0, warning: 0 };
  for (const record of recent) {
    const level = levelOf(record);
    if (level !== null) levels[level]++;
  }
  return {
    source,
    from: timeOf(records[0]),
    to: timeOf(records.at(-1)),
    lines: records.length,
    windowSeconds,
    levels,
    last: lastOf(recent),
    rates: ratesOf(latest),
    rateSeconds,
    ...handedIn(latest),
    signs: {
      room: sign(recent, ({ text }) =>
        /not enough free space|No space left on device|Insufficient system storage/.test(text),
      ),
      corrupt: sign(recent, ({ text }) =>
        /saving corrupt file|damaged message: corrupt|corrupt queue file/i.test(text),
      ),
      milter: sign(recent, ({ text }) =>
        /(?:connect to Milter service|can't read SMFIC|milter.*: (?:Connection refused|No such file))/i.test(text),
      ),
      throttled: sign(recent, ({ text }) => /bad command startup -- throttling/.test(text)),
      deleted: sign(recent, isDeletion),
      fatal: sign(recent, (record) => /^(?:panic|fatal)$/.test(levelOf(record) ?? "") && !commands.has(record.daemon)),
    },
    deleted: recent.filter(isDeletion).reduce((sum, { text }) => sum + Number(/(\d+) message/.exec(text)?.[1] ?? 0), 0),
  };
}

function timeOf(record: LogRecord | undefined): string | null {
  return record === undefined ? null : new Date(record.time * 1000).toISOString();
}

/** msg(3): the level stands at the beginning of what is said. */
function levelOf({ text }: LogRecord): LogLevel | null {
  const [, level] = /^(panic|fatal|error|warning): /.exec(text) ?? [];
  return (level as LogLevel | undefined) ?? null;
}

/** What people call. */
const commands = new Set([
  "postfix",
  "postsuper",
  "postqueue",
  "postdrop",
  "postcat",
  "postconf",
  "postmap",
  "sendmail",
]);

const lastShown = 6;

/** The worst first, then the newest; the same text of another number or address is the same. */
function lastOf(records: readonly LogRecord[]): string[] {
  const kinds = [["panic", "fatal"], ["error"], ["warning"]];
  const newest = records.toReversed();
  const seen = new Set<string>();
  return kinds
    .flatMap((levels) => newest.filter((record) => levels.includes(levelOf(record) ?? "")))
    .filter(({ daemon, text }) => {
      const key = `${daemon} ${text.replace(/\d+/g, "#")}`;
      return !seen.has(key) && seen.add(key);
    })
    .slice(0, lastShown)
    .map(lineOf);
}

function ratesOf(records: readonly LogRecord[]): LogSigns["rates"] {
  const perMinute = (is: (record: LogRecord) => boolean) =>
    Number((records.filter(is).length / (rateSeconds / 60)).toFixed(1));
  return {
    // One line for each message that is queued, by whatever way it came.
    received: perMinute(({ daemon, text }) => daemon === "cleanup" && text.startsWith("message-id=")),
    sent: perMinute(({ text }) => text.includes(" status=sent ")),
    deferred: perMinute(({ text }) => text.includes(" status=deferred ")),
    bounced: perMinute(({ text }) => text.includes(" status=bounced ")),
    rejected: perMinute(({ daemon, text }) => daemon === "smtpd" && /(?:^|: )reject: /.test(text)),
    notices: perMinute(
      ({ daemon, text }) => daemon === "bounce" && text.startsWith("sender non-delivery notification: "),
    ),
  };
}

const handedShown = 3;

/** smtpd(8) says once for each message who brings it. */
function handedIn(records: readonly LogRecord[]): Pick<LogSigns, "logins" | "clients"> {
  const [logins, clients] = [new Tally(), new Tally()];
  for (const { daemon, queueId, text } of records) {
    if (daemon !== "smtpd" || queueId === null || !text.startsWith("client=")) continue;
    const login = /, sasl_username=([^,]*)/.exec(text)?.[1];
    if (login !== undefined) logins.add(login);
    const client = /^client=[^[]*\[([^\]]*)\]/.exec(text)?.[1] ?? "";
    if (!isOwnClient(client)) clients.add(client);
  }
  return { logins: logins.top(handedShown), clients: clients.top(handedShown) };
}

const signLines = 3;

function sign(records: readonly LogRecord[], is: (record: LogRecord) => boolean): LogSigns["signs"][LogSign] {
  const found = records.filter(is);
  return { count: found.length, lines: found.slice(-signLines).map(lineOf) };
}

/** `postsuper -d` says at its end how many it removed. */
function isDeletion({ daemon, text }: LogRecord): boolean {
  return daemon === "postsuper" && /^Deleted: \d+ message/.test(text);
}
