import { OperatorError } from "../../errors.ts";
import { loadManifest, ManifestReader } from "../../repository/manifest-reader.ts";
import type { SignedSnapshot } from "../../repository/repository.ts";
import { type Condition, meantRecipient, meets, ofRecipients, parseCriteria } from "../../snapshot/criteria.ts";
import type { MessageEntry } from "../../snapshot/manifest.ts";
import { ofHost } from "../../snapshot/select.ts";
import { type Sighting, Sightings } from "../../snapshot/sightings.ts";
import { chooseSnapshot, ofInstance, readableSnapshots, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { inListingOrder, messageCells, messageHead, messageJson, recipientsText } from "../message-view.ts";
import { localTime, table } from "../table.ts";

export interface FindOptions {
  readonly all?: true | undefined;
}

/** `spoolsafe find SNAP|--all KEY=VALUE...`: messages that meet every condition; needs an identity. */
export async function run(context: Context, words: readonly string[], { all }: FindOptions): Promise<number> {
  const { spec, conditions } = all === true ? { spec: null, conditions: parseCriteria(words, "") } : oneOf(words);
  if (conditions.length === 0) {
    throw new OperatorError("usage", "nothing is said to look for", {
      hints: ["add conditions such as sender=*@a.test, recipient=..., id=..., message-id=... or older-than=2d"],
    });
  }
  return spec === null ? await findInAll(context, conditions) : await findInOne(context, spec, conditions);
}

function oneOf(words: readonly string[]): { spec: string; conditions: readonly Condition[] } {
  const [spec, ...criteria] = words;
  if (spec === undefined || spec.includes("=")) {
    throw new OperatorError("usage", "no snapshot is named to look through", {
      hints: ["name one before the conditions, such as latest, or give --all"],
    });
  }
  return { spec, conditions: parseCriteria(criteria, "") };
}

async function findInOne(context: Context, spec: string, conditions: readonly Condition[]): Promise<number> {
  const { render, signal, clock } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const chosen = await chooseSnapshot(context, repository, spec);
  requireInstance(context, chosen);
  const { messages } = await loadManifest(repository, chosen.snapshot, identities, signal);
  const found = inListingOrder(messages.filter((entry) => isFound(context, entry, conditions, clock.now())));

  for (const entry of found) render.line(foundJson(entry));
  render.summary({ snapshot: chosen.id, count: found.length });
  render.text(() => (found.length === 0 ? "no such messages" : foundTable(found, conditions)));
  render.note(`${found.length} of ${messages.length} messages in ${chosen.id.slice(0, 8)} of ${chosen.snapshot.host}`);
  return 0;
}

function isFound(context: Context, entry: MessageEntry, conditions: readonly Condition[], now: number): boolean {
  return ofInstance(context, entry.instance) && meets(entry, conditions, now);
}

function foundJson(entry: MessageEntry) {
  const { messageId, finished } = entry;
  return { ...messageJson(entry), messageId, finished };
}

function foundTable(entries: readonly MessageEntry[], conditions: readonly Condition[]): string {
  const several = new Set(entries.map(({ instance }) => instance)).size > 1;
  const head = [...(several ? ["INSTANCE"] : []), ...messageHead, "RECIPIENTS"];
  const rows = entries.map((entry) => [
    ...(several ? [entry.instance] : []),
    ...messageCells(entry),
    meantText(entry, conditions),
  ]);
  return table(head, rows);
}

/** The recipients that were looked for, also one who has it already; without such a condition what is left. */
function meantText(entry: MessageEntry, conditions: readonly Condition[]): string {
  if (!conditions.some(ofRecipients)) return recipientsText(entry);
  const [first, ...more] = entry.recipients.filter((recipient) => meantRecipient(recipient, conditions));
  return `${first?.address ?? ""}${first?.done ? " (done)" : ""}${more.length > 0 ? ` +${more.length}` : ""}`;
}

/** Exit 12 or 13 when a snapshot could not be looked through; it is named, and the others are. */
async function findInAll(context: Context, conditions: readonly Condition[]): Promise<number> {
  const { render } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const { snapshots, damaged } = await readableSnapshots(context, repository);
  const wanted = [...asked(context, snapshots)].sort(asTheyFollow);
  const reader = new ManifestReader(repository, identities, context.signal);
  const { found, failures } = await lookThrough(context, reader, wanted, conditions);

  for (const { entry, ...where } of found) render.line({ ...foundJson(entry), ...where });
  const looked = wanted.length - failures.length;
  render.summary({ count: found.length, snapshots: looked, notRead: failures.length + damaged.length });
  render.text(() => (found.length === 0 ? "no such messages" : sightingTable(found, conditions)));
  render.note(`${found.length} messages in ${looked} snapshots`);
  return failures[0]?.exitCode ?? (damaged.length === 0 ? 0 : 13);
}

/** @throws OperatorError when the host or the instance that was asked for is in none of them: a slip must not look like no mail */
function asked({ globals }: Context, snapshots: readonly SignedSnapshot[]): readonly SignedSnapshot[] {
  const { host, instance } = globals;
  const ofThem = host === undefined ? snapshots : ofHost(snapshots, { host, ownHost: undefined });
  const names = new Set(ofThem.flatMap(({ snapshot }) => snapshot.instances.map(({ name }) => name)));
  if (instance === undefined || names.has(instance)) return ofThem;
  throw new OperatorError("usage", `no snapshot has an instance ${instance}`, {
    hints: [`their instances are: ${[...names].join(", ")}`],
  });
}

/** Each host's by writer and number: most of a manifest is then read already. */
function asTheyFollow(a: SignedSnapshot, b: SignedSnapshot): number {
  const writer = ({ snapshot }: SignedSnapshot) => snapshot.writer;
  return writer(a) === writer(b) ? a.snapshot.number - b.snapshot.number : writer(a) < writer(b) ? -1 : 1;
}

/** @throws OperatorError the first failure, when not one snapshot could be read */
async function lookThrough(
  context: Context,
  reader: ManifestReader,
  snapshots: readonly SignedSnapshot[],
  conditions: readonly Condition[],
): Promise<{ readonly found: readonly Sighting[]; readonly failures: readonly OperatorError[] }> {
  const sightings = new Sightings();
  const failures: OperatorError[] = [];
  const now = context.clock.now();
  for (const [index, { id, snapshot }] of snapshots.entries()) {
    context.render.progress({ doing: "looking through", unit: "snapshots", done: index, total: snapshots.length });
    try {
      const { messages } = await reader.read(snapshot);
      const meant = messages.filter((entry) => isFound(context, entry, conditions, now));
      sightings.add(snapshot.host, { id, time: snapshot.time }, meant);
    } catch (error) {
      if (!(error instanceof OperatorError && (error.kind === "damaged" || error.kind === "no-identity"))) throw error;
      failures.push(error);
      tellUnread(context, id, error);
    }
  }
  if (failures[0] !== undefined && failures.length === snapshots.length) throw failures[0];
  return { found: sightings.list(), failures };
}

function tellUnread({ render }: Context, snapshot: string, { kind, message, hints }: OperatorError): void {
  render.line({ type: "not-read", snapshot, kind, message, hints });
  render.warn(`${snapshot.slice(0, 8)} could not be looked through: ${message}`);
}

function sightingTable(found: readonly Sighting[], conditions: readonly Condition[]): string {
  const several = new Set(found.map(({ host }) => host)).size > 1;
  const head = [...(several ? ["HOST"] : []), "FIRST", "", "LAST", "", "IN", ...messageHead, "RECIPIENTS"];
  const name = ({ id, time }: Sighting["first"]) => [id.slice(0, 8), localTime(new Date(time))];
  const rows = found.map(({ host, first, last, snapshots, entry }) => [
    ...(several ? [host] : []),
    ...name(first),
    ...name(last),
    snapshots,
    ...messageCells(entry),
    meantText(entry, conditions),
  ]);
  return table(head, rows);
}
