import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import { messageQueues, type QueueName } from "../postfix/queue.ts";
import type { Manifest, Owner } from "../snapshot/manifest.ts";
import { groupId, userId } from "../system/accounts.ts";
import { run as runProgram } from "../system/exec.ts";
import { fsyncDirectory } from "../system/files.ts";
import { tryLock } from "../system/lock.ts";
import { type LaidOut, type Layout, layOut } from "./layout.ts";
import type { RestoreEvent } from "./report.ts";
import { type RestoreSource, readTrusted } from "./source.ts";
import { type StageFile, stagedReport, stageFiles } from "./stage.ts";

export interface ToDirectoryJob {
  readonly source: RestoreSource;
  /** Absent, or an empty directory. */
  readonly directory: string;
  /** Only this instance's mail and configuration; undefined: everything of the snapshot. */
  readonly instance: string | undefined;
  /** No mail, and nothing that came from a queue. */
  readonly configurationOnly?: boolean | undefined;
  readonly reader: PackReader;
  readonly processors: number;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: RestoreEvent) => void) | undefined;
}

export interface ToDirectoryReport {
  readonly messages: number;
  readonly queues: Readonly<Record<QueueName, number>>;
  /** Files that are not mail and no logs of mail. */
  readonly files: number;
  readonly logs: number;
  readonly bytes: number;
  readonly renamed: Layout["renamed"];
  readonly warnings: readonly string[];
}

/** What would be written, without writing it. */
export async function planDirectory(job: Omit<ToDirectoryJob, "reader" | "processors">): Promise<ToDirectoryReport> {
  const manifest = await readWanted(job);
  refuseFilled(job.directory);
  return reportOf(manifest, job.instance, layOut(job.source.signed.snapshot, manifest, job.instance), []);
}

/**
 * Write a snapshot as plain files. Everything is written below `.spoolsafe-partial` and gets its name by rename when it is
 * complete and on disk, so that a crash leaves no half file under a final name; the next run into the directory removes
 * what such a crash left.
 *
 * As root, owners are given by name (by number where the name does not exist here) and modes kept; as anybody else
 * everything is that user's own.
 *
 * @throws OperatorError `refused` when the directory is there and not empty, `damaged` or `no-identity`; then nothing is left
 */
export async function restoreToDirectory(job: ToDirectoryJob): Promise<ToDirectoryReport> {
  const manifest = await readWanted(job);
  const layout = layOut(job.source.signed.snapshot, manifest, job.instance);
  refuseFilled(job.directory);
  const existed = existsSync(job.directory);
  if (!existed) mkdirSync(job.directory, { mode: 0o700 });
  try {
    await fill(job, layout);
  } catch (error) {
    if (!existed) removeIfEmpty(job.directory);
    throw error;
  }
  return reportOf(manifest, job.instance, layout, warningsOf(layout));
}

async function readWanted({ source, configurationOnly, signal }: Omit<ToDirectoryJob, "reader" | "processors">) {
  const manifest = await readTrusted(source, signal);
  if (configurationOnly !== true) return manifest;
  return { ...manifest, messages: [], files: manifest.files.filter(({ area }) => area !== "evidence") };
}

const partial = ".spoolsafe-partial";

function refuseFilled(directory: string): void {
  const stat = statSync(directory, { throwIfNoEntry: false });
  if (stat === undefined) {
    if (existsSync(dirname(directory))) return;
    throw new OperatorError("refused", `${dirname(directory)} does not exist`, {
      hints: [`make it: mkdir -p ${dirname(directory)}`],
    });
  }
  if (!stat.isDirectory()) throw notEmpty(directory, "is not a directory");
  if (readdirSync(directory).some((name) => name !== partial)) throw notEmpty(directory, "is not empty");
}

function notEmpty(directory: string, what: string): OperatorError {
  return new OperatorError("refused", `${directory} ${what}`, {
    hints: ["name a directory that is empty or not there yet"],
  });
}

async function fill(job: ToDirectoryJob, layout: Layout): Promise<void> {
  const lock = await tryLock(job.directory);
  if (lock === undefined) throw new OperatorError("locked", `another run writes to ${job.directory}`);
  const stage = join(job.directory, partial);
  try {
    refuseFilled(job.directory);
    rmSync(stage, { recursive: true, force: true });
    mkdirSync(stage, { mode: 0o700 });
    await write(job, layout, stage);
    await runProgram("sync", ["--file-system", stage], { timeoutMs: 60 * 60_000 });
    for (const name of readdirSync(stage)) renameSync(join(stage, name), join(job.directory, name));
    rmdirSync(stage);
    fsyncDirectory(job.directory);
  } catch (error) {
    rmSync(stage, { recursive: true, force: true });
    throw error;
  } finally {
    await lock.release();
  }
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch (error) {
    if (errnoOf(error) !== "ENOTEMPTY") throw error;
  }
}

