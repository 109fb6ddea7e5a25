import { expect, test } from "vitest";
import { mailServices, serviceFiles } from "../../src/postfix/mail-services.ts";

test("every service has absolute places, no two the same, and none is required", () => {
  const files = serviceFiles();
  expect(files.filter((file) => !file.path.startsWith("/") || file.required)).toEqual([]);
  expect(new Set(files.map((file) => file.path)).size).toBe(files.length);
});

test.each([
  ["SpamAssassin", "/etc/spamassassin"],
  ["ClamAV", "/etc/clamav"],
  ["postgrey", "/etc/default/postgrey"],
  ["OpenDKIM", "/etc/opendkim.conf"],
  ["OpenDMARC", "/etc/opendmarc.conf"],
  ["Rspamd", "/etc/rspamd"],
  ["SASL", "/etc/sasldb2"],
  ["Dovecot", "/etc/dovecot"],
  ["policyd-spf", "/etc/postfix-policyd-spf-python"],
  ["amavis", "/etc/amavis"],
])("%s is known at %s", (name, path) => {
  expect(mailServices.find((service) => service.name === name)?.paths).toContain(path);
});

test("opendkim.conf names tables and keys, a KeyTable the private keys", () => {
  const conf = [
    "# KeyFile /commented",
    "KeyTable refile:/etc/opendkim/key.table",
    "SigningTable\t/etc/opendkim/signing.table # as well",
    "ExternalIgnoreList csl:127.0.0.1,10.0.0.0/8",
    "InternalHosts /etc/opendkim/hosts,127.0.0.1",
    "KeyFile /etc/dkimkeys/one.private",
    "Socket local:/run/opendkim/opendkim.sock",
    "PidFile /run/opendkim/opendkim.pid",
    "TrustAnchorFile /usr/share/dns/root.key",
  ].join("\n");
  expect(named("OpenDKIM", "/etc/opendkim.conf", conf)).toEqual([
    "/etc/opendkim/key.table",
    "/etc/opendkim/signing.table",
    "/etc/opendkim/hosts",
    "/etc/dkimkeys/one.private",
  ]);
  const keys = "mail._domainkey.example.org example.org:mail:/srv/keys/mail.private\n# x a:b:/no\ninline a:b:MIIC\n";
  expect(named("OpenDKIM", "/etc/opendkim/key.table", keys)).toEqual(["/srv/keys/mail.private"]);
});

test("opendmarc.conf names its lists, not its history", () => {
  const conf = "IgnoreHosts /etc/opendmarc/ignore.hosts\nHistoryFile /var/run/opendmarc.dat\nUserID opendmarc\n";
  expect(named("OpenDMARC", "/etc/opendmarc.conf", conf)).toEqual(["/etc/opendmarc/ignore.hosts"]);
});

test("Dovecot names certificates, keys and password files", () => {
  const conf = [
    "ssl_cert = </etc/ssl/certs/d.pem",
    "  ssl_key = </etc/ssl/private/d.key",
    "ssl_server_key_file = /etc/ssl/private/new.key",
    "  args = scheme=CRYPT username_format=%u /etc/dovecot-users",
    "  args = /home/%u/passwd",
  ].join("\n");
  expect(named("Dovecot", "/etc/dovecot/conf.d/10-ssl.conf", conf)).toEqual([
    "/etc/ssl/certs/d.pem",
    "/etc/ssl/private/d.key",
    "/etc/ssl/private/new.key",
    "/etc/dovecot-users",
  ]);
});

test("Rspamd and amavis name DKIM keys", () => {
  const rspamd = 'path = "/var/lib/rspamd/dkim/$domain.$selector.key";\n  path = "/srv/dkim/a.key";\n# path = "/no";\n';
  expect(named("Rspamd", "/etc/rspamd/local.d/dkim_signing.conf", rspamd)).toEqual(["/srv/dkim/a.key"]);
  const amavis = "dkim_key('example.org', 'mail', '/srv/amavis/mail.pem');\n# dkim_key('a', 'b', '/no');\n";
  expect(named("amavis", "/etc/amavis/conf.d/50-user", amavis)).toEqual(["/srv/amavis/mail.pem"]);
});

function named(service: string, path: string, text: string): string[] {
  const reader = mailServices.find((one) => one.name === service)?.reader;
  return reader?.(path, text).map((file) => file.path) ?? [];
}
