import { join } from "node:path";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import type { SignedSnapshot } from "../../src/repository/repository.ts";
import type { Land } from "../../src/restore/plan.ts";
import type { RestoreEvent, RestoreReport } from "../../src/restore/report.ts";
import { type RestoreJob, restoreInto } from "../../src/restore/restore.ts";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import { systemClock } from "../../src/system/clock.ts";
import type { HandMade } from "../support/hand-made.ts";
import type { PrivatePostfix } from "../support/postfix.ts";
import type { Site } from "../support/site.ts";
import { choice } from "./entries.ts";

/** Everything `restoreInto` needs to put a site's snapshot into an instance. */
export async function restoreJob(
  site: Site,
  taken: { readonly id: string; readonly snapshot: Snapshot },
  target: PrivatePostfix,
  land: Land = "original",
): Promise<RestoreJob & AsyncDisposable> {
  const { repository, identities } = site;
  const [only] = taken.snapshot.instances;
  if (only === undefined) throw new Error("the snapshot has no instance");
  const { writer, number } = taken.snapshot;
  const reader = new PackReader({ identities, processors: 2 });
  return {
    source: {
      repository,
      identities,
      signed: await repository.load({ id: taken.id, writer, number }),
      trusted: loadTrustedKeys(join(site.directory, "trusted.pub")),
    },
    instance: await loadInstance(target.configDirectory),
    choice: choice({ instance: only.name, land }),
    stateDirectory: join(site.directory, "standby"),
    reader,
    processors: 2,
    clock: systemClock,
    [Symbol.asyncDispose]: () => reader.close(),
  };
}

/** Restore, and hand back what it told as well. */
export async function restore(
  site: Site,
  taken: { readonly id: string; readonly snapshot: Snapshot },
  target: PrivatePostfix,
  land: Land = "original",
): Promise<RestoreReport & { events: RestoreEvent[] }> {
  await using job = await restoreJob(site, taken, target, land);
  const events: RestoreEvent[] = [];
  return { ...(await restoreInto({ ...job, report: (event) => events.push(event) })), events };
}

/** The same for a snapshot made by hand; its state directory lies beside the instance and is not there yet. */
export async function handMadeJob(
  made: HandMade,
  signed: SignedSnapshot,
  target: PrivatePostfix,
  land: Land = "original",
): Promise<RestoreJob & AsyncDisposable> {
  const { repository, identities, trusted } = made;
  const reader = new PackReader({ identities, processors: 1 });
  return {
    source: { repository, identities, signed, trusted },
    instance: await loadInstance(target.configDirectory),
    choice: choice({ land }),
    stateDirectory: join(target.directory, "state"),
    reader,
    processors: 1,
    clock: systemClock,
    [Symbol.asyncDispose]: () => reader.close(),
  };
}
