/** How many snapshots to keep, per host. Zero switches a rule off. */
export interface RetentionPolicy {
  readonly last: number;
  readonly hourly: number;
  readonly daily: number;
  readonly weekly: number;
  readonly monthly: number;
}

/** What retention goes by. Times are milliseconds since 1970. */
export interface Candidate {
  readonly id: string;
  readonly host: string;
  readonly number: number;
  /** Start of the capture, by the clock of the host that was backed up. */
  readonly time: number;
  /** When the store says its record was written. */
  readonly stored: number;
  /** Signed by a trusted key. */
  readonly trusted: boolean;
  /** Everything it refers to is there, with its size. */
  readonly whole: boolean;
}

export interface RetentionRequest {
  readonly policy: RetentionPolicy;
  /** Name of the time zone in which hours, days, weeks and months begin. */
  readonly timeZone: string;
  readonly now: number;
  /** Nothing younger than this many milliseconds goes, by its own time or by the store's. */
  readonly longestRunMs: number;
  /** Id of the snapshot the last drill proved. */
  readonly proved: string | null;
  /** The only host whose snapshots may go; null for every host. */
  readonly onlyHost: string | null;
}

/** Why a snapshot stays. `slot` tells which hour, day, week or month it is kept for, or its place among the last. */
export type KeepReason =
  | { readonly kind: Rule; readonly slot: string }
  | { readonly kind: "newest" | "proved" | "young" | "future" | "untrusted" | "other-host" };

export interface Verdict<T> {
  readonly snapshot: T;
  /** Empty: it goes. */
  readonly kept: readonly KeepReason[];
}

export type Rule = keyof RetentionPolicy;

/**
 * What stays and what goes, for every host by itself, newest first.
 *
 * Rules count as restic's do: the newest snapshot of each of the last so many hours, days, weeks (from Monday) or months that
 * have one. So an outage, or a wrong clock here, makes nothing go. Whatever the rules say these stay: the newest of a host
 * that is whole (by its own time, and by the store's, should the host's clock have stood years back), the one a drill proved,
 * what is younger than the longest run, what is dated in the future and what no trusted key has signed. The last two count
 * for no rule, and one that is not whole takes no other's place: the rules are applied with and without such, and both kept.
 */
export function planRetention<T extends Candidate>(snapshots: readonly T[], request: RetentionRequest): Verdict<T>[] {
  const byHost = Map.groupBy(snapshots, (snapshot) => snapshot.host);
  return [...byHost.keys()].sort().flatMap((host) => {
    const ordered = (byHost.get(host) ?? []).toSorted(newestFirst);
    return planHost(ordered, request).map(({ snapshot, kept }) => {
      const elsewhere = request.onlyHost !== null && request.onlyHost !== host;
      return { snapshot, kept: elsewhere ? [...kept, { kind: "other-host" as const }] : kept };
    });
  });
}

/** By time; of two with one time by number, then by id, so that the order is always the same. */
function newestFirst(one: Candidate, other: Candidate): number {
  return other.time - one.time || other.number - one.number || (one.id < other.id ? -1 : 1);
}

function planHost<T extends Candidate>(ordered: readonly T[], request: RetentionRequest): Verdict<T>[] {
  const counting = ordered.filter(({ trusted, time }) => trusted && time <= request.now);
  const whole = counting.filter((snapshot) => snapshot.whole);
  const kept = new Map<string, KeepReason[]>(ordered.map(({ id }) => [id, []]));
  const slots = slotsIn(request.timeZone);
  for (const reasons of [applyRules(counting, request.policy, slots), applyRules(whole, request.policy, slots)]) {
    for (const { id, reason } of reasons) add(kept.get(id), reason);
  }
  const newest = [whole[0], whole.toSorted((one, other) => other.stored - one.stored)[0]];
  for (const snapshot of newest) add(kept.get(snapshot?.id ?? ""), { kind: "newest" });
  for (const snapshot of ordered)
    for (const reason of protections(snapshot, request)) add(kept.get(snapshot.id), reason);
  return ordered.map((snapshot) => ({ snapshot, kept: kept.get(snapshot.id) ?? [] }));
}

function add(reasons: KeepReason[] | undefined, reason: KeepReason): void {
  if (reasons?.some(({ kind }) => kind === reason.kind) === false) reasons.push(reason);
}

function protections(snapshot: Candidate, { now, longestRunMs, proved }: RetentionRequest): KeepReason[] {
  const reasons: KeepReason[] = [];
  if (!snapshot.trusted) reasons.push({ kind: "untrusted" });
  if (snapshot.time > now) reasons.push({ kind: "future" });
  else if (now - Math.max(snapshot.time, snapshot.stored) < longestRunMs) reasons.push({ kind: "young" });
  if (snapshot.id === proved) reasons.push({ kind: "proved" });
  return reasons;
}

/** The slot of a time under each rule that has slots. */
type Slots = (time: number) => Record<Exclude<Rule, "last">, string>;

/** @param ordered newest first */
function applyRules(
  ordered: readonly Candidate[],
  policy: RetentionPolicy,
  slots: Slots,
): { readonly id: string; readonly reason: KeepReason }[] {
  const kept = ordered
    .slice(0, policy.last)
    .map(({ id }, index) => ({ id, reason: { kind: "last", slot: String(index + 1) } as KeepReason }));
  const seen = {
    hourly: new Set<string>(),
    daily: new Set<string>(),
    weekly: new Set<string>(),
    monthly: new Set<string>(),
  };
  for (const { id, time } of ordered) {
    const slot = slots(time);
    for (const rule of ["hourly", "daily", "weekly", "monthly"] as const) {
      if (seen[rule].size >= policy[rule] || seen[rule].has(slot[rule])) continue;
      seen[rule].add(slot[rule]);
      kept.push({ id, reason: { kind: rule, slot: slot[rule] } });
    }
  }
  return kept;
}

function slotsIn(timeZone: string): Slots {
  const format = new Intl.DateTimeFormat("en-GB", {
    timeZone,
    ...{
      year: "numeric",
      month: "2-digit",
      day: "2-digit",
      hour: "2-digit",
      hourCycle: "h23",
      timeZoneName: "longOffset",
    },
  });
  return (time) => {
    const parts = new Map(format.formatToParts(time).map(({ type, value }) => [type, value]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? "";
    const [year, month, day] = [part("year").padStart(4, "0"), part("month"), part("day")];
    return {
      // With the offset: when clocks go back, one name stands for two hours.
      hourly: `${year}-${month}-${day} ${part("hour")}h ${part("timeZoneName")}`,
      daily: `${year}-${month}-${day}`,
      weekly: mondayOf(Number(year), Number(month), Number(day)),
      monthly: `${year}-${month}`,
    };
  };
}

/** The date of the Monday a week begins with. */
function mondayOf(year: number, month: number, day: number): string {
  const date = new Date(Date.UTC(year, month - 1, day));
  date.setUTCDate(date.getUTCDate() - ((date.getUTCDay() + 6) % 7));
  return `from ${date.toISOString().slice(0, 10)}`;
}
