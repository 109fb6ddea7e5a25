import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { embeddedIn } from "../../drill/evidence.ts";
import { renderHtml } from "../../drill/html.ts";
import { readReport } from "../../drill/reports.ts";
import { type DrillDamage, lookAtDrawn, verifyReports } from "../../drill/verify.ts";
import { errnoOf, OperatorError } from "../../errors.ts";
import { saveSeen } from "../../repository/chain.ts";
import type { Context } from "../context.ts";
import { chooseReport, drillReports, eachReport, tellAway } from "../drills.ts";
import { printable } from "../table.ts";

export interface DrillVerifyOptions {
  readonly all?: true | undefined;
}

/**
 * `spoolsafe drill verify`: signatures, chains, and whether what was drawn is what was signed; needs no identity. Of a file
 * (report.json or the page) only its own signature can be checked. Exit 13 with findings, 3 when the repository can't be read.
 */
export async function run(context: Context, what: string | undefined, { all }: DrillVerifyOptions): Promise<number> {
  if (what !== undefined && all === true) {
    throw new OperatorError("usage", "--all and the name of a drill exclude each other");
  }
  if (what?.includes("/") || what?.includes(".")) return await verifyFile(context, resolve(context.cwd, what));
  return await verifyKnown(context, what);
}

async function verifyKnown(context: Context, what: string | undefined): Promise<number> {
  const { render, stateDirectory } = context;
  const found = await drillReports(context);
  const only = what === undefined ? null : chooseReport(what, eachReport(context, found)).signed.drill.id;
  const { stored, kept, repository } = found;
  const { checked, damaged, pending, notCompared, seen } = verifyReports({ stored, kept, only });
  if (repository !== null && seen !== null) saveSeen(stateDirectory, repository.id, seen, "drills");
  tellAway(context, found);
  if (pending.length > 0) {
    render.warn(`the repository does not have the report of ${pending.join(", ")} yet: the next drill hands it in`);
  }
  if (notCompared.length > 0) {
    render.note(
      `drawn by another version of spoolsafe, and so not compared with their records: ${notCompared.map(printable).join(", ")}`,
    );
  }
  tell(context, { checked, damaged, pending, notCompared, repository: repository?.store.url ?? null });
  if (damaged.length > 0) return 13;
  return found.away === null ? 0 : 3;
}

async function verifyFile(context: Context, path: string): Promise<number> {
  const bytes = read(path);
  const isPage = !bytes.subarray(0, 1).equals(Buffer.from("{"));
  const record = isPage ? embeddedIn(bytes.toString("utf8")) : bytes;
  if (record === undefined) throw noReport(path);
  const { signed, verdict } = readReport(record, null, await context.trustedKeys());
  const { id } = signed.drill;
  const problems = [
    ...(verdict === "trusted" ? [] : [verdictProblem(verdict, signed.key)]),
    ...(isPage ? pageProblems(context, lookAtDrawn(signed, bytes.toString("utf8"), renderHtml)) : []),
  ];
  const damaged = problems.map((problem) => ({ drill: id, object: path, problem }));
  tell(context, { checked: 1, damaged, pending: [], notCompared: [], repository: null });
  return damaged.length === 0 ? 0 : 13;
}

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw new OperatorError("failed", `${path} can't be read: ${errnoOf(cause) ?? String(cause)}`, { cause });
  }
}

function verdictProblem(verdict: "stranger" | "forged", key: string): string {
  return verdict === "forged"
    ? "its signature is not that of the key it names: it was changed"
    : `signed by ${key.slice(0, 16)}, a key this host does not trust`;
}

function pageProblems({ render }: Context, look: ReturnType<typeof lookAtDrawn>): string[] {
  if (!look.compared) {
    render.warn(
      "the page was drawn by another version of spoolsafe: only the record in it was checked, not what it shows",
    );
  }
  return look.problem === undefined ? [] : [look.problem];
}

interface Verdict {
  readonly checked: number;
  readonly damaged: readonly DrillDamage[];
  readonly pending: readonly string[];
  readonly notCompared: readonly string[];
  /** URL; null when no repository was looked at. */
  readonly repository: string | null;
}

function tell({ render }: Context, verdict: Verdict): void {
  const { checked, damaged, repository } = verdict;
  for (const { drill, object, problem } of damaged) {
    const where = [drill === null ? "" : `drill ${drill}`, object ?? ""].filter((part) => part !== "").join(", ");
    render.warn(printable(where === "" || problem.startsWith(object ?? "/") ? problem : `${where}: ${problem}`));
  }
  render.summary(verdict);
  const found =
    damaged.length === 0 ? render.colour("green", "nothing wrong") : render.colour("red", `${damaged.length} findings`);
  const chain = repository === null ? "signatures only" : "signatures, chain";
  render.text(`${checked} ${checked === 1 ? "report" : "reports"} (${chain}): ${found}`);
  if (damaged.length > 0)
    render.note("another copy of the repository may have what is right; `spoolsafe drill list` shows what is there");
}

function noReport(path: string): OperatorError {
  return new OperatorError("damaged", `there is no signed record in ${path}`, {
    hints: ["it takes report.json, or the page report.html with the record in it"],
  });
}
