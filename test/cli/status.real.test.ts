import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";

/*
 * `status` as those who watch call it: a check's exit codes and line, munin-node's own munin-run, Prometheus's own parser
 * and rule tests, a user who may not look.
 */

const examples = join(import.meta.dirname, "../../examples");

/** A running Postfix with three messages that wait and one on hold, backed up once; and a configuration to vary. */
class Scene implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly site: Site;
  readonly config: string;
  readonly scratch = makeScratch();

  private constructor(postfix: PrivatePostfix, site: Site) {
    this.postfix = postfix;
    this.site = site;
    this.config = site.configure([postfix]);
  }

  static async make(): Promise<Scene> {
    const rests = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
    const postfix = await PrivatePostfix.start({ name: "postfix-mx", longIds: true, main: rests });
    const letters = Array.from({ length: 4 }, () => plainLetter({ recipients: ["somebody@nowhere.test"] }));
    const [first] = await postfix.submit(letters);
    await postfix.settled();
    await postfix.hold([first?.queueId ?? ""]);
    return new Scene(postfix, await Site.make());
  }

  /** The configuration with more at its end, in a file of its own. */
  with(more: string): string {
    const path = join(this.scratch, `${++this.#variants}.toml`);
    writeFileSync(path, `${readFileSync(this.config, "utf8")}${more}\n`);
    return path;
  }
  #variants = 0;

  status(...args: string[]) {
    return spoolsafe(["status", "--config", this.config, ...args]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.site[Symbol.asyncDispose]();
    destroyScratch(this.scratch);
  }
}

