import { type LogEvidence, namedIds, type Trail, type TrailLine } from "../postfix/log-evidence.ts";
import { type DeliveryFact, loggedForms } from "../postfix/log-facts.ts";
import type { LogGap } from "../postfix/log-gaps.ts";
import type { LogRecord } from "../postfix/mail-log.ts";

/** What is to happen with a recipient: `done` and `deleted` are not sent again, `in-doubt` waits for an operator. */
export type Verdict = "deliver" | "done" | "deleted" | "in-doubt";

export interface Fate {
  readonly verdict: Verdict;
  readonly reason: string;
  /**
   * Of a doubt: nobody got it. It was queued until postsuper(1) deleted mail without logging which (seconds since 1970), and
   * only whether it was among that is open.
   */
  readonly deletedAt?: number;
  /** The line that proves it. */
  readonly proof: LogRecord | undefined;
}

/** One recipient of one trail, and what is known beside the log. */
export interface Question {
  readonly trail: Trail;
  /** Delivery lines of this recipient, in the order of the log. */
  readonly lines: readonly TrailLine[];
  /** As in the queue file. */
  readonly address: string;
  /** How the log may write the recipients of the message, this one included. */
  readonly kin: ReadonlySet<string>;
  /** Before this moment (seconds since 1970) nothing has to be explained: the snapshot knows. */
  readonly since: number;
  /** No attempt that began before `since` was still under way then. */
  readonly settled: boolean;
  /** Its deliveries go to a content filter. */
  readonly filtered: boolean;
  /** The trails it was handed on from, oldest first: a message handed round in a circle has no end. */
  readonly path: readonly Trail[];
}

/**
 * Tells from a log what became of recipients: also when their message was handed on inside this system, under one queue
 * id after another.
 */
export class FateFinder {
  /** Trails of the snapshot's messages, and those they were handed on to. */
  readonly followed: Set<Trail>;
  /** Trails of the snapshot's messages. */
  private readonly kept: ReadonlySet<Trail>;
  private readonly log: LogEvidence;
  private readonly gaps: readonly LogGap[];
  private readonly ownAddresses: ReadonlySet<string>;
  private readonly recipients = new Map<Trail, LoggedRecipients>();
  private readonly strangers = new WeakMap<ReadonlySet<string>, Map<Trail, readonly LoggedRecipient[]>>();

  constructor(
    log: LogEvidence,
    gaps: readonly LogGap[],
    ownAddresses: readonly string[],
    kept: ReadonlySet<Trail> = new Set(),
  ) {
    this.kept = kept;
    this.followed = new Set(kept);
    this.log = log;
    this.gaps = gaps;
    this.ownAddresses = new Set(ownAddresses);
  }

  fateOf(question: Question): Fate {
    return (
      this.ofOutcome(question) ??
      this.ofRemoval(question) ??
      this.ofExpiry(question) ??
      ofEnd(question) ??
      ofOpenAttempt(question) ??
      this.doubtOfQueued(question) ??
      stillQueued(question)
    );
  }

  private doubtOfQueued(question: Question): Fate | undefined {
    const since = lastKnown(question);
    // What was handed on inside this system may have been delivered under its other ids.
    return question.path.length > 0 ? this.doubt(since) : this.doubtOrDeletion(since);
  }

  /** As `doubt`, of mail that was surely queued at that time and that nothing in the log speaks of later. */
  doubtOrDeletion(since: number): Fate | undefined {
    const doubt = this.doubt(since);
    if (doubt === undefined || this.gapAfter(since) !== undefined) return doubt;
    const changes = this.log.massChanges.filter(({ time, action }) => action !== "held" && time >= since);
    return changes.every(({ action }) => action === "deleted")
      ? { ...doubt, deletedAt: Math.min(...changes.map(({ time }) => time)) }
      : doubt;
  }

