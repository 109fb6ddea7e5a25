import type { QueueName } from "../postfix/queue.ts";
import { roomFor } from "../postfix/room.ts";
import { entryKey, type HoldRole, type Manifest, type MessageEntry } from "../snapshot/manifest.ts";
import type { Deliveries } from "./deliveries.ts";
import { type Forecast, forecast } from "./forecast.ts";
import type { PlacedBefore, PlacedRecord } from "./placed-record.ts";
import { type Selection, select } from "./selection.ts";
import type { TargetFacts } from "./target.ts";
import type { Twin } from "./twins.ts";
import type { RecipientVerdict } from "./verdict.ts";

/**
 * Where mail lands. `original`: `deferred` with its retry time, on hold what was on hold, maildrop in maildrop. `hold`:
 * everything on hold until an operator releases it; mail of maildrop, which can't be put on hold, waits under a name no
 * daemon sees.
 */
export type Land = "original" | "hold";

/**
 * How mail gets into the target. `fresh`: into a stopped instance whose queue is empty. `merge`: beside the mail of an
 * instance that may be running. `requeue`: through maildrop, as new mail with a new age.
 */
export type Route = "fresh" | "merge" | "requeue";

export interface RestoreChoice {
  /** The instance of the snapshot whose mail is restored. */
  readonly instance: string;
  readonly route: Route;
  readonly land: Land;
  readonly selection: Selection;
  /** Also what an administrator deleted after the snapshot, by the logs. */
  readonly restoreDeleted: boolean;
  /** Also what earlier runs placed in this queue. */
  readonly again: boolean;
}

/** All that decides a restore beside snapshot and target, as one text. */
export function choiceText({ instance, route, land, selection, restoreDeleted, again }: RestoreChoice): string {
  const { conditions, shard } = selection;
  const only = conditions.map(({ key, value }) => [key, value]);
  return JSON.stringify({ instance, route, land, only, shard: shard && [shard.k, shard.n], restoreDeleted, again });
}

/** The options of the command line that make a choice. */
export function choiceOptions({ route, land, selection, restoreDeleted, again }: RestoreChoice): string[] {
  const { conditions, shard } = selection;
  return [
    ...(route === "fresh" ? [] : [`--${route}`]),
    ...(route === "requeue" ? [] : ["--land", land]),
    ...conditions.flatMap(({ key, value }) => ["--only", `${key}=${value}`]),
    ...(shard === null ? [] : ["--shard", `${shard.k}/${shard.n}`]),
    ...(restoreDeleted ? ["--restore-deleted"] : []),
    ...(again ? ["--again"] : []),
  ];
}

/** The snapshot a plan was made from, by what its record says. */
export interface PlanSource {
  readonly snapshot: string;
  readonly host: string;
  readonly time: string;
  readonly postfixVersion: string;
}

/** What is known of the mail beside the snapshot. */
export interface Knowledge {
  /** What surviving logs prove; null without logs. */
  readonly deliveries: Deliveries | null;
  /** What of the snapshot is queued in the target, by `entryKey`. */
  readonly twins: ReadonlyMap<string, Twin>;
  /** What earlier runs placed in this queue. */
  readonly placed: PlacedRecord;
}

/** One message as it will lie in the target: everything but its name, which its inode decides when it is written. */
export interface PlannedMessage {
  readonly message: MessageEntry;
  readonly queue: Extract<QueueName, "deferred" | "hold" | "maildrop">;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970; for deferred mail the next retry. */
  readonly mtime: number;
  /** Why it is on hold; null for mail Postfix may deliver. */
  readonly role: "admin" | "restore" | "fence" | null;
  /** Why its recipients may have been served already; null when nothing gives cause for doubt. */
  readonly inDoubt: string | null;
  /** Indexes of the recipients this placement answers for: they are not done in the placed copy. */
  readonly recipients: readonly number[];
  /** Indexes of recipients that are not done in the snapshot and are marked done in the placed copy. */
  readonly marks: readonly number[];
  /** Indexes of recipients known to be served: by the snapshot's marks, the logs, or an earlier run. */
  readonly served: readonly number[];
  /** Of two copies of one message only one has its logs: each would cause its own notice. */
  readonly logs: boolean;
  /** It keeps its temporary name until it is released. */
  readonly waits: boolean;
}

