import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname, machine, release, type as systemType, userInfo } from "node:os";
import { dirname, resolve } from "node:path";
import type { AgeIdentities } from "../../crypto/keys.ts";
import { type KeepRequest, type Kept, keepReport } from "../../drill/keep.ts";
import { type Chosen, type DrillEvent, type DrillJob, performDrill } from "../../drill/perform.ts";
import { keptReports } from "../../drill/reports.ts";
import { rehearse } from "../../drill/scenarios.ts";
import { renderText } from "../../drill/text.ts";
import { missedTarget } from "../../drill/words.ts";
import { OperatorError } from "../../errors.ts";
import { PackReader } from "../../pack/pack-pool.ts";
import type { Repository } from "../../repository/repository.ts";
import type { DrillFacts, DrillPhase, DrillScenario } from "../../snapshot/drill.ts";
import { chooseInChain, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { type Leave, recorded } from "../job.ts";
import { version } from "../version.ts";
import { rehearsing } from "./drill-scenario.ts";
import { tell as tellRestore } from "./restore-report.ts";

export interface DrillOptions {
  readonly deliver?: true | undefined;
  readonly report?: string | undefined;
  readonly workDirectory: string;
  readonly scenario?: DrillScenario | undefined;
}

/**
 * `spoolsafe drill`: exit 1 when a proof failed or a target was missed; the exit code of what was in the way where it did not come
 * to that. There is a report in every case but those in which nothing was begun.
 */
export async function run(context: Context, spec: string | undefined, options: DrillOptions): Promise<number> {
  requireRoot();
  // As postfix-script has it: Postfix's processes must be able to enter what is made for them, and blocks of runbooks run with 077.
  process.umask(0o022);
  // Before anything is begun: a drill at night is not to find out at its end what it lacks.
  const page = options.report === undefined ? undefined : pageFor(context, options.report);
  const identities = await context.identities();
  const key = await context.signingKey();
  const { scenario } = options;
  const job = await jobOf(context, spec ?? "latest", identities, options);
  const conclude = async (facts: DrillFacts, leave: Leave) => {
    const { stateDirectory, signal } = context;
    const [repository, trusted] = [await knownRepository(context, facts), await context.trustedKeys()];
    const kept = await keepReport(facts, { stateDirectory, repository, key, trusted, signal });
    if (page !== undefined) writeFileSync(page, kept.html);
    return tell(context, facts, kept, page, leave);
  };
  // What a failure that was rehearsed comes to is no news of the job, and proves no snapshot.
  if (scenario !== undefined) {
    const choosing = (repository: Repository, with_: AgeIdentities) =>
      choose(context, repository, spec ?? "latest", with_);
    return await conclude(await rehearse(scenario, await rehearsing(context, job, identities, choosing)), () => {});
  }
  return await recorded(context, "drill", async (leave) => await conclude(await performDrill(job), leave));
}

/**
 * The repository, or one that can't be reached by the id it had at the last drill.
 *
 * @throws OperatorError why it can't be reached, where it is not known
 */
async function knownRepository(context: Context, { store }: DrillFacts): Promise<KeepRequest["repository"]> {
  try {
    return await context.openRepository();
  } catch (error) {
    if (context.signal.aborted || !(error instanceof OperatorError)) throw error;
    const { reports } = keptReports(context.stateDirectory, null, await context.trustedKeys());
    const last = reports.findLast(({ signed }) => signed.drill.store.url === store.url);
    if (last === undefined) throw error;
    return { id: last.signed.drill.repository, problem: error };
  }
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can do a drill: it starts a Postfix of its own", {
    hints: ["run it as root", "what needs no Postfix and no root: spoolsafe verify --level deep"],
  });
}

function pageFor(context: Context, report: string): string {
  const page = resolve(context.cwd, report);
  if (existsSync(dirname(page))) return page;
  throw new OperatorError("usage", `${dirname(page)}, where the report is to be written, is not there`);
}

