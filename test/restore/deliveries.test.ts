import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packKey } from "../../src/repository/layout.ts";
import { type Deliveries, judgeDeliveries } from "../../src/restore/deliveries.ts";
import { entryKey, type MessageEntry } from "../../src/snapshot/manifest.ts";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import type { Clock } from "../../src/system/clock.ts";
import { systemClock } from "../../src/system/clock.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { noMessages } from "../support/records.ts";

/** A day on which the snapshot was taken at 12:00, UTC; the message came at 11:00 and is to be tried again at 12:05. */
const at = (time: string) => Date.parse(`2026-11-24T${time}Z`) / 1000;
const id = "015D2431FEB";
const clock: Clock = { ...systemClock, now: () => at("20:00:00") * 1000 };
const to = (...addresses: string[]) => addresses.map((address) => ({ address, done: false }));

let made: HandMade;
beforeAll(async () => {
  made = await HandMade.make();
});
afterAll(async () => made[Symbol.asyncDispose]());

interface Case {
  readonly over?: Partial<MessageEntry>;
  /** Reports of the snapshot. */
  readonly reports?: Readonly<Record<string, string>>;
  readonly running?: boolean;
  readonly zone?: string;
  readonly snapshot?: Partial<Snapshot>;
}

let cases = 0;

/** Log files with these names and contents, and what they say of a snapshot with one message. */
async function judged(files: Readonly<Record<string, string | Buffer>>, more: Case = {}) {
  const { reports = { "postconf-n": "" }, running = true, zone, over = {}, snapshot = {} } = more;
  const { signed, manifest } = await made.take({
    messages: [
      {
        bytes: queueFiles.get("plain") ?? Buffer.alloc(0),
        over: {
          ...{ queueId: id, created: String(at("11:00:00")), arrival: at("11:00:00"), mtime: at("12:05:00") },
          ...{ sender: "s@src.test", size: 848, messageId: "<1@src.test>", recipients: to("a@dst.test"), ...over },
        },
      },
    ],
    files: Object.entries(reports).map(([path, text]) => {
      return { bytes: Buffer.from(text), over: { area: "report", path } };
    }),
    over: {
      ...{ time: "2026-11-24T12:00:00.000Z", finished: "2026-11-24T12:00:02.000Z" },
      instances: [
        {
          ...{ name: "mx", configDirectory: "/etc/postfix", queueDirectory: "/var/spool/postfix" },
          ...{ postfixVersion: "3.7.11", running, mode: running ? "live" : "stopped", messages: noMessages },
        },
      ],
      ...snapshot,
    },
  });
  const directory = join(made.directory, `logs-${++cases}`);
  mkdirSync(directory);
  const paths = Object.entries(files).map(([name, content]) => {
    writeFileSync(join(directory, name), content);
    return join(directory, name);
  });
  const source = { repository: made.repository, identities: made.identities, signed };
  const deliveries = await judgeDeliveries({ source, manifest, instance: "mx", files: paths, clock, zone });
  const [message] = manifest.messages;
  if (message === undefined) throw new Error("the snapshot has no message");
  const verdicts = deliveries.verdicts.get(entryKey(message)) ?? [];
  return {
    ...deliveries,
    directory,
    verdicts: verdicts.map(({ verdict }) => verdict),
    reasons: verdicts.map(({ reason }) => reason),
    undelivered: verdicts.map(({ undelivered }) => undelivered === true),
  };
}

/** Lines written as `12:05:00 smtp ID: text`, as syslog writes them. */
function syslog(lines: string, name = "postfix"): string {
  return lines
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => line.replace(/^(\S+) (\S+) /, (_, time, daemon) => `Nov 24 ${time} mx ${name}/${daemon}[7]: `))
    .map((line) => `${line}\n`)
    .join("");
}

const before = `
  11:00:00 smtpd ${id}: client=x.test[192.0.2.1]
  11:00:00 cleanup ${id}: message-id=<1@src.test>
  11:00:01 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
  11:00:02 smtp ${id}: to=<a@dst.test>, relay=none, delay=2, delays=1/0/0/1, dsn=4.0.0, status=deferred (later)`;
const sent = `
  12:05:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
  12:05:00 smtp ${id}: to=<a@dst.test>, relay=mx.dst.test[192.0.2.9]:25, delay=3900, delays=3900/0/0/0, dsn=2.0.0, status=sent (250 Ok)
  12:05:00 qmgr ${id}: removed`;
