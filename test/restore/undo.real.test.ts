import { spawnSync } from "node:child_process";
import { appendFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { listClaims } from "../../src/repository/claims.ts";
import { readRuns } from "../../src/restore/journal.ts";
import { restoreInto } from "../../src/restore/restore.ts";
import { undoRun } from "../../src/restore/undo.ts";
import { systemClock } from "../../src/system/clock.ts";
import { newSigningKey } from "../support/claims.ts";
import { spoolsafe } from "../support/cli.ts";
import { fingerprints } from "../support/compare.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { errorOf } from "../support/keys.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";
import { handMadeJob } from "./into.ts";
import type { KilledJob } from "./killed-restore.ts";

/** The configuration of a standby: its own name, key and state; it believes the primary, and the primary it. */
function standbyOf(site: Site, target: PrivatePostfix): string {
  const key = newSigningKey(site.directory, "standby");
  appendFileSync(join(site.directory, "trusted.pub"), key.publicPem);
  const path = join(site.directory, "standby.toml");
  const lines = [
    'host = "mx2.standby.test"',
    `state_directory = ${JSON.stringify(join(site.directory, "standby"))}`,
    `[repository]\nurl = ${JSON.stringify(site.repository.store.url)}`,
    `[encryption]\nrecipients_file = ${JSON.stringify(join(site.directory, "recipients.txt"))}`,
    `identity_file = ${JSON.stringify(join(site.directory, "identity.txt"))}`,
    `[signing]\nkey_file = ${JSON.stringify(join(site.directory, "standby.key"))}`,
    `trusted_keys_file = ${JSON.stringify(join(site.directory, "trusted.pub"))}`,
    `[postfix]\nconfig_directories = ${JSON.stringify([target.configDirectory])}`,
  ];
  writeFileSync(path, `${lines.join("\n")}\n`);
  return path;
}

async function standing(site: Site) {
  return (await listClaims(site.repository, loadTrustedKeys(join(site.directory, "trusted.pub")))).standing;
}

function ids(postfix: PrivatePostfix, queue: string): string[] {
  return postfix
    .files(queue)
    .map((path) => basename(path))
    .sort();
}

describe.skipIf(!needs("root", "postfix", "flock"))("undo", () => {
  test.concurrent("gives back to the old host exactly what it takes back here: nobody gets a message twice, and none is lost", {
    timeout: 180_000,
  }, async () => {
    const later = { rcpt: "450 4.2.0 later" };
    await using sink = await Sink.start({ domains: { "later.test": later, "never.test": later } });
    await using site = await Site.make();
    await using old = await PrivatePostfix.start({ sink });
    await using target = await PrivatePostfix.start({ sink });
    const to = (name: string, domain = "later.test") => plainLetter({ recipients: [`${name}@${domain}`] });
    const letters = [
      ...Array.from({ length: 8 }, (_, n) => to(`a${n}`)),
      to("b0", "never.test"),
      to("b1", "never.test"),
    ];
    const submitted = await old.submit(letters);
    const own = await target.submit([to("own"), to("held")]);
    await until(() => old.counts().deferred === 10 && target.counts().deferred === 2, { what: "deferred mail" });
    const admins = submitted[7]?.queueId ?? "";
    await old.hold([admins]);
    await target.hold([own[1]?.queueId ?? ""]);
    const config = standbyOf(site, target);
    await site.backup(old, { mode: "live" });
    old.kill();

    const command = (...args: string[]) => spoolsafe([...args, "--config", config]);
    const into = ["restore", "latest", "--host", "mx1.source.test", "--into", target.configDirectory, "--merge"];
    const restored = await command(...into, "--yes", "--json");
    expect(restored, restored.stderr).toMatchObject({ code: 0 });
    const run = String(restored.json.at(-1)?.run);
    expect(target.counts()).toMatchObject({ hold: 11, deferred: 1 });
    // By its own name, whichever host's snapshot was asked for: its own fence knows its claims by it.
    expect((await standing(site)).map(({ claim }) => [claim.host, claim.by])).toEqual([
      ["mx1.source.test", "mx2.standby.test"],
    ]);

    // Two are released and delivered; of two that nobody takes, one waits and one is held again.
    sink.set("later.test", {});
    const placed = new Map(
      readRuns(join(site.directory, "standby"))[0]?.messages.map(({ key, number }) => [key, number]),
    );
    const idOf = (queueId = "") => {
      const number = [...placed].find(([key]) => key.includes(`/${queueId}/`))?.[1];
      const staged = readRuns(join(site.directory, "standby"))[0]?.staged.find((one) => one.number === number);
      return staged?.id ?? "";
    };
    const out = [0, 1, 8, 9].map((at) => idOf(submitted[at]?.queueId));
    await target.release(out);
    await target.flush();
    await until(
      () => sink.deliveries.length >= 2 && out.slice(2).every((id) => target.find(id)?.includes("/deferred/")),
      {
        what: "two delivered, two deferred",
      },
    );
    await until(() => out.slice(0, 2).every((id) => target.find(id) === undefined), { what: "their end" });
    await target.hold(out.slice(3));

    const before = fingerprints(target.queueDirectory);
    const dry = await command("undo", run.slice(0, 12), "--dry-run", "--json");
    expect(dry).toMatchObject({ code: 0 });
    expect(dry.json.at(-1)).toMatchObject({ type: "summary", dryRun: true, run, removed: 6, left: 4 });
    expect(await command("undo", run, "--json")).toMatchObject({ code: 2 }); // nobody to ask
    expect(fingerprints(target.queueDirectory)).toEqual(before);

    const undone = await command("undo", run, "--yes", "--json");
    expect(undone, undone.stderr).toMatchObject({ code: 3 });
    expect(undone.json.at(-1)).toMatchObject({ removed: 6, left: 4, undoneBefore: 0, claim: { state: "stands" } });
    const left = new Map(undone.json.filter(({ type }) => type === "left").map(({ queueId, at }) => [queueId, at]));
    expect(left).toEqual(new Map(out.map((id, at) => [id, ["gone", "gone", "deferred", "hold"][at]])));
    expect(ids(target, "hold")).toEqual([own[1]?.queueId, out[3]].sort());
    expect(target.files("defer").map((path) => basename(path))).not.toContain(idOf(submitted[2]?.queueId));
    expect((await standing(site)).map(({ claim }) => claim.digests.messages)).toEqual([4]);

    // The old host comes back: it holds those four, and delivers the others.
    const fenced = await spoolsafe(["holds", "fence", "--config", site.configure([old]), "--json"]);
    expect(fenced, fenced.stderr).toMatchObject({ code: 0 });
    const claimed = [0, 1, 8, 9].map((at) => submitted[at]?.queueId);
    expect(ids(old, "hold")).toEqual([...claimed, admins].sort());
    sink.set("never.test", {});
    await old.start();
    await target.release(out.slice(3));
    await Promise.all([allTried(old), allTried(target)]);
    const expected = submitted.filter(({ queueId }) => queueId !== admins);
    expect(sink.audit([...expected, ...own.slice(0, 1)])).toEqual({ lost: [], doubled: [] });
    expect(sink.deliveries).toHaveLength(expected.length + 1);
  });

  test.concurrent("takes all of a restore back, with its claim, and the same mail can be restored again", {
    timeout: 120_000,
  }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await using target = await PrivatePostfix.create({ longIds: true });
    await fillDeferred(old, 30);
    await old.sendmail(plainLetter({ recipients: ["a@later.test"] }));
    const config = standbyOf(site, target);
    await site.backup(old);
    const command = (...args: string[]) => spoolsafe([...args, "--config", config]);
    const restore = () => command("restore", "latest", "--into", target.configDirectory, "--land", "hold", "--json");
    const first = await restore();
    expect(first, first.stderr).toMatchObject({ code: 0 });
    const run = String(first.json.at(-1)?.run);
    expect(target.counts()).toMatchObject({ hold: 30, maildrop: 0 });

    const unknown = await command("undo", "20000101", "--yes");
    expect(unknown).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(`${run}: 31 messages of mx1.source.test`),
    });
    const undone = await command("undo", run, "--yes");
    expect(undone).toMatchObject({ code: 0, stdout: expect.stringContaining("removed 31 messages of run") });
    expect(undone.stdout).toContain("mx1.source.test delivers that mail itself");
    expect(Object.values(target.counts()).every((count) => count === 0)).toBe(true);
    expect(["defer", "bounce", "trace"].flatMap((log) => target.files(log))).toEqual([]);
    expect(await standing(site)).toEqual([]);
    const again = await command("undo", run, "--yes", "--json");
    expect(again.json.at(-1)).toMatchObject({ removed: 0, left: 0, undoneBefore: 31 });

    const second = await restore();
    expect(second.json.at(-1)).toMatchObject({ restored: 31, skipped: 0 });
    expect(target.counts()).toMatchObject({ hold: 30 });
    expect(await standing(site)).toHaveLength(1);
  });

  test.concurrent("takes back what a restore that was killed has placed; the restore is not finished after that", {
    timeout: 120_000,
  }, async () => {
    await using made = await HandMade.make();
    const taken = await made.take({
      messages: ["plain", "partly-done", "dsn", "verbose"].map((name) => ({
        bytes: queueFiles.get(name) ?? Buffer.of(),
        logs: { defer: `log of ${name}` },
        over: { queue: "hold" as const, role: { kind: "admin" as const } },
      })),
    });
    await using target = await PrivatePostfix.create();
    const instance = await loadInstance(target.configDirectory);
    const stateDirectory = join(target.directory, "state");
    // The third message has its log in place and its name, and its temporary name too.
    expect(killedRestore(made, taken.signed, target, stateDirectory)).toBe("SIGKILL");
    const [run] = readRuns(stateDirectory);
    expect(run).toMatchObject({ phase: "placing" });
    const job = { run: run?.run ?? "", instance, stateDirectory, claims: null, clock: systemClock };

    const stop = AbortSignal.abort(new Error("stopped"));
    expect(await errorOf(() => undoRun({ ...job, signal: stop }))).toMatchObject({ message: "stopped" });
    expect(await undoRun(job)).toMatchObject({ interrupted: true, left: [], removed: { length: 4 } });
    expect(fingerprints(target.queueDirectory)).toEqual([]);
    expect(["defer", "bounce", "hold"].flatMap((queue) => target.files(queue))).toEqual([]);
    expect(readRuns(stateDirectory)).toMatchObject([{ phase: "ended", outcome: "abandoned" }]);
    await using anew = await handMadeJob(made, taken.signed, target);
    expect(await restoreInto(anew)).toMatchObject({ restored: 4, notPlaced: [], unproven: [] });
  });
});

function killedRestore(
  made: HandMade,
  { id, snapshot }: Awaited<ReturnType<HandMade["take"]>>["signed"],
  target: PrivatePostfix,
  stateDirectory: string,
): NodeJS.Signals | null {
  const job: KilledJob = {
    repository: join(made.directory, "repository"),
    identityFile: join(made.directory, "identity.txt"),
    trustedKeysFile: join(made.directory, "trusted.pub"),
    snapshot: { id, writer: snapshot.writer, number: snapshot.number },
    configDirectory: target.configDirectory,
    stateDirectory,
    death: { call: "linkSync", nth: 6, after: true },
  };
  return spawnSync(process.execPath, [join(import.meta.dirname, "killed-restore.ts")], {
    env: { ...process.env, SPOOLSAFE_TEST_KILLED_JOB: JSON.stringify(job) },
    timeout: 60_000,
  }).signal;
}
