import { describe, expect, test } from "vitest";
import type { RunRecord } from "../../src/restore/journal.ts";
import { PlacedRecord } from "../../src/restore/placed-record.ts";
import { type Knowledge, planRestore, type RestoreChoice, type RestorePlan } from "../../src/restore/plan.ts";
import { parseConditions } from "../../src/restore/selection.ts";
import { entryKey, type MessageEntry } from "../../src/snapshot/manifest.ts";
import { digestFrom } from "../support/records.ts";
import { choice, deliveries, knowing, message, noon, placedTwin, ran, recipients, target } from "./entries.ts";

const newest = { snapshot: "5a", host: "mx1", time: "2026-11-24T11:00:00Z", postfixVersion: "3.7.11" };
const older = { ...newest, snapshot: "4b", time: "2026-11-23T11:00:00Z" };
const otherHost = { ...newest, snapshot: "6c", host: "mx2" };

interface Asked extends Partial<Knowledge> {
  readonly source?: typeof newest;
  readonly runs?: readonly RunRecord[];
  readonly only?: readonly string[];
  readonly how?: Partial<RestoreChoice>;
}

function plan(messages: readonly MessageEntry[], asked: Asked = {}): RestorePlan {
  const { source = newest, runs = [], only = [], how = {}, ...known } = asked;
  const selection = { conditions: parseConditions(only), shard: null };
  return planRestore(
    { messages, files: [] },
    source,
    choice({ route: "merge", land: "hold", selection, ...how }),
    target(),
    knowing({ placed: new PlacedRecord(runs), ...known }),
  );
}

/** What a plan gives to whom, as `queue id: recipients`. */
function given({ place }: RestorePlan): string[] {
  return place.map(({ message: { queueId, recipients }, recipients: to }) => {
    return `${queueId}: ${to.map((index) => recipients[index]?.address.split("@")[0]).join(" ")}`;
  });
}

const one = message({ recipients: recipients("a", "b", "c"), logs: [] });
const id = one.queueId;
const twins = (...found: [MessageEntry, ReturnType<typeof placedTwin>][]) =>
  new Map(found.map(([entry, twin]) => [entryKey(entry), twin]));

describe("a message restored recipient by recipient", () => {
  const first = plan([one], { only: ["recipient=a@dst.test"] });
  const second = plan([one], { only: ["recipient=b@dst.test"], runs: [ran(first, 1)] });

  test("gives each theirs once, and the others' marks", () => {
    expect(given(first)).toEqual([`${id}: a`]);
    expect(first.place).toMatchObject([{ recipients: [0], marks: [1, 2], served: [] }]);
    expect(given(second)).toEqual([`${id}: b`]);
    expect(second.place).toMatchObject([{ recipients: [1], marks: [0, 2], served: [] }]);
  });

  test("restored again for one who has it, nothing is placed, and the run is named", () => {
    const again = plan([one], { only: ["recipient=a@dst.test"], runs: [ran(first, 1), ran(second, 2)] });
    expect(again.place).toEqual([]);
    expect(again.skip).toMatchObject([{ kind: "restored", reason: expect.stringContaining(ran(first, 1).run) }]);
  });

  test("then as a whole, gives the rest theirs", () => {
    const rest = plan([one], { runs: [ran(first, 1), ran(second, 2)] });
    expect(rest.place).toMatchObject([{ recipients: [2], marks: [0, 1] }]);
    expect(rest.placed).toMatchObject([{ key: entryKey(one), recipients: [0, 1] }]);
    const done = plan([one], { runs: [ran(first, 1), ran(second, 2), ran(rest, 3)] });
    expect(done.skip).toMatchObject([{ kind: "restored" }]);
  });

  test("does so while the first one's copy is queued here: that file is marked for the others, who got nothing", () => {
    const copy = placedTwin(1, 0, { done: [false, true, true] });
    const runs = [ran(first, 1)];
    expect(given(plan([one], { runs, twins: twins([one, copy]) }))).toEqual([`${id}: b c`]);
    const same = plan([one], { only: ["recipient=a@dst.test"], runs, twins: twins([one, copy]) });
    expect(same.skip).toMatchObject([{ kind: "queued", reason: `it is still queued here: hold ${copy.id}` }]);
    const moved = { ...copy, queue: "deferred" } as const;
    expect(given(plan([one], { runs, twins: twins([one, moved]) }))).toEqual([`${id}: b c`]);
  });

  test("gives nobody anything while a file that is not ours is queued here", () => {
    const own = placedTwin(7, 0, { queue: "deferred", done: [false, true, true] });
    const { place, skip } = plan([one], { runs: [ran(first, 1)], twins: twins([one, own]) });
    expect({ place, skip }).toMatchObject({ place: [], skip: [{ kind: "queued" }] });
  });

  test("takes its logs along only once: each copy would cause the same notice", () => {
    const log = { log: "bounce" as const, digest: "d", bytes: 10, pack: "p", mode: 0o600, mtime: noon };
    const logged = { ...one, logs: [log] };
    const before = plan([logged], { only: ["recipient=a@dst.test"] });
    const after = plan([logged], { runs: [ran(before, 1)] });
    expect([before, after].map(({ place }) => place.map(({ logs }) => logs))).toEqual([[true], [false]]);
  });
});

