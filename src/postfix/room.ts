/** What files take on a file system: bytes in whole blocks, and inodes. */
export interface RoomNeeded {
  readonly bytes: number;
  readonly inodes: number;
}

/** What there is for mail on the file system of a queue. */
export interface RoomThere {
  readonly freeBytes: number;
  /** Null where the file system makes inodes as it needs them. */
  readonly freeInodes: number | null;
  /** `reserveBytes`. */
  readonly reserveBytes: number;
}

export function roomFor(files: readonly { readonly bytes: number }[], blockSize: number): RoomNeeded {
  const bytes = files.reduce((sum, file) => sum + Math.ceil(file.bytes / blockSize) * blockSize, 0);
  return { bytes, inodes: files.length };
}

/**
 * Bytes Postfix wants free before it accepts mail: the larger of queue_minfree and 1.5 times message_size_limit
 * (postconf(5), `queue_minfree`).
 *
 * @param value expanded, of a parameter
 */
export function reserveBytes(value: (name: string) => string): number {
  const number = (name: string) => Number(value(name));
  return Math.max(number("queue_minfree"), 1.5 * number("message_size_limit"));
}

/** What is missing for the files, as `N bytes (...), and has M`; undefined when there is room. */
export function lackOfRoom(needs: RoomNeeded, there: RoomThere): string | undefined {
  const bytes = needs.bytes + there.reserveBytes;
  // A hashed queue may need new directories, at most 16 per level of each of four; a few hundred inodes cover them.
  const inodes = needs.inodes + 300;
  if (bytes > there.freeBytes) {
    const parts = `${needs.bytes} for the mail and ${there.reserveBytes} that Postfix keeps free`;
    return `${bytes} bytes (${parts}), and has ${there.freeBytes}`;
  }
  if (there.freeInodes !== null && inodes > there.freeInodes) return `${inodes} inodes, and has ${there.freeInodes}`;
  return undefined;
}
