import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { muninConfig, muninDirtyConfig, muninValues } from "../../src/status/munin.ts";
import { nagiosLine, nagiosUnknown } from "../../src/status/nagios.ts";
import { prometheusText } from "../../src/status/prometheus.ts";
import { zabbixDocument } from "../../src/status/zabbix.ts";
import { factsOf, instanceOf, jobOf, limits, reportOf } from "./facts.ts";

const examples = join(import.meta.dirname, "../../examples");
const nothingYet = { lastBackup: null, lastVerify: null, jobs: [], instances: [] };
const copy = { url: "s3://other/mx1", behind: 1, lastSuccess: null, error: null };
const bad = { lastBackup: null, instances: [instanceOf("mx", 6000)] };

describe("nagios", () => {
  const label = `(?:'(?:[^'=|]|'')+'|[A-Za-z0-9_./:-]+)`;
  const range = String.raw`(?:\d+(?:\.\d+)?)?`;
  const datum = `${label}=\\d+(?:\\.\\d+)?(?:s|%)?;${range};${range};0?(?:;100)?`;
  const line = new RegExp(`^SPOOLSAFE (OK|WARNING|CRITICAL) - [^|\\n]+ \\| ${datum}(?: ${datum})*$`);

  test.each([
    ["OK", 0, reportOf()],
    ["WARNING", 1, reportOf({ jobs: [jobOf({ lastExit: 1 })] })],
    ["CRITICAL", 2, reportOf(bad)],
    ["CRITICAL", 2, reportOf(nothingYet)],
    ["CRITICAL", 2, reportOf({ unseen: ["one | two\nthree"], instances: [instanceOf("it's a = b")] })],
  ])("is one line, %s (%i)", (state, exit, report) => {
    const told = nagiosLine(report);
    expect(told.exit).toBe(exit);
    expect(told.line).toMatch(line);
    expect(line.exec(told.line)?.[1]).toBe(state);
  });

  test("has thresholds in its performance data", () => {
    const { line: text } = nagiosLine(reportOf({}, { ...limits, backupAge: { warning: 72_000, critical: 93_600 } }));
    expect(text).toContain(" backup_age=36000s;72000;93600;0 ");
    expect(text).toContain(" mx_deferred=1200;5000;20000;0 ");
    expect(text).toContain(" mx_oldest=3600s;172800;345600;0");
    expect(text).toContain(" hold_window=0.143s;;;0 ");
    expect(text).not.toContain("drill_age");
  });

  test("tells the worst first, and how many more there are", () => {
    const { line: text } = nagiosLine(reportOf({ ...bad, unseen: ["a", "b", "c"], copies: [copy] }));
    expect(text).toMatch(/CRITICAL - no backup has ever ended well here; .*not in s3.*; a; b; and 2 more \|/);
  });

  test("is unknown where there is no answer", () => {
    expect(nagiosUnknown("a | b\nc")).toEqual({ line: "SPOOLSAFE UNKNOWN - a / b c", exit: 3 });
  });
});

describe("munin", () => {
  const fieldName = /^[A-Za-z_][A-Za-z0-9_]*$/;

  /** Fields by graph, as munin-node reads them. */
  function graphs(text: string): Map<string, Map<string, string>> {
    const found = new Map<string, Map<string, string>>();
    for (const row of text.split("\n")) {
      const [, name = "", value = ""] = /^(\S+) (.+)$/.exec(row) ?? [];
      if (name === "multigraph") found.set(value, new Map());
      else [...found.values()].at(-1)?.set(name, value);
    }
    return found;
  }

  const report = reportOf({ instances: [instanceOf("mx"), instanceOf("postfix-out.2")] });
  const config = graphs(muninConfig(report));
  const values = graphs(muninValues(report));

  test("has a value for each field that config names, and no others", () => {
    expect([...values.keys()]).toEqual([...config.keys()]);
    for (const [graph, fields] of config) {
      expect(graph).toMatch(fieldName);
      expect(fields.get("graph_title")).toBeTruthy();
      expect(fields.get("graph_category")).toMatch(/^(backup|mail)$/);
      const named = [...fields.keys()].flatMap((key) => /^(.+)\.label$/.exec(key)?.[1] ?? []);
      for (const name of named) expect(name).toMatch(fieldName);
      expect([...(values.get(graph) ?? new Map()).keys()]).toEqual(named.map((name) => `${name}.value`));
      for (const value of values.get(graph)?.values() ?? []) expect(value).toMatch(/^(U|\d+(\.\d+)?)$/);
    }
  });

  test("has thresholds, and U for what never happened", () => {
    expect(config.get("spoolsafe_queue_postfix_out_2")?.get("deferred.warning")).toBe(":5000");
    expect(config.get("spoolsafe_age")?.get("backup.critical")).toBe(":26");
    expect(values.get("spoolsafe_age")?.get("backup.value")).toBe("10");
    expect(values.get("spoolsafe_age")?.get("drill.value")).toBe("U");
  });

  test("gives both at once to a node that can take it", () => {
    const both = graphs(muninDirtyConfig(report));
    for (const [graph, fields] of both) {
      expect([...fields]).toEqual([...(config.get(graph) ?? []), ...(values.get(graph) ?? [])]);
    }
  });

  test("works before anything has happened", () => {
    expect(
      graphs(muninValues(reportOf(nothingYet)))
        .get("spoolsafe_hold_window")
        ?.get("longest.value"),
    ).toBe("U");
  });
});

