import { type KeptReport, keptReports, type Reports, type StoredReport, storedReports } from "../drill/reports.ts";
import { OperatorError } from "../errors.ts";
import { loadSeen, type Seen } from "../repository/chain.ts";
import type { Repository } from "../repository/repository.ts";
import type { Context } from "./context.ts";

/** Reports of drills, as the repository and this host have them. */
export interface DrillReports {
  readonly repository: Repository | null;
  readonly stored: (Reports<StoredReport> & { readonly seenBefore: Seen }) | null;
  readonly kept: Reports<KeptReport>;
  /** Why the repository could not be read; null when it was. */
  readonly away: OperatorError | null;
}

/** A repository that can't be read is no reason not to show what is here: it may be why somebody looks. */
export async function drillReports(context: Context): Promise<DrillReports> {
  const { stateDirectory, signal } = context;
  const trusted = await context.trustedKeys();
  try {
    const repository = await context.openRepository();
    const seenBefore = loadSeen(stateDirectory, repository.id, "drills");
    const stored = { ...(await storedReports(repository, trusted, signal)), seenBefore };
    return { repository, stored, kept: keptReports(stateDirectory, repository.id, trusted), away: null };
  } catch (error) {
    const kinds = ["config", "no-repository", "store-failed"];
    if (signal.aborted || !(error instanceof OperatorError) || !kinds.includes(error.kind)) throw error;
    return { repository: null, stored: null, kept: keptReports(stateDirectory, null, trusted), away: error };
  }
}

export type FoundReport = (StoredReport | KeptReport) & { readonly isStored: boolean; readonly isKept: boolean };

/** Each report once, oldest first; of the host that was asked for, else of all. */
export function eachReport({ globals }: Context, { stored, kept }: DrillReports): FoundReport[] {
  const there = new Set(stored?.reports.map(({ signed }) => signed.id));
  const here = new Set(kept.reports.map(({ signed }) => signed.id));
  const all = [...kept.reports, ...(stored?.reports ?? []).filter(({ signed }) => !here.has(signed.id))];
  return all
    .filter(({ signed }) => globals.host === undefined || signed.drill.host === globals.host)
    .map((one) => ({ ...one, isStored: there.has(one.signed.id), isKept: here.has(one.signed.id) }))
    .sort((a, b) => Date.parse(a.signed.drill.started) - Date.parse(b.signed.drill.started));
}

/**
 * The report an argument means: the id of a drill, a unique prefix of one, or `latest`, which is the newest whatever came of it.
 *
 * @throws OperatorError `usage` or `failed` when it means none or several
 */
export function chooseReport(spec: string, reports: readonly FoundReport[]): FoundReport {
  const newest = reports.at(-1);
  if (newest === undefined) {
    throw new OperatorError("failed", "there are no reports of drills yet", { hints: ["spoolsafe drill makes one"] });
  }
  if (spec === "latest") return newest;
  if (!/^[0-9a-f]{1,12}$/i.test(spec)) {
    throw new OperatorError("usage", `${JSON.stringify(spec)} is not a drill`, {
      hints: ["name it by its id, a unique prefix of one, or latest: `spoolsafe drill list` shows them"],
    });
  }
  const found = reports.filter(({ signed }) => signed.drill.id.startsWith(spec.toLowerCase()));
  const ids = [...new Set(found.map(({ signed }) => signed.drill.id))];
  if (ids.length > 1) {
    throw new OperatorError("usage", `${ids.length} drills begin with ${spec}`, {
      hints: [`they are: ${ids.join(", ")}`],
    });
  }
  const [only] = found;
  if (only !== undefined) return only;
  throw new OperatorError("failed", `there is no report of a drill ${spec}`, {
    hints: ["`spoolsafe drill list` shows them"],
  });
}

/** To be said loudly: what is shown is only what this host keeps. */
export function tellAway({ render }: Context, { away }: DrillReports): void {
  if (away === null) return;
  render.warn(`the repository can't be read, so these are only the reports this host keeps: ${away.message}`);
  for (const hint of away.hints) render.note(hint);
}
