import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import { entryKey, type MessageEntry } from "../snapshot/manifest.ts";
import { forecast } from "./forecast.ts";
import { choiceText, type PlannedMessage, type RestorePlan, type SkippedMessage } from "./plan.ts";
import type { Prepared } from "./prepare.ts";
import { type ComparableTarget, comparableTarget } from "./target.ts";

/** A plan as it is written down for a second person: messages by their keys, addresses and ids in clear. */
export interface StoredPlan {
  readonly type: "spoolsafe-restore-plan";
  readonly format: 1;
  readonly spoolsafe: string;
  /** RFC 3339, UTC: the moment by which ages were told. */
  readonly time: string;
  readonly snapshot: string;
  /** Of the snapshot. */
  readonly instance: string;
  readonly configDirectory: string;
  /** Key of the plan for the configuration; null when it is left alone. */
  readonly configuration: string | null;
  /** Null when only the configuration is restored. */
  readonly mail: StoredMail | null;
}

export interface StoredMail
  extends Pick<
    RestorePlan,
    "source" | "choice" | "delivered" | "deleted" | "remark" | "placed" | "forecasts" | "log" | "needs"
  > {
  readonly target: ComparableTarget;
  readonly place: readonly (Omit<PlannedMessage, "message"> & { readonly key: string })[];
  readonly skip: readonly (Omit<SkippedMessage, "message"> & { readonly key: string })[];
}

/** The part of a plan that is about mail. */
export function storedMail(plan: RestorePlan): StoredMail {
  const { source, choice, target, place, skip, delivered, deleted, remark, placed, forecasts, log, needs } = plan;
  return {
    ...{ source, choice, target: comparableTarget(target) },
    place: place.map(({ message, ...rest }) => ({ key: entryKey(message), ...rest })),
    skip: skip.map(({ message, ...rest }) => ({ key: entryKey(message), ...rest })),
    ...{ delivered, deleted, remark, placed, forecasts, log, needs },
  };
}

/** A plan's text, and the digest by which two people make sure that they mean the same one. */
export function formatPlan(plan: Omit<StoredPlan, "type" | "format">): { text: string; digest: string } {
  const body = JSON.stringify({ type: "spoolsafe-restore-plan", format: 1, ...plan }, null, 1);
  const digest = digestOfBody(body);
  return { text: `${JSON.stringify({ digest })}\n${body}\n`, digest };
}

function digestOfBody(body: string): string {
  return createHash("sha256").update(body).digest("hex");
}

/** What has to be right before the rest is looked at: the digest says that it is what we wrote. */
const shape = z.looseObject({ type: z.literal("spoolsafe-restore-plan"), format: z.literal(1) });

/**
 * @param where the file's name, for errors
 * @throws OperatorError `usage` when it is no plan, or has been changed since it was written
 */
export function parsePlan(text: string, where: string): { plan: StoredPlan; digest: string } {
  const [first = "", ...rest] = text.split("\n");
  const body = rest.join("\n").trimEnd();
  const said = /^\{"digest":"([0-9a-f]{64})"\}$/.exec(first)?.[1];
  if (said === undefined) throw notAPlan(where, "it is no plan of a restore");
  if (said !== digestOfBody(body)) throw notAPlan(where, "it was changed after it was written");
  const value: unknown = JSON.parse(body);
  if (!shape.safeParse(value).success) throw notAPlan(where, "it is a plan of another version");
  return { plan: value as StoredPlan, digest: said };
}

function notAPlan(where: string, what: string): OperatorError {
  return new OperatorError("usage", `${where}: ${what}`, {
    hints: ["write one: spoolsafe restore SNAP --into CONFIG_DIR --plan FILE"],
  });
}

/**
 * The plan to carry out: the stored one, if what it was made from is still so.
 *
 * @param now milliseconds since 1970, for what is to be expected
 * @param reconfigured whether the target's configuration was restored since, and its facts compared before that
 * @throws OperatorError `refused` that lists what has changed in the target since
 */