describe("zabbix", () => {
  const template = readFileSync(join(examples, "zabbix/spoolsafe_template.yaml"), "utf8");
  const all = (pattern: RegExp) => [...template.matchAll(pattern)].map(([, found = ""]) => found);

  test("is one document with every value the template takes", () => {
    const document = JSON.parse(zabbixDocument(reportOf({ lastDrill: factsOf().lastVerify, copies: [copy] })));
    const paths = all(/- '(\$\..*)'$/gm);
    expect(paths.length).toBeGreaterThan(15);
    for (const path of paths) {
      const ofInstance = /^\$\.instances\[\?\(@\.name == ''\{#INSTANCE\}''\)\]\.(\w+)\.first\(\)$/.exec(path)?.[1];
      const plain = path.slice(2).split(".");
      const value = ofInstance
        ? document.instances[0][ofInstance]
        : plain.reduce((inner, name) => inner?.[name], document);
      expect(value, path).toBeDefined();
      expect(value, path).not.toBeNull();
    }
    expect(document.discovery).toEqual([{ "{#INSTANCE}": "mx" }]);
  });

  test("tells what is wrong, and null for what never happened", () => {
    const document = JSON.parse(zabbixDocument(reportOf({ ...bad })));
    expect(document).toMatchObject({ ok: 0, problems: 2, critical: 1, backup: { age_seconds: null } });
    expect(document.text).toMatch(/^critical: no backup .*\nwarning: mx: 6000 messages/);
  });

  test("has a template whose ids are unique, and whose triggers name its own items and macros", () => {
    const ids = all(/uuid: (\S+)/g);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
    const keys = new Set(all(/ key: '?([^'\n]+)'?$/gm));
    const macros = new Set(all(/macro: '([^']+)'/g));
    const expressions = all(/expression: '([^']+)'/g);
    expect(expressions.length).toBeGreaterThan(8);
    for (const expression of expressions) {
      const [, key = ""] = /\(\/Spoolsafe\/(.+?)(?:,|\)[>=])/.exec(expression) ?? [];
      expect(keys, expression).toContain(key);
      for (const [macro] of expression.matchAll(/\{\$[^}]+\}/g)) expect(macros).toContain(macro);
    }
  });
});

describe("prometheus", () => {
  const line = /^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? (-?\d+(?:\.\d+)?)$/;

  function samples(text: string): Map<string, number> {
    const found = new Map<string, number>();
    let declared = "";
    expect(text.endsWith("\n")).toBe(true);
    for (const row of text.trimEnd().split("\n")) {
      if (row.startsWith("# HELP ")) continue;
      const [, type] = /^# TYPE (\S+) gauge$/.exec(row) ?? [];
      if (type !== undefined) {
        declared = type;
        continue;
      }
      const [, name, labels = "", value] = line.exec(row) ?? [];
      expect(name, row).toBe(declared);
      expect(found.has(`${name}${labels}`), `twice: ${row}`).toBe(false);
      found.set(`${name}${labels}`, Number(value));
    }
    return found;
  }

  test("keeps the time of the last success when a later run fails", () => {
    const found = samples(prometheusText(reportOf({ jobs: [jobOf({ lastExit: 1 })] })));
    const host = 'host="mx1.example.org"';
    expect(found.get(`spoolsafe_backup_last_success_timestamp_seconds{${host}}`)).toBe(
      Date.UTC(2026, 10, 24, 2) / 1000,
    );
    expect(found.get(`spoolsafe_backup_last_exit_code{${host}}`)).toBe(1);
    expect(found.get(`spoolsafe_ok{${host}}`)).toBe(0);
    expect(found.get(`spoolsafe_queue_messages{${host},postfix_instance="mx",queue="deferred"}`)).toBe(1200);
    expect(found.get(`spoolsafe_backup_hold_longest_seconds{${host}}`)).toBe(0.143);
  });

  test("has no sample of what never happened", () => {
    const text = prometheusText(reportOf(nothingYet));
    samples(text);
    expect(text).not.toContain("last_success");
    expect(text).not.toContain("queue_messages");
  });

  test("tells of each further repository", () => {
    const found = samples(prometheusText(reportOf({ copies: [copy] })));
    expect(found.get('spoolsafe_unsent_copies{host="mx1.example.org",url="s3://other/mx1"}')).toBe(1);
  });

  test("escapes labels, and uses none that Prometheus sets itself", () => {
    const text = prometheusText(reportOf({ instances: [instanceOf('a "b" \\ c\nd')] }));
    samples(text);
    expect(text).toContain('postfix_instance="a \\"b\\" \\\\ c\\nd"');
    expect(text).not.toMatch(/[{,](job|instance)="/);
  });

  test("tells of every host the repository has, each with its limit", () => {
    const of = (host: string) => ({
      host,
      lastBackup: factsOf().lastBackup,
      queues: null,
      snapshots: 1,
      untrusted: 0,
      future: 0,
    });
    const found = samples(prometheusText(reportOf({ repository: { hosts: [of("mx1"), of("mx2")], faults: [] } })));
    for (const host of ["mx1", "mx2"]) {
      expect(found.has(`spoolsafe_backup_last_success_timestamp_seconds{host="${host}"}`)).toBe(true);
      expect(found.get(`spoolsafe_backup_max_age_seconds{host="${host}"}`)).toBe(93_600);
    }
  });

  test("has every metric the alert rules look at", () => {
    const text = prometheusText(reportOf());
    const rules = readFileSync(join(examples, "prometheus/alerts.yml"), "utf8");
    const expressions = [...rules.matchAll(/expr: (.*)/g)].map(([, expression = ""]) => expression).join(" ");
    const names = new Set([...expressions.matchAll(/spoolsafe_\w+/g)].map(([name]) => name));
    expect(names.size).toBeGreaterThan(4);
    for (const name of names) expect(text).toContain(`# TYPE ${name} gauge`);
  });
});
