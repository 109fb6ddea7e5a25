import { describe, expect, test } from "vitest";
import { PlacedRecord } from "../../src/restore/placed-record.ts";
import {
  choiceOptions,
  choiceText,
  type Knowledge,
  type Land,
  planRestore,
  type RestoreChoice,
  type RestorePlan,
} from "../../src/restore/plan.ts";
import { parseConditions } from "../../src/restore/selection.ts";
import { refuseWithoutRoom, type TargetFacts } from "../../src/restore/target.ts";
import { entryKey, type LogEntry, type MessageEntry } from "../../src/snapshot/manifest.ts";
import { digestFrom } from "../support/records.ts";
import { choice, deliveries, knowing, message, noon, placedTwin, ran, recipients, target } from "./entries.ts";

const source = { snapshot: "5a", host: "mx1", time: "2026-11-24T11:00:00Z", postfixVersion: "3.7.11" };

function plan(messages: readonly MessageEntry[], land: Land = "original", facts: Partial<TargetFacts> = {}) {
  return planRestore({ messages, files: [] }, source, choice({ land }), target(facts), knowing());
}

function placed(over: Partial<MessageEntry>, land: Land = "original", facts: Partial<TargetFacts> = {}) {
  return plan([message(over)], land, facts).place[0];
}

describe("where a message lands", () => {
  test("deferred mail stays deferred, with its retry time and the bits that mean something to qmgr", () => {
    expect(placed({ mode: 0o754 })).toMatchObject({ queue: "deferred", mtime: noon + 300, mode: 0o750, role: null });
  });

  test.each(["active", "incoming"] as const)("%s mail goes to deferred and is due at once", (queue) => {
    expect(placed({ queue, mtime: noon + 60 })).toMatchObject({ queue: "deferred", mtime: noon });
    expect(placed({ queue, mtime: noon - 60 })).toMatchObject({ queue: "deferred", mtime: noon - 60 });
  });

  test.each(["original", "hold"] as const)("what an administrator held stays held, land %s", (land) => {
    expect(placed({ queue: "hold", role: { kind: "admin" } }, land)).toMatchObject({ queue: "hold", role: "admin" });
    expect(placed({ queue: "hold", role: null }, land)).toMatchObject({ queue: "hold", role: "admin" });
  });

  test("what waited for release after a restore, or was fenced, stays held for that reason", () => {
    const held = (kind: "restore" | "fence") => placed({ queue: "hold", role: { kind, run: "r1" } });
    expect(held("restore")).toMatchObject({ queue: "hold", role: "restore" });
    expect(held("fence")).toMatchObject({ queue: "hold", role: "fence" });
  });

  test("land hold puts all other mail on hold for release", () => {
    expect(placed({}, "hold")).toMatchObject({ queue: "hold", role: "restore", mtime: noon + 300 });
    expect(placed({ queue: "active" }, "hold")).toMatchObject({ queue: "hold", role: "restore" });
  });

  test("files belong to the mail owner of the target, by its numbers", () => {
    expect(placed({})).toMatchObject({ uid: 995, gid: 996 });
  });

  test("maildrop mail stays in maildrop, its sender's own, with all its permission bits", () => {
    const owner = { user: "alice", group: "postdrop", uid: 4711, gid: 12 };
    expect(placed({ queue: "maildrop", mode: 0o744, owner })).toMatchObject({
      queue: "maildrop",
      mode: 0o744,
      uid: 1000,
      gid: 997,
      role: null,
    });
  });

  test("maildrop mail of a user who does not exist here is skipped, and said so", () => {
    const owner = { user: "bob", group: "postdrop", uid: 4711, gid: 12 };
    const { place, skip } = plan([message({ queue: "maildrop", owner }), message()]);
    expect(place).toHaveLength(1);
    expect(skip).toMatchObject([{ reason: "its owner bob (uid 4711 on the source host) does not exist here" }]);
  });

  test("mail of other instances is none of the plan's business", () => {
    expect(plan([message({ instance: "other" })])).toMatchObject({ place: [], skip: [] });
  });
});

