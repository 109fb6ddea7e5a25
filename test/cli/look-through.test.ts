import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packKey, partKey } from "../../src/repository/layout.ts";
import type { SignedSnapshot } from "../../src/repository/repository.ts";
import { spoolsafe } from "../support/cli.ts";
import { HandMade, type HandMadeMessage, queueFiles } from "../support/hand-made.ts";
import { makeKeys } from "../support/keys.ts";

/* find, diff, qshape and stats, as they are typed, over three nights of one host. */

let made: HandMade;
let nights: readonly SignedSnapshot[];
const secret = "smtp_sasl_password = hunter2\n";

function fixture(name: string, over: HandMadeMessage["over"]): HandMadeMessage {
  const bytes = queueFiles.get(name);
  if (bytes === undefined || over === undefined) throw new Error(`no fixture ${name}`);
  return { bytes, over };
}

const plain = fixture("plain", { queueId: "AAAAAA1" });
const four = fixture("four-recipients", { queueId: "BBBBBB2" });
const partly = fixture("partly-done", { queueId: "CCCCCC3" });
const nullSender = fixture("null-sender", { queueId: "DDDDDD4", queue: "active" });

beforeAll(async () => {
  made = await HandMade.make();
  const { directory } = made;
  writeFileSync(
    join(directory, "spoolsafe.toml"),
    [
      'host = "mx1.test"',
      `state_directory = "${directory}/state"`,
      `repository.url = "file://${directory}/repository"`,
      `encryption = { recipients_file = "${directory}/none", identity_file = "${directory}/identity.txt" }`,
      `signing = { key_file = "${directory}/signing.key", trusted_keys_file = "${directory}/trusted.pub" }`,
      "",
    ].join("\n"),
  );
  writeFileSync(
    join(directory, "without.toml"),
    [`state_directory = "${directory}/state"`, `repository.url = "file://${directory}/repository"`, ""].join("\n"),
  );
  const main = (text: string) => ({
    bytes: Buffer.from(text),
    over: { path: "/etc/postfix/main.cf", area: "config" as const },
  });
  const password = {
    bytes: Buffer.from(secret),
    over: { path: "/etc/postfix/sasl", area: "named" as const, mode: 0o600 },
  };
  const at = (day: number) => ({ time: `2026-11-2${day}T02:00:00.000Z` });
  const first = await made.take({
    messages: [plain, four],
    files: [main("one")],
    over: { ...at(1), storedBytes: 9000 },
  });
  const moved = { ...four, over: { ...four.over, queue: "hold" as const, role: { kind: "admin" as const } } };
  const second = await made.take({
    messages: [plain, moved, partly, nullSender],
    files: [main("one")],
    over: { ...at(2), storedBytes: 700 },
  });
  const third = await made.take({
    messages: [moved, { ...partly, over: { ...partly.over, mtime: 1_795_100_000 } }, nullSender],
    files: [main("two"), password],
    over: { ...at(3), storedBytes: 700 },
  });
  nights = [first, second, third].map(({ signed }) => signed);
});
afterAll(() => made[Symbol.asyncDispose]());

const run = (...args: string[]) => spoolsafe([...args, "--config", join(made.directory, "spoolsafe.toml")]);
const night = (index: number) => {
  const { id, snapshot } = nights[index] ?? {};
  return { id, time: snapshot?.time };
};

