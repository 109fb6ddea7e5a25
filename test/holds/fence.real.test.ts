import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadSigningKey, loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { fence } from "../../src/holds/fence.ts";
import { HoldJournal, postsuperOutput } from "../../src/holds/journal.ts";
import { placedHolds } from "../../src/holds/placed.ts";
import { recoverHolds } from "../../src/holds/recover.ts";
import { hold } from "../../src/postfix/control.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { keepStopped } from "../../src/postfix/stopped.ts";
import { listClaims, readDigests, type StandingClaim } from "../../src/repository/claims.ts";
import { claimedKey } from "../../src/repository/layout.ts";
import { takeClaim, withdrawClaim } from "../../src/repository/take-claim.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { claimRequest, newSigningKey, trustFile } from "../support/claims.ts";
import { spoolsafe as run } from "../support/cli.ts";
import { errorOf } from "../support/keys.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { type PostfixOptions, PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

const standby = "mx2.standby.test";

describe.skipIf(!needs("root", "postfix", "flock")).concurrent("an old primary that comes back", () => {
  test.each<[string, PostfixOptions]>([
    ["short ids", {}],
    [
      "long ids, hashed",
      { longIds: true, hashQueueNames: "incoming, active, deferred, hold, defer", hashQueueDepth: 2 },
    ],
  ])("holds exactly what was taken over, before it starts (%s)", { timeout: 180_000 }, async (_, options) => {
    await using sink = await Sink.start({
      domains: { "later.test": { rcpt: "450 4.2.0 later" }, "slow.test": { delayMs: 90_000 } },
    });
    await using site = await Site.make();
    await using old = await PrivatePostfix.start({ ...options, sink, main: { master_service_disable: "pickup.unix" } });
    const config = site.configure([old]);
    const to = (name: string, domain = "later.test") => plainLetter({ recipients: [`${name}@${domain}`] });
    const deferred = await old.submit(Array.from({ length: 6 }, (_, n) => to(`deferred${n}`)));
    const [admins] = await old.submit([to("admin")]);
    await until(() => old.files("deferred").length === 7, { what: "deferred mail" });
    await old.hold([admins?.queueId ?? ""]);
    const active = await old.submit(Array.from({ length: 2 }, (_, n) => to(`active${n}`, "slow.test")));
    const dropped = to("dropped");
    await old.sendmail(dropped);
    await until(() => old.counts().active === 2 && old.counts().maildrop === 1, {
      what: "mail in active and maildrop",
    });
    const taken = await site.backup(old, { mode: "live" });
    const claim = await claimAll(site, taken.id, (await site.manifest(taken)).messages);
    const after = await old.submit(Array.from({ length: 3 }, (_, n) => to(`after${n}`)));
    await until(() => after.every(({ queueId }) => old.find(queueId)?.includes("/deferred/")), { what: "later mail" });
    old.kill();

    const fenced = await spoolsafe(config, "holds", "fence");
    expect(fenced).toMatchObject({ code: 0, summary: { claims: 1, held: 8, setAside: 1, onHold: 1, unfenced: 0 } });
    const claimed = [...deferred, ...active].map(({ queueId }) => queueId);
    expect(held(old)).toEqual([...claimed, admins?.queueId].sort());
    expect(old.counts()).toMatchObject({ maildrop: 0, active: 0, incoming: 0, deferred: 3 });
    expect(fenced.lines.find(({ outcome }) => outcome === "on-hold")).toMatchObject({
      queueId: admins?.queueId,
      kind: "admin",
    });
    expect(existsSync(String(fenced.lines.find(({ outcome }) => outcome === "set-aside")?.file))).toBe(true);
    const listed = (await spoolsafe(config, "holds", "list")).lines.filter(({ type }) => type === "hold");
    expect(listed.map(({ kind, queueId, run }) => ({ kind, queueId, run }))).toEqual(
      listed.map(({ queueId }) => ({ kind: "fence", queueId, run: claim.id })),
    );
    expect(listed.map(({ queueId }) => queueId).sort()).toEqual([...claimed].sort());
    // Before every further start it finds nothing to do.
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 0, summary: { held: 0, onHold: 9 } });

    for (const domain of ["later.test", "slow.test"]) sink.set(domain, {});
    await old.setParameter("master_service_disable", "");
    await old.start();
    await old.flush();
    await until(() => old.counts().deferred + old.counts().active + old.counts().incoming === 0, { what: "delivery" });
    expect(sink.audit(after)).toEqual({ lost: [], doubled: [] });
    expect(sink.deliveries).toHaveLength(after.length);
    const again = await site.backup(old);
    const roles = (await site.manifest(again)).messages.map(({ queueId, role }) => [queueId, role?.kind]);
    expect(Object.fromEntries(roles)).toEqual({
      ...Object.fromEntries(claimed.map((id) => [id, "fence"])),
      [admins?.queueId ?? ""]: "admin",
    });

    const refused = await spoolsafe(config, "holds", "take-over", "--release", "--yes");
    expect(refused).toMatchObject({ code: 1, summary: { type: "error", kind: "refused" } });
    expect(refused.summary.message).toContain(standby);
    await withdrawClaim(await requestOf(site, []), claim.id, "undone");
    const view = await spoolsafe(config, "holds", "take-over");
    expect(view.lines[0]).toMatchObject({
      type: "claim",
      id: claim.id,
      by: standby,
      state: "withdrawn",
      onHold: 8,
      setAside: 1,
    });
    const back = await spoolsafe(config, "holds", "take-over", claim.id.slice(0, 12), "--release", "--yes");
    expect(back).toMatchObject({ code: 0, summary: { released: 9, kept: 0, stillHeld: 0 } });
    await old.flush();
    const queued = () => Object.values(old.counts()).reduce((sum, count) => sum + count, 0);
    await until(() => queued() === 1, { timeoutMs: 90_000, what: () => JSON.stringify(old.counts()) });
    expect(held(old)).toEqual([admins?.queueId]);
    expect(sink.audit([...deferred, ...active, dropped, ...after])).toEqual({ lost: [], doubled: [] });
    // An administrator who holds one of them later has it to himself.
    expect(await spoolsafe(config, "holds", "take-over")).toMatchObject({ code: 0, summary: { count: 0 } });
  });

  test("computes a digest as stock tools do", async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 3);
    const { standing, messages } = await takenOver(site, old);
    const [message] = messages;
    const key = Buffer.from(standing.claim.salt, "base64").toString("hex");
    const input = ["mx1.source.test", message?.instance, message?.queueId, message?.created, message?.content].join(
      "\0",
    );
    const said = execFileSync("openssl", ["dgst", "-sha256", "-mac", "HMAC", "-macopt", `hexkey:${key}`], { input });
    const digest = /([0-9a-f]{64})\s*$/.exec(said.toString())?.[1]?.slice(0, 32) ?? "";
    expect(await readDigests(site.repository, standing.claim)).toContain(digest);
  });

  test("that runs already holds what waits, and says what it could not hold", { timeout: 120_000 }, async () => {
    await using sink = await Sink.start({
      domains: { "later.test": { rcpt: "450 4.2.0 later" }, "slow.test": { delayMs: 90_000 } },
    });
    await using site = await Site.make();
    await using old = await PrivatePostfix.start({ sink });
    const config = site.configure([old]);
    const waiting = await old.submit([plainLetter({ recipients: ["a@later.test"] })]);
    const active = await old.submit([plainLetter({ recipients: ["a@slow.test"] })]);
    await until(() => old.counts().deferred === 1 && old.counts().active === 1, { what: "mail in both queues" });
    await takenOver(site, old, { mode: "live" });
    const fenced = await spoolsafe(config, "holds", "fence");
    expect(fenced).toMatchObject({ code: 3, summary: { held: 1, unfenced: 1 } });
    expect(held(old)).toEqual([waiting[0]?.queueId]);
    expect(fenced.lines.find(({ outcome }) => outcome === "unfenced")).toMatchObject({
      queueId: active[0]?.queueId,
      reason: expect.stringContaining("running"),
    });
    expect(fenced.stderr).toContain("stop it");
  });
});