describe("mail that may have been delivered already", () => {
  test.each([
    ["it was being delivered while it was read", { inFlight: true }],
    ["whether it was being delivered while it was read could not be seen", { inFlight: null }],
    ["it had left every queue of its host when the backup ended", { finished: true, inFlight: true }],
  ])("%s: it goes on hold", (reason, over) => {
    expect(placed({ queue: "active", ...over })).toMatchObject({ queue: "hold", role: "restore", inDoubt: reason });
  });

  test("the doubt is about the recipients that are not done", () => {
    const recipients = [true, false, true, false].map((done, n) => ({ address: `r${n}@dst.test`, done }));
    expect(placed({ inFlight: true, recipients })).toMatchObject({ recipients: [1, 3] });
  });

  test("with every recipient done there is nothing to doubt: Postfix removes it at the first look", () => {
    const recipients = [{ address: "b@dst.test", done: true }];
    expect(placed({ finished: true, recipients })).toMatchObject({ queue: "deferred", inDoubt: null, recipients: [] });
  });

  test("an administrator's hold is kept, and the doubt with it", () => {
    expect(placed({ queue: "hold", role: { kind: "admin" }, inFlight: true })).toMatchObject({
      role: "admin",
      inDoubt: "it was being delivered while it was read",
    });
  });
});

describe("what a plan needs", () => {
  test("a retry time further ahead than Postfix would put it is brought back, and said so", () => {
    const { place, forecasts } = plan([message({ mtime: noon + 9999 }), message()]);
    expect(place[0]?.mtime).toBe(noon + 4000);
    expect(forecasts).toMatchObject([{ kind: "late", messages: 1 }]);
  });

  test("room is counted in whole blocks and inodes, logs included", () => {
    const log = { log: "defer" as const, digest: "d", bytes: 10, pack: "p", mode: 0o600, mtime: noon };
    expect(plan([message({ logs: [log] })]).needs).toEqual({ bytes: 8192 + 4096, inodes: 2 });
  });

  test("too few bytes or inodes are refused with the numbers", () => {
    const refusal = (facts: Partial<TargetFacts>) => () => refuseWithoutRoom(plan([message()], "original", facts));
    expect(refusal({})).not.toThrow();
    expect(refusal({ freeBytes: 15_360_000 + 8191 })).toThrow("15368192 bytes");
    expect(refusal({ freeInodes: 300 })).toThrow("301 inodes, and has 300");
    expect(refusal({ freeInodes: null })).not.toThrow();
  });
});

const merging = { route: "merge", land: "hold" } as const;

function decided(
  messages: readonly MessageEntry[],
  how: Partial<RestoreChoice> = merging,
  known: Partial<Knowledge> = {},
  facts: Partial<TargetFacts> = {},
): RestorePlan {
  return planRestore({ messages, files: [] }, source, choice(how), target(facts), knowing(known));
}

function log(kind: LogEntry["log"], bytes = 10): LogEntry {
  return { log: kind, digest: digestFrom(kind), bytes, pack: digestFrom("pack"), mode: 0o600, mtime: noon };
}

