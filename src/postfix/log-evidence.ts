import { type DeliveryFact, factOf, type LogFact, type MassAction } from "./log-facts.ts";
import { GapFinder, type LogGap } from "./log-gaps.ts";
import type { LogRecord } from "./mail-log.ts";
import { missingFile } from "./mail-log-files.ts";

/** A line of a message's trail that says something of its fate. */
export interface TrailLine {
  /** Grows along the log. */
  readonly order: number;
  readonly record: LogRecord;
  readonly fact: LogFact;
}

/** How a message left its queue id, or `lost` when the id came again without an end of the message before. */
export type TrailEnd = "finished" | "deleted" | "requeued" | "canceled" | "discarded" | "lost";

/**
 * What the log says of one message under one queue id, from its first line to its last. Short ids come again, so an id
 * may have several trails, one after the other.
 */
export interface Trail {
  /** When it began, on the scale of its lines' orders. */
  readonly order: number;
  readonly id: string;
  /** False for lines of an instance that was not asked for: it can have taken a message over, but not be its origin. */
  readonly ours: boolean;
  /** Time of the line that began it; null when it was under way before the log began, or that line is missing. */
  readonly start: number | null;
  /** Where it came from: `notice` and a forward have no line of their own and are known by what names them. */
  readonly origin: Extract<LogFact, { kind: "client" | "pickup" }> | null;
  /** As cleanup(8) logged it, empty for a message without one; null when the line is not there. */
  readonly messageId: string | null;
  readonly sender: string | null;
  readonly size: number | null;
  /** `nrcpt` of the queue manager: after a deferral still the number there was at first. */
  readonly recipients: number | null;
  readonly first: number;
  readonly last: number;
  readonly end: TrailEnd | null;
  /** When it arrived by its first line, or else by the delay of its first delivery; null when nothing tells. */
  readonly arrival: number | null;
  /** After those that began it, in the order of the log. Of attempts that were followed by another, only what is final is kept. */
  readonly lines: readonly TrailLine[];
}

/** Something postsuper(1) did to mail whose ids it did not log. */
export interface MassChange {
  readonly time: number;
  readonly action: MassAction;
  readonly line: LogRecord;
}

/** What a log proves, gathered for the messages of a snapshot and what became of them. */
export interface LogEvidence {
  /** Times of the first and last line of Postfix; null for a log without one. */
  readonly first: number | null;
  readonly last: number | null;
  readonly gaps: readonly LogGap[];
  readonly massChanges: readonly MassChange[];
  /** Trails under a queue id, oldest first. */
  trails(id: string): readonly Trail[];
  /** Trails with a Message-ID (of the watched ones), oldest first. */
  withMessageId(messageId: string): readonly Trail[];
  /** Trails that say they came of a queue id: by `orig_id=` (postsuper -r) or `orig_queue_id=` (XFORWARD of a filter). */
  cameOf(id: string): readonly Trail[];
  /** Trails that pickup(8) began for the watched users, without an earlier id: local submissions. */
  submissions(): readonly Trail[];
  /** Trails without an end. */
  unfinished(): readonly Trail[];
}

/** Whose fate is asked for: trails of others are forgotten once they have ended. */
export interface Watch {
  readonly ids: ReadonlySet<string>;
  readonly messageIds: ReadonlySet<string>;
  /** Local users whose mail waits in maildrop: pickup(8) logs who, and not which file. */
  readonly uids: ReadonlySet<number>;
}

/**
 * Gather what a log says of the watched messages, and of the messages they became: forwarded, re-injected by a filter,
 * requeued, returned to the sender.
 *
 * @param names `syslog_name` prefixes of the instance (`postfix` is also `postfix/submission`); undefined: all
 */
export async function gatherEvidence(
  batches: AsyncIterable<readonly LogRecord[]> | Iterable<readonly LogRecord[]>,
  watch: Watch,
  names?: readonly string[],
): Promise<LogEvidence> {
  const gatherer = new Gatherer(watch, names);
  for await (const batch of batches) for (const record of batch) gatherer.add(record);
  return gatherer.evidence();
}

/**
 * Whether a line is of the instance with these `syslog_name` prefixes (`postfix` is also `postfix/submission`).
 *
 * @param names undefined: every line is
 */
export function isOfInstance(name: string, names: readonly string[] | undefined): boolean {
  return names?.some((prefix) => name === prefix || name.startsWith(`${prefix}/`)) ?? true;
}

type OpenTrail = { -readonly [Field in keyof Trail]: Trail[Field] } & {
  lines: TrailLine[];
  watched: boolean;
  /** Deliveries that are final, whether or not they are kept. */
  finals: number;
  /** local(8) logs for one recipient as many lines as its aliases give, or none. */
  local: boolean;
  /** Counted after the last `queue active`. */
  outcomes: number;
};

