import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { formatPlan, parsePlan } from "../../src/restore/plan-file.ts";
import { textIfThere } from "../../src/system/files.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { until } from "../support/wait.ts";
import { last, letter, Operator, takenAt } from "./operator.ts";

/* What is promised of --dry-run, --plan and --apply, through the built command and on real instances. */

const long = { maximal_queue_lifetime: "90d", bounce_queue_lifetime: "90d" };

/** Every path below a directory with all that changes when somebody writes there. */
function everything(directory: string): string[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .map((name) => {
      const { ino, mode, uid, mtimeMs, ctimeMs, size } = lstatSync(join(directory, name));
      return [name, ino, mode, uid, mtimeMs, ctimeMs, size].join(" ");
    })
    .sort();
}

/** Whom the files of a queue are still to be delivered to, by sender. */
function pendingIn(postfix: PrivatePostfix, queue: string): Record<string, string[]> {
  const facts = postfix.files(queue).map((path) => readQueueFile(bufferSource(readFileSync(path))));
  return Object.fromEntries(
    facts.map(({ sender, recipients }) => [
      sender.split("@")[0] ?? "",
      recipients.filter(({ done }) => !done).map(({ address }) => address),
    ]),
  );
}

describe.skipIf(!needs("root", "postfix", "mount"))("a plan that is signed off", () => {
  let made: HandMade;
  let operator: Operator;
  let target: PrivatePostfix;
  let snapshot = "";
  let plan = "";
  let log = "";
  let digest = "";

  beforeAll(async () => {
    made = await HandMade.make();
    operator = new Operator(made, "mx2.test");
    const two = ["r2@b.test", "x2@b.test"];
    const messages = [letter(1), letter(2, {}, two), letter(3), letter(4, { queue: "hold", role: { kind: "admin" } })];
    const { signed, manifest } = await made.take({ messages, over: takenAt });
    snapshot = signed.id;
    log = join(made.directory, "mail.log");
    const said = (time: string, text: string) => `2026-11-24T20:00:${time}Z mx postfix/${text}\n`;
    const sent = "relay=mx[192.0.2.1]:25, delay=3826, delays=3825/0/0/1, dsn=2.0.0, status=sent (250 ok)";
    writeFileSync(
      log,
      [
        said(
          "00",
          `qmgr[1]: 7E48C162110: from=<s2@a.test>, size=${manifest.messages[1]?.size}, nrcpt=2 (queue active)`,
        ),
        said("02", `smtp[2]: 7E48C162110: to=<r2@b.test>, ${sent}`),
        said("03", "qmgr[1]: 7E48C162199: removed"),
      ].join(""),
    );
    target = await PrivatePostfix.create({ main: long, tmpfs: "40m" });
    plan = join(made.directory, "plan.json");
  });
  afterAll(async () => {
    target?.destroy();
    await made?.[Symbol.asyncDispose]();
  });

  const runs = () => join(operator.stateDirectory, "runs");
  const restore = (...args: string[]) =>
    operator.run(["restore", snapshot.slice(0, 12), "--into", target.configDirectory, ...args]);
  const apply = () => restore("--apply", plan, "--json");

  /** @returns what was said, after it has been made sure that nothing was done */
  async function refused(): Promise<string> {
    const before = [everything(target.queueDirectory), everything(runs())];
    const result = await apply();
    expect({ code: result.code, ...last(result) }, result.stdout).toMatchObject({
      code: 1,
      type: "error",
      kind: "refused",
    });
    expect([everything(target.queueDirectory), everything(runs())]).toEqual(before);
    return String(last(result).message);
  }

  test("is written for root alone, with how to carry it out; nothing is touched, and no plan is overwritten", async () => {
    const before = [everything(target.directory), everything(runs())];
    const { code, stdout } = await restore("--merge", "--delivered-log", log, "--plan", plan);
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining(`--apply ${plan}`) });
    expect([everything(target.directory), everything(runs())]).toEqual(before);
    expect(statSync(plan).mode & 0o777).toBe(0o600);
    digest = /^\{"digest":"(\w+)"/.exec(readFileSync(plan, "utf8"))?.[1] ?? "";
    expect(stdout).toContain(`plan ${digest.slice(0, 16)} is in ${plan}`);
    expect(stdout).toContain("by the logs, 1 recipient got it since: not sent again");
    rmSync(log); // from here on: what it proved is in the plan
    const again = await restore("--merge", "--plan", plan, "--json");
    expect({ code: again.code, ...last(again) }).toMatchObject({ code: 2, message: `${plan} is there already` });
  });

  test("is refused when somebody changed it, for another configuration directory, and for another snapshot", async () => {
    const text = readFileSync(plan, "utf8");
    writeFileSync(plan, text.replace('"hold"', '"deferred"'));
    expect(last(await apply())).toMatchObject({
      kind: "usage",
      message: `${plan}: it was changed after it was written`,
    });
    writeFileSync(plan, formatPlan({ ...parsePlan(text, plan).plan, spoolsafe: "0.0.0" }).text);
    expect(last(await apply()).message).toMatch(`the plan ${plan} was made by spoolsafe 0.0.0, and this is `);
    writeFileSync(plan, text);
    const elsewhere = ["restore", snapshot, "--into", "/etc/postfix", "--apply", plan, "--json"];
    expect(last(await operator.run(elsewhere)).message).toBe(
      `the plan ${plan} is for ${target.configDirectory}, not for /etc/postfix`,
    );
    const newer = await made.take({ messages: [letter(1)], over: takenAt });
    const latest = ["restore", "latest", "--into", target.configDirectory, "--apply", plan, "--json"];
    expect(last(await operator.run(latest)).message).toBe(
      `the plan ${plan} is of snapshot ${snapshot.slice(0, 12)}, not of ${newer.signed.id.slice(0, 12)}`,
    );
  });

  test.each([
    ["maximal_queue_lifetime", "3d", "maximal_queue_lifetime was 7776000 s and is 259200 s"],
    ["enable_long_queue_ids", "yes", "enable_long_queue_ids was no and is yes"],
    ["mail_owner", "games", "and mail_owner games is uid "],
  ])("is refused when %s has become %s", async (parameter, value, said) => {
    const before = await target.postconf(parameter);
    await target.setParameter(parameter, value);
    try {
      expect(await refused()).toContain(said);
    } finally {
      await target.setParameter(parameter, before);
    }
  });

  test("is refused when the queue directory was made anew", async () => {
    const aside = `${target.queueDirectory}.aside`;
    renameSync(target.queueDirectory, aside);
    try {
      mkdirSync(target.queueDirectory);
      await target.postfix("check");
      expect(await refused()).toContain("the queue directory is another one: it was made anew");
    } finally {
      rmSync(target.queueDirectory, { recursive: true, force: true });
      renameSync(aside, target.queueDirectory);
    }
  });

  test("is refused when there is too little room by now, which a dry run says before", async () => {
    const filler = join(target.directory, "filler");
    writeFileSync(filler, Buffer.alloc(30 * 1024 * 1024));
    try {
      const lack = /needs \d+ bytes \(\d+ for the mail and 15360000 that Postfix keeps free\), and has \d+/;
      expect(await refused()).toMatch(lack);
      expect((await restore("--merge", "--dry-run")).stdout).toMatch(lack);
    } finally {
      rmSync(filler);
    }
  });

  test("is refused when a message of it was merged meanwhile; taken back, it is as the plan found it", async () => {
    const merged = last(await restore("--merge", "--only", "sender=s3@a.test", "--json"));
    expect(merged).toMatchObject({ restored: 1 });
    const [placed = ""] = target.files("hold").map((path) => basename(path));
    expect(await refused()).toContain(`7E48C162111 was to be placed, and it is still queued here: hold ${placed}`);
    expect((await operator.run(["undo", String(merged.run), "--yes"])).code).toBe(0);
  });

  test("is done exactly, also now that the log is gone", async () => {
    const { code, stdout, stderr } = await restore("--apply", plan);
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringContaining(`Plan ${digest.slice(0, 16)} of `),
    });
    expect(stdout).toContain("by the logs, 1 recipient got it since: not sent again");
    expect(pendingIn(target, "hold")).toEqual({
      s1: ["r1@b.test"],
      s2: ["x2@b.test"],
      s3: ["r3@b.test"],
      s4: ["r4@b.test"],
    });
    expect(await refused()).toContain("7E48C16210F was to be placed, and it is still queued here");
  });
});

