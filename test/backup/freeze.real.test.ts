import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { listHolds } from "../../src/holds/list.ts";
import { recoverHolds } from "../../src/holds/recover.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { systemClock } from "../../src/system/clock.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, type Submitted, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { undelivered } from "../support/undelivered.ts";

/*
 * A freeze whose barrier can't be confirmed. What it held may be in a queue manager's memory, and released without a new
 * one it would be removed undelivered: it has to stay on hold, and everybody has to hear of it.
 */
describe.skipIf(!needs("root", "postfix"))("a freeze without a new queue manager", () => {
  test("releases nothing, lists every message, and gives all back once Postfix answers again", async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 1500 } } });
    await using postfix = await PrivatePostfix.start({
      sink,
      main: { smtp_destination_concurrency_limit: "2", initial_destination_concurrency: "2" },
    });
    const admins = await adminHeld(postfix);
    const letters = await postfix.submit(slowLetters(12));
    await until(() => sink.waiting > 0, { what: "mail in delivery" });
    const master = postfix.masterPid() ?? 0;
    process.kill(master, "SIGSTOP");
    const report = await site.backup(postfix, { mode: "freeze", barrierMs: 300, drainMs: 300 });

    const ours = onHold(postfix).filter((id) => !admins.includes(id));
    expect(ours.length).toBeGreaterThan(6);
    expect(report.snapshot.hold).toMatchObject({ held: ours.length, released: 0 });
    expect(report.snapshot.hold.longestMs).toBeGreaterThan(300);
    expect(idsOf(report.problems)).toEqual(ours);
    expect(report.problems.map((one) => one.problem)).toEqual(ours.map(() => expect.stringContaining("holds release")));
    const given = report.events.filter((event) => event.type === "holds-given-up");
    expect(given).toMatchObject([{ reason: expect.stringContaining("no new queue manager") }]);
    expect(journals(site)).toHaveLength(1);
    expect(rolesOf(await site.manifest(report))).toEqual(expectedRoles(ours, admins));

    const listed = listHolds(site.stateDirectory, await loadInstance(postfix.configDirectory));
    expect(idsOf(listed)).toEqual(ours);
    expect(new Set(listed.map((hold) => hold.kind))).toEqual(new Set(["capture"]));

    // Another freeze would hold still more: it falls back to reading in place, and what is held is still ours to release.
    const next = await site.backup(postfix, { mode: "freeze", barrierMs: 300, drainMs: 300 });
    expect(next.snapshot.mode).toBe("live");
    expect(next.events.find((event) => event.type === "mode")).toMatchObject({
      reasons: [expect.stringContaining("still on hold")],
    });
    expect(idsOf(next.problems)).toEqual(ours);
    expect(rolesOf(await site.manifest(next))).toEqual(expectedRoles(ours, admins));
    expect(onHold(postfix)).toEqual([...ours, ...admins].sort());

    process.kill(master, "SIGCONT");
    const instance = await loadInstance(postfix.configDirectory);
    const before = postfix.daemonPids("qmgr");
    const recovered = await recoverHolds({ instance, stateDirectory: site.stateDirectory, clock: systemClock });
    expect(recovered).toMatchObject([{ stillHeld: [], unclear: [], reason: null }]);
    expect([...(recovered[0]?.released ?? [])].sort()).toEqual(ours);
    expect(postfix.daemonPids("qmgr").some((pid) => before.includes(pid))).toBe(false);
    expect(journals(site)).toEqual([]);
    const delivered = () => undelivered(postfix).length === admins.length;
    await until(delivered, { timeoutMs: 60_000, what: () => JSON.stringify(postfix.counts()) });
    expect(sink.audit(letters)).toEqual({ lost: [], doubled: [] });
    expect(onHold(postfix)).toEqual(admins);
  });

  test("ends with 3 on the command line, is listed by holds list, and undone by holds release", async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({ domains: { "slow.test": { delayMs: 300 } } });
    await using postfix = await PrivatePostfix.start({ sink });
    const admins = await adminHeld(postfix);
    const config = site.configure([postfix]);
    const letters = await postfix.submit(slowLetters(5, "waiting.test"));
    await postfix.settled();
    const env = { PATH: `${withoutReload(site)}:${process.env.PATH ?? ""}` };
    const backup = await spoolsafe(["backup", "--config", config, "--mode", "freeze", "--json"], { env });
    expect(backup.code).toBe(3);
    const ours = onHold(postfix).filter((id) => !admins.includes(id));
    expect(ours).toEqual(letters.map((letter) => letter.queueId).sort());
    expect(linesOf(backup.json, "problem").map((line) => String(line.queueId))).toEqual(expect.arrayContaining(ours));
    expect(backup.json.at(-1)).toMatchObject({ type: "summary", mode: "freeze", messages: { deferred: 5, hold: 2 } });
    expect(backup.stderr).toContain("5 messages stay on hold because of us");

    const listed = await spoolsafe(["holds", "list", "--config", config, "--json"]);
    expect(linesOf(listed.json, "hold").map((line) => [line.kind, line.queueId])).toEqual(
      expect.arrayContaining(ours.map((id) => ["capture", id])),
    );
    expect(listed.json.at(-1)).toMatchObject({ type: "summary", count: 5 });

    const still = await spoolsafe(["holds", "release", "--config", config, "--json"], { env });
    expect(still.code).toBe(3);
    expect(onHold(postfix)).toEqual([...ours, ...admins].sort());
    const released = await spoolsafe(["holds", "release", "--config", config, "--json"]);
    expect(released.code).toBe(0);
    expect(released.json.at(-1)).toMatchObject({ type: "summary", released: 5, stillHeld: 0 });
    expect(onHold(postfix)).toEqual(admins);
    expect(journals(site)).toEqual([]);
  });
});