class Gatherer {
  private readonly watch: Watch;
  private readonly names: readonly string[] | undefined;
  private readonly gaps = new GapFinder();
  private readonly byId = new Map<string, OpenTrail[]>();
  private readonly byMessageId = new Map<string, OpenTrail[]>();
  private readonly byOrigin = new Map<string, OpenTrail[]>();
  private readonly pickedUp: OpenTrail[] = [];
  /** Ids that watched trails named before their own first line. */
  private readonly expected = new Set<string>();
  /** Ended and not watched, in the order of their end: kept for a while in case a watched one names them. */
  private readonly ended: OpenTrail[] = [];
  private forgotten = 0;
  private order = 0;
  private readonly massChanges: MassChange[] = [];
  /** How often a postsuper has named an id with an action. */
  private readonly told = new Map<string, number>();
  private readonly droppingSince = new Map<number | null, number>();
  private readonly lastOfPid = new Map<number, number>();
  private readonly words = new Map<string, string>();
  private first: number | null = null;
  private last: number | null = null;

  constructor(watch: Watch, names: readonly string[] | undefined) {
    this.watch = watch;
    this.names = names;
  }

  add(record: LogRecord): void {
    if (record.name === "") {
      this.logService(record);
      return;
    }
    this.first ??= record.time;
    this.last = Math.max(this.last ?? record.time, record.time);
    this.gaps.line(record.time);
    if (record.pid !== null) this.lastOfPid.set(record.pid, record.time);
    if (record.queueId !== null) this.message(record, record.queueId);
    else this.instance(record);
  }

  evidence(): LogEvidence {
    const trails = (list: readonly OpenTrail[] | undefined): readonly Trail[] => list ?? [];
    return {
      first: this.first,
      last: this.last,
      gaps: this.gaps.find(),
      massChanges: this.massChanges,
      trails: (id) => trails(this.byId.get(id)),
      withMessageId: (messageId) => trails(this.byMessageId.get(messageId)),
      cameOf: (id) => trails(this.byOrigin.get(id)),
      submissions: () => this.pickedUp,
      unfinished: () => [...this.byId.values()].flat().filter(({ end }) => end === null),
    };
  }

  /** What log services say of lost lines, and files that are not there. */
  private logService(record: LogRecord): void {
    if (record.daemon === missingFile) {
      this.gaps.missingUntil(record.time, record.text);
      return;
    }
    const fact = factOf(record);
    if (fact?.kind !== "lost") return;
    const since = fact.pid === null ? undefined : this.lastOfPid.get(fact.pid);
    if (!fact.ofPostfix && since === undefined) return;
    const reason = `${record.daemon}: ${record.text}`;
    if (fact.begins) {
      this.droppingSince.set(fact.pid, record.time);
      return;
    }
    const from = this.droppingSince.get(fact.pid) ?? since;
    this.droppingSince.delete(fact.pid);
    if (from === undefined) this.gaps.missingUntil(record.time, reason);
    else this.gaps.missing(Math.min(from, record.time), record.time, reason);
  }

  private instance(record: LogRecord): void {
    const fact = factOf(record);
    if (fact?.kind === "stopping") this.gaps.stop();
    if (fact?.kind === "mass") this.massChange(record, fact.action, fact.count);
  }

  /** With ids given, postsuper logs each before the count; with `ALL` it logs the count alone. */
  private massChange(record: LogRecord, action: MassAction, count: number): void {
    const told = this.told.get(`${action} ${record.pid}`) ?? 0;
    const alone = action === "renamed" || action === "held" || action === "deleted";
    if (alone && this.isOurs(record) && count > told)
      this.massChanges.push({ time: record.time, action, line: copy(record) });
    this.told.delete(`${action} ${record.pid}`);
  }

  private message(given: LogRecord, id: string): void {
    const record = this.keep(given);
    const fact = factOf(record);
    if (fact === null) return;
    const trail = this.trailOf(record, id, fact);
    this.checkOrder(trail, record, fact);
    trail.last = Math.max(trail.last, record.time);
    this.note(trail, record, fact);
    if (!beginsTrail(fact)) trail.lines.push({ order: this.order++, record, fact });
    if (trail.watched) this.expectLinked(fact);
    this.forget(record.time);
  }

  /** A copy whose strings don't hold the chunk they were cut from. */
  private keep(record: LogRecord): LogRecord {
    return { ...copy(record), name: this.word(record.name), daemon: this.word(record.daemon) };
  }

