import { OperatorError } from "../errors.ts";
import { largeFile, readLargePack } from "../pack/pack.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import type { StoredFile } from "../snapshot/manifest.ts";
import type { RestoreSource } from "./source.ts";

/** What reads the bytes of a snapshot's files. */
export interface BytesSource {
  readonly source: Pick<RestoreSource, "repository" | "identities">;
  readonly reader: Pick<PackReader, "read">;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The bytes of files, each pack fetched and opened once, one pack in memory at a time.
 *
 * @throws OperatorError `damaged` when a pack is missing, damaged or has not what it should have; `no-identity`
 */
export async function* storedBytes(
  files: Iterable<StoredFile>,
  from: BytesSource,
): AsyncGenerator<readonly [digest: string, bytes: Buffer], void, undefined> {
  for (const [pack, wanted] of Map.groupBy(files, (file) => file.pack)) {
    from.signal?.throwIfAborted();
    const found = wanted.some(({ bytes }) => bytes > largeFile) ? await readLarge(pack, from) : await read(pack, from);
    for (const digest of new Set(wanted.map((file) => file.digest))) {
      const bytes = found.get(digest);
      if (bytes === undefined) {
        throw new OperatorError("damaged", `pack ${pack.slice(0, 12)} does not hold the file ${digest.slice(0, 12)}`, {
          hints: ["spoolsafe verify SNAP --level deep names everything that is affected"],
        });
      }
      yield [digest, bytes];
    }
  }
}

async function read(pack: string, { source, reader, signal }: BytesSource): Promise<Map<string, Buffer>> {
  return reader.read(await source.repository.object("pack", pack, signal));
}

/** A file of more than 16 MiB is alone in its pack, and configuration has none of more than 64 MiB. */
async function readLarge(pack: string, { source, signal }: BytesSource): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  const sealed = source.repository.openObject("pack", pack, signal);
  for await (const { digest, body } of readLargePack(sealed, source.identities)) {
    const pieces: Buffer[] = [];
    for await (const piece of body) pieces.push(piece);
    found.set(digest, Buffer.concat(pieces));
  }
  return found;
}