describe.skipIf(!needs("root", "postfix", "flock")).concurrent("a fence", () => {
  test("fails closed when the repository can't be read, and goes by what it has seen before", {
    timeout: 120_000,
  }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 12);
    const config = site.configure([old]);
    const { standing } = await takenOver(site, old);
    const repository = join(site.directory, "repository");
    const away = () => renameSync(repository, `${repository}.away`);
    const home = () => renameSync(`${repository}.away`, repository);
    away();
    const blind = await spoolsafe(config, "holds", "fence");
    expect(blind).toMatchObject({ code: 10, summary: { type: "error", kind: "no-repository" } });
    expect(JSON.stringify(blind.summary.hints)).toContain("must not start");
    expect(old.counts()).toMatchObject({ deferred: 12, hold: 0 });
    home();
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 0, summary: { held: 12 } });
    // Somebody releases it by hand: what was seen before is still enough to hold it again, and not enough to let Postfix start.
    await old.release(held(old));
    away();
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 10 });
    expect(old.counts()).toMatchObject({ deferred: 0, hold: 12 });
    home();
    const record = join(repository, standing.key);
    const bytes = readFileSync(record);
    for (const spoil of [() => renameSync(record, `${record}.gone`), () => writeFileSync(record, "{}\n{}\n")]) {
      spoil();
      expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 13, summary: { kind: "damaged" } });
    }
    writeFileSync(record, bytes);
    // The list of digests is in the copy, too, and is as good from there: the record names it by its digest.
    renameSync(join(repository, claimedKey(standing.claim.digests.id)), join(site.directory, "list"));
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 0, summary: { onHold: 12 } });
  });

  test("ignores a stranger's claim, and reports it", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 10);
    const taken = await site.backup(old);
    const stranger = newSigningKey(site.directory, "stranger");
    const believing = trustFile(site.directory, "stranger", [stranger]);
    await takeClaim(claimRequest(site.repository, stranger, believing, standby, (await site.manifest(taken)).messages));
    const fenced = await spoolsafe(site.configure([old]), "holds", "fence");
    expect(fenced).toMatchObject({ code: 0, summary: { claims: 0, strangers: 1, held: 0 } });
    expect(fenced.stderr).toMatch(/mx2\.standby\.test says it took over mail of mx1\.source\.test, signed by a key/);
    expect(old.counts()).toMatchObject({ deferred: 10, hold: 0 });
  });

  test("leaves alone what this host restored into this instance itself", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create({ name: "postfix-own" });
    await fillDeferred(old, 10);
    const taken = await site.backup(old);
    const own = loadSigningKey(join(site.directory, "signing.key"));
    const { messages } = await site.manifest(taken);
    const trusted = join(site.directory, "trusted.pub");
    const request = claimRequest(site.repository, own, trusted, "mx1.source.test", messages);
    await takeClaim({ ...request, run: "into-itself", wanted: { ...request.wanted, into: "postfix-own" } });
    const config = site.configure([old]);
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 0, summary: { held: 0, unfenced: 0 } });
    await takeClaim({
      ...request,
      run: "into-another",
      wanted: { ...request.wanted, into: "postfix-other" },
      overrule: await standingIds(site),
    });
    expect(await spoolsafe(config, "holds", "fence")).toMatchObject({ code: 0, summary: { held: 10 } });
  });

  test("turns what a dead backup held into its own, so that no recovery lets it go", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 10);
    await takenOver(site, old);
    const instance = await loadInstance(old.configDirectory);
    const { stateDirectory } = site;
    const { name, configDirectory, queueDirectory } = instance;
    const since = new Date().toISOString();
    const journal = HoldJournal.begin(stateDirectory, {
      ...{ run: "died", mode: "hold", instance: name, configDirectory, queueDirectory, since, preheld: [] },
    });
    const ids = old.files("deferred").map((path) => basename(path));
    journal.batch(
      0,
      since,
      ids.map((id) => [id, 0] as const),
    );
    await hold(instance, ids, ["deferred"], postsuperOutput(journal.path, 0, "hold"));
    expect(await spoolsafe(site.configure([old]), "holds", "fence")).toMatchObject({ code: 0, summary: { held: 10 } });
    expect(await recoverHolds({ instance, stateDirectory, clock: systemClock })).toEqual([]);
    expect(held(old)).toEqual([...ids].sort());
    expect([...placedHolds(stateDirectory, instance).values()].map(({ kind }) => kind)).toEqual(ids.map(() => "fence"));
  });

  test("keeps Postfix from starting while it works", { timeout: 60_000 }, async () => {
    await using old = await PrivatePostfix.create();
    const instance = await loadInstance(old.configDirectory);
    const guard = await keepStopped(instance);
    const start = () => old.run("postfix", ["-c", old.configDirectory, "start"]);
    expect((await start()).code).not.toBe(0);
    expect(old.running()).toBe(false);
    await guard?.release();
    await old.start();
    expect(await keepStopped(instance)).toBeUndefined();
  });

  test("waits for another run of ours, and not for ever", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 9);
    const { standing } = await takenOver(site, old);
    const instance = await loadInstance(old.configDirectory);
    const digests = await readDigests(site.repository, standing.claim);
    const fencing = (lockWaitMs: number) => {
      const { stateDirectory } = site;
      const own = { writer: undefined, hosts: [] };
      const claims = [{ ...standing, digests }];
      return fence({ instance, claims, own, stateDirectory, clock: systemClock, lockWaitMs });
    };
    const lock = await tryLock(instance.queueDirectory);
    expect(await errorOf(() => fencing(100))).toMatchObject({ kind: "locked", exitCode: 11 });
    expect(held(old)).toEqual([]);
    const waiting = fencing(20_000);
    await lock?.release();
    expect(await waiting).toMatchObject({ running: false, held: { length: 9 } });
  });
});

