import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { gatherEvidence, type Trail, type Watch } from "../../src/postfix/log-evidence.ts";
import { readMailLogs } from "../../src/postfix/mail-log-files.ts";
import { clockTime, evidenceOf } from "../support/log-lines.ts";

const nobody: Watch = { ids: new Set(), messageIds: new Set(), uids: new Set() };
const watching = (...ids: string[]): Watch => ({ ...nobody, ids: new Set(ids) });

describe("the trail of a queue id", () => {
  test("has what its lines say, from the first to the last", async () => {
    const log = await evidenceOf(
      `12:00:01 smtpd 015D2431FEB: client=unknown[127.0.0.1]
       12:00:01 cleanup 015D2431FEB: message-id=<1@x>
       12:00:02 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=1 (queue active)
       12:00:03 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=2, delays=1/0/0/1, dsn=2.0.0, status=sent (ok)
       12:00:04 qmgr 015D2431FEB: removed`,
      watching("015D2431FEB"),
    );
    const [trail] = log.trails("015D2431FEB");
    expect(trail).toMatchObject({
      ...{
        start: clockTime("12:00:01"),
        last: clockTime("12:00:04"),
        end: "finished",
        messageId: "<1@x>",
        sender: "s@x",
      },
      ...{ size: 848, recipients: 1, arrival: clockTime("12:00:01"), ours: true },
    });
    expect(trail?.lines.map(({ fact }) => fact.kind)).toEqual(["active", "delivery", "removed"]);
    expect(log.unfinished()).toEqual([]);
  });

  test("ends where the id comes again", async () => {
    const log = await evidenceOf(
      `12:00:01 cleanup 015D2431FEB: message-id=<1@x>
       12:00:04 qmgr 015D2431FEB: removed
       12:10:01 smtpd 015D2431FEB: client=unknown[127.0.0.1]
       12:10:01 cleanup 015D2431FEB: message-id=<2@x>
       12:20:00 pickup 015D2431FEB: uid=0 from=<root>
       12:20:00 cleanup 015D2431FEB: message-id=<3@x>`,
      watching("015D2431FEB"),
    );
    expect(log.trails("015D2431FEB").map(({ messageId, end }) => [messageId, end])).toEqual([
      ["<1@x>", "finished"],
      ["<2@x>", "lost"],
      ["<3@x>", null],
    ]);
    expect(log.gaps).toMatchObject([{ reason: expect.stringContaining("came again") }]);
  });

  test("keeps of attempts that came to nothing only the last", async () => {
    const attempt = (minute: number) =>
      `12:${minute}:00 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=2 (queue active)
       12:${minute}:01 smtp 015D2431FEB: to=<a@b>, relay=none, delay=1, delays=0/0/0/1, dsn=4.0.0, status=deferred (no)
       12:${minute}:02 smtp 015D2431FEB: to=<c@d>, relay=none, delay=1, delays=0/0/0/1, dsn=5.0.0, status=bounced (no)`;
    const log = await evidenceOf(`${attempt(10)}\n${attempt(20)}\n${attempt(30)}`, watching("015D2431FEB"));
    const kinds = log
      .trails("015D2431FEB")[0]
      ?.lines.map(({ fact }) => (fact.kind === "delivery" ? fact.status : fact.kind));
    expect(kinds).toEqual(["bounced", "bounced", "active", "deferred", "bounced"]);
  });

  test("of another instance is not ours, and is followed all the same", async () => {
    const log = await evidenceOf(
      `12:00:01 postfix-in/smtpd[1] 015D2431FEB: client=unknown[127.0.0.1]
       12:00:01 postfix-in/submission/smtpd[1] 015D2431FEC: client=unknown[127.0.0.1]
       12:00:02 postfix-in/smtp[2] 015D2431FEB: to=<a@b>, relay=127.0.0.1[127.0.0.1]:26, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok: queued as 0AAAAAAA1)
       12:00:02 postfix-out/qmgr[1] 0AAAAAAA1: from=<s@x>, size=848, nrcpt=1 (queue active)
       12:00:02 postfix-in-too/smtpd[1] 015D2431FED: client=unknown[127.0.0.1]`,
      watching("015D2431FEB"),
      ["postfix-in"],
    );
    const ours = ["015D2431FEB", "015D2431FEC", "0AAAAAAA1", "015D2431FED"].map((id) => log.trails(id)[0]?.ours);
    expect(ours).toEqual([true, true, false, false]);
  });

  test("that nobody asks for is forgotten after its end, unless a watched one names it", async () => {
    const finished = (id: string, minute: number) =>
      `12:${minute}:01 cleanup ${id}: message-id=<${id}@x>
       12:${minute}:02 qmgr ${id}: removed`;
    const log = await evidenceOf(
      `${finished("0AAAAAAA1", 10)}
       ${finished("0AAAAAAA2", 10)}
       12:10:03 bounce 015D2431FEB: sender non-delivery notification: 0AAAAAAA2
       ${finished("0AAAAAAA3", 40)}`,
      watching("015D2431FEB"),
    );
    expect(["0AAAAAAA1", "0AAAAAAA2", "0AAAAAAA3"].map((id) => log.trails(id).length)).toEqual([0, 1, 1]);
  });

  test("counts an agent's late line after postsuper took the message away", async () => {
    const log = await evidenceOf(
      `12:00:01 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=1 (queue active)
       12:00:02 postsuper 015D2431FEB: removed
       12:00:03 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=2, delays=0/0/0/2, dsn=2.0.0, status=sent (ok)`,
      watching("015D2431FEB"),
    );
    expect(log.trails("015D2431FEB")).toMatchObject([{ end: "deleted", lines: { length: 3 } }]);
  });
});

