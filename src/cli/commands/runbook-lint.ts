import { OperatorError } from "../../errors.ts";
import { type FoundRunbook, idOf, listRunbooks } from "../../runbook/catalogue.ts";
import { type Finding, findingText } from "../../runbook/finding.ts";
import { lintRunbook } from "../../runbook/lint.ts";
import type { Context } from "../context.ts";
import { chooseRunbook, runbookPlaces } from "../runbooks.ts";

/**
 * `spoolsafe runbook lint`: of the runbooks named, or of all there are.
 *
 * @returns 0 when nothing was found, else 1
 * @throws OperatorError `config` or `usage` when one can't be read or isn't there
 */
export async function run(context: Context, calls: readonly string[]): Promise<number> {
  const { render } = context;
  const all = listRunbooks(runbookPlaces(context));
  const meant = calls.length === 0 ? all : calls.map((call) => chooseRunbook(context, call));
  if (meant.length === 0) throw new OperatorError("config", "there are no runbooks");
  const results = meant.map((found) => ({ found, findings: lintFound(found, all) }));

  for (const { found, findings } of results) {
    for (const { line, rule, message } of findings) {
      render.line({ type: "finding", runbook: found.name, path: found.path, line, rule, message });
    }
  }
  const count = results.reduce((sum, { findings }) => sum + findings.length, 0);
  render.summary({ runbooks: meant.length, findings: count });
  render.text(() => results.flatMap(({ found, findings }) => texts(found, findings)).join("\n"));
  const counted = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
  render.note(`${counted(meant.length, "runbook")} read, ${counted(count, "finding")}`);
  return count === 0 ? 0 : 1;
}

function texts({ path }: FoundRunbook, findings: readonly Finding[]): string[] {
  return findings.map((finding) => findingText(path, finding));
}

/** What lint says of one of them, with the rest around it. */
export function lintFound(found: FoundRunbook, all: readonly FoundRunbook[]): Finding[] {
  const others = all.filter(({ path }) => path !== found.path);
  const ids = new Set([...others, found].flatMap((each) => idOf(each) ?? []));
  const names = new Set([...others, found].map(({ name }) => name));
  const twin = others.find(
    (each) => each.name !== found.replaces && each.name !== found.name && idOf(each) === idOf(found),
  );
  const findings = lintRunbook(found.reading, { path: found.path, ids, names });
  if (twin === undefined || idOf(found) === undefined) return findings;
  const line = found.reading.sheet.front?.line ?? 1;
  return [{ line, rule: "id", message: `${twin.name} has the id ${idOf(found)} already` }, ...findings];
}