describe.skipIf(!needs("root", "postfix"))("beside mail that is on its way", () => {
  let made: HandMade;
  let operator: Operator;
  let target: PrivatePostfix;
  beforeAll(async () => {
    made = await HandMade.make();
    operator = new Operator(made, "mx2.test");
    const messages = [letter(1, {}, ["r1@discard.test"]), letter(2, {}, ["r2@discard.test"])];
    await made.take({ messages, over: takenAt });
    target = await PrivatePostfix.start({ main: long });
  });
  afterAll(async () => {
    target?.destroy();
    await made?.[Symbol.asyncDispose]();
  });

  const restore = (...args: string[]) =>
    operator.run(["restore", "latest", "--into", target.configDirectory, "--merge", ...args]);

  test("a plan is refused when what was queued is delivered; then the run that restored it is named, and --again", async () => {
    const first = last(await restore("--only", "sender=s1@a.test", "--json"));
    const plan = join(made.directory, "plan.json");
    expect((await restore("--plan", plan)).stdout).toContain("not placed: 1 still queued here\n  7E48C16210F: ");
    const [held = ""] = target.files("hold").map((path) => basename(path));
    await target.release([held]);
    await target.wake(held);
    await until(() => target.find(held) === undefined, { what: "its delivery" });
    const applied = await operator.run(["restore", "latest", "--into", target.configDirectory, "--apply", plan]);
    expect(applied.code).toBe(1);
    expect(applied.stderr).toContain(
      `7E48C16210F was left out because it is still queued here: hold ${held}; that is no longer so`,
    );

    const rest = await restore();
    expect(rest.stdout).toContain("1 message restored into");
    expect(rest.stdout).toContain(
      `not placed: 1 restored into this queue before, by run ${first.run}; --again restores once more`,
    );
    const again = last(await restore("--again", "--json"));
    expect(again).toMatchObject({ restored: 1, stillQueued: 1, skippedBy: { queued: 1, restored: 0 } });
  });
});

