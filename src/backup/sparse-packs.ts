import type { IndexedPack, KnownFiles } from "../repository/stored-index.ts";

/** A pack is sparse when less than this share of its bytes is still wanted: storing that anew costs a third of what it wins at most. */
const sparseShare = 0.25;
/** One backup stores no more than this anew, or than an eighth of all that is wanted, where that is more. */
const leastAtOnce = 64 * 1024 * 1024;

/**
 * Packs most of whose bytes no snapshot will need once retention has passed over the older ones: what is still wanted of them
 * holds them in the repository. The emptiest come first, until as much has been chosen as one backup may store again.
 *
 * @param known the files of the last snapshot that are stored
 * @returns their ids, and the bytes that are wanted of them
 */
export function sparsePacks(
  packs: readonly IndexedPack[],
  known: Pick<KnownFiles, "files">,
): { readonly packs: ReadonlySet<string>; readonly bytes: number } {
  const wanted = new Map<string, number>();
  let all = 0;
  for (const { pack, bytes } of known.files.values()) {
    wanted.set(pack, (wanted.get(pack) ?? 0) + bytes);
    all += bytes;
  }
  const shares = packs.flatMap(({ id, content }) => {
    const bytes = wanted.get(id);
    return bytes === undefined || !content ? [] : [{ id, bytes, share: bytes / content }];
  });
  const chosen = new Set<string>();
  let bytes = 0;
  for (const one of shares.filter(({ share }) => share < sparseShare).sort((a, b) => a.share - b.share)) {
    if (bytes + one.bytes > Math.max(leastAtOnce, all / 8)) break;
    chosen.add(one.id);
    bytes += one.bytes;
  }
  return { packs: chosen, bytes };
}

/** What is known without what lies in these packs. */
export function withoutPacks({ files, deferLogs }: KnownFiles, packs: ReadonlySet<string>): KnownFiles {
  return {
    files: new Map([...files].filter(([, { pack }]) => !packs.has(pack))),
    deferLogs: new Map([...deferLogs].filter(([, { pack }]) => !packs.has(pack))),
  };
}
