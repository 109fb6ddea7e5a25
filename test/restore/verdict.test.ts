import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { gatherEvidence, type LogEvidence } from "../../src/postfix/log-evidence.ts";
import { acceptedLater, boundOf, type JudgeWindow, judge, sayBound, watchOf } from "../../src/restore/verdict.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { clockTime, evidenceOf, recordsOf } from "../support/log-lines.ts";
import { message } from "./entries.ts";

const id = "015D2431FEB";
/** The snapshot was taken at 12:00; the message came at 11:00 and is to be tried again at 12:05. */
const snapshotTime = clockTime("12:00:00");

function queued(over: Partial<MessageEntry> = {}): MessageEntry {
  return message({
    ...{
      queueId: id,
      created: String(clockTime("11:00:00")),
      arrival: clockTime("11:00:00"),
      mtime: clockTime("12:05:00"),
    },
    ...{ sender: "s@src.test", size: 848, messageId: "<1@src.test>", recipients: to("a@dst.test"), ...over },
  });
}

const to = (...addresses: string[]) => addresses.map((address) => ({ address, done: false }));

const before = `
  11:00:00 smtpd ${id}: client=x.test[192.0.2.1]
  11:00:00 cleanup ${id}: message-id=<1@src.test>
  11:00:01 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
  11:00:02 smtp ${id}: to=<a@dst.test>, relay=none, delay=2, delays=1/0/0/1, dsn=4.0.0, status=deferred (later)`;

/** An attempt of the message at a time with an outcome for a recipient. */
function attempt(
  time: string,
  status: string,
  {
    of = id,
    address = "a@dst.test",
    relay = "mx.dst.test[192.0.2.9]:25",
    since = "11:00:00",
    from = "s@src.test",
  } = {},
): string {
  const delay = clockTime(time) - clockTime(since);
  return `
  ${time} qmgr ${of}: from=<${from}>, size=848, nrcpt=1 (queue active)
  ${time} smtp ${of}: to=<${address}>, relay=${relay}, delay=${delay}, delays=${delay}/0/0/0, dsn=2.0.0, status=${status}`;
}

const removed = (time: string, of = id) => `\n${time} qmgr ${of}: removed`;

interface Case {
  readonly messages?: readonly MessageEntry[];
  readonly window?: Partial<JudgeWindow>;
  readonly names?: readonly string[];
}

async function judged(log: string, { messages = [queued()], window = {}, names }: Case = {}) {
  const evidence = await evidenceOf(log, watchOf(messages), names);
  const judgement = judge(messages, evidence, { snapshotTime, ...window });
  const recipients = judgement.messages.flatMap((one) => one.recipients);
  return { evidence, judgement, recipients, verdicts: recipients.map(({ verdict }) => verdict) };
}

/** The verdict of the first recipient, by what the log says after the snapshot. */
async function verdictOf(after: string, options: Case = {}) {
  const { recipients } = await judged(before + after, options);
  return recipients[0];
}

describe("a recipient is done", () => {
  test("when it was sent to another system", async () => {
    expect(
      await verdictOf(attempt("12:05:00", "sent (250 2.0.0 Ok: queued as 0AAAAAAAA)") + removed("12:05:00")),
    ).toEqual({
      verdict: "done",
      reason: "it was delivered to another system",
      evidence: expect.stringMatching(/^2026-11-24T12:05:00.000Z postfix\/smtp\[\d+\]: 015D2431FEB: to=<a@dst.test>/),
    });
  });

  test("when it was sent, though its mark in the snapshot is older than the line", async () => {
    expect(await verdictOf(attempt("11:59:58", "sent (250 Ok)"))).toMatchObject({ verdict: "done" });
  });

  test("when it was delivered here: mailbox, LMTP on a socket, discarded", async () => {
    for (const [relay, said] of [
      ["local", "delivered to mailbox"],
      ["x[private/dovecot-lmtp]", "250 <a> Saved"],
      ["none", "thrown away"],
    ]) {
      expect(await verdictOf(attempt("12:05:00", `sent (${said})`, { relay: relay ?? "" }))).toMatchObject({
        verdict: "done",
      });
    }
  });

  test("when the snapshot says so", async () => {
    const messages = [queued({ recipients: [{ address: "a@dst.test", done: true }] })];
    expect(await verdictOf("", { messages })).toEqual({
      verdict: "done",
      reason: "it was done when the snapshot was taken",
    });
  });

  test("in every form the log may write its address", async () => {
    const messages = [queued({ recipients: to("odd box@dst.test") })];
    for (const address of ['"odd box"@dst.test', "odd box@dst.test"]) {
      expect(await verdictOf(attempt("12:05:00", "sent (250 Ok)", { address }), { messages })).toMatchObject({
        verdict: "done",
      });
    }
  });
});

describe("a recipient is to be delivered", () => {
  test("when the log ends with a deferral", async () => {
    expect(await verdictOf(attempt("12:05:00", "deferred (450 later)"))).toMatchObject({
      verdict: "deliver",
      reason: "its last attempt was deferred",
      evidence: expect.stringContaining("status=deferred"),
    });
  });

  test("when the log has no attempt since the snapshot", async () => {
    expect(await verdictOf("\n12:01:00 smtpd connect from x")).toMatchObject({ verdict: "deliver" });
  });

  test("when another recipient of its message was served", async () => {
    const messages = [queued({ recipients: to("a@dst.test", "b@dst.test") })];
    const other = `\n12:05:00 smtp ${id}: to=<b@dst.test>, relay=none, delay=3900, delays=3900/0/0/0, dsn=4.0.0, status=deferred (450)`;
    const { verdicts } = await judged(before + attempt("12:05:00", "sent (250 Ok)") + other, { messages });
    expect(verdicts).toEqual(["done", "deliver"]);
  });
});

