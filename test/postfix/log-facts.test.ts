import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { factOf, type LogFact, loggedForms } from "../../src/postfix/log-facts.ts";
import { LineReader } from "../../src/postfix/mail-log.ts";

function factIn(tagAndText: string): LogFact | null {
  const record = new LineReader({ reference: 2e9, zone: "UTC" }).read(`Nov 24 19:59:02 mx ${tagAndText}`);
  return record && factOf(record);
}

describe("a delivery", () => {
  // Lines of Postfix 3.7.11, but for the last ones: tls= is 3.11's.
  test.each([
    [
      'to=<"odd box"@good.test>, relay=127.0.0.1[127.0.0.1]:33981, delay=0.1, delays=0.03/0.05/0.01/0.01, dsn=2.0.0, status=sent (250 2.0.0 Ok: taken)',
      {
        to: '"odd box"@good.test',
        origTo: null,
        relay: "127.0.0.1[127.0.0.1]:33981",
        delay: 0.1,
        status: "sent",
        reply: "250 2.0.0 Ok: taken",
      },
    ],
    [
      "to=<w@good.test>, orig_to=<v@good.test>, relay=127.0.0.1[127.0.0.1]:33981, conn_use=2, delay=0.1, delays=0.03/0.05/0.01/0.01, dsn=2.0.0, status=sent (250 2.0.0 Ok)",
      { to: "w@good.test", origTo: "v@good.test", relay: "127.0.0.1[127.0.0.1]:33981" },
    ],
    [
      "to=<fwd@local.test>, relay=local, delay=0.55, delays=0.02/0.33/0/0.2, dsn=2.0.0, status=sent (forwarded as 88489431FE1)",
      { relay: "local", status: "sent", reply: "forwarded as 88489431FE1" },
    ],
    [
      'to=<bob@local.test>, orig_to=<fan@local.test>, relay=local, delay=0.62, delays=0.02/0.05/0/0.55, dsn=5.1.1, status=bounced (unknown user: "bob")',
      { status: "bounced" },
    ],
    [
      "to=<sender@src.test>, relay=none, delay=0.17, delays=0.01/0.15/0/0, dsn=4.4.1, status=deferred (connect to 127.0.0.1[127.0.0.1]:9: Connection refused)",
      { relay: "none", status: "deferred", reply: "connect to 127.0.0.1[127.0.0.1]:9: Connection refused" },
    ],
    [
      "to=<a@b>, relay=x[private/lmtp], delay=5, dsn=2.0.0, status=sent (250 <a@b> Saved)",
      { relay: "x[private/lmtp]", delay: 5, activeFor: null },
    ],
    ["to=<a@b>, relay=none, delay=1, delays=0/1/0/0, dsn=4.0.0, status=SOFTBOUNCE (no)", { status: "deferred" }],
    ["to=<a@b>, relay=none, delay=1, delays=0/1/0/0, dsn=2.0.0, status=deliverable (yes)", { status: "other" }],
    [
      "to=<a@b>, relay=x[1.2.3.4]:25, delay=1, delays=0/1/0/0, tls=a/b, dsn=2.0.0, status=sent (yes)",
      { status: "sent" },
    ],
    [
      'to=<"a>, relay=none, delay=1, dsn=2.0.0, status=sent (no"@b>, relay=x[1.2.3.4]:25, delay=1, dsn=4.0.0, status=deferred (really)',
      { status: "deferred" },
    ],
    ['to=<a"b@c>, relay=none, delay=1, dsn=2.0.0, status=sent (internal form)', { to: 'a"b@c', status: "sent" }],
    ["to=<>, relay=none, delay=1, dsn=2.0.0, status=sent (null)", { to: "" }],
    ["to=<a@b>, relay=x[1.2.3.4]:25, delay=1, delays=0/1/0/0, dsn=2.0.0, status=se", { to: "a@b", status: "cut" }],
    ["to=<a@b", { to: "a@b", status: "cut" }],
  ])("%s", (text, expected) => {
    expect(factIn(`postfix/smtp[1]: 015D2431FEB: ${text}`)).toMatchObject({ kind: "delivery", ...expected });
  });

  test("tells since when its message was active", () => {
    const fact = factIn(
      "postfix/smtp[1]: 015D2431FEB: to=<a@b>, relay=x[1.2.3.4]:25, delay=125, delays=120/2/1/2, dsn=2.0.0, status=sent (y)",
    );
    expect(fact).toMatchObject({ delay: 125, activeFor: 5 });
  });
});

