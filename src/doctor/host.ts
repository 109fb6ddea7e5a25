import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { bad, type Finding, good, type Report, type Role } from "./finding.ts";

export interface HostToExamine {
  readonly role: Role;
  /** As `process.versions.node`. */
  readonly nodeVersion: string;
  readonly uid: number;
}

/** What the host must have whatever the configuration says. */
export async function examineHost(host: HostToExamine, report: Report): Promise<void> {
  report(nodeFinding(host.nodeVersion));
  report(rootFinding(host));
  for (const finding of programFindings()) report(finding);
}

function nodeFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > 24 || (major === 24 && minor >= 11)) return good("node", `Node ${version}`);
  return bad("node", `Node ${version} is too old`, "install Node 24.11 or newer, or run `npm ci` where spoolsafe is");
}

function rootFinding({ uid, role }: HostToExamine): Finding {
  if (uid === 0 && !maySeeOpenFiles()) {
    return good(
      "root",
      "running as root, without CAP_SYS_PTRACE: recovery after a crash can't see a postsuper that is still at work",
      "give the container that capability: docker run --cap-add=SYS_PTRACE",
    );
  }
  if (uid === 0) return good("root", "running as root");
  return role === "primary"
    ? bad("root", `running as user ${uid}, who can't read a mail queue`, "run spoolsafe as root: sudo spoolsafe doctor")
    : bad(
        "root",
        `running as user ${uid}, who can't place mail in a queue`,
        "run spoolsafe as root: sudo spoolsafe doctor --role standby (verify and restore --to work without)",
      );
}

/** Links in /proc/PID/fd of other users' processes need CAP_SYS_PTRACE, bit 19 (proc(5), capability.h); containers lack it. */
function maySeeOpenFiles(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return ((BigInt(`0x${effective}`) >> 19n) & 1n) === 1n;
}

const postfixPrograms = ["postconf", "postmulti", "postsuper", "postqueue", "postkick", "postcat"];

function programFindings(): readonly Finding[] {
  const missing = (names: readonly string[]) => names.filter((name) => findProgram(name) === undefined);
  const postfix = missing(postfixPrograms);
  const flock = missing(["flock"]);
  const stock = missing(["age", "zstd", "tar"]);
  return [
    postfix.length === 0
      ? good("postfix programs", "all there")
      : bad("postfix programs", `not found: ${postfix.join(", ")}`, "install Postfix: apt-get install postfix"),
    flock.length === 0
      ? good("flock", "there")
      : bad("flock", "not found: runs could not exclude each other", "apt-get install util-linux"),
    stock.length === 0
      ? good("stock recovery", "age, zstd and tar are here")
      : good(
          "stock recovery",
          `not here: ${stock.join(", ")}`,
          `to recover without spoolsafe: apt-get install ${stock.join(" ")}`,
        ),
  ];
}

/** Path of a program in PATH or in the directories of an administrator. */
export function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return directories.map((directory) => join(directory, name)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  return permits(path, constants.X_OK) && statSync(path).isFile();
}

/** @param mode as access(2) has it */
export function permits(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
