import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { lackingTypes } from "../../src/postfix/map-types.ts";
import type { NamedFile } from "../../src/postfix/maps.ts";
import type { PostfixParameters } from "../../src/postfix/parameters.ts";
import { parseServices, scopes } from "../../src/postfix/parameters.ts";
import { isSecret, unifiedDiff } from "../../src/restore/configuration-difference.ts";
import { ConfigurationJournal, readConfigurationRuns } from "../../src/restore/configuration-journal.ts";
import { lookAt, moveIn, namesIn, type Present, writeBeside } from "../../src/restore/configuration-place.ts";
import {
  type Considered,
  decide,
  forbidden,
  type Mapping,
  modeHere,
  ownerHere,
  parameterChanges,
  placeOf,
} from "../../src/restore/configuration-plan.ts";
import {
  type HostFacts,
  reviewCertificates,
  reviewListeners,
  reviewSettings,
} from "../../src/restore/configuration-review.ts";
import { holdsPassword, namesSecret } from "../../src/restore/configuration-settings.ts";
import { movedSettings, tablesOf } from "../../src/restore/configuration-tables.ts";
import { digestOf } from "../../src/system/digest.ts";
import { needs } from "../support/needs.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { file, noon } from "./entries.ts";

const mapping: Mapping = { from: "/etc/postfix", to: "/etc/postfix-b", root: "/", queues: ["/var/spool/postfix"] };

function parameters(main: Record<string, string>, over: Partial<PostfixParameters> = {}): PostfixParameters {
  return {
    configDirectory: "/etc/postfix",
    explicit: new Map(Object.entries(main)),
    defaults: new Map([["default_database_type", "hash"]]),
    services: [],
    mapTypes: ["hash", "btree", "texthash"],
    reports: new Map(),
    ...over,
  };
}

function named(path: string, mapType: string, namedBy: string): NamedFile {
  return { path, shape: "map", mapType, namedBy, required: true, reader: null };
}

describe("where a file goes", () => {
  test("below the target's configuration directory, or under its own path", () => {
    expect(placeOf({ path: "/etc/postfix" }, mapping)).toEqual({ base: "/etc/postfix-b", steps: [] });
    expect(placeOf({ path: "/etc/postfix/a/b" }, mapping)).toEqual({ base: "/etc/postfix-b", steps: ["a", "b"] });
    expect(placeOf({ path: "/etc/postfix-x/a" }, mapping)).toEqual({ base: "/", steps: ["etc", "postfix-x", "a"] });
  });

  test("a name is refused, or every step of it is plain", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom("/", ".", "..", "a", "etc", "postfix", "\0")), (parts) => {
        let place: ReturnType<typeof placeOf>;
        try {
          place = placeOf({ path: parts.join("") }, mapping);
        } catch (error) {
          expect(error).toMatchObject({ kind: "damaged" });
          return;
        }
        expect(place.steps.every((step) => !["", ".", ".."].includes(step) && !/[/\0]/.test(step))).toBe(true);
      }),
    );
  });

  test("never into the kernel's files, a queue, or among the package's files", () => {
    const why = (path: string) => forbidden(file({ path }), placeOf({ path }, mapping), mapping);
    expect(why("/proc/1/mem")).toBeDefined();
    expect(why("/dev/sda")).toBeDefined();
    expect(why("/var/spool/postfix/hold/A123456")).toBeDefined();
    expect(why("/etc/postfix/postfix-script")).toBeDefined();
    expect(why("/var/spool/postfix/etc/sasldb2")).toBeUndefined();
    expect(why("/etc/aliases")).toBeUndefined();
    expect(why("/etc/postfix/main.cf")).toBeUndefined();
  });

  test("owners by name; without one root's alone, also where a number would fit", () => {
    const users: Record<string, number> = { root: 0, postfix: 901 };
    const here = (user: string, group: string) =>
      ownerHere(
        { user, group, uid: 102, gid: 105 },
        (name) => users[name],
        (name) => users[name],
      );
    expect(here("postfix", "root")).toEqual({ uid: 901, gid: 0, missing: null });
    expect(here("102", "root")).toEqual({ uid: 0, gid: 0, missing: "user 102" });
    expect(here("opendkim", "opendkim").missing).toBe("user opendkim and group opendkim");
    expect(modeHere({ type: "file", mode: 0o6755 }, here("postfix", "root"))).toBe(0o755);
    expect(modeHere({ type: "directory", mode: 0o2775 }, here("postfix", "root"))).toBe(0o2775);
    expect(modeHere({ type: "file", mode: 0o644 }, here("102", "root"))).toBe(0o600);
  });
});

