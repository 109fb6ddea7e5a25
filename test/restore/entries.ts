import { PlacedRecord } from "../../src/restore/placed-record.ts";
import type { Knowledge, RestoreChoice } from "../../src/restore/plan.ts";
import { everything } from "../../src/restore/selection.ts";
import type { TargetFacts } from "../../src/restore/target.ts";
import type { FileEntry, MessageEntry } from "../../src/snapshot/manifest.ts";
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
