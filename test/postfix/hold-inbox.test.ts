import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parameterReasons, scannerReasons, scriptReasons } from "../../src/postfix/hold-inbox.ts";
import { type PostfixParameters, parseServices } from "../../src/postfix/parameters.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "spoolsafe-inbox-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function put(path: string, text: string): string {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  return file;
}

function parameters(explicit: Record<string, string>, overrides = ""): PostfixParameters {
  return {
    configDirectory: "/etc/postfix",
    explicit: new Map(Object.entries(explicit)),
    defaults: new Map(),
    services: parseServices("cleanup unix n - y - 0 cleanup\n", overrides),
    mapTypes: [],
    reports: new Map(),
  };
}

describe("scannerReasons", () => {
  test("no MailScanner, no reason", () => expect(scannerReasons(root, "/var/spool/postfix")).toEqual([]));

  test.each([
    ["/var/spool/postfix/hold", true],
    ["/var/spool/postfix/hold/", true],
    ["/etc/MailScanner/queues.conf", true],
    ["/var/spool/postfix*/hold", true],
    ["/var/spool/postfix-out/hold", false],
    ["/var/spool/postfix-out/hold/", false],
  ])("Incoming Queue Dir = %s", (directory, found) => {
    put("etc/MailScanner/MailScanner.conf", `# comment\nRun As User = postfix\nIncoming Queue Dir = ${directory}\n`);
    expect(scannerReasons(root, "/var/spool/postfix")).toHaveLength(found ? 1 : 0);
  });

  test("by another name of the same directory", () => {
    mkdirSync(join(root, "data/hold"), { recursive: true });
    symlinkSync(join(root, "data"), join(root, "link"));
    put("etc/MailScanner/MailScanner.conf", `Incoming Queue Dir = ${root}/link/hold\n`);
    expect(scannerReasons(root, join(root, "data"))).toHaveLength(1);
  });

  test("also when a file in conf.d says so", () => {
    put("etc/MailScanner/MailScanner.conf", "Run As User = postfix\n");
    put("etc/MailScanner/conf.d/site.conf", "incoming queue dir = /var/spool/postfix/hold\n");
    expect(scannerReasons(root, "/var/spool/postfix")[0]).toContain(
      "MailScanner takes its mail from /var/spool/postfix/hold",
    );
  });
});

describe("parameterReasons", () => {
  test.each([
    ["/^Received:/ HOLD", true],
    ["/^received:/ hold", true],
    ["/./ HOLD for the scanner", true],
    ["/^Message-Id:/  HOLD", true],
    ["!/^X-Scanned:/ HOLD", true],
    ["if /^Received:/\n/from/ HOLD\nendif", true],
    ["/^Received: from \\(?>x\\)+ (?<!a/) HOLD", false],
    ["/^Received: (?|a|b)/ HOLD", true],
    ["# /^Received:/ HOLD", false],
    ["/^Subject: .*lottery/ HOLD", false],
    ["/^Received: from evil\\.example/ HOLD", false],
    ["/^Received:/ IGNORE", false],
    ["/^RECEIVED:/i HOLD", false],
  ])("header_checks with %j", (rule, found) => {
    const file = put("header_checks", `${rule}\n`);
    expect(parameterReasons(parameters({ header_checks: `pcre:${file}` }))).toHaveLength(found ? 1 : 0);
  });

  test("a table that is not there, or is of another type, is no reason", () => {
    const file = put("header_checks", "/^Received:/ HOLD\n");
    expect(parameterReasons(parameters({ header_checks: `regexp:${root}/none, hash:${file}` }))).toEqual([]);
  });

  test("names the service whose own settings say so, and follows $name", () => {
    const file = put("hc", "/^Received:/ HOLD\n");
    expect(
      parameterReasons(parameters({ mychecks: `regexp:${file}` }, "cleanup/unix/header_checks = $mychecks\n")),
    ).toEqual([`header_checks of cleanup/unix puts every message on hold: /^Received:/ HOLD (${file})`]);
  });

  test("static:HOLD in a restriction", () => {
    expect(
      parameterReasons(parameters({ smtpd_client_restrictions: "check_client_access static:HOLD, permit" })),
    ).toEqual(["smtpd_client_restrictions puts every message on hold (static:HOLD)"]);
  });
});

describe("scriptReasons", () => {
  test.each([
    ["etc/crontab", "*/5 * * * * root postsuper -H ALL\n", true],
    ["etc/cron.d/release", "* * * * * root /usr/sbin/postsuper -c /etc/postfix -H ALL hold >/dev/null\n", true],
    ["etc/systemd/system/release.service", "[Service]\nExecStart=/usr/sbin/postsuper -H ALL\n", true],
    ["usr/local/sbin/unhold", "#!/bin/sh\npostsuper -H 'ALL'\n", true],
    ["var/spool/cron/crontabs/root", "0 * * * * postsuper -HALL\n", true],
    ["etc/cron.d/commented", "# postsuper -H ALL\n", false],
    ["etc/cron.d/one", "* * * * * root postsuper -H 7E48C16210F\n", false],
    ["etc/cron.d/hold", "* * * * * root postsuper -h ALL\n", false],
  ])("%s: %j", (path, text, found) => {
    const file = put(path, text);
    const reasons = scriptReasons(root);
    expect(reasons).toHaveLength(found ? 1 : 0);
    if (found) expect(reasons[0]).toContain(`${file} releases all held mail: `);
  });
});
