import type { PackReader } from "../pack/pack-pool.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { idForInode } from "../postfix/queue-id.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import { run as runProgram } from "../system/exec.ts";
import { makeWaitingRooms, type Placement, temporaryPath, type Work } from "./place.ts";
import { type MessageProof, markMessage, proveMessage } from "./prove.ts";
import type { MessageProblem, RestoreEvent } from "./report.ts";
import type { RestoreSource } from "./source.ts";
import { type StageFile, stagedReport, stageFiles } from "./stage.ts";

export interface StageJob {
  readonly source: RestoreSource;
  readonly instance: PostfixInstance;
  readonly reader: PackReader;
  readonly processors: number;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: RestoreEvent) => void) | undefined;
}

export interface StagedMessages {
  readonly staged: readonly Placement[];
  readonly unproven: readonly MessageProblem[];
}

/**
 * Write every message and log under its temporary name, read each message back while others are being written, compute the
 * name its inode asks for, and make all of it durable with one system call.
 */
export async function stageMessages(job: StageJob, run: string, work: readonly Work[]): Promise<StagedMessages> {
  const { instance, report } = job;
  const files = work.flatMap((one) => filesOf(instance, run, one));
  makeWaitingRooms(instance, work.length);
  report?.({ type: "step", step: "stage", messages: work.length });
  const proofs = await stageAndProve(job, run, work, files);
  report?.({ type: "step", step: "sync", messages: work.length });
  await runProgram("sync", ["--file-system", instance.queueDirectory], { timeoutMs: 60 * 60_000 });
  job.signal?.throwIfAborted();
  return sorted(instance, work, proofs);
}

/** Of one message: the inodes of its file and of its logs, and what reading the file back showed. */
interface Proof extends MessageProof {
  readonly inodes: bigint[];
}

async function stageAndProve(
  job: StageJob,
  run: string,
  work: readonly Work[],
  files: readonly StageFile[],
): Promise<Proof[]> {
  const proofs = work.map((): Proof => ({ inodes: [], problem: "it was not staged", changed: 0n, digest: "" }));
  // Which message a file is of, and which of its files: the message itself is the first.
  const places = work.flatMap((one, number) =>
    [0, ...logsOf(one).map((_, n) => n + 1)].map((file) => ({ number, file })),
  );
  const source = { ...job.source, reader: job.reader, processors: job.processors, signal: job.signal };
  const told = stagedReport(files, job.report);
  await stageFiles(files, source, (index, inode) => {
    const { number = -1, file = 0 } = places[index] ?? {};
    const [one, proof] = [work[number], proofs[number]];
    if (one === undefined || proof === undefined) throw new RangeError(`file ${index} belongs to no message`);
    proof.inodes[file] = inode;
    if (file === 0) Object.assign(proof, prove(temporaryPath(job.instance, "message", run, number), one));
    told(index);
  });
  return proofs;
}

/** The bytes are proven as the snapshot has them; marks come after that, and are read back too. */
function prove(path: string, work: Work): MessageProof {
  const proof = proveMessage(path, work);
  return proof.problem === null && work.message.marks.length > 0 ? markMessage(path, work) : proof;
}

function logsOf({ message, entry }: Work): MessageEntry["logs"] {
  return message.logs ? entry.logs : [];
}

function sorted(instance: PostfixInstance, work: readonly Work[], proofs: readonly Proof[]): StagedMessages {
  const staged: Placement[] = [];
  const unproven: MessageProblem[] = [];
  for (const [number, one] of work.entries()) {
    const proof = proofs[number];
    if (proof === undefined || proof.problem !== null) {
      unproven.push({ queueId: one.entry.queueId, problem: proof?.problem ?? "it was not staged" });
    } else {
      const [inode = 0n, ...logs] = proof.inodes;
      staged.push(placementOf(instance, one, { inode, changed: proof.changed, digest: proof.digest, logs }));
    }
  }
  return { staged, unproven };
}

/** The message first, then its logs; `stageAndProve` counts on the order. */
function filesOf(instance: PostfixInstance, run: string, work: Work): StageFile[] {
  const { message, entry } = work;
  const { ownerUid, ownerGid } = instance;
  const { number, uid, gid, mode, mtime } = message;
  const logs = logsOf(work).map(({ log, digest, bytes, pack, mode: logMode, mtime: logTime }) => ({
    ...{ digest, bytes, pack, path: temporaryPath(instance, log, run, number) },
    ...{ mode: logMode & 0o777, uid: ownerUid, gid: ownerGid, mtime: logTime },
  }));
  const { digest, bytes, pack } = entry.file;
  const path = temporaryPath(instance, "message", run, number);
  return [{ digest, bytes, pack, path, mode, uid, gid, mtime }, ...logs];
}

interface StagedFile extends Pick<MessageProof, "changed" | "digest"> {
  readonly inode: bigint;
  readonly logs: readonly bigint[];
}

function placementOf(instance: PostfixInstance, work: Work, file: StagedFile): Placement {
  const { message, entry } = work;
  return {
    message,
    entry,
    number: message.number,
    inode: String(file.inode),
    changed: String(file.changed),
    digest: file.digest,
    id: idForInode(entry.queueId, file.inode, instance.longIds),
    logs: logsOf(work).map(({ log }, n) => ({ log, inode: String(file.logs[n]) })),
  };
}
