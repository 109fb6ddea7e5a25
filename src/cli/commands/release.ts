import { OperatorError } from "../../errors.ts";
import { foreignClaims } from "../../holds/fence.ts";
import { type FencingClaim, type FencingClaims, gatherFencingClaims } from "../../holds/fence-claims.ts";
import { loadInstance, type PostfixInstance } from "../../postfix/instance.ts";
import type { RunRecord } from "../../restore/journal.ts";
import { forecastRelease, releaseRun } from "../../restore/release.ts";
import type { ReleaseForecast } from "../../restore/release-forecast.ts";
import type { ReleaseEvent, ReleaseReport } from "../../restore/release-job.ts";
import { paceOf } from "../../restore/release-order.ts";
import { chooseRun, requireReleasable } from "../../restore/release-run.ts";
import type { Context } from "../context.ts";
import { confirm } from "../prompt.ts";
import { localTime, printable, span } from "../table.ts";
import { ownClaims, tellStrangers } from "./holds-fence.ts";

export interface ReleaseOptions {
  /** Messages a minute. */
  readonly rate?: number | undefined;
  readonly inDoubt?: true | undefined;
  /** The operator is certain that no other host took the mail over. */
  readonly withoutClaims?: true | undefined;
}

/** Exit 3 when mail that was to go is still on hold; 1 when the question was answered with no. */
export async function run(context: Context, spec: string, options: ReleaseOptions): Promise<number> {
  requireRoot();
  const { stateDirectory, clock, signal, render, globals } = context;
  const record = chooseRun(stateDirectory, spec);
  const instance = await loadInstance(record.target.configDirectory);
  requireReleasable(record, instance);
  const claims = options.withoutClaims === true ? [] : await claimsOfOthers(context, record, instance);
  const inDoubt = options.inDoubt === true;
  const job = { run: record.run, instance, stateDirectory, inDoubt, claims, clock, signal };
  if (inDoubt && globals.yes !== true) {
    const { doubtful } = await forecastRelease(job);
    if (doubtful.messages > 0 && !(await confirm(doubtfulQuestion(doubtful), false, signal))) return 1;
  }
  const pace = options.rate === undefined ? undefined : paceOf(options.rate);
  const report = await releaseRun({ ...job, pace, report: (event) => tell(context, event, options.rate) });
  tellReport(context, report);
  if (report.gaveUp || report.remaining > 0) {
    render.note(`Go on with it: ${commandOf(record, options)}`);
    return 3;
  }
  return 0;
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can release mail", { hints: ["run it as root"] });
}

function doubtfulQuestion({ messages, recipients }: ReleaseForecast["doubtful"]): string {
  return `release ${messages} messages to ${recipients} recipients, each of whom may have got it already?`;
}

function commandOf({ run: name }: Pick<RunRecord, "run">, { rate, inDoubt, withoutClaims }: ReleaseOptions): string {
  return [
    `spoolsafe release ${name}`,
    ...(rate === undefined ? [] : [`--rate ${rate}/min`]),
    ...(inDoubt === true ? ["--in-doubt"] : []),
    ...(withoutClaims === true ? ["--without-claims"] : []),
  ].join(" ");
}

/**
 * The standing claims of others on mail of the host that this run's mail is of. Its own don't count, nor what they declared
 * void; but once they are withdrawn, the host they speak of delivers its mail itself.
 */
async function claimsOfOthers(
  context: Context,
  record: RunRecord,
  instance: PostfixInstance,
): Promise<readonly FencingClaim[]> {
  const found = await gather(context, record);
  tellStrangers(context, found);
  if (found.failure !== null) throw unknownClaims(found.failure);
  const own = await ownClaims(context);
  const isOurs = ({ id, claim }: Pick<FencingClaim, "id" | "claim">) =>
    id === record.claim || (claim.run === record.run && claim.writer === own.writer);
  const ours = found.claims.filter(isOurs);
  if (ours.length === 0 && found.withdrawn.some(isOurs)) throw isWithdrawn(record);
  const aside = new Set(ours.flatMap(({ id, claim }) => [id, ...claim.overrules]));
  return foreignClaims(found.claims, own, instance).filter(({ id }) => !aside.has(id));
}

async function gather(context: Context, { host }: RunRecord): Promise<FencingClaims> {
  const { stateDirectory, signal } = context;
  const open = () => context.openRepository();
  try {
    const trusted = await context.trustedKeys();
    return await gatherFencingClaims({ open, trusted, hosts: async () => [host], stateDirectory, signal });
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError)) throw error;
    throw unknownClaims(error);
  }
}

function unknownClaims(cause: OperatorError): OperatorError {
  return new OperatorError(cause.kind, `whether another host has taken over this mail is unknown: ${cause.message}`, {
    hints: [...cause.hints, "once it is certain that no other host took it over: add --without-claims"],
    cause,
  });
}

function isWithdrawn({ run: name, host }: RunRecord): OperatorError {
  return new OperatorError(
    "refused",
    `the claim of run ${name} has been withdrawn: ${host} delivers its mail itself from then on`,
    { hints: [`once it is certain that ${host} delivers none of it: add --without-claims`] },
  );
}

