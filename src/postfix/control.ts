import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { type Clock, systemClock } from "../system/clock.ts";
import { run } from "../system/exec.ts";
import { readDescriptor } from "../system/files.ts";
import { processName } from "../system/processes.ts";
import type { PostfixInstance } from "./instance.ts";
import { readLocks } from "./locks.ts";
import type { QueueName } from "./queue.ts";
import { isQueueId } from "./queue-id.ts";

/** What of an instance is needed to speak to it. */
type Controlled = Pick<PostfixInstance, "configDirectory" | "queueDirectory">;

/** What postsuper(1) said on standard error: the only truth, as it exits with 0 for messages that aren't there. */
export interface PostsuperReport {
  /** Messages it says it dealt with, in its order. */
  readonly ids: readonly string[];
  /** Sum of its closing lines (`Placed on hold: 0 messages`); undefined without one: it was not run, or ended before. */
  readonly count: number | undefined;
  /** Everything else: warnings, fatal errors, renamed files. */
  readonly warnings: readonly string[];
}

export type MasterState =
  | "stopped"
  /** `visible`: pid is a master(8) in our PID namespace, so its children and their locks can be seen too. */
  | { readonly running: true; readonly pid: number; readonly visible: boolean };

/**
 * Whether Postfix runs, by the lock that master(8) holds on its pid file, as `postfix status` does: true also for one in
 * another PID namespace. A master is not disturbed: where the lock isn't listed, it is tried shared, for a moment.
 *
 * @throws OperatorError `program-failed` when the pid file can't be opened
 */
export async function masterState(instance: Controlled): Promise<MasterState> {
  for (let attempt = 1; ; attempt++) {
    if (!(await isLocked(pidFile(instance)))) return "stopped";
    const pid = masterPid(instance);
    const visible = processName(pid) === "master";
    // `postfix check` and `postfix status` take the same lock for a moment, while the file still has an old pid.
    if (visible || attempt === 3) return { running: true, pid, visible };
    await systemClock.sleep(50);
  }
}

/**
 * Put messages on hold: `postsuper -h -`, the queues named. Ids that are in none of them any more, and files still
 * being received, are passed over in silence; what was moved is in the report, and in the file when we don't live to
 * read it. A held message may still be in a delivery agent's hands, which goes on marking recipients in it.
 *
 * @param queues never none, maildrop or hold: postsuper would choose for itself
 * @param stderrPath receives what postsuper says, appended; mode 0600
 * @throws OperatorError `program-failed`; what it did before is in the file
 */
export async function hold(
  instance: Controlled,
  ids: readonly string[],
  queues: readonly QueueName[],
  stderrPath: string,
  signal?: AbortSignal,
): Promise<PostsuperReport> {
  if (queues.length === 0 || queues.some((queue) => queue === "maildrop" || queue === "hold")) {
    throw new OperatorError("failed", `mail can't be put on hold out of ${queues.join(" ") || "no queue"}`);
  }
  return postsuper(instance, ["-h", "-", ...queues], ids, stderrPath, signal);
}

/**
 * Release messages from hold to deferred: `postsuper -H -`. Retry times stay. Ids that aren't on hold are passed over
 * in silence. A message that qmgr has in memory must not be released: it would be removed undelivered.
 *
 * @param stderrPath receives what postsuper says, appended; mode 0600
 */
export async function release(
  instance: Controlled,
  ids: readonly string[],
  stderrPath?: string,
): Promise<PostsuperReport> {
  return postsuper(instance, ["-H", "-"], ids, stderrPath);
}

/** Take apart what one or several postsuper runs said; a last line that was cut off counts for nothing. */
export function parsePostsuper(text: string): PostsuperReport {
  const ids: string[] = [];
  const warnings: string[] = [];
  let count: number | undefined;
  for (const line of text.split("\n").slice(0, -1)) {
    const said = line.replace(/^[^\s:]*postsuper: /, "");
    const id = /^([0-9A-Za-z_]+): (?:placed on hold|released from hold)$/.exec(said)?.[1];
    const total = /^(?:Placed on hold|Released from hold): (\d+) messages?$/.exec(said)?.[1];
    if (id !== undefined) ids.push(id);
    else if (total !== undefined) count = (count ?? 0) + Number(total);
    else if (said !== "") warnings.push(said);
  }
  return { ids, count, warnings };
}