/**
 * Why a message of the snapshot is not placed. `unselected`: not asked for. `queued`: it is in a queue of the target.
 * `restored`: an earlier run placed it here. `served`: nobody is left to deliver it to. `refused`: this route is not for it.
 * `impossible`: the target can't have it.
 */
export type SkipKind = "unselected" | "queued" | "restored" | "served" | "refused" | "impossible";

export interface SkippedMessage {
  readonly message: MessageEntry;
  readonly kind: SkipKind;
  readonly reason: string;
  /** Of what was restored before: by which runs. */
  readonly runs?: readonly string[];
}

/** A recipient who is not served by this restore, and what says so. */
export interface ServedRecipient {
  readonly queueId: string;
  readonly recipient: string;
  readonly reason: string;
  /** The log line that proves it, if a log does. */
  readonly evidence: string | null;
}

/** What earlier runs had placed of a message when the plan was made. */
export interface PlacedFact {
  /** `entryKey` */
  readonly key: string;
  readonly runs: readonly string[];
  /** Indexes, in their order, of recipients who were given their copy or were known to be served. */
  readonly recipients: readonly number[];
}

export type LogSummary = Omit<Deliveries, "verdicts">;

/** A file that an earlier run put on hold, perhaps there no more, and recipients of it that are known to be served now. */
export interface Remark {
  readonly id: string;
  readonly inode: string;
  readonly recipients: readonly number[];
}

/**
 * What a restore will do, as a value: made without touching anything, shown by a dry run, and carried out by `place`. The
 * facts it was made from are part of it, so that a target that has changed meanwhile can be told.
 */
export interface RestorePlan {
  readonly source: PlanSource;
  readonly choice: RestoreChoice;
  readonly target: TargetFacts;
  readonly place: readonly PlannedMessage[];
  readonly skip: readonly SkippedMessage[];
  /** Recipients the logs prove served. */
  readonly delivered: readonly ServedRecipient[];
  /** Recipients of mail an administrator deleted after the snapshot, by the logs. */
  readonly deleted: readonly ServedRecipient[];
  readonly remark: readonly Remark[];
  /** What earlier runs placed of the snapshot's messages. */
  readonly placed: readonly PlacedFact[];
  readonly forecasts: readonly Forecast[];
  /** What logs say of the mail as a whole; null without logs. */
  readonly log: LogSummary | null;
  /** Bytes (in whole blocks of the target's file system) and inodes of what is placed, logs included. */
  readonly needs: { readonly bytes: number; readonly inodes: number };
}

/** Decide for every message of one instance where it goes. Pure: the same arguments give the same plan. */
export function planRestore(
  manifest: Manifest,
  source: PlanSource,
  choice: RestoreChoice,
  target: TargetFacts,
  knowledge: Knowledge,
): RestorePlan {
  const messages = manifest.messages.filter((message) => message.instance === choice.instance);
  const placed = knowledge.placed.of(source.host, messages);
  const decisions = new Decisions(source, choice, target, { ...knowledge, before: placed });
  for (const message of messages) decisions.decide(message);
  const { place, skip, delivered, deleted, remark } = decisions;
  return {
    ...{ source, choice, target, place, skip, delivered, deleted, remark, placed: [...placed].map(factOf) },
    forecasts: forecast(place, source, target),
    log: knowledge.deliveries && summaryOf(knowledge.deliveries),
    needs: needsOf(place, target.blockSize),
  };
}

function factOf([key, { runs, recipients }]: [string, PlacedBefore]): PlacedFact {
  return { key, runs, recipients: [...recipients].sort((a, b) => a - b) };
}

function summaryOf({ verdicts: _verdicts, ...summary }: Deliveries): LogSummary {
  return summary;
}

