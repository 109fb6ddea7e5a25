import { execFileSync, spawnSync } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { chownSync, existsSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import {
  applyConfiguration,
  type ConfigurationEvent,
  configurationPlanText,
  configurationReportText,
  planConfiguration,
} from "../../src/restore/configuration.ts";
import { userId } from "../../src/system/accounts.ts";
import { needs } from "../support/needs.ts";
import type { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { configurationJob } from "./configuration-job.ts";
import {
  actionOf,
  backup,
  canary,
  everything,
  hasType,
  makeSource,
  query,
  standby,
  type Taken,
  write,
} from "./configuration-site.ts";

// Side by side: Postfix's commands spend most of the time waiting until a changed main.cf is two seconds old.
const supported = needs("root", "postfix", "openssl", "flock");
describe.skipIf(!supported).concurrent("restoring configuration", () => {
  let site: Site;
  let named: string;
  let source: PrivatePostfix;
  let snapshot: Taken;

  beforeAll(async () => {
    site = await Site.make();
    named = makeScratch();
    source = await makeSource(named);
    snapshot = await backup(site, source);
  });
  afterAll(async () => {
    source?.destroy();
    if (named !== undefined) destroyScratch(named);
    await site?.[Symbol.asyncDispose]();
  });

  test("every kind of file comes back working", async () => {
    await using target = await standby(snapshot);
    const report = await target.apply();
    expect(report.problems).toEqual([]);
    const { postfix } = target;
    const map = (type: string, name: string) => `${type}:${target.path(name)}`;
    expect(await query(postfix, map("hash", "maps/h"), "h@in.test")).toBe("h@out.test");
    expect(await query(postfix, map("btree", "maps/b"), "b@in.test")).toBe("b@out.test");
    expect(await query(postfix, map("texthash", "maps/t"), "t@in.test")).toBe("t@out.test");
    expect(await query(postfix, map("cidr", "maps/c"), "192.0.2.7")).toBe("c@out.test");
    expect(await query(postfix, map("regexp", "maps/r"), "rr@in.test")).toBe("r@out.test");
    if (hasType("pcre")) expect(await query(postfix, map("pcre", "maps/p"), "pp@in.test")).toBe("p@out.test");
    expect(await query(postfix, map("hash", "aliases"), "postmaster")).toBe("root@out.test");
    expect(await query(postfix, map("hash", "sasl_passwd"), "[relay.test]:587")).toBe(`user:${canary}`);
    expect(await query(postfix, `hash:${target.root}${named}/relocated`, "gone@in.test")).toBe("there@out.test");

    const sni = await postfix.run("postmap", ["-c", postfix.configDirectory, "-Fq", "client.test", map("hash", "sni")]);
    expect(sni.stdout).toContain("PRIVATE KEY");

    for (const name of ["sni.db", "sasl_passwd", "sasl_passwd.db", "tls/key.pem"]) {
      const { mode, uid } = statSync(target.path(name));
      expect([name, mode & 0o7777, uid]).toEqual([name, 0o600, 0]);
    }
    expect(spawnSync("cat", [target.path("sasl_passwd.db")], { uid: userId("nobody") ?? 65534 }).status).not.toBe(0);
    const [key, cert] = [readFileSync(target.path("tls/key.pem")), readFileSync(target.path("tls/cert.pem"))];
    createSecureContext({ key, cert });
    expect(new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))).toBe(true);
    execFileSync("openssl", ["pkey", "-noout", "-in", `${target.root}${named}/tls/private/client.key`]);
    expect(statSync(target.path("maps/h")).mtimeMs).toBe(1_780_000_000_000);
    const asSaved = readFileSync(join(source.configDirectory, "main.cf"));
    expect(readFileSync(join(report.keptIn, "main.cf.as-saved"))).toEqual(asSaved);
    expect(readFileSync(target.path("master.cf"))).toEqual(readFileSync(join(source.configDirectory, "master.cf")));
    // The directories given through $config_directory are this instance's now, and that is all that changed.
    expect(report.edited.map(({ command, path }) => [command, path])).toEqual([["check", target.path("main.cf")]]);
    expect(await postfix.postconf("queue_directory")).toBe(`${postfix.configDirectory}/../spool`);
    expect(report.commands.map(({ command, code }) => [command, code])).toEqual([
      ["set-permissions", null],
      ["upgrade-configuration", null],
      ["check", 0],
    ]);

    // Postfix itself with the restored configuration: it starts, and its server has the certificate.
    await postfix.postfix("start");
    const port = /^127\.0\.0\.1:(\d+)/.exec(readFileSync(target.path("master.cf"), "utf8"))?.[1] ?? "";
    const said = execFileSync("openssl", ["s_client", "-starttls", "smtp", "-connect", `127.0.0.1:${port}`], {
      input: "",
      encoding: "utf8",
      stdio: ["pipe", "pipe", "ignore"],
    });
    expect(said).toContain("CN = mx1.source.test");
    await postfix.abort();
  });

  test("a dry run shows the plan and touches nothing", async () => {
    await using target = await standby(snapshot);
    write(target.path("only-here"), "kept\n");
    write(target.path("maps/t"), "t@in.test old@out.test\n");
    const before = everything(target.postfix.directory);
    const plan = await target.plan();
    expect(everything(target.postfix.directory)).toEqual(before);
    expect(actionOf(plan, target.path("only-here"))).toBe("kept");
    expect(actionOf(plan, target.path("maps/h"))).toBe("new");
    expect(actionOf(plan, target.path("maps/h.db"))).toBe("rebuilt");
    const text = configurationPlanText(plan);
    expect(text).toContain("-t@in.test old@out.test\n+t@in.test t@out.test");
    expect(text).toContain("main.cf myhostname = mx1.source.test, here mx2.target.test");
    expect(text).not.toContain("mail queued here now would not be seen");
    expect(plan.compatibilityLevel).toBe("3.6");
    expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
  });

  test("what is replaced is kept, what is only here stays, and undo puts all of it back", async () => {
    await using target = await standby(snapshot);
    write(target.path("only-here"), "kept\n", 0o640);
    write(target.path("maps/t"), "t@in.test old@out.test\n", 0o664);
    chownSync(target.path("maps/t"), userId("nobody") ?? 65534, 0);
    write(target.path("sasl_passwd"), "[old.test] old:old\n", 0o640);
    mkdirSync(target.path("tls"), { mode: 0o750 });
    symlinkSync("/nowhere", target.path("aliases"));
    const before = everything(target.postfix.configDirectory, target.root);
    const report = await target.apply();
    expect(report.problems).toEqual([]);
    expect(readFileSync(target.path("only-here"), "utf8")).toBe("kept\n");
    expect(lstatSync(target.path("aliases")).isFile()).toBe(true);
    expect(statSync(report.keptIn).mode & 0o7777).toBe(0o700);
    expect(
      [...everything(report.keptIn).values()].filter((one) => one.startsWith("file ") && !one.startsWith("file 600")),
    ).toEqual([]);
    expect(existsSync("/nowhere")).toBe(false);

    const undo = await target.undo(report.run);
    expect(undo.left).toEqual([]);
    expect(undo.putBack).toContain(target.path("maps/t"));
    expect(everything(target.postfix.configDirectory, target.root)).toEqual(before);
    await expect(target.undo(report.run)).rejects.toMatchObject({ kind: "refused" });
    await expect(target.undo("20200101T000000-00000000")).rejects.toMatchObject({ kind: "usage" });
  });

  test("a configuration directory that is a link is written behind it, under the name it is called by", async () => {
    await using target = await standby(snapshot);
    const link = join(target.postfix.directory, "by-another-name");
    symlinkSync(target.postfix.configDirectory, link);
    await using job = await configurationJob({ ...target.where, configDirectory: link });
    const report = await applyConfiguration(job);
    expect(report.problems).toEqual([]);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(report.plan.configDirectory).toBe(link);
    expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
    expect((await target.undo(report.run)).left).toEqual([]);
    expect(existsSync(target.path("maps/h"))).toBe(false);
  });

  test("undo leaves alone what was changed since", async () => {
    await using target = await standby(snapshot);
    write(target.path("maps/t"), "old\n");
    const report = await target.apply();
    write(target.path("maps/t"), "edited since\n");
    write(target.path("maps/mine"), "new since\n");
    const undo = await target.undo(report.run);
    const copy = expect.stringContaining(report.keptIn);
    expect(undo.left).toEqual([{ path: target.path("maps/t"), problem: "it was changed since", copy }]);
    expect(readFileSync(undo.left[0]?.copy ?? "", "utf8")).toBe("old\n");
    expect(readFileSync(target.path("maps/t"), "utf8")).toBe("edited since\n");
    expect(readFileSync(target.path("maps/mine"), "utf8")).toBe("new since\n");
    expect(existsSync(target.path("maps/h"))).toBe(false);
  });

  test("restoring twice changes nothing but what Postfix itself had edited", async () => {
    await using target = await standby(snapshot);
    await target.apply();
    const plan = await target.plan();
    const changed = plan.files.filter(({ action }) => action === "new" || action === "changed");
    expect(changed.map(({ path }) => path)).toEqual([target.path("main.cf")]);
    const again = await target.apply();
    expect(again.written).toBe(1);
    expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
  });

  test("ended between its steps it says how to finish and how to go back, and both work", async () => {
    await using target = await standby(snapshot);
    const before = everything(target.postfix.configDirectory, target.root);
    const controller = new AbortController();
    const { signal } = controller;
    const report = (event: ConfigurationEvent) => {
      if (event.type !== "config-step" || event.step !== "tables") return;
      controller.abort(new OperatorError("interrupted", "interrupted by SIGINT"));
    };
    const ended = await target.apply({ signal, report }).catch((error: unknown) => error);
    expect(ended).toMatchObject({ kind: "interrupted", hints: expect.arrayContaining([expect.any(String)]) });
    expect(existsSync(target.path("maps/h"))).toBe(true);
    const [, run = ""] =
      /spoolsafe undo (\S+)/.exec(ended instanceof OperatorError ? ended.hints.join("\n") : "") ?? [];
    const again = await target.apply();
    expect(again).toMatchObject({ run, problems: [] });
    expect((await target.undo(run)).left).toEqual([]);
    expect(everything(target.postfix.configDirectory, target.root)).toEqual(before);
  });

  test("secrets are in no plan, diff, report or event", async () => {
    await using own = await Site.make();
    const secret = await makeSource(join(own.directory, "named"), {
      main: { smtp_tls_policy_maps: "texthash:$config_directory/policy" },
    });
    try {
      const main = join(secret.configDirectory, "main.cf");
      await secret.setParameter("lmtp_sasl_password_maps", `static:user:${canary}`);
      write(join(secret.configDirectory, "policy"), `x.test may\n`);
      write(join(secret.configDirectory, "open.cf"), `password = ${canary}\n`);
      write(join(secret.configDirectory, "closed"), `${canary}\n`, 0o640);
      write(
        join(secret.configDirectory, "sasl_passwd"),
        `[relay.test] user:${canary}\n${canary}\n${canary} x\n${canary} x\n`,
        0o600,
      );
      utimesSync(main, 1, 1);
      await using target = await standby(await backup(own, secret));
      for (const [name, mode] of [
        ["sasl_passwd", 0o644],
        ["policy", 0o600],
        ["open.cf", 0o644],
        ["closed", 0o644],
      ] as const) {
        write(target.path(name), `here ${canary}\n`, mode);
      }
      mkdirSync(target.path("tls"));
      write(target.path("tls/key.pem"), `${canary}\n`);
      const plan = await target.plan();
      const events: unknown[] = [];
      const report = await target.apply({ report: (event) => events.push(event) });
      const told = [plan, configurationPlanText(plan), report, configurationReportText(report), events];
      const key = readFileSync(target.path("tls/key.pem"), "utf8").split("\n")[1] ?? "";
      expect(key.length).toBeGreaterThan(20);
      for (const one of told) {
        expect(JSON.stringify(one)).not.toContain(canary);
        expect(JSON.stringify(one)).not.toContain(key);
      }
      for (const name of ["sasl_passwd", "policy", "open.cf", "closed", "tls/key.pem", "main.cf"]) {
        const file = plan.files.find(({ path }) => path === target.path(name));
        expect(file, name).toMatchObject({ action: "changed", secret: true, difference: { kind: "secret" } });
      }
      expect(report.tables.find(({ source }) => source === target.path("sasl_passwd"))?.warnings).toEqual([
        expect.stringContaining("not shown"),
      ]);
      // And yet all of it is there.
      expect(readFileSync(target.path("open.cf"), "utf8")).toContain(canary);
    } finally {
      secret.destroy();
    }
  });

  test("a plan that was seen is refused once the target has changed", async () => {
    await using target = await standby(snapshot);
    const { key } = await target.plan();
    expect((await target.plan()).key).toBe(key);
    write(target.path("maps/t"), "t@in.test somebody\n");
    const before = everything(target.postfix.directory);
    await expect(target.apply({ expectedKey: key })).rejects.toMatchObject({ kind: "refused" });
    expect(everything(target.postfix.directory)).toEqual(before);
    expect((await target.apply({ expectedKey: (await target.plan()).key })).problems).toEqual([]);
  });

  test("a running Postfix keeps its queue directory, or nothing happens", async () => {
    await using target = await standby(snapshot);
    await target.postfix.start();
    await using own = await Site.make();
    const other = await makeSource(join(own.directory, "named"));
    try {
      await other.setParameter("queue_directory", other.queueDirectory);
      const from = { ...target.where, ...(await backup(own, other)) };
      await using job = await configurationJob(from);
      expect((await planConfiguration(job)).running).toBe(true);
      await expect(applyConfiguration(job)).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining(other.queueDirectory),
      });
    } finally {
      other.destroy();
    }
    expect(await target.postfix.postconf("myhostname")).toBe("mx2.target.test");
  });

  test("undo does not take its queue directory from a running Postfix", async () => {
    await using own = await Site.make();
    const other = await makeSource(join(own.directory, "named"));
    try {
      await other.setParameter("queue_directory", other.queueDirectory);
      await using target = await standby(await backup(own, other));
      const { run } = await target.apply();
      await target.postfix.postfix("start");
      await expect(target.undo(run)).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining(`the queue ${other.queueDirectory}, and before run ${run} it was`),
      });
      expect(await target.postfix.postconf("myhostname")).toBe("mx1.source.test");
      await target.postfix.postfix("stop");
      expect(await target.undo(run)).toMatchObject({ left: [], running: false });
      expect(await target.postfix.postconf("myhostname")).toBe("mx2.target.test");
    } finally {
      other.destroy();
    }
  });
});
