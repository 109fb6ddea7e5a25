import type { SignedSnapshot } from "../../repository/repository.ts";
import { type Statistics, statisticsOf, totalOf } from "../../snapshot/statistics.ts";
import { readableSnapshots } from "../choose.ts";
import type { Context } from "../context.ts";
import { localTime, size, table } from "../table.ts";

/** `spoolsafe stats`: what the repository holds, per host and in total; needs no identity. Exit 13 as `snapshots`. */
export async function run(context: Context): Promise<number> {
  const { render, globals, signal } = context;
  const repository = await context.openRepository();
  const { snapshots, damaged } = await readableSnapshots(context, repository);
  const wanted = snapshots
    .map(({ snapshot }) => snapshot)
    .filter(({ host }) => globals.host === undefined || host === globals.host);
  const hosts = [...Map.groupBy(wanted, ({ host }) => host)]
    .map(([host, own]) => ({ host, ...statisticsOf(own) }))
    .sort((a, b) => (a.host < b.host ? -1 : 1));
  const total = totalOf(wanted);
  const unused = unreferenced(snapshots, await repository.packs(signal));

  for (const each of hosts) render.line({ type: "host", ...each });
  render.summary({ hosts: hosts.length, ...total, unreferenced: unused });
  render.text(() => (hosts.length === 0 ? "no snapshots" : statisticsTable(hosts, total)));
  if (unused.packs > 0) {
    render.note(
      `${unused.packs} packs more, ${size(unused.bytes)}, belong to no snapshot that can be read: of a run at work, or cut short`,
    );
  }
  return damaged.length === 0 ? 0 : 13;
}

/** Packs that lie in the repository and that no snapshot of any host refers to. */
function unreferenced(snapshots: readonly SignedSnapshot[], packs: ReadonlyMap<string, number>) {
  const used = new Set(snapshots.flatMap(({ snapshot }) => snapshot.packs.map(({ id }) => id)));
  const left = [...packs].filter(([id]) => !used.has(id)).map(([, bytes]) => bytes);
  return { packs: left.length, bytes: left.reduce((sum, bytes) => sum + bytes, 0) };
}

function statisticsTable(hosts: readonly (Statistics & { readonly host: string })[], total: Statistics): string {
  const head = ["HOST", "SNAPSHOTS", "OLDEST", "NEWEST", "MESSAGES", "SIZE", "STORED", "RATIO", "PACKS", "PER WEEK"];
  const rows = hosts.length === 1 ? hosts : [...hosts, { host: "total", ...total }];
  return table(
    head,
    rows.map((each) => [
      each.host,
      each.snapshots,
      moment(each.oldest),
      moment(each.newest),
      each.newestMessages,
      size(each.logicalBytes),
      size(each.storedBytes),
      each.dedupRatio === null ? "-" : each.dedupRatio.toFixed(1),
      each.packs,
      each.growthPerWeek === null ? "-" : size(each.growthPerWeek),
    ]),
  );
}

function moment(time: string | null): string {
  return time === null ? "-" : localTime(new Date(time));
}
