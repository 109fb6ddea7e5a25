import type { SignedSnapshot } from "../repository/repository.ts";
import type { Manifest, ManifestEntry, StoredFile } from "../snapshot/manifest.ts";

/** A manifest entry that needs a file, and the snapshots in which it says so. */
export interface FileUse {
  readonly entry: ManifestEntry;
  /** Which file of the entry: the message or file itself, or a log. */
  readonly part: "message" | "file" | "bounce" | "defer" | "trace";
  /** Size it is said to have. */
  readonly bytes: number;
  readonly snapshots: string[];
}

/** A pack, and everything that several snapshots want from it; they share most of it. */
export interface PackUse {
  readonly id: string;
  /** Ids of the snapshots whose record or manifest names it. */
  readonly snapshots: readonly string[];
  /** Digest → what has to be there. */
  readonly files: ReadonlyMap<string, readonly FileUse[]>;
}

/** Turn manifests inside out: pack by pack, so that each is opened once however many snapshots share it. */
export function usesOf(
  snapshots: readonly SignedSnapshot[],
  manifests: ReadonlyMap<SignedSnapshot, Manifest>,
): Map<string, PackUse> {
  const packs = new Map<string, GrowingUse>();
  for (const signed of snapshots) {
    for (const { id } of signed.snapshot.packs) useOf(packs, id).snapshots.add(signed.id);
    const manifest = manifests.get(signed);
    if (manifest === undefined) continue;
    for (const entry of [...manifest.messages, ...manifest.files]) {
      for (const [part, stored] of filesOf(entry)) {
        const use = useOf(packs, stored.pack);
        use.snapshots.add(signed.id);
        want(use, entry, part, stored, signed.id);
      }
    }
  }
  return new Map(packs.entries().map(([id, use]) => [id, finished(id, use)]));
}

interface GrowingUse {
  readonly snapshots: Set<string>;
  readonly files: Map<string, Map<string, FileUse>>;
}

function useOf(packs: Map<string, GrowingUse>, id: string): GrowingUse {
  const known = packs.get(id);
  if (known !== undefined) return known;
  const use: GrowingUse = { snapshots: new Set(), files: new Map() };
  packs.set(id, use);
  return use;
}

function filesOf(entry: ManifestEntry): [FileUse["part"], StoredFile][] {
  if (entry.kind === "file") return entry.file === null ? [] : [["file", entry.file]];
  return [["message", entry.file], ...entry.logs.map((log): [FileUse["part"], StoredFile] => [log.log, log])];
}

/** Snapshots whose entries say the same of a file share one use of it. */
function want(
  use: GrowingUse,
  entry: ManifestEntry,
  part: FileUse["part"],
  stored: StoredFile,
  snapshot: string,
): void {
  const file = use.files.get(stored.digest) ?? new Map<string, FileUse>();
  use.files.set(stored.digest, file);
  const key = JSON.stringify([part, stored.bytes, claimOf(entry)]);
  const known = file.get(key);
  if (known === undefined) file.set(key, { entry, part, bytes: stored.bytes, snapshots: [snapshot] });
  else if (known.snapshots.at(-1) !== snapshot) known.snapshots.push(snapshot);
}

/** What an entry says that the bytes of its file can prove. */
function claimOf(entry: ManifestEntry): unknown {
  if (entry.kind === "file") return [entry.instance, entry.area, entry.path];
  const { instance, queueId, created, content, sender, recipients, size } = entry;
  return [instance, queueId, created, content, sender, recipients, size];
}

function finished(id: string, { snapshots, files }: GrowingUse): PackUse {
  const wanted = files.entries().map(([digest, uses]): [string, FileUse[]] => [digest, [...uses.values()]]);
  return { id, snapshots: [...snapshots], files: new Map(wanted) };
}