  private word(word: string): string {
    const known = this.words.get(word);
    if (known !== undefined) return known;
    const made = copyText(word);
    this.words.set(made, made);
    return made;
  }

  private isOurs({ name }: LogRecord): boolean {
    return isOfInstance(name, this.names);
  }

  private trailOf(record: LogRecord, id: string, fact: LogFact): OpenTrail {
    const ours = this.isOurs(record);
    const trails = this.byId.get(id) ?? [];
    const current = trails.findLast((trail) => trail.ours === ours);
    if (current !== undefined && continues(current, fact)) return current;
    if (current !== undefined && current.end === null) {
      current.end = "lost";
      this.ended.push(current);
      this.gaps.missingBetween(
        current.last,
        record.time,
        `the id ${id} came again, and the end of the message before is missing`,
      );
    }
    const trail = this.begin(record, copyText(id), ours, fact);
    this.byId.set(trail.id, [...trails, trail]);
    return trail;
  }

  private begin(record: LogRecord, id: string, ours: boolean, fact: LogFact): OpenTrail {
    const start = beginsTrail(fact) ? record.time : null;
    return {
      ...{
        order: this.order++,
        id,
        ours,
        start,
        origin: null,
        messageId: null,
        sender: null,
        size: null,
        recipients: null,
      },
      ...{ first: record.time, last: record.time, end: null, arrival: start, lines: [] },
      ...{ watched: (ours && this.watch.ids.has(id)) || this.expected.has(id) },
      ...{ finals: 0, local: false, outcomes: 0 },
    };
  }

  private note(trail: OpenTrail, record: LogRecord, fact: LogFact): void {
    if (fact.kind === "client" || fact.kind === "pickup") this.noteOrigin(trail, fact);
    if (fact.kind === "message-id" && trail.messageId === null) this.noteMessageId(trail, fact.messageId);
    if (fact.kind === "active") noteActive(trail, fact);
    if (fact.kind === "delivery") noteDelivery(trail, record, fact);
    if (fact.kind === "requeued") trail.end = "requeued";
    if (fact.kind === "removed") trail.end = fact.how;
    if (record.daemon === "postsuper") this.noteTold(record, fact.kind === "removed" ? "deleted" : fact.kind);
    if (trail.end !== null && !trail.watched && this.ended.at(-1) !== trail) this.ended.push(trail);
  }

  private noteTold({ pid }: LogRecord, action: string): void {
    const key = `${action} ${pid}`;
    this.told.set(key, (this.told.get(key) ?? 0) + 1);
  }

  private noteOrigin(trail: OpenTrail, fact: Extract<LogFact, { kind: "client" | "pickup" }>): void {
    trail.origin = fact;
    if (fact.kind === "pickup" && fact.origId === null && this.watch.uids.has(fact.uid)) {
      this.pickedUp.push(trail);
      this.watchTrail(trail);
    }
    if (fact.origId === null) return;
    addTo(this.byOrigin, fact.origId, trail);
    const parents = this.byId.get(fact.origId) ?? [];
    if (this.watch.ids.has(fact.origId) || parents.some(({ watched }) => watched)) this.watchTrail(trail);
  }

  private noteMessageId(trail: OpenTrail, messageId: string): void {
    trail.messageId = messageId;
    if (messageId === "" || messageId === "<>") return;
    if (trail.watched || this.watch.messageIds.has(messageId)) this.watchTrail(trail);
  }

  private watchTrail(trail: OpenTrail): void {
    trail.watched = true;
    if (trail.messageId) addTo(this.byMessageId, trail.messageId, trail);
    for (const { fact } of trail.lines) this.expectLinked(fact);
  }

  /** A watched trail's lines name others: its notice, what it was queued or forwarded as. */
  private expectLinked(fact: LogFact): void {
    for (const id of namedIds(fact)) {
      this.expected.add(id);
      for (const trail of this.byId.get(id) ?? []) if (!trail.watched) this.watchTrail(trail);
    }
  }

  /** What lines tell of others that should be before them. */
  private checkOrder(trail: OpenTrail, { time, daemon }: LogRecord, fact: LogFact): void {
    if (fact.kind === "delivery" && fact.delay !== null) {
      const arrival = time - fact.delay;
      if (trail.start === null && trail.arrival === null) {
        this.gaps.missingAt(arrival, `${trail.id} arrived then, and the log does not say so`);
      }
      const became = fact.activeFor === null || daemon === "cleanup" ? null : time - fact.activeFor;
      if (became !== null && !wasActive(trail, became)) {
        this.gaps.missingAt(became, `${trail.id} was taken for delivery then, and the log does not say so`);
      }
    }
    if (fact.kind === "removed" && fact.how === "finished" && lacksOutcomes(trail)) {
      this.gaps.missingBetween(
        lastActive(trail) ?? trail.last,
        time,
        `${trail.id} was finished, and outcomes of it are missing`,
      );
    }
  }

