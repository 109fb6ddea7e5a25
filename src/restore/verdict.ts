import type { LogEvidence, Trail, TrailLine, Watch } from "../postfix/log-evidence.ts";
import { loggedForms } from "../postfix/log-facts.ts";
import type { LogGap } from "../postfix/log-gaps.ts";
import { lineOf } from "../postfix/mail-log.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import { clock, deliver, done, type Fate, FateFinder, inDoubt, milestonesOf, type Verdict } from "./fate.ts";

export type { Verdict } from "./fate.ts";

export interface RecipientVerdict {
  readonly verdict: Verdict;
  readonly reason: string;
  /** The log line that proves it, cut where it is long. */
  readonly evidence?: string;
  /** In doubt is only whether an administrator deleted it: it was not delivered. */
  readonly undelivered?: true;
}

export interface MessageVerdict {
  readonly message: MessageEntry;
  /** One for each recipient of the message, in its order. */
  readonly recipients: readonly RecipientVerdict[];
}

/** Between what times the log has to explain what became of mail. All times are seconds since 1970. */
export interface JudgeWindow {
  /** When the capture began. */
  readonly snapshotTime: number;
  /** When the last message had been read; default: when it began. */
  readonly snapshotFinished?: number;
  /** When the host is known to have failed; default: with the last line of the log. */
  readonly until?: number;
  /** Of the source instance; default Postfix's own 300 and 4000. */
  readonly queueRunDelayS?: number;
  readonly maximalBackoffS?: number;
  /** Addresses of the source host beside loopback: what is relayed to them may be a hand-over to itself. */
  readonly ownAddresses?: readonly string[];
}

export interface Judgement {
  readonly messages: readonly MessageVerdict[];
  /** What the snapshot's messages are in the log, and what they had become: not mail that was accepted later. */
  readonly followed: ReadonlySet<Trail>;
  /** What makes the whole log doubtful, such as a wrong time zone. */
  readonly warnings: readonly string[];
}

/** What `gatherEvidence` has to look out for to judge these messages. */
export function watchOf(messages: readonly MessageEntry[]): Watch {
  return {
    ids: new Set(messages.map(({ queueId }) => queueId)),
    messageIds: new Set(messages.flatMap(({ messageId }) => messageId ?? [])),
    uids: new Set(messages.flatMap(({ queue, owner }) => (queue === "maildrop" ? [owner.uid] : []))),
  };
}

/**
 * What a surviving mail log proves of each recipient of a snapshot. Pure.
 *
 * - `done`: delivered to another system or finally here, or returned to a sender who has got the notice.
 * - `deleted`: removed by an administrator.
 * - `deliver`: the log, whole since the snapshot, shows that it was still to be delivered.
 * - `in-doubt`: it may have been delivered; the log can't tell.
 */
export function judge(messages: readonly MessageEntry[], log: LogEvidence, window: JudgeWindow): Judgement {
  const judgement = new Judging(messages, log, window);
  return {
    messages: messages.map((message) => ({ message, recipients: judgement.message(message).map(toVerdict) })),
    followed: judgement.fates.followed,
    warnings: judgement.warnings(),
  };
}

function toVerdict({ verdict, reason, proof, deletedAt }: Fate): RecipientVerdict {
  return {
    ...{ verdict, reason },
    ...(proof === undefined ? {} : { evidence: lineOf(proof) }),
    ...(deletedAt === undefined ? {} : { undelivered: true }),
  };
}

/** A message with its trail, if the log has one. */
interface Bound {
  readonly message: MessageEntry;
  readonly trail: Trail | undefined;
  /** How the log may write its recipients. */
  readonly kin: ReadonlySet<string>;
}

class Judging {
  readonly fates: FateFinder;
  private readonly log: LogEvidence;
  private readonly window: JudgeWindow;
  private readonly gaps: readonly LogGap[];
  /** Differences between the clock of the snapshot and that of the log, of messages that are surely the same. */
  private readonly differences: number[] = [];
  private readonly bindings: ReadonlyMap<MessageEntry, Trail | "other clock" | undefined>;

