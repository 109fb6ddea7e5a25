import type { CopyReport } from "../copy/copy.ts";
import { OperatorError } from "../errors.ts";
import { type CopyName, findCopy, readCopies, recordCopy, recordUnsent } from "../jobs/copies.ts";
import { withoutCredentials } from "../repository/store-address.ts";
import type { StoreSettings } from "../repository/store-url.ts";
import { type Context, storeSettings } from "./context.ts";
import { type Leave, recorded } from "./job.ts";
import { printable, size } from "./table.ts";

/** A place copies go to. */
export interface CopyTarget {
  readonly settings: StoreSettings;
  /** Named in the configuration: its standing is remembered for status. */
  readonly configured: boolean;
}

/** The further repositories of the configuration. */
export function configuredCopies({ config }: Context): CopyTarget[] {
  return config.copy.flatMap((table) => {
    const { url } = table;
    return url === undefined ? [] : [{ settings: storeSettings({ ...table, url }), configured: true }];
  });
}

/**
 * The place a URL of the command line names, however it spells it: a configured one as its table says, with its locks; another in
 * the way of the repository.
 */
export async function namedCopy(context: Context, url: string): Promise<CopyTarget> {
  const { relationOf } = await import("../repository/place.ts");
  const known = configuredCopies(context).find(
    ({ settings }) => relationOf(settings, { url, endpoint: settings.endpoint }) === "same",
  );
  return (
    known ?? {
      settings: { ...storeSettings({ ...context.config.repository, url }), lockDays: 0 },
      configured: false,
    }
  );
}

/**
 * Two copies in one place are one, and one within the other is lost with it. Nothing is contacted.
 *
 * @throws OperatorError `config` when a copy is the repository, or another copy, or one lies within the other
 */
export async function requireApart({ config }: Context, targets: readonly CopyTarget[]): Promise<void> {
  if (targets.length === 0) return;
  const { relationOf } = await import("../repository/place.ts");
  const { url, endpoint } = config.repository;
  const places = [...(url === undefined ? [] : [{ url, endpoint }]), ...targets.map(({ settings }) => settings)];
  for (const [index, place] of places.entries()) {
    for (const other of places.slice(0, index)) {
      const relation = relationOf(place, other);
      if (relation === "apart") continue;
      const [here, there] = [withoutCredentials(place.url), withoutCredentials(other.url)];
      const how = relation === "same" ? "is the same place as" : "is not apart from";
      throw new OperatorError("config", `the copy ${here} ${how} ${there}`, {
        hints: ["name a place for the copy that is not lost together with the repository: another disk, another store"],
      });
    }
  }
}

/** Which snapshots are meant: these, each with those before it in its chain; null for all. */
export type Chosen = ReadonlySet<string> | null;

/**
 * Copy to each of these, one after another; one that fails does not keep the others from theirs.
 *
 * @returns 0; 3 when snapshots were left out because no trusted key signed them; 13 for damage
 * @throws OperatorError the first failure, when all were tried
 */
export async function copyToEach(
  context: Context,
  targets: readonly CopyTarget[],
  chosen: Chosen,
  leave: Leave,
  lockWaitMs = 1000,
): Promise<number> {
  const { render, signal } = context;
  const reports: CopyReport[] = [];
  const failures: OperatorError[] = [];
  for (const target of targets) {
    try {
      reports.push(await copyTo(context, target, chosen, lockWaitMs));
    } catch (error) {
      if (signal.aborted || !(error instanceof OperatorError)) throw error;
      if (failures.length > 0) render.warn(`${shown(target)}: ${error.message}`);
      failures.push(error);
    }
  }
  const [failure] = failures;
  if (failure !== undefined) throw failure;
  const problems = reports.flatMap((report) => report.problems);
  const sum = (of: (report: CopyReport) => number) => reports.reduce((all, report) => all + of(report), 0);
  leave({
    targets: reports.length,
    snapshots: sum(({ copied }) => copied.snapshots),
    behind: sum(({ behind }) => behind),
  });
  if (problems.some(({ kind }) => kind === "damaged")) return 13;
  return problems.length > 0 ? 3 : 0;
}

