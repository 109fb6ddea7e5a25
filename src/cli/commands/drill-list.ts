import { duration } from "../../drill/words.ts";
import type { Context } from "../context.ts";
import { drillReports, eachReport, type FoundReport, tellAway } from "../drills.ts";
import { localTime, table } from "../table.ts";

/**
 * `spoolsafe drill list`: every report there is, oldest first; needs no identity. Exit 13 when one can't be read, 3 when the
 * repository can't, and these are only the reports this host keeps.
 */
export async function run(context: Context): Promise<number> {
  const { render } = context;
  const found = await drillReports(context);
  const reports = eachReport(context, found);
  const damaged = [...(found.stored?.damaged ?? []), ...found.kept.damaged];
  for (const { signed, verdict, isStored } of reports) {
    const { id, host, number, writer, started, snapshot, scenario, ok, rpoSeconds, rtoSeconds, messages } =
      signed.drill;
    render.line({
      ...{ type: "drill", id, host, number, writer, started, snapshot: snapshot?.id ?? null },
      ...{ scenario: scenario?.name ?? null, ok, rpoSeconds, rtoSeconds, messages },
      ...{ signed: verdict === "trusted", stored: found.stored === null ? null : isStored },
    });
  }
  for (const { where: object, problem: message } of damaged) {
    render.line({ type: "damaged", object, message });
    render.warn(message);
  }
  tellAway(context, found);
  render.summary({ count: reports.length, damaged: damaged.length, repository: found.repository?.store.url ?? null });
  render.text(() => (reports.length === 0 ? "no drills" : reportTable(reports)));
  if (damaged.length > 0) return 13;
  return found.away === null ? 0 : 3;
}

function reportTable(reports: readonly FoundReport[]): string {
  const head = ["ID", "STARTED", "HOST", "SNAPSHOT", "RPO", "RTO", "IDENTICAL", "RESULT", "SIGNED", "SCENARIO"];
  const rows = reports.map(({ signed, verdict }) => {
    const { id, started, host, snapshot, rpoSeconds, rtoSeconds, messages, ok, scenario } = signed.drill;
    return [
      ...[id, localTime(new Date(started)), host, snapshot?.id.slice(0, 8) ?? "-"],
      ...[duration(rpoSeconds), duration(rtoSeconds), `${messages.identical}/${messages.manifest}`],
      ...[ok ? "passed" : "FAILED", verdict === "trusted" ? "yes" : "NO", scenario?.name ?? "-"],
    ];
  });
  return table(head, rows);
}
