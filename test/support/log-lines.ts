import { gatherEvidence, type LogEvidence, type Watch } from "../../src/postfix/log-evidence.ts";
import { LineReader, type LogRecord } from "../../src/postfix/mail-log.ts";

/**
 * Records of a log written as `12:00:01 qmgr 015D2431FEB: removed`: the time of one day in UTC, then the daemon of
 * `postfix` (or a whole tag such as `postfix-out/smtp[7]` or `systemd-journald`), then what it says. Empty lines and
 * indentation don't count.
 */
export function recordsOf(log: string, day = "2026-11-24"): LogRecord[] {
  const reader = new LineReader({ reference: Date.parse(`${day}T23:59:59Z`) / 1000 + 86_400 });
  return log
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => {
      const [, time = "", tag = "", text = ""] = /^(\S+) (\S+) (.*)$/.exec(line) ?? [];
      const program = tag.includes("/") || /journald|rsyslogd/.test(tag) ? tag : `postfix/${tag}[${pidOf(tag)}]`;
      const record = reader.read(`${day}T${time}Z mx ${program}: ${text}`);
      if (record === null) throw new Error(`no line of a log: ${line}`);
      return record;
    });
}

function pidOf(daemon: string): number {
  return 100 + [...daemon].reduce((sum, character) => sum + character.charCodeAt(0), 0);
}

export function evidenceOf(log: string, watch: Watch, names?: readonly string[]): Promise<LogEvidence> {
  return gatherEvidence([recordsOf(log)], watch, names);
}

/** Seconds since 1970 of a time of that day. */
export function clockTime(time: string, day = "2026-11-24"): number {
  return Date.parse(`${day}T${time}Z`) / 1000;
}
