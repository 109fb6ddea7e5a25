import { statSync } from "node:fs";
import { hostname } from "node:os";
import { errnoOf, OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { ScheduledJob } from "../status/local.ts";
import type { RepositoryStatus, StatusLimits, StatusReport } from "../status/report.ts";
import type { Context } from "./context.ts";
import { graceOf, lastDue } from "./due.ts";

export interface StatusChoice {
  /** Milliseconds: what the newest good backup may be old; the first is for a warning. Default: `alerts.max_age`. */
  readonly maxAge?: { readonly warning: number | null; readonly critical: number } | undefined;
  /** Ask the repository for the newest backup, not the state directory. */
  readonly remote: boolean;
  /** Of every host in it. */
  readonly allHosts: boolean;
}

/**
 * What `status` answers, in any format and on the status page. Without `remote` from what is on this host only, in under half a
 * second.
 *
 * @throws OperatorError when the state directory, a queue or the repository can't be asked at all
 */
export async function statusReport(context: Context, choice: StatusChoice): Promise<StatusReport> {
  const { lookAround } = await import("../status/local.ts");
  const { judge } = await import("../status/problems.ts");
  const { config, stateDirectory, clock } = context;
  const { instances, unseen } = await instancesHere(context, choice);
  const host = ownName(context, instances);
  const facts = lookAround({
    host,
    stateDirectory,
    instances,
    schedule: await scheduleOf(config, clock.now()),
    scheduledSince: changed(context.configFile) ?? clock.now(),
    clock,
  });
  const limits = limitsOf(config, choice);
  const repository = choice.remote ? await repositoryStatus(context, host, choice) : null;
  const asked = {
    ...facts,
    unseen: [...unseen, ...facts.unseen],
    ...(repository === null ? {} : { repository, lastBackup: oldestOfNewest(repository) }),
    host: choice.allHosts ? host : (repository?.hosts[0]?.host ?? host),
  };
  return { ...asked, limits, problems: judge(asked, limits) };
}

/** Of a standby nobody expects a Postfix, and of a host that asks the repository neither. */
async function instancesHere(
  context: Context,
  choice: StatusChoice,
): Promise<{ readonly instances: readonly PostfixInstance[]; readonly unseen: readonly string[] }> {
  const { config, globals } = context;
  let all: readonly PostfixInstance[];
  try {
    all = await context.instances();
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    const standby = config.schedule.backup === undefined && scheduled(config).length > 0;
    const optional = config.postfix.config_directories === undefined && (standby || choice.remote);
    return { instances: [], unseen: optional ? [] : [error.message] };
  }
  const chosen = all.filter(({ name }) => globals.instance === undefined || name === globals.instance);
  if (chosen.length > 0 || globals.instance === undefined) return { instances: chosen, unseen: [] };
  throw new OperatorError("usage", `there is no Postfix instance ${globals.instance} here`, {
    hints: [`its instances are: ${all.map(({ name }) => name).join(", ")}`],
  });
}

function ownName({ config }: Context, [first]: readonly PostfixInstance[]): string {
  return config.host ?? first?.host ?? hostname();
}

const scheduledJobs = ["backup", "verify", "drill", "prune"] as const;

function scheduled({ schedule }: Context["config"]) {
  return scheduledJobs.flatMap((job) => {
    const expression = schedule[job];
    return expression === undefined ? [] : [{ job, expression }];
  });
}

/** The jobs of [schedule]. @param now milliseconds since 1970 */
export async function scheduleOf(config: Context["config"], now: number): Promise<ScheduledJob[]> {
  const jobs = scheduled(config);
  if (jobs.length === 0) return [];
  const { hostTimezone, makeCalendar } = await import("../schedule/expression.ts");
  const timezone = config.schedule.timezone ?? hostTimezone();
  const graceMs = graceOf(config.schedule);
  return jobs.map(({ job, expression }) => {
    const due = lastDue(makeCalendar(expression, timezone), now, 2);
    return { job, schedule: `${expression} ${timezone}`, due, graceMs };
  });
}

/** When a file was changed last, milliseconds since 1970; undefined where there is none. */
export function changed(path: string): number | undefined {
  try {
    return statSync(path).mtimeMs;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** What is a problem by [thresholds], [alerts] and the capture limits of [postfix]. */
export function limitsOf(
  { alerts, thresholds, postfix }: Context["config"],
  { maxAge }: Pick<StatusChoice, "maxAge">,
): StatusLimits {
  const { warning = null, critical = alerts.max_age } = maxAge ?? {};
  const [oldestWarning, oldestCritical] = thresholds.oldest;
  return {
    backupAge: { warning: warning === null ? null : warning / 1000, critical: critical / 1000 },
    deferred: thresholds.deferred,
    active: thresholds.active,
    oldest: [oldestWarning / 1000, oldestCritical / 1000],
    captureHold: Math.max(postfix.hold_limit, postfix.freeze_limit) / 1000,
  };
}

async function repositoryStatus(context: Context, own: string, choice: StatusChoice): Promise<RepositoryStatus> {
  const { lookAtRepository } = await import("../status/remote.ts");
  const { loadSeen } = await import("../repository/chain.ts");
  const repository = await context.openRepository();
  const found = await lookAtRepository({
    repository,
    trusted: await context.trustedKeys(),
    seen: loadSeen(context.stateDirectory, repository.id),
    now: context.clock.now(),
    signal: context.signal,
  });
  return choice.allHosts ? found : { ...found, hosts: chosenHost(context, own, found) };
}

/** The host that is named, or this one if it is there, or the only one. */
function chosenHost({ globals }: Context, own: string, { hosts }: RepositoryStatus): RepositoryStatus["hosts"] {
  const wanted = globals.host ?? own;
  const found = hosts.filter(({ host }) => host === wanted);
  if (found.length > 0) return found;
  if (globals.host === undefined && hosts.length <= 1) return hosts;
  throw new OperatorError("usage", `the repository has no snapshots of ${wanted}`, {
    hints: [
      `it has some of: ${hosts.map(({ host }) => host).join(", ")}`,
      "name one with --host, or ask for all of them with --all-hosts",
    ],
  });
}

/** For those who look at one figure only: the host that is worst off. */
function oldestOfNewest({ hosts }: RepositoryStatus): StatusReport["lastBackup"] {
  const newest = hosts.map(({ lastBackup }) => lastBackup);
  if (newest.includes(null)) return null;
  return newest.reduce(
    (worst, one) => (worst === null || (one?.ageSeconds ?? 0) > worst.ageSeconds ? one : worst),
    null,
  );
}