describe("what becomes of a file", () => {
  const content = Buffer.from("new\n");
  const stored = { digest: digestOf(content).digest, bytes: content.length, pack: digestFrom("pack") };
  const dress = { mode: 0o644, uid: 0, gid: 0, mtime: noon };
  function present(text: string, over: object = {}): Present {
    const bytes = Buffer.from(text);
    return { kind: "file", bytes: bytes.length, digest: digestOf(bytes).digest, content: bytes, ...dress, ...over };
  }
  function decided(here: Present, over: Partial<Considered> = {}) {
    return decide({
      entry: file({ path: "/etc/x", file: stored }),
      place: { base: "/", steps: ["etc", "x"] },
      ...{ here, content, namedSecret: false, forbidden: undefined, compiled: null },
      owner: { uid: 0, gid: 0, missing: null },
      ...over,
    });
  }

  test("new, same, changed with a diff, mode only", () => {
    expect(decided({ kind: "nothing" })).toMatchObject({ action: "new", difference: null });
    expect(decided(present("new\n"))).toMatchObject({ action: "same" });
    const changed = decided(present("old\n"));
    expect(changed.action).toBe("changed");
    expect(changed.difference).toMatchObject({ kind: "text", diff: expect.stringContaining("-old\n+new\n") });
    expect(decided(present("new\n", { mode: 0o640 }))).toMatchObject({
      action: "changed",
      difference: { kind: "mode" },
    });
    expect(decided(present("new\n", { uid: 5 }))).toMatchObject({ action: "changed", difference: { kind: "mode" } });
  });

  test("of a secret nothing is told", () => {
    const secret = decided(present("old\n"), { namedSecret: true });
    expect(secret).toMatchObject({ action: "changed", secret: true, difference: { kind: "secret" } });
    expect(JSON.stringify(secret)).not.toMatch(new RegExp(`old|${stored.digest}`));
    expect(decided(present("old\n", { mode: 0o600 })).difference).toEqual({ kind: "secret" });
  });

  test("binary: digests", () => {
    expect(decided(present("a\0b")).difference).toEqual({
      ...{ kind: "digest", saved: stored.digest },
      here: digestOf(Buffer.from("a\0b")).digest,
    });
  });

  test("what is in the way", () => {
    expect(decided({ kind: "directory", ...dress })).toMatchObject({ action: "left", problem: true });
    expect(decided({ kind: "other", what: "a device" }).reason).toContain("a device");
    expect(decided({ kind: "unreachable", what: "/etc is a link" })).toMatchObject({ action: "left", problem: true });
    const link = decided({ kind: "link", target: "/y", ...dress });
    expect(link).toMatchObject({ action: "changed", difference: { kind: "type", here: "a link to /y" } });
    const directory = file({ path: "/etc/x", type: "directory", file: null, mode: 0o755 });
    expect(decided(present("x"), { entry: directory, content: null })).toMatchObject({ action: "left", problem: true });
    const orphan = { uid: 0, gid: 0, missing: "user x" };
    const open: Present = { kind: "directory", ...dress, mode: 0o755 };
    expect(decided(open, { entry: directory, content: null, owner: orphan }).action).toBe("same");
  });

  test("forbidden, compiled", () => {
    expect(decided(present("x"), { forbidden: "the kernel's" })).toMatchObject({ action: "kept", problem: false });
    expect(decided({ kind: "nothing" }, { compiled: "rebuilt" }).action).toBe("rebuilt");
    expect(decided({ kind: "nothing" }, { compiled: "unnamed" })).toMatchObject({ action: "left", problem: false });
  });
});

