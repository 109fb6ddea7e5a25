import type { QueueName } from "../../postfix/queue.ts";
import { loadManifest } from "../../repository/manifest-reader.ts";
import { type AgeShape, ageShape, qshapeDefaults, type ShapeRow } from "../../snapshot/age-shape.ts";
import { chooseSnapshot, ofInstance, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { displayWidth, printable } from "../table.ts";

export interface QshapeOptions {
  readonly senders?: true | undefined;
  readonly buckets?: number | undefined;
  readonly bucketTime?: number | undefined;
  readonly linear?: true | undefined;
}

/**
 * `spoolsafe qshape SNAP [QUEUE...]`: domains by age when the snapshot was taken, as qshape(1) prints them; needs an
 * identity. Without a queue: incoming and active, as qshape.
 */
export async function run(
  context: Context,
  spec: string,
  asked: readonly QueueName[],
  options: QshapeOptions,
): Promise<number> {
  const { render, signal } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const chosen = await chooseSnapshot(context, repository, spec);
  requireInstance(context, chosen);
  const { messages } = await loadManifest(repository, chosen.snapshot, identities, signal);
  const queues = asked.length === 0 ? (["incoming", "active"] as const) : [...new Set(asked)];
  const counted = messages.filter(
    ({ instance, queue, finished }) =>
      !finished && ofInstance(context, instance) && queues.some((each) => each === queue),
  );
  const shape = ageShape(counted, Math.floor(Date.parse(chosen.snapshot.time) / 1000), {
    senders: options.senders ?? qshapeDefaults.senders,
    buckets: options.buckets ?? qshapeDefaults.buckets,
    minutes: options.bucketTime ?? qshapeDefaults.minutes,
    linear: options.linear ?? qshapeDefaults.linear,
  });

  for (const row of shape.domains) render.line({ type: "domain", ...row });
  const { limits, total } = shape;
  render.summary({ snapshot: chosen.id, queues, messages: counted.length, limits, ...total });
  render.text(() => shapeText(shape));
  render.note(
    `${queues.join(" and ")} of ${chosen.id.slice(0, 8)} of ${chosen.snapshot.host}, ${chosen.snapshot.time}`,
  );
  return 0;
}

const lineWidth = 80;
const narrowestDomain = 18;

/** Lines of 80 columns, domains and numbers at the right, as qshape(1) lays them out. */
function shapeText({ limits, total, domains }: AgeShape): string {
  const head = ["T", ...limits.map(String), `${limits.at(-1) ?? 0}+`];
  const counts = [total.total, ...total.buckets];
  const widths = head.map((title, index) => columnWidth(title, counts[index] ?? 0));
  const domainWidth = Math.max(
    narrowestDomain,
    widths.reduce((left, width) => left - width, lineWidth),
  );
  const line = (domain: string, cells: readonly (string | number)[]) =>
    fitted(domain, domainWidth) + cells.map((cell, index) => String(cell).padStart(widths[index] ?? 0)).join("");
  const row = ({ domain, total: all, buckets }: ShapeRow) => line(printable(domain), [all, ...buckets]);
  return [line("", head), ...[{ domain: "TOTAL", ...total }, ...domains].map(row)].join("\n");
}

/** A blank before the longest of the column, two columns at least for the number. */
function columnWidth(title: string, count: number): number {
  const longest = Math.max(title.length, String(count).length);
  return longest > 2 ? longest + 1 : 3;
}

/** At the right; of a name that is too long its end behind a plus sign. */
function fitted(domain: string, width: number): string {
  const surplus = displayWidth(domain) - width;
  return surplus > 0 ? `+${[...domain].slice(surplus + 1).join("")}` : " ".repeat(-surplus) + domain;
}
