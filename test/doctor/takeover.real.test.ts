import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createIdentity } from "../../src/crypto/keys.ts";
import { createSigningKey } from "../../src/crypto/sign.ts";
import { recordEnd, recordStart } from "../../src/jobs/record.ts";
import { saveSeen } from "../../src/repository/chain.ts";
import { takeClaim, withdrawClaim } from "../../src/repository/take-claim.ts";
import type { Manifest } from "../../src/snapshot/manifest.ts";
import { systemClock } from "../../src/system/clock.ts";
import { tryLock } from "../../src/system/lock.ts";
import { claimRequest, newSigningKey } from "../support/claims.ts";
import { spoolsafe } from "../support/cli.ts";
import { HandMade, type HandMadeFile, type HandMadeMessage, queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { digestFrom, snapshotOf } from "../support/records.ts";
import { Site } from "../support/site.ts";
import { makeCertificate, Standby } from "./standby.ts";

const hour = 3_600_000;
const plain = queueFiles.get("plain") ?? Buffer.alloc(0);

describe.skipIf(!needs("root", "postfix", "flock", "age", "openssl", "mount"))("doctor --role standby", () => {
  let primary: PrivatePostfix;
  let site: Site;
  let manifest: Manifest;
  let target: PrivatePostfix;
  let standby: Standby;
  beforeAll(async () => {
    primary = await PrivatePostfix.create({ name: "mx" });
    await primary.sendmail(plainLetter({ recipients: ["somebody@defer.test"] }));
    site = await Site.make();
    manifest = await site.manifest(await site.backup(primary));
    target = await PrivatePostfix.create({ name: "mx" });
    standby = new Standby(site, [target]);
  });
  afterAll(async () => {
    await standby?.[Symbol.asyncDispose]();
    for (const postfix of [primary, target]) postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
  });

  describe("a host that could take over", () => {
    test("passes every check, and is left as it was", async () => {
      const before = readdirSync(standby.directory, { recursive: true });
      const findings = await standby.findings();
      expect(findings.filter(({ ok }) => !ok)).toEqual([]);
      expect(findings.map(({ name }) => name)).toEqual([
        ...["postfix instances", "postfix mx", "locks mx", "hold mx", "state directory", "holds", "age recipients"],
        ...["identity", "signing key", "trusted keys", "repository", "newest snapshot", "signature", "chain", "clock"],
        ...["opens here", "packs", "claims", "primary's trust", "instances", "saved settings", "postfix version"],
        ...["map types", "users", "room", "certificates", "chroot files", "queue", "run lock", "last drill"],
      ]);
      expect(findings.map(({ message }) => message).join("\n")).toMatch(
        /of mx1\.source\.test, taken 0 minutes ago \(.*\), 1 messages\n[\s\S]*its manifest \(1 messages, \d+ files\) and one pack \(\d+ bytes, \d+ files\) were read back and opened/,
      );
      expect(readdirSync(standby.directory, { recursive: true })).toEqual(before);
    });

    test("exits with 0 and its score, in JSON and in words", async () => {
      const config = standby.configure();
      const { code, json } = await spoolsafe(["doctor", "--role", "standby", "--json", "--config", config]);
      const checks = new Set(json.filter(({ type }) => type === "finding").map(({ name }) => name)).size;
      expect(json.filter(({ ok }) => ok === false)).toEqual([]);
      expect(json.at(-1)).toEqual({ type: "summary", ok: true, ready: true, score: { ready: checks, of: checks } });
      expect(code).toBe(0);
      const words = await spoolsafe(["doctor", "--role", "standby", "--config", config]);
      expect(words.stdout).toMatch(new RegExp(`\\n${checks} of ${checks} ready: a takeover could start now\\n$`));
    });
  });

  test("what it calls ready, a restore takes over; and then it says that a takeover has begun", async () => {
    await using empty = await PrivatePostfix.create({ name: "mx", main: { master_service_disable: "pickup/unix" } });
    await using own = await Site.make();
    await own.backup(primary);
    await using host = new Standby(own, [empty]);
    const config = ["--json", "--config", host.configure()];
    expect((await spoolsafe(["doctor", "--role", "standby", ...config])).code).toBe(0);
    const restored = await spoolsafe(["restore", "latest", "--into", empty.configDirectory, ...config]);
    expect(restored.json.at(-1)).toMatchObject({ type: "summary", restored: 1, skipped: 0 });
    expect(restored.code).toBe(0);
    expect(empty.counts().maildrop).toBe(1);
    const { code, json } = await spoolsafe(["doctor", "--role", "standby", ...config]);
    expect(json.filter(({ ok }) => ok === false).map(({ name }) => name)).toEqual(["queue", undefined]);
    expect(json).toContainEqual(
      expect.objectContaining({
        name: "claims",
        ok: true,
        message: expect.stringContaining("this host itself claimed 1"),
      }),
    );
    expect(code).toBe(1);
  });

  describe("the snapshot", () => {
    test("a wrong identity: what needs it can't be judged, and the score is of the same checks", async () => {
      const { identity } = await createIdentity(false);
      const identityFile = standby.path("wrong.txt");
      writeFileSync(identityFile, `${identity}\n`, { mode: 0o600 });
      const names = (findings: readonly { name: string }[]) => new Set(findings.map(({ name }) => name));
      const findings = await standby.findings({ identityFile });
      const wrong = findings.filter(({ ok }) => !ok);
      expect(wrong[0]).toMatchObject({
        name: "opens here",
        message: expect.stringContaining("no identity opens this"),
        remedy: expect.stringContaining("--identity-file"),
      });
      expect([...names(wrong)]).toEqual([
        ...["opens here", "packs", "claims", "primary's trust", "instances", "saved settings", "postfix version"],
        ...["map types", "users", "room", "certificates", "chroot files", "queue", "run lock"],
      ]);
      expect(names(findings)).toEqual(names(await standby.findings()));
    });

    test("wrong identity on the command line: exit 1, and a score", async () => {
      const { code, json } = await spoolsafe([
        ...["doctor", "--role", "standby", "--json", "--config", standby.configure()],
        ...["--identity-file", standby.path("wrong.txt")],
      ]);
      expect(code).toBe(1);
      const of = new Set(json.filter(({ type }) => type === "finding").map(({ name }) => name)).size;
      expect(json.at(-1)).toEqual({ type: "summary", ok: false, ready: false, score: { ready: of - 14, of } });
    });

    test("a signer that is not trusted", async () => {
      const trustedKeysFile = standby.path("strange.pub");
      writeFileSync(trustedKeysFile, `${standby.key.publicPem}${createSigningKey().publicPem}`);
      expect(await standby.wrong({ trustedKeysFile })).toEqual([
        expect.stringMatching(
          /^signature: it is signed by a key this host does not trust \(\w{16}\) \| .*spoolsafe key add FILE/,
        ),
      ]);
    });

    test("a signature that is not the key's", async () => {
      await using made = await HandMade.make();
      const { signed } = await made.take({ messages: [{ bytes: plain }] });
      await using host = new Standby(made, [target]);
      const [ref] = await made.repository.snapshotRefs();
      const [line = "", second = ""] = readFileSync(made.path(ref?.key ?? ""), "utf8").split("\n");
      const forged = Buffer.from(signed.signature, "base64");
      forged[5] = (forged[5] ?? 0) ^ 1;
      const text = `${line}\n${second.replace(signed.signature, forged.toString("base64"))}\n`;
      writeFileSync(made.path(ref?.key ?? ""), text);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(/^signature: its signature is not one of the key it names .* \| find out who can write/),
      ]);
    });

    test("a host with the primary's own key", async () => {
      const wrong = await standby.wrong({ signingKeyFile: join(site.directory, "signing.key") });
      expect(wrong).toEqual([
        expect.stringMatching(/^signature: it is signed by this host's own key: this is mx1\.source\.test itself/),
      ]);
    });

    test("no signing key of its own", async () => {
      const wrong = await standby.wrong({ signingKeyFile: standby.path("nowhere.key") });
      expect(wrong).toEqual([
        expect.stringMatching(/^signing key: .* is not there: a takeover could not be claimed.* \| `spoolsafe init/),
        expect.stringMatching(/^primary's trust: this host has no signing key/),
      ]);
    });

    test("a newer one that this host has seen is gone, or a record is damaged", async () => {
      await using made = await HandMade.make();
      const { signed } = await made.take({ messages: [{ bytes: plain }] });
      await using host = new Standby(made, [target]);
      const { writer } = signed.snapshot;
      saveSeen(host.path("state"), made.repository.id, new Map([[writer, { number: 3, id: digestFrom(3) }]]));
      expect(await host.wrong()).toEqual([
        expect.stringMatching(
          /^chain: this host has seen number 3 of writer .*the newest there now is 1 \| `spoolsafe verify/,
        ),
      ]);
      rmSync(host.path("state/repositories"), { recursive: true });
      await made.take({ messages: [{ bytes: plain }] });
      expect(await host.wrong()).toEqual([]);
      const [, ref] = await made.repository.snapshotRefs();
      writeFileSync(made.path(ref?.key ?? ""), "");
      expect(await host.wrong()).toEqual([expect.stringMatching(/^chain: .* can't be read/)]);
    });

    test("of the primary, and not of this host, which takes its own by now; an old one is worth a word", async () => {
      await using made = await HandMade.make();
      const old = new Date(Date.now() - 48 * hour).toISOString();
      await made.take({ messages: [{ bytes: plain }], over: { time: old, finished: old } });
      await using host = new Standby(made, [target]);
      const snapshot = snapshotOf(host.key, {
        repository: made.repository.id,
        host: "mx.queue.test",
        time: new Date().toISOString(),
      });
      await made.repository.commit(snapshot, host.key);
      expect(await host.wrong()).toEqual([]);
      expect(await host.passed("newest snapshot")).toEqual([
        expect.stringMatching(/ of mx1\.test, taken 48 hours ago .* \| it is older than alerts\.max_age/),
      ]);
      expect((await host.wrong({ scope: { host: "mx.queue.test", ownHost: undefined } }))[0]).toMatch(
        /^signature: it is signed by this host's own key: this is mx\.queue\.test itself/,
      );
    });

    test("packs that are gone, and one that is damaged", async () => {
      await using made = await HandMade.make();
      await made.take({ messages: [{ bytes: plain }] });
      await made.take({
        messages: [{ bytes: plain }],
        files: [{ bytes: Buffer.from("a"), over: { area: "include", path: "/a" } }],
      });
      await using host = new Standby(made, [target]);
      expect(await host.passed("packs")).toEqual(["packs: all 2 are there"]);
      const packs = readdirSync(made.path("packs"), { recursive: true, encoding: "utf8" })
        .map((name) => join(made.path("packs"), name))
        .filter((path) => /[0-9a-f]{64}/.test(basename(path)));
      const mail =
        (await made.repository.loadAll(await made.repository.snapshotRefs()))[0]?.snapshot.packs[0]?.id ?? "";
      const [other = ""] = packs.filter((path) => !path.includes(mail));
      rmSync(other);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(/^packs: 1 of 2 are missing or have another size, such as \w+ \| take a new backup/),
      ]);
      const [one = ""] = packs.filter((path) => path.includes(mail));
      const bytes = readFileSync(one);
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
      writeFileSync(one, bytes);
      expect((await host.wrong())[0]).toMatch(/^opens here: .*(damaged|digest)/);
    });

    test("none at all, and several hosts' of which none is named", async () => {
      await using made = await HandMade.make();
      await using host = new Standby(made, [target]);
      const names = new Set((await standby.findings()).map(({ name }) => name));
      const none = await host.findings();
      expect(none.find(({ ok }) => !ok)).toMatchObject({
        name: "newest snapshot",
        message: expect.stringContaining("no snapshots"),
      });
      expect(new Set(none.map(({ name }) => name))).toEqual(names);
      await made.take({ over: { host: "a.test" } });
      await made.take({ over: { host: "b.test" } });
      expect((await host.wrong())[0]).toMatch(
        /^newest snapshot: .*several hosts.* \| say which with --host: a\.test, b\.test/,
      );
      expect(await host.wrong({ scope: { host: "b.test", ownHost: undefined } })).toEqual([]);
    });
  });

  describe("Postfix here", () => {
    /** A standby of a snapshot made by hand, whose postconf said this of main.cf and master.cf. */
    async function saved(
      main: string,
      more: { messages?: HandMadeMessage[]; files?: HandMadeFile[]; version?: string } = {},
    ) {
      const made = await HandMade.make();
      const report = (path: string, text: string): HandMadeFile => ({
        bytes: Buffer.from(text),
        over: { area: "report", path },
      });
      const { signed } = await made.take({
        messages: [{ bytes: plain }],
        ...more,
        files: [report("postconf-n", main), report("postconf-M", ""), report("postconf-P", ""), ...(more.files ?? [])],
      });
      const { instances } = signed.snapshot;
      if (more.version !== undefined) {
        const postfixVersion = more.version;
        await made.take({ ...more, over: { instances: instances.map((one) => ({ ...one, postfixVersion })) } });
      }
      const host = new Standby(made, [target]);
      return {
        made,
        host,
        [Symbol.asyncDispose]: async () => {
          await host[Symbol.asyncDispose]();
          await made[Symbol.asyncDispose]();
        },
      };
    }

    test("is older than the primary's", async () => {
      await using newer = await saved("", { version: "99.1" });
      expect(await newer.host.wrong()).toEqual([
        expect.stringMatching(
          /^postfix version: Postfix here is [\d.]+, the primary's 99\.1, which is newer \| upgrade/,
        ),
      ]);
      await using older = await saved("", { version: "2.11.3" });
      expect(await older.host.wrong()).toEqual([]);
    });

    test("lacks a type of table the saved configuration uses", async () => {
      const { stdout } = await target.run("postconf", ["-m"]);
      const lacking =
        ["lmdb", "cdb", "pgsql", "mysql", "ldap"].find((type) => !stdout.split("\n").includes(type)) ?? "sdbm";
      await using source = await PrivatePostfix.create({
        name: "mx",
        main: { relocated_maps: `${lacking}:/etc/relocated` },
      });
      await using own = await Site.make();
      await own.backup(source);
      await using host = new Standby(own, [target]);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(
          new RegExp(
            `^map types: this Postfix has no type ${lacking}, which .* uses \\(main\\.cf relocated_maps\\) \\| `,
          ),
        ),
      ]);
      expect(await standby.passed("map types")).toEqual([expect.stringContaining("has every one")]);
    });

    test("an instance the host does not have", async () => {
      await using second = await PrivatePostfix.create({ name: "postfix-in" });
      await using own = await Site.make();
      await own.backup(primary, { instances: (await own.request([primary, second])).instances });
      await using host = new Standby(own, [target]);
      expect((await host.wrong())[0]).toMatch(
        /^instances: there is no instance here to take over postfix-in \(.*\) \| make one of that name/,
      );
      expect((await host.wrong({ instance: "mx" })).filter((line) => !line.startsWith("postfix"))).toEqual([]);
      await using both = new Standby(own, [target, second]);
      expect(await both.wrong()).toEqual([]);
      expect((await both.passed("map types")).map((line) => line.split(":")[1])).toEqual([" mx", " postfix-in"]);
    });

    test("no user for mail of maildrop, none to run as", async () => {
      const owner = { user: "nobody-7f3a", group: "postdrop", uid: 4711, gid: 4711 };
      const maildrop = { bytes: queueFiles.get("maildrop-t") ?? plain, over: { queue: "maildrop" as const, owner } };
      await using source = await saved("mail_owner = postfix-7f3a\nsetgid_group = postdrop-7f3a\n", {
        messages: [maildrop],
      });
      expect(await source.host.wrong()).toEqual([
        expect.stringMatching(
          /^users: there is no user nobody-7f3a here, who owns 1 message of maildrop \| make the user/,
        ),
        expect.stringMatching(/^users: there is no user postfix-7f3a here \(mail_owner\) \| install Postfix/),
        expect.stringMatching(/^users: there is no group postdrop-7f3a here \(setgid_group\) \| install Postfix/),
      ]);
    });

    test("its mail_owner is no user", async () => {
      await using broken = await PrivatePostfix.create({ name: "mx" });
      await broken.setParameter("mail_owner", "postfix-7f3a");
      await using host = new Standby(site, [broken]);
      expect((await host.wrong())[0]).toMatch(
        /^postfix instances: mail_owner "postfix-7f3a" of .* is no user of this host \| /,
      );
    });

    test("too little room for the mail, or for what Postfix keeps free", async () => {
      await using small = await PrivatePostfix.create({ name: "mx", tmpfs: "8m" });
      await using host = new Standby(site, [small]);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(
          /^room: the file system of .* needs \d+ bytes \(\d+ for the mail and 15360000 .*, and has \d+ \| make room/,
        ),
      ]);
      await small.setParameter("message_size_limit", "100000");
      expect(await host.wrong()).toEqual([]);
      await using source = await saved("", {});
      await source.made.take({
        messages: [{ bytes: plain }],
        spoil: (entries) =>
          entries.map((one) => (one.kind === "message" ? { ...one, file: { ...one.file, bytes: 9_000_000 } } : one)),
      });
      await using full = new Standby(source.made, [small]);
      expect((await full.wrong()).filter((line) => line.startsWith("room"))).toEqual([
        expect.stringMatching(/^room: .* needs \d+ bytes \(900\d{4} for the mail and/),
      ]);
    });

    test("another run works on the queue", async () => {
      await using own = await PrivatePostfix.create({ name: "mx" });
      await using host = new Standby(site, [own]);
      const lock = await tryLock(own.queueDirectory);
      try {
        expect(await host.wrong()).toEqual([
          expect.stringMatching(/^run lock: another run works on \S+ \| wait until it has ended/),
        ]);
      } finally {
        await lock?.release();
      }
      expect(await host.wrong()).toEqual([]);
    });

    test("can't be looked at by an ordinary user: told, and the rest goes on", async () => {
      await using running = await PrivatePostfix.start({ name: "mx" });
      await using host = new Standby(site, [running]);
      const under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
      const { code, json } = await spoolsafe(["doctor", "--role", "standby", "--json", "--config", host.configure()], {
        under,
      });
      expect(code).toBe(1);
      expect(json).toContainEqual(expect.objectContaining({ name: "root", ok: false }));
      expect(json).toContainEqual({
        ...{ type: "finding", name: "postfix mx", ok: false },
        ...{ message: expect.stringMatching(/^EACCES: .*master\.pid/), remedy: "run spoolsafe as root" },
      });
      expect(json.at(-1)).toMatchObject({ type: "summary", ready: false });
    });

    test("a hold queue that is somebody's inbox: advice", async () => {
      await using scanned = await PrivatePostfix.create({ name: "mx" });
      await using host = new Standby(site, [scanned]);
      const rules = join(scanned.configDirectory, "header_checks");
      writeFileSync(rules, "/^Received:/ HOLD\n");
      await scanned.setParameter("header_checks", `regexp:${rules}`);
      expect(await host.wrong()).toEqual([]);
      expect(await host.passed("hold mx")).toEqual([
        expect.stringMatching(
          /puts every message on hold: .* \| what a restore leaves on hold .* would not stay there$/,
        ),
      ]);
    });

    test("a queue directory that is not there", async () => {
      await using bare = await PrivatePostfix.create({ name: "mx" });
      rmSync(bare.queueDirectory, { recursive: true });
      await using host = new Standby(site, [bare]);
      const wrong = await host.wrong();
      expect(wrong[0]).toMatch(/^postfix mx: the queue directory .* is not there \| mount its file system/);
      expect(wrong[1]).toMatch(/^instances: there is no instance here to take over mx/);
    });

    test("runs: advice; and has mail of its own: advice", async () => {
      await using running = await PrivatePostfix.start({ name: "mx" });
      await using host = new Standby(site, [running]);
      await running.submit([plainLetter({ recipients: ["somebody@defer.test"] })]);
      await running.settled();
      expect(await host.wrong()).toEqual([]);
      expect(await host.passed("postfix mx")).toEqual([
        expect.stringMatching(/: running \| stop it before a takeover/),
      ]);
      expect(await host.passed("queue")).toEqual([
        expect.stringMatching(/ has 1 messages, none of the snapshot's \| .*--merge/),
      ]);
    });

    test("has mail of the snapshot queued, and runs with it", async () => {
      await using copy = await PrivatePostfix.create({ name: "mx", main: { master_service_disable: "pickup/unix" } });
      await using host = new Standby(site, [copy]);
      const [letter = ""] = primary.files("maildrop");
      await copy.run("cp", ["-p", letter, join(copy.queueDirectory, "maildrop")]);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(/^queue: 1 of the snapshot's messages are in \S+ already \| this is the primary itself/),
      ]);
      await copy.start();
      expect(await host.wrong()).toEqual([
        expect.stringMatching(
          /^queue: 1 of .* already, where Postfix runs and delivers them \| .*stop Postfix until you know/,
        ),
      ]);
    });

    test("a service in a chroot that lacks its files", async () => {
      await using jailed = await PrivatePostfix.create({ name: "mx", master: ["smtp unix - - y - - smtp"] });
      await using host = new Standby(site, [jailed]);
      const etc = join(jailed.queueDirectory, "etc");
      rmSync(etc, { recursive: true, force: true });
      expect((await host.wrong())[0]).toMatch(
        /^chroot files: \S+\/etc\/resolv\.conf is not there, and 1 service \(smtp\/unix\) run in a chroot \| mkdir -p \S+ && cp \/etc\/resolv\.conf/,
      );
      mkdirSync(etc);
      for (const name of ["resolv.conf", "services"]) copyFileSync(join("/etc", name), join(etc, name));
      expect(await host.wrong()).toEqual([]);
      writeFileSync(join(etc, "resolv.conf"), "nameserver 192.0.2.1\n");
      expect(await host.passed("chroot files")).toEqual([
        expect.stringMatching(/resolv\.conf is not as \/etc\/resolv\.conf \| /),
      ]);
      // Below level 1 a dash in the column means yes, in the saved master.cf as well.
      await using old = await saved("compatibility_level = 0\n", {});
      await old.made.take({
        messages: [{ bytes: plain }],
        files: ["postconf-n", "postconf-M", "postconf-P"].map((path) => ({
          bytes: Buffer.from(
            { "postconf-n": "compatibility_level = 0\n", "postconf-M": "smtp unix - - - - - smtp\n" }[path] ?? "",
          ),
          over: { area: "report" as const, path },
        })),
      });
      expect((await old.host.wrong())[0]).toMatch(/^chroot files: .*1 service \(smtp\/unix\)/);
    });
  });

  test("certificates: expired in the snapshot or here, about to expire, not there", async () => {
    await using source = await PrivatePostfix.create({ name: "mx", main: { myhostname: "mx1.source.test" } });
    await using own = await Site.make();
    await using here = await PrivatePostfix.create({ name: "mx", main: { myhostname: "mx2.source.test" } });
    await using host = new Standby(own, [here]);
    const use = async (postfix: PrivatePostfix, name: string, dates: readonly [number, number]) => {
      const { key, certificate } = makeCertificate(join(postfix.configDirectory, "tls"), name, dates);
      await postfix.setParameter("smtpd_tls_cert_file", certificate);
      await postfix.setParameter("smtpd_tls_key_file", key);
      return certificate;
    };
    await use(source, "mx1.source.test", [-400, 300]);
    await own.backup(source);
    expect(await host.passed("certificates")).toEqual(["certificates: 1 are valid for a month and more"]);

    const saved = await use(source, "mx1.source.test", [-400, -2]);
    await own.backup(source);
    expect(await host.wrong()).toEqual([
      expect.stringMatching(
        `^certificates: ${saved} in the snapshot \\(main\\.cf smtpd_tls_cert_file\\): it expired on [-\\d]+ \\| renew it on the primary`,
      ),
    ]);
    await use(source, "mx1.source.test", [-400, 10]);
    await own.backup(source);
    expect(await host.passed("certificates")).toEqual([
      expect.stringMatching(/: it expires on [-\d]+ \| renew it on the primary/),
    ]);

    const local = await use(here, "mx2.source.test", [-400, -2]);
    expect(await host.wrong()).toEqual([
      expect.stringMatching(
        `^certificates: ${local} here \\(main\\.cf smtpd_tls_cert_file\\): it expired on [-\\d]+ \\| renew it here`,
      ),
    ]);
    rmSync(local);
    expect(await host.wrong()).toEqual([
      expect.stringMatching(
        `^certificates: ${local} is not here \\(main\\.cf smtpd_tls_cert_file\\) \\| renew it here`,
      ),
    ]);
  });

  describe("clocks", () => {
    const shifted = (ms: number) => ({ clock: { ...systemClock, now: () => Date.now() + ms } });

    test("behind the repository's, and with --probe also ahead of it", async () => {
      expect(await standby.wrong(shifted(-hour))).toEqual([
        expect.stringMatching(/^clock: this host's clock is [23]\d\d\d s behind that of file:.* \| let NTP set it/),
      ]);
      expect(await standby.passed("clock")).toEqual([expect.stringMatching(/not behind .* \(--probe also tells/)]);
      expect(await standby.wrong({ ...shifted(hour), probe: true })).toEqual([
        expect.stringMatching(/^clock: this host's clock is 3[56]\d\d s ahead of that of file:/),
      ]);
      expect(await standby.passed("clock", { probe: true })).toEqual([expect.stringMatching(/: within a minute of/)]);
    });

    test("a snapshot that is yet to be taken", async () => {
      await using made = await HandMade.make();
      const soon = new Date(Date.now() + hour).toISOString();
      await made.take({ messages: [{ bytes: plain }], over: { time: soon, finished: soon } });
      await using host = new Standby(made, [target]);
      expect(await host.wrong()).toEqual([
        expect.stringMatching(
          /^clock: the newest snapshot will have been taken in 3[56]\d\d s: .* behind, or that of mx1\.test is ahead \| /,
        ),
      ]);
    });
  });

  describe("the other hosts", () => {
    test("another has taken the mail over, and gives it back", async () => {
      const other = newSigningKey(standby.directory, "other");
      const trustedKeysFile = standby.path("with-other.pub");
      writeFileSync(trustedKeysFile, `${readFileSync(standby.path("trusted.pub"), "utf8")}${other.publicPem}`);
      const request = claimRequest(site.repository, other, trustedKeysFile, "mx3.test", manifest.messages);
      const claim = await takeClaim(request);
      expect(await standby.wrong({ trustedKeysFile })).toEqual([
        expect.stringMatching(
          /^claims: mx3\.test has taken over 1 of the snapshot's messages \(claim \w{8}, .*\) \| let it have them/,
        ),
      ]);
      // Whom this host does not trust stands in nobody's way, and is told of.
      expect(await standby.wrong()).toEqual([]);
      expect(await standby.passed("claims")).toEqual([
        expect.stringMatching(/mx3\.test says it has taken over .* \| if it is a standby of yours/),
      ]);
      await withdrawClaim(request, claim.id, "done");
      expect(await standby.wrong({ trustedKeysFile })).toEqual([]);
      const own = claimRequest(site.repository, standby.key, trustedKeysFile, "mx2.test", manifest.messages);
      const begun = await takeClaim(own);
      expect(await standby.passed("claims", { trustedKeysFile })).toEqual([
        expect.stringMatching(/this host itself claimed 1 messages .* \| a takeover has begun here/),
      ]);
      await withdrawClaim(own, begun.id, "done");
    });

    test("whether the primary trusts this host's key, where that can be known", async () => {
      expect(await standby.passed("primary's trust")).toEqual([
        expect.stringMatching(
          /can't be seen from here: mx1\.source\.test has to trust the key of this host .* \| on mx1\.source\.test: spoolsafe key add/,
        ),
      ]);
      await using made = await HandMade.make();
      await using host = new Standby(made, [target]);
      const list = (text: string): HandMadeFile => ({
        bytes: Buffer.from(text),
        over: { area: "include", instance: null, path: "/etc/spoolsafe/trusted.pub" },
      });
      await made.take({ messages: [{ bytes: plain }], files: [list(made.key.publicPem)] });
      expect(await host.wrong()).toEqual([
        expect.stringMatching(/^primary's trust: mx1\.test does not trust the key of this host/),
      ]);
      await made.take({ messages: [{ bytes: plain }], files: [list(`${made.key.publicPem}${host.key.publicPem}`)] });
      expect(await host.passed("primary's trust")).toEqual([
        expect.stringMatching(/: mx1\.test trusts the key of this host \(\w{16}\)$/),
      ]);
    });
  });

  test("port 25: a greeting, another answer, nobody there, and not asked", async () => {
    const server = createServer((socket) => socket.end(answer));
    let answer = "220 mx.test ESMTP\r\n";
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const port25 = `127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
    try {
      expect(await standby.passed("port 25", { port25 })).toEqual([
        `port 25: ${port25} greets this host: 220 mx.test ESMTP`,
      ]);
      answer = "554 go away\r\n";
      expect(await standby.wrong({ port25 })).toEqual([
        expect.stringMatching(/^port 25: \S+ says "554 go away" and not 220 \| many providers/),
      ]);
      answer = "";
      expect(await standby.wrong({ port25 })).toEqual([
        expect.stringMatching(/^port 25: \S+ closes the connection without a greeting/),
      ]);
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
    expect(await standby.wrong({ port25 })).toEqual([
      expect.stringMatching(/^port 25: \S+ can't be reached: ECONNREFUSED/),
    ]);
    expect(await standby.passed("port 25")).toEqual([]);
  });

  test("drills: never is advice, and one that failed is not", async () => {
    expect(await standby.passed("last drill")).toEqual([
      expect.stringMatching(/^last drill: never \| a takeover that was never tried/),
    ]);
    const end = (exit: number) => {
      const now = new Date();
      recordEnd(standby.path("state"), recordStart(standby.path("state"), { job: "drill", now }), { exit, now });
    };
    end(0);
    expect(await standby.passed("last drill")).toEqual([
      expect.stringMatching(/^last drill: it succeeded, and began at \d{4}-/),
    ]);
    end(13);
    expect(await standby.wrong()).toEqual([
      expect.stringMatching(
        /^last drill: ended at .* with exit 13; the last that succeeded began at \d{4}-.*drill show/,
      ),
    ]);
    rmSync(standby.path("state/jobs/drill.json"));
  });
});