describe("secrets", () => {
  const nothing: Present = { kind: "nothing" };
  const secret = (text: string, path = "/etc/x.cf") =>
    isSecret({ path, namedSecret: false, savedMode: 0o644, saved: Buffer.from(text), here: nothing });

  test.each([
    "-----BEGIN PRIVATE KEY-----\nx",
    "-----BEGIN EC PRIVATE KEY-----",
    "password = x",
    "  bindpw: x",
    "connect = host=db password=x user=y",
    "dnpass=x",
    '  "password" : "x"',
    "api_key=x",
  ])("%j is one although everybody may read it", (text) => {
    expect(secret(`first\n${text}\n`)).toBe(true);
  });

  test.each([
    "smtp_sasl_password_maps = hash:/etc/postfix/x",
    "# password = example",
    "; password = example",
    "smtpd_tls_key_file = /etc/ssl/private/x.key",
    "password",
    "myhostname = mx",
  ])("%j is none", (text) => {
    expect(secret(`${text}\n`)).toBe(false);
  });

  test("by path, and by what settings say", () => {
    expect(secret("x", "/etc/postfix/sasl_passwd")).toBe(true);
    expect(secret("x", "/etc/ssl/private/x.pem")).toBe(true);
    expect(secret("x", "/etc/x.key")).toBe(true);
    expect(namesSecret(named("/x", "hash", "smtp/unix smtp_sasl_password_maps"))).toBe(true);
    expect(namesSecret(named("/x", "mysql", "main.cf virtual_alias_maps"))).toBe(true);
    expect(namesSecret(named("/x", "hash", "main.cf smtpd_tls_eckey_file"))).toBe(true);
    expect(namesSecret(named("/x", "hash", "main.cf virtual_alias_maps"))).toBe(false);
    expect(holdsPassword("main.cf smtp_sasl_password_maps", "inline:{ {a=b:c} }")).toBe(true);
    expect(holdsPassword("main.cf smtp_sasl_password_maps", "hash:/x")).toBe(false);
  });

  test("values of a secret main.cf are not told", () => {
    const [one] = parameterChanges(new Map([["a", "1"]]), new Map([["a", "2"]]), false);
    expect(one).toEqual({ name: "a", here: null, saved: null });
  });
});

test("two texts that have nothing in common take no time to be given up on", () => {
  const many = (word: string) => Buffer.from(Array.from({ length: 20_000 }, (_, n) => `${word} ${n}\n`).join(""));
  const start = performance.now();
  expect(unifiedDiff("/x", many("a"), many("b"))).toBeUndefined();
  expect(performance.now() - start).toBeLessThan(6000);
});

describe("tables", () => {
  const saved = () => true;

  test("each compiled file once, aliases by postalias whoever else names them, chains by -F", () => {
    const files = [
      named("/etc/aliases", "hash", "main.cf virtual_alias_maps"),
      named("/etc/aliases", "hash", "main.cf alias_maps"),
      named("/etc/postfix/x", "btree", "main.cf transport_maps"),
      named("/etc/postfix/x", "hash", "main.cf relocated_maps"),
      named("/etc/postfix/t", "texthash", "main.cf relocated_maps"),
      named("/etc/postfix/sni", "hash", "main.cf tls_server_sni_maps"),
    ];
    const tables = tablesOf(files, parameters({}), saved);
    expect(
      tables.map(({ program, type, source, ofFiles }) => `${program}${ofFiles ? " -F" : ""} ${type}:${source}`),
    ).toEqual(["postalias hash:/etc/aliases", "postmap btree:/etc/postfix/x", "postmap -F hash:/etc/postfix/sni"]);
    expect(tablesOf(files, parameters({}), () => false)).toEqual([]);
  });

  test("a lacking type is offered the default one, wherever it is written", () => {
    const services = parseServices("smtp unix - - n - - smtp -o x=y\n", "smtp/unix/smtp_generic_maps = lmdb:/g\n");
    const main = {
      transport_maps: "cdb:/etc/postfix/t, proxy:cdb:$config_directory/u",
      virtual_alias_maps: "pcre:/p, regexp:/etc/cdb:x",
      default_database_type: "cdb",
    };
    const lacking = lackingTypes(parameters(main, { services }), () => true);
    expect(lacking.map(({ type, settings }) => [type, settings.map(({ suggestion }) => suggestion)])).toEqual([
      ["cdb", ["hash:/etc/postfix/t, proxy:hash:$config_directory/u", "hash"]],
      ["pcre", [null]],
      ["lmdb", ["hash:/g"]],
    ]);
    expect(lacking.find(({ type }) => type === "pcre")?.remedy).toContain("postfix-pcre");
    expect(JSON.stringify(lackingTypes(parameters(main), () => false))).not.toContain("/etc/postfix/t");
  });

  test("settings that name the source's directory by its path are offered the target's", () => {
    const main = { a: "hash:/etc/postfix/x, $config_directory/y /etc/postfix-old/z", b: "/srv/etc/postfix/x" };
    expect(movedSettings(parameters(main), "/etc/postfix", "/etc/$1", () => true)).toEqual([
      { setting: "main.cf a", value: main.a, suggestion: "hash:/etc/$1/x, $config_directory/y /etc/postfix-old/z" },
    ]);
    expect(movedSettings(parameters(main), "/etc/postfix", "/etc/postfix", () => true)).toEqual([]);
  });
});

