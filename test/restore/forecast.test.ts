import { describe, expect, test } from "vitest";
import { type ForecastKind, forecast, isExpired, type Placement } from "../../src/restore/forecast.ts";
import { comparableTarget, type TargetFacts } from "../../src/restore/target.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { message, noon, target } from "./entries.ts";

const day = 86_400;
const source = { time: "2026-11-24T11:00:00Z", postfixVersion: "3.7.11" };

/** A deferred message that is due now, with its id in the snapshot. */
function placed(over: Partial<MessageEntry> = {}, place: Partial<Placement> = {}): Placement {
  const entry = message({ mtime: noon, ...over });
  return { message: entry, queue: "deferred", mode: 0o700, mtime: noon, recipients: [0], waits: false, ...place };
}

function aged(days: number, over: Partial<MessageEntry> = {}, place: Partial<Placement> = {}): Placement {
  return placed({ created: String(noon - days * day), ...over }, place);
}

function foresee(place: readonly Placement[], facts: Partial<TargetFacts> = {}) {
  return forecast(place, source, target(facts));
}

/** The ids a kind of forecast is about; undefined when there is no such forecast. */
function about(kind: ForecastKind, place: readonly Placement[], facts: Partial<TargetFacts> = {}) {
  return foresee(place, facts).find((one) => one.kind === kind)?.queueIds;
}

function textOf(kind: ForecastKind, place: readonly Placement[], facts: Partial<TargetFacts> = {}) {
  return foresee(place, facts).find((one) => one.kind === kind)?.text;
}

test("of fresh mail on a host that has everything nothing is foreseen", () => {
  expect(
    foresee([placed(), placed({}, { queue: "hold" }), placed({ queue: "maildrop" }, { queue: "maildrop" })]),
  ).toEqual([]);
});

test("mail that nobody is left to deliver to has no future", () => {
  expect(foresee([aged(90, { contentFilter: "gone:x", delayWarning: 1 }, { recipients: [] })])).toEqual([]);
});

describe("what expires at its first failed attempt", () => {
  test("says how many, until when mail is kept, and what to do", () => {
    expect(foresee([aged(6, { queueId: "A1" }), aged(9, { queueId: "A2" }, { queue: "hold" })])[0]).toEqual({
      kind: "expires",
      messages: 2,
      text:
        "2 messages will be returned to the sender if the first attempt fails: older than maximal_queue_lifetime (5d) by then" +
        " (1 of these on hold, where mail ages as well); --requeue restores such mail as new," +
        " or set maximal_queue_lifetime to 11d or more before Postfix gets it",
      queueIds: ["A1", "A2"],
    });
  });

  test("at the age of the lifetime to the second, as qmgr has it", () => {
    const created = (seconds: number) => message({ created: String(noon - 5 * day + seconds) });
    expect([-1, 0, 1].map((seconds) => isExpired(created(seconds), target()))).toEqual([true, true, false]);
    expect(isExpired(created(1), target(), noon + 1)).toBe(true);
    expect(isExpired(message({ created: "1", recipients: [{ address: "b@x.test", done: true }] }), target())).toBe(
      false,
    );
  });

  test("age is counted at the attempt: mail that expires before its retry time is told", () => {
    const almost = (mtime: number) => aged(5, { created: String(noon - 5 * day + 600) }, { mtime });
    expect(about("expires", [almost(noon + 599)])).toBeUndefined();
    expect(about("expires", [almost(noon + 600)])).toHaveLength(1);
    expect(about("expires", [almost(noon - 9999)])).toBeUndefined();
  });

  test("with a lifetime of 0 everything has one attempt", () => {
    expect(about("expires", [placed()], { maximalQueueLifetimeS: 0 })).toHaveLength(1);
  });

  test("no lifetime is proposed that qmgr would not take", () => {
    expect(textOf("expires", [aged(98)])).toContain("to 100d or more");
    expect(textOf("expires", [aged(99)])).toMatch(/--requeue restores such mail as new$/);
  });

  test("through maildrop mail is new, whatever its age", () => {
    expect(about("expires", [aged(9, {}, { queue: "maildrop" })])).toBeUndefined();
  });
});

