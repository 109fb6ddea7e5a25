import { ago } from "./ago.ts";
import type { InstanceState } from "./queue-state.ts";
import type {
  CopyStatus,
  DaemonFault,
  HoldStatus,
  HostStatus,
  JobStatus,
  ProblemName,
  StatusFacts,
  StatusLimits,
  StatusProblem,
  Threshold,
  UnsentAlert,
} from "./report.ts";

/** What is wrong, the critical first. Age alarms, whether the job failed or merely stopped being started. */
export function judge(facts: StatusFacts, limits: StatusLimits): readonly StatusProblem[] {
  const found = [
    ...(facts.repository === null ? ownBackup(facts, limits) : repositoryProblems(facts.repository, facts, limits)),
    ...emptyBackup(facts),
    ...facts.jobs.flatMap(jobProblems),
    ...facts.holds.flatMap((hold) => holdProblems(hold, facts.jobs, limits)),
    ...facts.copies.flatMap((copy) => copyProblems(copy, facts, limits)),
    ...alertProblems(facts.unsentAlerts),
    ...facts.daemonFaults.map(daemonProblem),
    ...facts.unseen.map((what) =>
      critical("unseen", what, "mount or repair what is named, or correct the configuration"),
    ),
    ...facts.instances.flatMap((instance) => queueProblems(instance, limits)),
  ];
  return [
    ...found.filter(({ severity }) => severity === "critical"),
    ...found.filter(({ severity }) => severity === "warning"),
  ];
}

function ownBackup({ lastBackup, backupExpected }: StatusFacts, limits: StatusLimits): StatusProblem[] {
  if (lastBackup !== null) return backupAge("the newest good backup", lastBackup.ageSeconds, limits);
  if (!backupExpected) return [];
  return [
    critical("backup-never", "no backup has ever ended well here", "spoolsafe backup, then see why it did not run"),
  ];
}

/** What is dated later than this proves nothing about now. */
export const futureSeconds = 300;

function backupAge(what: string, age: number, { backupAge: limit }: StatusLimits): StatusProblem[] {
  if (age < -futureSeconds) {
    const told = `${what} is dated ${ago(-age)} in the future: the clock is or was wrong`;
    return [critical("backup-future", told, "correct the clock, then run spoolsafe backup")];
  }
  const remedy = "see why it does not run: spoolsafe backup, and the log of what should start it (cron, timer, daemon)";
  if (age > limit.critical) {
    return [critical("backup-age", `${what} is ${ago(age)} old, more than ${ago(limit.critical)}`, remedy)];
  }
  if (limit.warning === null || age <= limit.warning) return [];
  return [warning("backup-age", `${what} is ${ago(age)} old, more than ${ago(limit.warning)}`, remedy)];
}

function repositoryProblems(
  { hosts, faults }: NonNullable<StatusFacts["repository"]>,
  { host }: StatusFacts,
  limits: StatusLimits,
): StatusProblem[] {
  const none = hosts.length === 0 ? [noSnapshots(host)] : [];
  return [...none, ...faults.map(fault), ...hosts.flatMap((one) => hostProblems(one, limits))];
}

/**
 * What a repository that was asked for a page says: of this host and of all of it, and of the backups of other hosts. No
 * snapshot at all is a problem only where nobody here makes any.
 */
export function judgeRepository(
  { hosts, faults }: NonNullable<StatusFacts["repository"]>,
  { host, backupExpected }: Pick<StatusFacts, "host" | "backupExpected">,
  limits: StatusLimits,
): { readonly own: readonly StatusProblem[]; readonly elsewhere: readonly StatusProblem[] } {
  const others = hosts.filter((one) => one.host !== host);
  const ours = hosts.filter((one) => one.host === host);
  const none = hosts.length === 0 && !backupExpected ? [noSnapshots(host)] : [];
  return {
    own: [...none, ...faults.map(fault), ...ours.flatMap((one) => hostProblems(one, limits))],
    elsewhere: others.flatMap((one) => hostProblems(one, limits)),
  };
}