describe("a failure is done when its notice is", () => {
  const bounced = attempt("12:05:00", "bounced (550 no)");
  const notice = (end: string) => `
    12:05:01 cleanup 0BBBBBBBB: message-id=<n@mx>
    12:05:01 qmgr 0BBBBBBBB: from=<>, size=2681, nrcpt=1 (queue active)
    12:05:01 bounce ${id}: sender non-delivery notification: 0BBBBBBBB
    12:05:01 qmgr ${id}: removed${end}`;
  const outcome = (status: string) =>
    `\n12:05:02 smtp 0BBBBBBBB: to=<s@src.test>, relay=mx.src.test[192.0.2.8]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=${status}`;

  test("finished in the log", async () => {
    const log = bounced + notice(outcome("sent (250 Ok)") + removed("12:05:02", "0BBBBBBBB"));
    expect(await verdictOf(log)).toMatchObject({ verdict: "done", reason: expect.stringContaining("0BBBBBBBB") });
  });

  test("not while it is deferred, in delivery, or not there", async () => {
    expect(await verdictOf(bounced + notice(outcome("deferred (450)")))).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(bounced + notice(""))).toMatchObject({ verdict: "deliver" });
    expect(
      await verdictOf(`${bounced}\n12:05:01 bounce ${id}: sender non-delivery notification: 0CCCCCCCC`),
    ).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(bounced)).toMatchObject({ verdict: "deliver" });
  });

  test("a notice that failed itself goes nowhere: that is its end", async () => {
    expect(
      await verdictOf(bounced + notice(outcome("bounced (550)") + removed("12:05:02", "0BBBBBBBB"))),
    ).toMatchObject({ verdict: "done" });
  });

  test("where none was due, the message's own removal is enough", async () => {
    expect(await verdictOf(bounced + removed("12:05:01"))).toMatchObject({ verdict: "done" });
  });

  test("the same for mail that expired", async () => {
    const deferred = attempt("12:05:00", "deferred (450)");
    const expired = `${deferred}\n12:05:00 qmgr ${id}: from=<s@src.test>, status=expired, returned to sender`;
    expect(
      await verdictOf(expired + notice(outcome("sent (250 Ok)") + removed("12:05:02", "0BBBBBBBB"))),
    ).toMatchObject({ verdict: "done" });
    expect(await verdictOf(expired + notice(outcome("deferred (450)")))).toMatchObject({ verdict: "deliver" });
    expect(
      await verdictOf(expired.replace("status=expired", "status=force-expired") + removed("12:05:01")),
    ).toMatchObject({ verdict: "done" });
    // The notice could not be made, and the message was tried again.
    expect(await verdictOf(expired + attempt("12:08:00", "deferred (450)"))).toMatchObject({ verdict: "deliver" });
  });
});

describe("mail an administrator took away", () => {
  test("is deleted", async () => {
    expect(await verdictOf(`\n12:03:00 postsuper ${id}: removed`)).toMatchObject({
      verdict: "deleted",
      evidence: expect.stringContaining("postsuper"),
    });
  });

  test("is done where an agent had already delivered it", async () => {
    const log = `\n12:03:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
      12:03:01 postsuper ${id}: removed
      12:03:02 smtp ${id}: to=<a@dst.test>, relay=mx.dst.test[192.0.2.9]:25, delay=3782, delays=3780/0/0/2, dsn=2.0.0, status=sent (250 Ok)`;
    expect(await verdictOf(log)).toMatchObject({ verdict: "done" });
  });

  test("is in doubt where the log has only a count", async () => {
    expect(await verdictOf("\n12:03:00 postsuper Deleted: 8 messages")).toMatchObject({ verdict: "in-doubt" });
    expect(await verdictOf("\n12:03:00 postsuper Renamed to match inode number: 8 messages")).toMatchObject({
      verdict: "in-doubt",
    });
    // What is seen of it later tells that it was not among them.
    const later = `\n12:03:00 postsuper Deleted: 8 messages${attempt("12:05:00", "deferred (450)")}`;
    expect(await verdictOf(later)).toMatchObject({ verdict: "deliver" });
  });

  test("goes on as what it was requeued as", async () => {
    const requeued = `\n12:03:00 postsuper ${id}: requeued
      12:03:01 pickup 0DDDDDDDD: uid=102 from=<s@src.test> orig_id=${id}
      12:03:01 cleanup 0DDDDDDDD: message-id=<1@src.test>`;
    const next = (status: string) => attempt("12:03:02", status, { of: "0DDDDDDDD" });
    expect(await verdictOf(requeued + next("sent (250 Ok)"))).toMatchObject({ verdict: "done" });
    expect(await verdictOf(requeued + next("deferred (450)"))).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(`\n12:03:00 postsuper ${id}: requeued`)).toMatchObject({ verdict: "deliver" });
    // postsuper -r ALL logs no ids.
    expect(await verdictOf(requeued.replace(/.*requeued/, "") + next("sent (250 Ok)"))).toMatchObject({
      verdict: "done",
    });
    const again = `${requeued}\n12:04:00 postsuper 0DDDDDDDD: requeued
      12:04:01 pickup 0EEEEEEEE: uid=102 from=<s@src.test> orig_id=0DDDDDDDD${attempt("12:04:02", "sent (250 Ok)", { of: "0EEEEEEEE" })}`;
    expect(await verdictOf(again)).toMatchObject({ verdict: "done" });
  });
});

