import { type PageFacts, type PageProblem, pageProblems } from "./page-facts.ts";

/** What `/healthz` answers. */
export interface Health {
  /** 200 or 503, as the status of the response. */
  readonly status: number;
  /** A first line with the verdict, then a line for each problem. */
  readonly text: string;
}

/**
 * Whether this host is well, for those who ask for a yes or no: no when anything is critical, or nothing newer could be found
 * out. Warnings are told and change nothing: nobody is woken for them. Of other hosts' backups only a host that makes none
 * itself (a standby) is to tell, or one late backup would turn every host red.
 */
export function healthOf(facts: PageFacts): Health {
  const problems = pageProblems(facts).filter(({ elsewhere }) => !(elsewhere && facts.report.backupExpected));
  const well = !problems.some(({ severity }) => severity === "critical");
  const verdict = well ? (problems.length === 0 ? "ok" : "ok, with warnings") : "critical";
  return { status: well ? 200 : 503, text: [verdict, ...problems.map(line), ""].join("\n") };
}

function line({ severity, name, problem }: PageProblem): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return `${severity} ${name}: ${problem.replace(/[\x00-\x1f\x7f-\x9f]/g, " ")}`;
}