async function jobOf(
  context: Context,
  spec: string,
  identities: AgeIdentities,
  options: DrillOptions,
): Promise<DrillJob> {
  const { config, clock, signal, stateDirectory, globals, cwd } = context;
  const { processors } = config.limits;
  return {
    choose: async () => await choose(context, await context.openRepository(), spec, identities),
    openReader: () => new PackReader({ identities, processors }),
    instance: globals.instance,
    deliver: options.deliver === true,
    targets: { rpo: config.drill.rpo, rto: config.drill.rto },
    stateDirectory,
    workDirectory: resolve(cwd, options.workDirectory),
    about: aboutOf(context),
    host: await context.host().catch(() => hostname()),
    processors,
    clock,
    signal,
    report: (event) => tellEvent(context, event),
  };
}

async function choose(
  context: Context,
  repository: Repository,
  spec: string,
  identities: AgeIdentities,
): Promise<Chosen> {
  const { signed, problems } = await chooseInChain(context, repository, spec);
  requireInstance(context, signed);
  const source = { repository, signed, identities, trusted: await context.trustedKeys() };
  return { source, chainProblems: problems };
}

function aboutOf({ config, scheduledFor, environment }: Context): DrillJob["about"] {
  const { url = "", object_lock_days } = config.repository;
  const attended = scheduledFor === null && process.stdin.isTTY === true;
  return {
    ...{ attended, user: userInfo().username, sudoUser: environment.SUDO_USER || null },
    store: { url: withoutPassword(url), objectLockDays: object_lock_days },
    where: {
      hostname: hostname(),
      system: `${distribution()}, ${systemType()} ${release()} ${machine()}`,
      spoolsafe: version,
      node: process.version,
    },
  };
}

function withoutPassword(url: string): string {
  return url.replace(/^([a-z0-9+]+:\/\/)[^/@]*@/i, "$1");
}

/** `PRETTY_NAME` of os-release(5). */
function distribution(): string {
  const text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  return /^PRETTY_NAME="?([^"\n]+)"?$/m.exec(text)?.[1] ?? "unknown";
}

const doing: Readonly<Record<DrillPhase, string>> = {
  fetch: "reading the snapshot's record and manifest",
  open: "opening packs",
  place: "placing mail",
  repair: "looking over the queue",
  check: "comparing with the manifest",
  ready: "starting the drill's Postfix",
  deliver: "delivering into the sink",
};

function tellEvent(context: Context, event: DrillEvent): void {
  const { render } = context;
  switch (event.type) {
    case "swept":
      render.event(event, `cleared up after drills that were ended: ${event.drills.join(", ")}`);
      return;
    case "phase":
      render.line(event);
      render.detail(doing[event.phase]);
      render.progress({ doing: doing[event.phase], unit: "messages", done: null, total: null });
      return;
    case "delivering": {
      const { done, left } = event;
      render.progress({ doing: doing.deliver, unit: "messages", done, total: done + left });
      return;
    }
    default:
      tellRestore(context, event);
  }
}

/** @param page where the report was to be written, beside the place where it is kept */
function tell(
  { render }: Context,
  facts: DrillFacts,
  { signed, directory, problem }: Kept,
  page: string | undefined,
  leave: Leave,
): number {
  const { failure, ok, snapshot, messages, delivered, scenario } = facts;
  const { id, rpoSeconds, rtoSeconds, targets, phases, isolation, deviations } = facts;
  if (problem !== null) {
    render.warn(`the report is not in the repository, and the next drill hands it in: ${problem.message}`);
  }
  const report = page ?? `${directory}/report.html`;
  if (failure !== null && scenario === null) {
    render.text(renderText(signed));
    render.note(`the report is ${report}`);
    throw new OperatorError(failure.kind as OperatorError["kind"], failure.message, { hints: failure.hints });
  }
  const left = { drill: id, snapshot: snapshot?.id ?? null, rpoSeconds, rtoSeconds, messages: messages.identical };
  leave({ ...left, missedTarget: missedTarget(facts) });
  render.summary({
    ...{ ok, snapshot: snapshot?.id ?? null, rpoSeconds, rtoSeconds, messages, report, drill: id },
    ...{ targets, phases, delivered, outsideConnections: isolation.outsideConnections, deviations },
    ...{ scenario, stored: problem === null },
  });
  render.text(renderText(signed));
  render.note(`the report is ${report}`);
  if (!ok) return 1;
  return problem === null ? 0 : 3;
}