describe("mail handed on inside this system", () => {
  const child = (origin: string, rest: string, start = "12:05:00") => `
    ${start} ${origin}
    ${start} cleanup 0AAAAAAAA: message-id=<1@src.test>${rest}`;
  const fromFilter = "postfix/reinject/smtpd[9] 0AAAAAAAA: client=localhost[127.0.0.1]";
  const relay = "127.0.0.1[127.0.0.1]:10024";
  const handed = (said: string) => attempt("12:05:00", `sent (${said})`, { relay });
  const outcome = (status: string, address = "a@dst.test") =>
    attempt("12:05:00", status, { of: "0AAAAAAAA", address, since: "12:05:00" });
  const queuedAs = "250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 0AAAAAAAA";

  test.each([
    ["sent (250 Ok)", "done"],
    ["deferred (450)", "deliver"],
    ["bounced (550)", "deliver"],
  ])("as an id it was queued as: %s is %s", async (status, verdict) => {
    const log = child(fromFilter, outcome(status)) + handed(queuedAs) + removed("12:05:00");
    expect(await verdictOf(log)).toMatchObject({ verdict });
  });

  test("as an id that another instance has at the same time: by the Message-ID", async () => {
    const theirs = `
      12:05:00 postfix-out/smtpd[9] 0AAAAAAAA: client=x.test[192.0.2.1]
      12:05:00 postfix-out/cleanup[9] 0AAAAAAAA: message-id=<9@src.test>
      12:05:00 postfix-out/qmgr[9] 0AAAAAAAA: from=<z@src.test>, size=848, nrcpt=1 (queue active)
      12:05:00 postfix-out/smtp[9] 0AAAAAAAA: to=<a@dst.test>, relay=mx[192.0.2.9]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250)
      12:05:00 postfix-out/qmgr[9] 0AAAAAAAA: removed`;
    const log = theirs + child(fromFilter, outcome("deferred (450)")) + handed(queuedAs) + removed("12:05:00");
    expect(await verdictOf(log, { names: ["postfix"] })).toMatchObject({ verdict: "deliver" });
  });

  test("as an id whose end is not in the log: deliver", async () => {
    expect(await verdictOf(handed(queuedAs))).toMatchObject({
      verdict: "deliver",
      reason: expect.stringContaining("0AAAAAAAA"),
    });
    expect(await verdictOf(child(fromFilter, "") + handed(queuedAs))).toMatchObject({ verdict: "deliver" });
  });

  test("as an id that was in delivery when the log ended: in doubt", async () => {
    const active = "\n12:05:00 qmgr 0AAAAAAAA: from=<s@src.test>, size=848, nrcpt=1 (queue active)";
    expect(await verdictOf(child(fromFilter, active) + handed(queuedAs))).toMatchObject({ verdict: "in-doubt" });
  });

  test("as an id that came up only long after: deliver", async () => {
    const log =
      handed(queuedAs) +
      child(fromFilter, "", "12:30:00") +
      attempt("12:30:01", "sent (250)", { of: "0AAAAAAAA", since: "12:30:00" });
    expect(await verdictOf(log)).toMatchObject({ verdict: "deliver" });
  });

  test("is not taken for what it came from itself", async () => {
    const parent = `
      11:00:00 smtpd 0CCCCCCCC: client=web[127.0.0.1]
      11:00:00 cleanup 0CCCCCCCC: message-id=<1@src.test>`;
    const handing = attempt("11:00:00", `sent (250 Ok: queued as ${id})`, { of: "0CCCCCCCC", relay });
    const own = `
      11:00:00 smtpd ${id}: client=localhost[127.0.0.1]
      11:00:00 cleanup ${id}: message-id=<1@src.test>`;
    const saved = attempt("11:00:00", "sent (250 saved)", { relay: "127.0.0.1[127.0.0.1]:24" });
    const log = `${parent + own + saved + handing}\n12:01:00 smtpd connect from x`;
    expect((await judged(log)).recipients[0]).toMatchObject({ verdict: "done", reason: "it was delivered" });
  });

  test.each([
    { what: "it was queued as", said: queuedAs },
    { what: "a filter made of it", said: "250 2.0.0 looks clean" },
  ])("as $what, which the snapshot has as well: done, and the other is delivered", async ({ said }) => {
    const at = clockTime("12:00:01");
    const other = { queueId: "0AAAAAAAA", created: String(at), arrival: at, mtime: at, queue: "active" } as const;
    const messages = [queued({ inFlight: true, contentFilter: "smtp:[127.0.0.1]:10024" }), queued(other)];
    const log = `${before}
      12:00:01 ${fromFilter}
      12:00:01 cleanup 0AAAAAAAA: message-id=<1@src.test>
      ${attempt("12:00:01", `sent (${said})`, { relay })}${removed("12:00:01")}
      ${attempt("12:00:02", "deferred (later)", { of: "0AAAAAAAA", since: "12:00:01" })}`;
    const { recipients, evidence, judgement } = await judged(log, { messages });
    expect(recipients).toMatchObject([
      { verdict: "done", reason: "it was handed on as 0AAAAAAAA, which is in the snapshot as well" },
      { verdict: "deliver" },
    ]);
    expect(acceptedLater(evidence, snapshotTime, judgement.followed)).toEqual([]);
  });

  test("as a notice to its sender, which the snapshot has as well: done", async () => {
    const at = clockTime("12:00:01");
    const notice = { queueId: "0AAAAAAAA", created: String(at), arrival: at, messageId: "<n@mx.test>", sender: "" };
    const messages = [queued(), queued({ ...notice, recipients: to("s@src.test") })];
    const log = `${before}${attempt("12:00:01", "bounced (550)")}
      12:00:01 cleanup 0AAAAAAAA: message-id=<n@mx.test>
      12:00:01 bounce ${id}: sender non-delivery notification: 0AAAAAAAA${removed("12:00:01")}
      ${attempt("12:00:02", "deferred (later)", { of: "0AAAAAAAA", address: "s@src.test", from: "", since: "12:00:01" })}`;
    const { recipients } = await judged(log, { messages });
    expect(recipients).toMatchObject([
      { verdict: "done", reason: "it failed for good, and its notice 0AAAAAAAA is in the snapshot" },
      { verdict: "deliver" },
    ]);
  });

  test("as an id of another system that happens to be one of ours: done", async () => {
    const other = `\n12:04:59 cleanup 0AAAAAAAA: message-id=<other@x>`;
    expect(await verdictOf(other + attempt("12:05:00", "sent (250 Ok: queued as 0AAAAAAAA)"))).toMatchObject({
      verdict: "done",
    });
  });

  test("by an own address that is not loopback", async () => {
    const here = attempt("12:05:00", `sent (${queuedAs})`, { relay: "mx[203.0.113.5]:10024" });
    expect(await verdictOf(here)).toMatchObject({ verdict: "done" });
    expect(await verdictOf(here, { window: { ownAddresses: ["203.0.113.5"] } })).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(child(fromFilter, outcome("deferred (450)")) + here)).toMatchObject({ verdict: "deliver" });
  });

  describe("through a content filter that names no id", () => {
    const messages = [queued({ contentFilter: `smtp:[127.0.0.1]:10024` })];

    test("is what came again during the delivery", async () => {
      const log = (status: string) => child(fromFilter, outcome(status)) + handed("250 looks clean");
      expect(await verdictOf(log("sent (250 Ok)"), { messages })).toMatchObject({ verdict: "done" });
      expect(await verdictOf(log("deferred (450)"), { messages })).toMatchObject({ verdict: "deliver" });
    });

    test("is what came again later, by smtpd or by sendmail", async () => {
      for (const origin of [fromFilter, "pickup 0AAAAAAAA: uid=1000 from=<s@src.test>"]) {
        const log =
          handed("250 taken") +
          child(origin, attempt("12:06:05", "sent (250 Ok)", { of: "0AAAAAAAA", since: "12:06:00" }), "12:06:00");
        expect(await verdictOf(log, { messages })).toMatchObject({ verdict: "done" });
      }
    });

    test("is what says it was this message (XFORWARD)", async () => {
      const named = `${fromFilter}, orig_queue_id=${id}, orig_client=x[192.0.2.1]`;
      const log = `\n12:05:00 postfix/reinject/smtpd[9] 0FFFFFFFF: client=localhost[127.0.0.1]
        12:05:00 cleanup 0FFFFFFFF: message-id=<1@src.test>${child(named, outcome("sent (250 Ok)"))}${handed("250 clean")}`;
      expect(await verdictOf(log, { messages })).toMatchObject({ verdict: "done" });
    });

    test("is in doubt while it has not come back", async () => {
      expect(await verdictOf(handed("250 quarantined"), { messages })).toMatchObject({ verdict: "in-doubt" });
    });

    test("is not what came from elsewhere, nor its own first arrival", async () => {
      const elsewhere = child("smtpd 0AAAAAAAA: client=list[198.51.100.1]", outcome("deferred (450)"));
      expect(await verdictOf(elsewhere + handed("250 clean"), { messages })).toMatchObject({ verdict: "in-doubt" });
      expect(await verdictOf(elsewhere + handed("250 saved"))).toMatchObject({ verdict: "done" });
    });

    test("the filter's other children are not this recipient's", async () => {
      const both = [queued({ contentFilter: `smtp:[127.0.0.1]:10024`, recipients: to("a@dst.test", "b@dst.test") })];
      const second = "postfix/reinject/smtpd[9] 0BBBBBBBB: client=localhost[127.0.0.1]";
      const log = `${child(fromFilter, outcome("sent (250 Ok)"))}
        12:05:00 ${second}
        12:05:00 cleanup 0BBBBBBBB: message-id=<1@src.test>${attempt("12:05:00", "deferred (450)", { of: "0BBBBBBBB", address: "b@dst.test", since: "12:05:00" })}
        ${handed("250 clean")}
        12:05:00 smtp ${id}: to=<b@dst.test>, relay=${relay}, delay=3900, delays=3900/0/0/0, dsn=2.0.0, status=sent (250 clean)`;
      expect((await judged(before + log, { messages: both })).verdicts).toEqual(["done", "deliver"]);
    });
  });

  test("through a program that calls sendmail", async () => {
    const piped = attempt("12:05:00", "sent (delivered via filter service)", { relay: "filter" }).replace(
      " smtp ",
      " pipe ",
    );
    const pickup = "pickup 0AAAAAAAA: uid=1000 from=<s@src.test>";
    expect(await verdictOf(child(pickup, outcome("deferred (450)")) + piped)).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(child(pickup, outcome("sent (250)")) + piped)).toMatchObject({ verdict: "done" });
    expect(await verdictOf(piped)).toMatchObject({ verdict: "done" });
  });

  test("a mailbox on loopback is no filter, whatever else comes with the same Message-ID meanwhile", async () => {
    const sibling = child(fromFilter, outcome("deferred (450)", "b@dst.test"));
    expect(await verdictOf(sibling + handed("250 saved"))).toMatchObject({ verdict: "done" });
    const silent = child(fromFilter, "");
    expect(await verdictOf(silent + handed("250 saved"))).toMatchObject({ verdict: "in-doubt" });
  });

  test("follows chains, and stops in a circle", async () => {
    const chain = `${child(fromFilter, "")}
      12:05:00 cleanup 0CCCCCCCC: message-id=<1@src.test>${attempt("12:05:00", "sent (250 Ok)", { of: "0CCCCCCCC", since: "12:05:00" })}${removed("12:05:00", "0CCCCCCCC")}
      ${attempt("12:05:00", "sent (250 Ok: queued as 0CCCCCCCC)", { of: "0AAAAAAAA", relay, since: "12:05:00" })}`;
    expect(await verdictOf(chain + handed(queuedAs))).toMatchObject({ verdict: "done" });
    const circle = `${child(fromFilter, attempt("12:05:00", `sent (250 Ok: queued as 0AAAAAAAB)`, { of: "0AAAAAAAA", relay, since: "12:05:00" }))}
      12:05:00 cleanup 0AAAAAAAB: message-id=<1@src.test>
      ${attempt("12:05:00", "sent (250 Ok: queued as 0AAAAAAAA)", { of: "0AAAAAAAB", relay, since: "12:05:00" })}`;
    expect(await verdictOf(circle + handed(queuedAs))).toMatchObject({
      verdict: "in-doubt",
      reason: expect.stringContaining("circle"),
    });
  });

  describe("to other addresses", () => {
    const messages = [queued({ recipients: to("list@local.test") })];
    const forwarded = (outcomes: string, count: number) => `
      12:05:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
      12:05:00 cleanup 0AAAAAAAA: message-id=<1@src.test>
      12:05:00 qmgr 0AAAAAAAA: from=<s@src.test>, size=900, nrcpt=${count} (queue active)
      12:05:00 local ${id}: to=<list@local.test>, relay=local, delay=3900, delays=3900/0/0/0, dsn=2.0.0, status=sent (forwarded as 0AAAAAAAA)${outcomes}`;
    const one = (address: string, status: string) =>
      `\n12:05:01 smtp 0AAAAAAAA: to=<${address}>, orig_to=<list@local.test>, relay=mx[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=${status}`;

    test("is done when all of them are, and in doubt when some are", async () => {
      const all = forwarded(
        one("x@dst.test", "sent (250)") + one("y@dst.test", "sent (250)") + removed("12:05:02", "0AAAAAAAA"),
        2,
      );
      expect(await verdictOf(all, { messages })).toMatchObject({ verdict: "done" });
      const some = forwarded(one("x@dst.test", "sent (250)") + one("y@dst.test", "deferred (450)"), 2);
      expect(await verdictOf(some, { messages })).toMatchObject({ verdict: "in-doubt" });
      const none = forwarded(one("x@dst.test", "deferred (450)") + one("y@dst.test", "deferred (450)"), 2);
      expect(await verdictOf(none, { messages })).toMatchObject({ verdict: "deliver" });
    });

    test("is in doubt while an alias was worked through", async () => {
      const mailbox = `
        12:05:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
        12:05:00 local ${id}: to=<bob@local.test>, orig_to=<list@local.test>, relay=local, delay=3900, delays=3900/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)`;
      expect(await verdictOf(mailbox, { messages })).toMatchObject({ verdict: "in-doubt" });
      expect(await verdictOf(mailbox + removed("12:05:00"), { messages })).toMatchObject({ verdict: "done" });
      const partly = `${mailbox}\n12:05:01 local ${id}: to=<eve@local.test>, orig_to=<list@local.test>, relay=local, delay=3901, delays=3900/0/0/1, dsn=4.2.2, status=deferred (full)`;
      expect(await verdictOf(partly, { messages })).toMatchObject({ verdict: "deliver" });
    });

    test("is in doubt while an alias that failed before is tried again", async () => {
      const first = `
        12:05:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)
        12:05:00 local ${id}: to=<bob@local.test>, orig_to=<list@local.test>, relay=local, delay=3900, delays=3900/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)
        12:05:00 local ${id}: to=<eve@local.test>, orig_to=<list@local.test>, relay=local, delay=3900, delays=3900/0/0/0, dsn=4.2.2, status=deferred (full)`;
      const again = `${first}\n12:06:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)`;
      expect(await verdictOf(first, { messages })).toMatchObject({ verdict: "deliver" });
      expect(await verdictOf(again, { messages })).toMatchObject({ verdict: "in-doubt" });
    });

    test("whose copy for somebody else is not finished is in doubt", async () => {
      const copy = child(fromFilter, outcome("sent (250 Ok)")) + handed(queuedAs);
      const bcc = `\n12:05:00 smtp 0AAAAAAAA: to=<archive@dst.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.0.0, status=deferred (450)`;
      expect(await verdictOf(copy + bcc)).toMatchObject({ verdict: "in-doubt" });
      expect(
        await verdictOf(copy + bcc, { messages: [queued({ recipients: to("a@dst.test", "archive@dst.test") })] }),
      ).toMatchObject({ verdict: "done" });
    });
  });

  test("to another instance of this host", async () => {
    const log = `
      12:05:00 postfix-out/smtpd[3] 0AAAAAAAA: client=localhost[127.0.0.1]
      12:05:00 postfix-out/cleanup[4] 0AAAAAAAA: message-id=<1@src.test>
      12:05:00 postfix-out/smtp[5] 0AAAAAAAA: to=<a@dst.test>, relay=mx[192.0.2.9]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250)
      ${handed(queuedAs)}`;
    expect(await verdictOf(log, { names: ["postfix"] })).toMatchObject({ verdict: "done" });
    expect(await verdictOf(log, { names: ["postfix-out"] })).not.toMatchObject({ verdict: "done" });
  });
});

