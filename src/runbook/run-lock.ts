import { existsSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { currentBootId } from "../holds/journal.ts";
import { isAlive } from "../jobs/record.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { loadRun, runNames } from "./run-directory.ts";
import type { RunInstance, RunWorld } from "./world.ts";

/**
 * One run per queue directory at a time. It is not the lock of backup and restore, the one of the queue directory itself:
 * blocks run those. Undefined where there is no queue, and where `flock` is missing, which is said: a recovery is not to
 * end for want of a lock.
 *
 * @throws OperatorError `locked`
 */
export async function lockRuns(world: RunWorld): Promise<HeldLock | undefined> {
  const target = lockTarget(world.instance);
  if (target === undefined) return undefined;
  const lock = await tryLock(target).catch((error: unknown) => {
    world.report({ type: "warning", text: `${String(error)}: nothing keeps another run away from this queue` });
    return null;
  });
  if (lock === null) return undefined;
  if (lock !== undefined) return lock;
  throw new OperatorError("locked", `another runbook is being run on ${world.instance?.queueDirectory}`, {
    hints: ["go on with that one; `spoolsafe runbook report` shows the runs of this host"],
  });
}

/** `pid` of the queue directory, where Postfix itself locks a file and never the directory; without a queue, the configuration. */
function lockTarget(instance: RunInstance | null): string | undefined {
  if (instance === null) return undefined;
  return [join(instance.queueDirectory, "pid"), instance.configDirectory].find((path) => existsSync(path));
}

/**
 * A runner that was killed has left an action at work on this queue: nothing else is to begin there.
 *
 * @throws OperatorError `locked`
 */
export function refuseLeftAction(world: RunWorld): void {
  for (const name of runNames(world.places).slice(-20)) {
    const run = readable(world.places, name);
    const { start, steps = [] } = run?.progress ?? {};
    if (start === undefined || start.queueDirectory !== (world.instance?.queueDirectory ?? null)) continue;
    for (const { process, exited, undoing, name: step } of steps) {
      const alive = [exited ? null : process, undoing].find(
        (each) => each !== null && each.bootId === currentBootId() && isAlive(each),
      );
      if (!alive) continue;
      throw new OperatorError("locked", `${step} of the run ${name} is still at work (process ${alive.pid})`, {
        hints: [`its runner is gone; go on with it: spoolsafe runbook resume ${name}`],
      });
    }
  }
}

function readable(places: readonly string[], name: string) {
  try {
    return loadRun(places, name);
  } catch (error) {
    // A run whose journal can't be read says nothing, and is no reason to refuse another.
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}
