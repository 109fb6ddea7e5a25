// biome-ignore-all lint/suspicious/noTemplateCurlyInString: Postfix writes ${name} as well
import { execFileSync, spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type ConfigurationEvent,
  type ConfigurationFile,
  collectConfiguration,
  isIncomplete,
} from "../../src/backup/configuration.ts";
import { mailServices } from "../../src/postfix/mail-services.ts";
import { expand, readParameters, scopes } from "../../src/postfix/parameters.ts";
import { userId } from "../../src/system/accounts.ts";
import { digestOf } from "../../src/system/digest.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/** A private configuration directory, files beside it, and a root for the host's own files. */
class Host {
  readonly directory = makeScratch();
  readonly configDirectory = join(this.directory, "etc/postfix");
  readonly root = join(this.directory, "root");

  constructor() {
    this.write("etc/postfix/main.cf", "compatibility_level = 3.6\nalias_maps =\nalias_database =\n");
    this.write("etc/postfix/master.cf", "smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\n");
    this.main("queue_directory", this.path("spool"));
    this.main("data_directory", this.path("data"));
    mkdirSync(this.root);
    mkdirSync(this.path("spool"));
    mkdirSync(this.path("data"));
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Write a file with its directories; returns its path. */
  write(name: string, text: string | Uint8Array, mode = 0o644): string {
    const path = this.path(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  }

  main(name: string, value: string): void {
    appendFileSync(join(this.configDirectory, "main.cf"), `${name} = ${value}\n`);
  }

  master(line: string): void {
    appendFileSync(join(this.configDirectory, "master.cf"), `${line}\n`);
  }

  /** Postfix waits two seconds before it reads a main.cf that is younger than that (`dict_load_file`). */
  settle(): void {
    const longAgo = 1_700_000_000;
    for (const name of ["main.cf", "master.cf"]) utimesSync(join(this.configDirectory, name), longAgo, longAgo);
  }

  compile(type: string, path: string): void {
    this.settle();
    execFileSync("postmap", ["-c", this.configDirectory, `${type}:${path}`], { env: withSbin });
  }

  async collect(
    options: { include?: string[]; mailServices?: boolean; configDirectory?: string; root?: string } = {},
  ): Promise<Collected> {
    this.settle();
    const events: ConfigurationEvent[] = [];
    const files = await collectConfiguration({
      instance: {
        name: "test",
        configDirectory: options.configDirectory ?? this.configDirectory,
        queueDirectory: this.path("spool"),
        dataDirectory: this.path("data"),
      },
      include: options.include ?? [],
      mailServices: options.mailServices ?? false,
      root: options.root ?? this.root,
      report: (event) => events.push(event),
    });
    return { files, events };
  }
}

interface Collected {
  readonly files: readonly ConfigurationFile[];
  readonly events: readonly ConfigurationEvent[];
}

const withSbin = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
let host: Host;

/** Reading and digesting it takes longer than another process needs to replace a file. */
const slowToRead = Buffer.alloc(40_000_000, "someone@example.org x\n");

/** Another process that writes the next number into each file in turn (new file, rename), every two milliseconds. */
async function replaceAgainAndAgain(
  paths: readonly string[],
  forMs: number,
): Promise<{ ended: Promise<void>; end(): void }> {
  const script = `
    const { renameSync, writeFileSync } = require("node:fs");
    let number = 0;
    const until = Date.now() + ${forMs};
    setInterval(() => {
      if (Date.now() > until) process.exit();
      number++;
      for (const path of ${JSON.stringify(paths)}) {
        writeFileSync(path + ".new", String(number));
        renameSync(path + ".new", path);
      }
      if (number === 1) console.log("started");
    }, 2);`;
  const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  await new Promise((resolve) => child.stdout.once("data", resolve));
  return { ended, end: () => child.kill("SIGKILL") };
}

/** The one entry of a path: there must be exactly one, and its bytes, mode, owner and time those of the disk. */
function entry({ files }: Collected, path: string): ConfigurationFile | undefined {
  const found = files.filter((file) => file.path === path);
  expect(found.length, path).toBeLessThanOrEqual(1);
  const [one] = found;
  if (one?.type === "file" && existsSync(path)) {
    const stat = statSync(path);
    expect(one.bytes?.equals(readFileSync(path)), path).toBe(true);
    expect(one.digest).toBe(digestOf(readFileSync(path)).digest);
    expect(one.mode).toBe(stat.mode & 0o7777);
    expect([one.owner.uid, one.owner.gid]).toEqual([stat.uid, stat.gid]);
    expect(one.mtime).toBeCloseTo(stat.mtimeMs / 1000, 3);
  }
  return one;
}

/** Each path was kept, in area `named`, and nothing was said. */
function expectNamed(collected: Collected, ...paths: string[]): void {
  for (const path of paths)
    expect(entry(collected, path), path).toMatchObject({ area: "named", instance: "test", type: "file" });
  expect(collected.events).toEqual([]);
}

describe.skipIf(!needs("root", "postfix"))("the configuration of an instance", () => {
  beforeEach(() => {
    host = new Host();
  });
  afterEach(() => destroyScratch(host.directory));

  describe("configuration directory and reports", () => {
    test("main.cf, master.cf and everything beside them, with directories and links; no sockets, no queue", async () => {
      const extra = host.write("etc/postfix/maps/deep/own.cf", "x\n", 0o640);
      symlinkSync("maps/deep/own.cf", join(host.configDirectory, "link.cf"));
      execFileSync("mkfifo", [join(host.configDirectory, "fifo")]);
      const server = createServer().listen(join(host.configDirectory, "socket"));
      host.write("spool/deferred/A/A123", "mail");
      try {
        const collected = await host.collect();
        for (const name of ["main.cf", "master.cf"]) {
          expect(entry(collected, join(host.configDirectory, name))).toMatchObject({
            area: "config",
            instance: "test",
          });
        }
        expect(entry(collected, extra)).toMatchObject({ area: "config", mode: 0o640 });
        expect(entry(collected, host.configDirectory)).toMatchObject({
          area: "config",
          type: "directory",
          digest: null,
        });
        expect(entry(collected, join(host.configDirectory, "maps/deep"))?.type).toBe("directory");
        const link = entry(collected, join(host.configDirectory, "link.cf"));
        expect(link).toMatchObject({ area: "config", type: "link", target: "maps/deep/own.cf", digest: null });
        expect(collected.files.filter((file) => /\/(fifo|socket|spool)(\/|$)/.test(file.path))).toEqual([]);
        expect(collected.events).toEqual([]);
      } finally {
        server.close();
      }
    });

    test("what postconf says is kept as reports, the same bytes and time until the configuration changes", async () => {
      host.master("  -o smtpd_banner=hello");
      const first = await host.collect();
      const second = await host.collect();
      const reports = first.files.filter((file) => file.area === "report");
      expect(reports.map((file) => file.path)).toEqual([
        "postconf-n",
        "postconf-M",
        "postconf-P",
        "postconf-m",
        "mail_version",
        "timezone",
      ]);
      expect(second.files.filter((file) => file.area === "report")).toEqual(reports);
      expect(entry(first, "postconf-n")?.bytes?.toString()).toContain(`queue_directory = ${host.path("spool")}\n`);
      expect(entry(first, "postconf-P")?.bytes?.toString()).toBe("cleanup/unix/smtpd_banner = hello\n");
      expect(entry(first, "timezone")?.bytes?.toString()).toBe(
        `${new Intl.DateTimeFormat().resolvedOptions().timeZone}\n`,
      );
      expect(entry(first, "mail_version")?.bytes?.toString()).toMatch(/^mail_version = \d+\.\d+/);
      expect(reports.every((file) => file.mode === 0o600 && file.owner.user === "root")).toBe(true);
    });

    test("a main.cf that postconf refuses is kept, and the backup incomplete", async () => {
      host.write("etc/postfix/main.cf", "compatibility_level = 3.6\nno equals sign here\n");
      const collected = await host.collect();
      expect(entry(collected, join(host.configDirectory, "main.cf"))).toBeDefined();
      expect(collected.events.filter(isIncomplete)).toMatchObject([{ type: "config-unreadable", namedBy: "postconf" }]);
    });

    test("a configuration directory that is a link keeps the name Postfix knows it by", async () => {
      const link = host.path("etc/postfix-current");
      symlinkSync("postfix", link);
      host.write("etc/postfix/maps/t", "a b\n");
      host.main("transport_maps", `texthash:${host.configDirectory}/maps/t`);
      const collected = await host.collect({ configDirectory: link });
      expect(collected.events).toEqual([]);
      expect(entry(collected, link)).toMatchObject({ type: "directory", area: "config" });
      expect(entry(collected, join(link, "main.cf"))).toMatchObject({ type: "file", area: "config" });
      expect(entry(collected, join(link, "maps/t"))).toMatchObject({ area: "config" });
      expect(collected.files.filter((file) => file.path.startsWith(`${host.configDirectory}/`))).toEqual([]);
    });

    test("a link out of the configuration directory: its file is kept where it is, a package's is not", async () => {
      const elsewhere = host.write("srv/checks", "/x/ y\n", 0o640);
      const [ours, packaged] = ["checks", "makedefs.out"].map((name) => join(host.configDirectory, name));
      symlinkSync(elsewhere, String(ours));
      symlinkSync("/usr/share/postfix/makedefs.out", String(packaged));
      const collected = await host.collect();
      expectNamed(collected, elsewhere);
      expect(entry(collected, String(ours))).toMatchObject({ type: "link", area: "config", target: elsewhere });
      expect(entry(collected, String(packaged))).toMatchObject({ type: "link", area: "config" });
      expect(collected.files.filter((file) => file.path.startsWith("/usr/"))).toEqual([]);
    });

    test("continuation lines, comments between them, and $ through other parameters", async () => {
      const a = host.write("maps/a", "a\n");
      const b = host.write("maps/b", "b\n");
      host.main("maps", host.path("maps"));
      host.main("transport_maps", "texthash:$maps/a,\n# between\n\n   texthash:${maps?{$maps}}/b");
      expectNamed(await host.collect(), a, b);
    });
  });

  describe("lookup tables", () => {
    test.each([
      ["hash", ".db"],
      ["btree", ".db"],
    ])("%s: source and compiled file", async (type, suffix) => {
      const source = host.write("maps/transport", "example.org smtp:[127.0.0.1]\n");
      host.compile(type, source);
      host.main("transport_maps", `${type}:${source}`);
      expectNamed(await host.collect(), source, source + suffix);
    });

    // Where this Postfix can't compile the type, bytes of our own stand for the compiled file: they are not looked at.
    test.each([
      ["lmdb", [".lmdb"]],
      ["cdb", [".cdb"]],
      ["dbm", [".dir", ".pag"]],
      ["sdbm", [".dir", ".pag"]],
    ])("%s: source and compiled files", async (type, suffixes) => {
      const source = host.write("maps/transport", "example.org smtp:[127.0.0.1]\n");
      const types = execFileSync("postconf", ["-m"], { env: withSbin, encoding: "utf8" }).split("\n");
      if (types.includes(type)) host.compile(type, source);
      else for (const suffix of suffixes) host.write(`maps/transport${suffix}`, "compiled");
      host.main("transport_maps", `${type}:${source}`);
      expectNamed(await host.collect(), source, ...suffixes.map((suffix) => source + suffix));
    });

    test.each(["texthash", "cidr", "pcre", "regexp"])("%s: the source alone", async (type) => {
      const source = host.write("maps/table", "/x/ y\n");
      host.main("canonical_maps", `proxy:${type}:${source}`);
      expectNamed(await host.collect(), source);
    });

    test("sqlite: the client's settings, its database and what that has not merged yet", async () => {
      const database = host.path("data.d/mail.sqlite");
      const client = host.write(
        "maps/sqlite.cf",
        `dbpath = ${database}\nquery = SELECT v FROM t WHERE k='%s'\n`,
        0o640,
      );
      mkdirSync(dirname(database));
      const open = new DatabaseSync(database);
      try {
        open.exec("PRAGMA journal_mode=WAL; CREATE TABLE t(k, v); INSERT INTO t VALUES ('a', 'b')");
        host.main("virtual_alias_maps", `sqlite:${client}`);
        expectNamed(await host.collect(), client, database, `${database}-wal`);
      } finally {
        open.close();
      }
    });

    test.each(["mysql", "pgsql", "ldap", "memcache"])(
      "%s: the client's settings with its password, 0640 and owner kept",
      async (type) => {
        const client = host.write(`maps/${type}.cf`, "hosts = 127.0.0.1\nuser = postfix\npassword = /s3cret\n", 0o640);
        chownSync(client, 0, userId("daemon") ?? 0);
        host.main("virtual_mailbox_maps", `proxy:${type}:${client}`);
        const collected = await host.collect();
        expectNamed(collected, client);
        expect(entry(collected, client)).toMatchObject({ mode: 0o640, owner: { user: "root", group: "daemon" } });
      },
    );

    test("a table that only -o names, and a main.cf table as a service with another $dir sees it", async () => {
      const only = host.write("maps/only", "a\n");
      const main = host.write("maps/one/checks", "/a/ b\n");
      const seen = host.write("maps/two/checks", "/a/ c\n");
      host.main("dir", host.path("maps/one"));
      host.main("header_checks", "regexp:$dir/checks");
      host.master(`strict unix n - n - 0 cleanup -o dir=${host.path("maps/two")}`);
      host.master(`  -o { body_checks = texthash:${only} }`);
      expectNamed(await host.collect(), only, main, seen);
    });

    test("tables in tables, behind !, in groups, with spaces in their path", async () => {
      const names = ["u1", "u2", "p1", "group", "with space/x"];
      const [u1, u2, p1, group, space] = names.map((name) => host.write(`maps/${name}`, "a b\n"));
      host.main(
        "virtual_alias_maps",
        `proxy:unionmap:{texthash:${u1}, texthash:${u2}} pipemap:{texthash:${p1}, static:x}`,
      );
      host.main("transport_maps", `{ texthash:${group}, inline:{ a=b } }`);
      host.main("mynetworks", `127.0.0.0/8 !{ texthash:${space} }`);
      expectNamed(await host.collect(), ...[u1, u2, p1, group, space].map(String));
    });

    test("a file of patterns, and the table it names", async () => {
      const table = host.write("maps/domains", "example.org x\n");
      const patterns = host.write("maps/patterns", `# ours\nexample.net texthash:${table}\n`);
      host.main("relay_domains", patterns);
      expectNamed(await host.collect(), patterns, table);
    });

    test("a source that is gone is a warning of its own; so is a table that was never compiled, or is not there at all", async () => {
      const lost = host.write("maps/lost", "a b\n");
      host.compile("hash", lost);
      rmSync(lost);
      const uncompiled = host.write("maps/uncompiled", "a b\n");
      host.main("transport_maps", `hash:${lost}, hash:${uncompiled}, hash:${host.path("maps/never")}`);
      const collected = await host.collect();
      expect(entry(collected, `${lost}.db`)).toMatchObject({ area: "named" });
      expect(collected.events).toEqual([
        { type: "config-compiled-only", path: lost, namedBy: "main.cf transport_maps" },
        { type: "config-missing", path: `${uncompiled}.db`, namedBy: "main.cf transport_maps" },
        { type: "config-missing", path: host.path("maps/never"), namedBy: "main.cf transport_maps" },
      ]);
      expect(collected.events.some(isIncomplete)).toBe(false);
    });

    test("caches in the data directory stay there, a source somebody put there is kept", async () => {
      const own = host.write("data/own", "a b\n");
      host.compile("hash", own);
      host.write("data/cache.db", "cache");
      host.main("transport_maps", `hash:${own} btree:${host.path("data/cache")}`);
      const collected = await host.collect();
      expectNamed(collected, own, `${own}.db`);
      expect(entry(collected, host.path("data/cache.db"))).toBeUndefined();
    });

    test("a table behind links: links as links, the file under its real path", async () => {
      const real = host.write("srv/real/transport", "a b\n");
      symlinkSync("real", host.path("srv/current"));
      symlinkSync("../srv/current/transport", join(host.configDirectory, "../transport"));
      const named = host.path("etc/transport");
      host.main("transport_maps", `texthash:${named}`);
      const collected = await host.collect();
      expectNamed(collected, real);
      expect(entry(collected, named)).toMatchObject({
        type: "link",
        area: "named",
        target: "../srv/current/transport",
      });
      expect(entry(collected, host.path("srv/current"))).toMatchObject({ type: "link", target: "real" });
      const links = collected.files.filter((file) => file.type === "link").map((file) => file.path);
      expect(collected.files.filter((file) => links.some((link) => file.path.startsWith(`${link}/`)))).toEqual([]);
    });
  });

  describe("other files of Postfix", () => {
    test("aliases with their compiled file, the lists and the programs they name", async () => {
      const list = host.write("lists/staff", "a@example.org\n");
      const program = host.write("lists/robot", "#!/bin/sh\n", 0o755);
      const aliases = host.write("etc/aliases", `root: postmaster\nstaff: :include:${list}\nrobot: "|${program} -x"\n`);
      host.settle();
      execFileSync("postalias", ["-c", host.configDirectory, `hash:${aliases}`], { env: withSbin });
      host.main("alias_maps", `hash:${aliases}`);
      host.main("alias_database", `$alias_maps`);
      expectNamed(await host.collect(), aliases, `${aliases}.db`, list, program);
    });

    test("certificate, key (0600 root), chain, parameters, authorities' file and directory", async () => {
      const cert = host.write("tls/cert.pem", "cert\n");
      const key = host.write("tls/private/key.pem", "key\n", 0o600);
      const chain = host.write("tls/chain.pem", "chain\n", 0o600);
      const dh = host.write("tls/dh.pem", "dh\n");
      const ca = host.write("tls/ca.pem", "ca\n");
      const one = host.write("tls/ca.d/one.pem", "one\n");
      symlinkSync("one.pem", host.path("tls/ca.d/12345678.0"));
      const ec = host.write("tls/ec.pem", "ec\n", 0o600);
      host.main("smtpd_tls_cert_file", cert);
      host.main("smtpd_tls_key_file", key);
      host.main("smtp_tls_chain_files", chain);
      host.main("smtpd_tls_dh1024_param_file", dh);
      host.main("smtp_tls_CAfile", ca);
      host.main("smtp_tls_CApath", host.path("tls/ca.d"));
      host.master(`tls unix n - n - 0 smtpd -o smtpd_tls_eckey_file=${ec}`);
      const collected = await host.collect();
      expectNamed(collected, cert, key, chain, dh, ca, one, ec);
      expect(entry(collected, key)).toMatchObject({
        mode: 0o600,
        owner: { user: "root", group: "root", uid: 0, gid: 0 },
      });
      expect(entry(collected, host.path("tls/ca.d"))).toMatchObject({ type: "directory", area: "named" });
      expect(entry(collected, host.path("tls/ca.d/12345678.0"))).toMatchObject({ type: "link", target: "one.pem" });
    });

    test("keys and chains that the table of server names lists, also in Let's Encrypt's links", async () => {
      const archived = host.write("le/archive/x/privkey3.pem", "key and chain\n", 0o600);
      mkdirSync(host.path("le/live/x"), { recursive: true });
      symlinkSync("../../archive/x/privkey3.pem", host.path("le/live/x/privkey.pem"));
      const sni = host.write("maps/sni", `x.example ${host.path("le/live/x/privkey.pem")}\n`, 0o600);
      host.settle();
      execFileSync("postmap", ["-c", host.configDirectory, "-F", `hash:${sni}`], { env: withSbin });
      host.main("tls_server_sni_maps", `hash:${sni}`);
      const collected = await host.collect();
      expectNamed(collected, sni, `${sni}.db`, archived);
      expect(entry(collected, host.path("le/live/x/privkey.pem"))?.type).toBe("link");
    });

    test("SASL passwords: the client's map, 0600 root, and the server's settings", async () => {
      const passwords = host.write("maps/sasl_passwd", "[relay] user:secret\n", 0o600);
      host.compile("hash", passwords);
      chmodSync(`${passwords}.db`, 0o600);
      host.main("smtp_sasl_password_maps", `hash:${passwords}`);
      host.write("root/etc/sasldb2", "db", 0o640);
      host.write("root/etc/postfix/sasl/smtpd.conf", "pwcheck_method: auxprop\nsasldb_path: /srv/other.db\n");
      host.write("root/srv/other.db", "other", 0o600);
      const collected = await host.collect();
      expectNamed(collected, passwords, `${passwords}.db`);
      expect(entry(collected, passwords)).toMatchObject({ mode: 0o600, owner: { user: "root" } });
      for (const [path, mode] of [
        ["/etc/sasldb2", 0o640],
        ["/etc/postfix/sasl/smtpd.conf", 0o644],
        ["/srv/other.db", 0o600],
      ]) {
        expect(
          collected.files.find((file) => file.path === path),
          String(path),
        ).toMatchObject({ area: "named", instance: null, mode });
      }
    });

    test("header checks and bounce templates", async () => {
      const checks = host.write("maps/header_checks", "/^Subject: x/ HOLD\n");
      const template = host.write("etc/bounce.cf", "failure_template = <<EOF\nCharset: us-ascii\nEOF\n");
      host.main("header_checks", `regexp:${checks}`);
      host.main("bounce_template_file", template);
      expectNamed(await host.collect(), checks, template);
    });

    test("/etc/mailname and /etc/aliases of the host", async () => {
      host.write("root/etc/mailname", "mx1.example.org\n");
      host.write("root/etc/aliases", "root: admin\n");
      const collected = await host.collect();
      for (const path of ["/etc/mailname", "/etc/aliases"]) {
        expect(collected.files.find((file) => file.path === path)).toMatchObject({
          area: "named",
          instance: null,
          type: "file",
        });
      }
      expect(collected.events).toEqual([]);
    });

    test("scripts of pipe and spawn with their arguments, no binaries, no word of a program that is not there", async () => {
      const filter = host.write("opt/my filter", "#!/bin/sh\nexit 0\n", 0o755);
      const rules = host.write("opt/rules.conf", "rules\n");
      const policy = host.write("opt/policy.py", "#!/usr/bin/python3\n", 0o755);
      const binary = host.write("opt/binary", Buffer.from([0x7f, 0x45, 0x4c, 0x46, 0]), 0o755);
      const large = host.write("opt/large", "x".repeat(1024 * 1024 + 1), 0o755);
      host.master(`filter unix - n n - 2 pipe flags=F user=nobody { argv={${filter}} } ${rules} \${sender}`);
      host.master(`policy unix - n n - 0 spawn user=nobody argv=${binary} ${policy}`);
      host.master(`large unix - n n - 0 spawn user=nobody argv=${large}`);
      host.master("gone unix - n n - 0 pipe user=nobody argv=/usr/lib/bsmtp/none ${recipient}");
      const collected = await host.collect();
      expectNamed(collected, rules, policy);
      expect(entry(collected, binary)).toBeUndefined();
      expect(entry(collected, large)).toBeUndefined();
    });
  });

  describe("the host's own files", () => {
    test("include: files and directories with all below, what is missing named", async () => {
      host.write("root/etc/extra/deep/file", "x\n", 0o640);
      host.write("root/etc/single", "y\n");
      const collected = await host.collect({ include: ["/etc/extra", "/etc/single", "/etc/none"] });
      const included = collected.files.filter((file) => file.area === "include");
      expect(included.map((file) => [file.path, file.type, file.instance])).toEqual([
        ["/etc/extra", "directory", null],
        ["/etc/extra/deep", "directory", null],
        ["/etc/extra/deep/file", "file", null],
        ["/etc/single", "file", null],
      ]);
      expect(collected.events).toEqual([{ type: "config-missing", path: "/etc/none", namedBy: "include" }]);
    });

    test.each(mailServices.map((service) => service.name))("%s where found", async (name) => {
      const service = mailServices.find((one) => one.name === name);
      const wanted: string[] = [];
      for (const path of [...(service?.paths ?? []), ...(service?.data ?? [])]) {
        const isFile = /\.conf$|default\/|sasldb2$/.test(path);
        const file = isFile ? path : `${path}/local.d/settings`;
        host.write(`root${file}`, "# settings\n", 0o640);
        wanted.push(file);
      }
      const collected = await host.collect({ mailServices: true });
      for (const path of wanted) {
        const found = collected.files.find((file) => file.path === path);
        expect(found, path).toMatchObject({ type: "file", mode: 0o640, instance: null });
        // The SASL library's own files belong to Postfix already.
        if (path !== "/etc/sasldb2") expect(found?.area, path).toBe("service");
      }
      expect(collected.events).toEqual([]);
      const without = await host.collect();
      expect(without.files.filter((file) => file.area === "service")).toEqual([]);
    });

    test("OpenDKIM's private keys wherever KeyTable has them, 0600 and theirs", async () => {
      const owner = userId("daemon") ?? 0;
      host.write("root/etc/opendkim.conf", "KeyTable refile:/srv/dkim/table\nSocket local:/run/x.sock\n");
      host.write("root/srv/dkim/table", "mail._domainkey.a.example a.example:mail:/srv/keys/mail.private\n");
      chownSync(host.write("root/srv/keys/mail.private", "private", 0o600), owner, owner);
      const collected = await host.collect({ mailServices: true });
      const key = collected.files.find((file) => file.path === "/srv/keys/mail.private");
      expect(key).toMatchObject({ area: "service", mode: 0o600, owner: { user: "daemon", uid: owner } });
      expect(collected.events).toEqual([]);
    });
  });

  describe("reading", () => {
    test("each path once, the configuration directory before a name in main.cf before a service before include", async () => {
      const table = host.write("etc/postfix/table", "a b\n");
      host.main("transport_maps", `texthash:${table}`);
      host.main("relocated_maps", `texthash:${table}`);
      host.write("root/etc/rspamd/local.d/x", "x\n");
      const collected = await host.collect({ mailServices: true, include: ["/etc/rspamd"] });
      const paths = collected.files.map((file) => file.path);
      expect(new Set(paths).size).toBe(paths.length);
      expect(entry(collected, table)?.area).toBe("config");
      expect(collected.files.find((file) => file.path === "/etc/rspamd/local.d/x")?.area).toBe("service");
    });

    test("all twelve permission bits are kept", async () => {
      const odd = host.write("etc/postfix/odd", "x\n", 0o6573);
      chmodSync(host.configDirectory, 0o1777);
      const collected = await host.collect();
      expect(entry(collected, odd)?.mode).toBe(0o6573);
      expect(entry(collected, host.configDirectory)?.mode).toBe(0o1777);
    });

    test("an owner without an account is kept by number", async () => {
      const table = host.write("maps/t", "a b\n");
      chownSync(table, 3_999_999, 3_999_998);
      host.main("transport_maps", `texthash:${table}`);
      const owner = { user: "3999999", group: "3999998", uid: 3_999_999, gid: 3_999_998 };
      expect(entry(await host.collect(), table)?.owner).toEqual(owner);
    });

    test("a file replaced while we read is read again; all files are of one moment", async () => {
      const [a, b] = [host.write("maps/a", "0"), host.write("maps/b", "0")];
      host.main("transport_maps", `texthash:${a} texthash:${host.write("maps/large", slowToRead)} texthash:${b}`);
      // A deployment: the same number into both, a first, again and again until before the last attempt.
      const writer = await replaceAgainAndAgain([a, b], 500);
      try {
        const collected = await host.collect();
        await writer.ended;
        expect(collected.events).toEqual([]);
        const last = readFileSync(b, "utf8");
        expect(Number(last)).toBeGreaterThan(10);
        expect(entry(collected, a)?.bytes?.toString()).toBe(last);
        expect(entry(collected, b)?.bytes?.toString()).toBe(last);
      } finally {
        writer.end();
      }
    });

    test("a file that never stops changing is kept, and said to", async () => {
      const a = host.write("maps/a", "0");
      host.main("transport_maps", `texthash:${a} texthash:${host.write("maps/large", slowToRead)}`);
      const writer = await replaceAgainAndAgain([a], 60_000);
      try {
        const collected = await host.collect();
        expect(collected.files.find((file) => file.path === a)?.bytes?.toString()).toMatch(/^\d+$/);
        expect(collected.events).toEqual([{ type: "config-changing", path: a }]);
      } finally {
        writer.end();
      }
    });

    test("a 50 MB table comes whole; its larger compiled file is left out and said to be, without making the backup incomplete", async () => {
      const source = host.write("maps/huge", Buffer.alloc(50_000_000, "someone@example.org someone@example.net\n"));
      host.write("maps/huge.db", "");
      execFileSync("truncate", ["-s", "65M", `${source}.db`]);
      host.main("virtual_alias_maps", `hash:${source}`);
      const before = process.memoryUsage().rss;
      const collected = await host.collect();
      const grown = process.memoryUsage().rss - before;
      expect(collected.files.find((file) => file.path === source)?.bytes?.length).toBe(50_000_000);
      expect(grown).toBeLessThan(120_000_000);
      expect(collected.events).toMatchObject([{ type: "config-skipped", path: `${source}.db` }]);
      expect(collected.events.some(isIncomplete)).toBe(false);
    });

    test("a source larger than can be kept makes the backup incomplete", async () => {
      const source = host.write("maps/huge", "");
      execFileSync("truncate", ["-s", "65M", source]);
      host.main("virtual_alias_maps", `texthash:${source}`);
      const collected = await host.collect();
      expect(collected.events).toMatchObject([
        { type: "config-unreadable", path: source, namedBy: "main.cf virtual_alias_maps" },
      ]);
      expect(collected.events.some(isIncomplete)).toBe(true);
    });

    test("what may not be read makes the backup incomplete, each by its path; the rest is kept", async () => {
      const key = host.write("tls/key.pem", "key\n", 0o600);
      const locked = host.write("etc/postfix/locked/file", "x\n");
      chmodSync(dirname(locked), 0o700);
      host.main("smtpd_tls_key_file", key);
      host.settle();
      const request = {
        name: "test",
        configDirectory: host.configDirectory,
        queueDirectory: "/q",
        dataDirectory: "/d",
      };
      // Root reads everything, so this takes another user.
      const script = `
        import { collectConfiguration } from ${JSON.stringify(join(import.meta.dirname, "../../src/backup/configuration.ts"))};
        const events = [];
        const report = (event) => events.push(event);
        const instance = ${JSON.stringify(request)};
        const files = await collectConfiguration({ instance, include: [], mailServices: false, root: "${host.root}", report });
        console.log(JSON.stringify({ events, paths: files.map((file) => file.path) }));`;
      const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
        uid: userId("nobody") ?? 65534,
        env: withSbin,
        encoding: "utf8",
        stdio: ["ignore", "pipe", "inherit"],
      });
      const { events, paths } = JSON.parse(said);
      expect(events).toEqual([
        { type: "config-unreadable", path: dirname(locked), namedBy: "config_directory", reason: "EACCES" },
        { type: "config-unreadable", path: key, namedBy: "main.cf smtpd_tls_key_file", reason: "EACCES" },
      ]);
      expect(paths).toContain(join(host.configDirectory, "main.cf"));
    });

    test("a name that is not UTF-8 can't be kept, and is said to", async () => {
      writeFileSync(Buffer.concat([Buffer.from(`${host.configDirectory}/caf`), Buffer.from([0xe9])]), "x");
      const collected = await host.collect();
      expect(collected.events).toMatchObject([{ type: "config-unreadable", reason: "its name is not UTF-8" }]);
    });

    test("include never takes the queue", async () => {
      host.write("spool/deferred/A/A123", "mail");
      host.write("root/x", "");
      const collected = await host.collect({ include: [host.path("spool"), host.directory], root: "/" });
      expect(collected.files.filter((file) => file.path.startsWith(host.path("spool")))).toEqual([]);
      expect(collected.files.some((file) => file.path === host.path("root/x"))).toBe(true);
      expect(collected.events).toMatchObject([
        { type: "config-skipped", path: host.path("spool"), namedBy: "include" },
      ]);
    });

    test("links in a ring and a directory elsewhere end the walk, not the backup", async () => {
      symlinkSync("ring-b", join(host.configDirectory, "ring-a"));
      symlinkSync("ring-a", join(host.configDirectory, "ring-b"));
      host.write("srv/maps/x", "x\n");
      symlinkSync(host.path("srv/maps"), join(host.configDirectory, "elsewhere"));
      const collected = await host.collect();
      expect(entry(collected, join(host.configDirectory, "ring-a"))?.type).toBe("link");
      expect(collected.events.map((event) => event.type)).toEqual([
        "config-skipped",
        "config-unreadable",
        "config-unreadable",
      ]);
      expect(collected.events[0]).toMatchObject({
        path: host.path("srv/maps"),
        namedBy: join(host.configDirectory, "elsewhere"),
      });
    });
  });

  test("our expansion is postconf's own", async () => {
    host.main("dir", "/etc/mail");
    host.main("empty", "");
    const texts = [
      "$dir/a ${dir}b $(dir)c",
      "${dir?yes} ${empty?yes} ${empty:no} ${dir:no}",
      "${dir?{yes}:{no}} ${empty?{yes}:{no}}",
      "${dir?{ spaced }} ${empty:{ $dir/deep }}",
      "${{$dir} == {/etc/mail} ? {same} : {other}} ${{$dir} != {/etc/mail} ? {other}}x",
      "${{10} > {9} ? {number} : {text}} ${{a10} > {a9} ? {number} : {text}}",
      "${{3.6} <=level {3.10} ? {older} : {newer}}",
      "$$dir $$$dir",
      "${dir?{${empty?{a}:{${dir:x}}}}}",
      "${empty?{a}:b}c ${dir?a:b} x${empty? {a} : b }x x${dir? a }x x${empty: a }x",
      "${dir ? {a} : {b}} ${ dir }x ${dir:{x}}y ${empty:{x}}y",
      "${{ $dir } == {/etc/mail} ? {a} : {b}} ${{$dir}=={/etc/mail}?{ a }:{b}}",
    ];
    texts.forEach((text, index) => {
      host.main(`canonical_${index}`, text);
    });
    host.main("canonical_maps", texts.map((_, index) => `$canonical_${index}`).join(" | "));
    host.settle();
    const printed = execFileSync("postconf", ["-c", host.configDirectory, "-x", "-h", "canonical_maps"], {
      env: withSbin,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [main] = scopes(await readParameters(host.configDirectory));
    // postconf prints runs of spaces as one, and none at the end.
    expect(main?.value("canonical_maps").replace(/ +/g, " ").trim()).toBe(printed.slice(0, -1));
    expect(expand("$nothing", () => "")).toBe("");
  });
});