describe("what logs say of each recipient", () => {
  const four = message({ recipients: recipients("certain", "doubtful", "served", "deleted"), logs: [log("bounce")] });
  const said = deliveries([[four, ["deliver", "in-doubt", "done", "deleted"]]]);

  test("certain and doubtful ones get a copy each, marked for everybody else; logs go with one of them", () => {
    const { place, skip } = decided([four], { land: "original" }, { deliveries: said });
    expect(place).toMatchObject([
      { queue: "deferred", role: null, inDoubt: null, recipients: [0], marks: [1, 2, 3], served: [2], logs: true },
      { queue: "hold", role: "restore", inDoubt: "said in-doubt", recipients: [1], marks: [0, 2, 3], logs: false },
    ]);
    expect(skip).toEqual([]);
  });

  test("both copies need room, the logs once", () => {
    const { needs } = decided([four], merging, { deliveries: said });
    expect(needs).toEqual({ bytes: 2 * 8192 + 4096, inodes: 3 });
    expect(decided([four], merging).needs).toEqual({ bytes: 8192 + 4096, inodes: 2 });
  });

  test("with doubtful ones only, the logs go with them", () => {
    const known = deliveries([[four, ["in-doubt", "in-doubt", "done", "done"]]]);
    expect(decided([four], merging, { deliveries: known }).place).toMatchObject([{ recipients: [0, 1], logs: true }]);
  });

  test("both copies keep the role of mail that an administrator or a fence held", () => {
    const roles = [{ kind: "admin" }, { kind: "fence", run: "r1" }] as const;
    for (const role of roles) {
      const held = { ...four, queue: "hold", role } as const;
      const known = deliveries([[held, ["deliver", "in-doubt", "done", "deleted"]]]);
      const placed = decided([held], { land: "original" }, { deliveries: known }).place;
      expect(placed).toMatchObject([
        { queue: "hold", role: role.kind, inDoubt: null },
        { queue: "hold", role: role.kind, inDoubt: "said in-doubt" },
      ]);
    }
  });

  test("who is served is listed with the line that proves it, whose mail was deleted is listed apart", () => {
    const { delivered, deleted } = decided([four], merging, { deliveries: said });
    expect(delivered).toEqual([
      { queueId: four.queueId, recipient: "served@dst.test", reason: "said done", evidence: "the line" },
    ]);
    expect(deleted).toEqual([
      { queueId: four.queueId, recipient: "deleted@dst.test", reason: "said deleted", evidence: null },
    ]);
  });

  test("deleted mail is restored on request, and then listed nowhere", () => {
    const how = { ...merging, restoreDeleted: true };
    const { place, deleted } = decided([four], how, { deliveries: said });
    expect({ deleted, place }).toMatchObject({ deleted: [], place: [{ recipients: [0, 3] }, { recipients: [1] }] });
  });

  test("so is what may have been deleted, and else was not delivered", () => {
    const undelivered = { verdict: "in-doubt", reason: "who knows", undelivered: true } as const;
    const known: Partial<Knowledge> = {
      deliveries: {
        ...said,
        verdicts: new Map([[entryKey(four), [undelivered, undelivered, undelivered, undelivered]]]),
      },
    };
    expect(decided([four], { ...merging, restoreDeleted: true }, known).place).toMatchObject([
      { recipients: [0, 1, 2, 3], inDoubt: null },
    ]);
    expect(decided([four], merging, known).place).toMatchObject([{ recipients: [0, 1, 2, 3], inDoubt: "who knows" }]);
  });

  test("deleted mail that was left out can be restored later", () => {
    const runs = [ran(decided([four], merging, { deliveries: said }), 1)];
    const how = { ...merging, restoreDeleted: true };
    const later = decided([four], how, { deliveries: said, placed: new PlacedRecord(runs) });
    expect(later.place).toMatchObject([{ recipients: [3], marks: [0, 1, 2] }]);
  });

  test.each([
    [["done", "done"], "by the log, everybody has got it"],
    [["deleted", "deleted"], "by the log, an administrator deleted it (--restore-deleted"],
    [["done", "deleted"], "by the log, an administrator deleted it for those who had not got it"],
  ] as const)("with %j nothing is placed, and said why", (verdicts, reason) => {
    const entry = message({ recipients: recipients("a", "b") });
    const { place, skip } = decided([entry], merging, { deliveries: deliveries([[entry, verdicts]]) });
    expect(place).toEqual([]);
    expect(skip).toMatchObject([{ kind: "served", reason: expect.stringContaining(reason) }]);
  });

  test("a message they do not judge is in doubt as without them, a recipient they do not judge is in doubt", () => {
    const silent = deliveries([]);
    expect(decided([message({ inFlight: true })], merging, { deliveries: silent }).place).toMatchObject([
      { inDoubt: "it was being delivered while it was read" },
    ]);
    const entry = message({ recipients: recipients("a", "b") });
    expect(decided([entry], merging, { deliveries: deliveries([[entry, ["deliver"]]]) }).place).toMatchObject([
      { recipients: [0], inDoubt: null },
      { recipients: [1], inDoubt: "the log does not tell" },
    ]);
  });

  test("a log that explains an attempt under way takes the doubt away", () => {
    const entry = message({ inFlight: true, queue: "active" });
    const known = { deliveries: deliveries([[entry, ["deliver"]]]) };
    expect(decided([entry], { land: "original" }, known).place).toMatchObject([{ queue: "deferred", inDoubt: null }]);
  });

  test("what they say of the mail as a whole is in the plan, its verdicts are not", () => {
    const { log: summary } = decided([four], merging, { deliveries: said });
    expect(summary).toMatchObject({ sentence: "all is told", covered: { to: noon } });
    expect(summary).not.toHaveProperty("verdicts");
    expect(decided([four]).log).toBeNull();
  });
});