export function approved(
  stored: StoredMail,
  { manifest, plan }: Pick<Prepared, "manifest" | "plan">,
  { now, reconfigured }: { readonly now: number; readonly reconfigured: boolean },
): RestorePlan {
  const facts = reconfigured ? [] : targetChanges(stored, plan);
  const changes = [...sourceChanges(stored, plan), ...facts, ...mailChanges(stored, plan)];
  if (changes.length > 0) throw changed(changes, plan);
  const entries = new Map(manifest.messages.map((message) => [entryKey(message), message]));
  const place = stored.place.map(({ key, ...rest }) => ({ message: known(entries, key), ...rest }));
  const skip = stored.skip.map(({ key, ...rest }) => ({ message: known(entries, key), ...rest }));
  const { delivered, deleted, remark, log, needs } = stored;
  const forecasts = forecast(place, plan.source, { ...plan.target, now: Math.floor(now / 1000) });
  return { ...plan, place, skip, delivered, deleted, remark, forecasts, log, needs };
}

function sourceChanges(stored: StoredMail, { source, choice }: RestorePlan): string[] {
  return [
    ...(stored.source.snapshot === source.snapshot ? [] : [`the plan is of snapshot ${stored.source.snapshot}`]),
    ...(choiceText(stored.choice) === choiceText(choice) ? [] : ["the plan makes another choice"]),
  ];
}

function targetChanges(stored: StoredMail, { target }: RestorePlan): string[] {
  const now = comparableTarget(target);
  const changed = (name: keyof ComparableTarget) => !isDeepStrictEqual(now[name], stored.target[name]);
  const names = (Object.keys(words) as (keyof ComparableTarget)[]).filter(changed);
  return [...new Set(names.map((name) => words[name](stored.target[name], now[name])))];
}

/** How a change of each fact is told. */
const words: Readonly<Record<keyof ComparableTarget, (was: unknown, is: unknown) => string>> = {
  instance: (was, is) => `the instance's name was ${was} and is ${is}`,
  configDirectory: (was, is) => `the configuration directory was ${was} and is ${is}`,
  queueDirectory: (was, is) => `queue_directory was ${was} and is ${is}`,
  device: otherDirectory,
  inode: otherDirectory,
  born: otherDirectory,
  postfixVersion: (was, is) => `Postfix was version ${was} and is ${is}`,
  longIds: (was, is) => `enable_long_queue_ids was ${yes(was)} and is ${yes(is)}`,
  ownerUid: (was, is) => `the uid of mail_owner was ${was} and is ${is}`,
  ownerGid: (was, is) => `the gid of mail_owner was ${was} and is ${is}`,
  setgidGid: (was, is) => `the gid of setgid_group was ${was} and is ${is}`,
  users: (was, is) => `owners of mail in maildrop had the uids ${JSON.stringify(was)} and have ${JSON.stringify(is)}`,
  maximalBackoffS: (was, is) => `maximal_backoff_time was ${was} s and is ${is} s`,
  maximalQueueLifetimeS: (was, is) => `maximal_queue_lifetime was ${was} s and is ${is} s`,
  bounceQueueLifetimeS: (was, is) => `bounce_queue_lifetime was ${was} s and is ${is} s`,
  delayWarningTimeS: (was, is) => `delay_warning_time was ${was} s and is ${is} s`,
  postmasterHears: (was, is) => `2bounce in notify_classes was ${yes(was)} and is ${yes(is)}`,
  mapTypes: (was, is) => `map types (postconf -m): ${listChange(was, is)}`,
  lackingMapTypes: (was, is) => `map types that the configuration names and Postfix lacks: ${listChange(was, is)}`,
  transports: (was, is) => `transports in master.cf: ${listChange(was, is)}`,
  blockSize: (was, is) => `the block size of its file system was ${was} and is ${is}`,
  reserveBytes: (was, is) =>
    `the room that queue_minfree and message_size_limit ask for was ${was} bytes and is ${is} bytes`,
};