  /** A doubt about mail that was still queued at a time: what became of it later may be missing in the log. */
  doubt(since: number): Fate | undefined {
    const gap = this.gapAfter(since);
    if (gap !== undefined)
      return inDoubt(`lines are missing in the log from ${clock(gap.from)} to ${clock(gap.to)}: ${gap.reason}`);
    const mass = this.log.massChanges.find(({ time, action }) => action !== "held" && time >= since);
    return mass && inDoubt("postsuper changed mail without logging which", mass.line);
  }

  /** What became of a message handed on as another, for one of its recipients; the other's recipients may be others. */
  follow(trail: Trail, from: Pick<Question, "address" | "kin" | "path">): Fate {
    if (from.path.includes(trail)) return inDoubt(`it was handed round in a circle, and came again as ${trail.id}`);
    // A backup that reads a message before and after it is handed on has it twice: the later one is for its recipients.
    if (this.kept.has(trail))
      return done(`it was handed on as ${trail.id}, which is in the snapshot as well`, trail.lines[0]?.record);
    this.followed.add(trail);
    const ask = (lines: readonly TrailLine[]) =>
      this.fateOf({ ...from, trail, lines, ...unknown, path: [...from.path, trail] });
    const { all, named } = this.recipientsOf(trail);
    const mine = new Set(loggedForms(from.address).flatMap((form) => named.get(form) ?? []));
    if (mine.size > 0) {
      const own = combine([...mine].map(({ lines }) => ask(lines)));
      if (own.verdict !== "done") return own;
      const strangers = this.strangersOf(trail, from.kin).map(({ lines }) => ask(lines));
      const unseen = trail.end === null && (trail.recipients ?? 0) > Math.max(all.length, from.kin.size);
      return withStrangers(own, strangers, unseen);
    }
    const complete = all.length > 0 && (trail.end === "finished" || all.length >= (trail.recipients ?? Infinity));
    return complete ? combine(all.map(({ lines }) => ask(lines))) : ask([]);
  }

  private recipientsOf(trail: Trail): LoggedRecipients {
    const known = this.recipients.get(trail) ?? readRecipients(trail);
    this.recipients.set(trail, known);
    return known;
  }

  /** Recipients of a trail that its origin did not have. */
  private strangersOf(trail: Trail, kin: ReadonlySet<string>): readonly LoggedRecipient[] {
    const known = this.strangers.get(kin)?.get(trail);
    if (known !== undefined) return known;
    const found = this.recipientsOf(trail).all.filter(({ names }) => !names.some((name) => kin.has(name)));
    this.strangers.set(kin, new Map([...(this.strangers.get(kin) ?? []), [trail, found]]));
    return found;
  }

  private followAll(trails: readonly Trail[], question: Question): Fate {
    const path = question.path.includes(question.trail) ? question.path : [...question.path, question.trail];
    return combine(trails.map((trail) => this.follow(trail, { ...question, path })));
  }

  private gapAfter(time: number): LogGap | undefined {
    return this.gaps.find(({ to }) => to > time);
  }

  private gapBetween(from: number, to: number): LogGap | undefined {
    return this.gaps.find((gap) => gap.to > from && gap.from < to);
  }

  /** Delivered or failed for good; undefined while it is to be tried again. */
  private ofOutcome(question: Question): Fate | undefined {
    const { trail, lines } = question;
    const last = lines.at(-1);
    if (last === undefined) return undefined;
    if (last.record.daemon === "local") return this.ofAliases(question);
    const final = lines.findLast(({ fact }) => isFinal(fact.kind === "delivery" ? fact : undefined));
    if (final !== undefined) return this.ofFinal(question, final);
    const cut = last.fact.kind === "delivery" && last.fact.status === "cut";
    return cut && trail.lines.at(-1) === last
      ? inDoubt("the line that tells how its delivery ended is cut off", last.record)
      : undefined;
  }

  /** local(8) logs what the aliases of a recipient gave: each of its own last attempt must be final. */
  private ofAliases(question: Question): Fate | undefined {
    const { trail, lines, address } = question;
    const attempt = lastAttempt(trail, lines);
    if (!attempt.every(({ fact }) => isFinal(deliveryOf(fact)))) return undefined;
    const fate = combine(attempt.map((line) => this.ofFinal(question, line)));
    const named = attempt.some(({ fact }) => loggedForms(address).includes(deliveryOf(fact)?.to ?? ""));
    if (named || trail.end === "finished" || isFollowedByAttempt(trail, attempt)) return fate;
    return inDoubt(
      "its aliases were being worked through, and the log does not say that all were",
      attempt.at(-1)?.record,
    );
  }

