import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { OperatorError } from "../../src/errors.ts";
import { factOf } from "../../src/postfix/log-facts.ts";
import { LineReader, lineOf } from "../../src/postfix/mail-log.ts";

const at = (time: string) => Date.parse(time) / 1000;
const reader = (options: Partial<ConstructorParameters<typeof LineReader>[0]> = {}) =>
  new LineReader({ reference: at("2026-11-30T00:00:00Z"), zone: "UTC", ...options });

/** Times of stamps, one after the other. */
function times(
  stamps: readonly string[],
  options: Partial<ConstructorParameters<typeof LineReader>[0]> = {},
): string[] {
  const lines = reader(options);
  return stamps.map((stamp) => {
    const record = lines.read(`${stamp} mx postfix/qmgr[1]: 1A142431FE8: removed`);
    return record === null ? "none" : new Date(record.time * 1000).toISOString();
  });
}

describe("a line", () => {
  const removed = { name: "postfix", daemon: "qmgr", pid: 9369, queueId: "1A142431FE8", text: "removed" };

  test.each([
    ["classic syslog", "Nov 24 19:59:02 mx postfix/qmgr[9369]: 1A142431FE8: removed", "2026-11-24T19:59:02Z"],
    [
      "classic syslog, one digit of day",
      "Nov  4 19:59:02 mx postfix/qmgr[9369]: 1A142431FE8: removed",
      "2026-11-04T19:59:02Z",
    ],
    [
      "journalctl -o short-precise",
      "Nov 24 19:59:02.500000 mx postfix/qmgr[9369]: 1A142431FE8: removed",
      "2026-11-24T19:59:02.500Z",
    ],
    [
      "rsyslog, RFC 3339",
      "2026-11-24T20:59:02.250000+01:00 mx postfix/qmgr[9369]: 1A142431FE8: removed",
      "2026-11-24T19:59:02.250Z",
    ],
    ["RFC 3339 in UTC", "2026-11-24T19:59:02Z mx postfix/qmgr[9369]: 1A142431FE8: removed", "2026-11-24T19:59:02Z"],
    [
      "journalctl -o short-iso",
      "2026-11-24T14:29:02-0530 mx postfix/qmgr[9369]: 1A142431FE8: removed",
      "2026-11-24T19:59:02Z",
    ],
    ["ISO without a zone", "2026-11-24T19:59:02 mx postfix/qmgr[9369]: 1A142431FE8: removed", "2026-11-24T19:59:02Z"],
    [
      "journald JSON",
      '{"__REALTIME_TIMESTAMP":"1795550342250000","SYSLOG_IDENTIFIER":"postfix/qmgr","SYSLOG_PID":"9369","_PID":"1","MESSAGE":"1A142431FE8: removed"}',
      "2026-11-24T19:59:02.250Z",
    ],
    [
      "journald JSON of old, without SYSLOG_PID",
      '{ "__REALTIME_TIMESTAMP" : "1795550342000000", "SYSLOG_IDENTIFIER" : "postfix/qmgr", "_PID" : "9369", "MESSAGE" : "1A142431FE8: removed" }',
      "2026-11-24T19:59:02Z",
    ],
    [
      "journald JSON, message in bytes",
      `{"__REALTIME_TIMESTAMP":"1795550342000000","SYSLOG_IDENTIFIER":"postfix/qmgr","SYSLOG_PID":["9369","9369"],"MESSAGE":[${[...Buffer.from("1A142431FE8: removed")]}]}`,
      "2026-11-24T19:59:02Z",
    ],
    [
      "repeated",
      "Nov 24 19:59:02 mx postfix/qmgr[9369]: message repeated 2 times: [ 1A142431FE8: removed]",
      "2026-11-24T19:59:02Z",
    ],
  ])("%s", (_, line, time) => {
    expect(reader().read(line)).toEqual({ ...removed, time: at(time) });
  });

  test.each([
    ["postfix-out/smtp[1]", { name: "postfix-out", daemon: "smtp", pid: 1 }],
    ["mx-in/submission/smtpd[2]", { name: "mx-in/submission", daemon: "smtpd", pid: 2 }],
    ["postfix/relay/smtp[3]", { name: "postfix/relay", daemon: "smtp", pid: 3 }],
    ["postfix/postfix-script", { name: "postfix", daemon: "postfix-script", pid: null }],
  ])("of program %s", (tag, expected) => {
    expect(reader().read(`Nov 24 19:59:02 mx ${tag}: hello: you`)).toMatchObject({
      ...expected,
      queueId: null,
      text: "hello: you",
    });
  });

  test.each(["4jYvZQ3pxMzLLbp", "015D2431FEB", "ABCDEF"])("of queue id %s", (id) => {
    expect(reader().read(`Nov 24 19:59:02 mx postfix/qmgr[1]: ${id}: removed`)).toMatchObject({
      queueId: id,
      text: "removed",
    });
  });

  test.each(["warning", "NOQUEUE", "statistics", "fatal", "15D2", "connect from x"])("%s is no queue id", (word) => {
    expect(reader().read(`Nov 24 19:59:02 mx postfix/qmgr[1]: ${word}: removed`)).toMatchObject({ queueId: null });
  });

  test.each([
    "",
    "Nov 24 19:59:02 mx CRON[12]: (root) CMD (run-parts)",
    "Nov 24 19:59:02 mx last message repeated 2 times",
    "Foo 24 19:59:02 mx postfix/qmgr[1]: 1A142431FE8: removed",
    "Nov 24 19:59",
    "Nov 24 19:59:02 mx postfix/qm",
    "-- Boot 3f2a --",
    '{"__REALTIME_TIMESTAMP":"1795550342000000","SYSLOG_IDENTIFIER":"postfix/qmgr","MESSAGE":"cut o',
    '{"SYSLOG_IDENTIFIER":"postfix/qmgr","MESSAGE":"no time"}',
    '{"__REALTIME_TIMESTAMP":"1795550342000000","SYSLOG_IDENTIFIER":"postfix/qmgr","MESSAGE":null}',
    "9999999-99T",
  ])("that is none: %j", (line) => {
    expect(reader().read(line)).toBeNull();
  });

  test("is shown as it was, cut where it is long", () => {
    const record = reader().read("Nov 24 19:59:02 mx postfix/qmgr[9369]: 1A142431FE8: removed");
    expect(record && lineOf(record)).toBe("2026-11-24T19:59:02.000Z postfix/qmgr[9369]: 1A142431FE8: removed");
    const long = reader().read(`Nov 24 19:59:02 mx postfix/smtp[1]: 1A142431FE8: to=<${"x".repeat(900)}>`);
    expect(long && lineOf(long).length).toBeLessThanOrEqual(400);
  });
});

