import {
  entryKey,
  type FileEntry,
  formatLine,
  type LogEntry,
  type ManifestEntry,
  type MessageEntry,
  manifestHeader,
  type StoredFile,
} from "../snapshot/manifest.ts";
import type { PartReference } from "../snapshot/snapshot.ts";
import { groupName, userName } from "../system/accounts.ts";
import type { CapturedMessage } from "./capture.ts";
import type { CapturedInstance } from "./instance.ts";
import { mtimeOf } from "./read-message.ts";

/** Where a digest lies, once everything is stored. */
export interface Stored {
  /** @throws when the bytes were never stored: a defect, never papered over */
  of(digest: string): StoredFile;
  deferLogOf(digest: string): LogEntry | undefined;
}

/** Everything captured, as manifest entries that know their packs. One entry per key. */
export function entriesOf(captured: readonly CapturedInstance[], stored: Stored): Map<string, ManifestEntry> {
  const entries = new Map<string, ManifestEntry>();
  for (const { instance, messages, files } of captured) {
    for (const message of messages) add(entries, messageEntry(instance.name, message, stored));
    for (const { content, ...file } of files) {
      const entry: FileEntry = { ...file, file: content === null ? null : stored.of(content.digest) };
      if (!entries.has(entryKey(entry))) add(entries, entry);
    }
  }
  return entries;
}

function add(entries: Map<string, ManifestEntry>, entry: ManifestEntry): void {
  entries.set(entryKey(entry), entry);
}

function messageEntry(instance: string, message: CapturedMessage, stored: Stored): MessageEntry {
  const { facts, stat, digest, logs } = message.read;
  return {
    kind: "message",
    instance,
    queueId: message.queueId,
    created: facts.created,
    content: facts.content,
    queue: message.queue,
    mode: stat.mode & 0o7777,
    owner: { user: userName(stat.uid), group: groupName(stat.gid), uid: stat.uid, gid: stat.gid },
    mtime: mtimeOf(stat),
    file: stored.of(digest),
    logs: logs.map((log) => logEntry(log, digest, stored)),
    sender: facts.sender,
    recipients: facts.recipients.map(({ address, done }) => ({ address, done })),
    size: facts.size,
    arrival: facts.arrival,
    messageId: facts.messageId,
    contentFilter: facts.contentFilter,
    sendopts: facts.sendopts,
    delayWarning: facts.delayWarning,
    inFlight: message.inFlight,
    role: message.role,
    finished: message.finished,
  };
}

/** A defer log stays as it was first stored with these bytes of its message; bounce and trace logs are always the last read. */
function logEntry(log: CapturedMessage["read"]["logs"][number], messageDigest: string, stored: Stored): LogEntry {
  const earlier = log.log === "defer" ? stored.deferLogOf(messageDigest) : undefined;
  return earlier ?? { log: log.log, ...stored.of(log.digest), mode: log.mode, mtime: log.mtime };
}

export interface PartPlan {
  readonly kind: "base" | "increment";
  /** Parts the new one follows; none for a base. */
  readonly follows: readonly PartReference[];
  readonly text: string;
  /** The whole manifest's lines by key, for the index. */
  readonly lines: ReadonlyMap<string, string>;
}

const longestChain = 48;

/**
 * The manifest part that turns what is stored into what was captured: only the lines that are new or changed, and what is
 * gone. A base instead where nothing usable is stored, or where reading the increments would cost more than a base.
 */
export function planPart(
  entries: ReadonlyMap<string, ManifestEntry>,
  host: string,
  before: { readonly parts: readonly PartReference[]; readonly lines: ReadonlyMap<string, string> } | undefined,
): PartPlan {
  const lines = new Map([...entries].map(([key, entry]) => [key, formatLine(entry)]));
  if (before === undefined || tooLong(before.parts)) {
    return { kind: "base", follows: [], text: manifestHeader("base", host) + [...lines.values()].join(""), lines };
  }
  const changed = [...lines].filter(([key, line]) => before.lines.get(key) !== line).map(([, line]) => line);
  const gone = [...before.lines.keys()]
    .filter((key) => !lines.has(key))
    .map((key) => formatLine({ kind: "gone", key }));
  const text = manifestHeader("increment", host) + [...gone, ...changed].join("");
  return { kind: "increment", follows: before.parts, text, lines };
}

function tooLong(parts: readonly PartReference[]): boolean {
  const [base, ...increments] = parts;
  const bytes = increments.reduce((sum, part) => sum + part.bytes, 0);
  return base === undefined || increments.length >= longestChain || bytes > base.bytes + 1024 * 1024;
}
