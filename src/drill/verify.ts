import { readFileSync } from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../errors.ts";
import { checkChains, lookedAt, type Seen } from "../repository/chain.ts";
import { drillKey } from "../repository/layout.ts";
import type { SignedDrill } from "../snapshot/record.ts";
import { renderHtml } from "./html.ts";
import { renderMarkdown } from "./markdown.ts";
import { drawing } from "./report.ts";
import type { KeptReport, ReadReport, Reports, StoredReport } from "./reports.ts";

/** Something that is not as it should be. */
export interface DrillDamage {
  /** Id of the drill, null where it can't be told. */
  readonly drill: string | null;
  /** Key in the repository, or file here; null for a chain. */
  readonly object: string | null;
  readonly problem: string;
}

export interface DrillVerification {
  readonly checked: number;
  readonly damaged: readonly DrillDamage[];
  /** Ids of drills whose report the repository does not have yet; the next drill hands them in. */
  readonly pending: readonly string[];
  /** Files drawn in another way, by another version of this program, which this one can't draw again to compare. */
  readonly notCompared: readonly string[];
  /** What to remember of the repository; null where none was looked at. */
  readonly seen: Seen | null;
}

export interface VerifyRequest {
  /** What a repository has, and what this host has seen there before; null: none is looked at. */
  readonly stored: (Reports<StoredReport> & { readonly seenBefore: Seen }) | null;
  readonly kept: Reports<KeptReport>;
  /** Id of the drill that is meant; null: all. Chains are checked whatever is meant. */
  readonly only: string | null;
}

/**
 * Check signatures, that every writer's reports are all there and follow one another, that what this host keeps is what the
 * repository has, and that the drawn files are what their record says.
 */
export function verifyReports({ stored, kept, only }: VerifyRequest): DrillVerification {
  const meant = ({ signed }: ReadReport) => only === null || signed.drill.id === only;
  const there = (stored?.reports ?? []).filter(meant);
  const here = kept.reports.filter(meant);
  const chain = stored === null ? null : checkChain(stored);
  const drawn = here.map(compareDrawn);
  return {
    checked: new Set([...there, ...here].map(({ signed }) => signed.id)).size,
    damaged: [
      ...(only === null ? [...(stored?.damaged ?? []), ...kept.damaged].map(unreadable) : []),
      ...there.flatMap((report) => untrusted(report, drillKey(report.place))),
      ...here.flatMap((report) => untrusted(report, join(report.directory, "report.json"))),
      ...here.flatMap((report) => differing(report, stored?.reports ?? [])),
      ...drawn.flatMap(({ damaged }) => damaged),
      ...(chain?.damaged ?? []),
    ],
    pending: stored === null ? [] : here.filter((one) => isPending(one, stored.reports)).map(idOf),
    notCompared: drawn.flatMap(({ notCompared }) => notCompared),
    seen: chain?.seen ?? null,
  };
}

function idOf({ signed }: ReadReport): string {
  return signed.drill.id;
}

function unreadable({ where, problem }: Reports<ReadReport>["damaged"][number]): DrillDamage {
  return { drill: null, object: where, problem };
}

function checkChain({ reports, damaged, seenBefore }: NonNullable<VerifyRequest["stored"]>) {
  const trusted = reports.filter(({ verdict }) => verdict === "trusted");
  const writers = new Set([...seenBefore.keys(), ...trusted.map(({ place }) => place.writer)]);
  // One that is there and can't be read is a finding of its own, and no gap.
  const broken = damaged.flatMap(({ place }) =>
    place !== undefined && writers.has(place.writer) ? [{ ...place, previous: undefined }] : [],
  );
  const links = [
    ...trusted.map(({ place, signed }) => ({ ...place, previous: signed.drill.previous as string | null | undefined })),
    ...broken,
  ];
  const findings = checkChains(links, [], seenBefore, "drills");
  return {
    damaged: findings.map(({ snapshot, problem }) => ({
      drill: trusted.find(({ signed }) => signed.id === snapshot)?.signed.drill.id ?? null,
      object: null,
      problem,
    })),
    seen: lookedAt(seenBefore, links, findings),
  };
}

function untrusted({ signed, verdict }: ReadReport, object: string): DrillDamage[] {
  switch (verdict) {
    case "trusted":
      return [];
    case "stranger":
      return [
        {
          drill: signed.drill.id,
          object,
          problem: `signed by ${signed.key.slice(0, 16)}, a key this host does not trust`,
        },
      ];
    case "forged":
      return [
        { drill: signed.drill.id, object, problem: "its signature is not that of the key it names: it was changed" },
      ];
  }
}

/** The repository has another report under the same id, or the same number. */
function differing({ signed, directory }: KeptReport, stored: readonly StoredReport[]): DrillDamage[] {
  const { id, writer, number } = signed.drill;
  const other = stored.find(
    ({ place, signed: theirs }) =>
      theirs.id !== signed.id && (theirs.drill.id === id || (place.writer === writer && place.number === number)),
  );
  if (other === undefined) return [];
  const problem = `the repository has another report of this ${other.signed.drill.id === id ? "drill" : "number"}: ${drillKey(other.place)}`;
  return [{ drill: id, object: join(directory, "report.json"), problem }];
}

/** Not there, and newer than all that is: one in between that is not there is missing from the chain. */
function isPending({ signed }: KeptReport, stored: readonly StoredReport[]): boolean {
  const { writer, number } = signed.drill;
  return stored.every(({ place }) => place.writer !== writer || place.number < number);
}

function compareDrawn({ signed, directory }: KeptReport) {
  const files = [
    { path: join(directory, "report.md"), draw: renderMarkdown },
    { path: join(directory, "report.html"), draw: renderHtml },
  ];
  const looks = files.map(({ path, draw }) => ({ path, ...lookAtDrawn(signed, textIfThere(path), draw) }));
  return {
    damaged: looks.flatMap(({ path, problem }) =>
      problem === undefined ? [] : [{ drill: signed.drill.id, object: path, problem }],
    ),
    notCompared: looks.flatMap(({ path, compared }) => (compared ? [] : [path])),
  };
}

/**
 * Whether a page is what its record says. It can be drawn again at any time, so one that is not there is nothing to complain of.
 *
 * @param page undefined where there is none
 */
export function lookAtDrawn(
  signed: SignedDrill,
  page: string | undefined,
  draw: (signed: SignedDrill) => string,
): { readonly compared: boolean; readonly problem?: string } {
  if (page === undefined || page === draw(signed)) return { compared: true };
  // That is in the signed record: a page that was changed can't say it of itself.
  if (signed.drill.drawing !== drawing) return { compared: false };
  return { compared: true, problem: "is not what its record says: it was changed after it was drawn" };
}

function textIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