describe("what counts as placed", () => {
  const two = message({ queueId: "41D2C162118", content: digestFrom("another text") });
  const whole = plan([one, two]);

  test("is every message of a run that placed mail", () => {
    for (const over of [{}, { outcome: "incomplete" }, { phase: "placing", outcome: null }] as const) {
      expect(plan([one, two], { runs: [ran(whole, 1, over)] }).skip).toMatchObject([
        { kind: "restored" },
        { kind: "restored" },
      ]);
    }
  });

  test.each([
    ["was abandoned", { outcome: "abandoned" }],
    ["died before it placed any", { phase: "planned", outcome: null }],
    ["has only begun", { phase: "started", outcome: null }],
  ] as const)("is nothing of a run that %s", (_, over) => {
    expect(given(plan([one, two], { runs: [ran(whole, 1, over)] }))).toEqual([`${id}: a b c`, `${two.queueId}: b`]);
  });

  test("is nothing that was taken back", () => {
    const undone = plan([one, two], { runs: [ran(whole, 1, { undone: new Set([0]) })] });
    expect(given(undone)).toEqual([`${id}: a b c`]);
    expect(undone.skip).toMatchObject([{ message: { queueId: two.queueId }, kind: "restored" }]);
  });

  test("is nothing that could not be staged", () => {
    const [staged] = ran(whole, 1).staged;
    const short = ran(whole, 1, { outcome: "incomplete", staged: staged === undefined ? [] : [staged] });
    expect(given(plan([one, two], { runs: [short] }))).toEqual([`${two.queueId}: b`]);
  });

  test("is given again on request, with its logs, but not while it is queued here", () => {
    const log = { log: "defer" as const, digest: "d", bytes: 10, pack: "p", mode: 0o600, mtime: noon };
    const logged = { ...one, logs: [log] };
    const runs = [ran(plan([logged]), 1)];
    const again = plan([logged], { runs, how: { again: true } });
    expect(again.place).toMatchObject([{ recipients: [0, 1, 2], logs: true }]);
    const queued = plan([logged], { runs, how: { again: true }, twins: twins([logged, placedTwin(1, 0)]) });
    expect(queued).toMatchObject({ place: [], skip: [{ kind: "queued" }] });
  });
});

describe("snapshots of other times", () => {
  const later = { ...one, recipients: one.recipients.map((each, n) => ({ ...each, done: n === 0 })) };

  test("the older after the newer gives nobody anything: whom the newer knew to be served is served", () => {
    const first = plan([later]);
    expect(first.place).toMatchObject([{ recipients: [1, 2], served: [0] }]);
    const second = plan([one], { source: older, runs: [ran(first, 1)] });
    expect(second).toMatchObject({ place: [], skip: [{ kind: "restored" }] });
  });

  test("the older for more recipients gives those theirs, and not who is served", () => {
    const first = plan([later], { only: ["recipient=b@dst.test"] });
    expect(given(plan([one], { source: older, runs: [ran(first, 1)] }))).toEqual([`${id}: c`]);
  });

  test("whom a run that was taken back since knew to be served stays served for the run after it", () => {
    const first = plan([later], { only: ["recipient=b@dst.test"] });
    const second = plan([one], { source: older, only: ["recipient=c@dst.test"], runs: [ran(first, 1)] });
    const undone = [ran(first, 1, { undone: new Set([0]) }), ran(second, 2)];
    expect(given(plan([one], { source: older, runs: undone }))).toEqual([`${id}: b`]);
  });

  test("the newer after the older marks in the file on hold whom it knows to be served", () => {
    const first = plan([one], { source: older });
    const known = { runs: [ran(first, 1)], twins: twins([one, placedTwin(1, 0, { done: [false, false, true] })]) };
    const second = plan([later], known);
    expect(second).toMatchObject({ place: [], skip: [{ kind: "queued" }] });
    expect(second.remark).toEqual([{ id: placedTwin(1, 0).id, inode: placedTwin(1, 0).inode, recipients: [0] }]);
  });

  test("every copy of it on hold is marked: of two, one is for those in doubt", () => {
    const said = deliveries([[one, ["deliver", "in-doubt", "in-doubt"]]]);
    const first = plan([one], { source: older, deliveries: said });
    const now = deliveries([[one, ["done", "done", "deliver"]]]);
    const known = { runs: [ran(first, 1)], twins: twins([one, placedTwin(1, 0)]), deliveries: now };
    expect(plan([one], known).remark).toEqual([
      { id: placedTwin(1, 0).id, inode: placedTwin(1, 0).inode, recipients: [0] },
      { id: placedTwin(1, 1).id, inode: placedTwin(1, 1).inode, recipients: [1] },
    ]);
  });

  test("mail that an administrator held at its source is marked, too", () => {
    const held = { queue: "hold", role: { kind: "admin" } } as const;
    const runs = [ran(plan([{ ...one, ...held }], { source: older }), 1)];
    const known = { runs, twins: twins([one, placedTwin(1, 0)]) };
    expect(plan([{ ...later, ...held }], known).remark).toMatchObject([{ recipients: [0] }]);
  });

  test("nothing is marked in a file that was released, that went into no hold, or that is not ours", () => {
    const first = plan([one], { source: older });
    const remarked = (known: Asked) => plan([later], known).remark;
    const copy = twins([one, placedTwin(1, 0)]);
    expect(remarked({ runs: [ran(first, 1)], twins: copy })).toHaveLength(1);
    expect(remarked({ runs: [ran(first, 1, { released: new Set([0]) })], twins: copy })).toEqual([]);
    const original = plan([one], { source: older, how: { land: "original" } });
    expect(remarked({ runs: [ran(original, 1)], twins: copy })).toEqual([]);
    expect(remarked({ twins: copy })).toEqual([]);
  });
});