/** The pid of the instance's queue manager, a child of its master; undefined when there is none to be seen. */
export function qmgrPid(instance: Controlled): number | undefined {
  const pid = masterPid(instance);
  // The lock tells a master of this queue from whatever has an old pid now.
  if (processName(pid) !== "master" || !isListed(pidFile(instance))) return undefined;
  return childrenOf(pid).find((child) => /^o?qmgr$/.test(processName(child) ?? ""));
}

/**
 * Whether the pids we read are the pids we can signal: not where /proc is another PID namespace's (a container with the
 * host's /proc in it). There Postfix is seen as it is, but can't be told to reload, and a signal might meet another process.
 */
export function canSignalWhatIsSeen(): boolean {
  return readlinkSync("/proc/self") === String(process.pid);
}

/**
 * `postfix reload`: qmgr forgets what it has in memory, while deliveries under way are finished. Returns when Postfix was
 * told; {@link waitForNewQmgr} tells when it is done. Pending edits of main.cf and master.cf become active.
 *
 * @throws OperatorError `program-failed`, also when Postfix isn't running
 */
export async function reload(instance: Controlled): Promise<void> {
  await run("postfix", ["-c", instance.configDirectory, "reload"], { timeoutMs: 10 * 60_000 });
}

/**
 * Wait until the instance has a queue manager with another pid: one that never saw what was held before.
 *
 * @param oldPid the queue manager of before the reload; undefined if there was none
 * @returns its pid
 * @throws OperatorError `failed` if there is none after timeoutMs
 */
export async function waitForNewQmgr(
  instance: Controlled,
  oldPid: number | undefined,
  timeoutMs: number,
  clock: Clock,
): Promise<number> {
  const until = clock.monotonic() + timeoutMs;
  for (;;) {
    const pid = qmgrPid(instance);
    if (pid !== undefined && pid !== oldPid) return pid;
    if (clock.monotonic() > until) throw noNewQmgr(instance, oldPid, timeoutMs);
    await clock.sleep(50);
  }
}

/**
 * Make qmgr look through deferred now and not at its next queue run (`queue_run_delay`, 300 s): what is due is tried,
 * mail with a retry time to come is left alone (`qmgr.c`, request `D`: a scan without flush).
 *
 * @throws OperatorError `program-failed` when Postfix isn't running
 */
export async function scanDeferred(instance: Controlled): Promise<void> {
  // postkick writes its request in two pieces; qmgr is content with the first and closes, often before the second, which
  // is the end of a postkick that doesn't ignore SIGPIPE (`unix_trigger.c`, `trigger_server.c`).
  await run("env", ["--ignore-signal=PIPE", "postkick", "-c", instance.configDirectory, "public", "qmgr", "D"]);
}

/**
 * Make pickup look through maildrop now and not at its next turn (60 s, the wakeup time of its line in master.cf).
 *
 * @throws OperatorError `program-failed` when Postfix isn't running
 */
export async function scanMaildrop(instance: Controlled): Promise<void> {
  await run("env", ["--ignore-signal=PIPE", "postkick", "-c", instance.configDirectory, "public", "pickup", "W"]);
}

/**
 * Try one message of deferred now, whatever its retry time, and forget that its destination failed: `postqueue -i`.
 * Mail on hold, and an id that isn't queued, are passed over in silence.
 */
export async function wake(instance: Controlled, id: string): Promise<void> {
  await run("postqueue", ["-c", instance.configDirectory, "-i", checked(id)]);
}

/**
 * Let `postsuper -s` check the queue's structure, again until it has nothing more to do (five times at most): names
 * that don't match their inode, files in the wrong hash directory.
 *
 * @returns what it said, each line once; nothing when all was well at once
 */
