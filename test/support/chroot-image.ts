import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { copyOf, type Instruction, type Stage } from "./dockerfile.ts";
import { makeScratch } from "./scratch.ts";

/*
 * An image without a container engine: a Debian made by mmdebstrap from the machine's own package sources, in which the
 * steps of a Dockerfile are carried out with chroot, each in a mount and a PID namespace of its own.
 */

const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface RunOptions {
  /** Paths of the machine and where they are in the image, read and write. */
  readonly mounts?: readonly (readonly [source: string, target: string])[];
  /**
   * `own` (default): a PID namespace of its own, as a container has. `shared`: ours, as with --pid=host. `own-with-host-proc`:
   * its own, with our /proc in it. A number: that of the process.
   */
  readonly pids?: "own" | "shared" | "own-with-host-proc" | number;
  /** `own`: a network with nothing but loopback. */
  readonly network?: "own";
  /** A file for both outputs: for what opens /dev/stdout, which can't be done with the sockets that Node's pipes are. */
  readonly output?: string;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs?: number;
}

export interface RunResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A root directory made of what mmdebstrap makes and these commands, run in it one after the other; kept in .vitest under a
 * name of all that goes into it. To be read only.
 */
export async function debianWith(commands: readonly string[]): Promise<string> {
  const sources = packageSources();
  const acquire = acquireOptions();
  const key = createHash("sha256")
    .update(JSON.stringify([sources, acquire, commands]))
    .digest("hex")
    .slice(0, 16);
  const directory = join(repository, ".vitest", `debian-${key}`);
  if (existsSync(directory)) return directory;
  const making = `${directory}.${process.pid}`;
  try {
    await makeDebian(making, sources, acquire);
    for (const command of commands) await mustRun(making, ["sh", "-c", command], { timeoutMs: 300_000 });
    renameSync(making, directory);
  } finally {
    rmSync(making, { recursive: true, force: true });
  }
  return directory;
}

/** A directory that shows what is in `lower` and takes what is written; gone with this process. */
export function writable(lower: string, sizeOfChanges: string): string {
  const scratch = makeScratch({ tmpfs: sizeOfChanges });
  for (const name of ["upper", "work", "root"]) mkdirSync(join(scratch, name));
  const options = `lowerdir=${lower},upperdir=${join(scratch, "upper")},workdir=${join(scratch, "work")}`;
  const mounted = spawnSync("mount", ["-t", "overlay", "-o", options, "spoolsafe-test", join(scratch, "root")]);
  // Where overlays can't be mounted, a copy.
  if (mounted.status !== 0) cpSync(lower, join(scratch, "root"), { recursive: true, verbatimSymlinks: true });
  return join(scratch, "root");
}

/** Commands of the RUN instructions a stage begins with: what doesn't depend on the sources. */
export function firstRuns({ instructions }: Stage): readonly string[] {
  const end = instructions.findIndex(({ keyword }) => keyword !== "RUN");
  return instructions.slice(0, end === -1 ? undefined : end).map(({ text }) => text);
}

/**
 * Carry out the instructions of a stage that change files, in a root directory.
 *
 * @param stages roots of the stages before it, by name
 */
export async function carryOut(
  root: string,
  instructions: readonly Instruction[],
  stages: ReadonlyMap<string, string>,
  options: RunOptions = {},
): Promise<void> {
  let cwd = "/";
  for (const instruction of instructions) {
    switch (instruction.keyword) {
      case "WORKDIR":
        cwd = instruction.text;
        mkdirSync(join(root, cwd), { recursive: true });
        break;
      case "COPY":
        copy(root, cwd, instruction, stages);
        break;
      case "RUN":
        await mustRun(root, ["sh", "-c", instruction.text], { timeoutMs: 300_000, ...options, cwd });
        break;
    }
  }
}

/** Run a program in a root directory, with nothing of our environment, and wait for its end. */
export async function runIn(root: string, command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { child, ended } = startIn(root, command, options);
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeoutMs ?? 60_000);
  return ended.finally(() => clearTimeout(timer));
}

