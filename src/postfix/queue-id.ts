/*
 * Queue ids, as `global/mail_queue.h` and `mail_queue.c` make and read them. Short: microseconds as five upper-case
 * hexadecimal digits, then the inode in hexadecimal. Long: seconds (six digits or more) and microseconds (four) in base
 * 52, `z`, the inode in base 51.
 */

const safeDigits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
/** Least characters before the `z` of a long id: six of seconds, four of microseconds. */
const longTimeWidth = 10;
const longMicrosecondWidth = 4;
const shortMicrosecondWidth = 5;
const microsecondsPerSecond = 1_000_000;

/**
 * Whether Postfix takes a file name for a queue id (`mail_queue_id_ok`): ASCII letters, digits and `_`, 1 to 255 of
 * them. Every daemon ignores files with other names, which is what temporary names are made of.
 */
export function isQueueId(name: string): boolean {
  return /^[0-9A-Za-z_]{1,255}$/.test(name);
}

/** Whether an id is long (`enable_long_queue_ids = yes`): its last `z` comes after at least ten characters of time. */
export function isLongId(id: string): boolean {
  return id.lastIndexOf("z") >= longTimeWidth;
}

/** When a message with a long id came, in whole seconds since 1970; undefined for a short id, which does not tell. */
export function arrivalOfLong(id: string): number | undefined {
  const separator = id.lastIndexOf("z");
  if (separator < longTimeWidth) return undefined;
  let seconds = 0;
  for (let index = 0; index < separator - longMicrosecondWidth; index++) {
    const digit = safeDigits.indexOf(id.charAt(index));
    if (digit < 0) return undefined;
    seconds = seconds * 52 + digit;
  }
  return seconds;
}

/**
 * Names of the directories between a hashed queue and a file, one per level (`mail_queue_dir`, `dir_forest.c`): the
 * first characters of a short id, those of the microseconds in hexadecimal of a long one, `_` where there are none left.
 */
export function hashDirectories(id: string, depth: number): string[] {
  const characters = isLongId(id) ? hexMicroseconds(microsecondsOfLong(id) ?? 0) : id;
  return Array.from({ length: depth }, (_, level) => characters[level] ?? "_");
}

/**
 * The name a message must have once its file has this inode: what `postsuper -s` would rename it to (`fix_queue_id`),
 * computed beforehand. Time digits are kept; a short id stays short whatever the instance makes, because nothing tells
 * its seconds.
 *
 * @param long the target instance makes long ids; with false a long id becomes short and loses its seconds
 */
export function idForInode(oldId: string, inode: number | bigint, long: boolean): string {
  const hexInode = inode.toString(16).toUpperCase();
  if (!isLongId(oldId)) return shortMicroseconds(oldId) + hexInode;
  if (!long) return hexMicroseconds(microsecondsOfLong(oldId) ?? 0) + hexInode;
  return `${oldId.slice(0, oldId.lastIndexOf("z"))}z${encodeSafe(BigInt(inode), 51n)}`;
}

/** The same id one microsecond later, for when a name is taken; the last microsecond of a second is followed by its first. */
export function nextMicrosecond(id: string): string {
  if (!isLongId(id)) {
    const next = (Number.parseInt(shortMicroseconds(id), 16) + 1) % microsecondsPerSecond;
    return hexMicroseconds(next) + id.slice(shortMicrosecondWidth);
  }
  const separator = id.lastIndexOf("z");
  const next = ((microsecondsOfLong(id) ?? 0) + 1) % microsecondsPerSecond;
  const digits = encodeSafe(BigInt(next), 52n).padStart(longMicrosecondWidth, "0");
  return id.slice(0, separator - longMicrosecondWidth) + digits + id.slice(separator);
}

/** The time digits of a short id; zero for a legal file name that isn't a queue id of Postfix's making. */
function shortMicroseconds(id: string): string {
  const digits = id.slice(0, shortMicrosecondWidth);
  return /^[0-9A-F]{5}$/.test(digits) ? digits : "00000";
}

/** Undefined when the digits are none of base 52; Postfix then takes 0 (`MQID_LG_GET_HEX_USEC`). */
function microsecondsOfLong(id: string): number | undefined {
  const separator = id.lastIndexOf("z");
  let value = 0;
  for (const character of id.slice(separator - longMicrosecondWidth, separator)) {
    const digit = safeDigits.indexOf(character);
    if (digit < 0) return undefined;
    value = value * 52 + digit;
  }
  return value;
}

function hexMicroseconds(microseconds: number): string {
  return microseconds.toString(16).toUpperCase().padStart(shortMicrosecondWidth, "0");
}

function encodeSafe(value: bigint, base: bigint): string {
  let digits = "";
  for (let rest = value; rest > 0n; rest /= base) digits = safeDigits.charAt(Number(rest % base)) + digits;
  return digits;
}