  private ofFinal(question: Question, line: TrailLine): Fate {
    const fact = deliveryOf(line.fact);
    if (fact?.status === "sent") return this.ofSent(question, line, fact);
    if (fact?.status === "bounced" || fact?.status === "expired")
      return this.ofNotice(question.trail, line, question.path);
    return done("a probe was answered", line.record);
  }

  /** `sent` is done, unless it is a hand-over inside this system: then it is what became of the message there. */
  private ofSent(question: Question, line: TrailLine, fact: DeliveryFact): Fate {
    const [named] = namedIds(fact);
    if (named !== undefined) return this.ofNamed(question, line, fact, named);
    const again = this.ofReturn(question, line, fact);
    if (again !== undefined) return again;
    if (question.filtered) {
      return (
        this.doubt(attemptStart(question.trail, line)) ??
        inDoubt("the content filter took it, and it has not come back in the log", line.record)
      );
    }
    return done("it was delivered", line.record);
  }

  /** `queued as` or `forwarded as` an id. That of another system may look like one of ours: message and time must fit. */
  private ofNamed(question: Question, line: TrailLine, fact: DeliveryFact, id: string): Fate {
    const inside = fact.relay === "local" || this.isInside(fact.relay);
    const begun = attemptStart(question.trail, line);
    const inTime = this.log.trails(id).filter((trail) => {
      return trail.first >= begun - 5 && trail.first <= line.record.time + 5 && trail !== question.trail;
    });
    const same = inTime.find((trail) => sameMessageId(trail, question.trail));
    const became = same ?? (inside ? inTime[0] : undefined);
    if (became !== undefined) return this.followAll([became], question);
    if (!inside) return done("it was delivered to another system", line.record);
    return (
      this.doubt(attemptStart(question.trail, line)) ??
      deliver(`it was handed on inside this system as ${id}, whose end is not in the log`, line.record)
    );
  }

  /**
   * The same message, come again from what it was given to. A filter that answers only when it has handed the message
   * back does so during the delivery, others later. What else listens on this host may be a filter as well as a mailbox:
   * there only what came during the delivery, for the same recipient, is taken for this message.
   */
  private ofReturn(question: Question, line: TrailLine, { relay, reply }: DeliveryFact): Fate | undefined {
    const program = isProgram(relay) || (relay === "local" && reply.startsWith("delivered to command"));
    const returned = this.returnedFrom(question, line, relay);
    const named = returned.filter(({ origin }) => origin?.origId === question.trail.id);
    const during = returned.filter(({ start }) => (start ?? 0) <= line.record.time + 1);
    if (named.length > 0) return this.followAll(this.preferMine(named, question), question);
    if (question.filtered || program) {
      const all = this.preferMine(during.length > 0 ? during : returned, question);
      return all.length > 0 ? this.followAll(all, question) : undefined;
    }
    if (!this.isInside(relay)) return undefined;
    const mine = during.filter((trail) => this.isMine(trail, question));
    if (mine.length > 0) return this.followAll(mine, question);
    const silent = during.find((trail) => this.recipientsOf(trail).all.length === 0);
    return (
      silent &&
      inDoubt(`it was delivered, or came again as ${silent.id}: the log does not say for whom that is`, line.record)
    );
  }

  private returnedFrom({ trail, path }: Question, line: TrailLine, relay: string): Trail[] {
    const begun = attemptStart(trail, line);
    const same = [...this.log.cameOf(trail.id), ...this.log.withMessageId(trail.messageId ?? "")];
    return [...new Set(same)].filter(
      (one) =>
        one.order > trail.order &&
        !path.includes(one) &&
        (one.start ?? 0) >= begun - 1 &&
        this.cameFromInside(one, relay),
    );
  }