/** A log with a line every second from 12:00 to 12:10, and others among them. */
function amid(lines: string, step = 1): string {
  const beats = Array.from({ length: Math.ceil(600 / step) }, (_, at) => {
    const time = new Date(at * step * 1000).toISOString().slice(14, 19);
    return `12:${time} smtpd connect from x`;
  });
  return [...beats, ...lines.split("\n").map((line) => line.trim())].sort().join("\n");
}

describe("a gap is seen", () => {
  test.each([
    [
      "when a message arrived, by its delay, and the log does not say so",
      "12:05:00 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=120, delays=120/0/0/0, dsn=2.0.0, status=sent (ok)",
      "12:03:00",
    ],
    [
      "when an attempt began, by its delays, and the log does not say so",
      `12:01:00 cleanup 015D2431FEB: message-id=<1@x>
       12:05:00 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=240, delays=180/0/0/60, dsn=2.0.0, status=sent (ok)`,
      "12:04:00",
    ],
    [
      "when a message was finished with fewer outcomes than recipients",
      `12:01:00 cleanup 015D2431FEB: message-id=<1@x>
       12:02:00 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=2 (queue active)
       12:02:01 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=61, delays=60/0/0/1, dsn=2.0.0, status=sent (ok)
       12:05:00 qmgr 015D2431FEB: removed`,
      "12:03:00",
    ],
    ["when journald says so", "12:05:00 systemd-journald[1] Suppressed 12 messages from postfix@-.service", "12:05:00"],
    [
      "when rsyslog says so, from where it began",
      `12:03:00 rsyslogd imuxsock[pid 11]: begin to drop messages due to rate-limiting
       12:02:59 postfix/smtp[11] connect to x
       12:05:00 rsyslogd imuxsock[pid 11]: 12 messages lost due to rate-limiting`,
      "12:04:00",
    ],
  ])("%s", async (_, lines, inside) => {
    const { gaps } = await evidenceOf(amid(lines), nobody);
    expect(gaps).toHaveLength(1);
    expect(gaps[0]?.from).toBeLessThanOrEqual(clockTime(inside));
    expect(gaps[0]?.to).toBeGreaterThanOrEqual(clockTime(inside));
  });

  test.each([
    [
      "of a message whose life is all there",
      `12:01:00 cleanup 015D2431FEB: message-id=<1@x>
       12:01:00 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=1 (queue active)
       12:01:01 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=1.2, delays=0.1/0.1/0/1, dsn=2.0.0, status=sent (ok)
       12:01:02 qmgr 015D2431FEB: removed`,
    ],
    [
      "of one that arrived before the log began",
      `12:02:00 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=2 (queue active)
       12:02:01 smtp 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=9001, delays=9000/0/0/1, dsn=2.0.0, status=sent (ok)
       12:02:01 qmgr 015D2431FEB: removed`,
    ],
    [
      "of aliases",
      `12:01:00 cleanup 015D2431FEB: message-id=<1@x>
       12:01:00 qmgr 015D2431FEB: from=<s@x>, size=848, nrcpt=2 (queue active)
       12:01:00 local 015D2431FEB: to=<x@y>, orig_to=<a@b>, relay=local, delay=0.2, delays=0.1/0/0/0.1, dsn=2.0.0, status=sent (delivered to mailbox)
       12:01:01 qmgr 015D2431FEB: removed`,
    ],
    [
      "of rate limits of others",
      `12:05:00 systemd-journald[1] Suppressed 12 messages from cron.service
       12:05:00 rsyslogd imuxsock lost 45 messages from pid 99 due to rate-limiting`,
    ],
  ])("in nothing %s", async (_, lines) => {
    expect((await evidenceOf(amid(lines), nobody)).gaps).toEqual([]);
  });
});