describe("a message under another name", () => {
  const copy = { ...one, instance: "other", queueId: "5B00C162119" };

  test("is found again in another host's snapshot: a restored copy of it was backed up there", () => {
    const runs = [ran(plan([one]), 1)];
    expect(plan([copy], { source: otherHost, how: { instance: "other" }, runs })).toMatchObject({
      place: [],
      skip: [{ kind: "restored" }],
    });
  });

  test("is found again in its own host's snapshot after it was renamed there", () => {
    const renamed = { ...one, queueId: "5B00C162119" };
    expect(plan([renamed], { runs: [ran(plan([one]), 1)] }).skip).toMatchObject([{ kind: "restored" }]);
    expect(plan([one], { runs: [ran(plan([renamed]), 1)] }).skip).toMatchObject([{ kind: "restored" }]);
  });

  test("is given to each recipient once, whichever copy is restored when", () => {
    const first = plan([one], { only: ["recipient=a@dst.test"] });
    const runs = [ran(first, 1)];
    const second = plan([copy], { source: otherHost, how: { instance: "other" }, only: ["recipient=b*"], runs });
    expect(given(second)).toEqual([`${copy.queueId}: b`]);
    expect(given(plan([one], { runs: [...runs, ran(second, 2)] }))).toEqual([`${id}: c`]);
  });

  test.each<[string, Partial<MessageEntry>]>([
    ["arrival", { arrival: one.arrival + 0.000001 }],
    ["sender", { sender: "other@src.test" }],
    ["recipients", { recipients: recipients("a", "b") }],
    ["time", { created: String(noon - 3601) }],
    ["text", { content: digestFrom("another text") }],
  ])("is another message when its %s is another: where Received is taken away, texts are the same", (_, over) => {
    const runs = [ran(plan([one]), 1)];
    const other = { ...one, queueId: "5B00C162119", ...over };
    expect(given(plan([other], { runs }))).toEqual([expect.stringContaining("5B00C162119: a b")]);
    expect(given(plan([other], { source: otherHost, runs }))).toHaveLength(1);
  });

  test("is never another of the same snapshot, however alike", () => {
    const alike = ["41D2C162118", "5B00C162119"].map((queueId) => ({ ...one, queueId }));
    expect(plan(alike).place).toHaveLength(2);
    const runs = [ran(plan(alike, { only: ["id=5B00C162119"] }), 1)];
    expect(given(plan(alike, { runs }))).toEqual(["41D2C162118: a b c"]);
    const copies = alike.map((entry) => ({ ...entry, queueId: `9${entry.queueId}` }));
    expect(plan(copies, { source: otherHost, runs }).place).toHaveLength(1);
    const both = [ran(plan(alike), 1)];
    expect(plan(copies, { source: otherHost, runs: both }).skip).toMatchObject([
      { kind: "restored" },
      { kind: "restored" },
    ]);
  });

  test("placed under another name is the one that has nothing under its own", () => {
    const [first, second] = ["41D2C162118", "5B00C162119"].map((queueId) => ({ ...one, queueId }));
    if (first === undefined || second === undefined) throw new Error("there are two");
    const copies = [first, second].map((entry) => ({ ...entry, queueId: `9${entry.queueId}` }));
    const runs = [ran(plan([first, second], { only: [`id=${first.queueId}`] }), 1)];
    const elsewhere = plan(copies, { source: otherHost, runs });
    expect(elsewhere.place).toHaveLength(1);
    expect(plan([first, second], { runs: [...runs, ran(elsewhere, 2)] }).place).toEqual([]);
  });

  test("in maildrop is another message, also on another host: there it has no Received of its own yet", () => {
    const owner = { user: "alice", group: "postdrop", uid: 1000, gid: 12 };
    const dropped = message({ queue: "maildrop", mode: 0o744, owner, queueId: "41D2C162118" });
    const runs = [ran(plan([dropped], { how: { route: "requeue", land: "original" } }), 1)];
    expect(plan([dropped], { runs }).skip).toMatchObject([{ kind: "restored" }]);
    expect(plan([{ ...dropped, queueId: "5B00C162119" }], { runs }).place).toHaveLength(1);
    expect(plan([dropped], { source: otherHost, runs }).place).toHaveLength(1);
  });
});