  private preferMine(trails: readonly Trail[], question: Question): readonly Trail[] {
    const mine = trails.filter((trail) => this.isMine(trail, question));
    return mine.length > 0 ? mine : trails;
  }

  private isMine(trail: Trail, { address }: Question): boolean {
    const { named } = this.recipientsOf(trail);
    return loggedForms(address).some((form) => named.has(form));
  }

  private cameFromInside({ origin }: Trail, relay: string): boolean {
    if (origin === null) return false;
    return origin.kind === "pickup"
      ? origin.origId === null
      : this.isOwnAddress(origin.address) || relay.includes(`[${origin.address}]`);
  }

  /** A relay on this host: a loopback or own address, or a socket. */
  private isInside(relay: string): boolean {
    const [, address] = /\[([^\]]*)\]/.exec(relay) ?? [];
    return address !== undefined && (address.includes("/") || this.isOwnAddress(address));
  }

  private isOwnAddress(address: string): boolean {
    return /^(?:127\.|::1$|::ffff:127\.)/i.test(address) || this.ownAddresses.has(address);
  }

  /** Failed for good is done when the sender knows: the notice has reached its end, or none was due. */
  private ofNotice(trail: Trail, line: TrailLine, path: readonly Trail[]): Fate {
    const notice = noticeOf(trail, line);
    return notice === undefined ? this.withoutNotice(trail, line) : this.ofSentNotice(notice, trail, line, path);
  }

  private withoutNotice(trail: Trail, line: TrailLine): Fate {
    const doubt = this.gapBetween(line.record.time, trail.end === "finished" ? trail.last : Infinity);
    if (doubt !== undefined)
      return inDoubt(`it failed for good; whether its sender was told is missing: ${doubt.reason}`, line.record);
    if (trail.end === "finished") return done("it failed for good, and no notice was due", line.record);
    return deliver("it failed for good, and the log does not say that its sender was told", line.record);
  }

  private ofSentNotice(
    { id, time }: { id: string; time: number },
    trail: Trail,
    line: TrailLine,
    path: readonly Trail[],
  ): Fate {
    const notice = this.log
      .trails(id)
      .find(({ ours, first, last }) => ours === trail.ours && first <= time + 60 && last >= time - 60);
    if (notice === undefined || path.includes(notice) || notice === trail) {
      return this.gapAfter(line.record.time - 5) === undefined
        ? deliver(`it failed for good, and the end of its notice ${id} is not in the log`, line.record)
        : inDoubt(`it failed for good, and lines about its notice ${id} are missing`, line.record);
    }
    this.followed.add(notice);
    if (this.kept.has(notice)) return done(`it failed for good, and its notice ${id} is in the snapshot`, line.record);
    if (notice.end === "canceled" || notice.end === "deleted")
      return done(`it failed for good, and its notice ${id} was given up`, line.record);
    const fate = this.follow(notice, {
      address: "",
      kin: new Set(),
      path: [...path, trail].filter((one) => one !== notice),
    });
    if (fate.verdict === "done" || fate.verdict === "deleted")
      return done(`it failed for good, and its sender was told by ${id}`, line.record);
    if (fate.verdict === "in-doubt" && this.gapAfter(notice.last) !== undefined) return fate;
    return deliver(`it failed for good, and its notice ${id} had not reached the sender`, line.record);
  }

  /** Taken out of the queue by postsuper(1): deleted, or made new mail of. */
  private ofRemoval(question: Question): Fate | undefined {
    const { trail } = question;
    const successors = this.log
      .cameOf(trail.id)
      .filter(
        (one) =>
          one.origin?.kind === "pickup" &&
          one.ours === trail.ours &&
          one !== trail &&
          (one.start ?? 0) >= trail.first &&
          (one.start ?? 0) >= question.since - 2,
      );
    const [next] = successors.filter((one) => trail.end === "requeued" || (one.start ?? 0) >= trail.last);
    if (trail.end === "deleted")
      return { verdict: "deleted", reason: "an administrator deleted it (postsuper -d)", proof: endOf(trail) };
    if (next !== undefined && (trail.end === null || trail.end === "requeued")) return this.followAll([next], question);
    if (trail.end !== "requeued") return undefined;
    return (
      this.doubt(trail.last) ?? deliver("it was requeued, and the log does not say what became of it", endOf(trail))
    );
  }

  /** Expired mail is returned to its sender as a whole, without a line for each recipient. */
  private ofExpiry({ trail, lines, path }: Question): Fate | undefined {
    const expired = milestonesOf(trail).findLast(({ fact }) => fact.kind === "expired");
    const last = lines.at(-1);
    if (expired === undefined || (last !== undefined && last.order > expired.order)) return undefined;
    return isFollowedByAttempt(trail, [expired]) ? undefined : this.ofNotice(trail, expired, path);
  }
}

