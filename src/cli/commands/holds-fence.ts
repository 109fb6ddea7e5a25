import { existsSync } from "node:fs";
import { OperatorError } from "../../errors.ts";
import { type FenceReport, fence, type OwnClaims } from "../../holds/fence.ts";
import { type FencingClaims, gatherFencingClaims } from "../../holds/fence-claims.ts";
import type { Repository } from "../../repository/repository.ts";
import type { Context } from "../context.ts";

/**
 * Made for the unit that comes before Postfix: 0 means that nothing another host has taken over is where Postfix could
 * deliver it. Every other end must keep Postfix from starting; 3 is that of a Postfix that runs already.
 */
export async function run(context: Context): Promise<number> {
  requireRoot();
  const own = await ownClaims(context);
  const found = await gatherClaims(context);
  tellStrangers(context, found);
  const reports: FenceReport[] = [];
  const failures: OperatorError[] = found.failure === null ? [] : [unknownClaims(found.failure)];
  for (const instance of await context.instances()) {
    const { stateDirectory, clock, signal } = context;
    try {
      reports.push(await fence({ instance, claims: found.claims, own, stateDirectory, clock, signal }));
    } catch (error) {
      if (signal.aborted || !(error instanceof OperatorError)) throw error;
      // The other instances are fenced all the same; the first failure is how this ends.
      failures.push(error);
    }
  }
  for (const report of reports) tell(context, report);
  const [failure] = failures;
  if (failure !== undefined) throw failure;
  return summarize(context, found, reports);
}

export function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can look into a mail queue and hold mail", {
    hints: ["run it as root"],
  });
}

/** What others have claimed of this host's mail, by every name it has or had. */
export function gatherClaims(context: Context): Promise<FencingClaims> {
  const { stateDirectory, signal } = context;
  return (async () => {
    const trusted = await context.trustedKeys();
    const open = () => context.openRepository();
    const hosts = (repository: Repository | undefined) => hostNames(context, repository);
    return gatherFencingClaims({ open, trusted, hosts, stateDirectory, signal });
  })();
}

export async function ownClaims(context: Context): Promise<OwnClaims> {
  return { writer: await ownWriter(context), hosts: await hostNames(context, undefined) };
}

/** A host without a signing key has claimed nothing itself. */
async function ownWriter(context: Context): Promise<string | undefined> {
  return existsSync(context.config.signing.key_file) ? (await context.signingKey()).writer : undefined;
}

/**
 * The configured name, every myhostname, and what this host's own snapshots call it: one that was given another name after
 * its mail was taken over is still the one the claim means.
 */
async function hostNames(context: Context, repository: Repository | undefined): Promise<string[]> {
  const names = new Set([await context.host(), ...(await context.instances()).map(({ host }) => host)]);
  const writer = await ownWriter(context);
  if (repository === undefined || writer === undefined) return [...names];
  const refs = (await repository.snapshotRefs(context.signal)).filter((ref) => ref.writer === writer);
  const { snapshots } = await repository.loadReadable(refs, context.signal);
  for (const { snapshot } of snapshots) names.add(snapshot.host);
  return [...names];
}

export function tellStrangers({ render }: Context, { strangers, decidedAgainst }: FencingClaims): void {
  for (const { key, claim } of strangers) {
    const what = claim?.state === "claimed" ? `${claim.by} says it took over mail of ${claim.host}` : "a claim";
    render.line({ type: "stranger", key, host: claim?.state === "claimed" ? claim.host : null } as never);
    render.warn(`${what}, signed by a key this host does not trust, and ignored: ${key}`);
  }
  for (const { id, claim } of decidedAgainst) {
    render.warn(`claim ${id.slice(0, 8)} of ${claim.by} stands, and an operator of this host decided against it`);
  }
}

/** The end of a fence that can't know of the newest claims. */
function unknownClaims(cause: OperatorError): OperatorError {
  return new OperatorError(
    cause.kind,
    `what other hosts have taken over of this host's mail is unknown: ${cause.message}`,
    {
      hints: [
        ...cause.hints,
        "until it is known Postfix must not start: mail another host has taken over would be delivered twice",
        "if you are certain that none was taken over, start Postfix by its own command: postfix start",
      ],
      cause,
    },
  );
}

function tell({ render }: Context, report: FenceReport): void {
  const { instance, running, held, setAside, onHold, unfenced, unreadable } = report;
  const line = (outcome: string, message: object) =>
    render.line({ type: "fence", instance, outcome, ...message } as never);
  for (const message of held) line("held", message);
  for (const message of setAside) line("set-aside", message);
  for (const message of onHold) line("on-hold", message);
  for (const message of unfenced) line("unfenced", message);
  for (const message of unreadable) line("unreadable", message);
  if (held.length > 0)
    render.text(`${instance}: ${held.length} messages that another host has taken over are on hold now`);
  if (setAside.length > 0) {
    render.text(`${instance}: ${setAside.length} of them were in maildrop, where nothing can be held: moved aside`);
    for (const { queueId, file } of setAside) render.detail(`${queueId} is now ${file}`);
  }
  const restored = onHold.filter(({ kind }) => kind === "restore");
  if (restored.length > 0) {
    render.warn(
      `${instance}: ${restored.length} messages wait for the release of a restore, and another host has taken them over: don't release them`,
    );
  }
  for (const { queueId, problem } of unreadable)
    render.detail(`${instance}: ${queueId} is no whole message: ${problem}`);
  if (running && unfenced.length + held.length > 0) {
    render.warn(`${instance}: Postfix was running already; stop it, and run spoolsafe holds fence again`);
  }
  for (const { queueId, reason } of unfenced)
    render.warn(`${instance}: ${queueId} is taken over and not on hold: ${reason}`);
}

function summarize({ render }: Context, found: FencingClaims, reports: readonly FenceReport[]): number {
  const sum = (count: (report: FenceReport) => number) => reports.reduce((total, report) => total + count(report), 0);
  const counts = {
    claims: found.claims.length,
    strangers: found.strangers.length,
    held: sum(({ held }) => held.length),
    setAside: sum(({ setAside }) => setAside.length),
    onHold: sum(({ onHold }) => onHold.length),
    unfenced: sum(({ unfenced }) => unfenced.length),
    unreadable: sum(({ unreadable }) => unreadable.length),
  };
  render.summary(counts);
  if (counts.held + counts.setAside > 0) {
    render.note("spoolsafe holds take-over lists it with the claims, and gives it back once a claim is withdrawn.");
  } else if (counts.unfenced === 0) {
    render.note(
      counts.claims === 0 ? "No other host claims mail of this one." : "Nothing of what was claimed is left to hold.",
    );
  }
  return counts.unfenced > 0 ? 3 : 0;
}