describe.skipIf(!needs("root", "postfix", "flock")).concurrent("taking mail back", () => {
  test("needs the name of the host whose claim stands, and lasts", { timeout: 90_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 10);
    const config = site.configure([old]);
    await takenOver(site, old);
    await spoolsafe(config, "holds", "fence");
    const take = (...args: string[]) => spoolsafe(config, "holds", "take-over", "--release", ...args);
    expect(await take("--anyway", standby)).toMatchObject({ code: 2 }); // nobody to confirm
    expect(await take("--yes")).toMatchObject({ code: 1 });
    expect(await take("--yes", "--anyway", "mx3.standby.test")).toMatchObject({ code: 1 });
    expect(held(old)).toHaveLength(10);
    expect(await take("--yes", "--anyway", standby)).toMatchObject({ code: 0, summary: { released: 10 } });
    const again = await spoolsafe(config, "holds", "fence");
    expect(again).toMatchObject({ code: 0, summary: { held: 0 } });
    expect(again.stderr).toContain("decided against it");
    expect(old.counts()).toMatchObject({ deferred: 10, hold: 0 });
  });

  test("leaves on hold what another claim has taken as well", { timeout: 90_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 10);
    const config = site.configure([old]);
    const first = await takenOver(site, old);
    const third = newSigningKey(site.directory, "third");
    appendFileSync(join(site.directory, "trusted.pub"), third.publicPem);
    const trusted = join(site.directory, "trusted.pub");
    const both = claimRequest(site.repository, third, trusted, "mx3.standby.test", first.messages.slice(0, 4));
    const other = await takeClaim({ ...both, overrule: [first.standing.id] });
    await spoolsafe(config, "holds", "fence");
    await withdrawClaim(await requestOf(site, []), first.standing.id, "undone");
    const back = await spoolsafe(config, "holds", "take-over", first.standing.id, "--release", "--yes");
    const outOf = (await spoolsafe(config, "holds", "take-over")).lines.filter(({ type }) => type === "claim");
    expect(back.code).toBe(0);
    const kept = first.messages
      .slice(0, 4)
      .map(({ queueId }) => queueId)
      .sort();
    expect(held(old)).toEqual(kept);
    expect(outOf).toMatchObject([{ id: other.id, state: "stands", onHold: 4 }]);
    await withdrawClaim(both, other.id, "undone");
    expect(await spoolsafe(config, "holds", "take-over", "--release", "--yes")).toMatchObject({
      summary: { released: 4 },
    });
    // Whoever holds one of them now is the administrator, whatever was recorded before.
    await old.hold(kept.slice(0, 1));
    expect(await spoolsafe(config, "holds", "take-over", "--release", "--yes")).toMatchObject({ code: 2 });
    expect(held(old)).toEqual(kept.slice(0, 1));
  });

  test("leaves on hold what the fence missed and an administrator held himself", { timeout: 90_000 }, async () => {
    await using site = await Site.make();
    await using old = await PrivatePostfix.create();
    await fillDeferred(old, 10);
    const config = site.configure([old]);
    const { messages } = await takenOver(site, old);
    const missed = messages[0]?.queueId ?? "";
    // The real postsuper, which is not told of one of them: as if that had been in another queue at both of its looks.
    const programs = join(site.directory, "programs");
    mkdirSync(programs);
    writeFileSync(join(programs, "postsuper"), `#!/bin/sh\ngrep -v '^${missed}$' | /usr/sbin/postsuper "$@"\n`, {
      mode: 0o755,
    });
    const fenced = await run(["holds", "fence", "--config", config, "--json"], {
      env: { PATH: `${programs}:${process.env.PATH ?? ""}` },
    });
    expect(fenced.json.at(-1)).toMatchObject({ held: 9, unfenced: 1 });
    await old.hold([missed]);
    const taken = await spoolsafe(config, "holds", "take-over", "--release", "--yes", "--anyway", standby);
    expect(taken).toMatchObject({ code: 0, summary: { released: 9 } });
    expect(held(old)).toEqual([missed]);
  });

  test("a claim of this host that nobody acts on can be withdrawn", { timeout: 60_000 }, async () => {
    await using site = await Site.make();
    await using here = await PrivatePostfix.create();
    const own = loadSigningKey(join(site.directory, "signing.key"));
    const trusted = join(site.directory, "trusted.pub");
    const { id } = await takeClaim(
      claimRequest(site.repository, own, trusted, "mx1.source.test", [], { wanted: { host: "mx0" } }),
    );
    const config = site.configure([here]);
    expect(await spoolsafe(config, "holds", "take-over", "ff", "--withdraw", "--yes")).toMatchObject({ code: 2 });
    expect(await spoolsafe(config, "holds", "take-over", id.slice(0, 10), "--withdraw", "--yes")).toMatchObject({
      code: 0,
    });
    expect(await standingIds(site)).toEqual([]);
  });
});