  constructor(messages: readonly MessageEntry[], log: LogEvidence, window: JudgeWindow) {
    this.log = log;
    this.window = window;
    this.gaps = gapsOf(log, window);
    const queued = messages.filter(({ queue }) => queue !== "maildrop");
    this.bindings = new Map(queued.map((message) => [message, this.bind(message)]));
    const kept = [...this.bindings.values()].filter((bound) => typeof bound === "object");
    this.fates = new FateFinder(log, this.gaps, window.ownAddresses ?? [], new Set(kept));
  }

  message(message: MessageEntry): Fate[] {
    if (message.queue === "maildrop") return this.ofMaildrop(message);
    const bound = this.bindings.get(message);
    if (bound === "other clock") {
      return eachPending(message, () => inDoubt("the log has this message at another time: its time zone is another"));
    }
    const lines = bound === undefined ? [] : linesByRecipient(message, bound, this.window);
    const whole = { message, trail: bound, kin: formsOf(message) };
    return eachPending(message, (address, index) => this.ofRecipient(whole, address, lines[index] ?? []));
  }

  warnings(): string[] {
    const middle = this.differences.toSorted((a, b) => a - b)[this.differences.length >> 1];
    if (middle === undefined) return [];
    return [
      `the log's times are ${Math.round(middle / 60)} minutes from the snapshot's for ${this.differences.length} messages: name the time zone of the log's host`,
    ];
  }

  private ofRecipient({ message, trail, kin }: Bound, address: string, lines: readonly TrailLine[]): Fate {
    const { snapshotTime } = this.window;
    const settled = message.inFlight === false && (message.queue === "deferred" || message.queue === "hold");
    const fate =
      trail === undefined
        ? this.ofUnmentioned(message, address, kin)
        : this.fates.fateOf({
            ...{ trail, lines, address, kin, settled },
            ...{ since: snapshotTime, filtered: message.contentFilter !== null, path: [] },
          });
    if (fate.verdict !== "deliver" && fate.deletedAt === undefined) return fate;
    const since = lines.findLast(({ record }) => record.time >= snapshotTime - 1);
    const told = since !== undefined || isTold(trail, lines);
    return (told ? undefined : ofCapture(message)) ?? this.ofOverdue(message, trail, since, fate.deletedAt) ?? fate;
  }

  private ofUnmentioned(message: MessageEntry, address: string, kin: ReadonlySet<string>): Fate {
    const doubt = this.fates.doubtOrDeletion(this.window.snapshotTime);
    if (doubt !== undefined && doubt.deletedAt === undefined) return doubt;
    return (
      this.requeued(message, address, kin) ?? this.ofTakenId(message) ?? doubt ?? deliver("the log does not mention it")
    );
  }

  /** An id that another message had after the snapshot was free by then. */
  private ofTakenId({ queueId }: MessageEntry): Fate | undefined {
    const other = this.log.trails(queueId).some(({ ours, last }) => ours && last >= this.window.snapshotTime);
    return other
      ? inDoubt("its queue id is another message's in the log, which does not say what became of it")
      : undefined;
  }

  /** `postsuper -r ALL` logs no ids; pickup(8) names the old one. */
  private requeued(message: MessageEntry, address: string, kin: ReadonlySet<string>): Fate | undefined {
    const [next] = this.log
      .cameOf(message.queueId)
      .filter(
        ({ ours, origin, start }) => ours && origin?.kind === "pickup" && (start ?? 0) >= this.window.snapshotTime - 2,
      );
    return next && this.fates.follow(next, { address, kin, path: [] });
  }