describe("what expires of the null sender", () => {
  test("vanishes without notice, by a lifetime of its own", () => {
    const place = [aged(2, { sender: "", queueId: "B1" }), aged(2), aged(0.9, { sender: "" })];
    expect(foresee(place)).toEqual([
      {
        kind: "notice-expires",
        messages: 1,
        text:
          "1 message of the null sender will vanish without notice to anybody if the first attempt fails:" +
          " older than bounce_queue_lifetime (1d) by then; --requeue restores such mail as new," +
          " or set bounce_queue_lifetime and maximal_queue_lifetime to 4d or more before Postfix gets it",
        queueIds: ["B1"],
      },
    ]);
  });

  test("is at most the lifetime of other mail, as qmgr corrects it", () => {
    expect(
      about("notice-expires", [aged(2, { sender: "" })], { maximalQueueLifetimeS: day, bounceQueueLifetimeS: 9 * day }),
    ).toHaveLength(1);
  });

  test("reaches the postmaster where notify_classes says so", () => {
    expect(textOf("notice-expires", [aged(2, { sender: "" })], { postmasterHears: true })).toContain(
      "become a notice to the postmaster",
    );
  });
});

test("mail marked by postsuper -e gets no attempt at all", () => {
  const forecasts = foresee([aged(6, { queueId: "C1" }, { mode: 0o710 }), placed({}, { mode: 0o740 })]);
  expect(forecasts).toMatchObject([{ kind: "forced-expiry", queueIds: ["C1"] }]);
  expect(about("forced-expiry", [placed({}, { mode: 0o710, queue: "maildrop" })])).toBeUndefined();
});

describe("delay warnings", () => {
  const warned = (due: number | null, place: Partial<Placement> = {}) => placed({ delayWarning: due }, place);

  test("go by the record written on arrival, a second early as qmgr does, whatever the setting here", () => {
    expect(about("delay-warning", [warned(noon + 1)])).toHaveLength(1);
    expect(about("delay-warning", [warned(noon + 2)])).toBeUndefined();
    expect(about("delay-warning", [warned(noon + 2, { mtime: noon + 1 })])).toHaveLength(1);
    expect(about("delay-warning", [warned(null)], { delayWarningTimeS: 1 })).toBeUndefined();
    expect(about("delay-warning", [warned(noon)], { delayWarningTimeS: 0 })).toHaveLength(1);
  });

  test("the setting here is only in the text of the warning, in hours", () => {
    expect(textOf("delay-warning", [warned(1)], { delayWarningTimeS: 3600 })).not.toContain("0 hours");
    expect(textOf("delay-warning", [warned(1)], { delayWarningTimeS: 3599 })).toContain("0 hours");
  });

  test("are not sent of mail that expires instead, but also of mail that comes through maildrop", () => {
    const old = { delayWarning: noon - 5 * day };
    expect(about("delay-warning", [aged(6, old), placed(old, { mode: 0o710 })])).toBeUndefined();
    expect(about("delay-warning", [aged(6, old, { queue: "maildrop" })])).toHaveLength(1);
  });
});

test("mail of seven days may have outlived its signatures", () => {
  const arrived = (seconds: number, place: Partial<Placement> = {}) =>
    placed({ arrival: noon - 7 * day + seconds }, place);
  expect(about("signature", [arrived(1)])).toBeUndefined();
  expect(about("signature", [arrived(0)])).toHaveLength(1);
  expect(about("signature", [arrived(60, { mtime: noon + 60 })])).toHaveLength(1);
  // postsuper -r makes it young, but does not sign it again.
  expect(textOf("signature", [placed({ created: String(noon), arrival: noon - 8 * day })])).toContain(
    "7d ago or earlier",
  );
});

describe("mail that is due at once", () => {
  const many = (count: number, over: Partial<Placement>) => Array.from({ length: count }, () => placed({}, over));

  test("is worth a word from a hundred messages on", () => {
    expect(about("due-at-once", many(99, {}))).toBeUndefined();
    expect(about("due-at-once", many(100, {}))).toHaveLength(100);
    expect(about("due-at-once", many(100, { mtime: noon + 1 }))).toBeUndefined();
  });

  test("is told as a share of what may be tried, and when", () => {
    expect(textOf("due-at-once", [...many(100, {}), ...many(9, { queue: "hold" })])).toMatch(
      /^all of the 100 messages not on hold will be tried at once, as soon as Postfix runs; --land hold /,
    );
    const running = textOf("due-at-once", [...many(100, {}), ...many(50, { mtime: noon + 1 })], { running: true });
    expect(running).toMatch(/^100 of the 150 messages not on hold will be tried at once, as soon as they are placed/);
  });

  test("is what comes through maildrop, unless it waits there for release", () => {
    expect(about("due-at-once", many(100, { queue: "maildrop", mtime: noon + 1 }))).toHaveLength(100);
    expect(about("due-at-once", many(100, { queue: "maildrop", waits: true }))).toBeUndefined();
    expect(about("due-at-once", many(100, { queue: "hold" }))).toBeUndefined();
  });
});