describe("what is not placed, and why", () => {
  const owner = { user: "bob", group: "postdrop", uid: 4711, gid: 12 };
  const entry = message({ recipients: recipients("a", "b") });

  test("not asked for: it fails a condition, or is in another's share", () => {
    const only = (given: string[]) =>
      decided([entry], { selection: { conditions: parseConditions(given), shard: null } });
    expect(only(["queue=hold"]).skip).toMatchObject([{ kind: "unselected", reason: "not queue=hold" }]);
    expect(only(["recipient=x@*"]).skip).toMatchObject([
      { kind: "unselected", reason: "no recipient left with recipient=x@*" },
    ]);
    const shares = [1, 2, 3].map((k) => decided([entry], { selection: { conditions: [], shard: { k, n: 3 } } }));
    expect(shares.flatMap(({ skip }) => skip)).toMatchObject([
      { kind: "unselected", reason: expect.stringMatching(/^not in share \d of 3$/) },
      { kind: "unselected" },
    ]);
    expect(shares.flatMap(({ place }) => place)).toHaveLength(1);
  });

  test("a recipient filter marks everybody else done in the copy", () => {
    const conditions = parseConditions(["recipient=b@*"]);
    expect(decided([entry], { selection: { conditions, shard: null } }).place).toMatchObject([
      { recipients: [1], marks: [0] },
    ]);
  });

  test("queued here: a twin, wherever it is", () => {
    const twins = new Map([[entryKey(entry), placedTwin(1, 0, { queue: "active", id: "5B00C162119" })]]);
    expect(decided([entry], merging, { twins }).skip).toMatchObject([
      { kind: "queued", reason: "it is still queued here: active 5B00C162119" },
    ]);
  });

  test("restored before, by which runs", () => {
    const placed = new PlacedRecord([ran(decided([entry]), 1)]);
    expect(decided([entry], merging, { placed }).skip).toMatchObject([
      { kind: "restored", reason: "run 20261124T120001-00000001 restored it into this queue before" },
    ]);
  });

  test("impossible here: its owner does not exist; a twin of it is found nevertheless", () => {
    const dropped = message({ queue: "maildrop", owner });
    expect(decided([dropped]).skip).toMatchObject([{ kind: "impossible" }]);
    const twins = new Map([[entryKey(dropped), placedTwin(1, 0, { queue: "maildrop" })]]);
    expect(decided([dropped], merging, { twins }).skip).toMatchObject([{ kind: "queued" }]);
  });

  test("every message of the instance is either placed or skipped", () => {
    const all = [
      entry,
      message({ queueId: "A1", queue: "maildrop", owner }),
      message({ queueId: "A2", queue: "hold" }),
    ];
    const { place, skip } = decided(all, {
      ...merging,
      selection: { conditions: parseConditions(["queue=deferred"]), shard: null },
    });
    expect([...place, ...skip].map((one) => one.message.queueId).sort()).toEqual(
      all.map(({ queueId }) => queueId).sort(),
    );
  });
});

describe("what waits for its release", () => {
  const owner = { user: "alice", group: "postdrop", uid: 4711, gid: 12 };
  const dropped = message({ queue: "maildrop", mode: 0o744, owner });

  test("is mail of maildrop that would be on hold, under a name no daemon sees", () => {
    expect(decided([dropped], merging).place).toMatchObject([{ queue: "maildrop", waits: true, role: "restore" }]);
    expect(decided([dropped], { land: "original" }).place).toMatchObject([{ waits: false, role: null }]);
  });

  test("also that which is in doubt, wherever the rest lands", () => {
    const known = { deliveries: deliveries([[dropped, ["in-doubt"]]]) };
    expect(decided([dropped], { land: "original" }, known).place).toMatchObject([
      { queue: "maildrop", waits: true, role: "restore", inDoubt: "said in-doubt" },
    ]);
  });

  test("is no other mail", () => {
    expect(decided([message(), message({ queue: "hold" })]).place.map(({ waits }) => waits)).toEqual([false, false]);
  });
});