async function copyTo(context: Context, target: CopyTarget, chosen: Chosen, lockWaitMs: number): Promise<CopyReport> {
  const { stateDirectory, signal, clock, config, render } = context;
  const { copy } = await import("../copy/copy.ts");
  const { openStore } = await import("../repository/store-url.ts");
  const start = new Date(clock.now()).toISOString();
  const name = nameOf(target);
  const store = openStore(target.settings);
  try {
    const report = await copy({
      source: await context.openRepository(),
      target: store,
      // A disk that is not mounted must not be taken for a place where a copy has yet to be made.
      mayMake: findCopy(readCopies(stateDirectory), name)?.made !== true,
      chosen,
      trusted: await context.trustedKeys(),
      stateDirectory,
      uploadBytesPerSecond: config.limits.upload,
      lockWaitMs,
      clock,
      signal,
      report: (event) => {
        if (event.type === "planned") {
          if (target.configured) orWarn(context, () => recordCopy(stateDirectory, name, { made: true }));
          return;
        }
        render.progress({
          doing: "copying",
          unit: "objects",
          done: event.objects,
          total: event.of,
          bytes: event.bytes,
        });
      },
    });
    if (target.configured) remember(context, target, report, { start, all: chosen === null });
    tell(context, target, report);
    return report;
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    // Who holds the lock copies as well, and says how that went.
    const locked = error instanceof OperatorError && error.kind === "locked";
    if (target.configured && !locked) orWarn(context, () => recordCopy(stateDirectory, name, { error: said }));
    render.line({ type: "copy", url: name.url, endpoint: name.endpoint, error: said });
    throw error;
  } finally {
    await store.close();
  }
}

function remember(
  context: Context,
  target: CopyTarget,
  { behind, problems }: CopyReport,
  { start, all }: { readonly start: string; readonly all: boolean },
): void {
  // Of some snapshots it is not known how many others are not there yet.
  if (!all) return;
  const error = problems[0]?.problem ?? null;
  const success = behind === 0 && error === null ? { lastSuccess: start } : {};
  orWarn(context, () => recordCopy(context.stateDirectory, nameOf(target), { behind, error, ...success }));
}

function tell({ render }: Context, target: CopyTarget, { copied, notes, behind, problems }: CopyReport): void {
  const { url, endpoint } = nameOf(target);
  for (const { kind, problem } of problems) {
    render.line({ type: "problem", url, kind, problem });
    render.warn(`${printable(url)}: ${printable(problem)}`);
  }
  render.line({ type: "copy", url, endpoint, ...copied, notes, behind, error: null });
  const rest = behind === 0 ? "" : `; ${behind} snapshots are not there`;
  render.text(
    `copied to ${printable(url)}: ${copied.snapshots} snapshots, ${copied.objects} packs and parts (${size(copied.bytes)})${rest}`,
  );
}

/**
 * After a backup: what it has made goes to the further repositories, as a job of its own. A copy that fails is told of,
 * alerted and shown by status, and takes nothing from the backup.
 */
export async function copyAfterBackup(context: Context): Promise<void> {
  const { render, stateDirectory, signal } = context;
  const targets = configuredCopies(context);
  orWarn(context, () => {
    if (targets.length > 0 || readCopies(stateDirectory).length > 0) recordUnsent(stateDirectory, targets.map(nameOf));
  });
  if (targets.length === 0) return;
  try {
    await recorded(context, "copy", (leave) => copyToEach(context, targets, null, leave, lockWaitMs));
  } catch (error) {
    if (!signal.aborted && !(error instanceof OperatorError)) throw error;
    const said = error instanceof Error ? error.message : String(error);
    render.warn(`the snapshot is stored, but not in every further repository: ${said}`);
    render.note("spoolsafe copy sends what is missing; so does the next backup");
  }
}

/** A prune may be under way when a backup ends. */
const lockWaitMs = 60_000;

function orWarn({ render, stateDirectory }: Context, write: () => void): void {
  try {
    write();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    render.warn(`how the copies stand can't be recorded in ${stateDirectory}, so status will not know it: ${reason}`);
  }
}

function nameOf({ settings }: CopyTarget): CopyName {
  return { url: withoutCredentials(settings.url), endpoint: settings.endpoint ?? null };
}

function shown(target: CopyTarget): string {
  return printable(nameOf(target).url);
}
