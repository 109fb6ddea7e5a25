import { chmodSync, chownSync, lstatSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { recordPlaced } from "../../src/holds/placed.ts";
import { loadInstance, type PostfixInstance } from "../../src/postfix/instance.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { idForInode } from "../../src/postfix/queue-id.ts";
import { queueIdentity } from "../../src/postfix/queue-identity.ts";
import {
  RunJournal,
  type RunMessage,
  type RunRecord,
  readRuns,
  type StagedMessage,
} from "../../src/restore/journal.ts";
import { makeWaitingRooms, Placer, temporaryPath } from "../../src/restore/place.ts";
import { digestOf } from "../../src/system/digest.ts";
import { type Letter, type PrivatePostfix, until } from "../support/postfix.ts";
import { message as entry } from "./entries.ts";

/** A queue file that Postfix itself made, and the letter in it. */
export interface Kept {
  readonly letter: Letter;
  readonly bytes: Buffer;
  readonly queueId: string;
}

/**
 * Have Postfix make queue files: the letters are submitted, deferred (the sink refuses them), read and removed. The instance
 * must run, and does afterwards; its queue must be empty, and is.
 */
export async function queueFilesOf(postfix: PrivatePostfix, letters: readonly Letter[]): Promise<Kept[]> {
  const sent = await postfix.submit(letters);
  await until(() => postfix.files("deferred").length === letters.length, { what: "deferred mail" });
  await postfix.stop();
  const paths = new Map(postfix.files("deferred").map((path) => [basename(path), path]));
  const kept = sent.map(({ queueId, ...letter }) => {
    return { letter, queueId, bytes: readFileSync(paths.get(queueId) ?? "") };
  });
  for (const path of [...paths.values(), ...postfix.files("defer")]) rmSync(path);
  await postfix.start();
  return kept;
}

/** A message as a restore would have placed it. */
export interface Placed {
  readonly kept: Pick<Kept, "bytes" | "queueId">;
  /** Default: on hold, role restore. */
  readonly over?: Partial<Pick<RunMessage, "queue" | "role" | "inDoubt" | "waits" | "mode" | "uid" | "gid" | "mtime">>;
}

export interface HeldRun {
  readonly record: RunRecord;
  readonly instance: PostfixInstance;
  /** Ids here, in the order given. */
  readonly ids: readonly string[];
}

/** What a restore leaves that has ended, in its own order: journal, records of holds, files. */
export async function heldRun(
  postfix: PrivatePostfix,
  stateDirectory: string,
  placed: readonly Placed[],
  options: {
    readonly claim?: string;
    readonly host?: string;
    readonly unfinished?: true;
    readonly nowMs?: number;
  } = {},
): Promise<HeldRun> {
  const instance = await loadInstance(postfix.configDirectory);
  const { device, inode, born } = queueIdentity(instance.queueDirectory);
  const now = options.nowMs ?? Date.now();
  const { configDirectory, queueDirectory } = instance;
  const start = { snapshot: "5a".repeat(32), host: options.host ?? "mx1.source.test", instance: "mx" };
  const choice = {
    route: "merge",
    land: "hold",
    choice: "{}",
    judged: false,
    options: ["--merge", "--land", "hold"],
  } as const;
  const target = { configDirectory, queueDirectory, device, inode, born };
  const journal = RunJournal.begin(
    stateDirectory,
    { time: new Date(now).toISOString(), ...start, ...choice, options: ["--merge"], target },
    now,
  );
  if (options.claim !== undefined) journal.claimed(options.claim);
  const messages = placed.map((one, number) => toMessage(instance, one, number));
  journal.planned(messages);
  makeWaitingRooms(instance, messages.length);
  const staged = messages.map((message, at) => stage(instance, journal.run, message, placed[at]?.kept));
  const ours = staged.filter((_, at) => messages[at]?.role === "restore" && messages[at]?.waits === false);
  const since = new Date(now).toISOString();
  recordPlaced(stateDirectory, instance, { kind: "restore", run: journal.run, since, ids: ours.map(({ id }) => id) });
  journal.placing(staged);
  const placer = new Placer(instance, journal, (placement, id) => journal.renamed(placement.number, id));
  for (const [at, message] of messages.entries()) {
    const file = staged[at];
    if (file !== undefined && !message.waits) placer.place({ ...file, message, entry: entry() });
  }
  placer.sync();
  journal.visible();
  if (options.unfinished === true) journal.close();
  else journal.end("done", now);
  const record = readRuns(stateDirectory).find(({ run }) => run === journal.run);
  if (record === undefined) throw new Error("there is no run");
  return { record, instance, ids: record.staged.map(({ id }) => id) };
}

function toMessage(instance: PostfixInstance, { kept, over = {} }: Placed, number: number): RunMessage {
  const { created, content, recipients } = readQueueFile(bufferSource(kept.bytes));
  const role = over.queue === "deferred" ? null : ("restore" as const);
  return {
    number,
    key: `mx/${kept.queueId}/${created}/${content}`,
    queue: over.queue ?? "hold",
    mode: over.mode ?? 0o700,
    uid: over.uid ?? instance.ownerUid,
    gid: over.gid ?? instance.ownerGid,
    mtime: over.mtime ?? Math.floor(Date.now() / 1000) + 3600,
    role: over.role === undefined ? role : over.role,
    inDoubt: over.inDoubt ?? null,
    recipients: recipients.flatMap(({ done }, index) => (done ? [] : [index])),
    marks: [],
    served: [],
    logs: false,
    waits: over.waits ?? false,
  };
}

function stage(
  instance: PostfixInstance,
  run: string,
  { number, mode, uid, gid, mtime }: RunMessage,
  kept: Placed["kept"] | undefined,
): StagedMessage {
  const path = temporaryPath(instance, "message", run, number);
  const bytes = kept?.bytes ?? Buffer.of();
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, bytes, { mode: 0o600 });
  chownSync(path, uid, gid);
  chmodSync(path, mode);
  utimesSync(path, mtime, mtime);
  const { ino, ctimeNs } = lstatSync(path, { bigint: true });
  const id = idForInode(kept?.queueId ?? "", ino, instance.longIds);
  return { number, inode: String(ino), changed: String(ctimeNs), digest: digestOf(bytes).digest, id, logs: [] };
}
