import { compareVersions } from "../postfix/version.ts";
import type { MessageEntry } from "../snapshot/manifest.ts";
import type { TargetFacts } from "./target.ts";

/**
 * `expires`, `notice-expires`, `forced-expiry`, `delay-warning`: what the first attempt that fails causes, or the first look.
 * `signature`: too old for its signatures. `due-at-once`, `late`: when it is tried. `transport`, `content-filter`: where its
 * own records send it. `version`, `requiretls`, `map-type`, `clock`: what the target lacks.
 */
export type ForecastKind =
  | "expires"
  | "notice-expires"
  | "forced-expiry"
  | "delay-warning"
  | "signature"
  | "due-at-once"
  | "late"
  | "transport"
  | "content-filter"
  | "requiretls"
  | "version"
  | "map-type"
  | "clock";

/** Of a planned message, what its future depends on. */
export interface Placement {
  readonly message: MessageEntry;
  readonly queue: "deferred" | "hold" | "maildrop";
  /** Permission bits. */
  readonly mode: number;
  /** Seconds since 1970; for deferred mail the next retry. */
  readonly mtime: number;
  /** Indexes of the recipients that are not done in the placed copy. */
  readonly recipients: readonly number[];
  /** It keeps a name no daemon sees until it is released. */
  readonly waits: boolean;
}

/** Of the snapshot, by what its record says. */
export interface SourceFacts {
  /** RFC 3339. */
  readonly time: string;
  readonly postfixVersion: string;
}

/** What will happen to mail once Postfix has it, said before it is placed. Plain data: it is stored in plans. */
export interface Forecast {
  readonly kind: ForecastKind;
  /** Messages concerned; 0 for what is said of the host as a whole. */
  readonly messages: number;
  /** A sentence without its full stop that says what comes, and what to do about it where there is something. */
  readonly text: string;
  /** Every message concerned, by its id in the snapshot. */
  readonly queueIds: readonly string[];
}

/**
 * Foresee what the target's Postfix does with mail as planned, by the rules of its queue manager and from the facts gathered.
 * Mail on hold is judged as if it were released now: its age goes on while it is held. Mail for which nobody is left to
 * deliver to is passed over: Postfix removes it at the first look. Pure.
 */
export function forecast(place: readonly Placement[], source: SourceFacts, target: TargetFacts): Forecast[] {
  const mail = place.filter(({ recipients }) => recipients.length > 0);
  return [
    ...expiry(mail, target),
    ...delayWarnings(mail, target),
    ...signatures(mail, target),
    ...dueAtOnce(mail, target),
    ...late(mail),
    ...transports(mail, target),
    ...tlsPromises(mail, target),
    ...version(source, target),
    ...mapTypes(target),
    ...clock(mail, source, target),
  ];
}

/**
 * Whether a message is returned to its sender when an attempt fails at that time: its age counts from create_time, whatever
 * happened since, also on hold (`qmgr_active.c`). bounce_queue_lifetime is for the null sender, and never longer than
 * maximal_queue_lifetime (`qmgr.c`).
 *
 * @param at seconds since 1970
 */
export function isExpired(
  message: Pick<MessageEntry, "sender" | "created" | "recipients">,
  target: Pick<TargetFacts, "now" | "maximalQueueLifetimeS" | "bounceQueueLifetimeS">,
  at: number = target.now,
): boolean {
  return message.recipients.some(({ done }) => !done) && at >= Number(message.created) + lifetimeOf(message, target);
}

function lifetimeOf(
  { sender }: Pick<MessageEntry, "sender">,
  { maximalQueueLifetimeS, bounceQueueLifetimeS }: Pick<TargetFacts, "maximalQueueLifetimeS" | "bounceQueueLifetimeS">,
): number {
  return sender === "" ? Math.min(bounceQueueLifetimeS, maximalQueueLifetimeS) : maximalQueueLifetimeS;
}

function expiry(mail: readonly Placement[], target: TargetFacts): Forecast[] {
  // What goes through maildrop is new mail: cleanup(8) gives it a new create_time, and a new file has no mark of its own.
  const aging = mail.filter(({ queue }) => queue !== "maildrop");
  const forced = aging.filter(({ mode }) => isForced(mode));
  const expired = aging.filter((planned) => !isForced(planned.mode) && expiresFirst(planned, target));
  const notices = expired.filter(({ message }) => message.sender === "");
  const others = expired.filter(({ message }) => message.sender !== "");
  return [
    ...say("expires", others, (count) => {
      const lifetime = `maximal_queue_lifetime (${duration(target.maximalQueueLifetimeS)})`;
      return `${count} will be returned to the sender if the first attempt fails: older than ${lifetime} by then${remedy(others, target)}`;
    }),
    ...say("notice-expires", notices, (count) => {
      const lifetime = `bounce_queue_lifetime (${duration(lifetimeOf({ sender: "" }, target))})`;
      const end = target.postmasterHears ? "become a notice to the postmaster" : "vanish without notice to anybody";
      return `${count} of the null sender will ${end} if the first attempt fails: older than ${lifetime} by then${remedy(notices, target)}`;
    }),
    ...say("forced-expiry", forced, (count) => {
      return `${count} will be returned to the sender without an attempt: marked by postsuper -e; --requeue restores such mail without the mark`;
    }),
  ];
}

