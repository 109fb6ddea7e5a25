import type { PageFacts } from "./page-facts.ts";

/** One backup on the time line of its host. */
export interface Mark {
  /** Start, milliseconds since 1970. */
  readonly at: number;
  readonly end: "good" | "incomplete" | "failed";
  /** Null for a good one. */
  readonly exit: number | null;
  readonly snapshot: string | null;
  readonly messages: number | null;
  readonly heldLongestMs: number | null;
  /** Null where only this host's own record knows of it. */
  readonly mode: string | null;
  readonly tags: readonly string[];
}

export interface HostLine {
  readonly host: string;
  /** Whether it is this one. */
  readonly own: boolean;
  /** How many days it shows, up to now. */
  readonly days: number;
  /** Oldest first, all within these days. */
  readonly marks: readonly Mark[];
}

/** This host first, then the others that the repository has, by name. */
export function hostLines(facts: PageFacts): readonly HostLine[] {
  const { report, repository, now } = facts;
  const stored = Map.groupBy(repository?.answer?.backups ?? [], ({ host }) => host);
  const own = stored.get(report.host) ?? [];
  const known = ownMarks(facts);
  const recorded = new Set(known.map(({ snapshot }) => snapshot));
  const ownAll = [...known, ...own.filter(({ snapshot }) => !recorded.has(snapshot)).map(markOf)];
  const others = [...stored].filter(([host]) => host !== report.host).sort(([a], [b]) => (a < b ? -1 : 1));
  const lines = others.map(([host, backups]) => hostLine(host, backups.map(markOf), now));
  if (ownAll.length === 0 && !report.backupExpected) return lines;
  return [{ ...hostLine(report.host, ownAll, now), own: true }, ...lines];
}

/** What the repository knows of a backup that has a record here is added to it. */
function ownMarks({ history, report, repository }: PageFacts): Mark[] {
  const stored = new Map((repository?.answer?.backups ?? []).map((backup) => [backup.snapshot, backup]));
  const marks = history.map(({ start, exit, snapshot, messages, heldLongestMs }): Mark => {
    const end = exit === 0 ? "good" : exit === 3 ? "incomplete" : "failed";
    const { mode = null, tags = [] } = (snapshot === null ? undefined : stored.get(snapshot)) ?? {};
    return {
      at: Date.parse(start),
      end,
      exit: exit === 0 ? null : exit,
      snapshot,
      messages,
      heldLongestMs,
      mode,
      tags,
    };
  });
  const backup = report.jobs.find(({ job }) => job === "backup");
  if (backup?.died !== true || backup.lastStart === null) return marks;
  const nothing = { exit: null, snapshot: null, messages: null, heldLongestMs: null, mode: null, tags: [] };
  return [...marks, { ...nothing, at: Date.parse(backup.lastStart.time), end: "failed" }];
}

function markOf({
  time,
  snapshot,
  messages,
  heldLongestMs,
  mode,
  tags,
}: NonNullable<NonNullable<PageFacts["repository"]>["answer"]>["backups"][number]): Mark {
  return { at: Date.parse(time), end: "good", exit: null, snapshot, messages, heldLongestMs, mode, tags };
}

const dayMs = 86_400_000;
const enough = 14;

/** The shortest of a few spans that shows enough of the last backups. */
function hostLine(host: string, all: readonly Mark[], now: number): HostLine {
  const marks = all.filter(({ at }) => Number.isFinite(at)).sort((a, b) => a.at - b.at);
  const within = (days: number) => marks.filter(({ at }) => at > now - days * dayMs);
  const wanted = Math.min(enough, marks.length);
  const days = [1, 7, 14, 30].find((span) => within(span).length >= wanted) ?? 60;
  return { host, own: false, days: marks.length < 3 ? Math.max(days, 7) : days, marks: within(days) };
}
