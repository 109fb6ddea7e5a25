import { closeSync, constants, mkdirSync, openSync } from "node:fs";
import { dirname, join } from "node:path";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { masterState } from "./control.ts";
import type { PostfixInstance } from "./instance.ts";

/**
 * Keep a stopped Postfix stopped: hold the lock of its pid file, without which master(8) does not start (`master.c`).
 *
 * @returns undefined when Postfix runs
 */
export async function keepStopped(
  instance: Pick<PostfixInstance, "configDirectory" | "queueDirectory">,
): Promise<HeldLock | undefined> {
  if ((await masterState(instance)) !== "stopped") return undefined;
  const path = join(instance.queueDirectory, "pid", "master.pid");
  // As master(8) makes it: 0600, owned by root.
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600));
  return await tryLock(path);
}
