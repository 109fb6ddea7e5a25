import type { Deliveries } from "../../src/restore/deliveries.ts";
import type { RunRecord } from "../../src/restore/journal.ts";
import { PlacedRecord, placedIdentity } from "../../src/restore/placed-record.ts";
import type { Knowledge, RestoreChoice, RestorePlan } from "../../src/restore/plan.ts";
import { everything } from "../../src/restore/selection.ts";
import type { TargetFacts } from "../../src/restore/target.ts";
import type { Twin } from "../../src/restore/twins.ts";
import type { RecipientVerdict, Verdict } from "../../src/restore/verdict.ts";
import { entryKey, type FileEntry, type MessageEntry } from "../../src/snapshot/manifest.ts";
import { digestFrom } from "../support/records.ts";

/** 2026-11-24T12:00:00Z, seconds. */
export const noon = 1_795_521_600;

export function message(over: Partial<MessageEntry> = {}): MessageEntry {
  return {
    kind: "message",
    instance: "mx",
    queueId: "7E48C16210F",
    created: String(noon - 3600),
    content: digestFrom("text"),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 102, gid: 105 },
    mtime: noon + 300,
    file: { digest: digestFrom("file"), bytes: 5000, pack: digestFrom("pack") },
    logs: [],
    sender: "a@src.test",
    recipients: [{ address: "b@dst.test", done: false }],
    size: 4000,
    arrival: noon - 3600,
    messageId: "<1@src.test>",
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...over,
  };
}

export function file(over: Partial<FileEntry> = {}): FileEntry {
  return {
    kind: "file",
    instance: "mx",
    area: "config",
    path: "/etc/postfix/main.cf",
    type: "file",
    mode: 0o644,
    owner: { user: "root", group: "root", uid: 0, gid: 0 },
    mtime: noon,
    file: { digest: digestFrom("main.cf"), bytes: 100, pack: digestFrom("pack") },
    target: null,
    ...over,
  };
}

export function target(over: Partial<TargetFacts> = {}): TargetFacts {
  return {
    instance: "mx",
    configDirectory: "/etc/postfix",
    queueDirectory: "/var/spool/postfix",
    device: "1",
    inode: "2",
    born: "3",
    postfixVersion: "3.7.11",
    longIds: false,
    ownerUid: 995,
    ownerGid: 996,
    setgidGid: 997,
    users: { alice: 1000 },
    maximalBackoffS: 4000,
    maximalQueueLifetimeS: 5 * 86_400,
    bounceQueueLifetimeS: 86_400,
    delayWarningTimeS: 4 * 3600,
    postmasterHears: false,
    mapTypes: ["hash", "lmdb"],
    lackingMapTypes: [],
    transports: ["smtp", "relay", "error", "retry", "discard", "local", "virtual", "lmtp"],
    running: false,
    now: noon,
    blockSize: 4096,
    freeBytes: 1e9,
    freeInodes: 1e6,
    reserveBytes: 15_360_000,
    ...over,
  };
}

/** The choice of a restore of everything into a stopped and empty instance. */
export function choice(over: Partial<RestoreChoice> = {}): RestoreChoice {
  return {
    ...{ instance: "mx", route: "fresh", land: "original", selection: everything, restoreDeleted: false, again: false },
    ...over,
  };
}

/** Nothing is known beside the snapshot. */
export function knowing(over: Partial<Knowledge> = {}): Knowledge {
  return { deliveries: null, twins: new Map(), placed: new PlacedRecord([]), ...over };
}

/** Recipients of an entry, `a@dst.test` and so on, none of them done. */
export function recipients(...names: readonly string[]): MessageEntry["recipients"] {
  return names.map((name) => ({ address: `${name}@dst.test`, done: false }));
}

/** What logs say: a verdict for each recipient of these messages, in its order. */
export function deliveries(said: readonly (readonly [MessageEntry, readonly Verdict[]])[]): Deliveries {
  const verdictOf = (verdict: Verdict): RecipientVerdict => {
    return { verdict, reason: `said ${verdict}`, ...(verdict === "done" ? { evidence: "the line" } : {}) };
  };
  const bound = { deliver: 0, done: 0, deleted: 0, inDoubt: 0, lost: 0, acceptedLater: 0, possiblyTwice: 0 } as const;
  return {
    verdicts: new Map(said.map(([entry, verdicts]) => [entryKey(entry), verdicts.map(verdictOf)])),
    ...{ warnings: [], covered: { from: noon - 3600, to: noon }, bound, sentence: "all is told", later: [] },
  };
}

/** The journal of a run that has carried out a plan, the `number`th. */
export function ran(plan: RestorePlan, number: number, over: Partial<RunRecord> = {}): RunRecord {
  const { source, choice, target } = plan;
  return {
    ...{ run: `20261124T12000${number}-0000000${number}`, directory: "/nowhere", time: source.time },
    ...{ snapshot: source.snapshot, host: source.host, instance: choice.instance, route: choice.route },
    ...{ land: choice.land, choice: "", judged: plan.log !== null, options: [], target, phase: "ended" },
    messages: plan.place.map(({ message, recipients, marks, served, ...rest }, at) => ({
      ...{ number: at, key: entryKey(message), identity: placedIdentity(message), ...rest },
      ...{ recipients: [...recipients], marks: [...marks], served: [...served] },
    })),
    staged: plan.place.map((_, at) => ({ ...fileOf(number, at), number: at, changed: "1", digest: "d", logs: [] })),
    ...{ outcome: "done", claim: null, releasing: new Set(), released: new Set() },
    ...{ undoing: new Set(), undone: new Set(), ...over },
  };
}

/** The name and inode that a run of `ran` gave its message. */
function fileOf(run: number, message: number): { id: string; inode: string } {
  return { id: `4F${run}A${message}`, inode: `${run}00${message}` };
}

/** A twin that is the file which a run of `ran` placed. */
export function placedTwin(run: number, message: number, over: Partial<Twin> = {}): Twin {
  const file = fileOf(run, message);
  return { queue: "hold", path: `/var/spool/postfix/hold/${file.id}`, done: [false], ...file, ...over };
}