describe.skipIf(!needs("root", "postfix"))("a plan that is being carried out", () => {
  test("and killed then is finished by the same command: everything once", async () => {
    await using made = await HandMade.make();
    await using target = await PrivatePostfix.create({ main: long });
    const operator = new Operator(made, "mx2.test");
    await made.take({ messages: Array.from({ length: 300 }, (_, number) => letter(number)), over: takenAt });
    const plan = join(made.directory, "plan.json");
    const restore = ["restore", "latest", "--into", target.configDirectory];
    expect((await operator.run([...restore, "--merge", "--plan", plan])).code).toBe(0);
    const runs = join(operator.stateDirectory, "runs");
    const isPlacing = () =>
      (existsSync(runs) ? readdirSync(runs) : []).some((run) =>
        textIfThere(join(runs, run, "journal.jsonl"))?.includes('{"type":"placing"}'),
      );
    const killed = await operator.run([...restore, "--apply", plan], {
      meanwhile: (child) => {
        const timer = setInterval(() => isPlacing() && child.kill("SIGKILL"), 2);
        child.on("close", () => clearInterval(timer));
      },
    });
    expect(killed.signal).toBe("SIGKILL");
    const done = await operator.run([...restore, "--apply", plan, "--json"]);
    expect({ code: done.code, ...last(done) }).toMatchObject({ code: 0, restored: 300, unproven: [] });
    expect(done.json.filter(({ type }) => type === "resumed")).toHaveLength(1);
    const files = target.files("hold").map((path) => readQueueFile(bufferSource(readFileSync(path))).sender);
    expect(files.sort()).toEqual(Array.from({ length: 300 }, (_, number) => `s${number}@a.test`).sort());
  });
});

