// biome-ignore-all lint/suspicious/noTemplateCurlyInString: Postfix writes ${name} as well
import { describe, expect, test } from "vitest";
import { compiledFiles, hostFiles, type NamedFile, namedFiles } from "../../src/postfix/maps.ts";
import type { MasterService, PostfixParameters } from "../../src/postfix/parameters.ts";

describe("tables in a value", () => {
  test.each([
    ["hash:/a", ["hash:/a"]],
    ["hash:/a, btree:/b\tcidr:/c", ["hash:/a", "btree:/b", "cidr:/c"]],
    ["proxy:mysql:/a.cf", ["mysql:/a.cf"]],
    ["proxy:unionmap:{hash:/a, proxy:ldap:/b}", ["hash:/a", "ldap:/b"]],
    ["pipemap:{regexp:/a, unionmap:{hash:/b, static:x}}", ["regexp:/a", "hash:/b"]],
    ["!hash:/a 10.0.0.0/8", ["hash:/a"]],
    ["{ hash:/a, hash:/b }", ["hash:/a", "hash:/b"]],
    ["{ hash:/with space/a }", ["hash:/with space/a"]],
    ["check_client_access hash:/a, { check_policy_service unix:/sock, timeout=10s }, permit", ["hash:/a"]],
    ["static:/a inline:{x=hash:/b} tcp:host:25 socketmap:unix:/s:x nis:mail fail:/c randmap:{/d,/e}", []],
    ["environ:PATH unix:passwd.byname internal:x", []],
    ["regexp:{{/^a/ b}} pcre:{ {/x/ y} } cidr:{{0.0.0.0/0 REJECT}}", []],
    ["ldap:oldstyle mysql:settings", []],
    [
      "lmdb:/l cdb:/c dbm:/d sdbm:/s texthash:/t pcre:/p",
      ["lmdb:/l", "cdb:/c", "dbm:/d", "sdbm:/s", "texthash:/t", "pcre:/p"],
    ],
    ["sqlite:/q pgsql:/g memcache:/m", ["sqlite:/q", "pgsql:/g", "memcache:/m"]],
    ["hash:maps/relative", ["hash:/queue/maps/relative"]],
    ["lmtp:unix:/run/lmtp smtp:[127.0.0.1]:10025", []],
    ["debug:hash:/a", ["hash:/a"]],
  ])("%s", (value, expected) => {
    expect(tables({ transport_maps: value })).toEqual(expected);
  });
});

test("compiled files of each type", () => {
  const suffixes = ["hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash", "pcre", "mysql"].map((type) =>
    compiledFiles(type, "/m"),
  );
  expect(suffixes).toEqual([
    ["/m.db"],
    ["/m.db"],
    ["/m.lmdb"],
    ["/m.cdb"],
    ["/m.dir", "/m.pag"],
    ["/m.dir", "/m.pag"],
    [],
    [],
    [],
  ]);
});

test("a bare path in a match list is a file of patterns, which may name tables and files again", () => {
  const [file] = find({ mydestination: "/etc/local, localhost" }, "/etc/local");
  expect(file).toMatchObject({ shape: "file", required: true });
  const named = file?.reader?.("/etc/local", "# none\nexample.org hash:/more\n  !/others\n") ?? [];
  expect(named.map((one) => [one.shape, one.path])).toEqual([
    ["map", "/more"],
    ["file", "/others"],
  ]);
});

test("directories, programs' places, sockets, logs and caches are no files to keep", () => {
  const paths = find(
    {
      command_directory: "/usr/sbin",
      mailq_path: "/usr/bin/mailq",
      maillog_file: "/var/log/mail",
      smtpd_milters: "unix:/run/milter /run/other",
      address_verify_map: "btree:/var/lib/postfix/verify_cache",
      smtp_tls_session_cache_database: "btree:/x/smtp_scache",
      virtual_mailbox_base: "/var/vmail",
    },
    /./,
  );
  expect(paths).toEqual([]);
});

test("certificates, keys and the like are whole values or lists, authorities a directory", () => {
  const main = {
    smtpd_tls_cert_file: "/etc/ssl/my certs/a.pem",
    smtpd_tls_key_file: "$smtpd_tls_cert_file",
    smtpd_tls_chain_files: "/k.pem, /c.pem",
    smtp_tls_CAfile: "/ca.pem",
    smtp_tls_CApath: "/etc/ca",
    smtpd_tls_eckey_file: "/ec.pem",
    smtpd_tls_dh1024_param_file: "/dh.pem",
    lmtp_tls_trust_anchor_file: "/ta.pem",
    tls_config_file: "default",
    bounce_template_file: "/bounce.cf",
  };
  expect(find(main, /./).map((file) => `${file.shape} ${file.path}`)).toEqual([
    "file /etc/ssl/my certs/a.pem",
    "file /k.pem",
    "file /c.pem",
    "file /ca.pem",
    "tree /etc/ca",
    "file /ec.pem",
    "file /dh.pem",
    "file /ta.pem",
    "file /bounce.cf",
  ]);
});

test("what only a built-in default names is not required", () => {
  const files = namedFiles(parameters({}, [], { alias_maps: "hash:/etc/aliases" }));
  expect(files.map((file) => [file.path, file.required])).toEqual([["/etc/aliases", false]]);
});

test("an alias database without a type has the default type", () => {
  const main = { alias_database: "/etc/aliases", default_database_type: "cdb" };
  expect(find(main, "/etc/aliases")).toMatchObject([{ shape: "map", mapType: "cdb" }]);
});

