import { execFile, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  applyConfiguration,
  type ConfigurationReport,
  configurationPlanText,
} from "../../src/restore/configuration.ts";
import { readConfigurationRuns } from "../../src/restore/configuration-journal.ts";
import type { FileEntry } from "../../src/snapshot/manifest.ts";
import { HandMade, type HandMadeFile } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import type { PrivatePostfix } from "../support/postfix.ts";
import { Random } from "../support/random.ts";
import { noMessages } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { configurationJob } from "./configuration-job.ts";
import {
  actionOf,
  backup,
  everything,
  makeSource,
  query,
  type Standby,
  standby,
  type Taken,
  withSbin,
  write,
} from "./configuration-site.ts";

const program = join(import.meta.dirname, "configuration-job.ts");

/** Apply in a process of its own, perhaps through other programs (`unshare`), and hand back its report. */
async function applyElsewhere(
  target: Standby,
  before: readonly string[] = [],
  path = withSbin,
): Promise<ConfigurationReport> {
  const [command = "", ...args] = [...before, process.execPath, program, JSON.stringify(target.where)];
  const env = { ...process.env, PATH: path };
  const { stdout } = await promisify(execFile)(command, args, { env, maxBuffer: 1 << 26 });
  const last = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  return last.report;
}

// All of this side by side: Postfix's commands spend most of the time waiting until a changed main.cf is two seconds old.
const supported = needs("root", "postfix", "openssl", "flock");