/** What is to become of the recipients of one message that are wanted and not done. */
interface Sorted {
  readonly certain: readonly number[];
  readonly doubtful: readonly number[];
  /** Why the doubtful ones may have been served. */
  readonly doubt: string | null;
  readonly served: readonly number[];
  /** For whom an administrator deleted it; they are not served, and an operator may want them to be. */
  readonly deleted: readonly number[];
}

interface KnownBefore extends Knowledge {
  /** What earlier runs placed, by `entryKey`. */
  readonly before: ReadonlyMap<string, PlacedBefore>;
}

class Decisions {
  readonly place: PlannedMessage[] = [];
  readonly skip: SkippedMessage[] = [];
  readonly delivered: ServedRecipient[] = [];
  readonly deleted: ServedRecipient[] = [];
  readonly remark: Remark[] = [];
  readonly #source: PlanSource;
  readonly #choice: RestoreChoice;
  readonly #target: TargetFacts;
  readonly #known: KnownBefore;

  constructor(source: PlanSource, choice: RestoreChoice, target: TargetFacts, known: KnownBefore) {
    this.#source = source;
    this.#choice = choice;
    this.#target = target;
    this.#known = known;
  }

  decide(message: MessageEntry): void {
    const selected = select(message, this.#source.host, this.#choice.selection, this.#target.now * 1000);
    if ("reason" in selected) {
      this.#pass(message, "unselected", selected.reason);
      return;
    }
    const twin = this.#known.twins.get(entryKey(message));
    const problem = cannotPlace(message, this.#target);
    if (twin !== undefined) this.#besideTwin(message, selected.wanted, twin);
    else if (problem !== null) this.#pass(message, "impossible", problem);
    else this.#unlessPlaced(message, selected.wanted);
  }

  /**
   * What is still queued here is left out. A file that an earlier run placed answers only for the recipients it was placed for:
   * the others are marked in it, and have not got theirs.
   */
  #besideTwin(message: MessageEntry, asked: readonly number[], twin: Twin): void {
    const before = this.#known.placed.isOurs(twin) ? this.#before(message) : undefined;
    const left = before === undefined ? [] : asked.filter((index) => !before.recipients.has(index));
    if (left.length > 0) this.#placeSorted(message, this.#sort(message, left), true);
    else this.#pass(message, "queued", `it is still queued here: ${twin.queue} ${twin.id}`);
    this.#remarkCopies(message);
  }

  /** What an earlier run gave its recipients, or knew them to have, is not given again. */
  #unlessPlaced(message: MessageEntry, asked: readonly number[]): void {
    const before = this.#choice.again ? undefined : this.#before(message);
    const wanted = asked.filter((index) => before?.recipients.has(index) !== true);
    if (before !== undefined && wanted.length === 0) {
      const reason = `run ${before.runs.join(" and ")} restored it into this queue before`;
      this.skip.push({ message, kind: "restored", reason, runs: before.runs });
    } else {
      this.#placeSorted(message, this.#sort(message, wanted), asked.length > 0);
    }
  }