test("postsuper's changes without ids are told from those with", async () => {
  const log = await evidenceOf(
    `12:00:01 postfix/postsuper[1] 015D2431FEB: removed
     12:00:01 postfix/postsuper[1] Deleted: 1 message
     12:00:02 postfix/postsuper[2] Deleted: 0 messages
     12:00:03 postfix/postsuper[3] Deleted: 8 messages
     12:00:04 postfix/postsuper[4] Renamed to match inode number: 2 messages
     12:00:05 postfix/postsuper[5] Requeued: 2 messages
     12:00:06 postfix/postsuper[6] 015D2431FEC: placed on hold
     12:00:06 postfix/postsuper[6] Placed on hold: 1 message
     12:00:07 postfix/postsuper[7] Placed on hold: 9 messages`,
    nobody,
  );
  expect(log.massChanges.map(({ action, time }) => [action, time])).toEqual([
    ["deleted", clockTime("12:00:03")],
    ["renamed", clockTime("12:00:04")],
    ["held", clockTime("12:00:07")],
  ]);
});

test("a log of a real instance is understood whole", async () => {
  const path = fileURLToPath(new URL("../fixtures/mail-logs/postfix-3.7.11", import.meta.url));
  const batches = readMailLogs([path], { reference: Date.parse("2026-11-25T00:00:00Z") / 1000, zone: "UTC" });
  const ids = ["015D2431FEB", "0C70A431FE9", "B95B9431FDB", "78208431FCD", "824B7431FCE", "A9B38431FCE", "D7B94431FCC"];
  const log = await gatherEvidence(batches, watching(...ids));
  const ends = ids.map((id) => log.trails(id).map(({ end }: Trail) => end));
  expect(ends).toEqual([["finished"], ["finished"], ["requeued"], [null], ["deleted"], [null], ["finished"]]);
  expect(log.cameOf("B95B9431FDB")).toMatchObject([
    { id: "78208431FCD", messageId: "<8.8350.1795550342737@letters.test>" },
  ]);
  expect(log.massChanges.map(({ line }) => line.text)).toEqual(["Deleted: 8 messages"]);
  expect(log.gaps).toEqual([]);
  // What `postsuper -d ALL` took, and the message whose client went away: Postfix 3.7 logs neither end.
  expect(log.unfinished()).toHaveLength(9);
});