function fault(problem: string): StatusProblem {
  const remedy = "spoolsafe verify --all says more; another copy of the repository may still have it";
  return critical("repository", problem, remedy);
}

function hostProblems({ host, lastBackup, untrusted, future }: HostStatus, limits: StatusLimits): StatusProblem[] {
  const age =
    lastBackup === null
      ? [noSnapshots(host)]
      : backupAge(`the newest good backup of ${host}`, lastBackup.ageSeconds, limits);
  const strangers = `${untrusted} snapshots of ${host} are not signed by a key this host trusts, and not counted`;
  const later = `${future} snapshots of ${host} are dated in the future, and not counted: its clock is or was wrong`;
  return [
    ...age,
    ...(untrusted > 0
      ? [warning("untrusted", strangers, "add the host's public key: spoolsafe key add FILE.pub")]
      : []),
    ...(future > 0 ? [warning("backup-future", later, "correct the clock there")] : []),
  ];
}

function noSnapshots(host: string): StatusProblem {
  return critical("backup-never", `there is no good snapshot of ${host} in the repository`, "spoolsafe backup, there");
}

function emptyBackup({ emptyBackup: found }: StatusFacts): StatusProblem[] {
  if (found === null) return [];
  return [warning("backup-empty", `${found.message} (since ${found.since})`, "see what is in the queue: postqueue -p")];
}

/** Exit codes that are no failure of the job: done, and done but incomplete. */
const incompleteExit = 3;

function jobProblems(status: JobStatus): StatusProblem[] {
  const { job, lastStart, lastExit, lastSuccess, died, running, missedSince, missedTarget } = status;
  const at = lastStart === null ? "" : ` at ${lastStart.time}`;
  const good = lastSuccess === null ? "none has ever ended well" : `the last good one began ${lastSuccess.time}`;
  const problems: StatusProblem[] = [];
  if (died) {
    const told = `the last ${job}, begun${at}, ended without a word (killed, or the host went down); ${good}`;
    problems.push(warning(`${job}-died`, told, `spoolsafe ${job}`));
  } else if (!running && missedTarget !== null) {
    const told = `the last ${job}${at} missed its target: ${missedTarget}`;
    problems.push(critical(`${job}-target`, told, `spoolsafe ${job} list and show: see which phase took so long`));
  } else if (!running && lastExit !== null && lastExit !== 0) {
    const incomplete = lastExit === incompleteExit;
    const told = incomplete
      ? `the last ${job}${at} was incomplete (exit 3)`
      : `the last ${job}${at} failed with exit ${lastExit}; ${good}`;
    problems.push(
      warning(`${job}-${incomplete ? "incomplete" : "failed"}`, told, `its log says why, or spoolsafe ${job}`),
    );
  }
  if (missedSince !== null && job === "drill") {
    const told = `the drill due ${missedSince} did not happen, and ${good}`;
    problems.push(critical("drill-overdue", told, "spoolsafe drill, then see why it did not run"));
  } else if (missedSince !== null) {
    const told = `${job} has missed its schedule: due ${missedSince} and again since, and ${good}`;
    problems.push(warning(`${job}-missed`, told, `is what should start it running? spoolsafe ${job} makes up for it`));
  }
  return problems;
}

/** Without a recorded run at work (one instance is backed up by hand, say) a capture still has so many seconds. */
const unrecordedHold = 30;

function holdProblems(
  { kind, instance, run, ageSeconds, messages }: HoldStatus,
  jobs: readonly JobStatus[],
  limits: StatusLimits,
): StatusProblem[] {
  const count = `${instance}: ${messages} messages`;
  const atWork = jobs.some(({ job, running }) => job === "backup" && running);
  if (kind === "capture" && ageSeconds > (atWork ? limits.captureHold : unrecordedHold)) {
    const told = `${count} have been on hold for ${ago(ageSeconds)} because of backup ${run}, which should have released them`;
    return [critical("hold-capture", told, "spoolsafe holds release")];
  }
  if (kind === "restore" && ageSeconds > limits.oldest[0]) {
    const told = `${count} of restore ${run} have waited on hold for ${ago(ageSeconds)}`;
    return [warning("hold-restore", told, `spoolsafe release ${run}, or spoolsafe undo ${run}`)];
  }
  return [];
}

