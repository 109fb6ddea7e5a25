import { entryKey, type FileEntry, type Manifest, type MessageEntry, type Owner } from "./manifest.ts";

export interface ManifestDifference {
  readonly added: readonly MessageEntry[];
  readonly gone: readonly MessageEntry[];
  readonly changed: readonly MessageChange[];
  /** Messages that are in both, with nothing of interest changed. */
  readonly same: number;
  readonly files: readonly FileChange[];
}

export interface Change<T> {
  readonly from: T;
  readonly to: T;
}

/** What is not the same of a message that both have; null or empty where nothing is. */
export interface MessageChange {
  readonly after: MessageEntry;
  readonly queueId: Change<string> | null;
  readonly instance: Change<string> | null;
  readonly queue: Change<MessageEntry["queue"]> | null;
  /** Seconds since 1970, null for mail that was not deferred. */
  readonly retry: Change<number | null> | null;
  /** Recipients that were still to be delivered and are not any more. */
  readonly done: readonly string[];
  /** Recipients that are to be delivered and were not before: of a copy that was placed for others. */
  readonly open: readonly string[];
  /** It was in the queues at the end of one run and not of the other. */
  readonly finished: Change<boolean> | null;
}

/** A file, directory or link beside the mail. What is in it is not here: it may be a password. */
export interface FileChange {
  readonly change: "added" | "gone" | "changed";
  readonly entry: FileEntry;
  /** What of it, when changed. */
  readonly what: readonly ("type" | "content" | "target" | "mode" | "owner")[];
}

/**
 * What is different between two manifests. Messages are told by their identity within a host; what is then left over on
 * both sides is paired by creation time and content, which a message keeps when it is restored under another name or on
 * another host.
 */
export function manifestDifference(before: Manifest, after: Manifest): ManifestDifference {
  const { pairs, gone, added } = paired(before.messages, after.messages);
  const changes = pairs.map(([was, is]) => messageChange(was, is));
  const changed = changes.filter(isChange);
  return { added, gone, changed, same: changes.length - changed.length, files: fileChanges(before.files, after.files) };
}

interface Pairs {
  readonly pairs: readonly (readonly [MessageEntry, MessageEntry])[];
  readonly gone: readonly MessageEntry[];
  readonly added: readonly MessageEntry[];
}

function paired(before: readonly MessageEntry[], after: readonly MessageEntry[]): Pairs {
  const byName = pairBy(before, after, entryKey);
  const byContent = pairBy(byName.gone, byName.added, ({ created, content }) => `${created}/${content}`);
  return { ...byContent, pairs: [...byName.pairs, ...byContent.pairs] };
}

function pairBy(
  before: readonly MessageEntry[],
  after: readonly MessageEntry[],
  key: (entry: MessageEntry) => string,
): Pairs {
  const waiting = Map.groupBy(before, key);
  const pairs: (readonly [MessageEntry, MessageEntry])[] = [];
  const added: MessageEntry[] = [];
  for (const is of after) {
    const was = waiting.get(key(is))?.shift();
    if (was === undefined) added.push(is);
    else pairs.push([was, is]);
  }
  return { pairs, added, gone: [...waiting.values()].flat() };
}

function messageChange(was: MessageEntry, is: MessageEntry): MessageChange {
  return {
    after: is,
    queueId: change(was.queueId, is.queueId),
    instance: change(was.instance, is.instance),
    queue: change(was.queue, is.queue),
    retry: change(retryOf(was), retryOf(is)),
    done: without(openRecipients(was), openRecipients(is)),
    open: without(openRecipients(is), openRecipients(was)),
    finished: change(was.finished, is.finished),
  };
}

function isChange({ queueId, instance, queue, retry, done, open, finished }: MessageChange): boolean {
  return [queueId, instance, queue, retry, finished].some((each) => each !== null) || done.length + open.length > 0;
}

function change<T>(from: T, to: T): Change<T> | null {
  return from === to ? null : { from, to };
}

function retryOf({ queue, mtime }: MessageEntry): number | null {
  return queue === "deferred" ? mtime : null;
}

function openRecipients({ recipients }: MessageEntry): string[] {
  return recipients.filter(({ done }) => !done).map(({ address }) => address);
}

/** What is left of a list when each of the others is taken away once. */
function without(list: readonly string[], others: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const one of others) left.set(one, (left.get(one) ?? 0) + 1);
  return list.filter((one) => {
    const count = left.get(one) ?? 0;
    left.set(one, count - 1);
    return count <= 0;
  });
}

function fileChanges(before: readonly FileEntry[], after: readonly FileEntry[]): FileChange[] {
  const then = new Map(before.map((entry) => [entryKey(entry), entry]));
  const now = new Map(after.map((entry) => [entryKey(entry), entry]));
  const gone = before.filter((entry) => !now.has(entryKey(entry)));
  const found = after.flatMap((entry): FileChange[] => {
    const was = then.get(entryKey(entry));
    if (was === undefined) return [{ change: "added", entry, what: [] }];
    const what = fileChange(was, entry);
    return what.length === 0 ? [] : [{ change: "changed", entry, what }];
  });
  return [...gone.map((entry): FileChange => ({ change: "gone", entry, what: [] })), ...found].sort(byPlace);
}

function fileChange(was: FileEntry, is: FileEntry): FileChange["what"] {
  if (was.type !== is.type) return ["type"];
  return [
    ...(was.file?.digest === is.file?.digest ? [] : ["content" as const]),
    ...(was.target === is.target ? [] : ["target" as const]),
    ...(was.mode === is.mode ? [] : ["mode" as const]),
    ...(ownerName(was.owner) === ownerName(is.owner) ? [] : ["owner" as const]),
  ];
}

/** Names where there are some: the numbers of another host may differ. */
function ownerName({ user, group, uid, gid }: Owner): string {
  return `${user || uid}:${group || gid}`;
}

function byPlace(a: FileChange, b: FileChange): number {
  const place = ({ entry }: FileChange) => `${entry.instance ?? ""}\0${entry.area}\0${entry.path}`;
  return place(a) < place(b) ? -1 : 1;
}
