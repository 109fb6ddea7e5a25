import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ConfigFault, type ConfigSources, loadConfig, parseConfig } from "../../src/config/load.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "spoolsafe-config-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const file = "/x/spoolsafe.toml";
// The signing key of the machine itself is not the subject here.
const noKey = '[signing]\nkey_file = "/nonexistent/signing.key"\n';

function read(text: string, sources: Partial<ConfigSources> = {}) {
  return parseConfig(text, file, { flags: {}, env: {}, cwd: "/work", ...sources });
}

function problems(text: string, sources: Partial<ConfigSources> = {}): string[] {
  try {
    read(text, sources);
  } catch (error) {
    if (error instanceof ConfigFault)
      return error.problems.map(({ where, key, message }) => `${where} ${key}: ${message}`);
    throw error;
  }
  return [];
}

describe("defaults", () => {
  test("an empty file is a complete configuration", () => {
    const config = read(noKey);
    expect(config.state_directory).toBe("/var/lib/spoolsafe");
    expect(config.repository.url).toBeUndefined();
    expect(config.repository.path_style).toBe(true);
    expect(config.copy).toEqual([]);
    expect(config.postfix).toMatchObject({ mode: "hold", hold_batch: 500, hold_limit: 2000, freeze_limit: 300_000 });
    expect(config.thresholds.oldest).toEqual([172_800_000, 345_600_000]);
    expect(config.retention.keep_last).toBe(7);
    expect(config.limits).toEqual({ processors: 2, upload: undefined });
    expect(config.schedule.backup).toBeUndefined();
    expect(config.drill).toEqual({ rto: 1_800_000, rpo: 93_600_000 });
  });

  test("the empty string means: not set, also where there is a default", () => {
    const config = read(
      `host = ""\nstate_directory = ""\n[repository]\nurl = ""\n[limits]\nupload = ""\n[encryption]\nidentity_file = ""\n${noKey}`,
    );
    expect(config.host).toBeUndefined();
    expect(config.state_directory).toBe("/var/lib/spoolsafe");
    expect(config.repository.url).toBeUndefined();
    expect(config.limits.upload).toBeUndefined();
    expect(config.encryption.identity_file).toBeUndefined();
  });

  test("durations and rates are numbers", () => {
    const config = read(
      `[postfix]\nhold_limit = "1.5s"\n[limits]\nupload = "20MB/s"\n[alerts]\nmax_age = "2 days"\n${noKey}`,
    );
    expect(config.postfix.hold_limit).toBe(1500);
    expect(config.limits.upload).toBe(20_000_000);
    expect(config.alerts.max_age).toBe(172_800_000);
  });
});