/** The same, and don't wait. Killed, it takes everything in its own PID namespace with it. */
export function startIn(root: string, command: readonly string[], options: RunOptions = {}) {
  const { pids = "own", cwd = "/", env = {}, mounts = [] } = options;
  const words = [
    ...(typeof pids === "number" ? ["nsenter", `--target=${pids}`, "--pid", "--net", "--"] : []),
    ...["unshare", "--mount"],
    ...(options.network === "own" ? ["--net"] : []),
    ...(pids === "own" || pids === "own-with-host-proc" ? ["--pid"] : []),
    ...(pids === "shared" ? [] : ["--fork", "--kill-child"]),
    ...["sh", "-c", options.network === "own" ? loopbackUp + mountAndChange : mountAndChange, "sh"],
    ...[root, pids === "own" || typeof pids === "number" ? "" : "/proc", String(mounts.length), ...mounts.flat()],
    ...["env", `--chdir=${cwd}`, ...command],
  ];
  const output = options.output === undefined ? undefined : openSync(options.output, "a");
  const child = spawn(words[0] ?? "", words.slice(1), {
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/root", ...env },
    stdio: ["ignore", output ?? "pipe", output ?? "pipe"],
  });
  if (output !== undefined) closeSync(output);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
  const ended = new Promise<RunResult>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) =>
      resolve({ code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() }),
    );
  });
  const filed = () => (options.output === undefined ? "" : readFileSync(options.output, "utf8"));
  return { child, ended, said: () => filed() + Buffer.concat([...stdout, ...stderr]).toString() };
}

/** `ip link set lo up` with what every Debian has: SIOCSIFFLAGS with IFF_UP (netdevice(7)). */
const loopbackUp = `perl -MSocket -e 'socket(S, AF_INET, SOCK_DGRAM, 0); my $up = pack("a16s", "lo", 1); ioctl(S, 0x8914, $up) or die $!'
`;

/** Arguments: root, where /proc is bound from (nothing: a new one), number of mounts, pairs of source and target, command. */
const mountAndChange = `
set -e
root=$1 proc=$2 mounts=$3
shift 3
if [ -n "$proc" ]; then mount --rbind "$proc" "$root/proc"; else mount -t proc proc "$root/proc"; fi
mount --rbind /dev "$root/dev"
bind() {
  if [ -d "$1" ]; then mkdir -p "$root$2"; elif [ ! -e "$root$2" ]; then mkdir -p "$(dirname "$root$2")"; : > "$root$2"; fi
  mount --rbind "$1" "$root$2"
}
bind /etc/resolv.conf /etc/resolv.conf
bind /etc/hosts /etc/hosts
while [ "$mounts" -gt 0 ]; do bind "$1" "$2"; shift 2; mounts=$((mounts - 1)); done
exec chroot "$root" "$@"
`;

async function mustRun(root: string, command: readonly string[], options: RunOptions): Promise<void> {
  const { code, stdout, stderr } = await runIn(root, command, options);
  if (code === 0) return;
  throw new Error(`${command.join(" ")}\nended with ${code}: ${stdout.slice(-3000)}${stderr.slice(-3000)}`);
}

async function makeDebian(directory: string, sources: string, acquire: readonly string[]): Promise<void> {
  const list = `${directory}.sources`;
  writeFileSync(list, sources);
  const words = ["--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"];
  const options = acquire.map((option) => `--aptopt=${option}`);
  const child = spawn("mmdebstrap", [...words, ...options, osRelease("VERSION_CODENAME"), directory, list], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said += chunk));
  const code = await new Promise<number | null>((resolve, reject) => child.on("error", reject).on("close", resolve));
  rmSync(list);
  if (code !== 0) throw new Error(`mmdebstrap ended with ${code}: ${said.slice(-3000)}`);
  chmodSync(directory, 0o755);
}

/** The machine's own sources of its Debian release, deb822 stanzas or lines of the older form. */
function packageSources(): string {
  const suite = new RegExp(`\\b${osRelease("VERSION_CODENAME")}(-updates|-security)?\\b`);
  const parts = "/etc/apt/sources.list.d";
  const files = ["/etc/apt/sources.list", ...readdirSync(parts).map((name) => join(parts, name))];
  const texts = files
    .filter((file) => /\.(list|sources)$/.test(file) && existsSync(file))
    .map((file) => ({
      file,
      text: readFileSync(file, "utf8"),
    }));
  const stanzas = texts
    .filter(({ file }) => file.endsWith(".sources"))
    .flatMap(({ text }) => text.split(/\n\s*\n/))
    .filter((stanza) => suite.test(/^Suites:(.*)$/m.exec(stanza)?.[1] ?? "") && /debian-archive/.test(stanza));
  if (stanzas.length > 0) return `${stanzas.join("\n\n")}\n`;
  const lines = texts
    .filter(({ file }) => file.endsWith(".list"))
    .flatMap(({ text }) => text.split("\n"))
    .filter((line) => /^deb\s/.test(line) && suite.test(line) && /\bmain\b/.test(line) && !line.includes("signed-by"));
  if (lines.length === 0) throw new Error("no package source of this Debian release in /etc/apt");
  return `${lines.join("\n")}\n`;
}

