import type { QueueName } from "../postfix/queue.ts";
import type { HoldRole, Manifest, MessageEntry } from "../snapshot/manifest.ts";
import type { TargetFacts } from "./target.ts";

/**
 * Where mail lands. `original`: `deferred` with its retry time, on hold what was on hold, maildrop in maildrop. `hold`:
 * everything on hold until an operator releases it.
 */
export type Land = "original" | "hold";

export interface RestoreChoice {
  /** The instance of the snapshot whose mail is restored. */
  readonly instance: string;
  readonly land: Land;
}

/** The snapshot a plan was made from, by what its record says. */
export interface PlanSource {
  readonly snapshot: string;
  readonly host: string;
  readonly time: string;
  readonly postfixVersion: string;
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
  /** Why its recipients that are not done may have been served already; null when the snapshot gives no cause for doubt. */
  readonly inDoubt: string | null;
  /** Indexes of the recipients this placement answers for: those not done in the snapshot. */
  readonly recipients: readonly number[];
}

/** A message that is not placed although it is in the snapshot, and why. */
export interface SkippedMessage {
  readonly message: MessageEntry;
  readonly reason: string;
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
  readonly warnings: readonly string[];
  /** Bytes (in whole blocks of the target's file system) and inodes of what is placed, logs included. */
  readonly needs: { readonly bytes: number; readonly inodes: number };
}

/** Decide for every message of one instance where it goes. Pure: the same arguments give the same plan. */
export function planRestore(
  manifest: Manifest,
  source: PlanSource,
  choice: RestoreChoice,
  target: TargetFacts,
): RestorePlan {
  const messages = manifest.messages.filter((message) => message.instance === choice.instance);
  const place: PlannedMessage[] = [];
  const skip: SkippedMessage[] = [];
  for (const message of messages) {
    const reason = cannotPlace(message, target);
    if (reason === null) place.push(planMessage(message, choice.land, target));
    else skip.push({ message, reason });
  }
  const warnings = foresee(place, source, target);
  return { source, choice, target, place, skip, warnings, needs: needsOf(place, target.blockSize) };
}

/** pickup(8) takes the owner of a maildrop file for its sender, so another owner would be another sender. */
function cannotPlace(message: MessageEntry, target: TargetFacts): string | null {
  if (message.queue !== "maildrop" || target.users[message.owner.user] !== undefined) return null;
  return `its owner ${message.owner.user} (uid ${message.owner.uid} on the source host) does not exist here`;
}

function planMessage(message: MessageEntry, land: Land, target: TargetFacts): PlannedMessage {
  const recipients = message.recipients.flatMap((recipient, index) => (recipient.done ? [] : [index]));
  const inDoubt = recipients.length === 0 ? null : doubtOf(message);
  const role = roleOf(message, land, inDoubt);
  const common = { message, role, inDoubt, recipients, mtime: mtimeOf(message, target) };
  if (message.queue === "maildrop") {
    const uid = target.users[message.owner.user] ?? target.ownerUid;
    return { ...common, queue: "maildrop", mode: message.mode & 0o777, uid, gid: target.setgidGid };
  }
  const queue = role === null ? "deferred" : "hold";
  return { ...common, queue, mode: queueFileMode(message.mode), uid: target.ownerUid, gid: target.ownerGid };
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
  const files = place.flatMap(({ message }) => [message.file, ...message.logs]);
  const bytes = files.reduce((sum, file) => sum + Math.ceil(file.bytes / blockSize) * blockSize, 0);
  return { bytes, inodes: files.length };
}

/** What will happen to the mail once Postfix has it, said beforehand. */
function foresee(place: readonly PlannedMessage[], source: PlanSource, target: TargetFacts): string[] {
  const expired = place.filter(({ message }) => isExpired(message, target));
  const notices = expired.filter(({ message }) => message.sender === "");
  const late = place.filter(({ message, mtime }) => message.queue === "deferred" && mtime < message.mtime);
  const tls = place.filter(({ message }) => (message.sendopts & requireTls) !== 0);
  const older = compareVersions(target.postfixVersion, source.postfixVersion) < 0;
  return [
    ...some(
      expired.length - notices.length,
      "are older than the queue lifetime here: each gets one more attempt, and if that fails is returned to its sender",
    ),
    ...some(
      notices.length,
      "are notices older than the queue lifetime here: each gets one more attempt, and if that fails vanishes",
    ),
    ...some(
      late.length,
      "had a retry time further ahead than maximal_backoff_time (the clocks of the two hosts differ?): they are tried by then",
    ),
    ...(older ? [`Postfix here is ${target.postfixVersion}, older than the source's ${source.postfixVersion}`] : []),
    ...(compareVersions(target.postfixVersion, "3.11") < 0
      ? some(tls.length, "ask for REQUIRETLS, which Postfix before 3.11 does not know: the promise is lost")
      : []),
  ];
}

function some(count: number, what: string): string[] {
  return count === 0 ? [] : [`${count} message${count === 1 ? "" : "s"} ${what}`];
}

/** Sendopts bit of the REQUIRETLS extension (`global/sendopts.h`, Postfix 3.11). */
const requireTls = 32;

/** Age counts from create_time, whatever happened since (`qmgr_message.c`, `bounce_queue_lifetime` for the null sender). */
function isExpired(message: MessageEntry, target: TargetFacts): boolean {
  const lifetime = message.sender === "" ? target.bounceQueueLifetimeS : target.maximalQueueLifetimeS;
  return message.recipients.some(({ done }) => !done) && target.now - Number(message.created) > lifetime;
}

/** Order of Postfix versions by their numbers: `3.7.11` before `3.10`, and `3.12-20260821` as 3.12. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [numbersOf(a), numbersOf(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function numbersOf(version: string): number[] {
  return (/^\d+(\.\d+)*/.exec(version)?.[0] ?? "0").split(".").map(Number);
}
