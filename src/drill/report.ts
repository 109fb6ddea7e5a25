import { createPublicKey } from "node:crypto";
import type { SigningKey } from "../crypto/sign.ts";
import type { DrillFacts, DrillReport, EarlierDrill } from "../snapshot/drill.ts";
import { formatRecord, parseDrillRecord, type SignedDrill } from "../snapshot/record.ts";

export {
  type DrillCheck,
  type DrillFacts,
  type DrillPhase,
  type DrillReport,
  type DrillScenario,
  drillPhases,
  drillScenarios,
} from "../snapshot/drill.ts";

/** Raised whenever the same record would give other pages: those drawn before can't be compared then, and are not called changed. */
export const drawing = 1;

/** The place of a report among those of its writer. */
export interface ReportPlace {
  readonly repository: string;
  readonly number: number;
  /** Digest of the writer's record with the number before, null for its first. */
  readonly previous: string | null;
}

/**
 * Sign what a drill found out.
 *
 * @param before drills of any host and kind; those it is to be compared with are chosen here
 * @returns the record as it reads back from its own bytes: what is drawn from it is drawn from what was signed
 * @throws ZodError for facts that don't keep the format; that is a defect of whoever made them
 */
export function signReport(
  facts: DrillFacts,
  { repository, number, previous }: ReportPlace,
  before: readonly DrillReport[],
  key: SigningKey,
): { readonly signed: SignedDrill; readonly bytes: Buffer } {
  const publicKey = createPublicKey(key.publicPem).export({ type: "spki", format: "der" }).toString("base64");
  const { writer } = key;
  const head = { format: 1, type: "drill", repository, writer, number, previous, publicKey, drawing } as const;
  const { bytes } = formatRecord({ ...head, ...facts, before: comparable(facts, before) }, key);
  return { signed: parseDrillRecord(bytes, repository), bytes };
}

/** The five newest before this one, of the same host and the same kind: proofs with proofs, a scenario with itself. */
function comparable(facts: DrillFacts, before: readonly DrillReport[]): EarlierDrill[] {
  return before
    .filter(
      ({ id, host, scenario, started }) =>
        id !== facts.id &&
        host === facts.host &&
        scenario?.name === facts.scenario?.name &&
        Date.parse(started) <= Date.parse(facts.started),
    )
    .sort((a, b) => Date.parse(b.started) - Date.parse(a.started))
    .slice(0, 5)
    .map(({ id, started, ok, rpoSeconds, rtoSeconds }) => ({ id, started, ok, rpoSeconds, rtoSeconds }));
}
