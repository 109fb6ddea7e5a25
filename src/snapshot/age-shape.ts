import type { MessageEntry } from "./manifest.ts";

/*
 * The distribution of a queue over domains and age, counted as qshape(1) of Postfix counts it (auxiliary/qshape in its
 * sources): recipients that are still to be delivered, or with `senders` messages that have one. Mail of maildrop is counted
 * as well, which qshape can't read any more.
 */

export interface ShapeOptions {
  /** Count messages by the domain of their sender and not recipients by theirs. */
  readonly senders: boolean;
  /** Columns of age, at least 1; the last has no limit. */
  readonly buckets: number;
  /** Limit of the first column. */
  readonly minutes: number;
  /** Every column as wide as the first, and not twice as wide as the one before. */
  readonly linear: boolean;
}

export const qshapeDefaults: ShapeOptions = { senders: false, buckets: 10, minutes: 5, linear: false };

export interface ShapeRow {
  readonly domain: string;
  readonly total: number;
  /** One count per column, youngest first. */
  readonly buckets: readonly number[];
}

export interface AgeShape {
  /** Upper limits of all columns but the last, in minutes. */
  readonly limits: readonly number[];
  readonly total: Omit<ShapeRow, "domain">;
  /** The largest first; of equals the shorter name first, as qshape does. */
  readonly domains: readonly ShapeRow[];
}

/** @param now seconds since 1970 to which ages are counted, whole as qshape has them */
export function ageShape(messages: readonly MessageEntry[], now: number, options: ShapeOptions): AgeShape {
  const rows = new Map<string, number[]>();
  const total = new Array<number>(options.buckets).fill(0);
  for (const message of messages) {
    const column = columnOf(now - Math.floor(message.arrival), options);
    for (const domain of domainsOf(message, options.senders)) {
      const row = rows.get(domain) ?? new Array<number>(options.buckets).fill(0);
      rows.set(domain, row);
      row[column] = (row[column] ?? 0) + 1;
      total[column] = (total[column] ?? 0) + 1;
    }
  }
  const domains = [...rows].map(([domain, buckets]) => ({ domain, total: sum(buckets), buckets }));
  return { limits: limitsOf(options), total: { total: sum(total), buckets: total }, domains: domains.sort(bySize) };
}

function columnOf(seconds: number, { buckets, minutes, linear }: ShapeOptions): number {
  const widths = seconds / (60 * minutes);
  if (widths < 1) return 0;
  return Math.min(linear ? Math.floor(widths) : 1 + Math.floor(Math.log2(widths)), buckets - 1);
}

function limitsOf({ buckets, minutes, linear }: ShapeOptions): number[] {
  return Array.from({ length: buckets - 1 }, (_, index) => minutes * (linear ? index + 1 : 2 ** index));
}

/** A message without a recipient left counts for nothing, by its sender neither. */
function domainsOf(message: MessageEntry, senders: boolean): string[] {
  const open = message.recipients.filter(({ done }) => !done).map(({ address }) => address);
  return (senders && open.length > 0 ? [message.sender] : senders ? [] : open).map(domainOf);
}

/** As qshape writes it: in small letters, without stray dots; the null sender as MAILER-DAEMON. */
function domainOf(address: string): string {
  const small = address.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return (small === "" ? "MAILER-DAEMON" : small)
    .replace(/.*@/s, "")
    .replaceAll("..", ".")
    .replace(/\.?(.+?)\.?$/s, "$1");
}

function bySize(a: ShapeRow, b: ShapeRow): number {
  return b.total - a.total || a.domain.length - b.domain.length || (a.domain < b.domain ? -1 : 1);
}

function sum(counts: readonly number[]): number {
  return counts.reduce((all, count) => all + count, 0);
}
