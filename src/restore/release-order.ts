/** What the order of a release goes by. */
export interface Queued {
  /** Seconds since 1970. */
  readonly arrival: number;
  /** Of the first recipient that is still to get the message; empty where there is none. */
  readonly domain: string;
}

/** How fast mail is let go. */
export interface Pace {
  /** Messages let go together. */
  readonly batch: number;
  /** From one batch to the next. */
  readonly intervalMs: number;
}

/**
 * A batch every ten seconds; of a low rate never fewer than ten, or the share of them that comes back would say nothing; of a
 * high one at most a hundred, so that little is on its way when a destination begins to refuse.
 */
export function paceOf(perMinute: number): Pace {
  const batch = Math.min(100, Math.max(10, Math.ceil(perMinute / 6)));
  return { batch, intervalMs: (batch / perMinute) * 60_000 };
}

export function oldestFirst<Mail extends Pick<Queued, "arrival">>(mail: readonly Mail[]): Mail[] {
  return mail.toSorted((a, b) => a.arrival - b.arrival);
}

/**
 * One message for each destination domain in turn, each domain's oldest first, the domains by their oldest: so that no batch is
 * all for one site while another has mail waiting.
 */
export function domainsInTurn<Mail extends Queued>(mail: readonly Mail[]): Mail[] {
  let waiting = [...Map.groupBy(oldestFirst(mail), ({ domain }) => domain).values()];
  const order: Mail[] = [];
  for (let round = 0; waiting.length > 0; round++) {
    waiting = waiting.filter((mails) => mails.length > round);
    for (const mails of waiting) order.push(...mails.slice(round, round + 1));
  }
  return order;
}

export function batchesOf<Mail>(mail: readonly Mail[], size: number): Mail[][] {
  return Array.from({ length: Math.ceil(mail.length / size) }, (_, at) => mail.slice(at * size, (at + 1) * size));
}
