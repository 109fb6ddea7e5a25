import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { TrustedKeys } from "../crypto/sign.ts";
import { errnoOf, OperatorError } from "../errors.ts";
import { drillKey, parseDrillKey, prefixes, type RecordPlace } from "../repository/layout.ts";
import { mapConcurrently, type Repository } from "../repository/repository.ts";
import { parseDrillRecord, type SignedDrill } from "../snapshot/record.ts";

/** A report that could be read. */
export interface ReadReport {
  readonly signed: SignedDrill;
  /** The record's two lines. */
  readonly bytes: Buffer;
  /** What its signature is worth to this host. */
  readonly verdict: ReturnType<TrustedKeys["check"]>;
}

/** A report that is there and can't be read. */
export interface DamagedReport {
  /** Its key in the repository, or its file here. */
  readonly where: string;
  /** Of one in the repository: what its key says. */
  readonly place?: RecordPlace;
  readonly problem: string;
}

export interface Reports<Report> {
  readonly reports: readonly Report[];
  readonly damaged: readonly DamagedReport[];
}

export interface StoredReport extends ReadReport {
  readonly place: RecordPlace;
}

export interface KeptReport extends ReadReport {
  /** Directory of the drill in the state directory. */
  readonly directory: string;
}

/** Read every report in a repository, by writer and number. @throws whatever the store throws when it can't be read */
export async function storedReports(
  repository: Repository,
  trusted: Pick<TrustedKeys, "check">,
  signal?: AbortSignal,
): Promise<Reports<StoredReport> & { readonly places: readonly RecordPlace[] }> {
  const places = await placesOf(repository, signal);
  const read = await mapConcurrently(places, 8, (place) => readStored(repository, place, trusted, signal));
  return { ...sortOut(read), places };
}

export async function placesOf(repository: Repository, signal?: AbortSignal): Promise<RecordPlace[]> {
  const places: RecordPlace[] = [];
  for await (const { key } of repository.store.list(prefixes.drills, signal)) {
    const place = parseDrillKey(key);
    if (place !== undefined) places.push(place);
  }
  return places;
}

async function readStored(
  repository: Repository,
  place: RecordPlace,
  trusted: Pick<TrustedKeys, "check">,
  signal: AbortSignal | undefined,
): Promise<StoredReport | DamagedReport> {
  const where = drillKey(place);
  try {
    const bytes = await repository.store.get(where, signal);
    const report = readReport(bytes, repository.id, trusted);
    const { id, drill } = report.signed;
    const right = id === place.id && drill.writer === place.writer && drill.number === place.number;
    return right ? { ...report, place } : { where, place, problem: `${where} is not what its name says` };
  } catch (error) {
    // Missing right after it was listed is damage as well: reports are never removed.
    if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return { where, place, problem: error.message.startsWith(where) ? error.message : `${where}: ${error.message}` };
  }
}

/**
 * Read a report's two lines.
 *
 * @param repository null: of whichever repository it says
 * @throws OperatorError `damaged` when they are none
 */
export function readReport(bytes: Buffer, repository: string | null, trusted: Pick<TrustedKeys, "check">): ReadReport {
  const signed = parseDrillRecord(bytes, repository);
  return { signed, bytes, verdict: trusted.check(signed.key, signed.line, signed.signature) };
}

/**
 * Read every report this host keeps, oldest first. An ordinary user, who may not look into the state directory, sees none.
 *
 * @param repository id of the one that is meant; null: of any
 */
export function keptReports(
  stateDirectory: string,
  repository: string | null,
  trusted: Pick<TrustedKeys, "check">,
): Reports<KeptReport> {
  const found = directoriesOf(stateDirectory).flatMap((directory) => readKept(directory, trusted) ?? []);
  const { reports, damaged } = sortOut(found);
  return {
    reports: reports
      .filter(({ signed }) => repository === null || signed.drill.repository === repository)
      .sort((a, b) => Date.parse(a.signed.drill.started) - Date.parse(b.signed.drill.started)),
    damaged,
  };
}

export function drillsDirectory(stateDirectory: string): string {
  return join(stateDirectory, "drills");
}

function directoriesOf(stateDirectory: string): string[] {
  const directory = drillsDirectory(stateDirectory);
  try {
    const names = readdirSync(directory).filter((name) => /^[0-9a-f]{12}$/.test(name));
    return names.map((name) => join(directory, name));
  } catch (error) {
    if (["ENOENT", "EACCES"].includes(errnoOf(error) ?? "")) return [];
    throw error;
  }
}

/** Undefined for a drill that has no report yet, or never got one. */
function readKept(directory: string, trusted: Pick<TrustedKeys, "check">): KeptReport | DamagedReport | undefined {
  const where = join(directory, "report.json");
  try {
    return { ...readReport(readFileSync(where), null, trusted), directory };
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return { where, problem: `${where}: ${error.message}` };
  }
}

function sortOut<Report extends ReadReport>(read: readonly (Report | DamagedReport)[]): Reports<Report> {
  return {
    reports: read.filter((one) => "signed" in one),
    damaged: read.filter((one) => "problem" in one),
  };
}
