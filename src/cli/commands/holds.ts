import { OperatorError } from "../../errors.ts";
import { type ListedHold, listHolds } from "../../holds/list.ts";
import { type HoldRecovery, recoverHolds } from "../../holds/recover.ts";
import type { PostfixInstance } from "../../postfix/instance.ts";
import { tryLock } from "../../system/lock.ts";
import type { Context } from "../context.ts";
import { localTime, table } from "../table.ts";

export async function list(context: Context): Promise<number> {
  const { render } = context;
  const holds: ListedHold[] = [];
  for (const instance of await context.instances()) holds.push(...listHolds(context.stateDirectory, instance));
  for (const hold of holds) render.line({ type: "hold", ...hold } as never);
  render.summary({ count: holds.length });
  const rows = holds.map((hold) => [hold.kind, hold.instance, hold.queueId, localTime(new Date(hold.since)), hold.run]);
  render.text(rows.length === 0 ? "" : table(["kind", "instance", "queue id", "since", "run"], rows));
  if (rows.length === 0) render.note("No mail is on hold because of spoolsafe.");
  return 0;
}

/** Exit 3 when something stays on hold because of us. */
export async function release(context: Context): Promise<number> {
  requireRoot();
  const { render } = context;
  const recovered: HoldRecovery[] = [];
  for (const instance of await context.instances()) recovered.push(...(await recoverLocked(context, instance)));
  for (const one of recovered) {
    render.line(one);
    if (one.stillHeld.length > 0) {
      render.warn(`${one.instance}: ${one.stillHeld.length} messages stay on hold because of us: ${one.reason}`);
    }
    if (one.unclear.length > 0) {
      render.warn(
        `${one.instance}: on hold since run ${one.run}, perhaps by an administrator, and left alone: ${one.unclear.join(" ")}`,
      );
    }
  }
  const released = recovered.reduce((sum, one) => sum + one.released.length, 0);
  const stillHeld = recovered.reduce((sum, one) => sum + one.stillHeld.length, 0);
  const longestMs = Math.max(0, ...recovered.map((one) => one.heldMs));
  render.summary({ released, stillHeld, longestMs });
  render.text(`released ${released} messages that an interrupted backup had left on hold`);
  return stillHeld > 0 ? 3 : 0;
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can release mail", {
    hints: ["run it as root: sudo spoolsafe holds release"],
  });
}

async function recoverLocked(context: Context, instance: PostfixInstance): Promise<HoldRecovery[]> {
  const lock = await tryLock(instance.queueDirectory);
  if (lock === undefined) {
    throw new OperatorError("locked", `another spoolsafe run holds the lock of ${instance.queueDirectory}`, {
      hints: ["a backup at work releases what it holds itself; wait for it to finish"],
    });
  }
  try {
    const { stateDirectory, clock, signal } = context;
    return await recoverHolds({ instance, stateDirectory, clock, signal });
  } finally {
    await lock.release();
  }
}
