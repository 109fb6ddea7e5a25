import { loadManifest } from "../../repository/manifest-reader.ts";
import type { MessageEntry } from "../../snapshot/manifest.ts";
import { chooseSnapshot, ofInstance, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { inListingOrder, messageCells, messageHead, messageJson, recipientsText } from "../message-view.ts";
import { table } from "../table.ts";

/** `spoolsafe ls SNAP`: the messages of a snapshot; needs an identity. */
export async function run(context: Context, spec: string): Promise<number> {
  const { render, signal } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const chosen = await chooseSnapshot(context, repository, spec);
  requireInstance(context, chosen);
  const manifest = await loadManifest(repository, chosen.snapshot, identities, signal);
  const entries = inListingOrder(manifest.messages.filter(({ instance }) => ofInstance(context, instance)));

  for (const entry of entries) render.line(messageJson(entry));
  render.summary({ snapshot: chosen.id, count: entries.length });
  render.text(() => (entries.length === 0 ? "no messages" : messageTable(entries)));
  render.note(`${entries.length} messages in ${chosen.id.slice(0, 8)} of ${chosen.snapshot.host}`);
  return 0;
}

function messageTable(entries: readonly MessageEntry[]): string {
  const several = new Set(entries.map(({ instance }) => instance)).size > 1;
  const head = [...(several ? ["INSTANCE"] : []), ...messageHead, "RECIPIENTS"];
  const rows = entries.map((entry) => [
    ...(several ? [entry.instance] : []),
    ...messageCells(entry),
    recipientsText(entry),
  ]);
  return table(head, rows);
}