function tell(context: Context, event: ReleaseEvent, rate: number | undefined): void {
  const { render } = context;
  switch (event.type) {
    case "forecast":
      render.line(event);
      tellForecast(context, event, rate);
      return;
    case "batch":
      render.line(event);
      render.progress({
        ...{ doing: "releasing", unit: "messages", more: failures(event) },
        ...{ done: event.released, total: event.released + event.remaining },
      });
      return;
    case "paused": {
      const why = event.reason === null ? "" : `: ${printable(event.reason)}`;
      render.line(event);
      render.warn(`of ${event.of} messages ${failed(event)}, pausing for ${span(event.waitMs)}${why}`);
      return;
    }
    case "probe":
      render.event(event, `trying ${event.messages} messages`);
      return;
    case "resumed":
      render.event(event, "going on: they got through");
  }
}

function failures({ cameBack, returned }: Failures): string {
  return (cameBack ?? 0) + (returned ?? 0) === 0 ? "" : failed({ cameBack, returned });
}

interface Failures {
  readonly cameBack: number | null;
  readonly returned: number | null;
}

function failed({ cameBack, returned }: Failures): string {
  const parts = [`${cameBack ?? 0} came back`, ...(returned ? [`${returned} were returned to the sender`] : [])];
  return parts.join(" and ");
}

function tellForecast({ render }: Context, forecast: ReleaseForecast, rate: number | undefined): void {
  const { messages, maildrop, oldest, domains, expired, expiredNotices, doubtful, running } = forecast;
  if (messages === 0) return;
  const most = domains.slice(0, 3).map(({ domain, messages: count }) => `${count} to ${printable(domain) || "?"}`);
  const where = `${domains.length} domains (${most.join(", ")}${domains.length > most.length ? ", ..." : ""})`;
  const since = oldest === null ? "" : `, the oldest of ${localTime(new Date(oldest))}`;
  const what = `${messages} messages to ${where}${since}`;
  if (!running) render.warn(`${what}: Postfix is stopped, and tries them when it starts`);
  else if (rate === undefined) render.warn(`${what}: all are tried at once; --rate 500/min lets them go slowly`);
  else render.note(`${what}: ${rate} a minute, about ${span((messages / rate) * 60_000)}`);
  if (maildrop > 0) render.note(`${maildrop} of them go through maildrop: as new mail, with new ids`);
  if (expired > 0) {
    render.warn(
      `${expired} are older than the queue keeps mail: each is returned to its sender unless it goes at once`,
    );
  }
  if (expiredNotices > 0) {
    render.warn(`${expiredNotices} notices are older than that: each vanishes unless it is delivered at once`);
  }
  if (doubtful.messages > 0) {
    render.warn(`${doubtful.messages} to ${doubtful.recipients} recipients are in doubt: they may get them twice`);
  }
}

/** Findings a person is shown one by one. */
const shown = 20;

function tellReport({ render }: Context, report: ReleaseReport): void {
  const { claimed, notFound, problems, ...counts } = report;
  for (const message of claimed) render.line({ type: "not-released", cause: "claimed", ...toLine(message) } as never);
  for (const message of notFound)
    render.line({ type: "not-released", cause: "not-found", ...toLine(message) } as never);
  for (const message of problems) render.line({ type: "not-released", cause: "problem", ...toLine(message) } as never);
  const findings = [
    ...[...claimed, ...problems].map(({ queueId, reason }) => `${queueId} was not released: ${reason}`),
    ...notFound.map(({ queueId, reason }) => `${queueId} was not ours to release: ${reason}`),
  ];
  for (const finding of findings.slice(0, shown)) render.warn(printable(finding));
  if (findings.length > shown) render.warn(`and ${findings.length - shown} more: --json lists them all`);
  if (counts.gaveUp) {
    render.warn(
      `mail was still not delivered${counts.reason === null ? "" : ` (${printable(counts.reason)})`}: gave up`,
    );
  }
  const listed = { claimed: claimed.length, notFound: notFound.length, problems: problems.length };
  render.summary({ ...counts, ...listed });
  render.text(textOf(report));
  if (counts.notWoken > 0) {
    const when = counts.running ? "when their time comes" : "when it starts";
    render.note(`Postfix tries ${counts.notWoken} of them ${when}.`);
  }
  if (counts.inDoubt > 0) render.note("--in-doubt releases what is in doubt as well: some may get it twice.");
}

function toLine({ queueId, reason, ...more }: { queueId: string; reason: string; number: number; claim?: string }) {
  return { queueId, reason, ...(more.claim === undefined ? {} : { claim: more.claim }) };
}

function textOf({ run: name, released, before, remaining, inDoubt, admin, fence, ...more }: ReleaseReport): string {
  const parts = [
    ...(before > 0 ? [`${before} had been before`] : []),
    ...(more.cameBack !== null ? [failed(more)] : []),
    ...(remaining > 0 ? [`${remaining} are still on hold`] : []),
    ...(inDoubt > 0 ? [`${inDoubt} in doubt stay on hold`] : []),
    ...(admin > 0 ? [`${admin} of the administrator's stay on hold`] : []),
    ...(fence > 0 ? [`${fence} of a fence stay on hold`] : []),
  ];
  return [`released ${released} messages of run ${name}`, ...parts].join("; ");
}
