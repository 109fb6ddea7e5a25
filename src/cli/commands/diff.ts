import { ManifestReader } from "../../repository/manifest-reader.ts";
import type { SignedSnapshot } from "../../repository/repository.ts";
import {
  type FileChange,
  type ManifestDifference,
  type MessageChange,
  manifestDifference,
} from "../../snapshot/difference.ts";
import type { Manifest, MessageEntry } from "../../snapshot/manifest.ts";
import { chooseSnapshot, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { inListingOrder, messageJson, recipientsText, rfc3339, senderText } from "../message-view.ts";
import { localTime, table } from "../table.ts";

/** `spoolsafe diff A B`: what is different in B; needs an identity. Of files only their names are told. */
export async function run(context: Context, a: string, b: string): Promise<number> {
  const { render, signal } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const before = await chooseSnapshot(context, repository, a);
  const after = await chooseSnapshot(context, repository, b);
  for (const each of [before, after]) requireInstance(context, each);
  const reader = new ManifestReader(repository, identities, signal);
  const then = ofAsked(context, await reader.read(before.snapshot));
  const now = ofAsked(context, await reader.read(after.snapshot));
  const difference = ordered(manifestDifference(then, now));

  tellJson(context, before, after, difference);
  render.text(() => differenceText(difference));
  render.note(`${nameOf(before)} → ${nameOf(after)}: ${countsText(difference)}`);
  return 0;
}

/** Of one instance its own files alone, without those of the host. */
function ofAsked({ globals: { instance } }: Context, manifest: Manifest): Manifest {
  if (instance === undefined) return manifest;
  return {
    messages: manifest.messages.filter((entry) => entry.instance === instance),
    files: manifest.files.filter((entry) => entry.instance === instance),
  };
}

function ordered(difference: ManifestDifference): ManifestDifference {
  const changes = new Map(difference.changed.map((change) => [change.after, change]));
  return {
    ...difference,
    added: inListingOrder(difference.added),
    gone: inListingOrder(difference.gone),
    changed: inListingOrder([...changes.keys()]).flatMap((entry) => changes.get(entry) ?? []),
  };
}

function tellJson(
  { render }: Context,
  before: SignedSnapshot,
  after: SignedSnapshot,
  { added, gone, changed, same, files }: ManifestDifference,
): void {
  for (const entry of gone) render.line({ ...messageJson(entry), type: "gone" });
  for (const entry of added) render.line({ ...messageJson(entry), type: "added" });
  for (const change of changed) render.line(changeJson(change));
  for (const { change, entry, what } of files) {
    const { instance, area, path } = entry;
    render.line({ type: "file", change, instance, area, path, what });
  }
  render.summary({
    from: before.id,
    to: after.id,
    ...{ added: added.length, gone: gone.length, changed: changed.length, same, files: files.length },
  });
}

function changeJson({ after, queueId, instance, queue, retry, done, open, finished }: MessageChange) {
  const time = (seconds: number | null) => (seconds === null ? null : rfc3339(seconds));
  return {
    type: "changed",
    instance: after.instance,
    queueId: after.queueId,
    changes: {
      ...(queueId === null ? {} : { queueId }),
      ...(instance === null ? {} : { instance }),
      ...(queue === null ? {} : { queue }),
      ...(retry === null ? {} : { retryTime: { from: time(retry.from), to: time(retry.to) } }),
      ...(finished === null ? {} : { finished }),
      ...(done.length === 0 ? {} : { done }),
      ...(open.length === 0 ? {} : { open }),
    },
  };
}

function differenceText({ added, gone, changed, files }: ManifestDifference): string {
  const row = (sign: string, { queueId, queue, sender }: MessageEntry, what: string) => [
    ...[sign, queueId, queue, senderText(sender), what],
  ];
  const messages = [
    ...gone.map((entry) => row("-", entry, recipientsText(entry))),
    ...added.map((entry) => row("+", entry, recipientsText(entry))),
    ...changed.map((change) => row("M", change.after, changeText(change))),
  ];
  const signs = { added: "+", gone: "-", changed: "M" } as const;
  const rows = files.map(({ change, entry: { instance, area, path }, what }: FileChange) => [
    ...[signs[change], instance ?? "", area, path, what.join(", ")],
  ]);
  return [
    ...(messages.length === 0 ? [] : [table(["", "QUEUE ID", "QUEUE", "SENDER", "RECIPIENTS, CHANGES"], messages)]),
    ...(rows.length === 0 ? [] : [table(["", "INSTANCE", "AREA", "PATH", "CHANGED"], rows)]),
    ...(messages.length + rows.length === 0 ? ["no difference"] : []),
  ].join("\n\n");
}

function changeText({ queueId, instance, queue, retry, done, open, finished }: MessageChange): string {
  const time = (seconds: number) => localTime(new Date(seconds * 1000));
  return [
    ...(queueId === null ? [] : [`was ${queueId.from}`]),
    ...(instance === null ? [] : [`from instance ${instance.from}`]),
    ...(queue === null ? [] : [`from ${queue.from}`]),
    ...(retry === null || retry.to === null ? [] : [`retry at ${time(retry.to)}`]),
    ...(finished === null ? [] : [finished.to ? "left while the backup ran" : "back in the queues"]),
    ...(done.length === 0 ? [] : [`done: ${some(done)}`]),
    ...(open.length === 0 ? [] : [`open again: ${some(open)}`]),
  ].join(", ");
}

function some([first = "", ...more]: readonly string[]): string {
  return more.length === 0 ? first : `${first} +${more.length}`;
}

function countsText({ added, gone, changed, same, files }: ManifestDifference): string {
  return `${added.length} added, ${gone.length} gone, ${changed.length} changed, ${same} the same; ${files.length} files`;
}

function nameOf({ id, snapshot }: SignedSnapshot): string {
  return `${id.slice(0, 8)} of ${snapshot.host}`;
}