  /**
   * Deferred mail is tried again when it is due. A log that goes on long after without a word of it has a hole.
   *
   * @param until seconds since 1970 from when on silence is no wonder: it may have been deleted
   */
  private ofOverdue(
    message: MessageEntry,
    trail: Trail | undefined,
    since: TrailLine | undefined,
    until = Number.POSITIVE_INFINITY,
  ): Fate | undefined {
    const { queueRunDelayS = 300, maximalBackoffS = 4000, snapshotTime } = this.window;
    if (
      isHeld(message, trail) ||
      this.log.massChanges.some(({ action, time }) => action === "held" && time >= snapshotTime)
    )
      return undefined;
    const retry = message.queue === "deferred" ? message.mtime : snapshotTime;
    const due = since === undefined ? Math.max(retry, snapshotTime) : since.record.time + maximalBackoffS;
    if (Math.min(this.log.last ?? 0, until) <= due + 2 * queueRunDelayS + 60) return undefined;
    return inDoubt(`it was due at ${clock(due)}, and the log, which goes on, does not mention it`, since?.record);
  }

  /** pickup(8) logs the user and the sender of what it takes from maildrop, and for requeued mail the file's name. */
  private ofMaildrop(message: MessageEntry): Fate[] {
    const { snapshotTime } = this.window;
    const kin = formsOf(message);
    const submissions = this.log.submissions().filter((trail) => this.mayBe(trail, message));
    const [same] = submissions.filter(({ messageId }) => messageId !== null && messageId === message.messageId);
    return eachPending(message, (address) => {
      const requeued = this.requeued(message, address, kin);
      if (requeued !== undefined) return requeued;
      if (same !== undefined) return this.fates.follow(same, { address, kin, path: [] });
      const doubt = this.fates.doubt(snapshotTime);
      if (doubt !== undefined) return doubt;
      if (submissions.length > 0)
        return inDoubt(`pickup took ${submissions.length} messages of this user and sender, and this may be one`);
      if ((this.log.last ?? 0) > snapshotTime + pickupSeconds)
        return inDoubt("pickup should have taken it, and the log does not say so");
      return deliver("pickup had not taken it");
    });
  }

  private mayBe({ origin, start, messageId }: Trail, message: MessageEntry): boolean {
    if (origin?.kind !== "pickup" || (start ?? 0) < this.window.snapshotTime - 2) return false;
    if (origin.uid !== message.owner.uid || !loggedForms(message.sender).includes(origin.sender)) return false;
    return message.messageId === null || messageId === null || messageId === message.messageId;
  }

  /**
   * The trail of a message: by queue id, by time, and by what is known of Message-ID, or sender and size. A trail that
   * says nothing of these is taken only where no line is missing between the snapshot and it: until its message leaves,
   * no other can have the id.
   */
  private bind(message: MessageEntry): Trail | "other clock" | undefined {
    const trails = this.log
      .trails(message.queueId)
      .filter(({ ours, last }) => ours && last >= message.arrival - clockSlack);
    const judged = trails.map((trail) => ({ trail, match: matchOf(message, trail, this.window) }));
    const same = judged.find(({ match }) => match === "same");
    if (same !== undefined) return same.trail;
    const possible = judged.find(({ match }) => match === "possible")?.trail;
    if (
      possible !== undefined &&
      !this.gaps.some(({ from, to }) => to > this.window.snapshotTime && from < possible.first)
    )
      return possible;
    const other = this.log
      .trails(message.queueId)
      .find((trail) => trail.ours && trail.start !== null && hasMessageId(trail, message));
    if (other === undefined) return undefined;
    this.differences.push((other.start ?? 0) - message.arrival);
    return "other clock";
  }
}

/** Whether the last attempt in the log has an outcome for the recipient. */
function isTold(trail: Trail | undefined, lines: readonly TrailLine[]): boolean {
  const attempt = trail && milestonesOf(trail).findLast(({ fact }) => fact.kind === "active");
  return attempt !== undefined && (lines.at(-1)?.order ?? -1) > attempt.order;
}

/** What the snapshot itself knows of an attempt, and the log does not explain. */
function ofCapture(message: MessageEntry): Fate | undefined {
  if (message.finished) return inDoubt("it had left every queue when the backup ended, and the log does not say how");
  if (message.inFlight === true || message.queue === "active") {
    return inDoubt("it was being delivered when it was read, and the log has no outcome");
  }
  if (message.inFlight === null)
    return inDoubt("it may have been in delivery when it was read, and the log has no outcome");
  return undefined;
}