/** Directories open to us alone until the end; files; then links, so that nothing is written through one; then modes. */
async function write(job: ToDirectoryJob, { entries }: Layout, stage: string): Promise<void> {
  for (const path of directoriesOf(entries)) mkdirSync(join(stage, path), { mode: 0o700 });
  const files = entries.flatMap((entry) => stageFile(entry, stage));
  job.report?.({ type: "step", step: "stage", messages: files.length });
  const { reader, processors, signal } = job;
  await stageFiles(files, { ...job.source, reader, processors, signal }, stagedReport(files, job.report));
  for (const entry of entries) if (entry.type === "link") makeLink(entry, stage);
  const deepestFirst = entries.filter(({ type }) => type === "directory").sort((a, b) => b.path.length - a.path.length);
  for (const entry of deepestFirst) dressDirectory(entry, stage);
}

/** Every directory that is named or passed through, each after the one it is in. */
function directoriesOf(entries: readonly LaidOut[]): string[] {
  const all = new Set<string>();
  for (const { path, type } of entries) {
    for (let at = type === "directory" ? path : dirname(path); at !== "."; at = dirname(at)) all.add(at);
  }
  return [...all].sort((a, b) => a.split("/").length - b.split("/").length);
}

function stageFile(entry: LaidOut, stage: string): StageFile[] {
  if (entry.stored === null) return [];
  const { digest, bytes, pack } = entry.stored;
  const path = join(stage, entry.path);
  return [{ digest, bytes, pack, path, mode: modeOf(entry), ...ownerOf(entry.owner), mtime: entry.mtime }];
}

function makeLink({ path, target, owner, mtime }: LaidOut, stage: string): void {
  const link = join(stage, path);
  symlinkSync(target ?? "", link);
  const { uid, gid } = ownerOf(owner);
  lchownSync(link, uid, gid);
  lutimesSync(link, mtime, mtime);
}

function dressDirectory(entry: LaidOut, stage: string): void {
  const path = join(stage, entry.path);
  const { uid, gid } = ownerOf(entry.owner);
  chownSync(path, uid, gid);
  chmodSync(path, modeOf(entry));
  utimesSync(path, entry.mtime, entry.mtime);
}

/** Somebody who is not root owns what they write; nobody else is to read it there. */
function modeOf({ type, mode }: LaidOut): number {
  if (isRoot()) return mode;
  return type === "directory" || (mode & 0o100) !== 0 ? 0o700 : 0o600;
}

function ownerOf(owner: Owner): { uid: number; gid: number } {
  if (!isRoot()) return { uid: -1, gid: -1 };
  return { uid: userId(owner.user) ?? owner.uid, gid: groupId(owner.group) ?? owner.gid };
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function warningsOf({ entries }: Layout): string[] {
  if (!isRoot()) return ["not run as root: every file belongs to you, with mode 0600 or 0700"];
  const users = new Set(entries.map(({ owner }) => owner.user).filter((user) => userId(user) === undefined));
  const groups = new Set(entries.map(({ owner }) => owner.group).filter((group) => groupId(group) === undefined));
  return [
    ...(users.size === 0 ? [] : [`users that do not exist here, kept by number: ${[...users].sort().join(", ")}`]),
    ...(groups.size === 0 ? [] : [`groups that do not exist here, kept by number: ${[...groups].sort().join(", ")}`]),
  ];
}

function reportOf(
  manifest: Manifest,
  instance: string | undefined,
  layout: Layout,
  warnings: readonly string[],
): ToDirectoryReport {
  const messages = manifest.messages.filter((message) => instance === undefined || message.instance === instance);
  const count = (queue: QueueName) => messages.filter((message) => message.queue === queue).length;
  const files = layout.entries.filter(({ type }) => type !== "directory").length;
  const logs = messages.reduce((sum, message) => sum + message.logs.length, 0);
  return {
    messages: messages.length,
    queues: Object.fromEntries(messageQueues.map((queue) => [queue, count(queue)])) as Record<QueueName, number>,
    files: files - messages.length - logs,
    logs,
    bytes: layout.entries.reduce((sum, { stored }) => sum + (stored?.bytes ?? 0), 0),
    renamed: layout.renamed,
    warnings,
  };
}