describe.skipIf(!needs("root", "postfix"))("a freeze", () => {
  test("reads what is under way when it has ended, and says what has not by its deadline", async () => {
    await using site = await Site.make();
    await using sink = await Sink.start({
      domains: { "soon.test": { delayMs: 1500 }, "slow.test": { delayMs: 6000 } },
    });
    await using postfix = await PrivatePostfix.start({ sink });
    const [soon] = await postfix.submit(slowLetters(1, "soon.test"));
    const [late] = await postfix.submit(slowLetters(1));
    await until(() => sink.waiting === 2, { what: "two messages in delivery" });
    const report = await site.backup(postfix, { mode: "freeze", drainMs: 3000 });
    expect(report.problems).toEqual([]);
    const messages = new Map((await site.manifest(report)).messages.map((one) => [one.queueId, one]));
    expect(messages.get(soon?.queueId ?? "")).toMatchObject({ inFlight: false, recipients: [{ done: true }] });
    expect(messages.get(late?.queueId ?? "")).toMatchObject({ inFlight: true, recipients: [{ done: false }] });
    expect(report.snapshot.messages.inFlight).toBe(1);
    // qmgr met the late one with its agent's lock on it, and looks at it again after a minute.
    await until(() => sink.waiting === 0 && sink.deliveries.length === 2, { what: "the end of the late delivery" });
    await until(() => undelivered(postfix).length === 0, { what: "its recipient's mark" });
    expect(sink.audit([soon, late].flatMap((one) => one ?? []))).toEqual({ lost: [], doubled: [] });
  });
});

function slowLetters(count: number, domain = "slow.test") {
  return Array.from({ length: count }, (_, n) => plainLetter({ recipients: [`f${n}@${domain}`] }));
}

/** Two messages on hold by an administrator's hand; their ids. */
async function adminHeld(postfix: PrivatePostfix): Promise<string[]> {
  const held: Submitted[] = await postfix.submit(slowLetters(2, "refused.test"));
  await postfix.settled();
  await postfix.hold(held.map((one) => one.queueId));
  expect(postfix.counts().hold).toBe(2);
  return onHold(postfix);
}

function onHold(postfix: PrivatePostfix): string[] {
  return postfix
    .files("hold")
    .map((path) => basename(path))
    .sort();
}

function idsOf(list: readonly { readonly queueId: string | null }[]): string[] {
  return list.map((one) => one.queueId ?? "").sort();
}

function journals(site: Site): string[] {
  const directory = join(site.stateDirectory, "holds");
  return existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith(".jsonl")) : [];
}

function linesOf(json: readonly Readonly<Record<string, unknown>>[], type: string) {
  return json.filter((line) => line.type === type);
}

/** Queue and role per id: what we hold is deferred mail that nobody held, what the administrator holds is on hold. */
function expectedRoles(ours: readonly string[], admins: readonly string[]): Record<string, unknown> {
  return Object.fromEntries([
    ...ours.map((id) => [id, ["deferred", null]]),
    ...admins.map((id) => [id, ["hold", { kind: "admin" }]]),
  ]);
}

function rolesOf(manifest: Awaited<ReturnType<Site["manifest"]>>): Record<string, unknown> {
  return Object.fromEntries(
    manifest.messages
      .filter((one) => one.queue === "deferred" || one.queue === "hold")
      .map((one) => [one.queueId, [one.queue, one.role]]),
  );
}

/** A directory with a `postfix` that does everything but reload. */
function withoutReload(site: Site): string {
  const directory = join(site.directory, "bin");
  mkdirSync(directory, { recursive: true });
  const script = `#!/bin/sh\ncase " $* " in *" reload "*) echo "postfix: fatal: no reload today" >&2; exit 1;; esac\n`;
  writeFileSync(join(directory, "postfix"), `${script}exec /usr/sbin/postfix "$@"\n`);
  chmodSync(join(directory, "postfix"), 0o755);
  return directory;
}