describe("through maildrop, as new mail", () => {
  const requeue = { route: "requeue" } as const;

  test("a message becomes a file of Postfix's own that pickup takes as requeued, without logs", () => {
    const { place, needs } = decided([message({ mode: 0o750, logs: [log("defer")] })], requeue);
    expect(place).toMatchObject([
      { queue: "maildrop", mode: 0o700, uid: 995, gid: 996, role: null, logs: false, waits: false },
    ]);
    expect(needs).toEqual({ bytes: 8192, inodes: 1 });
  });

  test.each<[string, Partial<MessageEntry>]>([
    ["it is on hold (admin), and new mail is not", { queue: "hold", role: { kind: "admin" } }],
    ["it is on hold (admin), and new mail is not", { queue: "hold", role: null }],
    ["it is on hold (restore), and new mail is not", { queue: "hold", role: { kind: "restore", run: "r" } }],
    ["it is on hold (fence), and new mail is not", { queue: "hold", role: { kind: "fence", run: "r" } }],
    ["its sender is yet to be told of recipients that failed", { logs: [log("bounce")] }],
    ["in doubt, so not sent as new mail, is b@dst.test: it was being delivered", { inFlight: true }],
    ["in doubt, so not sent as new mail, is b@dst.test: whether it was", { inFlight: null }],
    ["in doubt, so not sent as new mail, is b@dst.test: it had left", { finished: true }],
  ])("is refused because %s", (reason, over) => {
    const { place, skip } = decided([message(over)], requeue);
    expect(place).toEqual([]);
    expect(skip).toMatchObject([{ kind: "refused", reason: expect.stringContaining(reason) }]);
  });

  test("goes to certain recipients only, the doubtful ones are named and marked", () => {
    const entry = message({ recipients: recipients("a", "b", "c") });
    const known = { deliveries: deliveries([[entry, ["deliver", "in-doubt", "done"]]]) };
    const { place, skip } = decided([entry], requeue, known);
    expect(place).toMatchObject([{ recipients: [0], marks: [1, 2] }]);
    expect(skip).toMatchObject([{ kind: "refused", reason: expect.stringContaining("is b@dst.test: said in-doubt") }]);
  });

  test("is nothing for mail whose recipients are all done: cleanup would refuse it", () => {
    const entry = message({ recipients: [{ address: "b@dst.test", done: true }] });
    expect(decided([entry], requeue)).toMatchObject({ place: [], skip: [{ kind: "served" }] });
  });
});

describe("the choice a plan makes", () => {
  const conditions = parseConditions(["queue=deferred", "sender=*@a.test"]);
  const choices = [
    choice(),
    choice({ instance: "other" }),
    choice({ land: "hold" }),
    choice(merging),
    choice({ route: "requeue" }),
    choice({ selection: { conditions, shard: null } }),
    choice({ selection: { conditions: [...conditions].reverse(), shard: null } }),
    choice({ selection: { conditions: [], shard: { k: 1, n: 3 } } }),
    choice({ selection: { conditions: [], shard: { k: 2, n: 3 } } }),
    choice({ restoreDeleted: true }),
    choice({ again: true }),
  ];

  test("has a text that no other choice has", () => {
    expect(new Set(choices.map(choiceText)).size).toBe(choices.length);
  });

  test("is told in options of the command line", () => {
    expect(choiceOptions(choice())).toEqual(["--land", "original"]);
    const all = { ...merging, restoreDeleted: true, again: true, selection: { conditions, shard: { k: 1, n: 3 } } };
    expect(choiceOptions(choice(all)).join(" ")).toBe(
      "--merge --land hold --only queue=deferred --only sender=*@a.test --shard 1/3 --restore-deleted --again",
    );
    expect(choiceOptions(choice({ route: "requeue" }))).toEqual(["--requeue"]);
  });
});