test.each<[string, LogFact | null]>([
  ["postfix/smtpd[1]: 015D2431FEB: client=unknown[127.0.0.1]", { kind: "client", address: "127.0.0.1", origId: null }],
  [
    "postfix/smtpd[1]: 015D2431FEB: client=x.test[::1]:4711, sasl_method=PLAIN, sasl_username=u",
    { kind: "client", address: "::1", origId: null },
  ],
  [
    "postfix/smtpd[1]: 015D2431FEB: client=localhost[127.0.0.1], orig_queue_id=7E1BB431FE2, orig_client=x[1.2.3.4]",
    { kind: "client", address: "127.0.0.1", origId: "7E1BB431FE2" },
  ],
  [
    "postfix/pickup[1]: 78208431FCD: uid=102 from=<s@good.test> orig_id=B95B9431FDB",
    { kind: "pickup", uid: 102, sender: "s@good.test", origId: "B95B9431FDB" },
  ],
  ["postfix/pickup[1]: 7B2DA431FDB: uid=0 from=<root>", { kind: "pickup", uid: 0, sender: "root", origId: null }],
  ["postfix/cleanup[1]: 015D2431FEB: message-id=<1@x>", { kind: "message-id", messageId: "<1@x>" }],
  ["postfix/cleanup[1]: 015D2431FEB: resent-message-id=<1@x>", null],
  [
    "postfix/qmgr[1]: 015D2431FEB: from=<>, size=2681, nrcpt=1 (queue active)",
    { kind: "active", sender: "", size: 2681, recipients: 1 },
  ],
  ["postfix/qmgr[1]: 015D2431FEB: from=<s@x>, status=expired, returned to sender", { kind: "expired", forced: false }],
  [
    "postfix/qmgr[1]: 015D2431FEB: from=<s@x>, status=force-expired, returned to sender",
    { kind: "expired", forced: true },
  ],
  ["postfix/qmgr[1]: 015D2431FEB: removed", { kind: "removed", how: "finished" }],
  ["postfix/postsuper[1]: 015D2431FEB: removed", { kind: "removed", how: "deleted" }],
  ["postfix/cleanup[1]: 015D2431FEB: removed (canceled)", { kind: "removed", how: "canceled" }],
  ["postfix/cleanup[1]: 015D2431FEB: removed (discarded)", { kind: "removed", how: "discarded" }],
  ["postfix/qmgr[1]: 015D2431FEB: skipped, still being delivered", { kind: "locked" }],
  ["postfix/postsuper[1]: 015D2431FEB: placed on hold", { kind: "held" }],
  ["postfix/postsuper[1]: 015D2431FEB: released from hold", { kind: "released" }],
  ["postfix/postsuper[1]: 015D2431FEB: requeued", { kind: "requeued" }],
  ["postfix/postsuper[1]: 015D2431FEB: expired", { kind: "force-expired" }],
  ["postfix/qmgr[1]: 015D2431FEB: status=deferred (bounce failed)", { kind: "notice-failed" }],
  [
    "postfix/bounce[1]: 1A142431FE8: sender non-delivery notification: ADDC4431FDA",
    { kind: "notice", about: "failure", id: "ADDC4431FDA", toSender: true },
  ],
  [
    "postfix/bounce[1]: 1A142431FE8: sender delay notification: ADDC4431FDA",
    { kind: "notice", about: "delay", id: "ADDC4431FDA", toSender: true },
  ],
  [
    "postfix/bounce[1]: 1A142431FE8: sender delivery status notification: ADDC4431FDA",
    { kind: "notice", about: "success", id: "ADDC4431FDA", toSender: true },
  ],
  [
    "postfix/bounce[1]: 1A142431FE8: postmaster non-delivery notification: ADDC4431FDA",
    { kind: "notice", about: "failure", id: "ADDC4431FDA", toSender: false },
  ],
  ["postfix/postsuper[1]: Deleted: 8 messages", { kind: "mass", action: "deleted", count: 8 }],
  ["postfix/postsuper[1]: Renamed to match inode number: 1 message", { kind: "mass", action: "renamed", count: 1 }],
  ["postfix/master[1]: terminating on signal 15", { kind: "stopping" }],
  ["postfix/master[1]: daemon started -- version 3.7.11, configuration /etc/postfix", { kind: "starting" }],
  [
    "systemd-journald[1]: Suppressed 123 messages from postfix@-.service",
    { kind: "lost", begins: false, pid: null, ofPostfix: true },
  ],
  [
    "systemd-journald[1]: Suppressed 123 messages from session-3.scope",
    { kind: "lost", begins: false, pid: null, ofPostfix: true },
  ],
  [
    "systemd-journald[1]: Suppressed 123 messages from cron.service",
    { kind: "lost", begins: false, pid: null, ofPostfix: false },
  ],
  [
    "rsyslogd: imuxsock lost 45 messages from pid 4711 due to rate-limiting",
    { kind: "lost", begins: false, pid: 4711, ofPostfix: false },
  ],
  [
    "rsyslogd: imuxsock[pid 4711]: begin to drop messages due to rate-limiting",
    { kind: "lost", begins: true, pid: 4711, ofPostfix: false },
  ],
  [
    "rsyslogd: imjournal: 45 messages lost due to rate-limiting (20000 allowed within 600 seconds)",
    { kind: "lost", begins: false, pid: null, ofPostfix: true },
  ],
  ['rsyslogd: [origin software="rsyslogd"] start', null],
  ["postfix/smtpd[1]: 015D2431FEB: reject: RCPT from x[1.2.3.4]: 550 to=<a@b>", null],
  ["postfix/smtpd[1]: connect from unknown[127.0.0.1]", null],
])("%s", (line, expected) => {
  expect(factIn(line)).toEqual(expected);
});

describe("an address", () => {
  test.each([
    ["a@b", ["a@b"]],
    ["odd box@b", ['"odd box"@b', "odd box@b"]],
    ['q"uote\\@b', ['"q\\"uote\\\\"@b', 'q"uote\\@b']],
    [".dot@b", ['".dot"@b', ".dot@b"]],
    ["a..b@c", ['"a..b"@c', "a..b@c"]],
    ["two@at@b", ['"two@at"@b', "two@at@b"]],
    ["jörg@b", ["jörg@b"]],
    ["tab\there@b", ['"tab?here"@b', "tab?here@b"]],
    ["local", ["local"]],
    ["", [""]],
  ])("%j is logged as %j", (address, forms) => {
    expect(loggedForms(address)).toEqual(forms);
  });

  test("is found in a delivery line again", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (local) => {
        const [external = ""] = loggedForms(`${local}@dst.test`);
        const fact = factIn(
          `postfix/smtp[1]: 015D2431FEB: to=<${external}>, relay=none, delay=1, dsn=2.0.0, status=sent (x)`,
        );
        expect(fact).toMatchObject({ to: external, status: "sent" });
      }),
    );
  });
});