/** What is not known of a message that was handed on. */
const unknown = { since: Number.NEGATIVE_INFINITY, settled: false, filtered: false };

/** Postfix had nothing left to do, but the log has no line for this recipient. */
function ofEnd({ trail }: Question): Fate | undefined {
  if (trail.end === "discarded") return done("it was discarded by a rule (DISCARD)", endOf(trail));
  if (trail.end === "canceled") return deliver("it was handed on, but not accepted", endOf(trail));
  if (trail.end === "finished")
    return inDoubt("its message left the queue, and the log has no outcome for this recipient", endOf(trail));
  return trail.end === "lost" ? inDoubt("its queue id came again, and the log does not say how it ended") : undefined;
}

function ofOpenAttempt({ trail, lines, since, settled }: Question): Fate | undefined {
  const attempt = milestonesOf(trail).findLast(({ fact }) => fact.kind === "active" || fact.kind === "locked");
  if (attempt === undefined) return undefined;
  const last = lines.at(-1);
  if (last !== undefined && last.order > attempt.order) return undefined;
  // Stamps are whole seconds: what began just before may as well have begun after.
  if (settled && attempt.record.time < since - 2) return undefined;
  return inDoubt("an attempt to deliver it had begun, and the log has no outcome", attempt.record);
}

function lastKnown({ trail, lines, since }: Question): number {
  return Math.max(since, lines.at(-1)?.record.time ?? (since === Number.NEGATIVE_INFINITY ? trail.first : since));
}

function stillQueued({ lines }: Question): Fate {
  const last = lines.at(-1);
  if (last === undefined) return deliver("the log has no attempt to deliver it");
  return deliver("its last attempt was deferred", last.record);
}

const milestones = new WeakMap<Trail, readonly TrailLine[]>();

/** A trail's lines that are no deliveries: few, however many recipients it has. */
export function milestonesOf(trail: Trail): readonly TrailLine[] {
  const known = milestones.get(trail) ?? trail.lines.filter(({ fact }) => fact.kind !== "delivery");
  milestones.set(trail, known);
  return known;
}

function deliveryOf(fact: TrailLine["fact"]): DeliveryFact | undefined {
  return fact.kind === "delivery" ? fact : undefined;
}

function isFinal(fact: DeliveryFact | undefined): boolean {
  return fact !== undefined && fact.status !== "deferred" && fact.status !== "cut";
}

/** Those of the lines that belong to the attempt of the last of them. */
function lastAttempt(trail: Trail, lines: readonly TrailLine[]): TrailLine[] {
  const last = lines.at(-1)?.order ?? 0;
  const start = milestonesOf(trail).findLast(({ fact, order }) => fact.kind === "active" && order < last)?.order ?? -1;
  return lines.filter(({ order }) => order > start);
}

function isFollowedByAttempt(trail: Trail, lines: readonly TrailLine[]): boolean {
  const last = lines.at(-1)?.order ?? -1;
  return milestonesOf(trail).some(({ fact, order }) => fact.kind === "active" && order > last);
}

/** When the attempt of a delivery began, by its own delays. */
function attemptStart(trail: Trail, line: TrailLine): number {
  const fact = deliveryOf(line.fact);
  if (fact?.activeFor !== null && fact?.activeFor !== undefined) return line.record.time - fact.activeFor - 1;
  return (
    milestonesOf(trail).findLast(({ fact: one, record }) => one.kind === "active" && record.time <= line.record.time)
      ?.record.time ?? trail.first
  );
}