describe("lines belong to a message", () => {
  test("by time: an id that comes again is another message", async () => {
    const again = `${removed("12:04:00")}
      12:05:00 smtpd ${id}: client=x[192.0.2.1]
      12:05:00 cleanup ${id}: message-id=<2@src.test>${attempt("12:05:01", "sent (250 Ok)", { since: "12:05:00" })}`;
    expect(await verdictOf(again)).toMatchObject({
      verdict: "in-doubt",
      reason: expect.stringContaining("left the queue"),
    });
    const earlier = before.replaceAll("11:0", "10:0").replace("<1@", "<0@");
    const log = `${earlier}\n10:30:00 smtp ${id}: to=<a@dst.test>, relay=x[192.0.2.1]:25, delay=1800, delays=1800/0/0/0, dsn=2.0.0, status=sent (250)\n10:30:00 qmgr ${id}: removed`;
    expect((await judged(log + before)).verdicts).toEqual(["deliver"]);
    expect((await judged(`${log}\n11:59:00 smtpd connect from x`)).verdicts).toEqual(["deliver"]);
  });

  test("by time: what left before the snapshot is not what the snapshot has", async () => {
    const log = `11:30:00 qmgr ${id}: removed\n12:01:00 smtpd connect from x`;
    expect((await judged(log)).verdicts).toEqual(["deliver"]);
  });

  test("by Message-ID, or by sender and size", async () => {
    const sent = attempt("12:05:00", "sent (250 Ok)");
    const started = "\n11:59:59 smtpd connect from x";
    expect((await judged(started + sent)).verdicts).toEqual(["done"]);
    expect((await judged(started + sent.replace("size=848", "size=849"))).verdicts).toEqual(["in-doubt"]);
    expect((await judged(started + sent.replace("from=<s@", "from=<t@"))).verdicts).toEqual(["in-doubt"]);
    expect((await judged((before + sent).replace("<1@src.test>", "<2@src.test>"))).verdicts).toEqual(["in-doubt"]);
  });

  test("by the arrival its delays tell", async () => {
    const sent = (delay: number) => `\n11:59:59 smtpd connect from x
      12:05:00 smtp ${id}: to=<a@dst.test>, relay=x[192.0.2.1]:25, delay=${delay}, delays=${delay}/0/0/0, dsn=2.0.0, status=sent (250 Ok)`;
    expect((await judged(sent(3900))).verdicts).toEqual(["done"]);
    expect((await judged(sent(100))).verdicts).not.toEqual(["done"]);
  });

  test("in another time zone are in doubt, and that is said", async () => {
    const shifted = (before + attempt("12:05:00", "sent (250 Ok)")).replaceAll(
      /\b1([12]):(\d\d:\d\d)/g,
      (_, hour, rest) => `1${Number(hour) + 2}:${rest}`,
    );
    const { verdicts, judgement } = await judged(`11:00:00 smtpd connect from x\n${shifted}`);
    expect(verdicts).toEqual(["in-doubt"]);
    expect(judgement.warnings).toEqual([expect.stringContaining("120 minutes")]);
  });

  test("recipients that are there twice are matched in order", async () => {
    const messages = [queued({ recipients: to("a@dst.test", "b@dst.test", "a@dst.test") })];
    const one = attempt("12:05:00", "sent (250 Ok)");
    const deferred = `\n12:05:00 smtp ${id}: to=<a@dst.test>, relay=none, delay=3900, delays=3900/0/0/0, dsn=4.0.0, status=deferred (450)
      12:05:00 smtp ${id}: to=<b@dst.test>, relay=none, delay=3900, delays=3900/0/0/0, dsn=4.0.0, status=deferred (450)`;
    expect((await judged(before + one + deferred, { messages })).verdicts).toEqual(["done", "deliver", "deliver"]);
    const second = one.split("\n").at(-1);
    expect((await judged(`${before}${one}\n${second}${deferred}`, { messages })).verdicts).toEqual([
      "done",
      "deliver",
      "done",
    ]);
    // The one that was done when the message was read has its line, and takes nobody else's.
    const partly = [queued({ recipients: [{ address: "a@dst.test", done: true }, ...to("a@dst.test")] })];
    const early = attempt("11:30:00", "sent (250 Ok)");
    const again = deferred.split("\n").slice(0, 2).join("\n");
    expect(
      (await judged(before + early + attempt("12:05:00", "deferred (450)") + again, { messages: partly })).verdicts,
    ).toEqual(["done", "deliver"]);
    expect((await judged(before + early + one, { messages: partly })).verdicts).toEqual(["done", "done"]);
  });
});