test("a retry time that had to be brought back is told", () => {
  const far = { mtime: noon + 9999 };
  expect(textOf("late", [placed(far, { mtime: noon + 4000 })])).toMatch(/^1 message had a retry time further ahead/);
  expect(about("late", [placed(far, far), placed({ ...far, queue: "active" })])).toBeUndefined();
});

describe("transports that messages name", () => {
  const filtered = (contentFilter: string, place: Partial<Placement> = {}) => placed({ contentFilter }, place);

  test("are looked for in master.cf, one forecast for each filter", () => {
    const place = [filtered("scan:[127.0.0.1]:10024"), filtered("smtp:scan.test"), filtered("scan:[127.0.0.1]:10024")];
    expect(foresee(place)).toMatchObject([
      { kind: "transport", messages: 2, text: expect.stringContaining("master.cf here has no transport scan") },
      { kind: "content-filter", messages: 1, text: expect.stringContaining("content filter smtp:scan.test") },
    ]);
    expect(about("transport", [filtered("smtp")])).toBeUndefined();
  });

  test("pickup drops them from what comes through maildrop", () => {
    expect(foresee([filtered("scan:x", { queue: "maildrop" })])).toEqual([]);
  });
});

describe("what the target lacks", () => {
  test("a Postfix as new as the source's", () => {
    expect(textOf("version", [], { postfixVersion: "3.6.4" })).toMatch(
      /^Postfix here is 3\.6\.4, older than the source's 3\.7\.11/,
    );
    expect(about("version", [], { postfixVersion: "3.10.0" })).toBeUndefined();
  });

  test("what senders asked of TLS", () => {
    const place = [placed({ sendopts: 16 }), placed({ sendopts: 32 }), placed({ sendopts: 7 })];
    const lost = (postfixVersion: string) => {
      return foresee(place, { postfixVersion }).flatMap(({ kind, text }) => (kind === "requiretls" ? [text] : []));
    };
    expect(lost("3.9.9")).toEqual([expect.stringContaining("TLS-Required: no"), expect.stringContaining("REQUIRETLS")]);
    expect(lost("3.10.0")).toEqual([expect.stringMatching(/^1 message asked for REQUIRETLS, .* before 3\.11/)]);
    expect(lost("3.11.0")).toEqual([]);
  });

  test("map types that its own configuration names", () => {
    const lackingMapTypes = [{ type: "pcre", settings: ["main.cf header_checks", "smtp/unix smtp_generic_maps"] }];
    expect(textOf("map-type", [], { lackingMapTypes })).toMatch(
      /names pcre: tables \(main\.cf header_checks, smtp\/unix smtp_generic_maps\)/,
    );
  });

  test("a clock that has reached the time of the snapshot", () => {
    const taken = Date.parse(source.time) / 1000;
    const place = [placed({ created: String(taken) }), placed({ created: String(taken - 9 * 3600) })];
    expect(about("clock", place, { now: taken - 60 })).toBeUndefined();
    expect(about("clock", place, { now: taken - 61 })).toHaveLength(1);
    expect(textOf("clock", place, { now: taken - 5 * 3600 })).toContain("at least 5h behind");
  });
});

describe("a target that a plan was made for", () => {
  test("is the same after a while, after a start of Postfix, and after a reboot", () => {
    const later = target({ now: noon + 9, freeBytes: 1, freeInodes: null, running: true, device: "9" });
    expect(comparableTarget(later)).toEqual(comparableTarget(target()));
  });

  test("is another with another queue directory, or other settings that a plan depends on", () => {
    const others: Partial<TargetFacts>[] = [
      { inode: "9" },
      { born: "9" },
      { maximalQueueLifetimeS: 1 },
      { transports: [] },
      { users: {} },
      { longIds: true },
    ];
    for (const other of others) expect(comparableTarget(target(other))).not.toEqual(comparableTarget(target()));
  });

  test("is known by its device where no birth is known", () => {
    const unborn = { born: null };
    expect(comparableTarget(target({ ...unborn, device: "9" }))).not.toEqual(comparableTarget(target(unborn)));
  });
});
