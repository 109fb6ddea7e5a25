import type { PackReader } from "../pack/pack-pool.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { idForInode } from "../postfix/queue-id.ts";
import { run as runProgram } from "../system/exec.ts";
import { type Placement, temporaryPath, type Work } from "./place.ts";
import { proveMessage } from "./prove.ts";
import type { MessageProblem, RestoreEvent } from "./report.ts";
import type { RestoreSource } from "./source.ts";
import { type StageFile, stageFiles } from "./stage.ts";

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
 * Write every message and log under its temporary name, make all of it durable with one system call, read it back, and
 * compute the name each inode asks for.
 */
export async function stageMessages(job: StageJob, run: string, work: readonly Work[]): Promise<StagedMessages> {
  const { instance, report } = job;
  const messages = work.length;
  const files = work.flatMap((one) => filesOf(instance, run, one));
  report?.({ type: "step", step: "stage", messages });
  const source = { ...job.source, reader: job.reader, processors: job.processors, signal: job.signal };
  const written = await stageFiles(files, source, (done) => report?.({ type: "staged", done, total: files.length }));
  report?.({ type: "step", step: "sync", messages });
  await runProgram("sync", ["--file-system", instance.queueDirectory], { timeoutMs: 60 * 60_000 });
  report?.({ type: "step", step: "prove", messages });
  return proveAll(instance, run, work, written);
}

/** The message first, then its logs; `proveAll` counts on the order. */
function filesOf(instance: PostfixInstance, run: string, { message, entry }: Work): StageFile[] {
  const { queueDirectory, ownerUid, ownerGid } = instance;
  const logs = entry.logs.map((log) => ({
    stored: log,
    path: temporaryPath(queueDirectory, log.log, run, message.number),
    mode: log.mode & 0o777,
    uid: ownerUid,
    gid: ownerGid,
    mtime: log.mtime,
  }));
  const { uid, gid, mode, mtime } = message;
  const path = temporaryPath(queueDirectory, "hold", run, message.number);
  return [{ stored: entry.file, path, mode, uid, gid, mtime }, ...logs];
}

function proveAll(
  instance: PostfixInstance,
  run: string,
  work: readonly Work[],
  inodes: readonly bigint[],
): StagedMessages {
  const staged: Placement[] = [];
  const unproven: MessageProblem[] = [];
  let at = 0;
  for (const one of work) {
    const [inode = 0n, ...logs] = inodes.slice(at, at + 1 + one.entry.logs.length);
    at += 1 + logs.length;
    const path = temporaryPath(instance.queueDirectory, "hold", run, one.message.number);
    const { problem, changed } = proveMessage(path, one);
    if (problem === null) staged.push(placementOf(instance, one, { inode, changed, logs }));
    else unproven.push({ queueId: one.entry.queueId, problem });
  }
  return { staged, unproven };
}

function placementOf(
  instance: PostfixInstance,
  { message, entry }: Work,
  file: { readonly inode: bigint; readonly changed: bigint; readonly logs: readonly bigint[] },
): Placement {
  return {
    message,
    entry,
    number: message.number,
    inode: String(file.inode),
    changed: String(file.changed),
    id: idForInode(entry.queueId, file.inode, instance.longIds),
    logs: entry.logs.map(({ log }, n) => ({ log, inode: String(file.logs[n]) })),
  };
}