describe("find", () => {
  test("in one snapshot, in JSON, also a recipient who has it already", async () => {
    const { code, json } = await run("find", "latest", "recipient=first@good.test", "--json");
    expect(code).toBe(0);
    expect(json).toMatchObject([
      { type: "message", queueId: "CCCCCC3", messageId: "<part-9@src.test>", finished: false },
      { type: "summary", snapshot: night(2).id, count: 1 },
    ]);
  });

  test("as a table that shows what was looked for", async () => {
    const { stdout, stderr } = await run("find", "latest", "domain=good.test");
    expect(stdout).toMatch(
      /^QUEUE ID +QUEUE +ARRIVED +SIZE +SENDER +RECIPIENTS\nCCCCCC3 .* first@good\.test \(done\) \+1\n$/,
    );
    expect(stderr).toContain("1 of 3 messages in");
    expect((await run("find", "latest", "id=NONE")).stdout).toBe("no such messages\n");
  });

  test("--all says in which snapshots a message is: first, last, in how many", async () => {
    const { code, json } = await run("find", "--all", "queue=deferred,hold,active", "--json");
    expect(code).toBe(0);
    const where = json.map(({ queueId, first, last, snapshots, host }) => ({ queueId, first, last, snapshots, host }));
    const host = "mx1.test";
    expect(where.slice(0, -1).sort((a, b) => (String(a.queueId) < String(b.queueId) ? -1 : 1))).toEqual([
      { queueId: "AAAAAA1", first: night(0), last: night(1), snapshots: 2, host },
      { queueId: "BBBBBB2", first: night(0), last: night(2), snapshots: 3, host },
      { queueId: "CCCCCC3", first: night(1), last: night(2), snapshots: 2, host },
      { queueId: "DDDDDD4", first: night(1), last: night(2), snapshots: 2, host },
    ]);
    expect(json.at(-1)).toEqual({ type: "summary", count: 4, snapshots: 3, notRead: 0 });
    const held = await run("find", "--all", "queue=hold", "--json");
    expect(held.json[0]).toMatchObject({ queueId: "BBBBBB2", queue: "hold", first: night(1), snapshots: 2 });
    expect((await run("find", "--all", "message-id=plain-1@src.test")).stdout).toMatch(
      new RegExp(
        `^FIRST +LAST +IN +QUEUE ID .*\n${night(0).id?.slice(0, 8)} .* ${night(1).id?.slice(0, 8)} .* 2 +AAAAAA1 `,
      ),
    );
  });

  test.each([
    [["latest"], "nothing is said to look for"],
    [["--all"], "missing required argument"],
    [["queue=hold"], "no snapshot is named to look through"],
    [["latest", "colour=red"], "colour=red can't be understood"],
    [["--all", "latest", "queue=hold"], "latest can't be understood"],
    [["--all", "queue=hold", "--instance", "mx9"], "no snapshot has an instance mx9"],
  ])("%j is wrong usage", async (words, message) => {
    const { code, json } = await run("find", ...words, "--json");
    expect(code).toBe(2);
    expect(json[0]?.message).toContain(message);
  });
});

test("find --all in the snapshots of a host that has none says so, and not that there is no such mail", async () => {
  const { code, json } = await run("find", "--all", "queue=hold", "--host", "mx2.test", "--json");
  expect(code).toBe(1);
  expect(json).toMatchObject([{ type: "error", hints: ["it has snapshots of: mx1.test"] }]);
});

describe("find --all where a snapshot can't be read", () => {
  test("names it, looks through the others, and ends with 13", async () => {
    await using broken = await HandMade.make();
    const { signed: gone } = await broken.take({ messages: [plain] });
    const { directory } = broken;
    const config = ["--repository", `file://${directory}/repository`, "--identity-file", `${directory}/identity.txt`];
    const lost = (await broken.take({ messages: [plain, four] })).signed;
    rmSync(broken.path(partKey(lost.snapshot.parts[1]?.id ?? "")));
    const { code, json } = await spoolsafe([
      "find",
      "--all",
      "id=AAAAAA1",
      "--json",
      ...config,
      "--config",
      join(made.directory, "without.toml"),
    ]);
    expect(code).toBe(13);
    expect(json).toMatchObject([
      { type: "not-read", snapshot: lost.id, kind: "damaged" },
      { type: "message", queueId: "AAAAAA1", last: { id: gone.id }, snapshots: 1 },
      { type: "summary", count: 1, snapshots: 1, notRead: 1 },
    ]);
  });
});

describe("diff", () => {
  test("in JSON: gone, added, changed, and files by name alone", async () => {
    const { code, json, stdout } = await run("diff", "latest~1", "latest", "--json");
    expect(code).toBe(0);
    expect(json).toEqual([
      expect.objectContaining({ type: "gone", queueId: "AAAAAA1", sender: "plain@src.test" }),
      {
        type: "changed",
        instance: "mx",
        queueId: "CCCCCC3",
        changes: { retryTime: { from: "2026-11-18T11:06:42.500Z", to: "2026-11-19T14:53:20.000Z" } },
      },
      {
        type: "file",
        change: "changed",
        instance: "mx",
        area: "config",
        path: "/etc/postfix/main.cf",
        what: ["content"],
      },
      { type: "file", change: "added", instance: "mx", area: "named", path: "/etc/postfix/sasl", what: [] },
      { type: "summary", from: night(1).id, to: night(2).id, added: 0, gone: 1, changed: 1, same: 2, files: 2 },
    ]);
    expect(stdout).not.toContain("hunter2");
  });

  test("as text", async () => {
    const { stdout, stderr } = await run("diff", "latest~2", "latest");
    expect(stdout).toMatch(/^- +AAAAAA1 +deferred +plain@src\.test +one@dest\.test$/m);
    expect(stdout).toMatch(/^\+ +CCCCCC3 +deferred +part@src\.test +second@dest\.test \(2 done\)$/m);
    expect(stdout).toMatch(/^M +BBBBBB2 +hold +many@src\.test +from deferred$/m);
    expect(stdout).toMatch(/^M +mx +config +\/etc\/postfix\/main\.cf +content$/m);
    expect(stdout).toMatch(/^\+ +mx +named +\/etc\/postfix\/sasl$/m);
    expect(stdout).not.toContain("hunter2");
    expect(stderr).toContain("2 added, 1 gone, 1 changed, 0 the same; 2 files");
    expect((await run("diff", "latest", "latest")).stdout).toBe("no difference\n");
  });
});