/** `MAIL_QUEUE_STAT_EXPIRE` (`mail_queue.h`). */
function isForced(mode: number): boolean {
  return (mode & 0o010) !== 0;
}

function expiresFirst(planned: Placement, target: TargetFacts): boolean {
  return isExpired(planned.message, target, firstAttempt(planned, target));
}

/** The earliest time of the next attempt; queue manager's scans add up to queue_run_delay. */
function firstAttempt({ queue, mtime }: Placement, { now }: TargetFacts): number {
  return queue === "deferred" ? Math.max(now, mtime) : now;
}

/** Longest queue lifetime that qmgr(8) accepts, 100 days (`qmgr.c`). */
const longestLifetimeS = 8_640_000;

function remedy(expired: readonly Placement[], target: TargetFacts): string {
  const held = expired.filter(({ queue }) => queue === "hold").length;
  const ages = expired.map((planned) => firstAttempt(planned, target) - Number(planned.message.created));
  const oldest = ages.reduce((max, age) => Math.max(max, age), 0);
  const days = Math.floor(oldest / 86_400) + 2;
  const parameters =
    expired[0]?.message.sender === "" ? "bounce_queue_lifetime and maximal_queue_lifetime" : "maximal_queue_lifetime";
  const raise =
    days * 86_400 > longestLifetimeS ? "" : `, or set ${parameters} to ${days}d or more before Postfix gets it`;
  const onHold = held === 0 ? "" : ` (${held} of these on hold, where mail ages as well)`;
  return `${onHold}; --requeue restores such mail as new${raise}`;
}

/**
 * qmgr(8) goes by the record that cleanup(8) wrote on arrival, whatever the target's delay_warning_time: that only fills in
 * the hours in the text of the warning (bounce(5)). pickup(8) keeps the record when mail comes through maildrop.
 */
function delayWarnings(mail: readonly Placement[], target: TargetFacts): Forecast[] {
  const warned = mail.filter((planned) => {
    const due = planned.message.delayWarning;
    if (due === null || firstAttempt(planned, target) < due - 1) return false;
    return planned.queue === "maildrop" || !(isForced(planned.mode) || expiresFirst(planned, target));
  });
  const hours =
    target.delayWarningTimeS < 3600
      ? "; set delay_warning_time as it was on the source, or the warning speaks of 0 hours"
      : "";
  return say("delay-warning", warned, (count) => {
    return `${count} will cause a delay warning to the sender when the first attempt fails: that was settled on arrival${hours}`;
  });
}

/**
 * Seven days: what MDaemon recommends and sets for the x= of its DKIM signatures, and Gmail's; Exim's example has 14 days,
 * amavis's 21. RFC 6376 (3.5) lets a signer choose, or leave it out. The manifest has no headers, so age must do.
 */
const signatureAgeS = 7 * 86_400;

function signatures(mail: readonly Placement[], target: TargetFacts): Forecast[] {
  const old = mail.filter((planned) => firstAttempt(planned, target) - planned.message.arrival >= signatureAgeS);
  return say("signature", old, (count) => {
    const age = duration(signatureAgeS);
    return `${count} arrived ${age} ago or earlier: DKIM signatures that expire (often after ${age}) no longer hold, and receivers may refuse such mail or take it for spam; --requeue has it signed anew where non_smtpd_milters does that`;
  });
}

/** Fewer are no burst: every destination gets up to 20 deliveries at a time anyway (default_destination_concurrency_limit). */
const burst = 100;

function dueAtOnce(mail: readonly Placement[], target: TargetFacts): Forecast[] {
  const tried = mail.filter(({ queue, waits }) => queue !== "hold" && !waits);
  const due = tried.filter(({ queue, mtime }) => queue === "maildrop" || mtime <= target.now);
  if (due.length < burst) return [];
  const when = target.running ? "as soon as they are placed" : "as soon as Postfix runs";
  return say("due-at-once", due, (count) => {
    const share = due.length === tried.length ? `all of the ${count}` : `${due.length} of the ${tried.length} messages`;
    return `${share} not on hold will be tried at once, ${when}; --land hold and then release --rate let such mail go at a rate of your choice`;
  });
}

