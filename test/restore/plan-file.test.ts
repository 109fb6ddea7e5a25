import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { PlacedRecord } from "../../src/restore/placed-record.ts";
import { type Knowledge, planRestore, type RestoreChoice, type RestorePlan } from "../../src/restore/plan.ts";
import { approved, formatPlan, parsePlan, storedMail } from "../../src/restore/plan-file.ts";
import { parseConditions } from "../../src/restore/selection.ts";
import type { TargetFacts } from "../../src/restore/target.ts";
import { entryKey, type Manifest, type MessageEntry } from "../../src/snapshot/manifest.ts";
import { choice, deliveries, knowing, message, noon, placedTwin, ran, recipients, target } from "./entries.ts";

const source = { snapshot: "5a", host: "mx1", time: "2026-11-24T11:00:00Z", postfixVersion: "3.7.11" };
const owner = { user: "bob", group: "postdrop", uid: 4711, gid: 12 };
const one = message({ recipients: recipients("a", "b") });
const two = message({ queueId: "5B00C162119", recipients: recipients("c"), arrival: noon - 60 });
const manifest: Manifest = { messages: [one, two], files: [] };

interface Made {
  readonly known?: Partial<Knowledge>;
  readonly facts?: Partial<TargetFacts>;
  readonly how?: Partial<RestoreChoice>;
  readonly of?: Manifest;
}

function plan({ known = {}, facts = {}, how = {}, of = manifest }: Made = {}): RestorePlan {
  return planRestore(
    of,
    source,
    choice({ route: "merge", land: "hold", ...how }),
    target({ running: true, ...facts }),
    knowing(known),
  );
}

/** The mail of a plan as it comes back from its file. */
function written(made: RestorePlan) {
  const { mail } = parsePlan(format(made).text, "plan.json").plan;
  if (mail === null) throw new Error("there is no mail in it");
  return mail;
}

function format(made: RestorePlan) {
  const more = {
    spoolsafe: "1",
    time: "2026-11-24T12:00:00Z",
    snapshot: "5a",
    instance: "mx",
    configDirectory: "/etc",
  };
  return formatPlan({ ...more, configuration: null, mail: storedMail(made) });
}

const twin = (entry: MessageEntry, over = {}) => new Map([[entryKey(entry), placedTwin(9, 0, over)]]);
const placed = (...runs: Parameters<typeof ran>[]) => new PlacedRecord(runs.map((run) => ran(...run)));
const onlyA: Partial<RestoreChoice> = {
  selection: { conditions: parseConditions(["recipient=a@dst.test"]), shard: null },
};

const now = noon * 1000;
const asItIs = { now, reconfigured: false };

/** What is said against a plan when it is to be carried out. */
function refusal(before: RestorePlan, after: RestorePlan, of = manifest, reconfigured = false): string | undefined {
  try {
    approved(written(before), { manifest: of, plan: after }, { now, reconfigured });
    return undefined;
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind !== "refused") throw error;
    return error.message;
  }
}

