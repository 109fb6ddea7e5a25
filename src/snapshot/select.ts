import { OperatorError } from "../errors.ts";
import type { Snapshot } from "./snapshot.ts";

export interface Selectable {
  readonly id: string;
  readonly snapshot: Pick<Snapshot, "host" | "time" | "number" | "writer">;
}

export interface SelectionScope {
  /** The host that was asked for. */
  readonly host: string | undefined;
  /** The host this one is by its configuration: meant when it has snapshots and no other was asked for. */
  readonly ownHost: string | undefined;
}

/**
 * The snapshot a SNAP argument means: an id (hexadecimal), a unique prefix of one, `latest`, `latest~N` (N before the
 * newest), or `@TIME`: the newest at or before it by the time it names. An id is looked for among all hosts unless one was asked for; the others
 * among the host that is meant.
 *
 * TIME is RFC 3339 or the same without zone, then local time: `@2026-11-24T03:00`, `@2026-11-24 03:00:15Z`. A date alone is
 * the end of that day, so that `@2026-11-24` finds what was taken on it.
 *
 * @throws OperatorError `usage` for a SNAP or host that can't be understood or means several, `failed` where there is none
 */
export function selectSnapshot<T extends Selectable>(spec: string, all: readonly T[], scope: SelectionScope): T {
  if (all.length === 0) {
    throw new OperatorError("failed", "there are no snapshots in this repository yet", {
      hints: ["take one with `spoolsafe backup`"],
    });
  }
  if (/^[0-9a-f]+$/i.test(spec)) return byId(spec.toLowerCase(), scope.host === undefined ? all : ofHost(all, scope));
  const own = ofHost(all, scope);
  const back = /^latest(?:~(\d{1,9}))?$/.exec(spec);
  if (back !== null) return stepsBack(newestFirst(own, followedAt(own)), Number(back[1] ?? 0), spec);
  if (spec.startsWith("@")) return atOrBefore(newestFirst(own, timeOf), parseTime(spec.slice(1), spec), spec);
  throw new OperatorError("usage", `${JSON.stringify(spec)} is not a snapshot`, {
    hints: ["name it by id, a unique prefix of one, latest, latest~N, or @TIME such as @2026-11-24T03:00"],
  });
}

/** The snapshots of the host that is meant: the one asked for, else our own if it has any, else the only one there is. */
export function ofHost<T extends Selectable>(all: readonly T[], { host, ownHost }: SelectionScope): readonly T[] {
  const hosts = [...new Set(all.map(({ snapshot }) => snapshot.host))].sort();
  const meant = host ?? hosts.find((one) => one === ownHost) ?? (hosts.length === 1 ? hosts[0] : undefined);
  if (meant === undefined) {
    throw new OperatorError("usage", "the repository has snapshots of several hosts, and none is named", {
      hints: [`say which with --host: ${hosts.join(", ")}`],
    });
  }
  const found = all.filter(({ snapshot }) => snapshot.host === meant);
  if (found.length > 0) return found;
  throw new OperatorError("failed", `the repository has no snapshot of host ${meant}`, {
    hints: hosts.length === 0 ? [] : [`it has snapshots of: ${hosts.join(", ")}`],
  });
}

function byId<T extends Selectable>(prefix: string, all: readonly T[]): T {
  const found = all.filter(({ id }) => id.startsWith(prefix));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  if (only === undefined) {
    throw new OperatorError("failed", `no snapshot has an id that begins with ${prefix}`, {
      hints: ["`spoolsafe snapshots` lists them"],
    });
  }
  throw new OperatorError("usage", `${found.length} snapshots have an id that begins with ${prefix}`, {
    hints: [`give more of it: ${found.slice(0, 10).map(described).join(", ")}${found.length > 10 ? ", ..." : ""}`],
  });
}

function described({ id, snapshot }: Selectable): string {
  return `${id.slice(0, 16)} (${snapshot.host}, ${snapshot.time})`;
}

function newestFirst<T extends Selectable>(all: readonly T[], time: (one: T) => number): T[] {
  return [...all].sort((a, b) => time(b) - time(a) || b.snapshot.number - a.snapshot.number);
}

function timeOf({ snapshot }: Selectable): number {
  return Date.parse(snapshot.time);
}

/**
 * The time of each, but none later than that of one with a higher number of the same writer: a clock that was ahead for one
 * backup would else make it the latest for as long, and every restore, drill and verify would take it.
 */
function followedAt<T extends Selectable>(all: readonly T[]): (one: T) => number {
  const times = new Map<T, number>();
  for (const own of Map.groupBy(all, ({ snapshot }) => snapshot.writer).values()) {
    let next = Number.POSITIVE_INFINITY;
    for (const one of own.toSorted((a, b) => b.snapshot.number - a.snapshot.number)) {
      next = Math.min(next, timeOf(one));
      times.set(one, next);
    }
  }
  return (one) => times.get(one) ?? timeOf(one);
}

function stepsBack<T extends Selectable>(own: readonly T[], steps: number, spec: string): T {
  const found = own[steps];
  if (found !== undefined) return found;
  throw new OperatorError("failed", `${spec} is before the first of ${own.length} snapshots`, {
    hints: [`the oldest is latest~${own.length - 1}`],
  });
}

function atOrBefore<T extends Selectable>(own: readonly T[], time: number, spec: string): T {
  const found = own.find(({ snapshot }) => Date.parse(snapshot.time) <= time);
  if (found !== undefined) return found;
  const oldest = own.at(-1);
  throw new OperatorError("failed", `no snapshot is as old as ${spec}`, {
    hints: oldest === undefined ? [] : [`the oldest is ${described(oldest)}`],
  });
}

const timePattern = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?)\s?(Z|[+-]\d\d:?\d\d)?)?$/i;

function parseTime(text: string, spec: string): number {
  const [, date, time = "23:59:59.999", zone = ""] = timePattern.exec(text) ?? [];
  // Without a zone JavaScript takes a date with a time as local time.
  const parsed = date === undefined ? Number.NaN : Date.parse(`${date}T${time}${zone.toUpperCase()}`);
  if (!Number.isNaN(parsed)) return parsed;
  throw new OperatorError("usage", `${JSON.stringify(spec)} is not a time`, {
    hints: ["write it as @2026-11-24, @2026-11-24T03:00 (local time) or @2026-11-24T03:00:00Z"],
  });
}