describe("stamps without a year", () => {
  test("are of the last year in which they are not in the future", () => {
    expect(times(["Nov 29 10:00:00"])).toEqual(["2026-11-29T10:00:00.000Z"]);
    expect(times(["Dec 24 10:00:00"])).toEqual(["2025-12-24T10:00:00.000Z"]);
  });

  test("turn the year in the middle of a file", () => {
    const reference = at("2027-02-01T00:00:00Z");
    expect(times(["Dec 31 23:59:59", "Jan  1 00:00:00", "Jan 31 12:00:00"], { reference })).toEqual([
      "2026-12-31T23:59:59.000Z",
      "2027-01-01T00:00:00.000Z",
      "2027-01-31T12:00:00.000Z",
    ]);
  });

  test("stay in the old year when a line of December comes late", () => {
    const reference = at("2027-02-01T00:00:00Z");
    expect(times(["Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:59", "Jan  1 00:00:01"], { reference })).toEqual([
      "2026-12-31T23:59:59.000Z",
      "2027-01-01T00:00:00.000Z",
      "2026-12-31T23:59:59.000Z",
      "2027-01-01T00:00:01.000Z",
    ]);
  });

  test("of 29 February are of a leap year", () => {
    expect(times(["Feb 29 10:00:00", "Mar  1 10:00:00"])).toEqual([
      "2024-02-29T10:00:00.000Z",
      "2024-03-01T10:00:00.000Z",
    ]);
  });

  test("are read in the zone of the log's host, in summer and winter", () => {
    expect(times(["Jul  1 12:00:00"], { zone: "Europe/Paris" })).toEqual(["2026-07-01T10:00:00.000Z"]);
    expect(times(["Jan  1 12:00:00"], { zone: "Europe/Paris" })).toEqual(["2026-01-01T11:00:00.000Z"]);
    expect(times(["Jan  1 12:00:00"], { zone: "+05:30" })).toEqual(["2026-01-01T06:30:00.000Z"]);
  });

  test("go on when the clock is put back, and when it is put forward", () => {
    const back = [
      "Oct 25 01:59:59",
      "Oct 25 02:30:00",
      "Oct 25 02:59:59",
      "Oct 25 02:00:00",
      "Oct 25 02:30:00",
      "Oct 25 03:00:00",
    ];
    expect(times(back, { zone: "Europe/Paris" }).map((time) => time.slice(11, 19))).toEqual([
      "23:59:59",
      "00:30:00",
      "00:59:59",
      "01:00:00",
      "01:30:00",
      "02:00:00",
    ]);
    const forward = ["Mar 29 01:59:59", "Mar 29 03:00:00"];
    expect(times(forward, { zone: "Europe/Paris" }).map((time) => time.slice(11, 19))).toEqual([
      "00:59:59",
      "01:00:00",
    ]);
  });

  test("are read in this process's zone where none is given", () => {
    const local = new Date(2026, 10, 24, 19, 59, 2).toISOString();
    expect(times(["Nov 24 19:59:02"], { zone: undefined })).toEqual([local]);
  });

  test("refuse a zone nobody knows", () => {
    expect(() => reader({ zone: "Europe/Nowhere" })).toThrow(
      expect.objectContaining({ kind: "usage" }) as OperatorError,
    );
  });
});

describe("any text", () => {
  test("is read without failing", () => {
    const pieces = fc.constantFrom(
      "Nov 24 19:59:02 mx ",
      "2026-11-24T19:59:02Z mx ",
      "postfix/smtp[1]: ",
      "1A142431FE8: ",
      "to=<a@b>",
      ", orig_to=<c@d>",
      ", relay=x[1.2.3.4]:25",
      ", delay=1",
      ", delays=1/0/0/0",
      ", dsn=2.0.0",
      ", status=sent (ok)",
      "client=x[1.1.1.1]",
      "from=<a>, size=1, nrcpt=1 (queue active)",
      "uid=1 from=<x> orig_id=2",
      "removed",
      '{"SYSLOG_IDENTIFIER":"postfix/x",',
      '"MESSAGE":[1,300],"__REALTIME_TIMESTAMP":"1"}',
      "sender delay notification: ",
      "\0",
      "\u{1F600}",
      '"',
      "\\",
      "<",
      ">",
    );
    const lines = fc.oneof(
      fc.string(),
      fc.array(fc.oneof(pieces, fc.string({ maxLength: 5 }))).map((parts) => parts.join("")),
    );
    const one = reader();
    fc.assert(
      fc.property(lines, (line) => {
        const record = one.read(line);
        if (record === null) return;
        factOf(record);
        expect(Number.isFinite(record.time)).toBe(true);
        expect(lineOf(record).length).toBeLessThanOrEqual(400);
      }),
      { numRuns: 3000 },
    );
  });
});
