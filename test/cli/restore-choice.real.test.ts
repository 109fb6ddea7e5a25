import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { listClaims, readDigests } from "../../src/repository/claims.ts";
import { claimDigester } from "../../src/snapshot/claim.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { HandMade } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { undelivered } from "../support/undelivered.ts";
import { until } from "../support/wait.ts";
import { last, letter, Operator, takenAt } from "./operator.ts";

/* What of a snapshot is restored, and by whom, through the built command. */

describe.skipIf(!needs("root", "postfix"))("--only", () => {
  let made: HandMade;
  let operator: Operator;
  let sink: Sink;
  let target: PrivatePostfix;
  beforeAll(async () => {
    made = await HandMade.make();
    operator = new Operator(made, "mx2.test");
    sink = await Sink.start({ domains: { "sink.test": {} } });
    const hours = (count: number) => ({ created: String(Math.floor(Date.now() / 1000) - count * 3600) });
    await made.take({
      messages: [
        letter(1, hours(1), ["r1@b.test"]),
        letter(2, { ...hours(50), queue: "active" }, ["r2@b.test"]),
        letter(3, { ...hours(1), size: 5_000_000 }, ["r3@c.test"]),
        letter(4, hours(1)),
      ],
      over: takenAt,
    });
    const main = { maximal_queue_lifetime: "90d", bounce_queue_lifetime: "90d" };
    target = await PrivatePostfix.start({ main, sink });
  });
  afterAll(async () => {
    target?.destroy();
    await sink?.close();
    await made?.[Symbol.asyncDispose]();
  });

  const restore = (...args: string[]) =>
    operator.run(["restore", "latest", "--into", target.configDirectory, "--merge", ...args]);

  test.concurrent.each([
    ["queue=active", ["2"]],
    ["sender=s1@*,s3@*", ["1", "3"]],
    ["recipient=r1@*,r2@*", ["1", "2"]],
    ["domain=c.test", ["3"]],
    ["id=7E48C162110,7E48C162112", ["2", "4"]],
    ["message-id=3@a.test", ["3"]],
    ["older-than=2d", ["2"]],
    ["newer-than=2d", ["1", "3", "4"]],
    ["larger-than=1000000", ["3"]],
    ["smaller-than=1000000", ["1", "2", "4"]],
  ])("%s restores %j and leaves out the rest", async (only, numbers) => {
    const { json } = await restore("--only", only, "--dry-run", "--json");
    const ids = numbers.map((number) => `7E48C1${(0x62_10e + Number(number)).toString(16).toUpperCase()}`);
    expect(json.filter(({ type }) => type === "planned").map(({ queueId }) => queueId)).toEqual(ids);
    expect(json.filter(({ type }) => type === "skipped").map(({ kind }) => kind)).toEqual(
      Array.from({ length: 4 - ids.length }, () => "unselected"),
    );
  });

  test("of a recipient delivers to no other; one for another, while that copy waits here, gives that one theirs", async () => {
    const recipients = ["wanted@sink.test", "other@sink.test", "third@sink.test"];
    await made.take({ messages: [letter(4, {}, recipients)], over: takenAt });
    const first = last(await restore("--only", "recipient=wanted@sink.test", "--json"));
    const second = last(await restore("--only", "domain=sink.test", "--only", "recipient=o*", "--json"));
    expect([first, second]).toMatchObject([
      { restored: 1, awaitingRelease: 1 },
      { restored: 1, awaitingRelease: 1 },
    ]);
    for (const { run } of [first, second]) expect((await operator.run(["release", String(run)])).code).toBe(0);
    await until(() => sink.deliveries.length > 1 && undelivered(target).length === 0, { what: "both deliveries" });
    expect([...sink.tally()].sort()).toEqual([
      ["<4@a.test> other@sink.test", 1],
      ["<4@a.test> wanted@sink.test", 1],
    ]);
    // Another host's copy of it, as it is when that host received a restore and was backed up.
    await made.take({
      messages: [letter(4, { queueId: "5B00C162119" }, recipients)],
      over: { ...takenAt, host: "mx9.test" },
    });
    const copy = await restore("--host", "mx9.test", "--dry-run", "--json");
    expect(copy.json[0]).toMatchObject({ type: "planned", queueId: "5B00C162119", recipients: ["third@sink.test"] });
  });
});