describe("problems", () => {
  test("are reported all at once, in the order of the file, with line and key", () => {
    const text = `hots = "mx1"
[repository]
url = 3
[postfix]
hold_batch = 0
mode = "stopped"
include = ["/etc/opendkim", 4]
[limits]
upload = "fast"
processors = 1.5
${noKey}`;
    expect(problems(text)).toEqual([
      `${file}:1 hots: unknown key; the nearest known one is "host"`,
      `${file}:3 repository.url: must be a string, not 3`,
      `${file}:5 postfix.hold_batch: must be at least 1`,
      `${file}:6 postfix.mode: must be one of "hold", "freeze", "live"`,
      `${file}:7 postfix.include.1: must be a string, not 4`,
      `${file}:9 limits.upload: must be a rate such as "20MB/s"`,
      `${file}:10 limits.processors: must be a whole number, not 1.5`,
    ]);
  });

  test.each([
    ["[repositry]\nurl = 'file:///x'", `${file}:1 repositry: unknown key; the nearest known one is "repository"`],
    ["hold_limit = '2s'", `${file}:1 hold_limit: unknown key here; it belongs in [postfix]`],
    ["[limits]\nhost = 'x'", `${file}:2 limits.host: unknown key here; it belongs at the top of the file`],
    ["[drill]\nwhatever = 1", `${file}:2 drill.whatever: unknown key; known here: rto, rpo`],
    ["repository = 'file:///x'", `${file}:1 repository: must be a table, not the string "file:///x"`],
    ["[repository]\nurl = 'ftp://x'", `${file}:2 repository.url: must be "file:///directory" or "s3://bucket/prefix"`],
    ["[repository]\nurl = 'file://x'", `${file}:2 repository.url: must be "file:///directory" or "s3://bucket/prefix"`],
    ["state_directory = 'var'", `${file}:1 state_directory: must be an absolute path`],
    ["[postfix]\nhold_limit = '2'", `${file}:2 postfix.hold_limit: must be a duration such as "2s", "26h" or "2d"`],
    ["[postfix]\nhold_limit = 2", `${file}:2 postfix.hold_limit: must be a string, not 2`],
    ["[postfix]\nhold_limit = '0s'", `${file}:2 postfix.hold_limit: must be longer than nothing`],
    ["[thresholds]\nactive = [5]", `${file}:2 thresholds.active: must be two numbers: warning, critical`],
    ["[thresholds]\nactive = [5, 4]", `${file}:2 thresholds.active: the warning must not be above the critical value`],
    [
      "[schedule]\ntimezone = 'Mars/Olympus'",
      `${file}:2 schedule.timezone: must be a time zone such as "Europe/Paris"`,
    ],
    ["[schedule]\ndrill = '0 5 1 * *'", `${file}:2 schedule.drill: a drill needs encryption.identity_file`],
    [
      "[repository]\nurl = 's3://b'\nobject_lock_days = 36500",
      `${file}:3 repository.object_lock_days: must be at most 3650: a lock can't be taken back`,
    ],
    [
      "[repository]\nurl = '/var/backups'\nobject_lock_days = 7",
      `${file}:3 repository.object_lock_days: a directory keeps no locks: whoever may write there may delete as well. Set 0, or use a bucket with Object Lock`,
    ],
    ["[[copy]]\nulr = ''", `${file}:2 copy.0.ulr: unknown key; the nearest known one is "url"`],
    ["host = 1979-05-27", `${file}:1 host: must be a string, not a date`],
    ["host = 'a b'", `${file}:1 host: must be letters, digits, dots, dashes and underscores`],
    ["host 'a'", `${file}:1 : not valid TOML: Expected equal (=) token`],
    ["host = 'a'\nhost = 'b'", `${file}:2 : not valid TOML: Defining a key multiple times is invalid`],
    [
      "[retention]\nkeep_last = 0\nkeep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0",
      `${file}:1 retention: every value is 0: nothing would be kept`,
    ],
  ])("%j", (text, problem) => {
    expect(problems(`${text}\n${noKey}`)).toEqual([problem]);
  });

  test("a [[copy]] without a url, and a drill with an identity, are none", () => {
    expect(
      problems(
        `[[copy]]\nurl = ""\n[schedule]\ndrill = "0 5 1 * *"\n[encryption]\nidentity_file = "/nonexistent"\n${noKey}`,
      ),
    ).toEqual([]);
  });

  test("the error says the same to people", () => {
    expect(() => read("hots = 1\n[limits]\nprocessors = 0\n[signing]\nkey_file = '/nonexistent'")).toThrow(
      `2 problems in the configuration\n${file}:1: hots: unknown key; the nearest known one is "host"\n${file}:3: limits.processors: must be at least 1`,
    );
  });
});

describe("secrets", () => {
  test.each([
    ["encryption", "identity_file"],
    ["signing", "key_file"],
    ["repository", "credentials_file"],
  ])("%s.%s readable by others is a problem that says chmod 600", (section, key) => {
    const secret = join(directory, "secret");
    writeFileSync(secret, "x", { mode: 0o600 });
    const text = `[${section}]\n${key} = "${secret}"\n${section === "signing" ? "" : noKey}`;
    expect(problems(text)).toEqual([]);
    chmodSync(secret, 0o640);
    expect(problems(text)).toEqual([
      `${file}:2 ${section}.${key}: ${secret} can be read by others (mode 0640); run: chmod 600 ${secret}`,
    ]);
  });

  test("of a flag, too", () => {
    writeFileSync(join(directory, "id"), "x", { mode: 0o644 });
    expect(problems(noKey, { flags: { identityFile: "id" }, cwd: directory })).toEqual([
      `--identity-file encryption.identity_file: ${directory}/id can be read by others (mode 0644); run: chmod 600 ${directory}/id`,
    ]);
  });
});