describe("a plan in a file", () => {
  const known = { deliveries: deliveries([[one, ["deliver", "in-doubt"]]]), twins: twin(two) };

  test("comes back as it was", () => {
    const made = plan({ known });
    expect(written(made)).toEqual(JSON.parse(JSON.stringify(storedMail(made))));
    const { plan: whole, digest } = parsePlan(format(made).text, "plan.json");
    expect(whole).toMatchObject({
      type: "spoolsafe-restore-plan",
      format: 1,
      snapshot: "5a",
      time: "2026-11-24T12:00:00Z",
    });
    expect(digest).toBe(format(made).digest);
  });

  test("is carried out as it was made, also when the log that it was made from is gone", () => {
    const made = plan({ known });
    const now = plan({ known: { twins: twin(two) }, facts: { now: noon + 3600, freeBytes: 5e8 } });
    const done = approved(written(made), { manifest, plan: now }, asItIs);
    expect(done.place).toEqual(made.place);
    expect(done.skip).toEqual(made.skip);
    expect(done).toMatchObject({ log: made.log, needs: made.needs, delivered: [], target: { freeBytes: 5e8 } });
  });

  test("tells what is to be expected as of now", () => {
    const made = plan();
    const expected = (time: number) => {
      const done = approved(written(made), { manifest, plan: made }, { now: time, reconfigured: false });
      return done.forecasts.map(({ kind }) => kind);
    };
    expect(expected(now)).not.toContain("expires");
    expect(expected(now + 6 * 86_400_000)).toContain("expires");
  });

  test.each<[string, (text: string) => string]>([
    ["an address in it is another", (text) => text.replace("hold", "free")],
    ["a line of it is missing", (text) => text.split("\n").toSpliced(5, 1).join("\n")],
    ["something follows it", (text) => `${text}{}`],
    ["its digest is another", (text) => text.replace(/"digest":"./, '"digest":"x')],
    ["it is cut", (text) => text.slice(0, -20)],
  ])("is refused when %s", (_, change) => {
    expect(() => parsePlan(change(format(plan()).text), "plan.json")).toThrow(
      expect.objectContaining({
        kind: "usage",
        message: expect.stringMatching(/^plan\.json: it (was changed|is no plan)/),
      }),
    );
  });

  test("is told from other files, and from plans of another version", () => {
    expect(() => parsePlan("{}", "main.cf")).toThrow("main.cf: it is no plan of a restore");
    const { text } = formatPlan({ ...parsePlan(format(plan()).text, "x").plan, ...{ format: 2 } });
    expect(() => parsePlan(text, "plan.json")).toThrow("plan.json: it is a plan of another version");
  });
});

describe("a plan whose target has not changed", () => {
  test.each<[string, Partial<TargetFacts>]>([
    ["later, with less room, and whether or not Postfix runs", { now: noon + 9999, freeBytes: 1, running: false }],
    ["after a reboot that gave its device another number", { device: "77" }],
  ])("is carried out %s", (_, facts) => {
    expect(refusal(plan(), plan({ facts }))).toBeUndefined();
  });

  test("is carried out although other mail came, and what is queued has moved", () => {
    const moved = twin(two, { queue: "active" });
    expect(refusal(plan({ known: { twins: twin(two) } }), plan({ known: { twins: moved } }))).toBeUndefined();
  });

  test("is carried out although a run meanwhile placed mail of another snapshot", () => {
    const other = message({ queueId: "7700C162119", arrival: noon - 61 });
    const elsewhere = plan({ of: { messages: [other], files: [] } });
    expect(refusal(plan(), plan({ known: { placed: placed([elsewhere, 1]) } }))).toBeUndefined();
  });
});

describe("a plan whose target has changed is refused:", () => {
  test.each<[string, Partial<TargetFacts>]>([
    ["maximal_queue_lifetime was 432000 s and is 86400 s", { maximalQueueLifetimeS: 86_400 }],
    ["enable_long_queue_ids was no and is yes", { longIds: true }],
    ["the uid of mail_owner was 995 and is 1", { ownerUid: 1 }],
    ["the queue directory is another one", { inode: "3" }],
    ["the queue directory is another one", { born: "4" }],
    ["queue_directory was /var/spool/postfix and is /other", { queueDirectory: "/other" }],
    ['had the uids {"alice":1000} and have {}', { users: {} }],
    ["Postfix was version 3.7.11 and is 3.5.6", { postfixVersion: "3.5.6" }],
    ["map types (postconf -m): no longer lmdb, now also cdb", { mapTypes: ["hash", "cdb"] }],
    ["names and Postfix lacks: now also {", { lackingMapTypes: [{ type: "lmdb", settings: ["main.cf x"] }] }],
    ["transports in master.cf: now also filter", { transports: [...target().transports, "filter"] }],
  ])("%s", (said, facts) => {
    expect(refusal(plan(), plan({ facts }))).toContain(said);
  });

  test("a fact that has changed in several ways is said once", () => {
    const said = refusal(plan(), plan({ facts: { inode: "3", born: "4" } })) ?? "";
    expect(said.match(/another one/g)).toHaveLength(1);
  });

  test("its facts are not compared again after its own configuration was restored", () => {
    expect(refusal(plan(), plan({ facts: { longIds: true } }), manifest, true)).toBeUndefined();
  });

  test("a twin of a message has turned up", () => {
    const now = plan({ known: { twins: twin(two) } });
    expect(refusal(plan(), now)).toContain("5B00C162119 was to be placed, and it is still queued here: hold");
  });

  test("a message that was queued has gone", () => {
    const then = plan({ known: { twins: twin(two) } });
    expect(refusal(then, plan())).toContain(
      "5B00C162119 was left out because it is still queued here: hold 4F9A0; that is no longer so",
    );
  });

  test("a run has placed a message of it", () => {
    const now = plan({ known: { placed: placed([plan({ of: { messages: [two], files: [] } }), 1]) } });
    expect(refusal(plan(), now)).toContain("run 20261124T120001-00000001 has placed 5B00C162119 since");
  });

  test("a message of which a run's copy is queued now is named once", () => {
    const runs = placed([plan({ of: { messages: [two], files: [] } }), 1]);
    const now = plan({ known: { placed: runs, twins: new Map([[entryKey(two), placedTwin(1, 0)]]) } });
    expect(refusal(plan(), now)?.match(/5B00C162119/g)).toHaveLength(1);
  });

  test("a run has placed a message of it for some of its recipients: they would get it twice", () => {
    const now = plan({ known: { placed: placed([plan({ how: onlyA }), 1]) } });
    expect(refusal(plan(), now)).toContain("run 20261124T120001-00000001 has placed 7E48C16210F since");
  });

  test("a run has done so although what was restored before is to be restored again", () => {
    const how = { again: true };
    const then = plan({ how, known: { placed: placed([plan({ how: onlyA }), 1]) } });
    const now = plan({ how, known: { placed: placed([plan({ how: onlyA }), 1], [plan(), 2]) } });
    expect(refusal(then, now)).toContain("run 20261124T120002-00000002 has placed 7E48C16210F since");
  });

  test("a run that the plan counted on was undone: some would get nothing", () => {
    const then = plan({ known: { placed: placed([plan({ how: onlyA }), 1]) } });
    const undone = placed([plan({ how: onlyA }), 1, { undone: new Set([0]) }]);
    expect(refusal(then, plan({ known: { placed: undone } }))).toContain(
      "what run 20261124T120001-00000001 had placed of 7E48C16210F was taken back since",
    );
  });

  test("an owner of a message in maildrop exists no more, or exists now", () => {
    const dropped = { messages: [message({ queue: "maildrop", owner })], files: [] };
    const [without, having] = [{}, { users: { bob: 5 } }].map((facts) => plan({ of: dropped, facts }));
    if (without === undefined || having === undefined) throw new Error("no plans");
    expect(refusal(having, without, dropped)).toContain("7E48C16210F was to be placed, and its owner bob");
    expect(refusal(without, having, dropped)).toContain("does not exist here; that is no longer so");
  });

  test("the plan is of another snapshot, or makes another choice", () => {
    const other = { ...plan(), source: { ...source, snapshot: "77" } };
    expect(refusal(other, plan())).toContain("the plan is of snapshot 77");
    expect(refusal(plan({ how: { land: "original" } }), plan())).toContain("the plan makes another choice");
  });

  test("it names a message that the snapshot does not have", () => {
    expect(refusal(plan(), plan(), { messages: [one], files: [] })).toContain("the plan names 5B00C162119, which");
  });

  test("everything that has changed is named, up to ten of it", () => {
    const many = Array.from({ length: 30 }, (_, n) => message({ queueId: `A${n}C`, arrival: noon - n - 1 }));
    const of = { messages: many, files: [] };
    const now = plan({ of, known: { twins: new Map(many.flatMap((entry) => [...twin(entry)])) } });
    const said = refusal(plan({ of }), now, of) ?? "";
    expect(said.match(/was to be placed/g)).toHaveLength(10);
    expect(said).toMatch(/\nand 20 more$/);
  });
});