describe.skipIf(!needs("root", "postfix"))("--shard, by three operators who don't talk to each other", () => {
  const n = 12;
  let made: HandMade;
  let operators: Operator[] = [];
  let targets: PrivatePostfix[] = [];
  let snapshot = "";
  let messages: readonly MessageEntry[] = [];
  beforeAll(async () => {
    made = await HandMade.make();
    operators = Operator.all(made, ["mx2.test", "mx3.test", "mx4.test", "mx5.test"]);
    const letters = Array.from({ length: n }, (_, number) => letter(number));
    const { signed, manifest } = await made.take({ messages: letters, over: takenAt });
    snapshot = signed.id;
    messages = manifest.messages;
    const main = { maximal_queue_lifetime: "90d", bounce_queue_lifetime: "90d" };
    targets = await Promise.all([1, 2, 3].map(() => PrivatePostfix.create({ main })));
  });
  afterAll(async () => {
    for (const target of targets) target.destroy();
    await made?.[Symbol.asyncDispose]();
  });

  function shard(who: number, share: string, spec = snapshot.slice(0, 12)) {
    const [operator, target] = [operators[who], targets[who % 3]];
    if (operator === undefined || target === undefined) throw new Error(`there is no operator ${who}`);
    const into = ["--into", target.configDirectory, "--merge"];
    return operator.run(["restore", spec, ...into, "--shard", share, "--json"]);
  }

  test("needs an id, because latest is another for each of them", async () => {
    for (const spec of ["latest", "@2026-11-24T22:00"]) {
      const refused = await shard(0, "1/3", spec);
      expect({ code: refused.code, ...last(refused) }).toMatchObject({
        ...{ code: 2, kind: "usage" },
        message: `--shard needs the id of a snapshot, and ${spec} may mean another one elsewhere`,
      });
    }
  });

  test("gives every message to exactly one, at one time, also while there are newer snapshots for some", async () => {
    const newer = made.take({ messages: [letter(1), letter(99)], over: takenAt });
    const done = await Promise.all([
      shard(0, "1/3"),
      newer.then(() => shard(1, "2/3")),
      newer.then(() => shard(2, "3/3")),
    ]);
    expect(done.map(({ code }) => code)).toEqual([0, 0, 0]);
    const restored = done.map((one) => (last(one).renamed as { from: string }[]).map(({ from }) => from));
    expect(restored.flat().sort()).toEqual(messages.map(({ queueId }) => queueId).sort());
    expect(targets.map((target) => target.files("hold").length)).toEqual(restored.map((ids) => ids.length));
    expect(restored.filter((ids) => ids.length > 0)).toHaveLength(3);
  });

  test("makes claims that don't overlap and leave nothing out", async () => {
    const trusted = loadTrustedKeys(join(made.directory, "mx2.test.pub"));
    const { standing } = await listClaims(made.repository, trusted);
    expect(standing.map(({ claim }) => claim.shard?.k).sort()).toEqual([1, 2, 3]);
    const lists = await Promise.all(
      standing.map(async ({ claim }) => {
        const digests = await readDigests(made.repository, claim);
        const digester = claimDigester(claim);
        return messages.filter((message) => digests.has(digester.of(message))).map(({ queueId }) => queueId);
      }),
    );
    expect(lists.flat().sort()).toEqual(messages.map(({ queueId }) => queueId).sort());
  });

  test("keeps to the number of shares: a fourth is refused, and so is a share that somebody has", async () => {
    for (const share of ["1/4", "2/3"]) {
      const refused = await shard(3, share);
      expect({ code: refused.code, ...last(refused) }).toMatchObject({
        ...{ code: 1, kind: "refused" },
        message: expect.stringContaining(
          "mail of mx1.test is shared out in another way, or this share is taken: by mx",
        ),
      });
    }
    expect(targets.map((target) => target.files("hold").length).reduce((sum, count) => sum + count)).toBe(n);
  });
});