/** How this machine gets at packages (a proxy, a mirror with old signatures), as options for apt. */
function acquireOptions(): readonly string[] {
  const { stdout } = spawnSync("apt-config", ["dump", "Acquire"], { encoding: "utf8" });
  return stdout.split("\n").filter((line) => /^Acquire::(Check-|https?::|Retries)/.test(line) && !line.endsWith('"";'));
}

function osRelease(key: string): string {
  return new RegExp(`^${key}="?([^"\n]*)`, "m").exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "";
}

/** A directory is its content; the target of several things, or with a slash at its end, is a directory. */
function copy(root: string, cwd: string, instruction: Instruction, stages: ReadonlyMap<string, string>): void {
  const { stage, sources, target } = copyOf(instruction);
  const from = stage === undefined ? repository : stages.get(stage);
  if (from === undefined) throw new Error(`Dockerfile, line ${instruction.line}: there is no stage ${stage}`);
  const to = join(root, target.startsWith("/") ? "/" : cwd, target);
  for (const source of sources) {
    if (stage === undefined) requireInContext(source);
    const path = join(from, source);
    const isDirectory = statSync(path).isDirectory();
    mkdirSync(isDirectory || target.endsWith("/") ? to : dirname(to), { recursive: true });
    const place = isDirectory || !target.endsWith("/") ? to : join(to, basename(source));
    cpSync(path, place, { recursive: true, verbatimSymlinks: true });
  }
}

/** Ours leaves out everything but what it names: such a file can be read in a few lines. */
function requireInContext(source: string): void {
  const lines = readFileSync(join(repository, ".dockerignore"), "utf8").split("\n");
  const [first, ...kept] = lines.filter((line) => line !== "" && !line.startsWith("#"));
  if (first !== "*" || !kept.every((line) => /^![\w./-]+$/.test(line)))
    throw new Error(".dockerignore is not understood");
  if (!kept.includes(`!${source.replace(/\/$/, "")}`)) throw new Error(`.dockerignore leaves out ${source}`);
}

/** What the image of Node brings along that Debian's packages don't: its node, its npm, and our way to the registry. */
export function nodeAndNpm(root: string): {
  readonly mounts: (readonly [string, string])[];
  readonly env: Record<string, string>;
} {
  const program = spawnSync("sh", ["-c", "command -v npm"], { encoding: "utf8" }).stdout.trim();
  const npm = dirname(dirname(realpathSync(program)));
  const config = (key: string) => spawnSync("npm", ["config", "get", key], { encoding: "utf8" }).stdout.trim();
  const wanted: (readonly [string, string])[] = [
    [process.execPath, "/usr/local/bin/node"],
    [npm, "/usr/local/lib/node_modules/npm"],
    [config("userconfig"), "/root/.npmrc"],
    [config("cache"), "/root/.npm"],
    ["/etc/ssl/certs", "/etc/ssl/certs"],
    ["/usr/share/ca-certificates", "/usr/share/ca-certificates"],
  ];
  symlinkSync("../lib/node_modules/npm/bin/npm-cli.js", join(root, "usr/local/bin/npm"));
  // A certificate authority of this machine's own, a proxy.
  const kept = Object.entries(process.env).filter(([name]) =>
    /^(NODE_EXTRA_CA_CERTS|https?_proxy|no_proxy)$/i.test(name),
  );
  const authority = process.env.NODE_EXTRA_CA_CERTS ?? "";
  if (authority !== "") wanted.push([authority, authority]);
  return {
    mounts: wanted.filter(([source]) => existsSync(source)),
    env: {
      npm_config_registry: config("registry"),
      npm_config_cache: "/root/.npm",
      ...Object.fromEntries(kept.map(([name, value]) => [name, value ?? ""])),
    },
  };
}