describe("an attempt whose outcome is not in the log", () => {
  const active = `\n12:05:00 qmgr ${id}: from=<s@src.test>, size=848, nrcpt=1 (queue active)`;

  test("is in doubt", async () => {
    expect(await verdictOf(active)).toMatchObject({
      verdict: "in-doubt",
      evidence: expect.stringContaining("queue active"),
    });
    expect(await verdictOf(`\n12:05:00 qmgr ${id}: skipped, still being delivered`)).toMatchObject({
      verdict: "in-doubt",
    });
  });

  test("is in doubt for those only that have none", async () => {
    const messages = [queued({ recipients: to("a@dst.test", "b@dst.test") })];
    const log = `${active}\n12:05:00 smtp ${id}: to=<b@dst.test>, relay=none, delay=3900, delays=3900/0/0/0, dsn=4.0.0, status=deferred (450)`;
    expect((await judged(before + log, { messages })).verdicts).toEqual(["in-doubt", "deliver"]);
  });

  test("is in doubt when its line is cut off", async () => {
    expect(await verdictOf(`${active}\n12:05:03 smtp ${id}: to=<a@dst.test>, relay=mx.dst`)).toMatchObject({
      verdict: "in-doubt",
    });
  });

  test("is over when the message was read in deferred afterwards", async () => {
    const log = before.replace(/.*status=deferred.*/, "");
    expect((await judged(`${log}\n12:01:00 smtpd connect from x`)).verdicts).toEqual(["deliver"]);
    expect((await judged(log, { messages: [queued({ inFlight: true })] })).verdicts).toEqual(["in-doubt"]);
    expect((await judged(log, { messages: [queued({ queue: "active" })] })).verdicts).toEqual(["in-doubt"]);
  });

  test("that the snapshot saw is in doubt until the log has its outcome", async () => {
    for (const over of [{ inFlight: true }, { inFlight: null }, { finished: true }, { queue: "active" as const }]) {
      const messages = [queued(over)];
      const other = "\n11:00:00 smtpd connect from x\n12:00:30 smtpd connect from x";
      expect((await judged(other, { messages })).verdicts).toEqual(["in-doubt"]);
      expect((await judged(before + attempt("12:00:01", "deferred (450)"), { messages })).verdicts).toEqual([
        "deliver",
      ]);
      expect((await judged(before + attempt("12:00:01", "sent (250)"), { messages })).verdicts).toEqual(["done"]);
    }
  });
});

