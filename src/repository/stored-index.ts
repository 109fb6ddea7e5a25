import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import * as z from "zod";
import { logKinds } from "../postfix/queue.ts";
import type { LogEntry, StoredFile } from "../snapshot/manifest.ts";
import type { ObjectReference, PartReference } from "../snapshot/snapshot.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";

const reference = z.object({ id: z.string(), bytes: z.number() });
const header = z.object({
  format: z.literal(1),
  repository: z.string(),
  writer: z.string(),
  host: z.string(),
  /** What the parts and packs are sealed to; a snapshot must open with every recipient it names. */
  recipients: z.array(z.string()),
  parts: z.array(reference.extend({ kind: z.enum(["base", "increment"]) })),
  packs: z.array(reference.extend({ content: z.number().nullable().default(null) })),
});

export interface IndexedPack extends ObjectReference {
  /** Bytes of all files in it, before compression; null where an older index did not note it. */
  readonly content: number | null;
}

/** What this host remembers of its last snapshot, because it can't open what it has stored. */
export interface StoredIndex {
  readonly parts: readonly PartReference[];
  readonly packs: readonly IndexedPack[];
  /** The last manifest's lines by key, each with its newline. */
  readonly lines: ReadonlyMap<string, string>;
}

export interface IndexIdentity {
  readonly repository: string;
  readonly writer: string;
  readonly host: string;
  readonly recipients: readonly string[];
}

/** Where an index lies. It names senders and recipients in clear, like the queue beside it: 0600, on this host only. */
export function indexPath(stateDirectory: string, of: IndexIdentity): string {
  return join(stateDirectory, "repositories", of.repository, `${of.writer}-${encodeURIComponent(of.host)}.index.zst`);
}

/**
 * Load the index of this repository, writer, host and set of age recipients. Anything else, also a file that can't be read,
 * is no index: the next backup is then a full one, never a wrong one.
 */
export function loadIndex(stateDirectory: string, of: IndexIdentity): StoredIndex | undefined {
  const path = indexPath(stateDirectory, of);
  if (!existsSync(path)) return undefined;
  const text = decompressed(path);
  const end = text?.indexOf("\n") ?? -1;
  if (text === undefined || end < 0) return undefined;
  const parsed = header.safeParse(parseJson(text.slice(0, end)));
  if (!parsed.success) return undefined;
  const { repository, writer, host, recipients } = parsed.data;
  const same = repository === of.repository && writer === of.writer && host === of.host;
  if (!same || [...recipients].sort().join() !== [...of.recipients].sort().join()) return undefined;
  const lines = new Map<string, string>();
  for (let start = end + 1; start < text.length; ) {
    const next = text.indexOf("\n", start) + 1;
    if (next === 0) return undefined;
    const line = text.slice(start, next);
    lines.set(line.split("\t", 2)[1] ?? "", line);
    start = next;
  }
  return { parts: parsed.data.parts, packs: parsed.data.packs, lines };
}

function decompressed(path: string): string | undefined {
  try {
    return zstdDecompressSync(readFileSync(path)).toString("utf8");
  } catch {
    // A damaged index costs a full backup and nothing else.
    return undefined;
  }
}

/** Replace the index, atomically, after the snapshot it describes has been committed. */
export function saveIndex(stateDirectory: string, of: IndexIdentity, index: StoredIndex): void {
  const path = indexPath(stateDirectory, of);
  makePrivateDirectory(join(path, ".."));
  const head = JSON.stringify({ format: 1, ...of, parts: index.parts, packs: index.packs });
  const text = `${head}\n${[...index.lines.values()].join("")}`;
  const params = { [constants.ZSTD_c_compressionLevel]: 1, [constants.ZSTD_c_checksumFlag]: 1 };
  writeFileAtomic(path, zstdCompressSync(Buffer.from(text), { params }));
}

/** Which bytes need not be stored again. */
export interface KnownFiles {
  readonly files: ReadonlyMap<string, StoredFile>;
  /** The defer log stored with a message, by the digest of the message's file. */
  readonly deferLogs: ReadonlyMap<string, LogEntry>;
}

/**
 * Files whose pack is in the repository now: seen in this run's listing with the size we stored, and not condemned by a
 * prune. All others count as unknown and are stored anew.
 */
export function knownFiles(
  index: StoredIndex | undefined,
  packs: ReadonlyMap<string, number>,
  condemned: ReadonlySet<string>,
): KnownFiles {
  const files = new Map<string, StoredFile>();
  const deferLogs = new Map<string, LogEntry>();
  if (index === undefined) return { files, deferLogs };
  const usable = new Set(
    index.packs.flatMap(({ id, bytes }) => (packs.get(id) === bytes && !condemned.has(id) ? [id] : [])),
  );
  const learn = ({ digest, bytes, pack }: StoredFile) => {
    if (usable.has(pack)) files.set(digest, { digest, bytes, pack });
  };
  for (const line of index.lines.values()) {
    const { file, logs } = storedOf(line);
    if (file !== undefined) learn(file);
    for (const log of logs) {
      learn(log);
      if (log.log === "defer" && file !== undefined && usable.has(log.pack)) deferLogs.set(file.digest, log);
    }
  }
  return { files, deferLogs };
}

/**
 * The stored files a manifest line names, by its columns alone: reading a line in full, to use three columns of it, takes
 * ten times as long. A column that is not what it should be is passed over, and its bytes are stored anew.
 */
function storedOf(line: string): { file: StoredFile | undefined; logs: LogEntry[] } {
  const [kind, , , , , , digest = "", bytes = "", pack = "", logs = ""] = line.split("\t", 10);
  const named = kind === "message" && logs !== "-" ? logs.split(",") : [];
  return { file: storedFile(digest, bytes, pack), logs: named.flatMap((text) => logEntry(text) ?? []) };
}

function storedFile(digest: string, bytes: string, pack: string): StoredFile | undefined {
  const size = Number(bytes);
  if (!isDigest(digest) || !isDigest(pack) || bytes === "" || !Number.isSafeInteger(size)) return undefined;
  return { digest, bytes: size, pack };
}

function logEntry(text: string): LogEntry | undefined {
  const [name = "", digest = "", bytes = "", pack = "", mode = "", mtime = ""] = text.split("=");
  const log = logKinds.find((kind) => kind === name);
  const file = storedFile(digest, bytes, pack);
  if (log === undefined || file === undefined || !/^[0-7]+$/.test(mode) || !/^-?\d+(\.\d+)?$/.test(mtime))
    return undefined;
  return { log, ...file, mode: Number.parseInt(mode, 8), mtime: Number(mtime) };
}

function isDigest(text: string): boolean {
  return text.length === 64 && /^[0-9a-f]+$/.test(text);
}
