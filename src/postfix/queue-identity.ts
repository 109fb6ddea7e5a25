import { statSync } from "node:fs";

/**
 * Which queue directory something is remembered of. Names change, so does a device number at a reboot; and a file system
 * made anew gives its first directory the inode the old one had.
 */
export interface QueueIdentity {
  /** Decimal text: numbers of some file systems don't fit a double. */
  readonly device: string;
  readonly inode: string;
  /** When the directory was made, nanoseconds since 1970, decimal; null where the file system does not keep that. */
  readonly born: string | null;
}

/** @throws the error of stat(2) when the directory is not there */
export function queueIdentity(queueDirectory: string): QueueIdentity {
  const { dev, ino, birthtimeNs } = statSync(queueDirectory, { bigint: true });
  return { device: String(dev), inode: String(ino), born: birthtimeNs > 0n ? String(birthtimeNs) : null };
}

/** Whether both speak of one directory: by its inode and birth, or by its device where no birth is known. */
export function isSameQueue(one: QueueIdentity, other: QueueIdentity): boolean {
  if (one.inode !== other.inode) return false;
  return one.born === null || other.born === null ? one.device === other.device : one.born === other.born;
}