describe("what a gap in the log could hide is in doubt", () => {
  const suppressed = "\n12:05:00 systemd-journald[1] Suppressed 99 messages from postfix@-.service";

  test("unless its end is seen, or a later attempt", async () => {
    const log = `\n12:04:00 smtpd connect from x${suppressed}`;
    expect(await verdictOf(log)).toMatchObject({
      verdict: "in-doubt",
      reason: expect.stringContaining("Suppressed 99"),
    });
    expect(await verdictOf(log + attempt("12:06:00", "sent (250)"))).toMatchObject({ verdict: "done" });
    expect(await verdictOf(log + attempt("12:06:00", "deferred (450)"))).toMatchObject({ verdict: "deliver" });
    expect(await verdictOf(attempt("12:04:30", "sent (250)") + log)).toMatchObject({ verdict: "done" });
    expect(await verdictOf(log + removed("12:06:00"))).toMatchObject({ verdict: "in-doubt" });
  });

  test("also for what it was handed on as", async () => {
    const relay = "127.0.0.1[127.0.0.1]:10024";
    const handed = attempt("12:04:00", "sent (250 Ok: queued as 0AAAAAAAA)", { relay });
    const child =
      "\n12:04:00 smtpd 0AAAAAAAA: client=localhost[127.0.0.1]\n12:04:00 cleanup 0AAAAAAAA: message-id=<1@src.test>";
    expect(await verdictOf(child + handed + suppressed)).toMatchObject({ verdict: "in-doubt" });
    expect(await verdictOf(handed + suppressed)).toMatchObject({ verdict: "in-doubt" });
  });

  test("also for notices", async () => {
    const bounced = attempt("12:04:00", "bounced (550)");
    expect(await verdictOf(bounced + suppressed)).toMatchObject({ verdict: "in-doubt" });
    expect(await verdictOf(bounced + suppressed + removed("12:06:00"))).toMatchObject({ verdict: "in-doubt" });
  });

  test("not when it was before the snapshot", async () => {
    const log = `11:30:00 systemd-journald[1] Suppressed 99 messages from postfix@-.service${before}`;
    expect(
      (await judged(`${before}\n11:58:00 smtpd connect from x\n${log.replaceAll("11:00", "11:59")}`)).verdicts,
    ).not.toContain("done");
    expect(
      (
        await judged(
          `${before}\n11:30:00 systemd-journald[1] Suppressed 9 messages from postfix.service\n12:01:00 smtpd connect from x`,
        )
      ).verdicts,
    ).toEqual(["deliver"]);
  });

  test("a log that begins after the snapshot, ends before the crash, or is empty", async () => {
    expect((await judged("12:02:00 smtpd connect from x")).verdicts).toEqual(["in-doubt"]);
    expect((await judged(before, { window: { until: clockTime("12:30:00") } })).verdicts).toEqual(["in-doubt"]);
    expect((await judged(before, { window: { until: clockTime("11:00:02") } })).verdicts).toEqual(["deliver"]);
    expect((await judged("")).verdicts).toEqual(["in-doubt"]);
  });

  test("a log that goes on long after the message was due, without a word of it", async () => {
    const on = (time: string) => `${before}\n${time} smtpd connect from x`;
    expect((await judged(on("12:10:00"))).verdicts).toEqual(["deliver"]);
    expect((await judged(on("12:30:00"))).verdicts).toEqual(["in-doubt"]);
    expect((await judged(on("12:30:00"), { window: { queueRunDelayS: 3600 } })).verdicts).toEqual(["deliver"]);
    expect((await judged(on("12:30:00"), { messages: [queued({ queue: "hold" })] })).verdicts).toEqual(["deliver"]);
    expect((await judged(`${on("12:30:00")}\n12:01:00 postsuper ${id}: placed on hold`)).verdicts).toEqual(["deliver"]);
    const deferred = before + attempt("12:05:00", "deferred (450)");
    expect((await judged(`${deferred}\n12:59:00 smtpd connect from x`)).verdicts).toEqual(["deliver"]);
    expect((await judged(`${deferred}\n14:59:00 smtpd connect from x`)).verdicts).toEqual(["in-doubt"]);
  });
});

