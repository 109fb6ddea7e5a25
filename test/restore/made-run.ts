import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { PostfixInstance } from "../../src/postfix/instance.ts";
import type { LogKind } from "../../src/postfix/queue.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { idForInode } from "../../src/postfix/queue-id.ts";
import { queueIdentity } from "../../src/postfix/queue-identity.ts";
import { RunJournal, type RunMessage, type RunStart, toStagedMessage } from "../../src/restore/journal.ts";
import { makeWaitingRooms, type Placement, Placer, queueFilePath, temporaryPath } from "../../src/restore/place.ts";
import { entryKey, type MessageEntry } from "../../src/snapshot/manifest.ts";
import { digestOf } from "../../src/system/digest.ts";
import { message, noon } from "./entries.ts";

/*
 * Runs made by hand, step by step as a restore makes them and as far as a test wants, in a queue directory that needs no
 * Postfix.
 */

/** A message of such a run. */
export interface MadeMessage {
  readonly bytes: Buffer;
  readonly queue?: RunMessage["queue"];
  readonly role?: RunMessage["role"];
  readonly waits?: boolean;
  readonly logs?: Readonly<Partial<Record<LogKind, string>>>;
}

/** How far the run comes. `linked`: the message of this number has its name and still the temporary one. */
export interface MadeExtent {
  readonly phase: "started" | "planned" | "placing" | "visible" | "ended";
  /** How many messages, from the first, have their place; default all of them. */
  readonly placed?: number;
  readonly linked?: number;
}

export interface MadeRun {
  readonly run: string;
  readonly start: RunStart;
  readonly placements: readonly Placement[];
  /** Where a message lies, or lay. */
  path(number: number): string;
  temporary(number: number): string;
}

/** An empty queue directory with an instance that uses it. */
export function makeSpool(root: string, over: Partial<PostfixInstance> = {}): PostfixInstance {
  const queueDirectory = join(root, "spool");
  for (const queue of ["maildrop", "incoming", "active", "deferred", "hold", "bounce", "defer", "trace", "corrupt"]) {
    mkdirSync(join(queueDirectory, queue), { recursive: true });
  }
  return {
    name: "mx",
    configDirectory: "/nowhere",
    queueDirectory,
    dataDirectory: "/nowhere",
    mailOwner: "postfix",
    ownerUid: process.getuid?.() ?? 0,
    ownerGid: process.getgid?.() ?? 0,
    setgidGroup: "postdrop",
    version: "3.7.11",
    longIds: false,
    hashQueues: ["deferred", "defer", "hold"],
    hashDepth: 1,
    host: "mx.test",
    maximalQueueLifetimeS: 1,
    bounceQueueLifetimeS: 1,
    ...over,
  };
}

export function entryOf({ bytes }: MadeMessage, number: number): MessageEntry {
  const { created, content } = readQueueFile(bufferSource(bytes));
  return message({ queueId: `7E48C${(0x16210f + number).toString(16).toUpperCase()}`, created, content });
}

/** @param claim id of the claim it journals, if it comes so far */
export function makeRun(
  instance: PostfixInstance,
  stateDirectory: string,
  messages: readonly MadeMessage[],
  { phase, placed = messages.length, linked }: MadeExtent = { phase: "ended" },
  claim: ((run: string) => string) | null = null,
): MadeRun {
  const start: RunStart = {
    time: new Date(noon * 1000).toISOString(),
    snapshot: "5a".repeat(32),
    ...{ host: "mx1.source.test", instance: "mx", route: "fresh", land: "hold", choice: "{}", judged: false },
    options: [],
    target: { configDirectory: instance.configDirectory, ...targetOf(instance) },
  };
  const journal = RunJournal.begin(stateDirectory, start, noon * 1000);
  const { run } = journal;
  const placements: Placement[] = [];
  const made: MadeRun = {
    ...{ run, start, placements },
    path: (number) => {
      const placement = placements[number];
      return queueFilePath(instance, placement?.message.queue ?? "hold", placement?.id ?? "none");
    },
    temporary: (number) => temporaryPath(instance, "message", run, number),
  };
  if (claim !== null) journal.claimed(claim(run));
  if (phase === "started") return made;
  journal.planned(messages.map(runMessage));
  makeWaitingRooms(instance, messages.length);
  placements.push(...messages.map((one, number) => stage(instance, run, one, number)));
  if (phase === "planned") return made;
  journal.placing(placements.map(toStagedMessage));
  if (linked !== undefined) {
    mkdirSync(join(made.path(linked), ".."), { recursive: true });
    linkSync(made.temporary(linked), made.path(linked));
  }
  const placer = new Placer(instance, journal, () => {});
  const some = placements.filter((one, number) => number < placed && number !== linked && !one.message.waits);
  for (const one of some.filter((each) => each.message.queue === "hold")) placer.place(one);
  if (phase === "placing") return made;
  journal.visible();
  for (const one of some.filter((each) => each.message.queue !== "hold")) placer.place(one);
  if (phase === "ended") journal.end("done", noon * 1000);
  return made;
}

function targetOf({ queueDirectory }: PostfixInstance) {
  return { queueDirectory, ...queueIdentity(queueDirectory) };
}

function runMessage(one: MadeMessage, number: number): RunMessage {
  return {
    ...{ number, key: entryKey(entryOf(one, number)), queue: one.queue ?? "hold", mode: 0o700 },
    ...{ uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mtime: noon - 60, role: one.role ?? "restore" },
    ...{ inDoubt: null, recipients: [0], marks: [], served: [], logs: true, waits: one.waits ?? false },
  };
}

function stage(instance: PostfixInstance, run: string, one: MadeMessage, number: number): Placement {
  const path = temporaryPath(instance, "message", run, number);
  writeFileSync(path, one.bytes);
  chmodSync(path, 0o700);
  utimesSync(path, noon - 60, noon - 60);
  const logs = Object.entries(one.logs ?? {}).map(([log, text]) => {
    const file = temporaryPath(instance, log as LogKind, run, number);
    writeFileSync(file, text);
    return { log: log as LogKind, inode: String(statSync(file, { bigint: true }).ino) };
  });
  const { ino, ctimeNs } = statSync(path, { bigint: true });
  const entry = entryOf(one, number);
  return {
    ...{ message: runMessage(one, number), entry, number, inode: String(ino), changed: String(ctimeNs) },
    ...{ digest: digestOf(one.bytes).digest, id: idForInode(entry.queueId, ino, false), logs },
  };
}

/** Files of a queue directory, by their paths below it, with the digest of their bytes. */
export function filesOf({ queueDirectory }: PostfixInstance): Map<string, string> {
  const names = readdirSync(queueDirectory, { recursive: true, encoding: "utf8" }).sort();
  const files = names.filter((name) => lstatSync(join(queueDirectory, name)).isFile());
  return new Map(files.map((name) => [name, digestOf(readFileSync(join(queueDirectory, name))).digest]));
}

/** Take all mail, and everything that runs left, out of a spool and a state directory. */
export function emptySpool({ queueDirectory }: PostfixInstance, stateDirectory: string): void {
  for (const name of readdirSync(queueDirectory)) {
    for (const inner of readdirSync(join(queueDirectory, name))) {
      rmSync(join(queueDirectory, name, inner), { recursive: true });
    }
  }
  if (existsSync(stateDirectory)) rmSync(stateDirectory, { recursive: true });
}