const other = (time: string) => `\n${time} smtpd connect from x.test[192.0.2.1]`;

function isQuiet({ warnings }: Pick<Deliveries, "warnings">): void {
  expect(warnings).toEqual([]);
}

describe("what logs prove", () => {
  test("a recipient served after the snapshot, one that was not, and mail accepted later", async () => {
    const later = `
      12:06:00 smtpd 022222222AA: client=x.test[192.0.2.1]
      12:06:00 cleanup 022222222AA: message-id=<2@src.test>
      12:06:00 qmgr 022222222AA: from=<t@src.test>, size=900, nrcpt=1 (queue active)`;
    const done = await judged({ "mail.log": syslog(before + sent + later) });
    isQuiet(done);
    expect(done.verdicts).toEqual(["done"]);
    expect(done.sentence).toBe(
      "lost 0 of the snapshot; accepted later and unfinished by the log: 1; possibly twice: 0",
    );
    expect(done.bound).toMatchObject({ done: 1, deliver: 0, lost: 0, acceptedLater: 1 });
    expect(done.later).toMatchObject([{ queueId: "022222222AA", sender: "t@src.test", messageId: "<2@src.test>" }]);
    expect(done.covered).toEqual({ from: at("11:00:00"), to: at("12:06:00") });

    const queued = await judged({ "mail.log": syslog(before + other("12:01:00")) });
    isQuiet(queued);
    expect(queued.verdicts).toEqual(["deliver"]);
    expect(queued.bound).toMatchObject({ done: 0, deliver: 1, inDoubt: 0 });
  });

  test("the same from rotated files in any order, gzip, zstd and the journal's JSON", async () => {
    const [first = "", ...rest] = syslog(before).split(/(?<=\n)/);
    const journal = syslog(sent)
      .trim()
      .split("\n")
      .map((line) => {
        const [, time = "", name = "", text = ""] = /^Nov 24 (\S+) mx (\S+)\[7\]: (.*)$/.exec(line) ?? [];
        return JSON.stringify({
          ...{ __REALTIME_TIMESTAMP: `${at(time)}000000`, SYSLOG_IDENTIFIER: name, SYSLOG_PID: "7", MESSAGE: text },
        });
      });
    const result = await judged({
      "mail.log.1": rest.slice(1).join(""),
      "journal.json": journal.join("\n"),
      "mail.log.3.gz": gzipSync(first),
      "mail.log.2.zst": zstdCompressSync(rest[0] ?? ""),
    });
    isQuiet(result);
    expect(result.verdicts).toEqual(["done"]);
  });

  test("times of the log are in the zone of its host: the snapshot's, or the one that is named", async () => {
    const paris = { reports: { "postconf-n": "", timezone: "Europe/Paris\n" } };
    const log = syslog(before + sent).replace(/ 1(\d):(?=\d\d:\d\d mx)/g, (_, hour) => ` 1${Number(hour) + 1}:`);
    const own = await judged({ "mail.log": log }, paris);
    isQuiet(own);
    expect(own.verdicts).toEqual(["done"]);
    expect((await judged({ "mail.log": log }, { zone: "+01:00" })).verdicts).toEqual(["done"]);
    const wrong = await judged({ "mail.log": log }, { ...paris, zone: "UTC" });
    expect(wrong.verdicts).toEqual(["in-doubt"]);
    expect(wrong.warnings).toEqual([
      expect.stringMatching(/60 minutes from the snapshot's for 1 messages: name the time zone/),
    ]);
    const unknown = await errorOf(() => judged({ "mail.log": log }, { zone: "Paris" }));
    expect(unknown).toMatchObject({ kind: "usage", message: 'there is no time zone "Paris"' });
  });
});

describe("several instances in one log", () => {
  const twice =
    syslog(before) +
    syslog(
      `${before.replaceAll("<1@", "<9@").replaceAll("s@src", "z@src")}${sent.replaceAll("s@src", "z@src")}`,
      "postfix-out",
    );

  test("are told apart by the names in the snapshot's configuration, also with the same short id", async () => {
    const log = { "mail.log": twice + syslog(other("12:06:00")) };
    const mine = await judged(log);
    isQuiet(mine);
    expect(mine.verdicts).toEqual(["deliver"]);
    const out = await judged(log, {
      reports: { "postconf-n": "multi_instance_name = postfix-out\n" },
      over: { sender: "z@src.test", messageId: "<9@src.test>" },
    });
    isQuiet(out);
    expect(out.verdicts).toEqual(["done"]);
  });

  test("a log without a line of the instance proves nothing", async () => {
    const result = await judged(
      { "mail.log": syslog(before + sent) },
      { reports: { "postconf-n": "syslog_name = other\n" } },
    );
    expect(result.verdicts).toEqual(["in-doubt"]);
    expect(result.warnings).toEqual([
      "lines are missing in the logs from 2026-11-24T12:00:00Z to the end: the logs have no line of mx (other), only of postfix",
    ]);
  });

  test("without configuration every line counts, and that is said", async () => {
    const result = await judged({ "mail.log": syslog(before + sent, "whatever") }, { reports: {} });
    expect(result.verdicts).toEqual(["done"]);
    expect(result.warnings).toEqual([
      expect.stringMatching(/^the snapshot has no configuration of mx: lines of every/),
    ]);
  });
});

describe("what logs can't prove is in doubt, and said", () => {
  test("when they end before the snapshot of a running instance; one that was stopped has sent nothing since", async () => {
    const running = await judged({ "mail.log": syslog(before) });
    expect(running.verdicts).toEqual(["in-doubt"]);
    expect(running.warnings).toEqual([
      "lines are missing in the logs from 2026-11-24T11:00:02Z to the end: the logs of mx end before the snapshot",
    ]);
    const stopped = await judged({ "mail.log": syslog(before) }, { running: false });
    isQuiet(stopped);
    expect(stopped.verdicts).toEqual(["deliver"]);
    // The other instance's lines don't tell what this one did.
    const shared = syslog(before) + syslog(other("13:00:00"), "postfix-out");
    expect((await judged({ "mail.log": shared })).verdicts).toEqual(["in-doubt"]);
  });

  test("when they begin after it", async () => {
    const result = await judged({ "mail.log": syslog(other("12:01:00")) });
    expect(result.verdicts).toEqual(["in-doubt"]);
    expect(result.warnings).toEqual([
      "the logs begin at 2026-11-24T12:01:00Z, after the snapshot: what was delivered before is in doubt",
    ]);
  });

  test("when the file that was being written is not among them", async () => {
    const lines = syslog(before + other("12:01:00"));
    const result = await judged({ "mail.log.1": lines });
    expect(result.verdicts).toEqual(["in-doubt"]);
    expect(result.warnings).toEqual([expect.stringMatching(/to the end: \S+mail\.log is not among the logs$/)]);
    const older = await judged({ "mail.log.3": syslog(before), "mail.log.2.gz": gzipSync(syslog(other("12:01:00"))) });
    expect(older.warnings).toEqual([expect.stringMatching(/mail\.log\.1 is not among the logs$/)]);
    isQuiet(await judged({ "mail.log.1": syslog(before), journal: syslog(other("12:01:00")) }));
    isQuiet(await judged({ "mail.log.20261124": lines }));
  });

  test("when a rate limit dropped lines", async () => {
    const lost =
      "Nov 24 12:04:00 mx rsyslogd: imuxsock[pid 7]: begin to drop messages due to rate-limiting\nNov 24 12:06:00 mx rsyslogd: imuxsock[pid: 7]: 99 messages lost due to rate-limiting\n";
    const result = await judged({ "mail.log": syslog(before + other("12:03:59")) + lost + syslog(other("12:06:30")) });
    expect(result.verdicts).toEqual(["in-doubt"]);
    expect(result.warnings).toEqual([
      expect.stringMatching(
        /^lines are missing in the logs from 2026-11-24T12:04:00Z to 2026-11-24T12:06:00Z: rsyslogd/,
      ),
    ]);
  });

  test("when postsuper changed mail without saying which", async () => {
    const result = await judged({ "mail.log": syslog(`${before}\n12:03:00 postsuper Deleted: 3 messages`) });
    expect(result.verdicts).toEqual(["in-doubt"]);
    expect(result.warnings).toEqual([
      expect.stringMatching(/^mail was deleted without a word of which: .*Deleted: 3 messages$/),
    ]);
  });

  test("but where it only deleted, nobody got what was queued until then", async () => {
    const deleted = "12:03:00 postsuper Deleted: 3 messages";
    const of = (text: string, over: Partial<MessageEntry> = {}) =>
      judged({ "mail.log": syslog(`${text}\n${deleted}`) }, { over });
    const queued = { verdicts: ["in-doubt"], undelivered: [true], bound: { inDoubt: 1, possiblyTwice: 0 } };
    expect(await of(before)).toMatchObject(queued);
    expect(await of(other("11:59:00"), { inFlight: false })).toMatchObject(queued);
    const open = { verdicts: ["in-doubt"], undelivered: [false], bound: { inDoubt: 1, possiblyTwice: 1 } };
    expect(await of(other("11:59:00"), { inFlight: true })).toMatchObject(open);
    expect(await of(`${before}\n12:02:00 postsuper Renamed to match inode number: 1 message`)).toMatchObject(open);
    expect(
      await of(`${before}\n12:02:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)`),
    ).toMatchObject(open);
    // Silence is no wonder once it may have been deleted, and is one before.
    expect(await of(`${before}\n${other("12:01:00")}`, { mtime: at("11:10:00") })).toMatchObject(queued);
    const late = `${before}\n${other("12:01:00")}\n13:30:00 postsuper Deleted: 3 messages`;
    expect(await judged({ "mail.log": syslog(late) })).toMatchObject(open);
  });

  test("when the configuration in the snapshot is damaged", async () => {
    const reports = { "postconf-n": "syslog_name = postfix\n# damaged\n" };
    const ahead = await judged({ "mail.log": syslog(before + sent) }, { reports });
    isQuiet(ahead);
    const files = { bytes: Buffer.from(reports["postconf-n"]), over: { area: "report", path: "postconf-n" } } as const;
    const { signed, manifest } = await made.take({ files: [files], over: { time: "2026-11-24T12:00:00.000Z" } });
    const [pack] = manifest.files.flatMap(({ file }) => file?.pack ?? []);
    if (pack === undefined) throw new Error("no pack");
    rmSync(made.path(packKey(pack)));
    const source = { repository: made.repository, identities: made.identities, signed };
    const result = await judgeDeliveries({
      source,
      manifest,
      instance: "mx",
      files: [join(ahead.directory, "mail.log")],
      clock,
    });
    expect(result.warnings).toEqual([
      expect.stringMatching(/^the configuration of mx in the snapshot can't be read \(.*\): lines of every/),
    ]);
  });
});

describe("files that are none", () => {
  test("are named all at once, and nothing is read", async () => {
    const { signed, manifest } = await made.take({});
    const source = { repository: made.repository, identities: made.identities, signed };
    const missing = join(made.directory, "nowhere.log");
    const error = await errorOf(() =>
      judgeDeliveries({ source, manifest, instance: "mx", files: [missing, made.directory, "/dev/null"], clock }),
    );
    expect(error).toMatchObject({ kind: "usage" });
    expect(error.message).toContain("nowhere.log: ENOENT");
    expect(error.message).toContain(`${made.directory}: it is a directory`);
    expect(error.message).toContain("/dev/null: it is not a regular file");
  });

  test("a damaged one is an error that names it; one without a line of Postfix is said", async () => {
    const cut = gzipSync(syslog(before + sent)).subarray(0, 60);
    expect(await errorOf(() => judged({ "mail.log.1.gz": cut, "mail.log": "" }))).toMatchObject({
      kind: "failed",
      message: expect.stringMatching(/mail\.log\.1\.gz can't be read: its gzip stream is damaged or cut short/),
    });
    const result = await judged({
      "mail.log": syslog(before + sent),
      "kern.log": "Nov 24 12:00:00 mx kernel: nothing\n",
    });
    expect(result.verdicts).toEqual(["done"]);
    expect(result.warnings).toEqual([expect.stringMatching(/kern\.log has no line of Postfix$/)]);
  });

  test("a signal ends the reading", async () => {
    const { directory } = await judged({ "mail.log": syslog(before + sent) });
    const { signed, manifest } = await made.take({});
    const source = { repository: made.repository, identities: made.identities, signed };
    const request = { source, manifest, instance: "mx", files: [join(directory, "mail.log")], clock };
    const error = await errorOf(() => judgeDeliveries({ ...request, signal: AbortSignal.abort(new Error("enough")) }));
    expect(error.message).toBe("enough");
  });
});
