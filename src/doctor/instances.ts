import { statSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import { holdInboxReasons } from "../postfix/hold-inbox.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { readLocks } from "../postfix/locks.ts";
import { foreignOwner, foreignOwnerRemedy } from "../postfix/owner.ts";
import { tryLock } from "../system/lock.ts";
import { bad, type Finding, good, look, type Report, type Role } from "./finding.ts";

export interface InstancesToExamine {
  readonly role: Role;
  findInstances(): Promise<readonly PostfixInstance[]>;
}

/** Look at every Postfix instance. @returns those whose queue is there */
export async function examineInstances(
  { role, findInstances }: InstancesToExamine,
  report: Report,
): Promise<readonly PostfixInstance[]> {
  const usable: PostfixInstance[] = [];
  for (const instance of await foundInstances(findInstances, report)) {
    const hasQueue = await look(`postfix ${instance.name}`, report, () => requireQueue(instance));
    if (!hasQueue) continue;
    await look(`postfix ${instance.name}`, report, () => examineInstance(instance, role));
    await look(`locks ${instance.name}`, report, () => examineLocks(instance));
    await look(`owner ${instance.name}`, report, () => examineOwner(instance));
    await look(`hold ${instance.name}`, report, () => examineHold(instance, role));
    usable.push(instance);
  }
  return usable;
}

async function foundInstances(
  findInstances: InstancesToExamine["findInstances"],
  report: Report,
): Promise<readonly PostfixInstance[]> {
  let instances: readonly PostfixInstance[] = [];
  await look("postfix instances", report, async () => {
    instances = await findInstances();
    const names = instances.map(({ name, configDirectory }) => `${name} (${configDirectory})`).join(", ");
    if (instances.length > 0) return [good("postfix instances", names)];
    return [bad("postfix instances", "none", "name them in postfix.config_directories, or see `postmulti -l`")];
  });
  return instances;
}

async function examineInstance(instance: PostfixInstance, role: Role): Promise<readonly Finding[]> {
  const name = `postfix ${instance.name}`;
  const state = await masterState(instance);
  const about = `Postfix ${instance.version}, ${instance.queueDirectory}`;
  if (role === "standby") return [standbyFinding(name, about, state !== "stopped")];
  if (state === "stopped") return [good(name, `${about}: not running, captured in mode stopped`)];
  if (state.visible) return [good(name, `${about}: running, pid ${state.pid}`)];
  return [
    good(
      name,
      `${about}: running in another PID namespace, so deliveries can't be seen: captured in mode live`,
      "run spoolsafe in the PID namespace of Postfix (docker run --pid=..., or beside it)",
    ),
  ];
}

/** @throws OperatorError `failed` when there is none */
function requireQueue({ queueDirectory, configDirectory }: PostfixInstance): readonly Finding[] {
  if (statSync(queueDirectory, { throwIfNoEntry: false })?.isDirectory()) return [];
  throw new OperatorError("failed", `the queue directory ${queueDirectory} is not there`, {
    hints: ["mount its file system", `or let Postfix make it: postfix -c ${configDirectory} check`],
  });
}

function standbyFinding(name: string, about: string, running: boolean): Finding {
  if (!running) return good(name, `${about}: not running`);
  const advice = "stop it before a takeover; or restore with --merge, which puts the mail beside what is queued here";
  return good(name, `${about}: running`, advice);
}

/** Whether a lock of ours on the queue directory is seen in /proc/locks: only then are those of delivery agents. */
async function examineLocks(instance: PostfixInstance): Promise<readonly Finding[]> {
  const name = `locks ${instance.name}`;
  const { dev, ino } = statSync(instance.queueDirectory, { bigint: true });
  // Somebody else's lock on it (a backup at work) shows as much as ours.
  const lock = await tryLock(instance.queueDirectory, 1);
  try {
    if (readLocks().has(dev, ino)) return [good(name, "locks on the queue are seen in /proc/locks")];
  } finally {
    await lock?.release();
  }
  return [
    good(
      name,
      "locks on the queue are not seen in /proc/locks (NFS, overlay or btrfs, another PID namespace): what is in flight can't be known",
      "put the queue on a local ext4 or xfs file system, and run spoolsafe beside Postfix",
    ),
  ];
}

/** Said only where it is wrong: outside a container it can't be, or Postfix would not run. */
function examineOwner(instance: PostfixInstance): readonly Finding[] {
  const foreign = foreignOwner(instance);
  return foreign === undefined ? [] : [bad(`owner ${instance.name}`, foreign, foreignOwnerRemedy)];
}

async function examineHold(instance: PostfixInstance, role: Role): Promise<readonly Finding[]> {
  const name = `hold ${instance.name}`;
  const reasons = await holdInboxReasons(instance);
  if (reasons.length === 0) return [good(name, "hold is nobody's inbox")];
  if (role === "standby") {
    const advice = "what a restore leaves on hold (mail in doubt, what an administrator held) would not stay there";
    return reasons.map((reason) => good(name, reason, advice));
  }
  return reasons.map((reason) =>
    good(
      name,
      `${reason}: captured in mode live, nothing is put on hold`,
      'set postfix.mode = "live" to say so yourself',
    ),
  );
}
