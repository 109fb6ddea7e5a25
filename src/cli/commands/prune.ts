import { readJob } from "../../jobs/record.ts";
import { type PlannedSnapshot, type PlanRequest, type PrunePlan, planPrune, type Unused } from "../../prune/plan.ts";
import { clockBehind, type PruneEvent, type PruneReport, prune, requireOwnTrust } from "../../prune/prune.ts";
import type { KeepReason, Verdict } from "../../prune/retention.ts";
import type { Context } from "../context.ts";
import { type Leave, recorded } from "../job.ts";
import { localTime, size, table } from "../table.ts";

export interface PruneOptions {
  readonly dryRun?: true | undefined;
}

/** `spoolsafe prune [--dry-run]`: exit 3 when something stood in the way of a part of it. Needs no identity. */
export async function run(context: Context, options: PruneOptions): Promise<number> {
  if (options.dryRun === true) return await forecast(context);
  // One host of several, by hand, is not the prune that status and alerts watch.
  const whole = context.globals.host === undefined || context.scheduledFor !== null;
  const work = (leave: Leave) => pruneNow(context, leave);
  return whole ? await recorded(context, "prune", work) : await work(() => {});
}

async function pruneNow(context: Context, leave: Leave): Promise<number> {
  const { render, clock, signal, stateDirectory } = context;
  const report = await prune({
    ...(await request(context)),
    signingKey: await context.signingKey(),
    trusted: await context.trustedKeys(),
    stateDirectory,
    clock,
    signal,
    report: (event) => tell(context, event),
  });
  for (const [index, { key, until }] of report.retained.entries()) {
    render.line({ type: "retained", object: key, until: until === null ? null : new Date(until).toISOString() });
    const words = `retained: ${key}${until === null ? "" : ` until ${localTime(new Date(until))}`}`;
    if (index < shown) render.note(words);
    else render.detail(words);
  }
  for (const problem of report.problems) {
    render.line({ type: "problem", problem });
    render.warn(problem);
  }
  render.summary({ ...summary(report.plan), removed: report.removed, retained: report.retained.length, dryRun: false });
  render.text(text(report));
  leave({ removed: report.removed.snapshots, retained: report.retained.length, bytes: report.removed.bytes });
  return report.problems.length > 0 ? 3 : 0;
}

/** Retained objects a person is shown without asking. */
const shown = 20;

async function request(
  context: Context,
): Promise<Pick<PlanRequest, "repository" | "policy" | "timeZone" | "proved" | "onlyHost">> {
  const { retention, schedule } = context.config;
  const proved = readJob(context.stateDirectory, "drill").detail?.snapshot;
  return {
    repository: await context.openRepository(),
    policy: {
      last: retention.keep_last,
      hourly: retention.keep_hourly,
      daily: retention.keep_daily,
      weekly: retention.keep_weekly,
      monthly: retention.keep_monthly,
    },
    timeZone: schedule.timezone ?? Intl.DateTimeFormat().resolvedOptions().timeZone,
    proved: typeof proved === "string" ? proved : null,
    onlyHost: context.globals.host ?? null,
  };
}

async function forecast(context: Context): Promise<number> {
  const { render, signal } = context;
  const signingKey = await context.signingKey();
  const trusted = await context.trustedKeys();
  requireOwnTrust({ signingKey, trusted });
  const plan = await planPrune({ ...(await request(context)), signingKey, trusted, now: context.clock.now(), signal });
  tellPlan(context, plan);
  for (const { message } of plan.unreadable) render.warn(message);
  if (plan.behind) render.warn(clockBehind);
  render.summary({ ...summary(plan), dryRun: true });
  render.text(() => planTable(plan));
  const { condemn, remove, waiting, young } = plan;
  render.note(`packs and parts nothing needs: ${amount(remove)} go now, ${amount([...condemn, ...waiting])} later,`);
  render.note(`${amount(young)} may belong to a backup under way. Dry run: nothing was changed.`);
  return plan.unreadable.length > 0 || plan.behind ? 3 : 0;
}

function tell(context: Context, event: PruneEvent): void {
  const { render } = context;
  switch (event.type) {
    case "planned":
      tellPlan(context, event.plan);
      return;
    case "removed":
      render.progress({ doing: "removing", unit: "objects", done: event.objects, total: event.of });
      return;
    case "not-swept":
      render.line(event);
      render.detail(`left-overs of interrupted uploads could not be looked for: ${event.reason}`);
      return;
  }
}

function tellPlan({ render }: Context, { snapshots }: PrunePlan): void {
  for (const { snapshot, kept } of snapshots) {
    const { id, host, time } = snapshot;
    render.line({
      type: "snapshot",
      id,
      host,
      time: new Date(time).toISOString(),
      keep: kept.length > 0,
      reasons: kept,
    });
  }
}

function summary({ snapshots, condemn, remove, waiting, young }: PrunePlan): object {
  const kept = snapshots.filter((verdict) => verdict.kept.length > 0).length;
  return {
    kept,
    goes: snapshots.length - kept,
    unused: { remove: count(remove), condemn: count(condemn), waiting: count(waiting), young: count(young) },
  };
}

function count(unused: readonly Unused[]): { objects: number; bytes: number } {
  return { objects: unused.length, bytes: bytesOf(unused) };
}

function bytesOf(unused: readonly Unused[]): number {
  return unused.reduce((sum, { bytes }) => sum + bytes, 0);
}

function amount(unused: readonly Unused[]): string {
  return `${unused.length} (${size(bytesOf(unused))})`;
}

function planTable({ snapshots }: PrunePlan): string {
  if (snapshots.length === 0) return "no snapshots";
  return table(["ID", "TIME", "HOST", "", "WHY"], snapshots.map(row));
}

function row({ snapshot, kept }: Verdict<PlannedSnapshot>): string[] {
  const [what, why] = kept.length > 0 ? ["stays", kept.map(reasonText).join(", ")] : ["GOES", "no rule keeps it"];
  return [snapshot.id.slice(0, 8), localTime(new Date(snapshot.time)), snapshot.host, what, why];
}

function reasonText(reason: KeepReason): string {
  switch (reason.kind) {
    case "newest":
      return "the newest that is whole";
    case "proved":
      return "the last drill proved it";
    case "young":
      return "younger than the longest run";
    case "future":
      return "dated in the future";
    case "untrusted":
      return "not signed by a trusted key";
    case "other-host":
      return "of another host than was asked for";
    default:
      return `${reason.kind} ${reason.slot}`;
  }
}

function text({ plan, removed, retained }: PruneReport): string {
  const kept = plan.snapshots.filter((verdict) => verdict.kept.length > 0).length;
  const lines = [
    `removed ${removed.snapshots} snapshots, ${removed.packs} packs and ${removed.parts} parts (${size(removed.bytes)}); ${kept} snapshots stay`,
  ];
  const later = [...plan.condemn, ...plan.waiting];
  if (later.length > 0)
    lines.push(`nothing needs ${amount(later)} more packs and parts: they go after two days of grace`);
  if (retained.length > 0) lines.push(`retained: the store keeps ${retained.length} objects for now`);
  return lines.join("\n");
}
