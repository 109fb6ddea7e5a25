import { hostname } from "node:os";
import { join } from "node:path";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { type DrillEvent, type DrillJob, performDrill } from "../../src/drill/perform.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import type { SignedSnapshot } from "../../src/repository/repository.ts";
import type { DrillFacts } from "../../src/snapshot/drill.ts";
import { systemClock } from "../../src/system/clock.ts";
import type { Site } from "../support/site.ts";

/** Do a drill of a site's newest snapshot, of one writer, as a standby would. */
export async function drill(
  site: Site,
  more: Partial<DrillJob> = {},
): Promise<DrillFacts & { readonly events: readonly DrillEvent[]; readonly total: number }> {
  const events: DrillEvent[] = [];
  const before = performance.now();
  const facts = await performDrill({
    choose: async () => ({ source: await newest(site), chainProblems: [] }),
    openReader: () => new PackReader({ identities: site.identities, processors: 2 }),
    instance: undefined,
    deliver: true,
    targets: { rpo: undefined, rto: undefined },
    stateDirectory: site.stateDirectory,
    workDirectory: "/var/tmp",
    about: {
      ...{ attended: false, user: "root", sudoUser: null, store: { url: "file:///test", objectLockDays: null } },
      where: { hostname: hostname(), system: "test", spoolsafe: "test", node: process.version },
    },
    host: "mx1.source.test",
    processors: 2,
    clock: systemClock,
    report: (event) => events.push(event),
    ...more,
  });
  return { ...facts, events, total: performance.now() - before };
}

async function newest(site: Site) {
  const refs = await site.repository.snapshotRefs();
  const all: SignedSnapshot[] = await Promise.all(refs.map((ref) => site.repository.load(ref)));
  const signed = all.sort((a, b) => b.snapshot.number - a.snapshot.number)[0];
  if (signed === undefined) throw new Error("the site has no snapshot");
  const trusted = loadTrustedKeys(join(site.directory, "trusted.pub"));
  return { repository: site.repository, signed, identities: site.identities, trusted };
}
