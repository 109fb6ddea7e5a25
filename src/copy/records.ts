import type { TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import type { RecordPlace } from "../repository/layout.ts";
import type { Repository } from "../repository/repository.ts";
import {
  parseClaimRecord,
  parseDrillRecord,
  parseRemovalRecord,
  parseSnapshotRecord,
  type Signed,
  type SignedClaim,
} from "../snapshot/record.ts";
import { digestOf } from "../system/digest.ts";

/** What the copy of records needs of the world. */
export interface RecordCopying {
  readonly source: Repository;
  readonly target: Repository;
  readonly trusted: Pick<TrustedKeys, "check">;
  readonly signal: AbortSignal;
}

type RecordType = "snapshot" | "removal" | "claim" | "drill";

/**
 * Read a signed record from the source itself, not from a cache, and copy its bytes as they are, if they are what their name
 * says and a trusted key has signed them.
 *
 * @returns why it was not copied, null when it was
 */
export async function copyRecord(
  copying: RecordCopying,
  type: RecordType,
  place: RecordPlace,
  key: string,
): Promise<string | null> {
  const read = await readRecord(copying, type, place, key);
  if (typeof read === "string") return read;
  await putRecord(copying, key, read.bytes);
  return null;
}

export async function putRecord({ target, signal }: RecordCopying, key: string, bytes: Buffer): Promise<void> {
  await target.store.put(key, bytes, digestOf(bytes).digest, signal);
}

/** A claim as it was read. */
export interface ReadRecord {
  readonly bytes: Buffer;
  readonly signed: Signed & { readonly claim?: SignedClaim["claim"] };
}

/** @returns the record, or what is wrong with it */
export async function readRecord(
  { source, trusted, signal }: RecordCopying,
  type: RecordType,
  { id, writer, number }: RecordPlace,
  key: string,
): Promise<ReadRecord | string> {
  try {
    const bytes = await source.store.get(key, signal);
    const { signed, said } = parse(type, bytes, source.id);
    if (signed.id !== id || said.writer !== writer || said.number !== number) return `${key} is not what its name says`;
    const verdict = trusted.check(signed.key, signed.line, signed.signature);
    return verdict === "trusted" ? { bytes, signed } : `${key} is not signed by a key this host trusts`;
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return error.message.startsWith(key) ? error.message : `${key}: ${error.message}`;
  }
}

function parse(type: RecordType, bytes: Buffer, repository: string) {
  switch (type) {
    case "snapshot": {
      const signed = parseSnapshotRecord(bytes, repository);
      return { signed, said: signed.snapshot };
    }
    case "removal": {
      const signed = parseRemovalRecord(bytes, repository);
      return { signed, said: signed.removal };
    }
    case "claim": {
      const signed = parseClaimRecord(bytes, repository);
      return { signed, said: signed.claim };
    }
    case "drill": {
      const signed = parseDrillRecord(bytes, repository);
      return { signed, said: signed.drill };
    }
  }
}