export async function checkStructure(instance: Controlled): Promise<string[]> {
  const lines = new Set<string>();
  for (let round = 0; round < 5; round++) {
    const { stderr } = await run("postsuper", ["-c", instance.configDirectory, "-s"], {
      timeoutMs: postsuperTimeoutMs,
    });
    const said = stderr.split("\n").filter((line) => line !== "");
    if (said.length === 0) break;
    for (const line of said) lines.add(line.replace(/^postsuper: /, ""));
  }
  return [...lines];
}

/** 100,000 messages take five seconds; a disk may be slow, but not that slow. */
const postsuperTimeoutMs = 10 * 60_000;

async function postsuper(
  instance: Controlled,
  args: readonly string[],
  ids: readonly string[],
  stderrPath: string | undefined,
  signal?: AbortSignal,
): Promise<PostsuperReport> {
  if (ids.length === 0) return { ids: [], count: undefined, warnings: [] };
  const input = ids.map((id) => `${checked(id)}\n`).join("");
  const options = { input, timeoutMs: postsuperTimeoutMs, ...(signal === undefined ? {} : { signal }) };
  const command = ["-c", instance.configDirectory, ...args];
  if (stderrPath === undefined) return parsePostsuper((await run("postsuper", command, options)).stderr);
  const fd = openSync(stderrPath, constants.O_RDWR | constants.O_CREAT | constants.O_APPEND, 0o600);
  try {
    const before = fstatSync(fd).size;
    const said = () => parsePostsuper(readDescriptor(fd).bytes.toString("utf8", before));
    try {
      await run("postsuper", command, { ...options, stderrFd: fd });
    } catch (error) {
      throw withReason(error, said().warnings.at(-1));
    }
    return said();
  } finally {
    closeSync(fd);
  }
}

/** The reason is in the file and not in what run() saw. */
function withReason(error: unknown, reason: string | undefined): unknown {
  if (!(error instanceof OperatorError) || reason === undefined) return error;
  return new OperatorError(error.kind, `${error.message}: ${reason}`, { hints: error.hints, cause: error });
}

function checked(id: string): string {
  if (!isQueueId(id)) throw new OperatorError("failed", `${JSON.stringify(id)} is no queue id`);
  return id;
}

function pidFile(instance: Controlled): string {
  return join(instance.queueDirectory, "pid", "master.pid");
}

/** 0 when the file isn't there or holds none. */
function masterPid(instance: Controlled): number {
  try {
    return Number.parseInt(readFileSync(pidFile(instance), "utf8"), 10) || 0;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return 0;
    throw error;
  }
}

async function isLocked(path: string): Promise<boolean> {
  // flock(1) would create it.
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return false;
  if (isListed(path)) return true;
  const args = ["--shared", "--nonblock", "--conflict-exit-code", "75", path, "true"];
  return (await run("flock", args, { okCodes: [0, 75] })).code === 75;
}

function isListed(path: string): boolean {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat !== undefined && readLocks().has(stat.dev, stat.ino);
}

function childrenOf(parent: number): number[] {
  return readdirSync("/proc").flatMap((name) =>
    /^\d+$/.test(name) && parentOf(name) === parent ? [Number(name)] : [],
  );
}

function parentOf(pid: string): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command (field 2) is in parentheses and may hold anything; state and parent follow it.
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ESRCH") return undefined;
    throw error;
  }
}

function noNewQmgr(instance: Controlled, oldPid: number | undefined, timeoutMs: number): OperatorError {
  const seen = oldPid === undefined ? "no queue manager was seen" : `process ${oldPid} is still the queue manager`;
  return new OperatorError("failed", `no new queue manager within ${timeoutMs / 1000} s after the reload: ${seen}`, {
    hints: [
      `see whether Postfix is healthy: postfix -c ${instance.configDirectory} status, and its log`,
      "then give the held mail back: spoolsafe holds release",
    ],
  });
}