describe.skipIf(!needs("root", "postfix"))("a dry run", () => {
  let made: HandMade;
  let operator: Operator;
  let target: PrivatePostfix;
  const runs = () => join(operator.stateDirectory, "runs");
  const day = 86_400;
  const now = Math.floor(Date.now() / 1000);
  beforeAll(async () => {
    made = await HandMade.make();
    operator = new Operator(made, "mx2.test");
    const owner = { user: "nobody-here", group: "postdrop", uid: 4711, gid: 1 };
    const old = (seconds: number) => ({ created: String(now - seconds), arrival: now - seconds });
    const young = old(4 * 3600);
    await made.take({
      messages: [
        letter(1, { ...young, mtime: now + 400 * day }),
        letter(2, { ...young, inFlight: true, queue: "active" }),
        letter(3, { ...young, queue: "hold", role: { kind: "admin" } }),
        letter(4, { ...young, queue: "maildrop", mode: 0o744, owner }),
        letter(5, { ...young, delayWarning: now - 60 }),
        letter(6, { ...young, arrival: now - 8 * day, contentFilter: "no-such-filter:[127.0.0.1]:10025" }),
        { bytes: queueFiles.get("null-sender") ?? Buffer.of(), over: old(2 * day) },
        letter(7, old(6 * day)),
      ],
      over: { time: new Date((now - 3600) * 1000).toISOString(), instances: [instanceOf("9.9.9")] },
    });
    const main = { maximal_queue_lifetime: "5d", bounce_queue_lifetime: "1d", virtual_alias_maps: "mongodb:/no/table" };
    target = await PrivatePostfix.create({ main });
  });
  afterAll(async () => {
    target?.destroy();
    await made?.[Symbol.asyncDispose]();
  });

  test("prints everything there is to know, in text and in JSON, and touches nothing", async () => {
    const before = [everything(target.directory), everything(runs())];
    const dry = ["restore", "latest", "--into", target.configDirectory, "--dry-run"];
    const text = await operator.run(dry);
    const json = await operator.run([...dry, "--json"]);
    expect([everything(target.directory), everything(runs())]).toEqual(before);
    expect({ code: text.code, stderr: text.stderr }).toEqual({ code: 0, stderr: "Dry run: nothing was touched.\n" });
    for (const said of [
      "7 of 8 messages of mx1.test (snapshot ",
      `into ${target.queueDirectory}\n`,
      "here, stopped; 9.9.9 there",
      /^deferred +deferred +5$/m,
      /^active +hold +1 +in doubt: until release --in-doubt$/m,
      /^hold +hold +1 +held by an administrator$/m,
      "not placed: 1 impossible here\n  7E48C162112: its owner nobody-here (uid 4711 on the source host) does not exist",
      "in doubt: 7E48C162110 to r2@b.test: it was being delivered while it was read",
      "expect: 1 message will be returned to the sender if the first attempt fails",
      "expect: 1 message of the null sender will vanish without notice to anybody if the first attempt fails",
      "expect: 1 message will cause a delay warning to the sender",
      "expect: 1 message arrived 7d ago or earlier: DKIM signatures",
      "expect: 1 message had a retry time further ahead than maximal_backoff_time",
      "meant for the content filter no-such-filter:[127.0.0.1]:10025, while master.cf here has no transport no-such-filter",
      /older than the source's 9\.9\.9/,
      "expect: the configuration here names mongodb: tables (main.cf virtual_alias_maps), which this Postfix can't open",
      /room: [\d.]+ kB and 7 files are needed; .* are free/,
      "lost 0 of the snapshot",
      "mail logs of mx1.test that survived would tell",
    ]) {
      expect(text.stdout).toMatch(said);
    }
    const types = Map.groupBy(json.json, ({ type }) => type);
    expect(types.get("planned")).toHaveLength(7);
    expect(types.get("skipped")).toMatchObject([{ queueId: "7E48C162112", kind: "impossible" }]);
    expect(
      types
        .get("forecast")
        ?.map(({ forecast }) => forecast)
        .sort(),
    ).toEqual(
      ["delay-warning", "expires", "late", "map-type", "notice-expires", "signature", "transport", "version"].sort(),
    );
    expect(last(json)).toMatchObject({
      ...{ type: "summary", dryRun: true, run: null, restored: 0, planned: 7, skipped: 1, lack: null },
      ...{ needs: { inodes: 7 }, notPlaced: [{ queueId: "7E48C162112" }], warnings: { length: 8 } },
      bound: { counts: null, sentence: expect.stringContaining("possibly twice: 7") },
    });
  });
});

/** What a snapshot's record says of an instance, taken with another version of Postfix. */
function instanceOf(postfixVersion: string) {
  const none = { total: 0, incoming: 0, active: 0, deferred: 0, hold: 0, maildrop: 0, inFlight: 0 };
  return {
    ...{ name: "mx", configDirectory: "/etc/postfix", queueDirectory: "/var/spool/postfix", postfixVersion },
    ...{ running: false, mode: "stopped" as const },
    messages: { ...none, incomplete: 0, vanished: 0, finishedDuringRun: 0 },
  };
}
