import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { OperatorError } from "../errors.ts";

/** The flock(2) locks of the system at one moment. */
export interface LockTable {
  /** Whether somebody holds a flock, shared or exclusive, on the file with this device and inode (as stat gives them). */
  has(dev: bigint | number, ino: bigint | number): boolean;
}

/**
 * Read the lock table. A delivery agent holds a shared flock on a message from the moment it takes the request until it
 * answers (`deliver_request.c`); qmgr an exclusive one for the milliseconds of reading. Receiving takes none.
 *
 * Locks of other PID namespaces are not listed, nor are those of network file systems; on btrfs and overlayfs the
 * listed device is not the one of stat. A lock of our own on a file there shows whether locks there can be seen.
 */
export function readLocks(): LockTable {
  return parseLocks(readFileSync("/proc/locks", "utf8"));
}

/**
 * Whether somebody holds a flock on an open file, found by trying to get one: for file systems whose locks the table does
 * not tell, because it costs a process. If nobody has one, the descriptor keeps it until it is closed.
 *
 * @throws OperatorError `program-failed` when util-linux flock can't be had
 */
export function isLocked(fd: number): boolean {
  const { status, error } = spawnSync("flock", ["--nonblock", "--exclusive", "3"], {
    stdio: ["ignore", "ignore", "ignore", fd],
  });
  if (status === 0 || status === 1) return status === 1;
  throw new OperatorError("program-failed", `flock ended with ${status ?? error?.message}`, {
    hints: ["flock is part of util-linux, which every Debian has"],
    cause: error,
  });
}

/** `/proc/locks` (proc_locks(5)) as text; lines of processes that wait (`1: -> FLOCK ...`) hold nothing. */
export function parseLocks(text: string): LockTable {
  const held = new Set<string>();
  for (const line of text.split("\n")) {
    const [, kind, , , , file] = line.split(/\s+/);
    if (kind === "FLOCK" && file !== undefined) held.add(file);
  }
  return { has: (dev, ino) => held.has(`${deviceName(BigInt(dev))}:${ino}`) };
}

/** `major:minor` as the kernel prints it, two hexadecimal digits at least; the split of st_dev is `gnu_dev_major(3)`'s. */
function deviceName(dev: bigint): string {
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  return `${hex(major)}:${hex(minor)}`;
}

function hex(value: bigint): string {
  return value.toString(16).padStart(2, "0");
}