  /** Ended and unwatched trails go after ten minutes, or when they are too many. */
  private forget(now: number): void {
    for (let oldest = this.ended[this.forgotten]; oldest !== undefined; oldest = this.ended[this.forgotten]) {
      if (now - oldest.last <= graceSeconds && this.ended.length - this.forgotten <= graceTrails) break;
      this.forgotten++;
      if (!oldest.watched) this.drop(oldest);
    }
    if (this.forgotten < 1000) return;
    this.ended.splice(0, this.forgotten);
    this.forgotten = 0;
  }

  private drop(trail: OpenTrail): void {
    removeFrom(this.byId, trail.id, trail);
    if (trail.origin !== null && trail.origin.origId !== null) removeFrom(this.byOrigin, trail.origin.origId, trail);
  }
}

const graceSeconds = 600;
const graceTrails = 5000;

/** Whether a line belongs to the trail its id had last, or begins another. */
function continues(trail: OpenTrail, fact: LogFact): boolean {
  if (fact.kind === "client" || fact.kind === "pickup") return false;
  if (fact.kind === "message-id") return trail.end === null && trail.start !== null && trail.lines.length === 0;
  // An agent that was at work when postsuper took the message away still tells how it ended.
  return trail.end === null || (fact.kind === "delivery" && trail.end !== "finished");
}

function beginsTrail(fact: LogFact): boolean {
  return fact.kind === "client" || fact.kind === "pickup" || fact.kind === "message-id";
}

function noteActive(trail: OpenTrail, fact: Extract<LogFact, { kind: "active" }>): void {
  trail.sender = fact.sender;
  trail.size = fact.size;
  trail.recipients = fact.recipients;
  trail.outcomes = 0;
  // A new attempt makes the outcomes of the one before history, unless they are final.
  if (!trail.local) trail.lines = trail.lines.filter((line) => !isPassing(line.fact));
}

function isPassing(fact: LogFact): boolean {
  return fact.kind === "active" || fact.kind === "locked" || (fact.kind === "delivery" && fact.status === "deferred");
}

function noteDelivery(trail: OpenTrail, { time, daemon }: LogRecord, fact: DeliveryFact): void {
  trail.outcomes++;
  if (fact.status !== "deferred" && fact.status !== "cut") trail.finals++;
  if (daemon === "local" || fact.relay === "local") trail.local = true;
  if (trail.arrival === null && fact.delay !== null) trail.arrival = time - fact.delay;
}

function lastActive(trail: OpenTrail): number | undefined {
  return trail.lines.findLast(({ fact }) => fact.kind === "active")?.record.time;
}

/** A delivery of an attempt that began at a time must follow the line that says so. */
function wasActive(trail: OpenTrail, time: number): boolean {
  return trail.lines.some(({ fact, record }) => fact.kind === "active" && Math.abs(record.time - time) <= roundedDelay);
}

const roundedDelay = 4;

/** Of a message whose whole life is in the log, all recipients have an outcome; aliases of local(8) make more or fewer. */
function lacksOutcomes(trail: OpenTrail): boolean {
  if (trail.start === null || trail.recipients === null || trail.local) return false;
  if (trail.lines.some(({ fact }) => fact.kind === "expired")) return false;
  return trail.finals < trail.recipients;
}

/** Queue ids a line names beside its own. */
export function namedIds(fact: LogFact): readonly string[] {
  if (fact.kind === "notice") return [fact.id];
  if (fact.kind !== "delivery" || fact.status !== "sent") return [];
  const [, id] = /\b(?:queued|forwarded) as (\w+)(?!.*\b(?:queued|forwarded) as )/s.exec(fact.reply) ?? [];
  return id === undefined ? [] : [id];
}

function addTo(map: Map<string, OpenTrail[]>, key: string, trail: OpenTrail): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [trail]);
  else if (!list.includes(trail)) list.push(trail);
}

function removeFrom(map: Map<string, OpenTrail[]>, key: string, trail: OpenTrail): void {
  const left = map.get(key)?.filter((one) => one !== trail) ?? [];
  if (left.length === 0) map.delete(key);
  else map.set(key, left);
}

function copy(record: LogRecord): LogRecord {
  const queueId = record.queueId === null ? null : copyText(record.queueId);
  return { ...record, queueId, text: copyText(record.text) };
}

/** A string of its own: one cut from a chunk would keep the chunk. */
function copyText(text: string): string {
  return Buffer.from(text).toString();
}