/**
 * A backup copies what it has made itself, so while one is at work something is behind and nothing is wrong, unless it hangs.
 * Every backup counts what is behind; where none is made, nobody does, and the age of the last copy is all there is.
 */
function copyProblems({ url, behind, lastSuccess, error }: CopyStatus, facts: StatusFacts, limits: StatusLimits) {
  const isOld = (age: number) => age > limits.backupAge.critical;
  const atWork = facts.jobs.some(
    ({ job, running, lastStart }) =>
      running && (job === "backup" || job === "copy") && !isOld(lastStart?.ageSeconds ?? 0),
  );
  if (atWork) return [];
  if (behind === 0) {
    if (facts.backupExpected || lastSuccess === null || !isOld(lastSuccess.ageSeconds)) return [];
    const told = `nobody has copied to ${url} for ${ago(lastSuccess.ageSeconds)}: what has come since is not known here`;
    return [warning("copies-unsent", told, "spoolsafe copy --all")];
  }
  const since =
    lastSuccess === null ? "nothing was ever copied there whole" : `whole ${ago(lastSuccess.ageSeconds)} ago`;
  const told = `${behind} snapshots are not in ${url} yet (${since})${error === null ? "" : `: ${error}`}`;
  const old = lastSuccess === null || isOld(lastSuccess.ageSeconds);
  return [(old ? critical : warning)("copies-unsent", told, "spoolsafe copy --all")];
}

/** One for each channel: what does not work is the channel. */
function alertProblems(unsent: readonly UnsentAlert[]): StatusProblem[] {
  const remedy = "look at [alerts] in the configuration and at what it names";
  return [...Map.groupBy(unsent, ({ channel }) => channel)].map(([channel, all]) => {
    const told = `${all.length} alerts could not be sent by ${channel}: ${all.at(-1)?.error ?? ""}`;
    return warning("alerts-unsent", told, remedy);
  });
}

function daemonProblem({ name, problem, since }: DaemonFault): StatusProblem {
  const remedy = {
    "status-page": "free the address, or set another one as [status] listen; it is tried again each minute",
    textfile: "make its directory, or correct [status] textfile; it is tried again each minute",
  } as const;
  return warning(name, `${problem} (since ${since})`, remedy[name]);
}

function queueProblems({ name, queues, oldest }: InstanceState, limits: StatusLimits): StatusProblem[] {
  const size = (queue: "deferred" | "active") =>
    above(queues[queue].messages, limits[queue], `queue-${queue}`, (limit) => [
      `${name}: ${queues[queue].messages} messages in ${queue}, more than ${limit}`,
      queue === "deferred"
        ? "see where they are stuck: qshape deferred"
        : "see what holds deliveries up: qshape active",
    ]);
  const age =
    oldest === null
      ? []
      : above(oldest.ageSeconds, limits.oldest, "queue-oldest", (limit) => [
          `${name}: the oldest message is ${oldest.exact ? "" : "at least "}${ago(oldest.ageSeconds)} old, more than ${ago(limit)}`,
          "postqueue -p says why it waits",
        ]);
  return [...size("deferred"), ...size("active"), ...age];
}

function above(
  value: number,
  [warn, crit]: Threshold,
  name: ProblemName,
  tell: (limit: number) => readonly [problem: string, remedy: string],
): StatusProblem[] {
  if (value > crit) return [critical(name, ...tell(crit))];
  return value > warn ? [warning(name, ...tell(warn))] : [];
}

function critical(name: ProblemName, problem: string, remedy: string): StatusProblem {
  return { severity: "critical", name, problem, remedy };
}

function warning(name: ProblemName, problem: string, remedy: string): StatusProblem {
  return { severity: "warning", name, problem, remedy };
}
