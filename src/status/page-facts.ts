import type { BackupRun } from "../jobs/history.ts";
import { ago } from "./ago.ts";
import type { DrillResult } from "./drills.ts";
import { judgeRepository } from "./problems.ts";
import type { StoredBackup } from "./remote.ts";
import type { RepositoryStatus, StatusProblem, StatusReport } from "./report.ts";

/** What the repository said when it was asked last, and whether it answers now. */
export interface RepositoryLook {
  /** Null before the first answer. */
  readonly answer: {
    /** RFC 3339 in UTC. */
    readonly time: string;
    readonly status: RepositoryStatus;
    readonly backups: readonly StoredBackup[];
  } | null;
  /** Why it does not answer, and since when; null when it did. */
  readonly failure: { readonly message: string; readonly since: string } | null;
}

/** All that the status page shows. */
export interface PageFacts {
  /** Of this host, from what is on it. */
  readonly report: StatusReport;
  /** Why no newer report could be made; null when this one is of the last minutes. */
  readonly stale: string | null;
  /** Backups of this host that it has a record of, oldest first. */
  readonly history: readonly BackupRun[];
  /** Null where no repository is configured. */
  readonly repository: RepositoryLook | null;
  /** Newest first. */
  readonly drills: readonly DrillResult[];
  /** Times are shown in this zone. */
  readonly timezone: string;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly version: string;
}

/** `elsewhere`: about the backups of another host, which this one sees in the repository. */
export interface PageProblem extends StatusProblem {
  readonly elsewhere: boolean;
}

/**
 * What is wrong, the critical first: what `status` says of this host, what the repository says of all, and what keeps us from
 * knowing. Hosts are judged by their age when the repository was asked: what came later is not known yet.
 */
export function pageProblems(facts: PageFacts): readonly PageProblem[] {
  const { report, repository } = facts;
  const told = new Set(report.problems.map(({ name }) => name));
  const stored =
    repository?.answer == null
      ? { own: [], elsewhere: [] }
      : judgeRepository(repository.answer.status, report, report.limits);
  const all = [
    ...(facts.stale === null ? [] : [here(staleProblem(facts, facts.stale))]),
    ...report.problems.map(here),
    // A backup that is too old is that already by this host's own record.
    ...stored.own.filter(({ name }) => !told.has(name)).map(here),
    ...(repository?.failure == null ? [] : [here(unreachable(repository.failure))]),
    ...stored.elsewhere.map((problem) => ({ ...problem, elsewhere: true })),
  ];
  return [
    ...all.filter(({ severity }) => severity === "critical"),
    ...all.filter(({ severity }) => severity === "warning"),
  ];
}

function here(problem: StatusProblem): PageProblem {
  return { ...problem, elsewhere: false };
}

function staleProblem({ report, now }: PageFacts, reason: string): StatusProblem {
  const age = ago((now - Date.parse(report.time)) / 1000);
  return {
    severity: "critical",
    name: "status-stale",
    problem: `all of this is ${age} old, because nothing newer could be found out: ${reason}`,
    remedy: "spoolsafe status says more",
  };
}

function unreachable({ message, since }: NonNullable<RepositoryLook["failure"]>): StatusProblem {
  return {
    severity: "warning",
    name: "repository-unreachable",
    problem: `the repository does not answer since ${since}: ${message}`,
    remedy: "spoolsafe doctor says what is in the way",
  };
}