describe("qshape", () => {
  test("in the shape of Postfix's own, at the age of the snapshot", async () => {
    const { code, stdout } = await run("qshape", "@2026-11-23", "deferred", "hold");
    expect(code).toBe(0);
    expect(stdout).toBe(
      [
        "                                         T  5 10 20 40 80 160 320 640 1280 1280+",
        "                                  TOTAL  5  5  0  0  0  0   0   0   0    0     0",
        "                              dest.test  4  4  0  0  0  0   0   0   0    0     0",
        "                             other.test  1  1  0  0  0  0   0   0   0    0     0",
        "",
      ].join("\n"),
    );
  });

  test("in JSON; incoming and active unless queues are named", async () => {
    const { json } = await run("qshape", "latest", "--json", "-s", "-b", "2", "-t", "60");
    expect(json).toEqual([
      { type: "domain", domain: "MAILER-DAEMON", total: 1, buckets: [1, 0] },
      {
        ...{ type: "summary", snapshot: night(2).id, queues: ["incoming", "active"], messages: 1 },
        ...{ limits: [60], total: 1, buckets: [1, 0] },
      },
    ]);
    expect((await run("qshape", "latest", "corrupt")).code).toBe(2);
    expect((await run("qshape", "latest", "-b", "0")).code).toBe(2);
  });
});

describe("stats", () => {
  test("per host and in total, in JSON", async () => {
    const { code, json } = await run("stats", "--json");
    expect(code).toBe(0);
    const packs = nights.at(-1)?.snapshot.packs.length;
    const host = {
      snapshots: 3,
      oldest: night(0).time,
      newest: night(2).time,
      newestMessages: 3,
      messages: 9,
      logicalBytes: nights.reduce((sum, { snapshot }) => sum + snapshot.bytes, 0),
      storedBytes: expect.any(Number),
      packs,
      dedupRatio: expect.any(Number),
      growthPerWeek: (1400 / 2) * 7,
    };
    expect(json).toEqual([
      { type: "host", host: "mx1.test", ...host },
      { type: "summary", hosts: 1, ...host, unreferenced: { packs: 0, bytes: 0 } },
    ]);
    expect((await run("stats", "--host", "mx2.test", "--json")).json).toMatchObject([{ hosts: 0, snapshots: 0 }]);
  });

  test("as a table; packs of no snapshot are told of", async () => {
    const stray = made.path(packKey("0".repeat(64)));
    mkdirSync(join(stray, ".."), { recursive: true });
    writeFileSync(stray, "12345");
    const { stdout, stderr } = await run("stats");
    rmSync(stray);
    expect(stdout).toMatch(
      /^HOST +SNAPSHOTS +OLDEST +NEWEST +MESSAGES +SIZE +STORED +RATIO +PACKS +PER WEEK\nmx1\.test +3 .* 3 .* 4\.9 kB\n$/,
    );
    expect(stderr).toContain("1 packs more, 5 B, belong to no snapshot");
  });
});

describe("the identity", () => {
  test("is needed by all but stats: exit 12 without one, or with a wrong one", async () => {
    const config = ["--config", join(made.directory, "without.toml"), "--json"];
    const wrong = join(made.directory, "wrong.txt");
    writeFileSync(wrong, `${(await makeKeys()).identity}\n`, { mode: 0o600 });
    const refused = async (...words: string[]) => {
      const { code, json } = await spoolsafe([...words, ...config]);
      expect({ words, code, kind: json.at(-1)?.kind }).toEqual({ words, code: 12, kind: "no-identity" });
    };
    await Promise.all([
      refused("find", "latest", "queue=hold"),
      refused("find", "--all", "queue=hold"),
      refused("diff", "latest~1", "latest"),
      refused("qshape", "latest"),
      refused("find", "--all", "queue=hold", "--identity-file", wrong),
      refused("diff", "latest~1", "latest", "--identity-file", wrong),
    ]);
    const { code } = await spoolsafe(["stats", ...config]);
    expect(code).toBe(0);
  });
});