describe.skipIf(!needs("root", "postfix", "flock"))("status", () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await Scene.make();
    const never = await scene.status("--json");
    expect(never.code).toBe(1);
    expect(never.json.at(-1)).toMatchObject({ type: "summary", ok: false, lastBackup: null, lastDrill: null });
    expect(never.json[0]).toMatchObject({ severity: "critical", name: "backup-never", runbook: "00-triage" });
    const backup = await spoolsafe(["backup", "--config", scene.config]);
    expect(backup.stderr + backup.code).toMatch(/0$/);
  });
  afterAll(() => scene?.[Symbol.asyncDispose]());

  test("answers in JSON, as text, and within its time", async () => {
    const told = await scene.status("--json");
    expect(told.code).toBe(0);
    expect(told.json).toHaveLength(1);
    expect(told.json[0]).toMatchObject({
      type: "summary",
      ok: true,
      problems: [],
      heldByUs: 0,
      lastVerify: null,
      unsentCopies: null,
      lastBackup: { messages: 4 },
      instances: [{ name: "postfix-mx", messages: { total: 4, deferred: 3, hold: 1 }, deferredShare: 0.75 }],
    });
    const { instances } = told.json[0] as { instances: { oldest: { ageSeconds: number; exact: boolean } }[] };
    expect(instances[0]?.oldest.exact).toBe(true);
    expect(instances[0]?.oldest.ageSeconds).toBeLessThan(180); // by its long id
    const started = performance.now();
    const text = await scene.status();
    expect(performance.now() - started).toBeLessThan(5000); // half a second where nothing else runs
    expect(text).toMatchObject({ code: 0, stderr: "" });
    expect(text.stdout).toMatch(/^mx1\.source\.test: OK\nnewest backup +\d+[sm] ago .*4 messages/);
    expect(text.stdout).toMatch(/postfix-mx +0 +0 +0 +3 +1 +4 +75 /);
    expect((await scene.status("--format", "json")).json).toHaveLength(1);
  });

  test("is a check: one line, 0 to 3, every error 3", async () => {
    const check = async (args: string[], code: number, says: RegExp) => {
      const told = await spoolsafe(["status", "--format", "nagios", ...args]);
      expect(told.stdout).toMatch(says);
      expect(told.stdout.trimEnd().split("\n")).toHaveLength(1);
      expect(told.code).toBe(code);
    };
    const config = ["--config", scene.config];
    const crowded = ["--config", scene.with("[thresholds]\ndeferred = [2, 20]")];
    await Promise.all([
      check(
        config,
        0,
        /^SPOOLSAFE OK - backup \d+[sm] ago, .* \| backup_age=\d+s;;93600;0 .*postfix-mx_deferred=3;5000;/,
      ),
      check([...config, "--max-age", "1ms,26h"], 1, /^SPOOLSAFE WARNING - the newest good backup is /),
      check([...config, "--max-age", "1ms"], 2, /^SPOOLSAFE CRITICAL - .* \| backup_age=/),
      check(crowded, 1, /^SPOOLSAFE WARNING - postfix-mx: 3 messages in deferred, more than 2 \| .*_deferred=3;2;20;/),
    ]);
    await Promise.all([
      check([...config, "--max-age", "soon"], 3, /^SPOOLSAFE UNKNOWN - --max-age soon is no age/),
      check([...config, "--frobnicate"], 3, /^SPOOLSAFE UNKNOWN - unknown option/),
      check(["--config", "/nowhere.toml"], 3, /^SPOOLSAFE UNKNOWN - .*nowhere/),
      check(
        [...config, "--remote", "--repository", "file:///nowhere"],
        3,
        /^SPOOLSAFE UNKNOWN - there is no directory \/nowhere/,
      ),
    ]);
  });

  test("goes by the schedule", async () => {
    const config = scene.with('[schedule]\ntimezone = "Europe/Paris"\nbackup = "0 2 * * *"\nverify = "30 4 * * 0"');
    const ask = () => spoolsafe(["status", "--config", config, "--json"]);
    expect((await ask()).json.at(-1)).toMatchObject({ ok: true });
    utimesSync(config, 0, 1_700_000_000);
    const told = await ask();
    expect(told.json).toMatchObject([{ name: "verify-missed" }, { ok: false }]);
    const due = /due (\S+) and again since/.exec(JSON.stringify(told.json))?.[1] ?? "";
    expect(due).toMatch(/T0[23]:30:00\.000Z$/); // in Paris
    expect(new Date(due).getUTCDay()).toBe(0);
  });

  test("asks the repository from a host without Postfix and without an identity", async () => {
    const elsewhere = join(scene.scratch, "elsewhere.toml");
    const trusted = JSON.stringify(join(scene.site.directory, "trusted.pub"));
    const url = JSON.stringify(scene.site.repository.store.url);
    const state = JSON.stringify(join(scene.scratch, "elsewhere"));
    const files = `state_directory = ${state}\n[repository]\nurl = ${url}\n[signing]\ntrusted_keys_file = ${trusted}\n`;
    writeFileSync(elsewhere, `host = "watch.test"\n${files}[schedule]\nverify = "30 4 * * 0"\n`);
    const ask = (...args: string[]) =>
      spoolsafe(["status", "--config", elsewhere, "--json", ...args], { env: { PATH: dirname(process.execPath) } });
    const [all, one, none, other] = await Promise.all([
      ask("--all-hosts"),
      ask("--remote", "--host", "mx1.source.test"),
      ask("--remote", "--host", "mx9.source.test"),
      ask("--host", "mx1.source.test"),
    ]);
    for (const told of [all, one]) {
      expect(told.json.at(-1)).toMatchObject({
        ok: true,
        lastBackup: { messages: 4 },
        hosts: [{ host: "mx1.source.test", snapshots: 1, queues: { deferred: 3, hold: 1 } }],
      });
      expect(told.code).toBe(0);
    }
    expect(none).toMatchObject({ code: 2 });
    expect(none.stdout).toContain("mx1.source.test");
    expect(other.stdout).toContain("spoolsafe status --remote --host mx1.source.test");
    const old = await ask("--all-hosts", "--max-age", "1ms");
    expect(old.json.at(-1)).toMatchObject({ ok: false, problems: [expect.stringContaining("mx1.source.test")] });
    expect(old.code).toBe(1);
  });

  test("writes the textfile whole, for everybody to read, and names what to do where it can't", async () => {
    const directory = join(scene.scratch, "textfiles");
    const file = join(directory, "spoolsafe.prom");
    const config = scene.with(`[status]\ntextfile = ${JSON.stringify(file)}`);
    const write = (...under: string[]) =>
      spoolsafe(["status", "--config", config, "--format", "prometheus", "--write"], { under });
    const missing = await write();
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toContain("its directory must be there");
    mkdirSync(directory);
    expect(await write("sh", "-c", 'umask 077; exec "$@"', "sh")).toMatchObject({ code: 0, stdout: "", stderr: "" });
    expect(statSync(file).mode & 0o777).toBe(0o644);
    expect(readFileSync(file, "utf8")).toMatch(/^spoolsafe_queue_messages\{.*queue="deferred"\} 3$/m);
    expect((await scene.status("--format", "prometheus", "--write")).code).toBe(2);
    // The end of a job renews it; a job that fails leaves the time of the last success.
    const success = /^spoolsafe_backup_last_success_timestamp_seconds\{.*\} (\d+)$/m;
    const before = success.exec(readFileSync(file, "utf8"))?.[1];
    const failed = await spoolsafe([
      "backup",
      "--config",
      config,
      "--repository",
      `file://${join(scene.scratch, "no")}`,
    ]);
    expect(failed.code).toBe(10);
    const after = readFileSync(file, "utf8");
    expect(after).toMatch(/^spoolsafe_backup_last_exit_code\{.*\} 10$/m);
    expect(success.exec(after)?.[1]).toBe(before);
  });

  test.skipIf(!needs("promtool"))("is read by Prometheus's own parser, and its rules alarm", async () => {
    const { stdout } = await scene.status("--format", "prometheus");
    const parsed = spawnSync("promtool", ["check", "metrics"], { input: stdout, encoding: "utf8" });
    expect(parsed.stdout + parsed.stderr).toBe("");
    expect(parsed.status).toBe(0);
    const rules = spawnSync("promtool", ["test", "rules", "alerts_test.yml"], { cwd: join(examples, "prometheus") });
    expect(rules.stdout.toString() + rules.stderr.toString()).toContain("SUCCESS");
    expect(rules.status).toBe(0);
  });

  test("lets an ordinary user know that it may not look", async () => {
    // The program lies where only root may go, so it is started as root and gives up its rights first.
    const under = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const open = join(scene.scratch, "open.toml");
    const text = readFileSync(scene.config, "utf8").replaceAll(/^(key_file|trusted_keys_file) = .*$/gm, "");
    writeFileSync(open, text);
    const told = await spoolsafe(["status", "--config", open, "--format", "nagios"], { under });
    expect(told.code).toBe(3);
    expect(told.stdout).toMatch(/^SPOOLSAFE UNKNOWN - this user may not read .*state: run it as root/);
  });

  describe.skipIf(!needs("munin-run"))("as a munin plugin", () => {
    let directory: string;
    beforeAll(() => {
      directory = makeScratch();
      for (const name of ["plugins", "plugin-conf.d", "state"]) mkdirSync(join(directory, name));
      copyFileSync(join(examples, "munin/spoolsafe_"), join(directory, "spoolsafe_"));
      chmodSync(join(directory, "spoolsafe_"), 0o755);
      symlinkSync(join(directory, "spoolsafe_"), join(directory, "plugins/spoolsafe_status"));
      const program = join(directory, "spoolsafe");
      const built = join(builtProgram(), "spoolsafe.js");
      writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" "${built}" "$@"\n`, { mode: 0o755 });
      const conf = `[spoolsafe_*]\nuser root\nenv.spoolsafe ${program}\nenv.config ${scene.config}\n`;
      writeFileSync(join(directory, "plugin-conf.d/spoolsafe"), conf);
      const node = ["log_level 4", `log_file ${directory}/node.log`, `pid_file ${directory}/node.pid`, "user root"];
      writeFileSync(join(directory, "munin-node.conf"), `${node.join("\n")}\ngroup root\nallow ^127\\.0\\.0\\.1$\n`);
    });
    afterAll(() => destroyScratch(directory));

    /** munin-node's own way of calling a plugin. */
    async function muninRun(...words: string[]) {
      const options = ["--config", join(directory, "munin-node.conf"), "--servicedir", join(directory, "plugins")];
      const conf = ["--sconfdir", join(directory, "plugin-conf.d")];
      const child = spawn("munin-run", [...options, ...conf, "spoolsafe_status", ...words], {
        env: { PATH: process.env.PATH, MUNIN_PLUGSTATE: join(directory, "state") },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const said = { stdout: "", stderr: "" };
      child.stdout.on("data", (chunk) => (said.stdout += chunk));
      child.stderr.on("data", (chunk) => (said.stderr += chunk));
      const code = await new Promise((resolve) => child.on("close", resolve));
      return { code, ...said };
    }

    test("it speaks munin's protocol", async () => {
      const [autoconf, suggest, config, values] = await Promise.all([
        muninRun("autoconf"),
        muninRun("suggest"),
        muninRun("config"),
        muninRun(),
      ]);
      expect(autoconf).toMatchObject({ code: 0, stdout: "yes\n" });
      expect(suggest).toMatchObject({ code: 0, stdout: "status\n" });
      expect(config.stdout).toMatch(/^multigraph spoolsafe_queue_postfix_mx\ngraph_title /m);
      expect(config.stdout).toMatch(/^deferred\.warning :5000$/m);
      expect(config.code).toBe(0);
      expect(values.stdout).toMatch(/^deferred\.value 3$/m);
      expect(values).toMatchObject({ code: 0 });
    });

    test("problems are values, and no failure of the plugin", async () => {
      const crowded = scene.with("[thresholds]\ndeferred = [1, 2]");
      const conf = join(directory, "plugin-conf.d/spoolsafe");
      const before = readFileSync(conf, "utf8");
      writeFileSync(conf, before.replace(scene.config, crowded));
      expect(await muninRun()).toMatchObject({ code: 0, stdout: expect.stringMatching(/^critical\.value 1$/m) });
      writeFileSync(conf, before.replace(scene.config, "/nowhere.toml"));
      expect(await muninRun("autoconf")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^no \(.*nowhere/) });
      expect((await muninRun()).code).not.toBe(0);
      writeFileSync(conf, before.replace(/^env\.spoolsafe .*$/m, "env.spoolsafe /nowhere"));
      expect(await muninRun("autoconf")).toMatchObject({ code: 0, stdout: "no (/nowhere is not there)\n" });
      writeFileSync(conf, before);
    });
  });
});

test.skipIf(!needs("visudo"))("sudo takes the line for monitoring users", () => {
  const checked = spawnSync("visudo", ["-cf", join(examples, "nagios/sudoers")], { encoding: "utf8" });
  expect(checked.stdout + checked.stderr).toContain("parsed OK");
  const nrpe = readFileSync(join(examples, "nagios/spoolsafe-nrpe.cfg"), "utf8");
  const sudoers = readFileSync(join(examples, "nagios/sudoers"), "utf8").replaceAll("\\,", ",");
  for (const [, command = ""] of nrpe.matchAll(/sudo -n (.+)$/gm)) expect(sudoers).toContain(command);
});