function endOf(trail: Trail): LogRecord | undefined {
  return milestonesOf(trail).findLast(({ fact }) => fact.kind === "removed" || fact.kind === "requeued")?.record;
}

/** The notice to the sender after a failure; that of a failed alias is sent before its line is logged. */
function noticeOf(trail: Trail, line: TrailLine): { id: string; time: number } | undefined {
  const notices = milestonesOf(trail).flatMap(({ fact, record, order }) =>
    fact.kind === "notice" && fact.about === "failure" && fact.toSender
      ? [{ id: fact.id, time: record.time, order }]
      : [],
  );
  const before = ({ order, time }: { order: number; time: number }) =>
    order < line.order && time >= line.record.time - 5;
  return notices.find(({ order }) => order > line.order) ?? notices.findLast(before);
}

/** The name of a pipe(8) service, which hands mail to a program. */
function isProgram(relay: string): boolean {
  return relay !== "" && !relay.includes("[") && !["local", "virtual", "none"].includes(relay);
}

function sameMessageId(a: Trail, b: Trail): boolean {
  return a.messageId !== null && a.messageId !== "" && a.messageId !== "<>" && a.messageId === b.messageId;
}

interface LoggedRecipient {
  /** Its address, and what it was before aliases and maps. */
  readonly names: readonly string[];
  readonly lines: readonly TrailLine[];
}

interface LoggedRecipients {
  readonly all: readonly LoggedRecipient[];
  readonly named: ReadonlyMap<string, readonly LoggedRecipient[]>;
}

function readRecipients(trail: Trail): LoggedRecipients {
  const deliveries = trail.lines.filter(({ fact }) => fact.kind === "delivery");
  const all = [...Map.groupBy(deliveries, ({ fact }) => deliveryOf(fact)?.to ?? "")].map(([to, lines]) => {
    const before = lines.flatMap(({ fact }) => deliveryOf(fact)?.origTo ?? []);
    return { names: [...new Set([to, ...before])], lines };
  });
  const named = new Map<string, LoggedRecipient[]>();
  for (const recipient of all) {
    for (const name of recipient.names) {
      const list = named.get(name);
      if (list === undefined) named.set(name, [recipient]);
      else list.push(recipient);
    }
  }
  return { all, named };
}

/** A recipient is served as its message's successor served it; other recipients that only the successor had count too. */
function withStrangers(own: Fate, strangers: readonly Fate[], unseen: boolean): Fate {
  const left = strangers.find(({ verdict }) => verdict === "deliver" || verdict === "in-doubt");
  if (left !== undefined)
    return inDoubt("it was delivered, but another recipient its message had got was not", left.proof ?? own.proof);
  return unseen
    ? inDoubt("it was delivered, but its message had got further recipients the log does not name", own.proof)
    : own;
}

function combine(fates: readonly Fate[]): Fate {
  const [first = deliver("the log does not say what became of it")] = fates;
  const unsure = fates.find(({ verdict }) => verdict === "in-doubt");
  if (unsure !== undefined) return unsure;
  if (fates.every(({ verdict }) => verdict === first.verdict)) return first;
  const undelivered = fates.find(({ verdict }) => verdict === "deliver");
  if (undelivered !== undefined)
    return inDoubt("part of what it became was delivered, and part was not", undelivered.proof);
  return fates.find(({ verdict }) => verdict === "deleted") ?? first;
}

export function deliver(reason: string, proof?: LogRecord): Fate {
  return { verdict: "deliver", reason, proof };
}

export function done(reason: string, proof?: LogRecord): Fate {
  return { verdict: "done", reason, proof };
}

export function inDoubt(reason: string, proof?: LogRecord): Fate {
  return { verdict: "in-doubt", reason, proof };
}

export function clock(time: number): string {
  return Number.isFinite(time) ? new Date(time * 1000).toISOString().replace(".000Z", "Z") : "the end";
}
