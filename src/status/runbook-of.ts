import type { JobName } from "../jobs/record.ts";
import { jobNames } from "../jobs/record.ts";
import type { ProblemName } from "./report.ts";

/** The runbooks that come with Spoolsafe, by the names of their files. */
export const runbookNames = [
  "00-triage",
  "01-primary-lost",
  "02-queue-corruption",
  "03-mail-deleted",
  "04-clean-room",
  "05-identity-lost",
  "06-storage-unreachable",
  "07-restore-drill",
  "08-planned-move",
  "09-stuck-hold",
  "10-spool-disk-full",
  "11-deferred-backlog",
  "12-bounce-storm",
  "13-spam-flood",
  "14-failback",
  "15-merge-dead-node",
  "16-postfix-upgrade",
  "17-separate-queues",
] as const;

export type RunbookName = (typeof runbookNames)[number];

/** What is wrong with a job beside what `status` calls a problem: the kinds that alerts know. */
type AlertKey = `${JobName}-${"old" | "empty"}`;

/**
 * The runbook to open for a problem of `status` or for the key of an alert; null where the remedy that is told with it is all
 * there is to do.
 */
export function runbookOf(name: ProblemName | AlertKey): RunbookName | null {
  const job = jobNames.find((one) => name.startsWith(`${one}-`));
  const own = others[name as keyof typeof others];
  if (own !== undefined) return own;
  return job === undefined ? null : jobs[job];
}

/** Of the ends a job can come to: backups have many causes, so theirs begins with measuring. */
const jobs: Readonly<Record<JobName, RunbookName>> = {
  backup: "00-triage",
  verify: "06-storage-unreachable",
  drill: "07-restore-drill",
  prune: "06-storage-unreachable",
  copy: "06-storage-unreachable",
};

type JobEnd = `${JobName}-${string}`;

/** Every problem that is not the end of a job, and the ends of jobs that have a runbook of their own. */
const others: Readonly<Record<Exclude<ProblemName, JobEnd>, RunbookName | null>> &
  Readonly<Partial<Record<ProblemName | AlertKey, RunbookName | null>>> = {
  "backup-never": "00-triage",
  "backup-age": "00-triage",
  // A clock to be set, and nothing else.
  "backup-future": null,
  // Where there always was mail, none is the mark of a queue that was deleted or is not mounted.
  "backup-empty": "03-mail-deleted",
  repository: "06-storage-unreachable",
  "repository-unreachable": "06-storage-unreachable",
  untrusted: null,
  "hold-capture": "09-stuck-hold",
  "hold-restore": "09-stuck-hold",
  "copies-unsent": "06-storage-unreachable",
  "alerts-unsent": null,
  unseen: "02-queue-corruption",
  "queue-deferred": "11-deferred-backlog",
  "queue-active": "11-deferred-backlog",
  "queue-oldest": "11-deferred-backlog",
  "status-page": null,
  "status-stale": null,
  textfile: null,
};