describe.skipIf(!supported).concurrent("a restore of configuration that is interrupted", () => {
  let site: Site;
  let named: string;
  let taken: Taken;
  let savedMain: Buffer;

  beforeAll(async () => {
    site = await Site.make();
    named = makeScratch();
    const source = await makeSource(named);
    // Enough to be interrupted in.
    for (let n = 0; n < 60; n++) write(join(source.configDirectory, `many/${n}`), `new ${n}\n`.repeat(2000));
    taken = await backup(site, source);
    savedMain = readFileSync(join(source.configDirectory, "main.cf"));
    source.destroy();
  });
  afterAll(async () => {
    if (named !== undefined) destroyScratch(named);
    await site?.[Symbol.asyncDispose]();
  });

  function dirty(target: Standby): void {
    for (let n = 0; n < 60; n += 2) write(target.path(`many/${n}`), `old ${n}\n`.repeat(2000), 0o640);
    write(target.path("maps/h"), "h@in.test old@out.test\n");
    spawnSync("postmap", [`hash:${target.path("maps/h")}`], { env: target.postfix.env() });
  }

  test.each([1, 2])(
    "SIGKILL at any moment leaves each file old or new; the next run completes, undo undoes (%s of 2)",
    async () => {
      await using target = await standby(taken);
      dirty(target);
      const { configDirectory, directory } = target.postfix;
      mkdirSync(join(directory, "tmp"));
      const before = everything(configDirectory, target.root);
      cpSync(configDirectory, join(directory, "pristine"), { recursive: true, preserveTimestamps: true });
      const random = new Random(Number(process.env.SEED ?? Date.now() % 1_000_000));
      process.stderr.write(`seed of the moments: ${random.seed}\n`);
      const duration = await timeOf(target);
      const after = new Map(everything(configDirectory, target.root));
      const rounds = 3;
      let interrupted = 0;
      for (let round = 0; round < rounds; round++) {
        restorePristine(target);
        expect(everything(configDirectory, target.root)).toEqual(before);
        rmSync(target.where.stateDirectory, { recursive: true });
        await killAfter(target, ((round + random.next()) / rounds) * duration);
        interrupted += readConfigurationRuns(target.where.stateDirectory).filter(
          ({ outcome }) => outcome === null,
        ).length;
        for (const [path, now] of everything(configDirectory, target.root)) {
          if (path.includes("/.spoolsafe-") || path.endsWith(".db")) continue;
          // `postfix check` may not have been at main.cf yet.
          const asSaved = path.endsWith("/main.cf") ? [`file 644 0:0 ${savedMain.toString("base64")}`] : [];
          expect([before.get(path), after.get(path), ...asSaved], path).toContain(now);
        }
        if (existsSync(target.path("maps/b.db"))) {
          expect(await query(target.postfix, `btree:${target.path("maps/b")}`, "b@in.test")).toBe("b@out.test");
        }
        const answer = await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test");
        expect(["old@out.test", "h@out.test"]).toContain(answer);

        const report = await target.apply();
        expect(report.problems).toEqual([]);
        const names = [...everything(configDirectory, target.root).keys()];
        expect(names.filter((path) => path.includes(".spoolsafe-"))).toEqual([]);
        expect(names.sort()).toEqual([...after.keys()].sort());
        expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
        for (const run of readdirSync(join(target.where.stateDirectory, "replaced")).sort().reverse()) {
          expect((await target.undo(run)).left).toEqual([]);
        }
        expect(everything(configDirectory, target.root)).toEqual(before);
      }
      expect(interrupted).toBeGreaterThan(0);
      await timeOf(target);
      expect(readdirSync(join(directory, "tmp"))).toEqual([]);
    },
    400_000,
  );

  /** Milliseconds from the first event to the end of an undisturbed run. */
  async function timeOf(target: Standby): Promise<number> {
    const start = await begin(target);
    const began = performance.now();
    await start.ended;
    return performance.now() - began;
  }

  async function killAfter(target: Standby, ms: number): Promise<void> {
    const { child, ended } = await begin(target);
    await new Promise((resolve) => setTimeout(resolve, ms));
    child.kill("SIGKILL");
    await ended;
  }

  async function begin(target: Standby) {
    const child = spawn(process.execPath, [program, JSON.stringify(target.where)], {
      env: { ...process.env, PATH: withSbin, TMPDIR: join(target.postfix.directory, "tmp") },
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
    await Promise.race([new Promise((resolve) => child.stdout.once("data", resolve)), ended]);
    child.stdout.resume();
    return { child, ended };
  }

  function restorePristine(target: Standby): void {
    const { configDirectory, directory } = target.postfix;
    for (const name of readdirSync(configDirectory)) rmSync(join(configDirectory, name), { recursive: true });
    for (const name of readdirSync(target.root)) rmSync(join(target.root, name), { recursive: true });
    spawnSync("cp", ["-a", `${join(directory, "pristine")}/.`, configDirectory]);
  }

  describe.skipIf(!needs("mount"))("for want of room", () => {
    test("nothing has changed when the disk is full, and the same call completes when it is not", async () => {
      await using target = await standby(taken, { tmpfs: "6m" });
      dirty(target);
      const before = everything(target.postfix.configDirectory, target.root);
      const stateDirectory = join(site.directory, "standby-state");
      const ballast = join(target.postfix.directory, "ballast");
      spawnSync("sh", ["-c", `dd if=/dev/zero of=${ballast} bs=64k; truncate -s -262144 ${ballast}`]);
      await expect(target.apply({ stateDirectory })).rejects.toMatchObject({
        kind: "failed",
        hints: [expect.stringContaining("make room")],
      });
      expect(everything(target.postfix.configDirectory, target.root)).toEqual(before);
      rmSync(ballast);
      const report = await target.apply({ stateDirectory });
      expect(report.problems).toEqual([]);
      expect(readFileSync(target.path("many/1"), "utf8")).toMatch(/^new 1\n/);
      expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
    });
  });
});

describe.skipIf(!supported).concurrent("configuration of another kind of host", () => {
  /** A directory for PATH whose postconf says of the built-in default and the known types what the test wants. */
  function otherPostconf(directory: string, edit: string): string {
    const real = spawnSync("sh", ["-c", "command -v postconf"], { encoding: "utf8", env: { PATH: withSbin } });
    mkdirSync(join(directory, "bin"));
    const script = `#!/bin/sh\nset -e\nout=$(${real.stdout.trim()} "$@")\nprintf '%s\\n' "$out" | sed '${edit}'\n`;
    writeFileSync(join(directory, "bin/postconf"), script, { mode: 0o755 });
    return `${join(directory, "bin")}:${withSbin}`;
  }

  test("tables without a type of their own are compiled as the default of this host", async () => {
    await using site = await Site.make();
    const source = await makeSource(join(site.directory, "named"), {
      main: { alias_database: "$config_directory/aliases" },
    });
    try {
      await source.setParameter("alias_maps", "$default_database_type:$config_directory/aliases");
      await using target = await standby(await backup(site, source));
      const edit = "s/^default_database_type = hash$/default_database_type = btree/";
      const report = await applyElsewhere(target, [], otherPostconf(target.root, edit));
      expect(report.plan.defaultDatabaseType).toBe("btree");
      expect(report.tables.find(({ source: path }) => path === target.path("aliases"))?.type).toBe("btree");
      expect(await query(target.postfix, `btree:${target.path("aliases")}`, "postmaster")).toBe("root@out.test");
      expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
    } finally {
      source.destroy();
    }
  });

  test("a type this host lacks: said, another built and offered, main.cf left as it was saved", async () => {
    await using site = await Site.make();
    const source = await makeSource(join(site.directory, "named"));
    try {
      const tables = "cdb:$config_directory/maps/h, proxy:cdb:$config_directory/only, lmdb:$config_directory/dumped";
      await source.setParameter("virtual_alias_maps", tables);
      await source.setParameter("default_database_type", "cdb");
      write(join(source.configDirectory, "maps/h.cdb"), "not really one");
      write(join(source.configDirectory, "dumped.lmdb"), "compiled only");
      write(join(source.configDirectory, "only"), "a@in.test b@out.test\n");
      appendMaster(source, "cdb-user unix - - n - - smtp\n  -o smtp_generic_maps=cdb:$config_directory/only\n");
      await using target = await standby(await backup(site, source));
      const report = await target.apply();
      const [cdb, lmdb] = report.plan.lackingTypes;
      expect(cdb).toMatchObject({
        type: "cdb",
        settings: [
          { setting: "main.cf default_database_type", value: "cdb", suggestion: "hash" },
          { setting: "main.cf virtual_alias_maps", value: tables, suggestion: tables.replaceAll("cdb:", "hash:") },
          { setting: "cdb-user/unix smtp_generic_maps", suggestion: "hash:$config_directory/only" },
        ],
      });
      expect(lmdb).toMatchObject({ type: "lmdb" });
      expect(report.problems.join("\n")).toMatch(/no table type cdb/);
      expect(readFileSync(target.path("main.cf"), "utf8")).toContain(`virtual_alias_maps = ${tables}\n`);
      expect(existsSync(target.path("maps/h.cdb"))).toBe(false);
      // Built already as what is offered, so that taking the offer is all there is to do.
      expect(await query(target.postfix, `hash:${target.path("maps/h")}`, "h@in.test")).toBe("h@out.test");
      expect(await query(target.postfix, `hash:${target.path("only")}`, "a@in.test")).toBe("b@out.test");
      expect(readFileSync(target.path("dumped.lmdb"), "utf8")).toBe("compiled only");
      expect(report.plan.warnings.join("\n")).toMatch(/dumped\.lmdb .* is copied as it was compiled on another host/);
      expect(configurationPlanText(report.plan)).toContain("as there is no type cdb here");
    } finally {
      source.destroy();
    }
  });

  function appendMaster(postfix: PrivatePostfix, text: string): void {
    const path = join(postfix.configDirectory, "master.cf");
    write(path, readFileSync(path, "utf8") + text);
  }

  describe.skipIf(!needs("mount-namespace"))("with its own accounts", () => {
    test("owners come by name; one that does not exist here is root alone", async () => {
      await using site = await Site.make();
      const source = await makeSource(join(site.directory, "named"));
      const owned = write(join(source.configDirectory, "owned"), "x\n", 0o640);
      chownSync(owned, statSync(source.dataDirectory).uid, Number(groupOf("postdrop")));
      const table = write(join(source.configDirectory, "vmaps/table"), "v@in.test v@out.test\n", 0o640);
      chownSync(table, statSync(source.dataDirectory).uid, 0);
      const foreign = write(join(source.configDirectory, "foreign"), "x\n", 0o644);
      chownSync(foreign, 3_999_999, 3_999_998);
      try {
        await source.setParameter("relocated_maps", "hash:$config_directory/vmaps/table");
        await using target = await standby(await backup(site, source));
        // Another host's accounts: postfix has other numbers, and owns the target's queue by them.
        const accounts = join(target.root, "accounts");
        mkdirSync(accounts);
        renumber("/etc/passwd", join(accounts, "passwd"), "postfix", 61_001);
        renumber("/etc/group", join(accounts, "group"), "postdrop", 61_002);
        spawnSync("chown", [
          "-R",
          "--from",
          String(statSync(target.postfix.dataDirectory).uid),
          "61001",
          target.postfix.directory,
        ]);
        spawnSync("chgrp", [
          "61002",
          join(target.postfix.queueDirectory, "maildrop"),
          join(target.postfix.queueDirectory, "public"),
        ]);
        const script = `mount --bind ${accounts}/passwd /etc/passwd && mount --bind ${accounts}/group /etc/group && exec "$@"`;
        const report = await applyElsewhere(target, ["unshare", "--mount", "sh", "-c", script, "sh"]);
        const { uid, gid, mode } = statSync(target.path("owned"));
        expect([uid, gid, mode & 0o7777]).toEqual([61_001, 61_002, 0o640]);
        expect(statSync(target.path("vmaps/table")).uid).toBe(61_001);
        expect(await query(target.postfix, `hash:${target.path("vmaps/table")}`, "v@in.test")).toBe("v@out.test");
        const orphan = statSync(target.path("foreign"));
        expect([orphan.uid, orphan.gid, orphan.mode & 0o7777]).toEqual([0, 0, 0o600]);
        expect(report.plan.warnings).toContainEqual(
          expect.stringMatching(/foreign goes to root alone: there is no user 3999999 and group 3999998 here/),
        );
        expect(report.problems).toEqual([]);
      } finally {
        source.destroy();
      }
    });

    test("set-permissions is run for a listed instance, and only its own files change", async () => {
      await using site = await Site.make();
      const source = await makeSource(join(site.directory, "named"));
      try {
        await using target = await standby(await backup(site, source));
        const standard = join(target.root, "standard");
        cpSync("/etc/postfix", standard, { recursive: true, verbatimSymlinks: true });
        const main = join(standard, "main.cf");
        write(main, `${readFileSync(main, "utf8")}\nmulti_instance_directories = ${target.where.configDirectory}\n`);
        chmodSync(join(standard, "main.cf.proto"), 0o600);
        chmodSync(join(target.postfix.queueDirectory, "hold"), 0o777);
        const script = `mount --bind ${standard} /etc/postfix && exec "$@"`;
        const report = await applyElsewhere(target, ["unshare", "--mount", "sh", "-c", script, "sh"]);
        expect(report.commands[0]).toMatchObject({ command: "set-permissions", runs: true, code: 0 });
        expect(statSync(join(target.postfix.queueDirectory, "hold")).mode & 0o777).toBe(0o700);
        expect(statSync(join(standard, "main.cf.proto")).mode & 0o777).toBe(0o600);
      } finally {
        source.destroy();
      }
    });
  });

  function groupOf(name: string): string {
    return spawnSync("getent", ["group", name], { encoding: "utf8" }).stdout.split(":")[2] ?? "";
  }

  function renumber(from: string, to: string, name: string, id: number): void {
    const lines = readFileSync(from, "utf8").split("\n");
    const edited = lines.map((line) => {
      const fields = line.split(":");
      return fields[0] === name ? [...fields.slice(0, 2), String(id), ...fields.slice(3)].join(":") : line;
    });
    writeFileSync(to, edited.join("\n"));
  }
});

describe.skipIf(!supported).concurrent("a manifest that means harm, and a target in the way", () => {
  const main = Buffer.from(
    "compatibility_level = 3.6\nqueue_directory = $config_directory/../spool\ndata_directory = $config_directory/../data\n",
  );
  const master = Buffer.from(
    "pickup unix n - n 60 1 pickup\nqmgr unix n - n 300 1 qmgr\ncleanup unix n - n - 0 cleanup\n",
  );

  async function handMade(made: HandMade, files: readonly HandMadeFile[], version = "3.7.11"): Promise<Taken> {
    const config = (name: string, bytes: Buffer): HandMadeFile => ({
      bytes,
      over: { area: "config", path: `/etc/postfix/${name}` },
    });
    const { signed } = await made.take({
      files: [config("main.cf", main), config("master.cf", master), ...files],
      over: {
        instances: [
          {
            ...{ name: "mx", configDirectory: "/etc/postfix", queueDirectory: "/var/spool/postfix", running: false },
            ...{ postfixVersion: version, mode: "stopped", messages: noMessages },
          },
        ],
      },
    });
    const { writer, number } = signed.snapshot;
    return { site: made.directory, snapshot: { id: signed.id, writer, number }, instance: "mx" };
  }

  const evil = Buffer.from("evil\n");
  function at(path: string, over: Partial<FileEntry> = {}, bytes: Buffer | null = evil): HandMadeFile {
    return { ...(bytes === null ? {} : { bytes }), over: { area: "named", path, ...over } };
  }

  test("a name that leads elsewhere is refused, and nothing happens", async () => {
    await using made = await HandMade.make();
    await using target = await standby(await handMade(made, []));
    const before = everything(target.postfix.directory);
    for (const path of ["/etc/../../x", "relative", "/etc//x", "/etc/./x", "/etc/postfix/../x", "/a\u0000b"]) {
      const { snapshot } = await handMade(made, [at(path)]);
      await using job = await configurationJob({ ...target.where, snapshot });
      await expect(applyConfiguration(job), path).rejects.toMatchObject({ kind: "damaged" });
    }
    expect(everything(target.postfix.directory)).toEqual(before);
  });

  test("nothing is written through a link, over a device or a directory, or into a queue", async () => {
    await using made = await HandMade.make();
    const link = (path: string, target: string) => at(path, { type: "link", target, mode: 0o777 }, null);
    const taken = await handMade(made, [
      at("/srv/through/file"),
      link("/srv/own", "/elsewhere"),
      at("/srv/own/file"),
      at("/srv/directory"),
      at("/srv/fifo"),
      at("/srv/plain"),
      at("/proc/sys/kernel/core_pattern"),
      at("/var/spool/postfix/deferred/A/A1234567"),
      at("/etc/postfix/through/file", { area: "config" }),
      at("/etc/postfix/dynamicmaps.cf", { area: "config" }),
      at("/srv/set-id", { mode: 0o4755 }),
      at("postconf-n", { area: "report" }),
      at("corrupt/A1", { area: "evidence" }),
    ]);
    await using target = await standby(taken);
    const outside = join(target.postfix.directory, "outside");
    mkdirSync(outside);
    mkdirSync(join(target.root, "srv/directory/with"), { recursive: true });
    symlinkSync(outside, join(target.root, "srv/through"));
    symlinkSync(outside, target.path("through"));
    symlinkSync(join(outside, "plain"), join(target.root, "srv/plain"));
    spawnSync("mkfifo", [join(target.root, "srv/fifo")]);
    const report = await target.apply();
    const { plan } = report;
    expect(readdirSync(outside)).toEqual([]);
    const inRoot = (path: string) => actionOf(plan, target.root + path);
    expect(inRoot("/srv/through/file")).toBe("left");
    expect(inRoot("/srv/own")).toBe("new");
    expect(inRoot("/srv/own/file")).toBe("left");
    expect(inRoot("/srv/directory")).toBe("left");
    expect(inRoot("/srv/fifo")).toBe("left");
    expect(inRoot("/proc/sys/kernel/core_pattern")).toBe("left");
    expect(inRoot("/var/spool/postfix/deferred/A/A1234567")).toBe("left");
    expect(actionOf(plan, target.path("through/file"))).toBe("left");
    expect(actionOf(plan, target.path("dynamicmaps.cf"))).toBe("left");
    // A link in the place of a file is replaced, not followed.
    expect(readFileSync(join(target.root, "srv/plain"), "utf8")).toBe("evil\n");
    expect(statSync(join(target.root, "srv/set-id")).mode & 0o7777).toBe(0o755);
    expect(report.problems.filter((problem) => problem.includes("was not placed")).length).toBe(5);
    expect(plan.files.some(({ path }) => /postconf-n|corrupt/.test(path))).toBe(false);
    const undo = await target.undo(report.run);
    expect(undo.left).toEqual([]);
    expect(existsSync(join(target.root, "srv/plain"))).toBe(false);
    expect(readdirSync(outside)).toEqual([]);
  });

  test("a newer Postfix here upgrades the configuration; what it edits is told, and undone with the rest", async () => {
    await using made = await HandMade.make();
    await using target = await standby(await handMade(made, [], "2.0.19"));
    const before = everything(target.postfix.configDirectory);
    const report = await target.apply();
    expect(report.commands[1]).toMatchObject({ command: "upgrade-configuration", runs: true, code: 0 });
    const edit = report.edited.find(
      ({ command, path }) => command === "upgrade-configuration" && path.endsWith("master.cf"),
    );
    expect(edit?.diff).toMatch(/^\+relay\s+unix/m);
    expect(readFileSync(join(report.keptIn, "master.cf.as-saved"))).toEqual(master);
    expect(await target.postfix.postconf("compatibility_level")).toBe("3.6");
    expect(report.problems).toEqual([]);
    expect((await target.undo(report.run)).left).toEqual([]);
    expect(everything(target.postfix.configDirectory)).toEqual(before);
  });
});
