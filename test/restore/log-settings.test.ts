import { describe, expect, test } from "vitest";
import { logSettingsOf } from "../../src/restore/log-settings.ts";

function settings(main: string, { master = "", overrides = "", timezone = "" } = {}) {
  const reports = new Map([
    ["postconf-n", main],
    ["postconf-M", master],
    ["postconf-P", overrides],
    ["timezone", timezone],
  ]);
  return logSettingsOf(reports, "nothing is kept");
}

const smtpd = "submission inet n - y - - smtpd";
const relay = "relay unix - - y - - smtp";

describe("names in the log", () => {
  test.each<{ what: string; main: string; master?: string; overrides?: string; names: string[] | undefined }>([
    { what: "Postfix's own", main: "", names: ["postfix"] },
    { what: "an instance's", main: "multi_instance_name = postfix-out\n", names: ["postfix-out"] },
    {
      what: "one that was set",
      main: "syslog_name = mail/$multi_instance_name\nmulti_instance_name = a\n",
      names: ["mail/a"],
    },
    {
      what: "services below it",
      ...{ main: "", master: `${smtpd}\n${relay}\n` },
      overrides:
        "submission/inet/syslog_name = postfix/submission\nrelay/unix/syslog_name = $(multi_instance_name?{$multi_instance_name}:{postfix})/$service_name\n",
      names: ["postfix"],
    },
    {
      what: "a service's own",
      ...{ main: "multi_instance_name = out\n", master: `${smtpd}\n${relay}\n` },
      overrides: "submission/inet/syslog_name = msa\nrelay/unix/syslog_name = $service_name-$multi_instance_name\n",
      names: ["out", "msa", "relay-out"],
    },
    { what: "any, for one made of what is not kept", main: "syslog_name = mail-$myhostname\n", names: undefined },
    {
      what: "that of the host it was set to",
      main: "syslog_name = mail-$myhostname\nmyhostname = mx\n",
      names: ["mail-mx"],
    },
    { what: "any, for an empty one", main: "syslog_name =\n", names: undefined },
  ])("are $what", ({ names, main, master = "", overrides = "" }) => {
    expect(settings(main, { master, overrides }).names).toEqual(names);
  });
});

test("retry times are main.cf's, or what the queue manager is given in master.cf", () => {
  expect(settings("")).toMatchObject({ queueRunDelayS: 300, maximalBackoffS: 4000 });
  const main = "queue_run_delay = 2m\nmaximal_backoff_time = $queue_run_delay\n";
  expect(settings(main)).toMatchObject({ queueRunDelayS: 120, maximalBackoffS: 120 });
  const master = { master: "qmgr unix n - n 300 1 qmgr\n", overrides: "qmgr/unix/queue_run_delay = 1h\n" };
  expect(settings(main, master)).toMatchObject({ queueRunDelayS: 3600, maximalBackoffS: 3600 });
});

test("own addresses are those that are written down", () => {
  const main = [
    "inet_interfaces = $myhostname, 192.0.2.1, [2001:db8:0:0::1]",
    "proxy_interfaces = 198.51.100.7",
    "smtp_bind_address = 0.0.0.0\n",
  ];
  const master =
    "smtp inet n - y - - smtpd\n192.0.2.9:10025 inet n - y - - smtpd\n[2001:db8::2]:smtp inet n - y - - smtpd\n";
  expect(settings(main.join("\n"), { master }).ownAddresses).toEqual([
    "192.0.2.1",
    "2001:db8::1",
    "198.51.100.7",
    "0.0.0.0",
    "192.0.2.9",
    "2001:db8::2",
  ]);
  expect(settings("inet_interfaces = all\n").ownAddresses).toEqual([]);
});

test("the time zone is the snapshot's, if it has one", () => {
  expect(settings("", { timezone: "Europe/Paris\n" }).zone).toBe("Europe/Paris");
  expect(settings("").zone).toBeUndefined();
});

test("without configuration every name counts, and that is said", () => {
  expect(logSettingsOf(new Map(), "nothing is kept")).toEqual({
    ...{ names: undefined, queueRunDelayS: 300, maximalBackoffS: 4000, ownAddresses: [], zone: undefined },
    warnings: [expect.stringMatching(/^nothing is kept: lines of every Postfix instance in the logs count/)],
  });
});