describe("mail that waited in maildrop", () => {
  const owner = { user: "alice", group: "postdrop", uid: 1000, gid: 120 };
  const waiting = (over: Partial<MessageEntry> = {}) => [
    queued({ queue: "maildrop", owner, sender: "alice", messageId: null, ...over }),
  ];
  const picked = (messageId: string) => `
    11:59:00 smtpd connect from x
    12:00:05 pickup 0AAAAAAAA: uid=1000 from=<alice>
    12:00:05 cleanup 0AAAAAAAA: message-id=${messageId}${attempt("12:00:06", "sent (250)", { of: "0AAAAAAAA", since: "12:00:05", from: "alice" })}${removed("12:00:06", "0AAAAAAAA")}`;

  test("is what pickup made of it, when the Message-ID tells", async () => {
    expect((await judged(picked("<m@x>"), { messages: waiting({ messageId: "<m@x>" }) })).verdicts).toEqual(["done"]);
  });

  test("is in doubt when pickup took something of the same user", async () => {
    expect((await judged(picked("<m@x>"), { messages: waiting() })).verdicts).toEqual(["in-doubt"]);
    expect((await judged(picked("<m@x>"), { messages: waiting({ messageId: "<other@x>" }) })).verdicts).toEqual([
      "deliver",
    ]);
    expect((await judged(picked("<m@x>"), { messages: waiting({ owner: { ...owner, uid: 1001 } }) })).verdicts).toEqual(
      ["deliver"],
    );
  });

  test("is in doubt when the log goes on without it", async () => {
    expect(
      (await judged(`11:59:00 smtpd connect from x\n12:30:00 smtpd connect from x`, { messages: waiting() })).verdicts,
    ).toEqual(["in-doubt"]);
  });
});