test("aliases name included lists and programs", () => {
  const [file] = find({ alias_maps: "hash:/etc/aliases" }, "/etc/aliases");
  const text =
    'all: :include:/lists/all, bob\nteam: ":include:/lists/the team"\nrobot: "|/opt/robot --conf /etc/robot"\n';
  const named = file?.reader?.("/etc/aliases", text) ?? [];
  expect(named.map((one) => `${one.shape} ${one.path}`)).toEqual([
    "file /lists/all",
    "file /lists/the team",
    "script /opt/robot",
    "script /etc/robot",
  ]);
});

test("a table of server names has its keys and chains, in a file or in main.cf itself", () => {
  const [file] = find({ tls_server_sni_maps: "hash:/sni" }, "/sni");
  const text = "example.org /keys/a.pem /keys/a-chain.pem\n# /no\nb.example /keys/b.pem,\n  /keys/c.pem\n";
  expect(file?.reader?.("/sni", text).map((one) => one.path)).toEqual([
    "/keys/a.pem",
    "/keys/a-chain.pem",
    "/keys/b.pem",
    "/keys/c.pem",
  ]);
  const inline = find({ tls_server_sni_maps: "inline:{ {example.org = /i/key /i/chain} }" }, /./);
  expect(inline.map((one) => one.path)).toEqual(["/i/key", "/i/chain"]);
});

test("a TLS policy names trust anchors", () => {
  const [file] = find({ smtp_tls_policy_maps: "texthash:/policy" }, "/policy");
  const text = "example.org secure tafile=/ta/a.pem tafile=/ta/b.pem match=x\n";
  expect(file?.reader?.("/policy", text).map((one) => one.path)).toEqual(["/ta/a.pem", "/ta/b.pem"]);
});

test.each([
  [
    "sqlite",
    "dbpath = /var/db/mail.sqlite\nquery = SELECT 1\n",
    ["/var/db/mail.sqlite", "/var/db/mail.sqlite-wal", "/var/db/mail.sqlite-journal"],
  ],
  [
    "ldap",
    "tls_ca_cert_file = /ca.pem\ntls_ca_cert_dir = /ca\ntls_key=/key\nserver_host = ldaps://x\n",
    ["/ca.pem", "/ca", "/key"],
  ],
  ["mysql", "hosts = /run/mysqld.sock\npassword = /secret/\noption_file = /my.cnf\n", ["/my.cnf"]],
  ["memcache", "memcache = inet:localhost:11211\nbackup = proxy:btree:/backup\n", ["/backup"]],
])("the client of a %s table names files", (type, text, expected) => {
  const [file] = find({ virtual_alias_maps: `proxy:${type}:/client.cf` }, "/client.cf");
  expect(file?.reader?.("/client.cf", text).map((one) => one.path)).toEqual(expected);
});

test("programs of pipe and spawn, with spaces in braces, and of main.cf", () => {
  const services: MasterService[] = [
    service("filter", "pipe", ["flags=F", "argv={/opt/my filter}", "-f", "${sender}", "/etc/filter.conf", "/x/$user"]),
    service("policy", "spawn", ["user=nobody", "argv=/usr/bin/python3", "/opt/policy.py"]),
    service("smtp", "smtpd", ["argv=/no"]),
  ];
  const main = { mailbox_command: "/usr/bin/procmail -a $EXTENSION /etc/$USER/rc $dir/procmailrc", dir: "/etc/mail" };
  const files = namedFiles(parameters(main, services)).filter((file) => file.shape === "script");
  expect(files.filter((file) => file.required)).toEqual([]);
  expect(files.map((file) => file.path).sort()).toEqual([
    "/etc/filter.conf",
    "/etc/mail",
    "/etc/mail/procmailrc",
    "/opt/my filter",
    "/opt/policy.py",
    "/usr/bin/procmail",
    "/usr/bin/python3",
  ]);
});

test("a table named only by a service is found, and says so", () => {
  const smtp = service("smtp", "smtpd", [], { smtpd_sender_restrictions: "check_sender_access hash:$dir/senders" });
  const [file] = namedFiles(parameters({ dir: "/maps" }, [smtp])).filter((one) => one.path === "/maps/senders");
  expect(file).toMatchObject({ namedBy: "smtp/unix smtpd_sender_restrictions", required: true });
});

test("SASL settings are looked for where the library does, and name its password file", () => {
  const files = hostFiles(
    parameters({ smtpd_sasl_type: "cyrus", smtpd_sasl_path: "smtpd", cyrus_sasl_config_path: "/own" }),
  );
  const paths = files.map((file) => file.path);
  expect(paths).toEqual(expect.arrayContaining(["/own/smtpd.conf", "/etc/sasldb2", "/etc/mailname", "/etc/aliases"]));
  const settings = files.find((file) => file.path === "/own/smtpd.conf");
  expect(settings?.reader?.("/own/smtpd.conf", "sasldb_path: /srv/sasldb\n").map((one) => one.path)).toEqual([
    "/srv/sasldb",
  ]);
});

function parameters(
  main: Record<string, string>,
  services: MasterService[] = [],
  defaults: Record<string, string> = {},
): PostfixParameters {
  return {
    configDirectory: "/etc/postfix",
    explicit: new Map(Object.entries({ queue_directory: "/queue", ...main })),
    defaults: new Map(Object.entries(defaults)),
    services,
    mapTypes: [],
    reports: new Map(),
  };
}

function service(name: string, command: string, args: string[], overrides: Record<string, string> = {}): MasterService {
  return { name, type: "unix", command, args, overrides: new Map(Object.entries(overrides)) };
}

function find(main: Record<string, string>, path: string | RegExp): NamedFile[] {
  return namedFiles(parameters(main)).filter((file) =>
    path instanceof RegExp ? path.test(file.path) : path === file.path,
  );
}

function tables(main: Record<string, string>): string[] {
  return find(main, /./).map((file) => `${file.mapType}:${file.path}`);
}