  #before(message: MessageEntry): PlacedBefore | undefined {
    return this.#known.before.get(entryKey(message));
  }

  #pass(message: MessageEntry, kind: SkipKind, reason: string): void {
    this.skip.push({ message, kind, reason });
  }

  /** Files that earlier runs put on hold, where one is still queued, take over what is known now: the newest marks win. */
  #remarkCopies(message: MessageEntry): void {
    const verdicts = this.#known.deliveries?.verdicts.get(entryKey(message));
    const isServed = (index: number) =>
      message.recipients[index]?.done === true || verdicts?.[index]?.verdict === "done";
    for (const { id, inode, recipients } of this.#before(message)?.onHold ?? []) {
      const served = recipients.filter(isServed);
      if (served.length > 0) this.remark.push({ id, inode, recipients: served });
    }
  }

  #sort(message: MessageEntry, wanted: readonly number[]): Sorted {
    const verdicts = this.#known.deliveries?.verdicts.get(entryKey(message));
    if (verdicts === undefined) {
      const doubt = wanted.length === 0 ? null : doubtOf(message);
      return {
        certain: doubt === null ? wanted : [],
        doubtful: doubt === null ? [] : wanted,
        doubt,
        served: [],
        deleted: [],
      };
    }
    const by = Map.groupBy(wanted, (index) => this.#fateOf(verdicts[index]));
    const doubtful = by.get("in-doubt") ?? [];
    const [first] = doubtful;
    const [done, deleted] = [by.get("done") ?? [], by.get("deleted") ?? []];
    for (const index of done) this.delivered.push(served(message, index, verdicts[index]));
    for (const index of deleted) this.deleted.push(served(message, index, verdicts[index]));
    return {
      certain: by.get("deliver") ?? [],
      doubtful,
      doubt: first === undefined ? null : (verdicts[first]?.reason ?? "the log does not tell"),
      served: done,
      deleted,
    };
  }

  #fateOf(verdict: RecipientVerdict | undefined): RecipientVerdict["verdict"] {
    if (verdict === undefined) return "in-doubt";
    const deleted = verdict.verdict === "deleted" || verdict.undelivered === true;
    return deleted && this.#choice.restoreDeleted ? "deliver" : verdict.verdict;
  }

  /** One copy for the recipients that are certain, another, on hold, for those in doubt. */
  #placeSorted(message: MessageEntry, sorted: Sorted, hadRecipients: boolean): void {
    const { certain, doubtful, doubt, served } = sorted;
    if (hadRecipients && certain.length + doubtful.length === 0) {
      this.#pass(message, "served", servedReason(sorted));
    } else if (this.#choice.route === "requeue") {
      this.#requeue(message, sorted, hadRecipients);
    } else {
      if (certain.length > 0 || doubtful.length === 0) this.#plan(message, certain, null, served, true);
      if (doubtful.length > 0) this.#plan(message, doubtful, doubt, served, certain.length === 0);
    }
  }

  #requeue(message: MessageEntry, { certain, doubtful, doubt, served }: Sorted, hadRecipients: boolean): void {
    const refusal = requeueRefusal(message);
    if (refusal !== null) {
      this.#pass(message, "refused", refusal);
      return;
    }
    if (!hadRecipients) {
      this.#pass(message, "served", "every recipient of it is done");
      return;
    }
    if (doubtful.length > 0) {
      const who = doubtful.map((index) => message.recipients[index]?.address ?? "").join(", ");
      this.#pass(message, "refused", `in doubt, so not sent as new mail, is ${who}: ${doubt}`);
    }
    if (certain.length > 0) this.#plan(message, certain, null, served, false);
  }

  #plan(
    message: MessageEntry,
    recipients: readonly number[],
    inDoubt: string | null,
    servedByLog: readonly number[],
    logs: boolean,
  ): void {
    const left = message.recipients.flatMap(({ done }, index) => (done ? [] : [index]));
    const before = this.#before(message);
    const marks = left.filter((index) => !recipients.includes(index));
    const done = message.recipients.flatMap((recipient, index) => (recipient.done ? [index] : []));
    const served = [...new Set([...done, ...servedByLog, ...(before?.served ?? [])])].sort((a, b) => a - b);
    const placement = placementOf(message, this.#choice, this.#target, inDoubt);
    // Logs that an earlier run placed with other recipients of the message would cause their notice again.
    const withLogs = logs && (before === undefined || this.#choice.again);
    this.place.push({ message, ...placement, inDoubt, recipients, marks, served, logs: withLogs });
  }
}

function servedReason({ served, deleted }: Sorted): string {
  if (deleted.length === 0) return "by the log, everybody has got it";
  const those = served.length === 0 ? "" : " for those who had not got it";
  return `by the log, an administrator deleted it${those} (--restore-deleted restores such mail)`;
}

function served(message: MessageEntry, index: number, verdict: RecipientVerdict | undefined): ServedRecipient {
  return {
    queueId: message.queueId,
    recipient: message.recipients[index]?.address ?? "",
    reason: verdict?.reason ?? "",
    evidence: verdict?.evidence ?? null,
  };
}

/** New mail is not held back, and begins without the notices that the old is to send. */
function requeueRefusal(message: MessageEntry): string | null {
  const role = message.queue === "hold" ? (message.role ?? { kind: "admin" }) : message.role;
  if (role !== null) return `it is on hold (${role.kind}), and new mail is not`;
  if (!message.logs.some(({ log }) => log === "bounce")) return null;
  return "its sender is yet to be told of recipients that failed, and new mail would not tell";
}

/** pickup(8) takes the owner of a maildrop file for its sender, so another owner would be another sender. */
function cannotPlace(message: MessageEntry, target: TargetFacts): string | null {
  if (message.queue !== "maildrop" || target.users[message.owner.user] !== undefined) return null;
  return `its owner ${message.owner.user} (uid ${message.owner.uid} on the source host) does not exist here`;
}

type Placement = Pick<PlannedMessage, "queue" | "mode" | "uid" | "gid" | "mtime" | "role" | "waits">;

function placementOf(
  message: MessageEntry,
  choice: RestoreChoice,
  target: TargetFacts,
  inDoubt: string | null,
): Placement {
  const mtime = mtimeOf(message, target);
  if (message.queue === "maildrop") {
    const waits = choice.land === "hold" || inDoubt !== null;
    const uid = target.users[message.owner.user] ?? target.ownerUid;
    const mode = message.mode & 0o777;
    return { queue: "maildrop", mode, uid, gid: target.setgidGid, mtime, role: waits ? "restore" : null, waits };
  }
  const common = { mtime, uid: target.ownerUid, gid: target.ownerGid, waits: false };
  // As postsuper -r leaves it: owned by Postfix and not readable for others, so that pickup(8) takes it as requeued.
  if (choice.route === "requeue") return { ...common, queue: "maildrop", mode: 0o700, role: null };
  const role = roleOf(message, choice.land, inDoubt);
  return { ...common, queue: role === null ? "deferred" : "hold", mode: queueFileMode(message.mode), role };
}

/**
 * A delivery that was under way while the message was read, or that ended the message before the run ended, has left no
 * mark in the copy. Delivering it again may be the second time, so an operator decides.
 */
function doubtOf(message: MessageEntry): string | null {
  if (message.queue === "maildrop") return null;
  if (message.finished) return "it had left every queue of its host when the backup ended";
  if (message.inFlight === true) return "it was being delivered while it was read";
  if (message.inFlight === null) return "whether it was being delivered while it was read could not be seen";
  return null;
}

function roleOf(message: MessageEntry, land: Land, inDoubt: string | null): PlannedMessage["role"] {
  if (message.queue === "maildrop") return null;
  const before: HoldRole = message.queue === "hold" ? (message.role ?? { kind: "admin" }) : message.role;
  if (before !== null) return before.kind;
  return land === "hold" || inDoubt !== null ? "restore" : null;
}

/** All owner bits make it complete; 0040 (unthrottle) and 0010 (forced expiry) mean something to qmgr (`mail_queue.h`). */
function queueFileMode(mode: number): number {
  return 0o700 | (mode & 0o050);
}

/**
 * The retry time as it was. Mail that was active or incoming is due at once; and none may lie further ahead than Postfix
 * itself would ever put it, or a clock that runs behind the source's would keep it waiting that long.
 */
function mtimeOf(message: MessageEntry, target: TargetFacts): number {
  const dueNow = message.queue === "active" || message.queue === "incoming" || message.queue === "maildrop";
  return Math.min(message.mtime, dueNow ? target.now : target.now + target.maximalBackoffS);
}

function needsOf(place: readonly PlannedMessage[], blockSize: number): RestorePlan["needs"] {
  const files = place.flatMap(({ message, logs }) => [message.file, ...(logs ? message.logs : [])]);
  return roomFor(files, blockSize);
}