/** The standby, whose key the old primary believes. */
function standbyKey(site: Site): SigningKey {
  const path = join(site.directory, "standby.key");
  if (existsSync(path)) return loadSigningKey(path);
  const key = newSigningKey(site.directory, "standby");
  appendFileSync(join(site.directory, "trusted.pub"), key.publicPem);
  return key;
}

async function requestOf(site: Site, messages: readonly MessageEntry[]) {
  return claimRequest(site.repository, standbyKey(site), join(site.directory, "trusted.pub"), standby, messages);
}

async function claimAll(site: Site, snapshot: string, messages: readonly MessageEntry[]) {
  return await takeClaim({ ...(await requestOf(site, messages)), snapshot });
}

/** Back the instance up, and have the standby claim all of it. */
async function takenOver(site: Site, postfix: PrivatePostfix, over: Parameters<Site["backup"]>[1] = {}) {
  const taken = await site.backup(postfix, over);
  const { messages } = await site.manifest(taken);
  const { id } = await claimAll(site, taken.id, messages);
  const claims = await listClaims(site.repository, loadTrustedKeys(join(site.directory, "trusted.pub")));
  const standing = claims.standing.find((one): one is StandingClaim => one.id === id);
  if (standing === undefined) throw new Error("the claim is not there");
  return { standing, messages };
}

async function standingIds(site: Site): Promise<string[]> {
  const { standing } = await listClaims(site.repository, loadTrustedKeys(join(site.directory, "trusted.pub")));
  return standing.map(({ id }) => id);
}

function held(postfix: PrivatePostfix): string[] {
  return postfix
    .files("hold")
    .map((path) => basename(path))
    .sort();
}

/** Run the command with this configuration; its lines, the last of which sums up. */
async function spoolsafe(config: string, ...args: string[]) {
  const { code, json, stderr } = await run([...args, "--config", config, "--json"]);
  return { code, lines: json, summary: json.at(-1) ?? {}, stderr };
}