describe("the bound", () => {
  test("counts recipients, and lists what was accepted later and is unfinished", async () => {
    const messages = [
      queued({
        recipients: [
          ...to("a@dst.test", "b@dst.test", "c@dst.test", "d@dst.test"),
          { address: "e@dst.test", done: true },
        ],
      }),
    ];
    const rest = `
      12:05:00 smtp ${id}: to=<b@dst.test>, relay=none, delay=3900, delays=3900/0/0/0, dsn=4.0.0, status=deferred (450)
      12:06:00 smtpd 0AAAAAAA1: client=x[192.0.2.1]
      12:06:00 cleanup 0AAAAAAA1: message-id=<2@src.test>
      12:06:00 qmgr 0AAAAAAA1: from=<t@src.test>, size=100, nrcpt=2 (queue active)
      12:06:00 smtp 0AAAAAAA1: to=<x@dst.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.0.0, status=deferred (450)
      12:06:00 smtp 0AAAAAAA1: to=<y@dst.test>, relay=x[192.0.2.7]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250)
      12:06:01 smtpd 0AAAAAAA2: client=x[192.0.2.1]
      12:06:01 cleanup 0AAAAAAA2: message-id=<3@src.test>
      12:06:02 smtpd 0AAAAAAA3: client=x[192.0.2.1]
      12:06:03 cleanup 0AAAAAAA4: message-id=<4@src.test>
      12:06:03 qmgr 0AAAAAAA4: removed`;
    const { evidence, judgement } = await judged(before + attempt("12:05:00", "sent (250)") + rest, { messages });
    const later = acceptedLater(evidence, snapshotTime, judgement.followed);
    expect(later).toMatchObject([
      {
        ...{ queueId: "0AAAAAAA1", sender: "t@src.test", messageId: "<2@src.test>", accepted: true },
        recipients: [
          { address: "x@dst.test", finished: false },
          { address: "y@dst.test", finished: true },
        ],
      },
      { queueId: "0AAAAAAA2", accepted: false },
    ]);
    const bound = boundOf(judgement, later);
    expect(bound).toEqual({ deliver: 1, done: 1, deleted: 0, inDoubt: 2, lost: 0, acceptedLater: 2, possiblyTwice: 2 });
    expect(sayBound(bound)).toBe(
      "lost 0 of the snapshot; accepted later and unfinished by the log: 2; possibly twice: 2",
    );
  });

  test("what the snapshot's messages became was not accepted later", async () => {
    const log = `${before}
      12:05:00 smtpd 0AAAAAAAA: client=localhost[127.0.0.1]
      12:05:00 cleanup 0AAAAAAAA: message-id=<1@src.test>${attempt("12:05:00", "sent (250 Ok: queued as 0AAAAAAAA)", { relay: "127.0.0.1[127.0.0.1]:10024" })}`;
    const { evidence, judgement } = await judged(log);
    expect(acceptedLater(evidence, snapshotTime, judgement.followed)).toEqual([]);
    expect(acceptedLater(evidence, snapshotTime)).toHaveLength(1);
  });
});

test("any order of lines is judged, every recipient once, and the same way each time", async () => {
  const ids = [id, "0AAAAAAAA", "0BBBBBBBB"];
  const texts = fc.constantFrom(
    "client=localhost[127.0.0.1]",
    "message-id=<1@src.test>",
    "from=<s@src.test>, size=848, nrcpt=2 (queue active)",
    "removed",
    "requeued",
    "to=<a@dst.test>, relay=127.0.0.1[127.0.0.1]:1, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 queued as 0AAAAAAAA)",
    "to=<a@dst.test>, relay=local, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (forwarded as 0BBBBBBBB)",
    "to=<b@dst.test>, relay=filter, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (delivered)",
    "to=<a@dst.test>, relay=none, delay=1, delays=0/0/0/1, dsn=4.0.0, status=deferred (no)",
    "to=<b@dst.test>, relay=n",
    "to=<a@dst.test>, relay=none, delay=1, delays=0/0/0/1, dsn=5.0.0, status=bounced (no)",
    "sender non-delivery notification: 0BBBBBBBB",
    `uid=1 from=<s@src.test> orig_id=${id}`,
    "uid=1 from=<s@src.test> orig_id=0AAAAAAAA",
    "from=<s@src.test>, status=expired, returned to sender",
    "placed on hold",
    "skipped, still being delivered",
    "removed (canceled)",
  );
  const lines = fc.array(
    fc.tuple(
      fc.nat(3000),
      fc.constantFrom("qmgr", "smtp", "local", "postsuper", "smtpd"),
      fc.constantFrom(...ids),
      texts,
    ),
    { maxLength: 40 },
  );
  const messages = [
    queued({ recipients: to("a@dst.test", "b@dst.test", "a@dst.test") }),
    queued({ queueId: "0AAAAAAAA", contentFilter: "x:y", inFlight: null }),
  ];
  await fc.assert(
    fc.asyncProperty(lines, async (chosen) => {
      const log = chosen
        .toSorted(([a], [b]) => a - b)
        .map(
          ([second, daemon, of, text]) =>
            `${new Date((clockTime("11:50:00") + second) * 1000).toISOString().slice(11, 19)} ${daemon} ${of}: ${text}`,
        )
        .join("\n");
      const gather = (): Promise<LogEvidence> => gatherEvidence([recordsOf(log)], watchOf(messages));
      const first = judge(messages, await gather(), { snapshotTime });
      expect(first.messages.map(({ recipients }) => recipients.length)).toEqual([3, 1]);
      expect(judge(messages, await gather(), { snapshotTime }).messages).toEqual(first.messages);
    }),
    { numRuns: 500 },
  );
});
