import type { TrustedKeys } from "../crypto/sign.ts";
import { type ChainLink, checkChains, type Seen } from "../repository/chain.ts";
import type { Repository, SignedSnapshot } from "../repository/repository.ts";
import type { CaptureMode, MessageCounts } from "../snapshot/snapshot.ts";
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

/** A backup that is in the repository, signed by a trusted key and not dated in the future. */
export interface StoredBackup {
  readonly host: string;
  readonly snapshot: string;
  /** Start of the capture, RFC 3339 in UTC. */
  readonly time: string;
  readonly messages: number;
  /** How long a message was on hold for it at most. */
  readonly heldLongestMs: number;
  readonly mode: CaptureMode;
  readonly tags: readonly string[];
}

/**
 * What the repository says of every host in it, from records alone: they are signed and hold no mail, so no identity is
 * needed. Only what a trusted key has signed counts. Writes nothing, neither there nor here.
 */
export async function lookAtRepository(look: RemoteLook): Promise<RepositoryStatus> {
  return (await lookAtBackups(look, 0)).status;
}

/** The same, and the newest backups of each host, so many of them at most, oldest first. */
export async function lookAtBackups(
  look: RemoteLook,
  most: number,
): Promise<{ readonly status: RepositoryStatus; readonly backups: readonly StoredBackup[] }> {
  const { repository, trusted, signal, now } = look;
  const refs = await repository.snapshotRefs(signal);
  const { taken, damaged } = await repository.takeReadable(refs, (signed) => recordOf(signed, trusted), signal);
  const believed = taken.filter((record) => record.trusted);
  const hosts = [...Map.groupBy(taken, ({ host }) => host)].sort(([a], [b]) => (a < b ? -1 : 1));
  const removed = (await repository.trustedRemovals(trusted, signal)).flatMap(({ removal }) => removal.snapshots);
  const links: ChainLink[] = [
    ...believed.map(({ id, writer, number, previous }) => ({ id, writer, number, previous })),
    ...damaged.map(({ ref }) => ({ ...ref, previous: undefined })),
  ];
  return {
    status: {
      hosts: hosts.map(([host, all]) => hostStatus(host, all, now)),
      faults: [
        ...damaged.map(({ error }) => error.message),
        ...checkChains(links, removed, look.seen).map(({ problem }) => problem),
      ],
    },
    backups: most === 0 ? [] : hosts.flatMap(([, all]) => goodOf(all, now).slice(-most).map(storedBackup)),
  };
}

/** Of a record only this is kept: those of a month of snapshots every ten minutes would take a gigabyte. */
interface Taken {
  readonly id: string;
  readonly host: string;
  readonly writer: string;
  readonly number: number;
  readonly previous: string | null;
  readonly time: string;
  readonly messages: MessageCounts;
  readonly heldLongestMs: number;
  readonly mode: CaptureMode;
  readonly tags: readonly string[];
  readonly trusted: boolean;
}

function recordOf({ id, key, line, signature, snapshot }: SignedSnapshot, trusted: TrustedKeys): Taken {
  const { host, writer, number, previous, time, messages, hold, mode, tags } = snapshot;
  return {
    id,
    host,
    writer,
    number,
    previous,
    time,
    messages,
    heldLongestMs: hold.longestMs,
    mode,
    tags,
    trusted: trusted.check(key, line, signature) === "trusted",
  };
}

function hostStatus(host: string, all: readonly Taken[], now: number): HostStatus {
  const ours = all.filter((record) => record.trusted).length;
  const good = goodOf(all, now);
  const newest = good.at(-1);
  return {
    host,
    lastBackup: newest === undefined ? null : backupOf(newest, now),
    queues: newest === undefined ? null : queuesOf(newest.messages),
    snapshots: all.length,
    untrusted: all.length - ours,
    future: ours - good.length,
  };
}

/** Oldest first. */
function goodOf(all: readonly Taken[], now: number): readonly Taken[] {
  return all
    .filter((record) => record.trusted && Date.parse(record.time) <= now + futureSeconds * 1000)
    .sort((a, b) => (a.time < b.time ? -1 : 1));
}

function backupOf({ id, time, messages, heldLongestMs }: Taken, now: number): LastBackup | null {
  const when = happened(time, now);
  return when && { ...when, snapshot: id, messages: messages.total, heldLongestMs };
}

function queuesOf({ maildrop, incoming, active, deferred, hold }: MessageCounts): HostStatus["queues"] {
  return { maildrop, incoming, active, deferred, hold };
}

function storedBackup({ host, id, time, messages, heldLongestMs, mode, tags }: Taken): StoredBackup {
  return { host, snapshot: id, time, messages: messages.total, heldLongestMs, mode, tags };
}
