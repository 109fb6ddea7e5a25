import { closeSync, constants, existsSync, lstatSync, mkdirSync, openSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { lackingTypes } from "../postfix/map-types.ts";
import { foreignOwner, foreignOwnerRemedy } from "../postfix/owner.ts";
import { listSeparators, readParameters, scopes, splitWords } from "../postfix/parameters.ts";
import { messageQueues, type QueueName } from "../postfix/queue.ts";
import { queueIdentity } from "../postfix/queue-identity.ts";
import { lackOfRoom, type RoomNeeded, reserveBytes } from "../postfix/room.ts";
import { listQueue } from "../postfix/spool.ts";
import { groupId, userId } from "../system/accounts.ts";
import { run } from "../system/exec.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";

/** What a plan depends on in the instance that receives the mail. Plain data: it is shown, stored and compared. */
export interface TargetFacts {
  readonly instance: string;
  readonly configDirectory: string;
  readonly queueDirectory: string;
  /**
   * Device and inode of the queue directory, decimal: names change, and what is remembered of one queue must not speak for
   * another.
   */
  readonly device: string;
  readonly inode: string;
  /** When it was made, as `QueueIdentity` has it. */
  readonly born: string | null;
  readonly postfixVersion: string;
  readonly longIds: boolean;
  readonly ownerUid: number;
  readonly ownerGid: number;
  readonly setgidGid: number;
  /** Uid here of each owner of a maildrop file in the snapshot, by name; one that does not exist here is missing. */
  readonly users: Readonly<Record<string, number>>;
  readonly maximalBackoffS: number;
  readonly maximalQueueLifetimeS: number;
  readonly bounceQueueLifetimeS: number;
  readonly delayWarningTimeS: number;
  /** notify_classes has the postmaster told of notices that can't be delivered. */
  readonly postmasterHears: boolean;
  /** Map types this Postfix can open (`postconf -m`). */
  readonly mapTypes: readonly string[];
  /** Types that its own configuration names nevertheless, with the settings: `main.cf transport_maps`. */
  readonly lackingMapTypes: readonly { readonly type: string; readonly settings: readonly string[] }[];
  /** Services of master.cf that qmgr(8) can hand mail to. */
  readonly transports: readonly string[];
  readonly running: boolean;
  /** Seconds since 1970 when the facts were gathered. */
  readonly now: number;
  readonly blockSize: number;
  readonly freeBytes: number;
  /** Null where the file system makes inodes as it needs them. */
  readonly freeInodes: number | null;
  /** Bytes Postfix wants free before it accepts mail: the larger of queue_minfree and 1.5 times message_size_limit. */
  readonly reserveBytes: number;
}

/**
 * Look at the instance mail is to be restored into. Touches nothing.
 *
 * @param owners user names of maildrop files in the snapshot
 * @param nowMs milliseconds since 1970
 */
export async function gatherTarget(
  instance: PostfixInstance,
  owners: Iterable<string>,
  nowMs: number,
): Promise<TargetFacts> {
  checkQueueDirectory(instance);
  const foreign = foreignOwner(instance);
  if (foreign !== undefined) throw new OperatorError("refused", foreign, { hints: [foreignOwnerRemedy] });
  const disk = statfsSync(instance.queueDirectory);
  const setgidGid = groupId(instance.setgidGroup);
  if (setgidGid === undefined) {
    throw new OperatorError("refused", `the group ${instance.setgidGroup} (setgid_group) does not exist here`, {
      hints: ["install Postfix on this host first: its package makes the group"],
    });
  }
  return {
    instance: instance.name,
    configDirectory: instance.configDirectory,
    queueDirectory: instance.queueDirectory,
    ...queueIdentity(instance.queueDirectory),
    postfixVersion: instance.version,
    longIds: instance.longIds,
    ownerUid: instance.ownerUid,
    ownerGid: instance.ownerGid,
    setgidGid,
    users: usersHere(owners),
    maximalQueueLifetimeS: instance.maximalQueueLifetimeS,
    bounceQueueLifetimeS: instance.bounceQueueLifetimeS,
    ...(await configuredIn(instance)),
    running: (await masterState(instance)) !== "stopped",
    now: Math.floor(nowMs / 1000),
    blockSize: disk.bsize,
    freeBytes: disk.bavail * disk.bsize,
    freeInodes: disk.files === 0 ? null : disk.ffree,
  };
}

/**
 * The facts that must be the same when a plan is carried out as when it was made. Time and free space always differ, whether
 * Postfix runs is checked by those who need it stopped, and a device has another number after a reboot.
 */
export function comparableTarget(facts: TargetFacts): ComparableTarget {
  const { now, freeBytes, freeInodes, running, device, ...same } = facts;
  return { ...same, device: facts.born === null ? device : null };
}

export type ComparableTarget = Omit<TargetFacts, "now" | "freeBytes" | "freeInodes" | "running" | "device"> & {
  /** Null where the queue directory is known by its birth. */
  readonly device: string | null;
};

function checkQueueDirectory(instance: PostfixInstance): void {
  if (statSync(instance.queueDirectory, { throwIfNoEntry: false })?.isDirectory()) return;
  throw new OperatorError("refused", `the queue directory ${instance.queueDirectory} is not there`, {
    hints: ["mount its file system", `or let Postfix make it: postfix -c ${instance.configDirectory} check`],
  });
}

function usersHere(names: Iterable<string>): Record<string, number> {
  const found: Record<string, number> = {};
  for (const name of new Set(names)) {
    const uid = userId(name);
    if (uid !== undefined) found[name] = uid;
  }
  return found;
}

type Configured = Pick<
  TargetFacts,
  | "maximalBackoffS"
  | "reserveBytes"
  | "delayWarningTimeS"
  | "postmasterHears"
  | "mapTypes"
  | "lackingMapTypes"
  | "transports"
>;

async function configuredIn(instance: PostfixInstance): Promise<Configured> {
  const parameters = await readParameters(instance.configDirectory);
  const [main] = scopes(parameters);
  const value = (name: string) => main?.value(name) ?? "";
  const notified = splitWords(value("notify_classes"), listSeparators);
  return {
    maximalBackoffS: secondsOf(value("maximal_backoff_time"), "s"),
    reserveBytes: reserveBytes(value),
    delayWarningTimeS: secondsOf(value("delay_warning_time"), "h"),
    // bounce_notify_service.c: either class has a notice that can't be delivered sent on.
    postmasterHears: notified.includes("bounce") || notified.includes("2bounce"),
    mapTypes: parameters.mapTypes,
    lackingMapTypes: lackingTypes(parameters, () => false).map(({ type, settings }) => {
      return { type, settings: settings.map(({ setting }) => setting) };
    }),
    transports: transportsIn(parameters.reports.get("postconf-M")?.toString("utf8") ?? ""),
  };
}

/** A time value of main.cf in seconds; without a unit it has that of the built-in value (postconf(5), "time units"). */
export function secondsOf(value: string, defaultUnit: string): number {
  const [, number = "0", unit = ""] = /^(\d+)\s*([smhdw]?)/i.exec(value.trim()) ?? [];
  const seconds: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };
  return Number(number) * (seconds[unit.toLowerCase() || defaultUnit] ?? 1);
}

