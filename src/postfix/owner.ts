import { statSync } from "node:fs";
import { join } from "node:path";
import type { PostfixInstance } from "./instance.ts";

/**
 * Why postsuper(1) would see nothing of the queue: it becomes the user `mail_owner`, who by this system's accounts is not the
 * one the queue belongs to. So it is in a container whose accounts are others than those of the Postfix it looks at. postsuper
 * then says nothing, or "Permission denied", and does nothing.
 *
 * @returns undefined when all is well
 */
export function foreignOwner(
  instance: Pick<PostfixInstance, "queueDirectory" | "mailOwner" | "ownerUid">,
): string | undefined {
  const uid = statSync(join(instance.queueDirectory, "deferred"), { throwIfNoEntry: false })?.uid;
  if (uid === undefined || uid === instance.ownerUid) return undefined;
  return `the queue belongs to uid ${uid}, and mail_owner ${instance.mailOwner} is uid ${instance.ownerUid} here, so postsuper sees no mail`;
}

/** What to do about {@link foreignOwner}. */
export const foreignOwnerRemedy =
  "in a container, mount /etc/passwd and /etc/group of where Postfix runs; elsewhere, see what `postfix check` says";
