import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { createInterface } from "node:readline";
import { OperatorError } from "../errors.ts";
import { type RunOptions, type RunResult, run } from "../system/exec.ts";

/**
 * Where the programs of a drill run, as far as the network is concerned. `own`: in a network namespace that has a loopback
 * device and nothing else, so that no packet can leave it (network_namespaces(7)). `shared`: in the host's, where this
 * process may not make one; then only the drill's configuration keeps mail in.
 */
export interface DrillNetwork {
  readonly kind: "own" | "shared";
  /** Why it is shared; null for an own one. */
  readonly reason: string | null;
  /** Run a program in it, as {@link run} does. */
  run(program: string, args: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** What is in it now; null for a shared one. */
  look(): NetworkLook | null;
  /** Whether a process is in it; null for a shared one. */
  holds(pid: number): boolean | null;
  close(): Promise<void>;
}

export interface NetworkLook {
  readonly interfaces: readonly string[];
  /** Destinations that have a route outside loopback. */
  readonly routes: number;
  /** TCP sockets that listen and UDP sockets that are bound. */
  readonly listening: number;
  /** Packets and connections that found no way out since it was made. */
  readonly attempts: number;
}

/**
 * Make a network namespace, and in it a process that keeps it: it ends when our end of its standard input closes, which
 * the kernel does even after SIGKILL.
 *
 * @param directory its working directory, by which a later drill finds it
 */
export async function openNetwork(directory: string, signal?: AbortSignal): Promise<DrillNetwork> {
  const holder = spawn("unshare", ["--net", "--", "sh", "-c", holding], {
    cwd: directory,
    stdio: ["pipe", "pipe", "pipe"],
    env: { PATH: programsOf(process.env.PATH), LC_ALL: "C" },
    // A Ctrl-C at the terminal is for us: it must not take the namespace from under what we still end.
    detached: true,
  });
  holder.stdin.on("error", () => {});
  const said = await firstLine(holder);
  signal?.throwIfAborted();
  if (said !== "ready" || holder.pid === undefined) {
    holder.kill("SIGKILL");
    return shared(said);
  }
  return new OwnNetwork(holder, holder.pid);
}

/** The host's network, for tests and where no namespace can be made. */
export function shared(reason: string): DrillNetwork {
  return { kind: "shared", reason, run, look: () => null, holds: () => null, close: async () => {} };
}

/**
 * Postfix wants an active network interface, if only loopback. ip(8) may be missing, perl is essential in Debian: flags
 * IFF_UP and IFF_RUNNING by SIOCSIFFLAGS (netdevice(7)).
 */
const holding = `up() {
  ip link set lo up 2>/dev/null || perl -e 'use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0) or die;
    my $r = pack("a16 s x14", "lo", 0x41); ioctl($s, 0x8914, $r) or die'
}
up && echo ready && exec cat`;

function programsOf(path: string | undefined): string {
  return `${path ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`;
}

/** What a process says first, on either output; when it says nothing, that it could not be started. */
async function firstLine(child: ChildProcess): Promise<string> {
  return await new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("exit", () => setImmediate(() => resolve("unshare ended without a word")));
    for (const stream of [child.stdout, child.stderr]) {
      if (stream !== null) createInterface(stream).once("line", resolve);
    }
  });
}

class OwnNetwork implements DrillNetwork {
  readonly kind = "own";
  readonly reason = null;
  readonly #holder: ChildProcess;
  readonly #pid: number;

  constructor(holder: ChildProcess, pid: number) {
    this.#holder = holder;
    this.#pid = pid;
    holder.unref();
  }

  async run(program: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return await run("nsenter", [`--net=/proc/${this.#pid}/ns/net`, "--", program, ...args], options);
  }

  look(): NetworkLook {
    const read = (name: string) => readFileSync(`/proc/${this.#pid}/net/${name}`, "latin1");
    return {
      interfaces: [...read("dev").matchAll(/^\s*(\S+):/gm)].map(([, name = ""]) => name),
      routes: routesOutside(read("route"), ipv6(read, "ipv6_route")),
      listening:
        ["tcp", "tcp6"].reduce((sum, name) => sum + inState(ipv6(read, name), listenState), 0) +
        ["udp", "udp6"].reduce((sum, name) => sum + inState(ipv6(read, name), boundState), 0),
      attempts: noRoutes(read("snmp"), ipv6(read, "snmp6")),
    };
  }

  holds(pid: number): boolean {
    try {
      return readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync(`/proc/${this.#pid}/ns/net`);
    } catch {
      // A process that has ended is nowhere.
      return readProcess(pid) === null;
    }
  }

  async close(): Promise<void> {
    const { exitCode, signalCode } = this.#holder;
    if (exitCode !== null || signalCode !== null) return;
    this.#holder.ref();
    const ended = new Promise((resolve) => this.#holder.once("exit", resolve));
    this.#holder.stdin?.end();
    await ended;
  }
}

function readProcess(pid: number): string | null {
  try {
    return readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return null;
  }
}

/** Files a kernel without IPv6 does not have. */
function ipv6(read: (name: string) => string, name: string): string {
  try {
    return read(name);
  } catch {
    return "";
  }
}

// States of sockets in /proc/net/tcp and udp (include/net/tcp_states.h): TCP_LISTEN, TCP_CLOSE.
const listenState = "0A";
const boundState = "07";

function inState(table: string, state: string): number {
  return rows(table.split("\n").slice(1).join("\n")).filter((fields) => fields[3] === state).length;
}

/** Routes of /proc/net/route and /proc/net/ipv6_route that lead to another device than loopback. */
function routesOutside(ipv4: string, ipv6: string): number {
  const v4 = rows(ipv4.split("\n").slice(1).join("\n")).filter(([device]) => device !== "lo");
  const v6 = rows(ipv6).filter((fields) => fields.at(-1) !== "lo");
  return v4.length + v6.length;
}

function rows(text: string): string[][] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .map((line) => line.split(/\s+/));
}

/**
 * `OutNoRoutes` of the namespace: the kernel counts each connection and each datagram for which there is no route
 * (IPSTATS_MIB_OUTNOROUTES; `tcp_v4_connect`, `udp_sendmsg`, `ip6_dst_lookup_tail`).
 */
function noRoutes(snmp: string, snmp6: string): number {
  const [names = [], values = []] = rows(snmp).filter(([protocol]) => protocol === "Ip:");
  const index = names.indexOf("OutNoRoutes");
  if (index < 0) throw new OperatorError("failed", "this kernel does not count packets without a route");
  return Number(values[index]) + Number(/^Ip6OutNoRoutes\s+(\d+)/m.exec(snmp6)?.[1] ?? 0);
}
