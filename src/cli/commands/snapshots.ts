import type { SignedSnapshot } from "../../repository/repository.ts";
import { readableSnapshots } from "../choose.ts";
import type { Context } from "../context.ts";
import { localTime, size, table } from "../table.ts";

/** `spoolsafe snapshots`: every record there is, oldest first; needs no identity. Exit 13 when one can't be read. */
export async function run(context: Context): Promise<number> {
  const { render, globals } = context;
  const trusted = await context.trustedKeys();
  const repository = await context.openRepository();
  const { snapshots, damaged } = await readableSnapshots(context, repository);
  const shown = snapshots
    .filter(({ snapshot }) => globals.host === undefined || snapshot.host === globals.host)
    .sort((a, b) => Date.parse(a.snapshot.time) - Date.parse(b.snapshot.time))
    .map((each) => ({ ...each, signed: trusted.check(each.key, each.line, each.signature) === "trusted" }));

  for (const { id, snapshot, signed } of shown) {
    const { host, time, mode, messages, bytes, tags } = snapshot;
    render.line({ type: "snapshot", id, host, time, mode, messages, bytes, tags, signed });
  }
  render.summary({ count: shown.length });
  render.text(() => (shown.length === 0 ? "no snapshots" : snapshotTable(shown)));
  const strangers = shown.filter(({ signed }) => !signed).length;
  if (strangers > 0) {
    render.note(
      `${strangers} of them not signed by a key this host trusts (${context.config.signing.trusted_keys_file}): see \`spoolsafe key show\``,
    );
  }
  return damaged.length === 0 ? 0 : 13;
}

function snapshotTable(snapshots: readonly (SignedSnapshot & { readonly signed: boolean })[]): string {
  const head = ["ID", "TIME", "HOST", "MODE", "MESSAGES", "DEFERRED", "HOLD", "SIZE", "SIGNED", "TAGS"];
  const rows = snapshots.map(({ id, snapshot, signed }) => [
    id.slice(0, 8),
    localTime(new Date(snapshot.time)),
    snapshot.host,
    snapshot.mode,
    snapshot.messages.total,
    snapshot.messages.deferred,
    snapshot.messages.hold,
    size(snapshot.bytes),
    signed ? "yes" : "NO",
    snapshot.tags.join(","),
  ]);
  return table(head, rows);
}