/** qmgr(8) connects to `private/NAME` (`qmgr_transport.c`), which master(8) makes for unix services that are private. */
function transportsIn(master: string): string[] {
  return master.split("\n").flatMap((line) => {
    const [name, type, isPrivate] = line.trim().split(/\s+/);
    return name !== undefined && type === "unix" && isPrivate !== "n" ? [name] : [];
  });
}

/** @throws OperatorError `refused` when Postfix runs */
export async function refuseRunning(instance: PostfixInstance): Promise<void> {
  const state = await masterState(instance);
  if (state !== "stopped") throw isRunning(instance, `its master is process ${state.pid}`);
}

function isRunning(instance: PostfixInstance, detail: string): OperatorError {
  return new OperatorError("refused", `Postfix of ${instance.configDirectory} is running: ${detail}`, {
    hints: [
      `stop it, and keep it stopped until the restore has ended: postfix -c ${instance.configDirectory} stop`,
      "or restore while it runs, beside its mail, on hold until its release: --merge",
    ],
  });
}

/**
 * @param ours inodes of files an interrupted run of ours left in the queues
 * @throws OperatorError `refused` with the count of each queue that has other mail
 */
export function refuseOccupied(instance: PostfixInstance, ours: ReadonlySet<string> = new Set()): void {
  const counts = messageQueues.map((queue): [QueueName, number] => [queue, countOthers(instance, queue, ours)]);
  const occupied = counts.filter(([, count]) => count > 0);
  if (occupied.length === 0) return;
  const list = occupied.map(([queue, count]) => `${count} in ${queue}`).join(", ");
  throw new OperatorError("refused", `the queue ${instance.queueDirectory} is not empty: ${list}`, {
    hints: [
      "restore beside it, on hold until its release: --merge",
      "or read the mail as files: spoolsafe restore SNAP --to DIR",
    ],
  });
}

