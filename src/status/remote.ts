import type { TrustedKeys } from "../crypto/sign.ts";
import { type ChainLink, checkChains, type Seen } from "../repository/chain.ts";
import type { Repository, SignedSnapshot } from "../repository/repository.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";
import { happened } from "./local.ts";
import { futureSeconds } from "./problems.ts";
import type { HostStatus, LastBackup, RepositoryStatus } from "./report.ts";

export interface RemoteLook {
  readonly repository: Repository;
  readonly trusted: TrustedKeys;
  /** What this host remembers of the repository (`loadSeen`). */
  readonly seen: Seen;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly signal: AbortSignal;
}

/**
 * What the repository says of every host in it, from records alone: they are signed and hold no mail, so no identity is
 * needed. Only what a trusted key has signed counts. Writes nothing, neither there nor here.
 */
export async function lookAtRepository(look: RemoteLook): Promise<RepositoryStatus> {
  const { repository, trusted, signal } = look;
  const { snapshots, damaged } = await repository.loadReadable(await repository.snapshotRefs(signal), signal);
  const believed = snapshots.filter(({ key, line, signature }) => trusted.check(key, line, signature) === "trusted");
  const hosts = Map.groupBy(snapshots, ({ snapshot }) => snapshot.host);
  const removed = (await repository.trustedRemovals(trusted, signal)).flatMap(({ removal }) => removal.snapshots);
  const links: ChainLink[] = [
    ...believed.map(({ id, snapshot: { writer, number, previous } }) => ({ id, writer, number, previous })),
    ...damaged.map(({ ref }) => ({ ...ref, previous: undefined })),
  ];
  return {
    hosts: [...hosts].map(([host, all]) => hostStatus(host, all, believed, look.now)).sort(byHost),
    faults: [
      ...damaged.map(({ error }) => error.message),
      ...checkChains(links, removed, look.seen).map(({ problem }) => problem),
    ],
  };
}

function byHost(a: HostStatus, b: HostStatus): number {
  return a.host < b.host ? -1 : 1;
}

function hostStatus(
  host: string,
  all: readonly SignedSnapshot[],
  believed: readonly SignedSnapshot[],
  now: number,
): HostStatus {
  const ours = believed.filter(({ snapshot }) => snapshot.host === host);
  const good = ours.filter(({ snapshot }) => Date.parse(snapshot.time) <= now + futureSeconds * 1000);
  const newest = good.reduce<SignedSnapshot | undefined>(
    (best, one) => (best === undefined || best.snapshot.time < one.snapshot.time ? one : best),
    undefined,
  );
  return {
    host,
    lastBackup: newest === undefined ? null : backupOf(newest, now),
    queues: newest === undefined ? null : queuesOf(newest.snapshot),
    snapshots: all.length,
    untrusted: all.length - ours.length,
    future: ours.length - good.length,
  };
}

function backupOf({ id, snapshot }: SignedSnapshot, now: number): LastBackup | null {
  const when = happened(snapshot.time, now);
  return when && { ...when, snapshot: id, messages: snapshot.messages.total, heldLongestMs: snapshot.hold.longestMs };
}

function queuesOf({ messages: { maildrop, incoming, active, deferred, hold } }: Snapshot): HostStatus["queues"] {
  return { maildrop, incoming, active, deferred, hold };
}