function otherDirectory(): string {
  return "the queue directory is another one: it was made anew, or another file system is mounted there";
}

function yes(value: unknown): string {
  return value === true ? "yes" : "no";
}

function listChange(was: unknown, is: unknown): string {
  const [before, after] = [was, is].map((list) => (Array.isArray(list) ? list.map((one) => textOf(one)) : []));
  const gone = before?.filter((one) => after?.includes(one) !== true) ?? [];
  const come = after?.filter((one) => before?.includes(one) !== true) ?? [];
  const parts = [
    ...(gone.length === 0 ? [] : [`no longer ${gone.join(", ")}`]),
    ...(come.length === 0 ? [] : [`now also ${come.join(", ")}`]),
  ];
  return parts.length === 0 ? "their order is another" : parts.join(", ");
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What has become of each message that the plan speaks of, in the target's queues and by the journals of runs. */
function mailChanges(stored: StoredMail, plan: RestorePlan): string[] {
  const changes = new Map([...runChanges(stored, plan), ...queueChanges(stored, plan)]);
  return [...changes.values()];
}

/** Mail that has come into the target's queues since, or gone from them. */
function queueChanges(stored: StoredMail, { skip }: RestorePlan): [string, string][] {
  const now = new Map(skip.map(({ message, kind, reason }) => [entryKey(message), { kind, reason }]));
  const standing = new Set(["queued", "impossible"]);
  const appeared = stored.place.flatMap(({ key }): [string, string][] => {
    const fact = now.get(key);
    if (fact === undefined || !standing.has(fact.kind)) return [];
    return [[key, `${idOf(key)} was to be placed, and ${fact.reason}`]];
  });
  const gone = stored.skip.flatMap(({ key, kind, reason }): [string, string][] => {
    if (!standing.has(kind) || now.get(key)?.kind === kind) return [];
    return [[key, `${idOf(key)} was left out because ${reason}; that is no longer so`]];
  });
  return [...appeared, ...gone];
}

/** What runs have placed since, or taken back, for any recipient: the plan counted on what they had placed before. */
function runChanges(stored: StoredMail, plan: RestorePlan): [string, string][] {
  const then = new Map(stored.placed.map((fact) => [fact.key, fact]));
  const now = new Map(plan.placed.map((fact) => [fact.key, fact]));
  return [...new Set([...then.keys(), ...now.keys()])].flatMap((key): [string, string][] => {
    const [before, after] = [then.get(key), now.get(key)];
    if (isDeepStrictEqual(before, after)) return [];
    const added = after?.runs.filter((run) => before?.runs.includes(run) !== true) ?? [];
    if (added.length > 0) return [[key, `run ${added.join(" and ")} has placed ${idOf(key)} since`]];
    return [[key, `what run ${before?.runs.join(" and ")} had placed of ${idOf(key)} was taken back since`]];
  });
}

function idOf(key: string): string {
  return key.split("/")[1] ?? key;
}

/** Changes named one by one. */
const shown = 10;

function changed(changes: readonly string[], { source, target }: RestorePlan): OperatorError {
  const more = changes.length > shown ? [`and ${changes.length - shown} more`] : [];
  const list = [...changes.slice(0, shown), ...more].join("\n");
  const again = `spoolsafe restore ${source.snapshot.slice(0, 12)} --into ${target.configDirectory} ... --plan FILE`;
  return new OperatorError("refused", `the target is not as the plan found it, and nothing was done:\n${list}`, {
    hints: [`make a new plan, with the options of the first, and have it signed off: ${again}`],
  });
}

function known(entries: ReadonlyMap<string, MessageEntry>, key: string): MessageEntry {
  const entry = entries.get(key);
  if (entry !== undefined) return entry;
  throw new OperatorError("refused", `the plan names ${idOf(key)}, which the snapshot does not have`);
}