function countOthers(instance: PostfixInstance, queue: QueueName, ours: ReadonlySet<string>): number {
  // An instance that never ran has no queue directories yet; `postfix check` makes them.
  if (!existsSync(join(instance.queueDirectory, queue))) return 0;
  const files = listQueue(instance.queueDirectory, queue);
  return ours.size === 0 ? files.length : files.filter(({ path }) => !ours.has(inodeOf(path))).length;
}

function inodeOf(path: string): string {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino);
}

/** @throws OperatorError `refused` when what a plan places would not leave Postfix the room it needs */
export function refuseWithoutRoom({
  needs,
  target,
}: {
  readonly needs: RoomNeeded;
  readonly target: TargetFacts;
}): void {
  const lack = lackOfRoom(needs, target);
  if (lack === undefined) return;
  throw new OperatorError("refused", `the file system of ${target.queueDirectory} needs ${lack}`, {
    hints: ["make room there, or put the queue directory on a larger file system"],
  });
}

/** Let Postfix make what is missing of its own directories, with its own owners and modes (`postfix check`). */
export async function makeQueueDirectories(instance: PostfixInstance): Promise<void> {
  await run("postfix", ["-c", instance.configDirectory, "check"], { timeoutMs: 10 * 60_000 });
}

/**
 * Exclude every other job of ours on this queue directory for as long as the lock is held.
 *
 * @throws OperatorError `locked`, or `refused` when the queue directory is not there
 */
export async function lockQueue(instance: PostfixInstance): Promise<HeldLock> {
  checkQueueDirectory(instance);
  const lock = await tryLock(instance.queueDirectory);
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another run works on ${instance.queueDirectory}`, {
    hints: ["wait until it has ended, or see which it is: fuser -v QUEUE_DIRECTORY"],
  });
}

/** The lock by which Postfix's own master(8) knows that another master runs: while we have it, none can start. */
export interface MasterGuard {
  /** @throws OperatorError `failed` when the guard was lost and Postfix could have started */
  check(): void;
  release(): Promise<void>;
}

/** @throws OperatorError `refused` when Postfix runs after all */
export async function guardMaster(instance: PostfixInstance): Promise<MasterGuard> {
  const path = join(instance.queueDirectory, "pid", "master.pid");
  makeLockFile(path);
  const lock = await tryLock(path);
  if (lock === undefined) throw isRunning(instance, `somebody holds the lock of ${path}`);
  const { dev, ino } = statSync(path, { bigint: true });
  return {
    check: () => {
      const now = statSync(path, { bigint: true, throwIfNoEntry: false });
      if (!lock.lost.aborted && now?.dev === dev && now.ino === ino) return;
      throw new OperatorError("failed", `the lock of ${path} was lost: Postfix may have started meanwhile`, {
        hints: ["stop Postfix and run the same restore again: it finishes what is missing and places nothing twice"],
      });
    },
    release: () => lock.release(),
  };
}

/** As master(8) makes it (`master.c`: O_CREAT, 0600, owned by root). */
function makeLockFile(path: string): void {
  mkdirSync(join(path, ".."), { recursive: true, mode: 0o755 });
  closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
}