function late(mail: readonly Placement[]): Forecast[] {
  const late = mail.filter(({ message, queue, mtime }) => {
    return queue !== "maildrop" && message.queue === "deferred" && mtime < message.mtime;
  });
  return say("late", late, (count) => {
    return `${count} had a retry time further ahead than maximal_backoff_time (do the clocks of the two hosts differ?) and will be tried by then`;
  });
}

/** FILTER records name `transport:nexthop` (`qmgr_message.c`). pickup(8) drops them from what comes through maildrop. */
function transports(mail: readonly Placement[], target: TargetFacts): Forecast[] {
  const byFilter = new Map<string, Placement[]>();
  for (const planned of mail) {
    const filter = planned.message.contentFilter;
    if (filter === null || planned.queue === "maildrop") continue;
    byFilter.set(filter, [...(byFilter.get(filter) ?? []), planned]);
  }
  return [...byFilter].flatMap(([filter, filtered]) => {
    const [transport = ""] = filter.split(":", 1);
    if (target.transports.includes(transport)) {
      return say("content-filter", filtered, (count) => {
        return `${count} will go through the content filter ${filter}: that was settled on arrival; see that it answers on this host, or --requeue leaves it out`;
      });
    }
    return say("transport", filtered, (count) => {
      return `${count} will stay deferred until expiry: meant for the content filter ${filter}, while master.cf here has no transport ${transport}; add it, or --requeue leaves the filter out`;
    });
  });
}

/** Bits of the size record's send options (`global/sendopts.h`), and the first Postfix that knows them. */
const tlsOptions = [
  { bit: 16, name: "TLS-Required: no", since: "3.10", loss: "such mail will wait where TLS is not to be had" },
  { bit: 32, name: "REQUIRETLS", since: "3.11", loss: "such mail may be sent without TLS" },
];

function tlsPromises(mail: readonly Placement[], { postfixVersion }: TargetFacts): Forecast[] {
  return tlsOptions.flatMap(({ bit, name, since, loss }) => {
    if (compareVersions(postfixVersion, since) >= 0) return [];
    const asking = mail.filter(({ message }) => (message.sendopts & bit) !== 0);
    return say("requiretls", asking, (count) => {
      return `${count} asked for ${name}, which Postfix before ${since} does not know: ${loss}; install Postfix ${since} or newer here`;
    });
  });
}

function version(source: SourceFacts, target: TargetFacts): Forecast[] {
  if (compareVersions(target.postfixVersion, source.postfixVersion) >= 0) return [];
  return ofHost(
    "version",
    `Postfix here is ${target.postfixVersion}, older than the source's ${source.postfixVersion}: queue files may say things it does not know; install the same version or a newer one`,
  );
}

/** A table that can't be opened makes every lookup fail for the time being: mail is deferred, not refused. */
function mapTypes(target: TargetFacts): Forecast[] {
  return target.lackingMapTypes.flatMap(({ type, settings }) =>
    ofHost(
      "map-type",
      `the configuration here names ${type}: tables (${settings.join(", ")}), which this Postfix can't open: mail that needs them will stay deferred; install support for it (Debian: postfix-${type}) or name another type`,
    ),
  );
}

/** What two hosts that keep time may differ by, seconds. */
const clockSlackS = 60;

function clock(mail: readonly Placement[], source: SourceFacts, target: TargetFacts): Forecast[] {
  const behind = Date.parse(source.time) / 1000 - target.now;
  if (!(behind > clockSlackS)) return [];
  const ahead = mail.filter(({ message }) => Number(message.created) > target.now);
  const text = `the clock here is at least ${about(behind)} behind that of the source, so mail will be tried and expire at the wrong times; set the clock before the restore`;
  return [{ kind: "clock", messages: ahead.length, text, queueIds: ahead.map(({ message }) => message.queueId) }];
}

function say(kind: ForecastKind, concerned: readonly Placement[], sentence: (count: string) => string): Forecast[] {
  const messages = concerned.length;
  if (messages === 0) return [];
  const text = sentence(`${messages} message${messages === 1 ? "" : "s"}`);
  return [{ kind, messages, text, queueIds: concerned.map(({ message }) => message.queueId) }];
}

function ofHost(kind: ForecastKind, text: string): Forecast[] {
  return [{ kind, messages: 0, text, queueIds: [] }];
}

/** `3h`: whole units, at least two of them, rounded down. */
function about(seconds: number): string {
  const [unit, size] = units.find(([, size]) => seconds >= 2 * size) ?? smallest;
  return `${Math.floor(seconds / size)}${unit}`;
}

/** Exactly, as main.cf writes it: `5d`, `36h`, `90s`. */
function duration(seconds: number): string {
  const [unit, size] = units.find(([, size]) => seconds >= size && seconds % size === 0) ?? smallest;
  return `${seconds / size}${unit}`;
}

const smallest = ["s", 1] as const;
const units = [["d", 86_400], ["h", 3600], ["m", 60], smallest] as const;