/** Beside what the log shows by itself: what it should reach back and on to. */
function gapsOf(log: LogEvidence, { snapshotTime, until }: JudgeWindow): readonly LogGap[] {
  const { first, last } = log;
  if (first === null || last === null)
    return [{ from: snapshotTime, to: Infinity, reason: "the log has no line of Postfix" }];
  const late =
    first > snapshotTime ? [{ from: snapshotTime, to: first, reason: "the log begins after the snapshot" }] : [];
  const early =
    until !== undefined && until > last
      ? [{ from: last, to: until, reason: "the log ends before the host failed" }]
      : [];
  return [...late, ...log.gaps, ...early];
}

function eachPending(message: MessageEntry, fate: (address: string, index: number) => Fate): Fate[] {
  return message.recipients.map((recipient, index) =>
    recipient.done ? done("it was done when the snapshot was taken") : fate(recipient.address, index),
  );
}

/**
 * Delivery lines of each recipient. An address that is there several times gets its final lines one by one, in order;
 * those logged before the message was read belong first to the recipients that were done by then.
 */
function linesByRecipient(message: MessageEntry, trail: Trail, window: JudgeWindow): TrailLine[][] {
  const byAddress = new Map(deliveriesOf(message, trail));
  const counts = Map.groupBy(message.recipients, ({ address }) => address);
  const repeated = (address: string) => (counts.get(address)?.length ?? 0) > 1;
  const taken = new Set<TrailLine>();
  const takeFinal = (address: string, before: number): TrailLine[] => {
    const lines = byAddress.get(address) ?? [];
    const final = lines.find((line) => isFinal(line) && !taken.has(line) && line.record.time <= before);
    if (final !== undefined) taken.add(final);
    return [...lines.filter((line) => !isFinal(line)), ...(final === undefined ? [] : [final])];
  };
  const read = window.snapshotFinished ?? window.snapshotTime;
  for (const { address, done: before } of message.recipients) if (before && repeated(address)) takeFinal(address, read);
  return message.recipients.map(({ address, done: before }) => {
    if (before) return [];
    return repeated(address) ? takeFinal(address, Infinity) : (byAddress.get(address) ?? []);
  });
}

/** What an alias of local(8) gave is logged under its own address, with the recipient's as orig_to. */
function deliveriesOf(message: MessageEntry, trail: Trail): [string, TrailLine[]][] {
  const kin = formsOf(message);
  const byName = Map.groupBy(trail.lines, ({ fact, record }) => {
    if (fact.kind !== "delivery") return null;
    return kin.has(fact.to) || record.daemon !== "local" ? fact.to : (fact.origTo ?? fact.to);
  });
  const addresses = [...new Set(message.recipients.map(({ address }) => address))];
  return addresses.map((address) => [address, loggedForms(address).flatMap((form) => byName.get(form) ?? [])]);
}

function formsOf({ recipients }: MessageEntry): ReadonlySet<string> {
  return new Set(recipients.flatMap(({ address }) => loggedForms(address)));
}

function isFinal({ fact }: TrailLine): boolean {
  return fact.kind === "delivery" && fact.status !== "deferred" && fact.status !== "cut";
}

type Match = "same" | "possible" | "other";

function matchOf(message: MessageEntry, trail: Trail, { snapshotTime }: JudgeWindow): Match {
  if (trail.end !== null && trail.last < snapshotTime - clockSlack) return "other";
  if (trail.arrival !== null && !arrivedThen(message, trail.arrival)) return "other";
  if (trail.messageId !== null && message.messageId !== null) return hasMessageId(trail, message) ? "same" : "other";
  if (trail.sender !== null && trail.size !== null) {
    return loggedForms(message.sender).includes(trail.sender) && trail.size === message.size ? "same" : "other";
  }
  return trail.arrival === null ? "possible" : "same";
}

function hasMessageId({ messageId }: Trail, message: MessageEntry): boolean {
  return message.messageId !== null && messageId === message.messageId.replace(/\p{Cc}/gu, "?");
}