describe("sources", () => {
  const text = `[repository]\nurl = "file:///from-file"\nregion = "r1"\ncredentials_file = "/nonexistent/c"\n${noKey}`;

  test("flags beat environment beats file", () => {
    expect(read(text).repository.url).toBe("file:///from-file");
    const env = {
      SPOOLSAFE_REPOSITORY: "file:///from-env",
      SPOOLSAFE_IDENTITY_FILE: "id",
      MAIL_CONFIG: "/etc/postfix-b",
    };
    expect(read(text, { env })).toMatchObject({
      repository: { url: "file:///from-env" },
      encryption: { identity_file: "/work/id" },
      postfix: { config_directories: ["/etc/postfix-b"] },
    });
    const flags = { repository: "file:///from-flag", identityFile: "/id2" };
    expect(read(text, { env, flags })).toMatchObject({
      repository: { url: "file:///from-flag" },
      encryption: { identity_file: "/id2" },
    });
  });

  test("empty variables are not set", () => {
    const env = { SPOOLSAFE_REPOSITORY: "", SPOOLSAFE_IDENTITY_FILE: "", MAIL_CONFIG: "", AWS_REGION: "" };
    expect(read(text, { env })).toEqual(read(text));
  });

  test("the SDK's variables beat the file", () => {
    const env = {
      AWS_REGION: "r2",
      AWS_ACCESS_KEY_ID: "a",
      AWS_SECRET_ACCESS_KEY: "b",
      AWS_ENDPOINT_URL: "http://127.0.0.1:1",
    };
    expect(read(text, { env }).repository).toMatchObject({ region: "r2", endpoint: "http://127.0.0.1:1" });
    expect(read(text, { env }).repository.credentials_file).toBeUndefined();
  });

  test("a bad flag is named as such", () => {
    expect(problems(text, { flags: { repository: "nonsense" } })).toEqual([
      '--repository repository.url: must be "file:///directory" or "s3://bucket/prefix"',
    ]);
  });

  test("a file that was named must exist, however it was named", () => {
    const path = join(directory, "none.toml");
    const fault = `${path}: there is no such configuration file`;
    expect(() => loadConfig({ flags: { config: path }, env: {}, cwd: "/" })).toThrow(fault);
    expect(() => loadConfig({ flags: {}, env: { SPOOLSAFE_CONFIG: path }, cwd: "/" })).toThrow(fault);
    writeFileSync(path, noKey);
    expect(loadConfig({ flags: { config: "none.toml" }, env: {}, cwd: directory }).signing.key_file).toBe(
      "/nonexistent/signing.key",
    );
  });
});

describe("alerts by mail", () => {
  const mail = (smtp: string) => `[alerts]\nsmtp = "${smtp}"\nsmtp_from = "a@b.test"\nsmtp_to = ["c@d.test"]\n${noKey}`;

  test.each([
    "smtp://localhost",
    "smtp://localhost:25",
    "SMTP://LOCALHOST:25",
    "smtp://127.0.0.1",
    "smtp://127.1:25",
    "smtp://[::1]:25",
    "smtps://localhost",
    "smtp://localhost:587",
    "smtp://mx1.example.org",
  ])("not through this host's own Postfix: %s", (smtp) => {
    expect(problems(`host = "mx1.example.org"\n${mail(smtp)}`)).toEqual([
      expect.stringMatching(/^\/x\/spoolsafe.toml:3 alerts.smtp: .* is this host, and port \d+ its own Postfix/),
    ]);
  });

  test.each(["smtp://relay.test", "smtps://relay.test:465", "smtp://[2001:db8::1]:25", "smtp://127.0.0.1:2525"])(
    "%s is a relay",
    (smtp) => expect(read(mail(smtp)).alerts.smtp).toBe(smtp),
  );

  test.each(["relay:25", "smtp:///x", "http://relay", "smtp://u%zz@relay", "smtp://relay:x"])("%s is none", (smtp) => {
    expect(problems(mail(smtp))).toEqual([expect.stringContaining('alerts.smtp: must be "smtp://relay:port"')]);
  });

  test("needs sender and receivers, and receivers need a relay", () => {
    const sender = `/x/spoolsafe.toml:2 alerts.smtp: needs alerts.smtp_from and alerts.smtp_to as well`;
    expect(problems(`[alerts]\nsmtp = "smtp://relay.test"\nsmtp_from = "a@b.test"\n${noKey}`)).toEqual([sender]);
    expect(problems(`[alerts]\nsmtp = "smtp://relay.test"\nsmtp_to = ["a@b.test"]\n${noKey}`)).toEqual([sender]);
    expect(problems(`[alerts]\nsmtp_to = ["a@b.test"]\n${noKey}`)).toEqual([
      "/x/spoolsafe.toml:2 alerts.smtp_to: nobody gets these mails: alerts.smtp names no relay",
    ]);
  });

  test("addresses are addresses", () => {
    const text = `[alerts]\nsmtp = "smtp://relay.test"\nsmtp_from = "Ops <a@b.test>"\nsmtp_to = ["root", "a@b\\r\\nBcc: x@y"]\n${noKey}`;
    expect(problems(text).map((line) => line.split(":")[2]?.trim())).toEqual([
      'must be an address such as "postmaster@example.org"',
      'must be an address such as "postmaster@example.org"',
    ]);
  });

  test("a password makes the file a secret", () => {
    const path = join(directory, "spoolsafe.toml");
    const load = () => loadConfig({ flags: { config: path }, env: {}, cwd: "/" });
    writeFileSync(path, mail("smtp://me:secret@relay.test"));
    chmodSync(path, 0o644);
    expect(load).toThrow(/alerts.smtp: .*can be read by others \(mode 0644\)/);
    chmodSync(path, 0o600);
    expect(load().alerts.smtp).toContain("secret");
  });
});