describe("what must be looked at", () => {
  const host: HostFacts = {
    addresses: ["192.0.2.1", "2001:db8::1", "::1"],
    userExists: (name) => name === "postfix",
    groupExists: (name) => name === "postdrop",
    exists: (path) => path === "/usr/lib/postfix/sbin",
    now: noon * 1000,
  };
  const review = (saved: Record<string, string>, here: Record<string, string> = {}, over = {}) =>
    reviewSettings(scopes(parameters(saved, over)), scopes(parameters(here)), host);

  test("host-specific settings that differ, also through -o, and none that are the same", () => {
    const saved = {
      myhostname: "mx1.test",
      relayhost: "[relay]",
      mynetworks: "10.0.0.0/8",
      myorigin: "$mydomain",
      mydomain: "test",
    };
    const here = { myhostname: "mx2.test", relayhost: "[relay]", myorigin: "test" };
    const services = parseServices("x unix - - n - - smtp\n", "x/unix/smtp_bind_address = 192.0.2.1\n");
    const found = review(saved, here, { services });
    expect(found.map(({ setting, saved: value, here: now }) => [setting, value, now])).toEqual([
      ["main.cf myhostname", "mx1.test", "mx2.test"],
      ["main.cf mydomain", "test", ""],
      ["main.cf mynetworks", "10.0.0.0/8", ""],
      ["x/unix smtp_bind_address", "192.0.2.1", ""],
    ]);
  });

  test("addresses, users, groups and directories that are not here", () => {
    const wrong = (saved: Record<string, string>) =>
      review(saved, saved).map(({ level, setting }) => `${level} ${setting}`);
    expect(wrong({ inet_interfaces: "127.0.0.1, 192.0.2.1, [2001:DB8:0::1], [::1], $myhostname" })).toEqual([]);
    expect(wrong({ inet_interfaces: "192.0.2.9" })).toEqual(["wrong main.cf inet_interfaces"]);
    expect(wrong({ smtp_bind_address6: "2001:db8::2" })).toEqual(["wrong main.cf smtp_bind_address6"]);
    expect(wrong({ mail_owner: "mailer", setgid_group: "postdrop" })).toEqual(["wrong main.cf mail_owner"]);
    expect(wrong({ daemon_directory: "/usr/libexec/postfix" })).toEqual(["wrong main.cf daemon_directory"]);
    expect(wrong({ proxy_interfaces: "198.51.100.1" })).toEqual([]);
    const services = parseServices(
      "192.0.2.9:smtp inet n - n - - smtpd\n[::1]:25 inet n - n - - smtpd\nsmtp inet n - n - - smtpd\n",
      "",
    );
    expect(reviewListeners(parameters({}, { services }), host).map(({ saved }) => saved)).toEqual(["192.0.2.9:smtp"]);
  });

  test.skipIf(!needs("openssl"))("certificates: name, validity, key", () => {
    const scratch = makeScratch();
    try {
      const make = (name: string, days: string) => {
        const [key, certificate] = [join(scratch, `${name}.key`), join(scratch, `${name}.pem`)];
        const what = ["-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name}`, "-days", days];
        execFileSync(
          "openssl",
          ["req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", key, "-out", certificate, ...what],
          { stdio: "ignore" },
        );
        return { key: readFileSync(key), pem: readFileSync(certificate) };
      };
      const [one, other] = [make("mx1.test", "100"), make("mx2.test", "100")];
      const findings = (over: object, now = Date.now()) =>
        reviewCertificates([{ setting: "s", path: "/c", serverName: "mx1.test", ...one, ...over }], now).map(
          ({ level, finding }) => `${level} ${finding}`,
        );
      const day = 86_400_000;
      expect(findings({})).toEqual([]);
      expect(findings({ serverName: null, ...other })).toEqual([]);
      expect(findings(other)).toEqual(["look it is for DNS:mx2.test, and myhostname is mx1.test"]);
      expect(findings({ key: other.key })).toEqual(["wrong the private key is not this certificate's"]);
      expect(findings({}, Date.now() + 80 * day)).toEqual([expect.stringMatching(/^look it expires on /)]);
      expect(findings({}, Date.now() + 200 * day)).toEqual([expect.stringMatching(/^wrong it expired on /)]);
      expect(findings({}, Date.now() - 2 * day)).toEqual([expect.stringMatching(/^wrong it is not valid before /)]);
      expect(findings({ pem: Buffer.from("no") })).toEqual(["wrong it holds no certificate that can be read"]);
    } finally {
      destroyScratch(scratch);
    }
  });
});

describe("places and journal", () => {
  let scratch: string;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => destroyScratch(scratch));
  const { uid, gid } = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
  const dress = { mode: 0o640, uid, gid, mtime: noon };

  test("a file is written beside its place and moved in, with its mode and time", () => {
    mkdirSync(join(scratch, "a"));
    writeFileSync(join(scratch, "a/x"), "old");
    const place = { base: scratch, steps: ["a", "x"] };
    writeBeside(place, ".t", Buffer.from("new"), dress);
    expect(readFileSync(join(scratch, "a/x"), "utf8")).toBe("old");
    moveIn(place, ".t");
    const stat = statSync(join(scratch, "a/x"));
    expect([stat.mode & 0o7777, stat.mtimeMs]).toEqual([0o640, noon * 1000]);
    expect(namesIn({ base: scratch, steps: ["a"] })).toEqual(["x"]);
  });

  test("no link on the way is followed", () => {
    mkdirSync(join(scratch, "real"));
    symlinkSync(join(scratch, "real"), join(scratch, "link"));
    const place = { base: scratch, steps: ["link", "x"] };
    expect(lookAt(place).kind).toBe("unreachable");
    expect(() => writeBeside(place, ".t", Buffer.from("new"), dress)).toThrow(/link/);
    expect(namesIn({ base: scratch, steps: ["real"] })).toEqual([]);
    expect(lookAt({ base: scratch, steps: ["no", "x"] })).toEqual({ kind: "nothing" });
    expect(lookAt({ base: scratch, steps: ["link"] })).toMatchObject({ kind: "link" });
  });

  test("an interrupted journal goes on: its own work is not kept a second time, somebody else's is", () => {
    writeFileSync(join(scratch, "x"), "before");
    const place = { base: scratch, steps: ["x"] };
    const start = { snapshot: "s", host: "h", instance: "i", configDirectory: scratch, root: "/" };
    const after = { kind: "file", digest: digestOf(Buffer.from("ours")).digest } as const;
    const journal = ConfigurationJournal.begin(join(scratch, "state"), start, noon * 1000);
    journal.keep(place, lookAt(place), after);
    journal.close();
    writeFileSync(join(journal.directory, "journal.jsonl"), '{"type":"kept","torn', { flag: "a" });
    const reread = () => readConfigurationRuns(join(scratch, "state"))[0];
    const resume = () => {
      const record = reread();
      if (record === undefined) throw new Error("no run");
      const again = ConfigurationJournal.reopen(record);
      again.keep(place, lookAt(place), after);
      again.close();
      return reread()?.kept.map(({ before }) =>
        before.kind === "file" ? readFileSync(join(journal.directory, before.copy), "utf8") : before.kind,
      );
    };
    writeFileSync(join(scratch, "x"), "ours");
    expect(resume()).toEqual(["before"]);
    writeFileSync(join(scratch, "x"), "somebody else's");
    expect(resume()).toEqual(["somebody else's"]);
    expect(statSync(journal.directory).mode & 0o7777).toBe(0o700);
  });
});