/** Arrival and creation differ where a submission waited in maildrop, or a client was slow. */
function arrivedThen({ arrival, created }: MessageEntry, time: number): boolean {
  const times = [arrival, Number(created)].filter((one) => Number.isFinite(one));
  return time >= Math.min(...times) - clockSlack && time <= Math.max(...times) + clockSlack;
}

const clockSlack = 10;
/** pickup(8) looks every minute (master.cf) when nobody wakes it. */
const pickupSeconds = 180;

function isHeld(message: MessageEntry, trail: Trail | undefined): boolean {
  const last = trail && milestonesOf(trail).findLast(({ fact }) => fact.kind === "held" || fact.kind === "released");
  return last === undefined ? message.queue === "hold" : last.fact.kind === "held";
}

/** A message that was accepted after the snapshot, and that by the log was still queued when the host failed. */
export interface LaterMessage {
  readonly queueId: string;
  /** Seconds since 1970. */
  readonly time: number;
  readonly messageId: string | null;
  readonly sender: string | null;
  readonly size: number | null;
  /** Recipients the log names, with what is known of each. */
  readonly recipients: readonly { readonly address: string; readonly finished: boolean }[];
  /** False when it was being received: the log does not say that it was accepted. */
  readonly accepted: boolean;
}

/**
 * Mail that no snapshot has: accepted after it and unfinished by the log. What the snapshot's own messages became is left
 * out by what `judge` followed.
 */
export function acceptedLater(
  log: LogEvidence,
  snapshotTime: number,
  followed: ReadonlySet<Trail> = new Set(),
): LaterMessage[] {
  return log
    .unfinished()
    .filter(
      (trail) =>
        trail.ours &&
        !followed.has(trail) &&
        (trail.arrival ?? 0) > snapshotTime &&
        (trail.messageId !== null || isActive(trail)),
    )
    .map(toLater)
    .sort((a, b) => a.time - b.time);
}

function isActive(trail: Trail): boolean {
  return trail.sender !== null;
}

function toLater(trail: Trail): LaterMessage {
  const lines = trail.lines.flatMap(({ fact }) => (fact.kind === "delivery" ? [fact] : []));
  const finished = new Map(lines.map(({ to, status }) => [to, status !== "deferred" && status !== "cut"]));
  return {
    ...{
      queueId: trail.id,
      time: trail.arrival ?? trail.first,
      messageId: trail.messageId,
      sender: trail.sender,
      size: trail.size,
    },
    recipients: [...finished].map(([address, is]) => ({ address, finished: is })),
    accepted: isActive(trail),
  };
}

/** The bound a restore with logs can state. Recipients, but for `acceptedLater`, which are messages. */
export interface DeliveryBound {
  readonly deliver: number;
  readonly done: number;
  readonly deleted: number;
  readonly inDoubt: number;
  /** Every recipient of the snapshot has a verdict, so none is lost. */
  readonly lost: 0;
  readonly acceptedLater: number;
  /** Those in doubt, if they are delivered, but for those of whom only a deletion is in doubt. */
  readonly possiblyTwice: number;
}

/** Count what a judgement means; recipients the snapshot has as done are not counted. */
export function boundOf({ messages }: Judgement, later: readonly LaterMessage[]): DeliveryBound {
  const counts = new Map<Verdict, number>();
  let undelivered = 0;
  for (const { message, recipients } of messages) {
    for (const [index, recipient] of recipients.entries()) {
      if (message.recipients[index]?.done === true) continue;
      counts.set(recipient.verdict, (counts.get(recipient.verdict) ?? 0) + 1);
      if (recipient.undelivered === true) undelivered += 1;
    }
  }
  const count = (verdict: Verdict) => counts.get(verdict) ?? 0;
  return {
    ...{ deliver: count("deliver"), done: count("done"), deleted: count("deleted"), inDoubt: count("in-doubt") },
    ...{ lost: 0, acceptedLater: later.length, possiblyTwice: count("in-doubt") - undelivered },
  };
}

/** The bound as a sentence. */
export function sayBound({ acceptedLater: later, possiblyTwice }: DeliveryBound): string {
  return `lost 0 of the snapshot; accepted later and unfinished by the log: ${later}; possibly twice: ${possiblyTwice}`;
}
